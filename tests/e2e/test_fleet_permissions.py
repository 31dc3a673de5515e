"""Least privilege of the fleet's functions: what they use is granted, and what is granted is used.

Used is what the relay saw the deployed functions do in all of this folder's tests: these are the
last. Whose keys are theirs, the runs here tell: no other function runs meanwhile. The secrets that
they touched are two resources here: tokens and sessions, as far as they carry the fleet's tag.
"""

import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud import qwen as scenarios
from localcloud.aws import EMULATOR_POLICY, REGION
from localcloud.fleet import DAY, TAG, DeployedFleet
from localcloud.iam import Iam, Permission, permissions
from localcloud.recording_proxy import AwsRefusal
from localcloud.sign_in_host import Rotation, SessionPolicy

ACCOUNT = "000000000000"
ANY_SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:*"
ANY_SESSION = f"{ANY_SECRET}/session-??????"
A_SESSION = re.compile(r".*/session(-\w{6})?")
OF_A_SECRET = {
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
}
MINUTE = DAY / 1440
# Granted, and never seen here: each is a call that AWS makes in the role's name.
UNSEEN = {
    "logs:CreateLogStream": "Lambda writes the function's log",
    "logs:PutLogEvents": "the same",
    "sqs:DeleteMessage": "Lambda takes messages from the queue, and gives them to the function",
    "sqs:GetQueueAttributes": "the same",
    "sqs:ReceiveMessage": "the same",
}


def granted_to(role: str, fleet: DeployedFleet) -> set[Permission]:
    """Return what a role may do by the template, without what AWS does in its name."""
    statements = Iam(fleet.stack).statements(role, without=EMULATOR_POLICY)
    return {
        (action, resource) for action, resource in permissions(statements) if action not in UNSEEN
    }


def used(fleet: DeployedFleet, keys: set[str]) -> tuple[set[Permission], set[Permission]]:
    """Return what dispatch did, and what the workers did; ``keys`` are those of both."""
    resources = fleet.stack.resources()
    arns = {
        fleet.stack.outputs["FleetQueueUrl"].rpartition("/")[2]: "sqs:{}:{}:{}",
        resources["DispatchFunction"]: "lambda:{}:{}:function:{}",
        fleet.stack.outputs["StateTableName"]: "dynamodb:{}:{}:table/{}",
    }
    lists = {
        use.key_id for use in fleet.cloud.relay.uses if use.action == "secretsmanager:ListSecrets"
    }
    assert lists
    by_dispatch, by_workers = set[Permission](), set[Permission]()
    for use in [each for each in fleet.cloud.relay.uses if each.key_id in keys]:
        resource = use.resource
        if use.action in OF_A_SECRET:
            resource = ANY_SESSION if A_SESSION.fullmatch(resource) else ANY_SECRET
        if resource in arns:
            resource = "arn:aws:" + arns[resource].format(REGION, ACCOUNT, resource)
        (by_dispatch if use.key_id in lists else by_workers).add((use.action, resource))
    return by_dispatch, by_workers


def exercise(fleet: DeployedFleet) -> set[str]:
    """Take every path to AWS that the fleet's functions have, and return the keys that they had."""
    with fleet.cloud.relay.watching() as uses:
        for number in range(101):
            fleet.add(f"fresh/{number:03}", left=5 * DAY)
        fleet.add("zz/due", left=DAY)
        fleet.add("zz/dead", left=DAY)
        fleet.qwen.revoke("zz/dead")
        fleet.sign_in_host.policy = SessionPolicy(rotation=Rotation.OLD_DIES)
        fleet.add_session("zz/rotates", left=4 * MINUTE)
        # As of a run that died.
        fleet.hold_lease(fleet.add_session("zz/taken-over", left=4 * MINUTE), seconds=-5)
        with fleet.one_page_an_invocation():
            fleet.sweep()
            fleet.wait_for_refresh("zz/due")
        fleet.drain()
        fleet.hold_lease("fleet:sweep", seconds=120)
        fleet.sweep()
        fleet.forget("fleet:sweep")
        fleet.add("zz/later", left=DAY)
        fleet.qwen.answer_with(scenarios.BLOCK_PAGE)
        fleet.sweep()
        # With the two sessions, which wait until they fall due.
        fleet.wait_for_postponed(3)
        refusal = AwsRefusal("InternalFailure")
        with fleet.cloud.relay.interfering("secretsmanager:ListSecrets", refusal):
            function = fleet.stack.outputs["DispatchFunctionName"]
            failed = fleet.cloud.functions.invoke(FunctionName=function, Payload=b"{}")
        assert b'"completed": false' in failed["Payload"].read(), "a sweep that fails tells so"
    return {use.key_id for use in uses}


