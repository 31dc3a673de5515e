"""The examples: typed as their README says, deployed, run, and with each permission taken away."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from localcloud.aws import REGION, ROOT, Cloud
from localcloud.cloudformation import read_template, resolved
from localcloud.iam import permissions
from localcloud.qwen import ACCOUNT
from localcloud.stack import credentials
from localcloud.waiting import wait_until
from tests.e2e.conftest import ARRIVAL, Deployed
from tests.minting import pieces
from tests.policies import answers_of

# An example of its own, or another case of what the first one shows. Each takes seconds.
at_night = pytest.mark.nightly

DAY = timedelta(days=1)
EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text()
TITLES = ["Bread", "Butter"]
READ = "secretsmanager:GetSecretValue"
LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}


def words(section: str, begin: str = "") -> str:
    """Return what the README tells to type, in one of its sections."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = [
        re.sub(r"^ {3}", "", block, flags=re.MULTILINE)
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    ]
    [block] = [block for block in blocks if block.startswith(begin)]
    return block


# Before the first section: lets the shell know the stack's outputs.
KNOW_THE_OUTPUTS = re.findall(r"```sh\n(.*?)```", README.partition("\n## ")[0], re.DOTALL)[0]


def typed(cloud: Cloud, text: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = cloud.typed(f"{KNOW_THE_OUTPUTS}\n{text}", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def talking_to(base_url: str, text: str) -> str:
    """Return what to type, with the stand-in's address for the API's."""
    return text.replace("--parameter-overrides", f'--parameter-overrides ApiBaseUrl="{base_url}"')


def outputs(cloud: Cloud, stack: str) -> dict[str, str]:
    [described] = cloud.cloudformation.describe_stacks(StackName=stack)["Stacks"]
    return {each["OutputKey"]: each["OutputValue"] for each in described["Outputs"]}


def resource(cloud: Cloud, stack: str, logical_id: str) -> str:
    detail = cloud.cloudformation.describe_stack_resource(
        StackName=stack, LogicalResourceId=logical_id
    )
    return detail["StackResourceDetail"]["PhysicalResourceId"]


def client(cloud: Cloud, service: str) -> Any:
    return cloud.session.client(service, endpoint_url=cloud.endpoint)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Role:
    """A role of an example, and what it may do."""

    cloud: Cloud
    name: str

    @property
    def iam(self) -> Any:
        return client(self.cloud, "iam")

    def own(self) -> set[tuple[str, str]]:
        """Return what it may do by policies of its own."""
        return permissions(
            [
                statement
                for policy in self.iam.list_role_policies(RoleName=self.name)["PolicyNames"]
                for statement in self.iam.get_role_policy(RoleName=self.name, PolicyName=policy)[
                    "PolicyDocument"
                ]["Statement"]
            ]
        )

    def attached(self) -> list[str]:
        found = self.iam.list_attached_role_policies(RoleName=self.name)["AttachedPolicies"]
        return [each["PolicyArn"] for each in found]

    @contextmanager
    def without(self, policy_arn: str) -> Iterator[None]:
        self.iam.detach_role_policy(RoleName=self.name, PolicyArn=policy_arn)
        try:
            yield
        finally:
            self.iam.attach_role_policy(RoleName=self.name, PolicyArn=policy_arn)


def test_the_readme_has_a_row_and_a_section_for_each_example() -> None:
    folders = {each.name for each in EXAMPLES.iterdir() if each.is_dir()}

    assert set(re.findall(r"^\| \[`([a-z-]+)`\]\(#", README, re.MULTILINE)) == folders
    assert set(re.findall(r"^## ([a-z-]+)$", README, re.MULTILINE)) == folders


def assert_it_only_reads_and_logs(role: Role, deployed: Deployed, log_group: str) -> None:
    assert role.attached() == [deployed.stack.outputs["ReaderPolicyArn"]]
    assert {action for action, _ in role.own()} == LOG
    [logs] = {resource for _, resource in role.own()}
    assert logs.endswith(f":log-group:{log_group}:*")


# --- python-lambda and node-lambda ----------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """An example's function, deployed."""

    deployed: Deployed
    stack: str
    said: str

    @property
    def cloud(self) -> Cloud:
        return self.deployed.stack.cloud

    @property
    def role(self) -> Role:
        return Role(self.cloud, resource(self.cloud, self.stack, "ChatsFunctionRole"))

    @property
    def log_group(self) -> str:
        return resource(self.cloud, self.stack, "ChatsFunctionLogGroup")

    def start_anew(self) -> None:
        """End its processes, which may hold a token, or the failure to read one."""
        name = resource(self.cloud, self.stack, "ChatsFunction")
        memory = self.cloud.functions.get_function_configuration(FunctionName=name)["MemorySize"]
        # Any change of the configuration does that, even to the value that it has.
        self.cloud.functions.update_function_configuration(FunctionName=name, MemorySize=memory)

    def run(self) -> tuple[Any, list[str]]:
        """Run it; return what it answered, and its calls to AWS."""
        seen = len(self.cloud.relay.calls)
        answer = self.cloud.functions.invoke(
            FunctionName=resource(self.cloud, self.stack, "ChatsFunction")
        )
        payload = json.loads(answer["Payload"].read())
        return payload, self.cloud.relay.calls[seen:]

    @contextmanager
    def talking_to(self, base_url: str) -> Iterator[None]:
        """Let it take another address for the API's meanwhile."""
        name = resource(self.cloud, self.stack, "ChatsFunction")
        configure = self.cloud.functions.update_function_configuration
        configuration = self.cloud.functions.get_function_configuration(FunctionName=name)
        variables = configuration["Environment"]["Variables"]
        configure(
            FunctionName=name, Environment={"Variables": {**variables, "API_BASE_URL": base_url}}
        )
        try:
            yield
        finally:
            configure(FunctionName=name, Environment={"Variables": variables})

    def log(self) -> str:
        pages = self.cloud.logs.get_paginator("filter_log_events")
        return "\n".join(
            event["message"]
            for page in pages.paginate(logGroupName=self.log_group)
            for event in page["events"]
        )


@pytest.fixture(scope="module", name="deploy_function")
def _deploy_function(cloud: Cloud, session_stack: Deployed) -> Callable[[str], Function]:
    """Return what deploys the function of an example, the first time that it is asked for."""
    # Lambda's Node runtime brings the AWS SDK: here it lies above the functions' directories.
    (cloud.directory / "node_modules").symlink_to(ROOT / ".tools/aws-sdk/node_modules")

    @cache
    def deploy(name: str) -> Function:
        session_stack.qwen.chats[ACCOUNT] = TITLES
        session_stack.hold(5 * DAY)
        command = talking_to(session_stack.qwen.base_url, words(name))
        return Function(session_stack, f"qwen-{name}", typed(cloud, command).stdout)

    return deploy


@pytest.fixture(
    params=["python-lambda", pytest.param("node-lambda", marks=at_night)], name="function"
)
def _function(
    request: pytest.FixtureRequest,
    deploy_function: Callable[[str], Function],
    deployed: Deployed,
) -> Function:
    deployed.qwen.chats[ACCOUNT] = TITLES
    deployed.hold(5 * DAY)
    function = deploy_function(request.param)
    function.start_anew()
    return function


def test_the_function_answers_what_its_readme_promises(function: Function) -> None:
    assert json.dumps(TITLES) in function.said


@at_night
def test_the_function_reads_the_secret_once_for_many_requests(function: Function) -> None:
    function.run()

    for _ in range(5):
        assert function.run() == (TITLES, [])


@pytest.mark.parametrize("shape", ["{}", '{{"note": 1, "token": "{}"}}'], ids=["bare", "json"])
def test_the_function_reads_the_secret_again_when_its_token_is_refused(
    function: Function, shape: str
) -> None:
    function.run()
    raw = function.deployed.hold(5 * DAY)
    function.deployed.stack.put(shape.format(raw))

    seen = len(function.deployed.qwen.requests)
    assert function.run() == (TITLES, [READ])
    refused, accepted = function.deployed.qwen.requests[seen:]
    assert refused.raw != raw
    assert accepted.raw == raw


def test_the_function_shows_no_token_when_it_fails(function: Function) -> None:
    deployed = function.deployed
    raw = deployed.hold(5 * DAY)
    function.run()
    deployed.qwen.revoke()

    for value in (raw, raw[:-40], f'{{"token": "{raw}', f'{{"token": ["{raw}"]}}', f"{raw} x"):
        deployed.stack.put(value)
        function.start_anew()
        answer, calls = function.run()
        assert "errorMessage" in answer
        assert READ in calls
        assert not pieces(raw.partition(".")[2]) & pieces(json.dumps(answer) + function.log())


@at_night
def test_the_function_in_node_does_not_let_the_parser_quote_the_secret(
    deploy_function: Callable[[str], Function], deployed: Deployed
) -> None:
    function = deploy_function("node-lambda")
    raw = deployed.hold(5 * DAY)
    function.run()
    deployed.qwen.revoke()

    for value in (f'{{"token": {raw}}}', f'{{"token": "{raw}" "}}', '{"token": null}'):
        deployed.stack.put(value)
        assert function.run()[0]["errorMessage"] == "the secret holds no token"


def test_the_function_may_read_the_secret_and_nothing_else(function: Function) -> None:
    assert_it_only_reads_and_logs(function.role, function.deployed, function.log_group)


@at_night
def test_the_function_needs_the_reader_policy(function: Function) -> None:
    function.run()
    with function.role.without(function.deployed.stack.outputs["ReaderPolicyArn"]):
        function.deployed.hold(5 * DAY)
        function.start_anew()
        answer, calls = function.run()

    assert re.search("AccessDenied|is not authorized", answer["errorMessage"])
    assert READ in calls


@at_night
def test_the_function_takes_no_page_for_an_answer(function: Function) -> None:
    page = f"{function.deployed.qwen.base_url}/not-the-api"
    with function.talking_to(page):
        answer, _ = function.run()

    assert "no answer of the API's own (status 200)" in answer["errorMessage"]


# --- shell ----------------------------------------------------------------------------------------

SCRIPT = "examples/shell/chats.sh"


@pytest.fixture(name="run_script")
def _run_script(deployed: Deployed) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return what runs the script, with a reader's credentials, on the secret."""
    stack, qwen = deployed.stack, deployed.qwen
    qwen.chats[ACCOUNT] = TITLES
    deployed.hold(5 * DAY)
    reader = stack.cloud.session_of_role_with(stack.outputs["ReaderPolicyArn"])

    def run(
        command: str = f'{SCRIPT} "$SecretArn"', **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        return stack.cloud.typed(
            command,
            **{
                "SecretArn": stack.secret_arn,
                "API_BASE_URL": qwen.base_url,
                **credentials(reader),
                **variables,
            },
        )

    return run


Script = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_script_is_run_as_its_readme_says(run_script: Script) -> None:
    done = run_script(words("shell"))

    assert (done.returncode, done.stderr) == (0, "")
    assert [chat["title"] for chat in json.loads(done.stdout)["data"]] == TITLES


@at_night
def test_the_one_line_of_the_projects_readme_prints_the_token(
    run_script: Script, deployed: Deployed
) -> None:
    text = (ROOT / "README.md").read_text()
    [line] = re.findall(r"```sh\n(aws secretsmanager get-secret-value .*?)```", text, re.DOTALL)

    assert run_script(line).stdout == f"{deployed.stack.current().text}\n"


@pytest.mark.parametrize(
    "shape",
    [
        '{{"a":"token","token":"{}"}}',
        pytest.param('{{"token": "{}"}}', marks=at_night),
        pytest.param('{{\n  "token" : "{}",\n  "note": "a.b"\n}}', marks=at_night),
    ],
)
def test_the_script_finds_the_token_in_an_object(
    run_script: Script, deployed: Deployed, shape: str
) -> None:
    deployed.stack.put(shape.format(deployed.stack.current().text))

    assert run_script().returncode == 0


@pytest.mark.parametrize(
    ("code", "command", "variables"),
    [
        (1, None, {"SecretArn": "no/such/secret"}),
        (2, SCRIPT, {}),
        pytest.param(1, None, {"API_BASE_URL": "{qwen}/not-the-api"}, marks=at_night),
        pytest.param(1, None, {"API_BASE_URL": "http://127.0.0.1:1"}, marks=at_night),
        pytest.param(2, None, {"API_BASE_URL": "http://example.com"}, marks=at_night),
    ],
)
def test_the_scripts_exit_code_says_what_is_wrong(
    run_script: Script,
    deployed: Deployed,
    code: int,
    command: str | None,
    variables: Mapping[str, str],
) -> None:
    given = {name: text.format(qwen=deployed.qwen.base_url) for name, text in variables.items()}
    done = run_script(**given) if command is None else run_script(command, **given)

    assert_it_failed(done, code, deployed.stack.current().text)


@pytest.mark.parametrize(
    "shape",
    [
        '{raw}"\nurl = "http://example.com',
        pytest.param("{raw}", marks=at_night),
        pytest.param("{half}", marks=at_night),
        pytest.param('{{"note": "{raw}"}}', marks=at_night),
    ],
)
def test_the_scripts_exit_code_says_that_the_secret_needs_a_person(
    run_script: Script, deployed: Deployed, shape: str
) -> None:
    raw = deployed.stack.current().text
    deployed.qwen.revoke()
    deployed.stack.put(shape.format(raw=raw, half=raw[:-44]))

    assert_it_failed(run_script(), 3, raw)


def assert_it_failed(done: "subprocess.CompletedProcess[str]", code: int, raw: str) -> None:
    assert (done.returncode, done.stdout) == (code, "")
    assert "chats.sh: " in done.stderr
    assert not pieces(raw) & pieces(done.stderr)


@at_night
def test_the_script_shows_no_token_in_a_trace_and_exports_none(
    run_script: Script, deployed: Deployed
) -> None:
    raw = deployed.stack.current().text
    # A caller that exports what the script's variables are called, and more than that.
    done = run_script(f'sh -axv {SCRIPT} "$SecretArn"', token="x", secret="x")

    assert done.returncode == 0
    assert not pieces(raw) & pieces(done.stderr)


def test_the_token_is_on_no_command_line_and_in_no_environment_meanwhile(
    run_script: Script, deployed: Deployed
) -> None:
    raw = deployed.stack.current().text
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # curl waits for the answer, the shell for curl.
            listed = subprocess.run(
                ["ps", "axeww", "-o", "command"],  # noqa: S607 - wherever the system has it
                capture_output=True,
                text=True,
                check=True,
            )
            seen.append(listed.stdout)
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"success": true, "data": []}')

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        done = run_script(
            API_BASE_URL=f"http://127.0.0.1:{server.server_port}", token="x", secret="x"
        )
        thread.join()

    assert done.returncode == 0
    processes, header = seen
    assert header == f"Bearer {raw}"
    assert "curl" in processes
    assert "API_BASE_URL" in processes, "the environments are listed as well"
    assert not pieces(raw) & pieces(processes)


@at_night
def test_the_script_needs_the_reader_policy(run_script: Script, deployed: Deployed) -> None:
    cloud = deployed.stack.cloud
    nobody = cloud.session_of_role_with("arn:aws:iam::aws:policy/AWSDenyAll")

    assert run_script(**credentials(nobody)).returncode == 1


# --- ecs ------------------------------------------------------------------------------------------

ECS = "qwen-ecs"


@dataclass(frozen=True)
class Service:
    """The example's service, deployed."""

    deployed: Deployed

    @property
    def cloud(self) -> Cloud:
        return self.deployed.stack.cloud

    def role(self, logical_id: str) -> Role:
        return Role(self.cloud, resource(self.cloud, ECS, logical_id))

    def deployment(self) -> str:
        """Return the id of the service's newest deployment."""
        found = outputs(self.cloud, ECS)
        [service] = client(self.cloud, "ecs").describe_services(
            cluster=found["ClusterName"], services=[found["ServiceArn"]]
        )["services"]
        [newest] = [each["id"] for each in service["deployments"] if each["status"] == "PRIMARY"]
        return str(newest)

    def executions(self) -> list[Any]:
        """Return the runs of the state machine, the newest first."""
        found = client(self.cloud, "stepfunctions").list_executions(
            stateMachineArn=resource(self.cloud, ECS, "Redeploy")
        )
        return list(found["executions"])

    def container(self) -> Any:
        """Return the task definition's container: the emulator loses where its secrets are."""
        arn = resource(self.cloud, ECS, "TaskDefinition")
        ecs = client(self.cloud, "ecs")
        definition = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        [container] = definition["containerDefinitions"]
        return container

    def secrets(self, **parameters: str) -> dict[str, str]:
        """Return where the container's secrets are, by the variable's name."""
        template = read_template((EXAMPLES / "ecs/template.yaml").read_text())
        [described] = self.cloud.cloudformation.describe_stacks(StackName=ECS)["Stacks"]
        given = {each["ParameterKey"]: each["ParameterValue"] for each in described["Parameters"]}
        [container] = resolved(
            template["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"],
            {**given, **parameters, "AWS::Region": REGION, "LogGroup": ""},
            template["Conditions"],
        )
        return {each["Name"]: each["ValueFrom"] for each in container["Secrets"]}

    def start_task(self, **parameters: str) -> "subprocess.Popen[str]":
        """Do as ECS does: fetch the secrets as the execution role, run the command with them."""
        container = self.container()
        sts = client(self.cloud, "sts")
        arn = f"arn:aws:iam::000000000000:role/{self.role('ExecutionRole').name}"
        keys = sts.assume_role(RoleArn=arn, RoleSessionName="ecs")["Credentials"]
        role = self.cloud.session_with(
            keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]
        )
        secrets = role.client("secretsmanager", endpoint_url=self.cloud.endpoint)
        environment = {each["name"]: each["value"] for each in container["environment"]}
        for name, value_from in self.secrets(**parameters).items():
            # An ARN has seven parts; what may follow is a key, a label and a version.
            parts = [*value_from.split(":"), "", "", ""]
            text = secrets.get_secret_value(SecretId=":".join(parts[:7]))["SecretString"]
            environment[name] = json.loads(text)[parts[7]] if parts[7] else text
        python, *arguments = container["command"]
        assert python == "python"
        return subprocess.Popen(  # noqa: S603 - the example's own program
            [sys.executable, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module", name="deployed_service")
def _deployed_service(session_stack: Deployed) -> Service:
    cloud = session_stack.stack.cloud
    subnet = client(cloud, "ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    text = talking_to(session_stack.qwen.base_url, words("ecs"))
    typed(cloud, text.replace("subnet-…", subnet))
    return Service(session_stack)


@pytest.fixture(name="service")
def _service(deployed_service: Service, deployed: Deployed) -> Service:
    deployed.qwen.chats[ACCOUNT] = TITLES
    return deployed_service


@at_night
def test_a_refresh_and_nothing_else_starts_the_service_anew(
    service: Service, deployed: Deployed
) -> None:
    before, runs = service.deployment(), len(service.executions())
    source, kind, secret_arn = "qwen-token-refresh", "Token Refreshed", deployed.stack.secret_arn
    service.cloud.events.put_events(
        Entries=[
            {"Source": sender, "DetailType": what, "Detail": "{}", "Resources": [of]}
            for sender, what, of in (
                (source, kind, f"{secret_arn}x"),
                ("another", kind, secret_arn),
                (source, "Token Refresh Failed", secret_arn),
            )
        ]
    )
    deployed.hold(5 * DAY)
    assert deployed.stack.invoke().result is not None, "fresh"
    deployed.hold(2 * DAY)
    assert deployed.stack.invoke().result is not None, "refreshed"

    wait_until(
        lambda: service.deployment() != before,
        within=ARRIVAL,
        expected="a new deployment",
        seen=lambda: str(service.executions()),
    )
    wait_until(
        lambda: service.executions()[0]["status"] == "SUCCEEDED",
        within=ARRIVAL,
        expected="the state machine to end well",
        seen=lambda: str(service.executions()),
    )
    assert len(service.executions()) == runs + 1


@at_night
@pytest.mark.parametrize(
    ("shape", "text"), [("bare", "{}"), ("json", '{{"note": 1, "token": "{}"}}')]
)
def test_a_task_has_the_token_as_it_starts(
    service: Service, deployed: Deployed, shape: str, text: str
) -> None:
    raw = deployed.hold(5 * DAY)
    deployed.stack.put(text.format(raw))
    with service.start_task(SecretShape=shape) as task:
        assert task.stdout is not None
        try:
            assert task.stdout.readline() == "2 chats on the first page\n"
        finally:
            task.kill()

    assert deployed.qwen.requests[-1].raw == raw


@at_night
def test_a_task_ends_when_its_token_is_refused_so_that_the_next_one_gets_another(
    service: Service, deployed: Deployed
) -> None:
    raw = deployed.hold(5 * DAY)
    deployed.qwen.revoke()
    with service.start_task() as task:
        try:
            out, err = task.communicate(timeout=20)
        finally:
            task.kill()

    assert task.returncode == 1
    assert "unauthorized" in err
    assert not pieces(raw) & pieces(out + err)


@at_night
def test_a_task_needs_the_reader_policy(service: Service, deployed: Deployed) -> None:
    role = service.role("ExecutionRole")
    log_group = resource(service.cloud, ECS, "LogGroup")
    assert_it_only_reads_and_logs(role, deployed, log_group)
    with (
        role.without(deployed.stack.outputs["ReaderPolicyArn"]),
        pytest.raises(service.cloud.secretsmanager.exceptions.ClientError, match="AccessDenied"),
    ):
        service.start_task()


@at_night
def test_the_rule_may_start_one_machine_and_that_may_update_one_service(service: Service) -> None:
    machine = resource(service.cloud, ECS, "Redeploy")
    rule, redeploy = service.role("RuleRole"), service.role("RedeployRole")

    assert (rule.attached(), redeploy.attached()) == ([], [])
    assert rule.own() == {("states:StartExecution", machine)}
    assert redeploy.own() == {("ecs:UpdateService", outputs(service.cloud, ECS)["ServiceArn"])}


# --- cross-account --------------------------------------------------------------------------------

READER = "111122223333"
# Not a session of it: AWS takes the role for aws:PrincipalArn, the emulator the session.
ROLE = f"arn:aws:iam::{READER}:role/qwen-token-reader"


@dataclass(frozen=True)
class Agreement:
    """What the two accounts allow, as it was deployed."""

    secret_arn: str
    key_arn: str
    secret_policy: Any
    key_policy: Any
    role_policy: Any

    def request(self, action: str, **changes: Any) -> dict[str, Any]:
        """Return a request of the reader, as Secrets Manager makes it for a read."""
        of_key = action.startswith("kms:")
        return {
            "principal": ROLE,
            "action": action,
            "resource": self.key_arn if of_key else self.secret_arn,
            "resource_policy": self.key_policy if of_key else self.secret_policy,
            "policies": [self.role_policy],
            "context": {
                "kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com",
                "kms:EncryptionContext:SecretARN": self.secret_arn,
            },
            **changes,
        }


def allowed(*requests: dict[str, Any]) -> list[bool]:
    """Ask the emulator's IAM."""
    return answers_of("iam_verdicts.py", list(requests))


@pytest.fixture(scope="module", name="agreement")
def _agreement(session_stack: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Agreement:
    stack = session_stack.stack
    cloud, secret_arn = stack.cloud, stack.secret_arn

    # The emulator knows no resource policies in templates: that resource is left out.
    text = (EXAMPLES / "cross-account/owner.yaml").read_text()
    without = tmp_path_factory.mktemp("cross-account") / "owner.yaml"
    without.write_text(re.sub(r"(?ms)^  SecretPolicy:$.*?(?=^Outputs:)", "", text))
    begin = "sam deploy --template-file examples/cross-account/"
    owner = words("cross-account", f"{begin}owner.yaml")
    typed(cloud, owner.replace("examples/cross-account/owner.yaml", str(without)))
    key_arn = outputs(cloud, "qwen-reader-access")["KeyArn"]
    key_policy = client(cloud, "kms").get_key_policy(KeyId=key_arn, PolicyName="default")["Policy"]
    values = {
        "SecretArn": secret_arn,
        "ReaderAccountId": READER,
        "ReaderRoleName": "qwen-token-reader",
        "AWS::Partition": "aws",
    }
    secret_policy = resolved(
        read_template(text)["Resources"]["SecretPolicy"]["Properties"]["ResourcePolicy"], values, {}
    )

    # In the other account, whose shell does not see this account's stack.
    reader = words("cross-account", f"{begin}reader.yaml").replace("arn:aws:kms:…", key_arn)
    in_it = {"AWS_ACCESS_KEY_ID": READER}
    done = cloud.typed(reader, SecretArn=secret_arn, **in_it)
    assert done.returncode == 0, done.stdout + done.stderr
    iam: Any = cloud.session_with(READER, "test").client("iam", endpoint_url=cloud.endpoint)
    [policy] = iam.list_role_policies(RoleName="qwen-token-reader")["PolicyNames"]
    role_policy = iam.get_role_policy(RoleName="qwen-token-reader", PolicyName=policy)
    return Agreement(
        secret_arn, key_arn, secret_policy, json.loads(key_policy), role_policy["PolicyDocument"]
    )


@at_night
def test_the_role_of_the_other_account_may_read_and_nothing_else(agreement: Agreement) -> None:
    reads = [READ, "secretsmanager:DescribeSecret", "kms:Decrypt"]
    others = [
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
        "secretsmanager:PutResourcePolicy",
        "secretsmanager:DeleteSecret",
        "kms:GenerateDataKey",
        "kms:PutKeyPolicy",
        "kms:CreateGrant",
    ]

    # By what both allow; and by what each allows, were the other to allow everything.
    everything = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [everything]}
    changes: list[dict[str, Any]] = [{}, {"policies": [policy]}, {"resource_policy": policy}]
    for change in changes:
        verdicts = allowed(*(agreement.request(action, **change) for action in [*reads, *others]))
        assert verdicts == [True] * len(reads) + [False] * len(others)


@at_night
@pytest.mark.parametrize("action", [READ, "kms:Decrypt"])
def test_both_accounts_must_agree(agreement: Agreement, action: str) -> None:
    verdicts = allowed(
        agreement.request(action),
        agreement.request(action, policies=[]),
        agreement.request(action, resource_policy=""),
        agreement.request(action, principal=f"arn:aws:iam::{READER}:role/another"),
        agreement.request(action, principal=f"{ROLE}-too"),
        agreement.request(action, principal=ROLE.replace(READER, "444455556666")),
    )

    assert verdicts == [True, False, False, False, False, False]


@at_night
def test_the_key_opens_this_secret_only_and_only_for_secrets_manager(agreement: Agreement) -> None:
    right = agreement.request("kms:Decrypt")
    context = right["context"]
    verdicts = allowed(
        right,
        {**right, "context": {}},
        {**right, "context": {**context, "kms:ViaService": f"s3.{REGION}.amazonaws.com"}},
        {**right, "context": {**context, "kms:EncryptionContext:SecretARN": "another"}},
    )

    assert verdicts == [True, False, False, False]


@at_night
def test_the_stack_goes_on_keeping_the_token_under_the_secrets_policy(
    agreement: Agreement, deployed: Deployed
) -> None:
    secrets = deployed.stack.cloud.secretsmanager
    secrets.put_resource_policy(
        SecretId=agreement.secret_arn,
        ResourcePolicy=json.dumps(agreement.secret_policy),
        BlockPublicPolicy=True,
    )
    try:
        deployed.hold(2 * DAY)
        result = deployed.stack.invoke().result
    finally:
        secrets.delete_resource_policy(SecretId=agreement.secret_arn)

    assert result is not None
    assert result["outcome"] == "refreshed"
