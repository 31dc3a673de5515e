"""The handler: what a run returns, counts, logs and publishes."""

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoRegionError
from botocore.parsers import ResponseParserError

import handler
from keeper_runtime.clients import Clients
from qwen_token import (
    ConfigError,
    QwenTokenError,
    StoreError,
    Token,
    TokenMalformedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamUnavailableError,
)
from qwen_token.secret_store import AWS_CONFIG
from tests.fake_lambda_context import FakeLambdaContext
from tests.fake_secrets_manager import FakeSecretsManager
from tests.fakes import FakeBus, FakeQwen, FakeTopic
from tests.minting import NOW, token

DAY = timedelta(days=1)
SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"
BUS = "arn:aws:events:eu-west-1:111122223333:event-bus/default"
ENVIRON = {
    "SECRET_ID": SECRET,
    "API_BASE_URL": "https://chat.qwen.ai",
    "REFRESH_BEFORE_DAYS": "3",
    "CRITICAL_DAYS": "1",
    "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
    "EVENT_BUS_ARN": BUS,
}


@dataclass
class Run:
    """One invocation, and everything that came out of it."""

    result: dict[str, object] | None
    error: QwenTokenError | None
    metrics: dict[str, float]
    log: list[dict[str, Any]]
    alerts: list[dict[str, Any]]
    events: list[dict[str, Any]]
    output: str
    patience: list[timedelta]


@pytest.fixture(name="invoke")
def _invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def invoke(  # noqa: PLR0913 - the world outside, one thing each
        value: str | None = None,
        *,
        answer: Token | QwenTokenError | None = None,
        event: object = None,
        environ: Mapping[str, str] = ENVIRON,
        topic: FakeTopic | None = None,
        bus: FakeBus | None = None,
        overtaken_by: str | None = None,
        milliseconds_left: int = 120_000,
    ) -> Run:
        # The logger took hold of standard output when it was made; pytest replaces that since.
        for log_handler in logging.getLogger("my-stack").handlers:
            monkeypatch.setattr(log_handler, "stream", sys.stdout)
        sns = topic or FakeTopic()
        eventbridge = bus or FakeBus()
        secrets = FakeSecretsManager()
        secrets.add("qwen/token", value)
        if overtaken_by is not None:
            secrets.before = lambda call: (
                secrets.hold(SECRET, overtaken_by)
                if call.operation == "UpdateSecretVersionStage"
                else None
            )
        qwen = FakeQwen(lambda _: answer or UpstreamUnavailableError("not to be asked"))
        clients = Clients(
            environ=environ,
            clock=lambda: NOW,
            secrets=lambda: secrets,  # type: ignore[arg-type,return-value]
            sns=lambda: sns,  # type: ignore[arg-type,return-value]
            events=lambda: eventbridge,  # type: ignore[arg-type,return-value]
            sqs=lambda: pytest.fail("there is no queue"),
            functions=lambda: pytest.fail("it runs no other function"),
            qwen=lambda _: qwen,
        )
        result, error = None, None
        # As the deployed handler has it: the decorators write out what was counted.
        decorated = handler.metrics.log_metrics(
            lambda given, context: handler.run(given, context, clients)
        )
        try:
            result = decorated({} if event is None else event, FakeLambdaContext(milliseconds_left))
        except QwenTokenError as caught:
            error = caught
        output = capsys.readouterr().out
        lines = [json.loads(line) for line in output.splitlines()]
        [emf] = [line for line in lines if "_aws" in line]
        [declared] = emf["_aws"]["CloudWatchMetrics"]
        assert declared["Namespace"] == "QwenTokenRefresh"
        assert declared["Dimensions"] == [["service"]]
        assert emf["service"] == "my-stack"
        names = [metric["Name"] for metric in declared["Metrics"]]
        return Run(
            result=result,
            error=error,
            metrics={name: emf[name][0] for name in names},
            log=[line for line in lines if "_aws" not in line],
            alerts=sns.documents,
            events=eventbridge.put,
            output=output,
            patience=qwen.given,
        )

    return invoke


def test_a_fresh_run_says_so_and_counts_the_days(invoke: Any) -> None:
    run = invoke(token(left=5 * DAY).raw)

    assert run.result == {
        "outcome": "fresh",
        "secret_id": SECRET,
        "version_id": "v1",
        "expires_at": "2026-11-29T12:00:00+00:00",
        "days_remaining": 5.0,
    }
    assert run.metrics == {"TokenDaysRemaining": 5, "RunSucceeded": 1, "RefreshFailed": 0}
    assert run.alerts == []


def test_a_refresh_reports_the_new_token(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, answer=token(left=7 * DAY))

    assert run.result is not None
    assert (run.result["outcome"], run.result["version_id"]) == ("refreshed", "v2")
    assert run.result["days_remaining"] == 7
    assert run.metrics == {
        "TokenDaysRemaining": 7,
        "RunSucceeded": 1,
        "TokenRefreshed": 1,
        "RefreshFailed": 0,
    }
    assert run.alerts == []


