"""Every command that an alert of the fleet names works without a checkout."""

import pytest

from keeper_runtime.run_location import RunLocation
from localcloud.aws import REGION
from localcloud.fleet import DAY, DeployedFleet
from tests.e2e.alert_commands import KINDS, command_of, in_cloudshell


@pytest.mark.nightly
def test_the_command_of_each_alert_of_a_fleet_works_with_the_aws_cli_alone(
    fleet: DeployedFleet,
) -> None:
    secret_id = fleet.add("pool/zoe", left=5 * DAY)
    location = RunLocation(
        stack=fleet.stack.name,
        function=fleet.stack.outputs["DispatchFunctionName"],
        region=REGION,
        of_fleet=True,
    )
    commands = {command_of(kind, location, secret_id) for kind in KINDS}
    # Into the member's secret, or a sweep, or a look at the configuration.
    assert len(commands) == 3

    for command in commands:
        login = fleet.qwen.mint(account="pool/zoe") if "put-secret-value" in command else ""

        shown = in_cloudshell(fleet.cloud, command, pasted=login)

        if login:
            assert fleet.current("pool/zoe") == login
        elif "lambda invoke" in command:
            assert '"completed": true' in shown
