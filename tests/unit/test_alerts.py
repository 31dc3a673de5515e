"""What the owner is told."""

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keeper_runtime.alerts import Alert, Event, Failure, publish
from keeper_runtime.run_location import RunLocation
from qwen_token import (
    ConfigError,
    QwenTokenError,
    TokenMalformedError,
    TokenMissingError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamUnavailableError,
)
from qwen_token.errors import RunFacts, SessionMalformedError, SessionRejectedError
from qwen_token.policy import Severity
from tests.minting import NOW

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"
SESSION = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/session-d4e5f6"
ALONE = RunLocation(stack="my-stack", function="keeper", region="eu-west-1")
LOCATION = replace(ALONE, session_secret_id=SESSION)
# Secrets that hold a login and nothing else.
BARE = RunFacts(token_holds_more=False, session_holds_more=False)


def alert(
    error: QwenTokenError,
    *,
    left: timedelta | None,
    level: Severity,
    location: RunLocation = LOCATION,
    facts: RunFacts | None = None,
) -> Alert:
    expires_at = None if left is None else NOW + left
    error = error.of_run(facts or BARE, expires_at=expires_at)
    failure = Failure.of(error, secret_id=SECRET, location=location, now=NOW)
    return Alert(level, "request-1", NOW, (failure,), since=NOW - HOUR)


def test_programs_get_one_document_with_every_field_of_the_contract() -> None:
    told = alert(
        UpstreamUnavailableError("down"),
        left=1.5 * DAY,
        level=Severity.WARNING,
        facts=RunFacts(session_expires_at=NOW + 20 * DAY, login_ends_at=NOW + 20 * DAY),
    )

    assert told.document() == {
        "source": "qwen-token-refresh",
        "event": "refresh_failed",
        "severity": "warning",
        "request_id": "request-1",
        "occurred_at": "2026-11-24T12:00:00+00:00",
        "since": "2026-11-24T11:00:00+00:00",
        "failures": [
            {
                "secret_id": SECRET,
                "reason": "upstream_unavailable",
                "message": "down",
                "advice": UpstreamUnavailableError.advice,
                "expires_at": "2026-11-26T00:00:00+00:00",
                "days_remaining": 1.5,
                "session_expires_at": "2026-12-14T12:00:00+00:00",
            }
        ],
    }


def test_what_is_unknown_is_null_for_programs_and_said_to_people() -> None:
    told = alert(ConfigError("off"), left=None, level=Severity.CRITICAL)

    failures = told.document()["failures"]
    assert isinstance(failures, list)
    assert failures[0]["expires_at"] is None
    assert failures[0]["days_remaining"] is None
    assert failures[0]["session_expires_at"] is None
    assert "unknown" in told.text()


def test_a_token_that_expires_this_moment_has_zero_days_not_none() -> None:
    told = alert(UpstreamUnavailableError("down"), left=0 * DAY, level=Severity.CRITICAL)
    failures = told.document()["failures"]
    assert isinstance(failures, list)
    assert failures[0]["days_remaining"] == 0


def test_people_read_what_happened_how_long_is_left_and_what_to_do() -> None:
    """The whole of it, as somebody reads it who has just been woken up."""
    told = alert(
        SessionRejectedError("the sign-in host says that the session is over"),
        left=14 * MINUTE,
        level=Severity.CRITICAL,
        facts=replace(BARE, login_ends_at=NOW + 20 * DAY, session_expires_at=NOW + 20 * DAY),
    )
    assert (
        told.text()
        == f"""\
CRITICAL: the Qwen token was not refreshed.

What happened:  the sign-in host says that the session is over
Reason:         session_rejected
Since:          2026-11-24 11:00 UTC
Token:          14 minutes left; it expires on 2026-11-24 12:14 UTC
What to do:     {SessionRejectedError.advice}
Command:        make put-token STACK=my-stack REGION=eu-west-1
  AWS CLI only: {PUT_SESSION}
                The command waits: paste the value of the cookie 'refresh_token' (or, on one \
line, an object with the keys 'email' and 'password'), and press Enter. Nothing is shown.
Secret:         {SECRET}

Run request-1, 2026-11-24 12:00 UTC.
"""
    )


