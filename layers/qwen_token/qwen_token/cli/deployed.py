"""The deployed stack, as AWS knows it: what it is made of, and clients to ask about it."""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from qwen_token.errors import ConfigError
from qwen_token.secret_store import AWS_CONFIG

from .failures import FunctionFailedError

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

DEFAULT_STACK: Final = "qwen-token-refresh"

# Longer than the functions' own timeouts; and a second attempt would be a second run.
_INVOKE_CONFIG: Final = Config(
    connect_timeout=5, read_timeout=330, retries={"mode": "standard", "total_max_attempts": 1}
)

_SECRET_ARN: Final = re.compile(r"arn:[^:]+:secretsmanager:(?P<region>[^:]+):[^:]*:secret:.+")


@dataclass(frozen=True, slots=True)
class Stack:
    """What CloudFormation knows of the deployed stack."""

    name: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]

    @classmethod
    def find(cls, session: boto3.Session, name: str) -> "Stack":
        try:
            described = client_for(session, "cloudformation").describe_stacks(StackName=name)
        except ClientError as error:
            # CloudFormation has no code of its own for a stack that does not exist.
            if error.response.get("Error", {}).get("Code") != "ValidationError":
                raise
            raise ConfigError(
                f"there is no stack {name!r} in region {session.region_name}: deploy it first "
                "(make deploy), or name another with --stack or --region"
            ) from error
        stack = described["Stacks"][0]
        outputs = {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}
        if not {"SecretArn", "RefreshFunctionName"} <= outputs.keys():
            raise ConfigError(
                f"the stack {name!r} is none of this project, or its deployment failed: look at it "
                "in CloudFormation, or name another with --stack"
            )
        parameters = stack.get("Parameters", [])
        return cls(
            name, outputs, {item["ParameterKey"]: item["ParameterValue"] for item in parameters}
        )


def session_for(options: argparse.Namespace) -> boto3.Session:
    return boto3.Session(region_name=options.region)


def client_for(session: Any, service: str, **options: Any) -> Any:
    try:
        return session.client(service, **options)
    except ValueError as error:
        # An AWS_ENDPOINT_URL that is none, for instance.
        raise ConfigError(f"no client for {service} can be made: {error}") from error


def secrets_manager(session: boto3.Session, secret_id: str) -> "SecretsManagerClient":
    """Return a client for the region that an ARN names, or else for the session's."""
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
    session: boto3.Session, function: str, event: Mapping[str, bool]
) -> dict[str, Any]:
    """Run a function of the stack, and return its result.

    Raises:
        FunctionFailedError: the run failed.
    """
    response = client_for(session, "lambda", config=_INVOKE_CONFIG).invoke(
        FunctionName=function, Payload=json.dumps(event)
    )
    result: dict[str, Any] = json.loads(response["Payload"].read())
    if "FunctionError" in response:
        raise FunctionFailedError(result)
    return result


def resources_of(session: boto3.Session, stack: Stack) -> dict[str, dict[str, str]]:
    """Return the stack's resources by type: logical ids by physical ones, where there is one."""
    pages = client_for(session, "cloudformation").get_paginator("list_stack_resources")
    found: dict[str, dict[str, str]] = {}
    for page in pages.paginate(StackName=stack.name):
        for resource in page["StackResourceSummaries"]:
            # Empty, or absent, while it could not be made.
            if physical_id := resource.get("PhysicalResourceId"):
                ids = found.setdefault(resource["ResourceType"], {})
                ids[physical_id] = resource["LogicalResourceId"]
    return found
