"""What a deployment does: to the secret, which it never takes away, and beside other stacks.

Deploying a second stack over a secret's name that is taken is not tried: AWS refuses, and the
emulator takes the secret over, empty.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.aws import REGION, Cloud
from localcloud.iam import Iam, permissions
from localcloud.qwen import QwenStandIn
from localcloud.stack import Stack
from tests.e2e.conftest import Deployed


def delete(stack: Stack) -> None:
    client = stack.cloud.cloudformation
    client.delete_stack(StackName=stack.name)
    client.get_waiter("stack_delete_complete").wait(
        StackName=stack.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


# --- two stacks in one account and region ---------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two stacks of the same account and region, each with an API of its own."""

    one: Deployed
    # Its secret has a customer-managed key.
    two: Deployed
    key_arn: str


@pytest.fixture(scope="module", name="session_pair")
def _session_pair(cloud: Cloud, built: Path) -> Iterator[Pair]:
    kms: Any = cloud.session.client("kms", endpoint_url=cloud.endpoint)
    key_arn = kms.create_key()["KeyMetadata"]["Arn"]
    with QwenStandIn() as qwen, QwenStandIn() as other_qwen:
        one = cloud.deploy(
            built,
            name="one",
            parameters={"SecretName": "one/token", "ApiBaseUrl": qwen.base_url},
        )
        two = cloud.deploy(
            built,
            # A pattern that means all of the first one's would mean this one's as well.
            name="one-two",
            parameters={
                "SecretName": "one/token-two",
                "ApiBaseUrl": other_qwen.base_url,
                "SecretKmsKeyArn": key_arn,
            },
        )
        yield Pair(Deployed(one, qwen), Deployed(two, other_qwen), key_arn)


@pytest.fixture(name="pair")
def _pair(session_pair: Pair) -> Pair:
    session_pair.one.silence()
    session_pair.two.silence()
    return session_pair


def test_two_stacks_share_nothing(pair: Pair) -> None:
    one, two = pair.one.stack.resources(), pair.two.stack.resources()

    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


def test_two_stacks_run_side_by_side_each_on_its_own_secret(pair: Pair) -> None:
    relay = pair.one.stack.cloud.relay
    for runs, waits in ((pair.one, pair.two), (pair.two, pair.one)):
        runs.hold(timedelta(days=2))
        untouched = waits.hold(timedelta(days=2))

        with relay.watching() as uses:
            run = runs.stack.invoke()

        assert run.result is not None
        assert run.result["outcome"] == "refreshed"
        assert runs.qwen.accepts(runs.stack.current().text)
        assert waits.stack.current().text == untouched
        # The bus is the account's, and both stacks' to announce on.
        own = {use.resource for use in uses if use.action != "events:PutEvents"}
        assert own == {runs.stack.secret_arn}


def test_no_stack_is_allowed_anything_of_the_other(pair: Pair) -> None:
    for own, other in ((pair.one.stack, pair.two.stack), (pair.two.stack, pair.one.stack)):
        iam = Iam(own)
        statements = [
            *iam.statements("RefreshFunctionRole"),
            *iam.statements("ScheduleRole"),
            *iam.reader_statements(),
        ]
        granted = {arn for _, arn in permissions(statements)}
        assert granted & {own.secret_arn}
        assert not granted & {
            other.secret_arn,
            other.outputs["AlertTopicArn"],
            other.outputs["RefreshFunctionArn"],
        }
        with pytest.raises(ClientError, match="AccessDenied"):
            own.reader().get_secret_value(SecretId=other.secret_arn)


