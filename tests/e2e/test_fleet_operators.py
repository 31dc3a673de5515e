"""Every command of a fleet's operator with exactly the policies of examples/policies.

Each call is also looked at: none is refused, and without any one statement some are.
"""

from dataclasses import replace

import pytest

from localcloud.fleet import DAY, DeployedFleet
from tests.e2e.operators import assert_used, session_with
from tests.policies import OPERATES_A_FLEET, policy, recorded


@pytest.mark.nightly
def test_an_operator_of_a_fleet_runs_every_command_with_these_policies(
    fleet: DeployedFleet,
) -> None:
    policies = [
        policy(name, stack=fleet.stack.name, secrets=fleet.stack.name) for name in OPERATES_A_FLEET
    ]
    session = session_with(fleet.cloud, policies)
    fleet.add("pool/paused", left=5 * DAY, tag="off")
    fleet.cloud.sqs.send_message(
        QueueUrl=fleet.stack.outputs["FleetDeadLetterQueueUrl"],
        MessageBody='{"secret_id": "pool/gone"}',
    )

    with recorded(fleet.cloud) as (cloud, calls):
        stack = replace(fleet.stack, cloud=cloud)
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
