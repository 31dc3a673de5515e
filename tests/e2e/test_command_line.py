"""The command line against the deployed stack."""

import json
from datetime import timedelta
from typing import Any

import pytest

from localcloud import qwen as scenarios
from localcloud.sign_in_host import Rotation, SessionPolicy
from tests.e2e.conftest import Deployed, end_alarms

DAY = timedelta(days=1)

# Another case of what the first one shows. Each costs the start of a Python.
at_night = pytest.mark.nightly


def test_put_checks_a_token_stores_it_and_shows_whose_it_is(deployed: Deployed) -> None:
    deployed.hold(DAY)
    raw = deployed.qwen.mint(lifetime=5 * DAY)

    done = deployed.stack.command_line("put", typed=f"Bearer {raw}\n")

    assert done.returncode == 0, done.stderr
    assert deployed.stack.current().text == raw
    assert scenarios.ACCOUNT in done.stdout
    assert "the API accepts it" in done.stdout
    assert "5.00 of 7.00 days" in done.stdout


def test_a_terminal_without_unicode_gets_a_plainer_picture(deployed: Deployed) -> None:
    raw = deployed.qwen.mint(account="zoë", lifetime=5 * DAY)

    done = deployed.stack.command_line("put", typed=raw, encoding="ascii")

    assert done.returncode == 0, done.stderr
    assert "#######" in done.stdout
    assert "zo?" in done.stdout


def test_put_refuses_a_token_that_the_api_refuses(deployed: Deployed) -> None:
    deployed.hold(DAY)
    before = deployed.stack.current()
    raw = deployed.qwen.mint()
    deployed.qwen.retire(raw)

    done = deployed.stack.command_line("put", "--json", typed=raw)

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["reason"] == "token_rejected"
    assert deployed.stack.current() == before


def test_put_can_be_told_not_to_check(deployed: Deployed) -> None:
    deployed.hold(DAY)
    raw = deployed.qwen.mint()
    deployed.qwen.answer_with(scenarios.BLOCK_PAGE)
    asked = len(deployed.qwen.requests)

    done = deployed.stack.command_line("put", "--no-check", "--json", typed=raw)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checked"] is False
    assert deployed.stack.current().text == raw
    assert len(deployed.qwen.requests) == asked


def test_put_needs_no_stack_where_the_secret_is_named(deployed: Deployed) -> None:
    deployed.hold(DAY)
    raw = deployed.qwen.mint()

    done = deployed.stack.command_line(
        *("put", "--secret-id", deployed.stack.secret_arn),
        *("--api-base-url", deployed.qwen.base_url, "--region", "eu-west-1"),
        typed=raw,
    )

    assert done.returncode == 0, done.stderr
    assert deployed.stack.current().text == raw


def test_put_keeps_the_other_keys_of_an_object(deployed: Deployed) -> None:
    deployed.stack.put(json.dumps({"service": "chat", "token": "broken"}))
    raw = deployed.qwen.mint()

    done = deployed.stack.command_line("put", typed=raw)

    assert done.returncode == 0, done.stderr
    stored = json.loads(deployed.stack.current().text)
    assert (stored["service"], stored["token"]) == ("chat", raw)


def test_put_leaves_a_session_to_the_function_which_uses_it_at_once(newer: Deployed) -> None:
    newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)
    credential = newer.sign_in_host.log_in()

    done = newer.stack.command_line("put", typed=f"Cookie: a=b; refresh_token={credential}\n")

    assert done.returncode == 0, done.stderr
    assert newer.sign_in_host.spent == {newer.sign_in_host.serial_of(credential): 1}
    kept = json.loads(newer.stack.current_session().text)
    assert kept["refresh_token"] == newer.sign_in_host.current() != credential
    assert newer.qwen.accepts(newer.stack.current().text)
    assert newer.stack.notifications() == []


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [([], "fresh"), (["--dry-run"], "fresh"), (["--force"], "refreshed")],
)
def test_refresh_runs_the_function_and_shows_the_outcome(
    deployed: Deployed, arguments: list[str], outcome: str
) -> None:
    deployed.hold(5 * DAY)

    done = deployed.stack.command_line("refresh", "--json", *arguments)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == outcome
    # A second refresh within the second of the first would not move the expiry.
    deployed.hold(5 * DAY)
    again = deployed.stack.command_line("refresh", *arguments)
    shown = again.stdout
    assert outcome in shown, again.stderr
    assert deployed.stack.secret_arn in shown


