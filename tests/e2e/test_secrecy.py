"""No token, nor any part of one, comes out anywhere."""

import json
from datetime import timedelta

from localcloud import qwen as scenarios
from localcloud.recording_proxy import Refusal
from tests.e2e.conftest import Deployed
from tests.repo_checks.targets import MAKEFILES

DAY = timedelta(days=1)
# A shorter piece could be anything; a longer one might miss a part.
PIECE = 12


def pieces(text: str) -> set[str]:
    return {text[start : start + PIECE] for start in range(len(text) - PIECE + 1)}


def secret_parts(raw: str) -> set[str]:
    """Return every piece of a token, except of its header, which every JWT shares."""
    _, payload, signature = raw.split(".")
    return pieces(payload) | pieces(signature)


def test_no_part_of_any_token_is_in_any_output(deployed: Deployed) -> None:
    stack, qwen, cloud = deployed.stack, deployed.qwen, deployed.stack.cloud
    shown: dict[str, str] = {}

    # Answers that carry a token, or refuse one: the other ways to fail are in the log by their own
    # tests, where those ran before.
    for scenario in (
        scenarios.MINTS,
        scenarios.ECHOES,
        scenarios.MINTS_FOR_ANOTHER_ACCOUNT,
        scenarios.ISSUES_THEN_REFUSES,
        scenarios.STRANGE_TOKEN,
        scenarios.TOKEN_DEAD,
    ):
        deployed.hold(2 * DAY)
        qwen.answer_with(scenario)
        stack.invoke()
    qwen.answer_with(scenarios.MINTS_NEWER_CLAIMS)
    for operation in ("GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"):
        deployed.hold(2 * DAY)
        refusal = Refusal("InternalServiceError", 500)
        with cloud.relay.interfering(f"secretsmanager:{operation}", refusal):
            stack.invoke()
    raw = qwen.mint()
    for event in ({raw: True}, {"force": raw}, {"token": raw}, raw, [raw]):
        stack.invoke(event)
    with cloud.relay.interfering("sns:Publish", Refusal("InternalError", 500)):
        stack.invoke({"token": raw})
    for value in (raw[:-40], f"{raw}.{raw}", f"{raw} {raw}", json.dumps({"token": [raw]})):
        stack.put(value)
        stack.invoke()
    shown["command line: status of a spoilt value"] = stack.command_line("status").stdout
    for arguments, typed in (
        (["put"], raw),
        (["put", "--json"], raw),
        (["put"], f"{raw}.{raw}"),
        (["put"], raw[:-40]),
        (["refresh", "--force"], ""),
        (["smoke"], ""),
        (["smoke", "--json"], ""),
        (["smoke", "--stdin", "--api-base-url", qwen.base_url], raw),
        (["smoke", "--stdin", "--api-base-url", qwen.base_url], raw[:-40]),
        (["status"], ""),
        (["status", "--json"], ""),
    ):
        done = stack.command_line(*arguments, typed=typed)
        shown[f"command line: {arguments}"] = done.stdout + done.stderr

    name = stack.outputs["RefreshFunctionName"]
    shown |= {
        "log": "\n".join(stack.log()),
        "alerts": str(stack.notifications()),
        "e-mails": str([email.text for email in cloud.relay.emails]),
        "alarms": str(cloud.cloudwatch.describe_alarms()),
        "metrics": str(cloud.cloudwatch.list_metrics()),
        "configuration": str(cloud.functions.get_function_configuration(FunctionName=name)),
        "events": str(cloud.cloudformation.describe_stack_events(StackName=stack.name)),
        "secret's description": str(cloud.secretsmanager.list_secrets()),
        "emulator's log": cloud.ministack.output(),
    }
    used = {request.raw for request in qwen.requests if request.raw} | {raw}
    used |= {each.text for each in stack.versions() if qwen.read(each.text)}
    parts = set().union(*(secret_parts(token) for token in used))
    assert len(used) > 10, "the test must have used tokens"

    for where, text in shown.items():
        assert len(text) > 10, f"{where} must say something"
        assert not parts & pieces(text), f"in the {where}"


def test_no_command_line_of_the_project_takes_a_token() -> None:
    makefile = "".join(file.read_text() for file in MAKEFILES)
    assert "put-token" in makefile
    assert "TOKEN=" not in makefile