PUT_SESSION = (
    'read -rs LOGIN; printf %s "$LOGIN" | aws secretsmanager put-secret-value --region eu-west-1 '
    f"--secret-id {SESSION} --secret-string file:///dev/stdin && printf '{{\"check\":true}}' | aws "
    "lambda invoke --region eu-west-1 --function-name keeper --payload fileb:///dev/stdin "
    "/dev/stdout"
)
PUT_TOKEN = PUT_SESSION.replace(SESSION, SECRET)


def test_people_read_when_the_login_ends_and_since_when_nobody_has_a_token() -> None:
    facts = RunFacts(login_ends_at=NOW + 20 * DAY)
    told = alert(
        UpstreamUnavailableError("down"), left=-MINUTE, level=Severity.CRITICAL, facts=facts
    )
    assert "expired on 2026-11-24 11:59 UTC: services have no valid token\n" in told.text()
    assert "Login:          ends on 2026-12-14 12:00 UTC\n" in told.text()
    over = replace(told, occurred_at=NOW + 21 * DAY)
    assert "Login:          ended on 2026-12-14 12:00 UTC\n" in over.text()


@pytest.mark.parametrize(
    ("error", "with_project", "with_aws"),
    [
        (TokenRejectedError("dead"), "make put-token", PUT_SESSION),
        (SessionMalformedError("what?"), "make put-token", PUT_SESSION),
        (TokenMalformedError("what?"), "make put-token", PUT_TOKEN),
        (TokenMissingError("gone"), "make put-token", PUT_TOKEN),
        (
            UpstreamUnavailableError("down"),
            "make refresh",
            "aws lambda invoke --function-name keeper --region eu-west-1 /dev/stdout",
        ),
        (
            ConfigError("off"),
            "make deploy",
            "aws lambda get-function-configuration --function-name keeper --region eu-west-1",
        ),
    ],
    ids=lambda value: value.reason if isinstance(value, QwenTokenError) else "",
)
def test_one_command_is_for_a_checkout_and_one_for_the_aws_cli_alone(
    error: QwenTokenError, with_project: str, with_aws: str
) -> None:
    text = alert(error, left=DAY, level=Severity.CRITICAL).text()
    if not isinstance(error, ConfigError):
        with_project += " STACK=my-stack REGION=eu-west-1"
    assert f"Command:        {with_project}\n  AWS CLI only: {with_aws}\n" in text


def ending(at: datetime, *, holds_more: bool = False) -> Failure:
    return Failure.ending(
        at,
        secret_id=SECRET,
        location=LOCATION,
        token_expires_at=NOW + DAY,
        now=NOW,
        holds_more=holds_more,
    )


BY_HAND = (
    'in the AWS console, Secrets Manager, {}, "Retrieve secret value", "Edit": change {}, and '
    "leave the rest as it is."
)
TOKEN_BY_HAND = BY_HAND.format("qwen/token", "the token")
SESSION_BY_HAND = BY_HAND.format("qwen/session", "'refresh_token' (or 'email' and 'password')")


@pytest.mark.parametrize(
    ("failure", "by_hand"),
    [
        (TokenMalformedError("a comma too many"), TOKEN_BY_HAND),
        (TokenMissingError("no key 'token'"), TOKEN_BY_HAND),
        (SessionMalformedError("a comma too many"), SESSION_BY_HAND),
        (TokenRejectedError("dead"), SESSION_BY_HAND),
        (ending(NOW + DAY, holds_more=True), SESSION_BY_HAND),
    ],
    ids=lambda value: value if isinstance(value, str) else value.reason,
)
def test_no_command_replaces_a_value_that_holds_more_or_that_could_not_be_read(
    failure: QwenTokenError | Failure, by_hand: str
) -> None:
    """The project's own command keeps the other keys, or refuses."""
    told = (
        Alert(Severity.WARNING, "request-1", NOW, (failure,), Event.SESSION_ENDING)
        if isinstance(failure, Failure)
        else alert(failure, left=DAY, level=Severity.CRITICAL, facts=RunFacts())
    )
    command = "make put-token STACK=my-stack REGION=eu-west-1"
    assert f"Command:        {command}\n  Or by hand:   {by_hand}\nSecret: " in told.text()
    assert "put-secret-value" not in told.text()


def test_without_a_session_secret_the_token_is_what_is_put_in() -> None:
    told = alert(TokenRejectedError("dead"), left=DAY, level=Severity.CRITICAL, location=ALONE)
    assert f"  AWS CLI only: {PUT_TOKEN}\n" in told.text()
    assert "The command waits: paste the token, and press Enter." in told.text()


