"""Every command of an operator with exactly the policies of examples/policies, IAM enforcing them.

Each call is also looked at: none is refused, and without any one statement some are.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from localcloud.aws import Cloud
from localcloud.fleet import DAY, TAG, Fleet
from localcloud.recording_proxy import Call
from localcloud.stack import credentials
from tests.e2e.conftest import Deployed
from tests.policies import (
    OPERATES,
    OPERATES_A_FLEET,
    Permission,
    Policy,
    permissions_of,
    policy,
    recorded,
    refused,
    without,
)


@pytest.fixture(name="recorder")
def _recorder(cloud: Cloud) -> Iterator[tuple[Cloud, list[Call]]]:
    with recorded(cloud) as (by_relay, calls):
        yield by_relay, calls


def session_with(cloud: Cloud, policies: list[Policy]) -> Any:
    """Return a session that may do what the policies say."""
    statements = [each for document in policies for each in document["Statement"]]
    return cloud.session_of_role_that_may(statements)


def with_the_secrets_tag(permission: Permission) -> Permission:
    """Return the permission with the key that IAM reads off a member: no call carries it."""
    if ":secret:pool/" not in permission["resource"]:
        return permission
    context = {**permission["context"], f"aws:ResourceTag/{TAG}": "on"}
    return permission | {"context": context}


def assert_used(calls: list[Call], policies: list[Policy], *, of: Policy) -> None:
    """Check that no call is refused, and that without any statement of one policy some are."""
    taken = [with_the_secrets_tag(each) for each in permissions_of(calls)]
    assert refused(taken, policies) == []
    others = [each for each in policies if each is not of]
    sids = [statement["Sid"] for statement in of["Statement"]]
    assert [sid for sid in sids if not refused(taken, [*others, without(of, sid)])] == []


def test_an_operator_runs_every_command_with_these_policies(
    deployed: Deployed, recorder: tuple[Cloud, list[Call]]
) -> None:
    cloud, calls = recorder
    stack = replace(deployed.stack, cloud=cloud)
    policies = [policy(name) for name in OPERATES]
    session = session_with(deployed.stack.cloud, policies)
    deployed.hold(2 * DAY)

    for arguments, typed in (
        (("put",), deployed.qwen.mint(lifetime=2 * DAY)),
        (("put",), deployed.sign_in_host.log_in()),
        (("status",), ""),
        (("status", "--check"), ""),
        (("refresh", "--force"), ""),
        (("smoke",), ""),
        (("environ",), ""),
    ):
        done = stack.command_line(*arguments, typed=typed, session=session)
        assert done.returncode == 0, (arguments, done.stdout + done.stderr)
    logs = cloud.typed(
        f"sam logs --stack-name {stack.name} --name RefreshFunction", **credentials(session)
    )
    assert logs.returncode == 0, logs.stderr
    assert '"outcome":"refreshed"' in logs.stdout.replace(" ", "")

    assert_used(calls, policies, of=policies[0])


def test_an_operator_of_a_fleet_runs_every_command_with_these_policies(
    fleet: Fleet, recorder: tuple[Cloud, list[Call]]
) -> None:
    cloud, calls = recorder
    stack = replace(fleet.stack, cloud=cloud)
    policies = [policy(name, stack=stack.name, secrets=stack.name) for name in OPERATES_A_FLEET]
    session = session_with(fleet.cloud, policies)
    fleet.add("pool/paused", left=5 * DAY, tag="off")
    fleet.cloud.sqs.send_message(
        QueueUrl=stack.outputs["FleetDeadLetterQueueUrl"],
        MessageBody='{"secret_id": "pool/gone"}',
    )

    for arguments, typed in (
        (("put", "--fleet", "--name", "pool/zoe"), fleet.qwen.mint(account="zoe")),
        (("put", "--fleet", "--name", "pool/paused"), fleet.qwen.mint(account="paused")),
        (("put", "--fleet", "--name", "pool/newer"), fleet.sign_in_host.log_in("newer")),
        (("status", "--fleet"), ""),
        (("sweep",), ""),
        (("redrive",), ""),
        (("remove", "--name", "pool/zoe"), ""),
    ):
        done = stack.command_line(*arguments, typed=typed, session=session)
        assert done.returncode == 0, (arguments, done.stdout + done.stderr)

    assert_used(calls, policies, of=policies[1])
