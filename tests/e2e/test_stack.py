"""What a deployment does: to the secrets, which it never takes away, and beside other stacks.

Deploying a second stack over a secret's name that is taken is not tried: AWS refuses, and the
emulator takes the secret over, empty.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.aws import REGION, Cloud
from localcloud.iam import Iam, permissions
from localcloud.stack import DeployedStack
from tests.e2e.conftest import Deploy, Deployed, Hosts


def delete(stack: DeployedStack) -> None:
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
def _session_pair(cloud: Cloud, deploy_again: Deploy) -> Iterator[Pair]:
    kms: Any = cloud.session.client("kms", endpoint_url=cloud.endpoint)
    key_arn = kms.create_key()["KeyMetadata"]["Arn"]
    with Hosts.started() as hosts, Hosts.started() as other_hosts:
        one = deploy_again(
            "one",
            hosts.parameters(
                SecretName="one/token", SessionSecretName="one/session", ChangeEvents="false"
            ),
        )
        two = deploy_again(
            # A pattern that means all of the first one's would mean this one's as well.
            "one-two",
            other_hosts.parameters(
                SecretName="one/token-two",
                SessionSecretName="one/session-two",
                SecretKmsKeyArn=key_arn,
                CheckSchedule="rate(2 days)",
            ),
        )
        yield Pair(Deployed(one, hosts), Deployed(two, other_hosts), key_arn)


@pytest.fixture(name="pair")
def _pair(session_pair: Pair) -> Pair:
    session_pair.one.start_anew()
    session_pair.two.start_anew()
    return session_pair


def test_two_stacks_share_nothing(pair: Pair) -> None:
    one, two = pair.one.stack.resources(), pair.two.stack.resources()

    assert two.keys() - one.keys() == {"CheckTimer"}
    # A layer's id ends with the number of its version, which would hide that they share its name.
    one_by_name, two_by_name = (
        {re.sub(r":[0-9]+$", "", each) for each in ids.values()} for ids in (one, two)
    )
    assert not one_by_name & two_by_name


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
        assert own == {
            runs.stack.secret_arn,
            runs.stack.session_secret_arn,
            runs.stack.outputs["StateTableName"],
        }


def test_no_stack_is_allowed_anything_of_the_other(pair: Pair) -> None:
    for own, other in ((pair.one.stack, pair.two.stack), (pair.two.stack, pair.one.stack)):
        iam = Iam(own)
        statements = [
            *iam.statements("RefreshFunctionRole"),
            *iam.statements("ScheduleRole"),
            *iam.reader_statements(),
        ]
        granted = {arn for _, arn in permissions(statements)}
        assert granted >= {own.secret_arn, own.session_secret_arn}
        of_the_other = {
            other.secret_arn,
            other.session_secret_arn,
            other.outputs["AlertTopicArn"],
            other.outputs["RefreshFunctionArn"],
            f"arn:aws:dynamodb:{REGION}:000000000000:table/{other.outputs['StateTableName']}",
            f"arn:aws:logs:{REGION}:000000000000:log-group:/aws/lambda/{other.name}/refresh:x",
        }
        # As IAM reads them: a pattern that is granted may mean the other's.
        assert not [
            (arn, pattern)
            for arn in of_the_other
            for pattern in granted
            if fnmatchcase(arn, pattern)
        ]
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
        assert (statement["Action"], statement["Resource"]) == ("sns:Publish", "*")
        assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": account}
        assert sorted(statement["Condition"]["ArnEquals"]["aws:SourceArn"]) == [
            f"{alarms}-keeper-silent",
            f"{alarms}-login-ending",
            f"{alarms}-refresh-failed",
            f"{alarms}-token-expired",
        ]


def test_a_customer_key_is_granted_for_these_secrets_via_secrets_manager(
    pair: Pair, cloud: Cloud
) -> None:
    stack, iam = pair.two.stack, Iam(pair.two.stack)
    both = [stack.secret_arn, stack.session_secret_arn]
    for arn in both:
        assert cloud.secretsmanager.describe_secret(SecretId=arn)["KmsKeyId"] == pair.key_arn
    for statements, actions, secrets in (
        (iam.statements("RefreshFunctionRole"), {"kms:Decrypt", "kms:GenerateDataKey"}, both),
        (iam.reader_statements(), {"kms:Decrypt"}, stack.secret_arn),
    ):
        [with_key] = [each for each in statements if each["Sid"] == "UseTheSecretsKey"]
        assert permissions([with_key]) == {(action, pair.key_arn) for action in actions}
        assert with_key["Condition"] == {
            "StringEquals": {
                "kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com",
                "kms:EncryptionContext:SecretARN": secrets,
            }
        }

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
    # The emulator knows no context of a call, and refuses for either condition: both must be there.
    [of_key] = [each for each in Iam(stack).reader_statements() if "Condition" in each]
    assert of_key["Condition"] == {
        "StringEquals": {
            "kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com",
            "kms:EncryptionContext:SecretARN": stack.secret_arn,
        }
    }

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


def test_without_change_events_none_is_announced_and_none_may_be(pair: Pair) -> None:
    pair.one.hold(timedelta(days=2))

    calls = pair.one.calls()

    assert calls.run.result is not None
    assert calls.run.result["outcome"] == "refreshed"
    assert not [call for call in calls.aws if call.startswith("events:")]
    granted = permissions(Iam(pair.one.stack).statements("RefreshFunctionRole"))
    assert not [action for action, _ in granted if action.startswith("events:")]


def test_the_check_schedule_runs_the_same_function_with_a_check(pair: Pair, cloud: Cloud) -> None:
    resources = pair.two.stack.resources()
    timer = cloud.scheduler.get_schedule(Name=resources["CheckTimer"])
    run = cloud.scheduler.get_schedule(Name=resources["RefreshFunctionTimer"])

    assert timer["ScheduleExpression"] == "rate(2 days)"
    assert json.loads(timer["Target"]["Input"]) == {"check": True}
    for each in ("Arn", "RoleArn"):
        assert timer["Target"][each] == run["Target"][each]
    pair.two.hold(timedelta(days=5))
    checked = pair.two.stack.invoke(json.loads(timer["Target"]["Input"])).result
    assert checked is not None
    assert checked["outcome"] == "checked"


# --- parameters and outputs -----------------------------------------------------------------------


def test_the_outputs_are_those_of_the_contract(deployed: Deployed) -> None:
    assert deployed.stack.outputs.keys() == {
        *("RefreshFunctionName", "RefreshFunctionArn", "SecretArn", "SessionSecretArn"),
        *("StateTableName", "AlertTopicArn", "TokenLayerArn", "ReaderPolicyArn", "DashboardUrl"),
    }


def test_what_the_parameters_say_the_function_gets(newer: Deployed, cloud: Cloud) -> None:
    stack = newer.stack
    configuration = cloud.functions.get_function_configuration(
        FunctionName=stack.outputs["RefreshFunctionName"]
    )
    variables = configuration["Environment"]["Variables"]

    expected = {
        "SECRET_ID": stack.secret_arn,
        "SESSION_SECRET_ID": stack.session_secret_arn,
        "STATE_TABLE": stack.outputs["StateTableName"],
        "ALERT_TOPIC_ARN": stack.outputs["AlertTopicArn"],
        "API_BASE_URL": newer.qwen.base_url,
        "AUTH_BASE_URL": newer.sign_in_host.base_url,
        "WEB_VERSION": "0.3.12",
        "USER_AGENT": stack.parameters["UserAgent"],
        "REFRESH_BEFORE_DAYS": "3",
        "CRITICAL_DAYS": "1",
        "ALERT_AFTER_MINUTES": "0",
        "POWERTOOLS_SERVICE_NAME": stack.name,
    }
    assert {name: variables[name] for name in expected} == expected
    newer.hold_session()
    newer.stack.invoke()
    assert newer.sign_in_host.requests[-1].headers["user-agent"] == stack.parameters["UserAgent"]


# --- the secrets ----------------------------------------------------------------------------------


def test_the_secrets_outlive_updates_and_their_stack_and_serve_the_next_one(
    cloud: Cloud, built: Path, deploy_again: Deploy, pair: Pair
) -> None:
    untouched = pair.one.hold(timedelta(days=5))
    with Hosts.started() as hosts:
        names = {"SecretName": "kept/token", "SessionSecretName": "kept/session"}
        parameters = hosts.parameters(**names)
        first = deploy_again("first", parameters)
        raw = hosts.qwen.mint(lifetime=timedelta(days=5))
        first.put(raw)
        first.put_session(hosts.sign_in_host.log_in())
        before = (first.versions(), first.session_versions())

        changes = {"RefreshBeforeDays": "6", "Schedule": "rate(2 hours)"}
        cloud.deploy(built, name="first", parameters=parameters | changes)

        assert (first.versions(), first.session_versions()) == before
        timer = first.resources()["RefreshFunctionTimer"]
        assert cloud.scheduler.get_schedule(Name=timer)["ScheduleExpression"] == "rate(2 hours)"
        run = first.invoke()
        assert run.result is not None
        assert run.result["outcome"] == "refreshed", "5 days left are now too few"
        # As of a token put in long ago.
        first.put(hosts.qwen.issue_access_token(lifetime=timedelta(minutes=4), has_iat=False))
        before = (first.versions(), first.session_versions())
        table = first.outputs["StateTableName"]

        delete(first)

        assert (first.versions(), first.session_versions()) == before
        assert table not in cloud.dynamodb.list_tables()["TableNames"]

        second = deploy_again(
            "second",
            hosts.parameters(SecretArn=first.secret_arn, SessionSecretArn=first.session_secret_arn),
        )
        assert second.secret_arn == first.secret_arn
        assert second.session_secret_arn == first.session_secret_arn
        assert not {"Secret", "SessionSecret"} & second.resources().keys()
        run = second.invoke()
        assert run.result is not None
        assert (run.result["outcome"], run.result["grant"]) == ("refreshed", "refresh_token")
        assert hosts.qwen.accepts(second.current().text)

        delete(second)

        assert hosts.qwen.accepts(first.current().text)
        assert first.current_session().text

    assert pair.one.stack.current().text == untouched
    run = pair.one.stack.invoke()
    assert run.result is not None
    assert run.result["outcome"] == "fresh", "the stack beside them runs on"


def test_a_stack_without_a_session_secret_exchanges_and_has_nothing_of_one(
    deploy_again: Deploy,
) -> None:
    with Hosts.started() as hosts:
        stack = deploy_again(
            "alone",
            hosts.parameters(SecretName="alone/token", SessionSecretName=""),
        )
        deployed = Deployed(stack, hosts)
        deployed.hold(timedelta(days=2))

        calls = deployed.calls()

        assert "SessionSecretArn" not in stack.outputs
        assert "SessionSecret" not in stack.resources()
        result = calls.run.result
        assert result is not None
        assert (result["outcome"], result["grant"]) == ("refreshed", "exchange")
        # One read less than with a session secret.
        assert calls.aws.count("secretsmanager:GetSecretValue") == 1
        assert {
            arn
            for action, arn in permissions(Iam(stack).statements("RefreshFunctionRole"))
            if action.startswith("secretsmanager:")
        } == {stack.secret_arn}
        # An access token has no other login, and says so.
        stack.put(hosts.qwen.issue_access_token(lifetime=timedelta(minutes=4), has_iat=False))
        assert "the session secret has to hold" in (stack.invoke().error or "")
