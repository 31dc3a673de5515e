"""The alert: what a run reports to the owner, and how it is published to the topic."""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from qwen_token.errors import (
    QwenTokenError,
    RunFacts,
    SessionError,
    SessionRejectedError,
    SignInRefusedError,
    StoreError,
    TokenError,
    TokenMalformedError,
    TokenMissingError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamError,
)
from qwen_token.policy import Severity
from qwen_token.tokens import date, in_days, iso

from .run_location import RunLocation

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient

SOURCE: Final = "qwen-token-refresh"
# The reason in an alert about a login that will end. No run has failed.
SESSION_ENDING: Final = "session_ending"
# SNS's limits: 100 characters for a subject, and 256 KB for a message with its attributes.
_SUBJECT_LIMIT: Final = 100
_MESSAGE_LIMIT: Final = 256 * 1024 - 1024

# For these failures, the login is already dead, so its end is not mentioned.
_LOGIN_IS_DEAD: Final = frozenset({SessionRejectedError.reason, SignInRefusedError.reason})

_ARN_OF_A_SECRET: Final = re.compile(r"arn:.*:secret:(?P<name>.+)-[A-Za-z0-9]{6}")


class Event(StrEnum):
    """What an alert is about."""

    REFRESH_FAILED = "refresh_failed"
    REFRESH_RECOVERED = "refresh_recovered"
    SESSION_ENDING = "session_ending"


class ToDo(NamedTuple):
    """What the owner may type or do.

    ``commands`` has one command for a checkout of the project and one for the AWS CLI, which then
    waits for ``to_paste``. ``by_hand`` replaces the second command if that would overwrite other
    values in the secret.
    """

    commands: tuple[str, ...]
    to_paste: str = ""
    by_hand: str = ""


_NOTHING: Final = ToDo(())


@dataclass(frozen=True, slots=True)
class Failure:
    """One secret's failure, in words. Times and durations are None if unknown.

    ``remaining`` is the token's time left. ``login_ends_at`` is when a person is needed at the
    latest.
    """

    secret_id: str | None
    reason: str
    message: str
    advice: str
    todo: ToDo = _NOTHING
    expires_at: datetime | None = None
    remaining: timedelta | None = None
    session_expires_at: datetime | None = None
    login_ends_at: datetime | None = None

    @classmethod
    def of(
        cls, error: QwenTokenError, *, secret_id: str | None, location: RunLocation, now: datetime
    ) -> Self:
        """Describe ``error``, which a run at ``location`` met."""
        facts = error.facts or RunFacts()
        todo = _commands(error, facts, location, secret_id)
        return cls(
            secret_id=secret_id,
            reason=error.reason,
            message=str(error),
            advice=error.advice,
            todo=todo,
            expires_at=error.expires_at,
            remaining=None if error.expires_at is None else error.expires_at - now,
            session_expires_at=facts.session_expires_at,
            login_ends_at=facts.login_ends_at,
        )

    @classmethod
    def awaiting(cls, *, secret_id: str, location: RunLocation) -> Self:
        """Describe that the secret still waits for its first token."""
        # The secrets are still empty, so the command cannot overwrite anything.
        todo = _put(location, secret_id, location.session_secret_id, holds_more=False)
        return cls(
            secret_id=secret_id,
            reason=TokenMissingError.reason,
            message="the secret has no token yet: nothing can be kept alive",
            advice=TokenMissingError.advice,
            todo=todo,
        )

    @classmethod
    def over(  # noqa: PLR0913 - what it was, and what there is now
        cls,
        reason: str,
        message: str,
        *,
        secret_id: str | None,
        expires_at: datetime | None,
        session_expires_at: datetime | None,
        now: datetime,
    ) -> Self:
        """Describe a failure that is over, and the token's time left now."""
        return cls(
            secret_id=secret_id,
            reason=reason,
            message=message,
            advice="Nothing: it is over.",
            expires_at=expires_at,
            remaining=None if expires_at is None else expires_at - now,
            session_expires_at=session_expires_at,
            login_ends_at=session_expires_at,
        )

    @classmethod
    def ending(  # noqa: PLR0913 - what ends, and what there is now
        cls,
        ends_at: datetime,
        *,
        secret_id: str | None,
        location: RunLocation,
        token_expires_at: datetime | None,
        now: datetime,
        holds_more: bool,
    ) -> Self:
        """Describe that the login ends at ``ends_at``, and that only a person can extend it.

        ``holds_more`` says that the session secret holds more than the login.
        """
        is_over = ends_at <= now
        when = "now" if is_over else f"before {date(ends_at)}"
        todo = _put(location, secret_id, location.session_secret_id, holds_more=holds_more)
        return cls(
            secret_id=secret_id,
            reason=SESSION_ENDING,
            message=f"the login ended on {date(ends_at)}, by what the sign-in host said of it"
            if is_over
            else f"the login ends on {date(ends_at)}: until then, the token is kept alive",
            advice=(
                f"Log in again {when}, in a private window, put the new session in, and close the "
                "window without logging out."
            ),
            todo=todo,
            expires_at=token_expires_at,
            remaining=None if token_expires_at is None else token_expires_at - now,
            session_expires_at=ends_at,
            login_ends_at=ends_at,
        )