def test_the_command_for_the_aws_cli_alone_puts_in_what_is_pasted_and_shows_it_nowhere(
    tmp_path: Path,
) -> None:
    """Run as it is, in the shell of AWS CloudShell, with a stand-in of the AWS CLI."""
    aws = tmp_path / "aws"
    aws.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\ncat /dev/stdin > {tmp_path}/"$1"\n'
    )
    aws.chmod(0o755)
    login = r"""{"email": "a@example.com", "password": "b\\c $d `e` 'f' %s"}"""
    bash = shutil.which("bash")
    assert bash is not None

    done = subprocess.run(  # noqa: S603 - the command that the alert shows
        [bash, "-c", PUT_SESSION],
        input=f"{login}\n",
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )

    assert (tmp_path / "secretsmanager").read_text() == login
    assert (tmp_path / "lambda").read_text() == '{"check":true}'
    put, invoked = (tmp_path / "arguments").read_text().splitlines()
    assert "a@example.com" not in f"{put}{invoked}{done.stdout}{done.stderr}"
    assert invoked.endswith("--payload fileb:///dev/stdin /dev/stdout")


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (
            Severity.NOTICE,
            "NOTICE: the Qwen token was not refreshed yet, which may pass by itself.",
        ),
        (Severity.WARNING, "WARNING: the Qwen token was not refreshed."),
    ],
)
def test_a_notice_does_not_sound_like_an_alert(level: Severity, words: str) -> None:
    assert alert(UpstreamUnavailableError("x"), left=DAY, level=level).text().startswith(words)


def test_a_first_token_that_is_awaited_is_not_one_that_was_lost() -> None:
    failure = Failure.awaiting(secret_id=SECRET, location=LOCATION)
    text = Alert(Severity.WARNING, "request-1", NOW, (failure,)).text()
    assert text.startswith("WARNING: the keeper waits for its first Qwen token.")
    assert f"  AWS CLI only: {PUT_SESSION}\n" in text


def recovery(reason: str) -> Alert:
    failure = Failure.over(
        reason,
        "refused",
        secret_id=SECRET,
        expires_at=NOW + 15 * MINUTE,
        session_expires_at=NOW + 20 * DAY,
        now=NOW,
    )
    return Alert(
        Severity.CRITICAL, "request-1", NOW, (failure,), Event.REFRESH_RECOVERED, NOW - HOUR
    )


@pytest.mark.parametrize("reason", ["token_rejected", "a_reason_of_another_release"])
def test_a_recovery_asks_nobody_to_do_anything(reason: str) -> None:
    told = recovery(reason)
    assert told.subject() == f"[RECOVERED] Qwen token: recovered from {reason}"
    assert (
        told.text()
        == f"""\
RECOVERED: the Qwen token is kept alive again, and what is below is over.

What happened:  refused
Reason:         {reason}
Since:          2026-11-24 11:00 UTC
Token:          15 minutes left; it expires on 2026-11-24 12:15 UTC
Login:          ends on 2026-12-14 12:00 UTC
Secret:         {SECRET}

Run request-1, 2026-11-24 12:00 UTC.
"""
    )
    document = told.document()
    assert (document["event"], document["severity"]) == ("refresh_recovered", "critical")
    assert document["failures"] == [
        {
            "secret_id": SECRET,
            "reason": reason,
            "message": "refused",
            "advice": "Nothing: it is over.",
            "expires_at": "2026-11-24T12:15:00+00:00",
            "days_remaining": 0.01,
            "session_expires_at": "2026-12-14T12:00:00+00:00",
        }
    ]


@pytest.mark.parametrize(
    ("left", "subject", "advice"),
    [
        (2 * DAY, "log in again before 2026-11-26 12:00 UTC", "before 2026-11-26 12:00 UTC"),
        (-2 * DAY, "log in again now", "now"),
    ],
)
def test_the_end_of_a_login_says_by_when_somebody_has_to_log_in(
    left: timedelta, subject: str, advice: str
) -> None:
    failure = ending(NOW + left)
    told = Alert(Severity.WARNING, "request-1", NOW, (failure,), Event.SESSION_ENDING)
    assert told.subject() == f"[WARNING] Qwen token: {subject}"
    assert f"What to do:     Log in again {advice}, in a private window" in told.text()
    assert f"  AWS CLI only: {PUT_SESSION}\n" in told.text()
    assert told.document()["event"] == "session_ending"


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
            location=FLEET,
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