def test_only_a_stacks_own_alarms_may_publish_to_its_topic(pair: Pair, cloud: Cloud) -> None:
    # The emulator's alarms publish whatever the topic's policy says, so the policy is read.
    for stack in (pair.one.stack, pair.two.stack):
        topic = stack.outputs["AlertTopicArn"]
        attributes = cloud.sns.get_topic_attributes(TopicArn=topic)["Attributes"]
        [statement] = json.loads(attributes["Policy"])["Statement"]
        account = topic.split(":")[4]
        alarms = f"arn:aws:cloudwatch:{REGION}:{account}:alarm:{stack.name}"

        assert statement["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
        assert (statement["Action"], statement["Resource"]) == ("sns:Publish", topic)
        assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": account}
        assert sorted(statement["Condition"]["ArnEquals"]["aws:SourceArn"]) == [
            f"{alarms}-keeper-silent",
            f"{alarms}-refresh-failed",
            f"{alarms}-token-expiring",
        ]


def test_a_customer_key_is_granted_for_this_one_secret_by_way_of_secrets_manager(
    pair: Pair, cloud: Cloud
) -> None:
    stack, iam = pair.two.stack, Iam(pair.two.stack)
    assert cloud.secretsmanager.describe_secret(SecretId=stack.secret_arn)["KmsKeyId"] == (
        pair.key_arn
    )
    condition = {
        "StringEquals": {
            "kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com",
            "kms:EncryptionContext:SecretARN": stack.secret_arn,
        }
    }
    for statements, actions in (
        (iam.statements("RefreshFunctionRole"), {"kms:Decrypt", "kms:GenerateDataKey"}),
        (iam.reader_statements(), {"kms:Decrypt"}),
    ):
        [with_key] = [each for each in statements if each["Sid"] == "UseTheSecretsKey"]
        assert permissions([with_key]) == {(action, pair.key_arn) for action in actions}
        assert with_key["Condition"] == condition

    without = Iam(pair.one.stack)
    of_no_key = [*without.statements("RefreshFunctionRole"), *without.reader_statements()]
    assert not any(action.startswith("kms:") for action, _ in permissions(of_no_key))


def test_a_reader_cannot_use_the_key_by_itself(pair: Pair, cloud: Cloud) -> None:
    stack = pair.two.stack
    context = {"SecretARN": stack.secret_arn}
    root: Any = cloud.session.client("kms", endpoint_url=cloud.endpoint)
    sealed = root.encrypt(KeyId=pair.key_arn, Plaintext=b"x", EncryptionContext=context)
    request = {
        "KeyId": pair.key_arn,
        "CiphertextBlob": sealed["CiphertextBlob"],
        "EncryptionContext": context,
    }

    def client_with(policy_arn: str) -> Any:
        return cloud.session_of_role_with(policy_arn).client("kms", endpoint_url=cloud.endpoint)

    with pytest.raises(ClientError, match="AccessDenied"):
        client_with(stack.outputs["ReaderPolicyArn"]).decrypt(**request)

    # It is the condition that refuses: the same policy without it allows.
    iam: Any = cloud.session.client("iam", endpoint_url=cloud.endpoint)
    unconditional = [
        {name: value for name, value in each.items() if name != "Condition"}
        for each in Iam(stack).reader_statements()
    ]
    policy = iam.create_policy(
        PolicyName="unconditional",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": unconditional}),
    )["Policy"]
    assert client_with(policy["Arn"]).decrypt(**request)["Plaintext"] == b"x"


# --- the secret -----------------------------------------------------------------------------------


def test_a_secret_outlives_updates_and_its_stack_and_serves_the_next_one(
    cloud: Cloud, built: Path, pair: Pair
) -> None:
    untouched = pair.one.hold(timedelta(days=5))
    with QwenStandIn() as qwen:
        parameters = {"SecretName": "kept/token", "ApiBaseUrl": qwen.base_url}
        first = cloud.deploy(built, name="first", parameters=parameters)
        run = first.invoke()
        assert run.result is not None
        assert run.result["outcome"] == "awaiting_token"
        [alert] = first.notifications()
        assert alert.attributes == {"severity": "warning", "reason": "token_missing"}
        raw = qwen.mint(lifetime=timedelta(days=5))
        first.put(raw)
        before = first.versions()

        changes = {"RefreshBeforeDays": "6", "Schedule": "rate(2 hours)"}
        cloud.deploy(built, name="first", parameters=parameters | changes)

        assert first.versions() == before
        assert first.current().text == raw
        timer = first.resources()["RefreshFunctionTimer"]
        assert cloud.scheduler.get_schedule(Name=timer)["ScheduleExpression"] == "rate(2 hours)"
        run = first.invoke()
        assert run.result is not None
        assert run.result["outcome"] == "refreshed", "5 days left are now too few"
        raw = qwen.mint(lifetime=timedelta(days=2))
        first.put(raw)
        before = first.versions()

        delete(first)

        assert first.versions() == before
        assert first.current().text == raw

        second = cloud.deploy(
            built,
            name="second",
            parameters={"SecretArn": first.secret_arn, "ApiBaseUrl": qwen.base_url},
        )
        assert second.secret_arn == first.secret_arn
        assert "Secret" not in second.resources()
        run = second.invoke()
        assert run.result is not None
        assert run.result["outcome"] == "refreshed"
        assert qwen.accepts(second.current().text)
        assert second.current().text != raw

        delete(second)

        assert qwen.accepts(
            cloud.secretsmanager.get_secret_value(SecretId=first.secret_arn)["SecretString"]
        )

    assert pair.one.stack.current().text == untouched
    run = pair.one.stack.invoke()
    assert run.result is not None
    assert run.result["outcome"] == "fresh", "the stack beside them runs on"
