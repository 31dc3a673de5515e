"""The handler: what a run returns, counts, logs and publishes."""

import json
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoRegionError
from botocore.parsers import ResponseParserError

from keeper_runtime.clients import Clients
from qwen_token import (
    ConfigError,
    Token,
    TokenMalformedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamUnavailableError,
)
from qwen_token.errors import SessionMalformedError
from qwen_token.secret_store import AWS_CONFIG
from tests.fakes import FakeBus, FakeTopic
from tests.minting import token
from tests.unit.refresh_fakes import BUS, ENVIRON, SECRET, RefreshUnderTest, Run

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture(name="function")
def _function(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> RefreshUnderTest:
    return RefreshUnderTest(capsys, monkeypatch)


@pytest.fixture(name="invoke")
def _invoke(function: RefreshUnderTest) -> Any:
    def invoke(  # noqa: PLR0913 - the world outside, one thing each
        value: str | None = None,
        *,
        answer: Token | Exception | None = None,
        event: object = None,
        environ: Mapping[str, str] = ENVIRON,
        topic: FakeTopic | None = None,
        bus: FakeBus | None = None,
    ) -> Run:
        function.environ = environ
        function.topic, function.bus = topic or FakeTopic(), bus or FakeBus()
        function.holds(value)
        function.answer = answer or UpstreamUnavailableError("not to be asked")
        return function.run(event)

    return invoke


def test_a_fresh_run_says_so_and_counts_the_days(invoke: Any) -> None:
    run = invoke(token(left=5 * DAY).raw)

    assert run.result == {
        "outcome": "fresh",
        "secret_id": SECRET,
        "version_id": "v1",
        "expires_at": "2026-11-29T12:00:00+00:00",
        "days_remaining": 5.0,
        "grant": None,
        "session_expires_at": None,
    }
    assert run.metrics == {
        "TokenDaysRemaining": 5,
        "SessionDaysRemaining": 5,
        "RunCompleted": 1,
        "RunSucceeded": 1,
        "RefreshFailed": 0,
    }
    assert run.alerts == []


def test_a_refresh_reports_the_new_token(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, answer=token(left=7 * DAY))

    assert run.result is not None
    assert (run.result["outcome"], run.result["version_id"]) == ("refreshed", "v2")
    assert (run.result["days_remaining"], run.result["grant"]) == (7, "exchange")
    assert run.metrics == {
        "TokenDaysRemaining": 7,
        "SessionDaysRemaining": 7,
        "RunCompleted": 1,
        "RunSucceeded": 1,
        "TokenRefreshed": 1,
        "RefreshFailed": 0,
    }
    assert run.alerts == []


def test_a_run_that_another_writer_overtook_with_a_good_token_succeeded(
    function: RefreshUnderTest,
) -> None:
    function.holds(token(left=DAY))
    function.answer = token(left=7 * DAY)
    overtaking = token(left=6 * DAY).raw
    function.secrets.before = lambda call: (
        function.secrets.hold(SECRET, overtaking)
        if call.operation == "UpdateSecretVersionStage"
        else None
    )
    run = function.run()

    assert run.result is not None
    assert (run.result["outcome"], run.result["version_id"]) == ("superseded", "v3")
    assert run.metrics == {
        "TokenDaysRemaining": 6,
        "SessionDaysRemaining": 6,
        "RunCompleted": 1,
        "RunSucceeded": 1,
        "RefreshFailed": 0,
    }
    assert run.alerts == []


def test_the_api_is_given_what_the_run_can_spare_of_its_remaining_time(
    function: RefreshUnderTest,
) -> None:
    function.holds(token(left=DAY))
    function.answer = token(left=7 * DAY)
    function.run(milliseconds_left=80_000)
    assert function.hosts.given == [timedelta(seconds=10)]


def test_a_run_that_another_one_has_the_lease_of_ends_without_an_error(
    function: RefreshUnderTest,
) -> None:
    function.holds(token(left=DAY))
    table = function.dynamodb
    table.update_item(
        TableName="state",
        Key={"secret_id": {"S": SECRET}},
        UpdateExpression="SET lease_owner = :owner, lease_until = :until",
        ConditionExpression="attribute_not_exists(lease_until)",
        ExpressionAttributeValues={
            ":owner": {"S": "another run"},
            ":until": {"N": str(int((function.now + MINUTE).timestamp()))},
        },
    )
    run = function.run()
    assert run.result is not None
    assert run.result["outcome"] == "leased"
    assert run.metrics == {
        "TokenDaysRemaining": 1,
        "SessionDaysRemaining": 1,
        "RunCompleted": 1,
        "RefreshFailed": 0,
    }
    assert (run.alerts, function.hosts.spent) == ([], [])


def test_a_dry_run_does_not_count_as_a_success(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, event={"dry_run": True})

    assert run.result is not None
    assert run.result["outcome"] == "would_refresh"
    assert run.metrics == {
        "TokenDaysRemaining": 1,
        "SessionDaysRemaining": 1,
        "RunCompleted": 1,
        "RefreshFailed": 0,
    }


def test_a_dry_run_on_a_fresh_token_does_not_count_as_a_success_either(invoke: Any) -> None:
    run = invoke(token(left=5 * DAY).raw, event={"dry_run": True})

    assert run.result is not None
    assert run.result["outcome"] == "fresh"
    assert run.metrics == {
        "TokenDaysRemaining": 5,
        "SessionDaysRemaining": 5,
        "RunCompleted": 1,
        "RefreshFailed": 0,
    }


def test_awaiting_the_first_token_is_a_warning_and_no_failure(invoke: Any) -> None:
    run = invoke(None)

    assert run.error is None
    assert run.result == {
        "outcome": "awaiting_token",
        "secret_id": SECRET,
        "version_id": None,
        "expires_at": None,
        "days_remaining": None,
        "grant": None,
        "session_expires_at": None,
    }
    assert run.metrics == {"RunCompleted": 1, "RefreshFailed": 0}
    [alert] = run.alerts
    [failure] = alert["failures"]
    assert (alert["severity"], failure["reason"]) == ("warning", "token_missing")


def test_a_dry_run_that_awaits_a_token_alerts_nobody(invoke: Any) -> None:
    run = invoke(None, event={"dry_run": True})
    assert run.result["outcome"] == "awaiting_token"
    assert run.alerts == []


def test_trouble_that_may_pass_ends_as_retrying_and_is_published_as_a_notice(
    invoke: Any,
) -> None:
    run = invoke(token(left=2 * DAY).raw, answer=UpstreamUnavailableError("down"))

    assert run.error is None
    assert run.result == {
        "outcome": "retrying",
        "secret_id": SECRET,
        "version_id": "v1",
        "expires_at": "2026-11-26T12:00:00+00:00",
        "days_remaining": 2.0,
        "grant": None,
        "session_expires_at": None,
    }
    assert run.metrics == {
        "TokenDaysRemaining": 2,
        "SessionDaysRemaining": 2,
        "RunCompleted": 1,
        "RefreshFailed": 1,
    }
    assert [alert["severity"] for alert in run.alerts] == ["notice"]
    assert {line["level"] for line in run.log} == {"WARNING"}


@pytest.mark.parametrize(
    ("left", "after", "severity"),
    [
        pytest.param(2 * DAY, 60 * MINUTE, "warning", id="an hour later"),
        pytest.param(timedelta(hours=23), 0 * MINUTE, "critical", id="near the end"),
    ],
)
def test_a_failure_is_raised_counted_and_published_with_the_time_left(
    invoke: Any, function: RefreshUnderTest, left: timedelta, after: timedelta, severity: str
) -> None:
    run = invoke(token(left=left).raw, answer=UpstreamUnavailableError("down"))
    began_at = function.now
    if after:
        run = function.run(after=after)

    assert isinstance(run.error, UpstreamUnavailableError)
    days = (left - after) / DAY
    assert run.metrics == {
        "TokenDaysRemaining": days,
        "SessionDaysRemaining": days,
        "RunCompleted": 1,
        "RefreshFailed": 1,
    }
    [alert] = run.alerts
    assert (alert["event"], alert["severity"]) == ("refresh_failed", severity)
    assert alert["request_id"] == "request-1"
    assert alert["since"] == began_at.isoformat()
    [failure] = alert["failures"]
    assert failure["reason"] == "upstream_unavailable"
    assert failure["secret_id"] == SECRET
    assert failure["days_remaining"] == round(days, 2)


def test_a_failure_is_logged_once(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, answer=TokenRejectedError("refused"))
    [line] = [line for line in run.log if line["level"] == "ERROR"]
    assert (line["reason"], line["severity"]) == ("token_rejected", "critical")


def test_a_value_that_is_not_a_token_has_no_days_left(invoke: Any) -> None:
    run = invoke("hunter2")
    assert isinstance(run.error, TokenMalformedError)
    assert run.metrics == {"RunCompleted": 1, "RefreshFailed": 1}
    assert run.alerts[0]["failures"][0]["expires_at"] is None


def test_a_short_lived_token_counts_as_refreshed_but_not_as_succeeded(invoke: Any) -> None:
    run = invoke(token(left=MINUTE).raw, answer=token(left=9 * MINUTE))
    assert isinstance(run.error, TokenShortLivedError)
    days = 9 * MINUTE / DAY
    assert run.metrics == {
        "TokenDaysRemaining": days,
        "SessionDaysRemaining": days,
        "RunCompleted": 1,
        "TokenRefreshed": 1,
        "RefreshFailed": 1,
    }
    assert [event["DetailType"] for event in run.events] == [
        "Token Refresh Failed",
        "Token Refreshed",
    ]


def test_what_a_run_fails_with_after_it_stored_a_token_does_not_hide_that_it_did(
    function: RefreshUnderTest,
) -> None:
    function.holds(token(left=DAY), session="no login")
    function.answer = token(left=7 * DAY)
    run = function.run()
    assert isinstance(run.error, SessionMalformedError)
    assert run.metrics["TokenRefreshed"] == 1
    [refreshed] = [event for event in run.events if event["DetailType"] == "Token Refreshed"]
    detail = json.loads(refreshed["Detail"])
    assert (detail["outcome"], detail["version_id"]) == ("refreshed", "v2")
    assert detail["days_remaining"] == 7


def test_a_bad_event_is_published_too(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, event={"forced": True})
    assert isinstance(run.error, ConfigError)
    assert run.alerts[0]["severity"] == "critical"
    assert "'forced'" in run.alerts[0]["failures"][0]["message"]


def test_a_bad_environment_is_published_as_far_as_the_topic_is_known(invoke: Any) -> None:
    run = invoke(environ={"ALERT_TOPIC_ARN": ENVIRON["ALERT_TOPIC_ARN"]})
    assert isinstance(run.error, ConfigError)
    [failure] = run.alerts[0]["failures"]
    assert failure["secret_id"] is None
    assert "SECRET_ID" in failure["message"]


def test_without_a_topic_the_failure_is_still_raised_and_the_log_says_why_no_alert_came(
    invoke: Any,
) -> None:
    run = invoke(environ={})
    assert isinstance(run.error, ConfigError)
    assert any("no alert could be published" in line["message"] for line in run.log)


@pytest.mark.parametrize(
    "problem",
    [
        ClientError({"Error": {"Code": "AuthorizationError"}}, "Publish"),
        ResponseParserError("a page came in place of an answer"),
        NoRegionError(),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_a_failing_publish_does_not_hide_the_failure(invoke: Any, problem: Exception) -> None:
    run = invoke(
        token(left=DAY).raw, answer=TokenRejectedError("refused"), topic=FakeTopic(problem)
    )
    assert isinstance(run.error, TokenRejectedError)
    assert run.metrics["RefreshFailed"] == 1
    assert any("could not be published" in line["message"] for line in run.log)


def test_an_item_that_somebody_wrote_does_not_silence_the_alerts(
    function: RefreshUnderTest,
) -> None:
    """Of the future, an alert would never be due, and a lease would never end."""
    future = (function.now + timedelta(days=36_500)).timestamp()
    incident = {
        "version_id": None,
        "since": future,
        "highest": "critical",
        "reason": "token_rejected",
        "message": "call +1\n<b>now</b>",
        "published": {"critical token_rejected": future, "warning token_rejected": future},
    }
    function.holds(token(left=DAY))
    function.answer = TokenRejectedError("refused")
    function.dynamodb.update_item(
        TableName="state",
        Key={"secret_id": {"S": SECRET}},
        UpdateExpression="SET lease_owner = :owner, lease_until = :until, memory = :memory",
        ConditionExpression="attribute_not_exists(lease_until)",
        ExpressionAttributeValues={
            ":owner": {"S": "somebody"},
            ":until": {"N": str(int(future))},
            ":memory": {"S": json.dumps({"incident": incident})},
        },
    )
    first, second = function.run(), function.run(after=DAY + MINUTE)

    assert isinstance(first.error, TokenRejectedError)
    assert isinstance(second.error, TokenRejectedError)
    assert len(second.alerts) == 1, "it is due again after a day, not after a hundred years"


# --- change events --------------------------------------------------------------------------------


def test_a_refresh_is_announced_with_its_result(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, answer=token(left=7 * DAY))

    [event] = run.events
    assert json.loads(event.pop("Detail")) == run.result
    assert event == {
        "EventBusName": BUS,
        "Source": "qwen-token-refresh",
        "DetailType": "Token Refreshed",
        "Resources": [SECRET],
    }


def test_a_failed_refresh_is_announced_with_the_alerts_document(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, answer=TokenRejectedError("refused"))

    [event] = run.events
    assert event["DetailType"] == "Token Refresh Failed"
    assert json.loads(event["Detail"]) == run.alerts[0]


@pytest.mark.parametrize(
    ("value", "options"),
    [
        pytest.param(token(left=5 * DAY).raw, {}, id="a fresh token"),
        pytest.param(token(left=DAY).raw, {"dry_run": True}, id="a dry run"),
        pytest.param(None, {}, id="no token yet"),
    ],
)
def test_where_nothing_changed_nothing_is_announced(
    invoke: Any, value: str | None, options: dict[str, bool]
) -> None:
    assert invoke(value, event=options).events == []


def test_a_bad_environment_is_announced_as_far_as_the_bus_is_known(invoke: Any) -> None:
    [event] = invoke(environ={"EVENT_BUS_ARN": BUS}).events
    assert event["Resources"] == []


@pytest.mark.parametrize("bus_arn", [None, "", "  "])
def test_without_a_bus_nothing_is_announced(invoke: Any, bus_arn: str | None) -> None:
    environ = {name: value for name, value in ENVIRON.items() if name != "EVENT_BUS_ARN"}
    if bus_arn is not None:
        environ["EVENT_BUS_ARN"] = bus_arn
    run = invoke(token(left=DAY).raw, answer=token(left=7 * DAY), environ=environ)
    assert run.events == []
    assert run.result["outcome"] == "refreshed"


@pytest.mark.parametrize(
    "bus",
    [FakeBus(refuses=True), FakeBus(fails_with=NoRegionError())],
    ids=["refused", "failing"],
)
def test_an_event_that_could_not_be_sent_is_logged_and_changes_nothing_else(
    invoke: Any, bus: FakeBus
) -> None:
    run = invoke(token(left=DAY).raw, answer=token(left=7 * DAY), bus=bus)
    assert run.result["outcome"] == "refreshed"
    assert any("change events could not be sent" in line["message"] for line in run.log)


@pytest.mark.parametrize(
    "bus",
    [FakeBus(refuses=True), FakeBus(fails_with=NoRegionError())],
    ids=["refused", "failing"],
)
def test_an_event_that_could_not_be_sent_hides_no_failure(invoke: Any, bus: FakeBus) -> None:
    run = invoke(token(left=DAY).raw, answer=TokenRejectedError("refused"), bus=bus)
    assert isinstance(run.error, TokenRejectedError)
    assert len(run.alerts) == 1


def test_botocore_does_not_log_values_even_where_everything_logs_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "botocore.parsers")

    logging.getLogger("botocore.parsers").debug("Response body:\n%s", b'{"SecretString":"a1b2"}')

    assert "SecretString" in caplog.text
    assert "a1b2" not in caplog.text


def test_every_aws_client_has_the_timeouts_that_the_keeper_reckons_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    clients = Clients.real()
    wanted: Any = AWS_CONFIG  # its options are not in botocore's types
    for make in (
        clients.secrets,
        clients.sns,
        clients.events,
        clients.sqs,
        clients.functions,
        clients.dynamodb,
    ):
        client: Any = make()
        config = client.meta.config
        assert config.connect_timeout == wanted.connect_timeout
        assert config.read_timeout == wanted.read_timeout
        assert config.retries == wanted.retries