@dataclass(frozen=True, slots=True)
class Alert:
    """Everything that one invocation reports, the most severe failure first.

    ``since`` is when the incident began. ``omitted`` is the number of failures that did not fit
    into the message.
    """

    severity: Severity
    request_id: str
    occurred_at: datetime
    failures: tuple[Failure, ...]
    event: Event = Event.REFRESH_FAILED
    since: datetime | None = None
    omitted: int = 0

    def subject(self) -> str:
        """Return the subject line: ASCII, at most 100 characters."""
        first = self.failures[0]
        if (count := len(self.failures) + self.omitted) > 1:
            reasons = Counter(failure.reason for failure in self.failures).items()
            said = (
                f"s: {count} failed ({', '.join(f'{many} {reason}' for reason, many in reasons)})"
            )
        elif self.event is Event.REFRESH_RECOVERED:
            said = f": recovered from {first.reason}"
        elif self.event is Event.SESSION_ENDING and first.login_ends_at is not None:
            is_over = first.login_ends_at <= self.occurred_at
            when = "now" if is_over else f"before {date(first.login_ends_at)}"
            said = f": log in again {when}"
        else:
            left = "" if first.remaining is None else f", {_in_words(first)}"
            said = f": {first.reason}{left}"
        return f"[{self._kind()}] Qwen token{said}"[:_SUBJECT_LIMIT]

    def document(self) -> dict[str, object]:
        """Return the document for programs, in its documented form.

        If some failures did not fit, ``failures_omitted`` is their number.
        """
        document: dict[str, object] = {
            "source": SOURCE,
            "event": self.event.value,
            "severity": self.severity.value,
            "request_id": self.request_id,
            "occurred_at": self.occurred_at.isoformat(),
            "since": (self.since or self.occurred_at).isoformat(),
            "failures": [
                {
                    "secret_id": failure.secret_id,
                    "reason": failure.reason,
                    "message": failure.message,
                    "advice": failure.advice,
                    "expires_at": iso(failure.expires_at),
                    "days_remaining": None
                    if failure.remaining is None
                    else in_days(failure.remaining),
                    "session_expires_at": iso(failure.session_expires_at),
                }
                for failure in self.failures
            ],
        }
        return {**document, "failures_omitted": self.omitted} if self.omitted else document

    def text(self) -> str:
        """Return the text for people."""
        sections = [self._section(failure) for failure in self.failures]
        head = f"{self._kind()}: {self._happened()}."
        if self.omitted:
            sections.append(f"{self.omitted} more did not fit into this message: see the log.")
        tail = f"Run {self.request_id}, {date(self.occurred_at)}."
        return "\n\n".join((head, *sections, tail)) + "\n"

    def _kind(self) -> str:
        # A recovery needs no action, however severe the incident was.
        return "RECOVERED" if self.event is Event.REFRESH_RECOVERED else self.severity.upper()

    def _happened(self) -> str:
        if self.event is Event.REFRESH_RECOVERED:
            return "the Qwen token is kept alive again, and what is below is over"
        if self.event is Event.SESSION_ENDING:
            return "the login that keeps the Qwen token alive ends soon"
        if (count := len(self.failures) + self.omitted) > 1:
            return f"{count} Qwen tokens need a look"
        return self._happened_to_one()

    def _happened_to_one(self) -> str:
        match self.severity, self.failures[0].reason:
            case _, TokenShortLivedError.reason:
                return "the Qwen token was refreshed, but the new one does not live long enough"
            case Severity.WARNING, TokenMissingError.reason:
                return "the keeper waits for its first Qwen token"
            case Severity.NOTICE, _:
                return "the Qwen token was not refreshed yet, which may pass by itself"
        return "the Qwen token was not refreshed"

    def _section(self, failure: Failure) -> str:
        lines = [f"What happened:  {failure.message}", f"Reason:         {failure.reason}"]
        lines.append(f"Since:          {date(self.since or self.occurred_at)}")
        is_over = self.event is Event.REFRESH_RECOVERED
        lines.append(f"Token:          {_time_left(failure, is_over=is_over)}")
        if (ends_at := failure.login_ends_at) is not None and failure.reason not in _LOGIN_IS_DEAD:
            verb = "ended" if ends_at <= self.occurred_at else "ends"
            lines.append(f"Login:          {verb} on {date(ends_at)}")
        if not is_over:
            lines.append(f"What to do:     {failure.advice}")
            with_project, *with_aws = failure.todo.commands
            lines.append(f"Command:        {with_project}")
            lines += [f"  AWS CLI only: {command}" for command in with_aws]
            if with_aws and failure.todo.to_paste:
                lines.append(
                    f"                The command waits: paste {failure.todo.to_paste}, "
                    "and press Enter. Nothing is shown."
                )
            if failure.todo.by_hand:
                lines.append(f"  Or by hand:   {failure.todo.by_hand}")
        lines.append(f"Secret:         {failure.secret_id or 'unknown'}")
        return "\n".join(lines)

    def fitted(self) -> Self:
        """Return the alert with as many failures as fit into one message, and at least one."""
        alert = self
        while (size := len(alert.message())) > _MESSAGE_LIMIT and (have := len(alert.failures)) > 1:
            keep = max(1, min(have - 1, have * _MESSAGE_LIMIT // size))
            alert = replace(
                alert, failures=alert.failures[:keep], omitted=alert.omitted + have - keep
            )
        return alert

    def message(self) -> str:
        """Return the text and the document as one message for SNS, in ASCII."""
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
    """Return the secret's name if ``secret_id`` is an ARN; otherwise return it unchanged."""
    arn = _ARN_OF_A_SECRET.fullmatch(secret_id)
    return arn["name"] if arn else secret_id


def _commands(
    error: QwenTokenError, facts: RunFacts, location: RunLocation, secret_id: str | None
) -> ToDo:
    if isinstance(error, TokenError | SessionError):
        # If the token itself is missing or malformed, the owner stores a token; otherwise a
        # session, if the stack has a session secret.
        is_the_token_itself = isinstance(error, TokenMalformedError | TokenMissingError)
        session_secret_id = "" if is_the_token_itself else location.session_secret_id
        holds_more = facts.session_holds_more if session_secret_id else facts.token_holds_more
        return _put(location, secret_id, session_secret_id, holds_more=holds_more)
    function = f"--function-name {location.function} --region {location.region}"
    of_stack = f"STACK={location.stack} REGION={location.region}"
    if isinstance(error, UpstreamError | StoreError):
        again = "sweep" if location.of_fleet else "refresh"
        return ToDo((f"make {again} {of_stack}", f"aws lambda invoke {function} /dev/stdout"))
    return ToDo(("make deploy", f"aws lambda get-function-configuration {function}"))


def _put(
    location: RunLocation, secret_id: str | None, session_secret_id: str, *, holds_more: bool
) -> ToDo:
    """Return the commands that store a login and start a run with it.

    The first one needs a checkout, and keeps everything else in the secret. The second one needs
    only the AWS CLI, as in CloudShell. It replaces the whole value, so it is only for a secret that
    holds nothing else.
    """
    put = f"make put-token STACK={location.stack} REGION={location.region}"
    if location.of_fleet and secret_id is not None:
        put += f" ARGS='--fleet --name {name_of(secret_id)}'"
    target = session_secret_id or secret_id
    if target is None:
        return ToDo((put,))
    if holds_more:
        changed = (
            "'refresh_token' (or 'email' and 'password')" if session_secret_id else "the token"
        )
        return ToDo(
            (put,),
            by_hand=f"in the AWS console, Secrets Manager, {name_of(target)}, "
            f'"Retrieve secret value", "Edit": change {changed}, and leave the rest as it is.',
        )
    # What is pasted appears neither in the shell's history nor in the list of processes.
    with_aws = (
        f'read -rs LOGIN; printf %s "$LOGIN" | aws secretsmanager put-secret-value --region '
        f"{location.region} --secret-id {target} --secret-string file:///dev/stdin"
    )
    if not location.of_fleet:
        # A dead token that has not expired is not due, so an ordinary run would not read the login.
        with_aws += (
            # Versions 1 and 2 of the AWS CLI both pass an event from a file unchanged.
            f" && printf '{{\"check\":true}}' | aws lambda invoke --region {location.region} "
            f"--function-name {location.function} --payload fileb:///dev/stdin /dev/stdout"
        )
    to_paste = (
        "the value of the cookie 'refresh_token' (or, on one line, an object with the keys 'email' "
        "and 'password')"
        if session_secret_id
        else "the token"
    )
    return ToDo((put, with_aws), to_paste)


def _time_left(failure: Failure, *, is_over: bool) -> str:
    if failure.remaining is None or failure.expires_at is None:
        return "unknown: none could be read"
    if failure.remaining <= timedelta(0):
        return f"expired on {date(failure.expires_at)}: services have no valid token"
    left = _duration(failure.remaining) if is_over else _in_words(failure)
    return f"{left}; it expires on {date(failure.expires_at)}"


def _in_words(failure: Failure) -> str:
    remaining = failure.remaining or timedelta(0)
    if failure.reason == TokenRejectedError.reason:
        # Do not mention the time left: "days left" would sound as if the token still worked.
        return "dead already"
    return "expired" if remaining <= timedelta(0) else _duration(remaining)


def _duration(remaining: timedelta) -> str:
    if remaining < timedelta(hours=2):
        return f"{remaining / timedelta(minutes=1):.0f} minutes left"
    if remaining < timedelta(days=2):
        return f"{remaining / timedelta(hours=1):.1f} hours left"
    return f"{remaining / timedelta(days=1):.1f} days left"
