"""Least privilege, in both directions: what is used is granted, and what is granted is used.

Used is what the relay saw the deployed code do, in this session's other tests (they come first)
and in the runs here, which take every path to AWS there is. Granted is what the deployed roles
hold in the emulator's IAM, with every name and ARN resolved.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.exceptions import ClientError

from localcloud import qwen as scenarios
from localcloud import sign_in_host
from localcloud.aws import REGION, Cloud
from localcloud.iam import Iam, Permission, permissions
from localcloud.recording_proxy import AwsRefusal
from localcloud.sign_in_host import Rotation, SessionPolicy
from localcloud.stack import DeployedStack
from tests.e2e.conftest import Deployed

DAY = timedelta(days=1)

# Granted, and never seen here: each is a call that AWS makes in the role's name.
UNSEEN = {
    "logs:CreateLogStream": "Lambda writes the function's log; the emulator does so by itself",
    "logs:PutLogEvents": "Lambda writes the function's log; the emulator does so by itself",
    "kms:Decrypt": "Secrets Manager calls KMS for whoever reads; the emulator's encrypts nothing",
    "kms:GenerateDataKey": "Secrets Manager calls KMS for whoever writes; the same",
    "lambda:InvokeFunction": "EventBridge Scheduler takes the role; the emulator's invokes as root",
}


def without_unseen(granted: set[Permission]) -> set[Permission]:
    return {(action, resource) for action, resource in granted if action not in UNSEEN}


def key_id(session: boto3.Session) -> str:
    credentials = session.get_credentials()
    assert credentials is not None
    assert credentials.access_key is not None
    return credentials.access_key


def table_arn(stack: DeployedStack) -> str:
    return f"arn:aws:dynamodb:{REGION}:000000000000:table/{stack.outputs['StateTableName']}"


@pytest.fixture(name="used")
def _used(newer: Deployed) -> set[Permission]:
    """Return what the function has done: in this session so far, and on each of its paths."""
    stack, relay = newer.stack, newer.stack.cloud.relay
    with relay.watching() as uses:
        newer.hold_session()
        newer.sign_in_host.policy = SessionPolicy(rotation=Rotation.OLD_DIES)
        assert stack.invoke().result is not None, "leases, keeps the session, stages and promotes"
        newer.hold_session()
        with relay.interfering("secretsmanager:UpdateSecretVersionStage", AwsRefusal("Any", 500)):
            assert stack.invoke().error is not None, "stages a session"
        assert stack.invoke().result is not None, "looks for the session that was staged"
        newer.hold_session()
        newer.sign_in_host.answer_with(sign_in_host.REFUSES)
        newer.qwen.answer_with(scenarios.TOKEN_DEAD)
        assert stack.invoke().error is not None, "looks for other versions, and publishes"
        stack.put("no token")
        with stack.leased():
            assert stack.invoke().error is not None, "reads the history without the lease"
        stack.put_session(" ")
        stack.put(newer.qwen.mint(lifetime=2 * DAY))
        newer.sign_in_host.answer_with(sign_in_host.ANSWERS)
        newer.qwen.answer_with(scenarios.MINTS_NEWER_CLAIMS)
        assert stack.invoke().result is not None, "finds the session secret without a session"
    [function] = {use.key_id for use in uses}
    named = {stack.outputs["StateTableName"]: table_arn(stack)}
    return {
        (use.action, named.get(use.resource, use.resource))
        for use in relay.uses
        if use.key_id == function
    }


def test_the_function_has_the_permissions_that_it_uses_and_no_others(
    newer: Deployed, used: set[Permission]
) -> None:
    granted = permissions(Iam(newer.stack).statements("RefreshFunctionRole"))

    assert used == without_unseen(granted)
    assert {action for action, _ in granted - used} <= UNSEEN.keys()


def test_the_function_may_do_nothing_else_to_anything(newer: Deployed) -> None:
    stack = newer.stack
    log_group = f"arn:aws:logs:{REGION}:000000000000:log-group:/aws/lambda/{stack.name}/refresh"
    log_stream = f"{log_group}:log-stream:one"
    bus = f"arn:aws:events:{REGION}:000000000000:event-bus/default"
    of_a_secret = {
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    }
    own = {
        stack.secret_arn: of_a_secret,
        stack.session_secret_arn: of_a_secret,
        table_arn(stack): {"dynamodb:GetItem", "dynamodb:UpdateItem"},
        stack.outputs["AlertTopicArn"]: {"sns:Publish"},
        bus: {"events:PutEvents"},
        log_stream: {"logs:CreateLogStream", "logs:PutLogEvents"},
    }
    others = [
        stack.outputs["RefreshFunctionArn"],
        # Names that only begin like the stack's own.
        f"{stack.secret_arn}x",
        f"{stack.session_secret_arn}x",
        f"{table_arn(stack)}x",
        f"{table_arn(stack)}/index/any",
        f"{stack.outputs['AlertTopicArn']}x",
        f"{log_group}-other:log-stream:one",
        f"{bus}x",
        f"arn:aws:kms:{REGION}:000000000000:key/any",
        "*",
    ]
    actions = list(
        all_actions(
            *("secretsmanager", "dynamodb", "sns", "events", "logs", "kms", "lambda", "iam", "sts")
        )
    )
    iam = Iam(stack)

    allowed = {
        permission
        for resource in [*own, *others]
        for permission in iam.allowed("RefreshFunctionRole", actions, resource)
    }

    assert allowed == {(action, arn) for arn, expected in own.items() for action in expected}


def test_the_function_cannot_touch_another_table(newer: Deployed, deployed: Deployed) -> None:
    cloud, role = newer.stack.cloud, Iam(newer.stack).role("RefreshFunctionRole")["RoleName"]
    session = cloud.session_of_role(role)
    dynamodb: Any = session.client("dynamodb", endpoint_url=cloud.endpoint)
    key = {"secret_id": {"S": "any"}}

    dynamodb.get_item(TableName=newer.stack.outputs["StateTableName"], Key=key)
    for call in (dynamodb.get_item, dynamodb.update_item):
        with pytest.raises(ClientError, match="AccessDenied"):
            call(TableName=deployed.stack.outputs["StateTableName"], Key=key)
    with pytest.raises(ClientError, match="AccessDenied"):
        dynamodb.delete_item(TableName=newer.stack.outputs["StateTableName"], Key=key)


def all_actions(*services: str) -> Iterator[str]:
    """Yield every operation of these services, as an IAM policy names it."""
    core = botocore.session.get_session()
    for service in services:
        for operation in core.get_service_model(service).operation_names:
            yield f"{service}:{'InvokeFunction' if operation == 'Invoke' else operation}"


def test_a_reader_has_the_permissions_that_it_uses_and_no_others(deployed: Deployed) -> None:
    stack, relay = deployed.stack, deployed.stack.cloud.relay
    session = stack.cloud.session_of_role_with(stack.outputs["ReaderPolicyArn"])
    reader: Any = session.client("secretsmanager", endpoint_url=relay.url)
    raw = deployed.hold(5 * DAY)

    # What reads a secret: the caching clients of AWS also look for a newer version.
    assert reader.get_secret_value(SecretId=stack.secret_arn)["SecretString"] == raw
    assert reader.describe_secret(SecretId=stack.secret_arn)["ARN"] == stack.secret_arn

    granted = permissions(Iam(stack).reader_statements())
    used = {(use.action, use.resource) for use in relay.uses if use.key_id == key_id(session)}
    assert used == granted
    assert granted == {
        ("secretsmanager:GetSecretValue", stack.secret_arn),
        ("secretsmanager:DescribeSecret", stack.secret_arn),
    }


def test_a_reader_cannot_open_the_session_secret(newer: Deployed) -> None:
    stack = newer.stack
    newer.hold_session()
    reader = stack.reader()

    assert reader.get_secret_value(SecretId=stack.secret_arn)["SecretString"]
    for call in (reader.get_secret_value, reader.describe_secret):
        with pytest.raises(ClientError, match="AccessDenied"):
            call(SecretId=stack.session_secret_arn)
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.put_secret_value(SecretId=stack.session_secret_arn, SecretString="theirs")
    client: Any = stack.cloud.session_of_role_with(stack.outputs["ReaderPolicyArn"]).client(
        "dynamodb", endpoint_url=stack.cloud.endpoint
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        client.get_item(
            TableName=stack.outputs["StateTableName"], Key={"secret_id": {"S": stack.secret_arn}}
        )


def test_the_schedule_may_run_this_function_and_only_the_scheduler_may_be_the_schedule(
    deployed: Deployed, cloud: Cloud
) -> None:
    stack, iam = deployed.stack, Iam(deployed.stack)
    function = stack.outputs["RefreshFunctionArn"]
    account = function.split(":")[4]

    assert permissions(iam.statements("ScheduleRole")) == {("lambda:InvokeFunction", function)}
    assert iam.trust("ScheduleRole") == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "scheduler.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {
                    "aws:SourceAccount": account,
                    "aws:SourceArn": f"arn:aws:scheduler:{REGION}:{account}:schedule-group/default",
                }
            },
        }
    ]
    timer = cloud.scheduler.get_schedule(Name=stack.resources()["RefreshFunctionTimer"])
    assert timer["GroupName"] == "default"
    assert timer["Target"]["RoleArn"] == iam.role("ScheduleRole")["Arn"]


def test_only_lambda_may_be_the_function(deployed: Deployed) -> None:
    assert Iam(deployed.stack).trust("RefreshFunctionRole") == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]


@pytest.mark.parametrize("logical_id", ["RefreshFunctionRole", "ScheduleRole", "ReaderPolicy"])
def test_no_resource_is_wider_than_aws_makes_it(deployed: Deployed, logical_id: str) -> None:
    iam = Iam(deployed.stack)
    statements = (
        iam.reader_statements() if logical_id == "ReaderPolicy" else iam.statements(logical_id)
    )

    wide = {permission for permission in permissions(statements) if "*" in "".join(permission)}

    # A group's log streams have no names that could be known before: the end stands for them.
    assert all(action in {"logs:CreateLogStream", "logs:PutLogEvents"} for action, _ in wide)
    group = f":log-group:/aws/lambda/{deployed.stack.name}/refresh:*"
    assert all(resource.endswith(group) and resource.count("*") == 1 for _, resource in wide)
