"""The alert: what a failed run tells its owner, and how that gets to the topic."""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from qwen_token.errors import (
    QwenTokenError,
    StoreError,
    TokenError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamError,
)
from qwen_token.policy import Severity
from qwen_token.tokens import in_days

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient

SOURCE: Final = "qwen-token-refresh"
_EVENT: Final = "refresh_failed"
# SNS refuses a longer subject, and a message with its attributes that is larger than 256 KB.
_SUBJECT_LIMIT: Final = 100
_MESSAGE_LIMIT: Final = 256 * 1024 - 1024

_ARN_OF_A_SECRET: Final = re.compile(r"arn:.*:secret:(?P<name>.+)-[A-Za-z0-9]{6}")


@dataclass(frozen=True, slots=True)
class RunLocation:
    """Where a run happened: what a command has to name.

    ``function`` is the name of the Lambda function that starts such runs; ``of_fleet`` says that it
    does so for many secrets, so that a command has to name the one that is meant.
    """

    stack: str
    function: str
    region: str
    of_fleet: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """One secret's failure, in words. ``expires_at`` and ``remaining`` are None where unknown."""

    secret_id: str | None
    reason: str
    message: str
    advice: str
    command: str
    expires_at: datetime | None = None
    remaining: timedelta | None = None

    @classmethod
    def of(
        cls, error: QwenTokenError, *, secret_id: str | None, origin: RunLocation, now: datetime
    ) -> Self:
        """Describe ``error``, which a run at ``origin`` met."""
        return cls(
            secret_id=secret_id,
            reason=error.reason,
            message=str(error),
            advice=error.advice,
            command=_command(error, origin, secret_id),
            expires_at=error.expires_at,
            remaining=None if error.expires_at is None else error.expires_at - now,
        )


@dataclass(frozen=True, slots=True)
class Alert:
    """Everything that one failed run says, the gravest first.

    ``omitted`` failures more did not fit into the message.
    """

    severity: Severity
    request_id: str
    occurred_at: datetime
    failures: tuple[Failure, ...]
    omitted: int = 0

    def subject(self) -> str:
        """Return one line for an inbox: ASCII, at most 100 characters."""
        first = self.failures[0]
        if (count := len(self.failures) + self.omitted) > 1:
            reasons = Counter(failure.reason for failure in self.failures).items()
            said = (
                f"s: {count} failed ({', '.join(f'{many} {reason}' for reason, many in reasons)})"
            )
        else:
            left = "" if first.remaining is None else f", {_in_words(first)}"
            said = f": {first.reason}{left}"
        return f"[{self.severity.upper()}] Qwen token{said}"[:_SUBJECT_LIMIT]

    def document(self) -> dict[str, object]:
        """Return the document for programs, as the contract fixes it.

        Where some failures did not fit, ``failures_omitted`` is their number.
        """
        document: dict[str, object] = {
            "source": SOURCE,
            "event": _EVENT,
            "severity": self.severity.value,
            "request_id": self.request_id,
            "occurred_at": self.occurred_at.isoformat(),
            "failures": [
                {
                    "secret_id": failure.secret_id,
                    "reason": failure.reason,
                    "message": failure.message,
                    "advice": failure.advice,
                    "expires_at": None
                    if failure.expires_at is None
                    else failure.expires_at.isoformat(),
                    "days_remaining": None
                    if failure.remaining is None
                    else in_days(failure.remaining),
                }
                for failure in self.failures
            ],
        }
        return {**document, "failures_omitted": self.omitted} if self.omitted else document

    def text(self) -> str:
        """Return the text for people."""
        sections = [
            "\n".join(
                (
                    f"What happened:  {failure.message}",
                    f"Reason:         {failure.reason}",
                    f"Time left:      {_time_left(failure)}",
                    f"What to do:     {failure.advice}",
                    f"Command:        {failure.command}",
                    f"Secret:         {failure.secret_id or 'unknown'}",
                )
            )
            for failure in self.failures
        ]
        if (count := len(self.failures) + self.omitted) > 1:
            happened = f"{count} Qwen tokens need a look"
        elif self.failures[0].reason == TokenShortLivedError.reason:
            happened = "the Qwen token was refreshed, but the new one does not live long enough"
        else:
            happened = "the Qwen token was not refreshed"
        head = f"{self.severity.upper()}: {happened}."
        if self.omitted:
            sections.append(f"{self.omitted} more did not fit into this message: see the log.")
        tail = f"Run {self.request_id}, {_date(self.occurred_at)}."
        return "\n\n".join((head, *sections, tail)) + "\n"

    def fitted(self) -> Self:
        """Return the alert with as many of its failures as fit into one message, at least one."""
        alert = self
        while (size := len(alert.message())) > _MESSAGE_LIMIT and (have := len(alert.failures)) > 1:
            keep = max(1, min(have - 1, have * _MESSAGE_LIMIT // size))
            alert = replace(
                alert, failures=alert.failures[:keep], omitted=alert.omitted + have - keep
            )
        return alert

    def message(self) -> str:
        """Return the text and the document as SNS takes them: ASCII."""
        return json.dumps({"default": json.dumps(self.document()), "email": self.text()})


def publish(alert: Alert, *, client: "SNSClient", topic_arn: str) -> None:
    """Send the alert: text to e-mail, one JSON document to every other protocol.

    Raises whatever boto3 raises.
    """
    alert = alert.fitted()
    client.publish(
        TopicArn=topic_arn,
        Subject=alert.subject(),
        MessageStructure="json",
        Message=alert.message(),
        MessageAttributes={
            "severity": {"DataType": "String", "StringValue": alert.severity.value},
            "reason": {"DataType": "String", "StringValue": alert.failures[0].reason},
        },
    )


def name_of(secret_id: str) -> str:
    """Return a secret's name, where ``secret_id`` is its ARN; or else what was given."""
    arn = _ARN_OF_A_SECRET.fullmatch(secret_id)
    return arn["name"] if arn else secret_id


def _command(error: QwenTokenError, origin: RunLocation, secret_id: str | None) -> str:
    if isinstance(error, TokenError):
        put = f"make put-token STACK={origin.stack} REGION={origin.region}"
        if origin.of_fleet and secret_id is not None:
            put += f" ARGS='--fleet --name {name_of(secret_id)}'"
        return put
    # These need no copy of the project.
    function = f"--function-name {origin.function} --region {origin.region}"
    if isinstance(error, UpstreamError | StoreError):
        return f"aws lambda invoke {function} /dev/stdout"
    return f"aws lambda get-function-configuration {function}"


def _time_left(failure: Failure) -> str:
    if failure.remaining is None or failure.expires_at is None:
        return "unknown: no token could be read"
    verb = "expires" if failure.remaining > timedelta(0) else "expired"
    return f"{_in_words(failure)}; the token itself {verb} on {_date(failure.expires_at)}"


def _in_words(failure: Failure) -> str:
    remaining = failure.remaining or timedelta(0)
    if failure.reason == TokenRejectedError.reason:
        # Whatever its expiry says: a token with days left would be taken for one that still works.
        return "dead already"
    if remaining <= timedelta(0):
        return "expired"
    if remaining < timedelta(days=2):
        return f"{remaining / timedelta(hours=1):.1f} hours left"
    return f"{remaining / timedelta(days=1):.1f} days left"


def _date(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
