"""Every command of an operator with exactly the policy of examples/policies, IAM enforcing it.

Each call is also looked at: none is refused, and without any one statement some are.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from localcloud.stack import credentials
from tests.e2e.conftest import Deployed, end_alarms
from tests.e2e.operators import assert_used, session_with
from tests.policies import OPERATES, policy, recorded

DAY = timedelta(days=1)


@pytest.mark.nightly
def test_an_operator_runs_every_command_with_these_policies(
    operated: Deployed,
) -> None:
    named = {"stack": operated.stack.name, "secrets": "operated"}
    policies = [policy(name, **named) for name in OPERATES]
    session = session_with(operated.stack.cloud, policies)
    operated.hold(2 * DAY)
    end_alarms(operated.stack)

    with recorded(operated.stack.cloud) as (cloud, calls):
        stack = replace(operated.stack, cloud=cloud)
        for arguments, typed in (
            (("put",), operated.qwen.mint(lifetime=2 * DAY)),
            (("put",), operated.sign_in_host.log_in()),
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