def test_refresh_shows_a_failure(deployed: Deployed) -> None:
    deployed.hold(DAY)
    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)

    done = deployed.stack.command_line("refresh")

    assert done.returncode == 1
    # The emulator does not hand on the error's class, which names reason and advice on AWS.
    assert done.stderr.startswith("error: the API refused the token: HTTP 401")


def test_status_shows_everything_at_a_glance(deployed: Deployed) -> None:
    deployed.hold(5 * DAY)
    deployed.stack.invoke()

    done = deployed.stack.command_line("status")

    for shown in (
        deployed.stack.secret_arn,
        scenarios.ACCOUNT,
        "5.00 of 7.00 days",
        deployed.stack.current().version_id,
        "rate(12 hours), next at about",
        "Alarm RefreshFailedAlarm",
        "Alarm LoginEndingAlarm",
        "Alarm TokenExpiredAlarm",
        "Alarm KeeperSilentAlarm",
    ):
        assert shown in done.stdout
    assert "\x1b" not in done.stdout, "no colour where nobody looks"


def test_status_for_scripts_has_the_same_and_a_code_of_its_own_for_trouble(
    deployed: Deployed,
) -> None:
    deployed.hold(DAY / 2)

    done = deployed.stack.command_line("status", "--json")

    document = json.loads(done.stdout)
    assert done.returncode == 3
    assert document["state"] == "stale"
    assert document["days_remaining"] == 0.5
    assert document["schedule"]["expression"] == "rate(12 hours)"
    assert document["alarms"].keys() == {
        "RefreshFailedAlarm",
        "LoginEndingAlarm",
        "TokenExpiredAlarm",
        "KeeperSilentAlarm",
    }


@pytest.mark.parametrize(
    ("action", "part"),
    [
        pytest.param("scheduler:GetSchedule", "Schedule", marks=at_night),
        ("cloudwatch:DescribeAlarms", "Alarm RefreshFailedAlarm"),
        pytest.param("cloudformation:ListStackResources", "Alarm states", marks=at_night),
        ("secretsmanager:GetSecretValue", "Problem"),
    ],
)
def test_status_shows_the_rest_if_a_part_may_not_be_read(
    deployed: Deployed, action: str, part: str
) -> None:
    deployed.hold(5 * DAY)
    # An alarm weighs more than what could not be read.
    end_alarms(deployed.stack)
    session = deployed.stack.cloud.session_without(action)

    done = deployed.stack.command_line("status", session=session)

    assert done.returncode == 1, done.stdout + done.stderr
    rows = {line.strip().partition("  ")[0]: line for line in done.stdout.splitlines()}
    assert "AccessDenied" in rows[part]
    told = {name for name, row in rows.items() if "AccessDenied" not in row}
    assert told >= {"Secret"}
    assert told & {"Account", "Alarm KeeperSilentAlarm"}


def test_a_schedule_that_is_off_needs_a_person(deployed: Deployed) -> None:
    deployed.hold(5 * DAY)
    scheduler = deployed.stack.cloud.scheduler
    name = next(
        physical_id
        for logical_id, physical_id in deployed.stack.resources().items()
        if logical_id == "RefreshFunctionTimer"
    )
    found = scheduler.get_schedule(Name=name)
    same: Any = {
        key: found[key] for key in ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")
    }
    scheduler.update_schedule(**same, State="DISABLED")
    try:
        done = deployed.stack.command_line("status")
    finally:
        scheduler.update_schedule(**same, State="ENABLED")

    assert done.returncode == 3
    assert "rate(12 hours) is DISABLED" in done.stdout


