"""Every command that an alert names works without a checkout, whatever the alert's reason."""

from datetime import timedelta

import pytest

from keeper_runtime.run_location import RunLocation
from localcloud.aws import REGION
from tests.e2e.alert_commands import KINDS, command_of, in_cloudshell
from tests.e2e.conftest import Deployed


# Which alert names which command, the tests of alerts say. This starts the AWS CLI a dozen times.
@pytest.mark.nightly
def test_the_command_of_each_alert_works_with_the_aws_cli_alone(operated: Deployed) -> None:
    stack = operated.stack
    reasons: dict[str, list[str]] = {}
    for session_secret_id in (stack.session_secret_arn, ""):
        location = RunLocation(
            stack=stack.name,
            function=stack.outputs["RefreshFunctionName"],
            region=REGION,
            session_secret_id=session_secret_id,
        )
        for kind in KINDS:
            command = command_of(kind, location, stack.secret_arn)
            reasons.setdefault(command, []).append(kind.reason)
    # Into either secret, or a run, or a look at the configuration.
    assert len(reasons) == 4
    assert not [command for command in reasons if not command.startswith(("read -rs ", "aws "))]

    for command in reasons:
        operated.start_anew()
        stack.put_session(" ")
        operated.hold(timedelta(days=1))
        before = stack.current().text
        stores = "put-secret-value" in command
        into_the_session = stack.session_secret_arn in command
        login = operated.sign_in_host.log_in() if into_the_session else operated.qwen.mint()

        shown = in_cloudshell(stack.cloud, command, pasted=login if stores else "")

        if "get-function-configuration" in command:
            assert f'"FunctionName": "{stack.outputs["RefreshFunctionName"]}"' in shown
        elif stores and not into_the_session:
            assert stack.current().text == login
            assert '"outcome": "checked"' in shown
        else:
            assert stack.current().text != before
            assert '"outcome": "refreshed"' in shown
    stack.put_session(" ")