def test_the_functions_use_what_they_are_granted_and_are_granted_what_they_use(
    fleet: DeployedFleet,
) -> None:
    by_dispatch, by_workers = used(fleet, exercise(fleet))

    assert by_dispatch == granted_to("DispatchFunctionRole", fleet)
    assert by_workers == granted_to("WorkerFunctionRole", fleet)


@pytest.mark.parametrize("role", ["DispatchFunctionRole", "WorkerFunctionRole"])
def test_a_secret_without_the_tag_or_with_the_tag_off_is_closed_to_the_fleet(
    role: str, fleet: DeployedFleet
) -> None:
    fleet.add("member", value="any", tag="blue")
    fleet.add("member/session", value="any", tag="session")
    fleet.add("named/session", value="any", tag="on")
    fleet.add("tagged", value="any", tag="session")
    fleet.add("paused", value="any", tag="off")
    fleet.cloud.secretsmanager.create_secret(Name="other", SecretString="any")
    fleet.cloud.secretsmanager.create_secret(
        Name="similar", SecretString="any", Tags=[{"Key": f"{TAG}-of-another", "Value": ""}]
    )
    session = fleet.cloud.session_of_role(Iam(fleet.stack).role(role)["RoleName"])
    client: Any = session.client("secretsmanager", endpoint_url=fleet.cloud.endpoint)

    assert client.get_secret_value(SecretId="member")["SecretString"] == "any"
    # A session is open to workers, by its name and its tag, and never to dispatch.
    closed = ["tagged", *(() if role == "WorkerFunctionRole" else ("member/session",))]
    if role == "WorkerFunctionRole":
        assert client.get_secret_value(SecretId="member/session")["SecretString"] == "any"
    else:
        closed.append("named/session")
    for name in (*closed, "paused", "other", "similar", "pool/own"):
        with pytest.raises(ClientError, match="AccessDeniedException"):
            client.get_secret_value(SecretId=name)
        with pytest.raises(ClientError, match="AccessDeniedException"):
            client.put_secret_value(SecretId=name, SecretString="theirs")
    asked = ["member", "member/session", "other"]
    found = client.batch_get_secret_value(SecretIdList=asked) if by_list(role) else {}
    assert [each["Name"] for each in found.get("SecretValues", ())] == ["member"] * by_list(role)


def by_list(role: str) -> bool:
    """Say whether a role finds its secrets by itself."""
    return role == "DispatchFunctionRole"


def test_dispatch_may_write_no_secret(fleet: DeployedFleet) -> None:
    fleet.add("member", value="any")
    session = fleet.cloud.session_of_role(Iam(fleet.stack).role("DispatchFunctionRole")["RoleName"])
    client: Any = session.client("secretsmanager", endpoint_url=fleet.cloud.endpoint)

    with pytest.raises(ClientError, match="AccessDeniedException"):
        client.put_secret_value(SecretId="member", SecretString="theirs")


def test_the_fleets_schedule_may_run_dispatch_and_nothing_else(fleet: DeployedFleet) -> None:
    iam = Iam(fleet.stack)
    function = (
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{fleet.stack.outputs['DispatchFunctionName']}"
    )

    assert permissions(iam.statements("DispatchScheduleRole")) == {
        ("lambda:InvokeFunction", function)
    }
    assert iam.trust("DispatchScheduleRole") == iam.trust("ScheduleRole")
