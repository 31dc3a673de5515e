"""The deployed stack: its resources, and the clients to ask about them."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from qwen_token.errors import ConfigError
from qwen_token.secret_store import AWS_CONFIG

from .failures import FunctionFailedError, asked

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

DEFAULT_STACK: Final = "qwen-token-refresh"

# Longer than the functions' own timeouts. A second attempt would be a second run.
_INVOKE_CONFIG: Final = Config(
    connect_timeout=5, read_timeout=330, retries={"mode": "standard", "total_max_attempts": 1}
)

_SECRET_ARN: Final = re.compile(r"arn:[^:]+:secretsmanager:(?P<region>[^:]+):[^:]*:secret:.+")


@dataclass(frozen=True, slots=True)
class Stack:
    """CloudFormation's data about the deployed stack."""

    name: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]

    @classmethod
    def find(cls, session: boto3.Session, name: str) -> "Stack":
        client = client_for(session, "cloudformation")
        try:
            with asked("CloudFormation"):
                stack = client.describe_stacks(StackName=name)["Stacks"][0]
                outputs = {
                    item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])
                }
                parameters = {
                    item["ParameterKey"]: item["ParameterValue"]
                    for item in stack.get("Parameters", [])
                }
        except ClientError as error:
            # CloudFormation has no specific code for a stack that does not exist.
            if error.response.get("Error", {}).get("Code") != "ValidationError":
                raise
            raise ConfigError(
                f"there is no stack {name!r} in region {session.region_name}: deploy it first "
                "(make deploy), or name another with --stack or --region"
            ) from error
        if not {"SecretArn", "RefreshFunctionName"} <= outputs.keys():
            raise ConfigError(
                f"the stack {name!r} is none of this project, or its deployment failed: look at it "
                "in CloudFormation, or name another with --stack"
            )
        return cls(name, outputs, parameters)

    def parameter(self, name: str) -> str:
        """Return the value of a parameter.

        Raises:
            ConfigError: the stack was deployed without it.
        """
        if name not in self.parameters:
            raise ConfigError(
                f"the stack {self.name!r} has no parameter {name}: deploy this release (make "
                "deploy), or name another stack with --stack"
            )
        return self.parameters[name]


def session_for(options: argparse.Namespace) -> boto3.Session:
    with asked("boto3"):
        return boto3.Session(region_name=options.region)


def client_for(session: Any, service: str, **options: Any) -> Any:
    # An empty variable is a region to boto3, which would fail later and in other words.
    if not (options.get("region_name") or session.region_name):
        raise ConfigError(
            "no AWS region is known: set AWS_DEFAULT_REGION, or name it with --region"
        )
    try:
        return session.client(service, **options)
    except (BotoCoreError, ClientError):
        raise
    except Exception as error:  # noqa: BLE001 - files, variables and providers of whoever types
        # For example, an invalid AWS_ENDPOINT_URL.
        raise ConfigError(
            f"no client for {service} can be made: {type(error).__name__}; look at the AWS "
            "configuration of this machine"
        ) from None


def secrets_manager(session: boto3.Session, secret_id: str) -> "SecretsManagerClient":
    """Return a client for the region that an ARN names, or for the session's region."""
    region = None
    if secret_id.startswith("arn:"):
        arn = _SECRET_ARN.fullmatch(secret_id)
        if arn is None:
            raise ConfigError(
                "--secret-id should be a secret's name, or its ARN: "
                "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-XXXXXX"
            )
        region = arn["region"]
    client: SecretsManagerClient = client_for(
        session, "secretsmanager", region_name=region, config=AWS_CONFIG
    )
    return client


def run_function(
    session: boto3.Session,
    function: str,
    event: Mapping[str, bool],
    *,
    members: Sequence[str] = ("outcome",),
) -> dict[str, Any]:
    """Run a function of the stack, and return its result, which has at least ``members``.

    Raises:
        FunctionFailedError: the run failed.
    """
    client = client_for(session, "lambda", config=_INVOKE_CONFIG)
    with asked("Lambda"):
        response = client.invoke(FunctionName=function, Payload=json.dumps(event))
        result: dict[str, Any] = dict(json.loads(response["Payload"].read()))
        if "FunctionError" in response:
            raise FunctionFailedError(result)
        # An answer without them is not a result of this project's function.
        for name in members:
            result[name]
    return result


def resources_of(session: boto3.Session, stack: Stack) -> dict[str, dict[str, str]]:
    """Return the stack's resources by type: logical ids by physical ids, if there is one."""
    client = client_for(session, "cloudformation")
    found: dict[str, dict[str, str]] = {}
    with asked("CloudFormation"):
        for page in client.get_paginator("list_stack_resources").paginate(StackName=stack.name):
            for resource in page["StackResourceSummaries"]:
                # Empty or absent while the resource does not exist.
                if physical_id := resource.get("PhysicalResourceId"):
                    ids = found.setdefault(resource["ResourceType"], {})
                    ids[physical_id] = resource["LogicalResourceId"]
    return found
