"""What the owner is told."""

import json
from datetime import timedelta
from typing import Any

import pytest

from keeper_runtime.alerts import Alert, Failure, RunLocation, publish
from qwen_token import (
    ConfigError,
    QwenTokenError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamUnavailableError,
    WrongAccountError,
)
from qwen_token.policy import Severity
from tests.minting import NOW

DAY = timedelta(days=1)
ORIGIN = RunLocation(stack="my-stack", function="keeper", region="eu-west-1")
SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"


def alert(error: QwenTokenError, *, left: timedelta | None, level: Severity) -> Alert:
    error = error.with_expiry(None if left is None else NOW + left)
    failure = Failure.of(error, secret_id=SECRET, origin=ORIGIN, now=NOW)
    return Alert(level, "request-1", NOW, (failure,))


def test_programs_get_one_document_with_every_field_of_the_contract() -> None:
    told = alert(UpstreamUnavailableError("down"), left=1.5 * DAY, level=Severity.WARNING)

    assert told.document() == {
        "source": "qwen-token-refresh",
        "event": "refresh_failed",
        "severity": "warning",
        "request_id": "request-1",
        "occurred_at": "2026-11-24T12:00:00+00:00",
        "failures": [
            {
                "secret_id": SECRET,
                "reason": "upstream_unavailable",
                "message": "down",
                "advice": UpstreamUnavailableError.advice,
                "expires_at": "2026-11-26T00:00:00+00:00",
                "days_remaining": 1.5,
            }
        ],
    }


def test_what_is_unknown_is_null_for_programs_and_said_to_people() -> None:
    told = alert(ConfigError("off"), left=None, level=Severity.CRITICAL)

    failures = told.document()["failures"]
    assert isinstance(failures, list)
    assert failures[0]["expires_at"] is None
    assert failures[0]["days_remaining"] is None
    assert "unknown" in told.text()


def test_a_token_that_expires_this_moment_has_zero_days_not_none() -> None:
    told = alert(UpstreamUnavailableError("down"), left=0 * DAY, level=Severity.CRITICAL)
    failures = told.document()["failures"]
    assert isinstance(failures, list)
    assert failures[0]["days_remaining"] == 0


def test_people_read_what_happened_how_long_is_left_and_what_to_do() -> None:
    text = alert(WrongAccountError("refused"), left=5 * DAY, level=Severity.CRITICAL).text()

    assert text.startswith("CRITICAL: the Qwen token was not refreshed.")
    assert "refused" in text
    assert "5.0 days left; the token itself expires on 2026-11-29 12:00 UTC" in text
    assert WrongAccountError.advice in text
    assert "request-1" in text


@pytest.mark.parametrize(
    ("error", "command"),
    [
        (TokenRejectedError("dead"), "make put-token STACK=my-stack REGION=eu-west-1"),
        (
            UpstreamUnavailableError("down"),
            "aws lambda invoke --function-name keeper --region eu-west-1 /dev/stdout",
        ),
        (
            ConfigError("off"),
            "aws lambda get-function-configuration --function-name keeper --region eu-west-1",
        ),
    ],
    ids=lambda value: value.reason if isinstance(value, QwenTokenError) else "",
)
def test_the_command_names_the_stack_or_the_function_and_the_region(
    error: QwenTokenError, command: str
) -> None:
    text = alert(error, left=DAY, level=Severity.CRITICAL).text()
    assert f"Command:        {command}\n" in text


def test_of_a_new_token_that_will_not_last_it_is_not_said_that_there_is_none() -> None:
    text = alert(TokenShortLivedError("short"), left=DAY / 4, level=Severity.CRITICAL).text()
    assert text.startswith(
        "CRITICAL: the Qwen token was refreshed, but the new one does not live long enough."
    )