def test_a_run_that_another_writer_overtook_with_a_good_token_succeeded(invoke: Any) -> None:
    run = invoke(
        token(left=DAY).raw,
        answer=token(left=7 * DAY),
        overtaken_by=token(left=6 * DAY).raw,
    )

    assert run.result is not None
    assert (run.result["outcome"], run.result["version_id"]) == ("superseded", "v3")
    assert run.metrics == {"TokenDaysRemaining": 6, "RunSucceeded": 1, "RefreshFailed": 0}
    assert run.alerts == []


def test_the_api_is_given_what_the_run_can_spare_of_its_remaining_time(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, answer=token(left=7 * DAY), milliseconds_left=80_000)
    assert run.patience == [timedelta(seconds=10)]


def test_a_dry_run_does_not_count_as_a_success(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, event={"dry_run": True})

    assert run.result is not None
    assert run.result["outcome"] == "would_refresh"
    assert run.metrics == {"TokenDaysRemaining": 1, "RefreshFailed": 0}


def test_a_dry_run_on_a_fresh_token_does_not_count_as_a_success_either(invoke: Any) -> None:
    run = invoke(token(left=5 * DAY).raw, event={"dry_run": True})

    assert run.result is not None
    assert run.result["outcome"] == "fresh"
    assert run.metrics == {"TokenDaysRemaining": 5, "RefreshFailed": 0}


def test_awaiting_the_first_token_is_a_warning_and_no_failure(invoke: Any) -> None:
    run = invoke(None)

    assert run.error is None
    assert run.result == {
        "outcome": "awaiting_token",
        "secret_id": SECRET,
        "version_id": None,
        "expires_at": None,
        "days_remaining": None,
    }
    assert run.metrics == {"RefreshFailed": 0}
    [alert] = run.alerts
    [failure] = alert["failures"]
    assert (alert["severity"], failure["reason"]) == ("warning", "token_missing")


def test_a_dry_run_that_awaits_a_token_alerts_nobody(invoke: Any) -> None:
    run = invoke(None, event={"dry_run": True})
    assert run.result["outcome"] == "awaiting_token"
    assert run.alerts == []


@pytest.mark.parametrize(
    ("left", "severity"), [(2 * DAY, "warning"), (timedelta(hours=23), "critical")]
)
def test_a_failure_is_raised_counted_and_published_with_what_is_left(
    invoke: Any, left: timedelta, severity: str
) -> None:
    run = invoke(token(left=left).raw, answer=UpstreamUnavailableError("down"))

    assert isinstance(run.error, UpstreamUnavailableError)
    assert run.metrics == {"TokenDaysRemaining": left / DAY, "RefreshFailed": 1}
    [alert] = run.alerts
    assert alert["severity"] == severity
    assert alert["request_id"] == "request-1"
    [failure] = alert["failures"]
    assert failure["reason"] == "upstream_unavailable"
    assert failure["secret_id"] == SECRET
    assert failure["days_remaining"] == round(left / DAY, 2)


def test_a_failure_is_logged_once(invoke: Any) -> None:
    run = invoke(token(left=DAY).raw, answer=TokenRejectedError("refused"))
    [line] = [line for line in run.log if line["level"] == "ERROR"]
    assert (line["reason"], line["severity"]) == ("token_rejected", "critical")


def test_a_value_that_is_no_token_has_no_days_to_count(invoke: Any) -> None:
    run = invoke("hunter2")
    assert isinstance(run.error, TokenMalformedError)
    assert run.metrics == {"RefreshFailed": 1}
    assert run.alerts[0]["failures"][0]["expires_at"] is None


def test_a_short_lived_token_counts_as_refreshed_but_not_as_succeeded(invoke: Any) -> None:
    run = invoke(token(left=timedelta(hours=1)).raw, answer=token(left=timedelta(hours=6)))
    assert isinstance(run.error, TokenShortLivedError)
    assert run.metrics == {"TokenDaysRemaining": 0.25, "TokenRefreshed": 1, "RefreshFailed": 1}


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


def test_a_failed_refresh_is_announced_with_what_the_alert_says(invoke: Any) -> None:
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

    run = invoke(token(left=DAY).raw, answer=TokenRejectedError("refused"), bus=bus)
    assert isinstance(run.error, TokenRejectedError)
    assert len(run.alerts) == 1


def test_no_part_of_a_token_is_in_the_output(invoke: Any) -> None:
    held, successor = token(left=DAY), token(left=7 * DAY)
    for answer in (successor, held, TokenRejectedError("refused"), StoreError("failed")):
        run = invoke(held.raw, answer=answer)
        shown = f"{run.output}{run.alerts}{run.events}{run.error!r}"
        pieces = {*held.raw.split("."), *successor.raw.split(".")}
        assert not any(piece in shown for piece in pieces)


def test_botocore_does_not_log_replies_even_where_everything_else_logs_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    assert logging.getLogger("qwen_token").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("botocore.parsers").isEnabledFor(logging.DEBUG)


def test_every_aws_client_has_the_timeouts_that_the_keeper_reckons_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    clients = Clients.real()
    wanted: Any = AWS_CONFIG  # its options are not in botocore's types
    for make in (clients.secrets, clients.sns, clients.events, clients.sqs, clients.functions):
        client: Any = make()
        config = client.meta.config
        assert config.connect_timeout == wanted.connect_timeout
        assert config.read_timeout == wanted.read_timeout
        assert config.retries == wanted.retries