def test_smoke_reads_the_secret_has_it_refreshed_and_uses_the_new_token(
    deployed: Deployed,
) -> None:
    # With more left than a scheduled run would refresh.
    raw = deployed.hold(5 * DAY)
    deployed.qwen.chats[scenarios.ACCOUNT] = ["One"]

    done = deployed.stack.command_line("smoke")

    assert done.returncode == 0, done.stdout + done.stderr
    current = deployed.stack.current()
    for shown in (
        "✓ 1. Read the token",
        scenarios.ACCOUNT,
        "Days left  5.0",
        "✓ 2. Refresh it",
        current.version_id,
        "Days left  7.0",
        "✓ 3. Use the new one",
        "User status  true",
        "Chats        1",
    ):
        assert shown in done.stdout
    assert "\x1b" not in done.stdout, "no colour where nobody looks"
    assert current.text != raw
    assert deployed.qwen.requests[-1].raw == current.text


def test_smoke_refreshes_even_if_the_api_retires_the_old_token(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.RETIRES_OLD, scenarios.ECHOES)

    done = deployed.stack.command_line("smoke", "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    assert deployed.qwen.accepts(deployed.stack.current().text)


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.TOKEN_DEAD,
        pytest.param(scenarios.ECHOES, marks=at_night),
        pytest.param(scenarios.BLOCK_PAGE, marks=at_night),
    ],
    ids=lambda each: each.name,
)
def test_smoke_shows_a_run_that_fails_and_leaves_the_token(
    deployed: Deployed, scenario: scenarios.Scenario
) -> None:
    raw = deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenario)

    done = deployed.stack.command_line("smoke", encoding="ascii")

    assert done.returncode == 1
    assert "ok 1. Read the token" in done.stdout
    assert "!! 2. Refresh it" in done.stdout
    assert "-- 3. Use the new one: not tried" in done.stdout
    # The emulator does not hand on the error's class, which names reason and advice on AWS.
    assert done.stderr.startswith("error: step 2: ")
    assert deployed.stack.current().text == raw


def test_smoke_of_a_secret_without_a_token_needs_a_person(deployed: Deployed) -> None:
    deployed.hold(DAY)
    deployed.stack.put(" ")

    done = deployed.stack.command_line("smoke", "--json")

    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["reason"] == "token_missing"


def test_smoke_by_somebody_who_may_not_run_the_function_says_so(deployed: Deployed) -> None:
    deployed.hold(5 * DAY)

    done = deployed.stack.command_line(
        "smoke", "--json", session=deployed.stack.cloud.session_without("lambda:InvokeFunction")
    )

    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [step["result"] for step in document["steps"]] == ["passed", "failed", "not_tried"]
    assert document["error"]["reason"] == "aws_failed"
    assert "AccessDenied" in document["error"]["message"]


def test_environ_is_what_sam_local_invoke_needs(deployed: Deployed) -> None:
    done = deployed.stack.command_line("environ")

    assert done.returncode == 0, done.stderr
    environ = json.loads(done.stdout)["RefreshFunction"]
    assert environ["SECRET_ID"] == deployed.stack.secret_arn
    assert environ["ALERT_TOPIC_ARN"] == deployed.stack.outputs["AlertTopicArn"]
    assert environ["API_BASE_URL"] == deployed.qwen.base_url


@pytest.mark.parametrize("value", ["hunter2", pytest.param(" ", marks=at_night)])
def test_status_says_what_is_wrong_with_a_secret_without_a_token(
    deployed: Deployed, value: str
) -> None:
    deployed.hold(DAY)
    deployed.stack.put(value)

    done = deployed.stack.command_line("status", "--json")

    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert "token_m" in document["problem"]
    assert document["account"] is None
    assert "hunter2" not in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("sweep",),
        pytest.param(("redrive",), marks=at_night),
        pytest.param(("remove", "--name", "x"), marks=at_night),
        pytest.param(("status", "--fleet"), marks=at_night),
    ],
    ids=" ".join,
)
def test_a_command_for_the_fleet_says_that_there_is_none(
    command: tuple[str, ...], deployed: Deployed
) -> None:
    done = deployed.stack.command_line(*command)

    assert done.returncode == 1
    assert "has no fleet: deploy it with the parameter Fleet=true" in done.stderr