def test_a_token_that_the_api_calls_dead_has_no_days_left_whatever_its_expiry_says() -> None:
    told = alert(TokenRejectedError("refused"), left=5 * DAY, level=Severity.CRITICAL)
    assert told.subject() == "[CRITICAL] Qwen token: token_rejected, dead already"
    assert "days left" not in told.text()


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (5 * DAY, "5.0 days left"),
        (47 * timedelta(hours=1), "47.0 hours left"),
        (-DAY, "expired"),
    ],
)
def test_the_subject_says_how_bad_what_and_how_long(left: timedelta, words: str) -> None:
    subject = alert(UpstreamUnavailableError("x"), left=left, level=Severity.WARNING).subject()
    assert subject == f"[WARNING] Qwen token: upstream_unavailable, {words}"
    assert subject.isascii()


class RecordingTopic:
    """An SNS client that keeps what it is told to publish."""

    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []

    def publish(self, **message: Any) -> None:
        self.published.append(message)


def test_email_gets_the_text_and_every_other_protocol_the_document() -> None:
    told = alert(TokenRejectedError("refused"), left=DAY, level=Severity.CRITICAL)
    topic = RecordingTopic()

    publish(told, client=topic, topic_arn="arn:aws:sns:::alerts")  # type: ignore[arg-type]

    [message] = topic.published
    bodies = json.loads(message["Message"])
    assert bodies.keys() == {"default", "email"}
    assert json.loads(bodies["default"]) == told.document()
    assert bodies["email"] == told.text()
    assert message["MessageStructure"] == "json"
    assert message["MessageAttributes"] == {
        "severity": {"DataType": "String", "StringValue": "critical"},
        "reason": {"DataType": "String", "StringValue": "token_rejected"},
    }


# --- of many secrets ------------------------------------------------------------------------------

FLEET = RunLocation(stack="my-stack", function="dispatch", region="eu-west-1", of_fleet=True)


def batch_alert(count: int, message: str = "refused") -> Alert:
    failures = tuple(
        Failure.of(
            TokenRejectedError(message),
            secret_id=f"{SECRET[:-7]}/{n}-a1b2c3",
            origin=FLEET,
            now=NOW,
        )
        for n in range(count)
    )
    return Alert(Severity.CRITICAL, "request-1", NOW, failures)


def test_an_alert_of_many_secrets_counts_them_and_names_each_one() -> None:
    told = batch_alert(3)

    assert told.subject() == "[CRITICAL] Qwen tokens: 3 failed (3 token_rejected)"
    text = told.text()
    assert text.startswith("CRITICAL: 3 Qwen tokens need a look.")
    assert all(f"Secret:         {SECRET[:-7]}/{n}-a1b2c3\n" in text for n in range(3))
    assert "failures_omitted" not in told.document()


def test_the_command_for_a_secret_of_a_fleet_names_that_secret() -> None:
    told = batch_alert(1)
    command = "make put-token STACK=my-stack REGION=eu-west-1 ARGS='--fleet --name qwen/token/0'"
    assert f"Command:        {command}\n" in told.text()


def test_a_message_has_as_many_failures_as_sns_takes_and_the_number_of_the_others() -> None:
    topic = RecordingTopic()

    publish(batch_alert(500), client=topic, topic_arn="arn:aws:sns:::alerts")  # type: ignore[arg-type]

    [message] = topic.published
    attributes = json.dumps(message["MessageAttributes"])
    assert len(message["Message"].encode()) + len(attributes) <= 256 * 1024
    document = json.loads(json.loads(message["Message"])["default"])
    shown, omitted = len(document["failures"]), document["failures_omitted"]
    assert shown + omitted == 500
    assert shown > 100, "it is no token gesture"
    assert message["Subject"] == f"[CRITICAL] Qwen tokens: 500 failed ({shown} token_rejected)"
    assert f"{omitted} more did not fit" in json.loads(message["Message"])["email"]


def test_one_failure_is_told_however_long_it_is() -> None:
    told = batch_alert(2, message="x" * 300_000).fitted()
    assert (len(told.failures), told.omitted) == (1, 1)
