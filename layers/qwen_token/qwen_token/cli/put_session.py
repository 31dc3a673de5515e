"""``put`` of a session: store it, have the function use it, and say what became of that.

Nothing here calls the sign-in host. A credential may be good for a single use, and the function is
the only one that ever spends it.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3

from qwen_token.errors import (
    ConfigError,
    SessionRejectedError,
    SignInRefusedError,
    WrongAccountError,
)
from qwen_token.policy import SHORTEST_LIFE, due_before
from qwen_token.run_memory import Incident, RunMemory
from qwen_token.run_report import Outcome
from qwen_token.session import Grant, Session
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import StoredSession
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import date, in_days

from .deployed import Stack, run_function, secrets_manager, session_for
from .failures import FAILURES, CommandFailure, failure_of
from .given_up import given_up_row, what_is_given_up
from .login_kinds import expiry_text, kind_of
from .outcomes import RETRYING, in_words
from .output import FAILED, OK, complain, print_rows, token_bar
from .readings import read_memory, read_secret

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from rich.console import Console

# The grants that spend what a session secret holds.
_SPENDING: Final = {Grant.REFRESH_TOKEN.value, Grant.PASSWORD.value}

_OTHER_ACCOUNT: Final = (
    "Services go on with the token that is there, until it expires; the session secret now holds a "
    "login of another account, or of a guest. Put a login of the right account in. Is the other "
    "account meant? Services of this secret would then act as somebody else: give it a stack of "
    "its own (STACK=…, with other secret names)."
)

_NOT_SEEN: Final = (
    "Run it again in a minute (make refresh). If that does not help, deploy this release's "
    "function (make deploy)."
)
_TRIED_AGAIN: Final = (
    "Nothing for now: the next run tries again by itself (make status shows how that went)."
)


@dataclass(frozen=True, slots=True)
class _Use:
    """What became of having the function use the login: its result, or what failed, or neither."""

    result: Mapping[str, Any] | None = None
    failure: CommandFailure | None = None

    @property
    def outcome(self) -> str | None:
        """The outcome of the run, if it did not fail."""
        return None if self.result is None else self.result["outcome"]

    @property
    def has_spent(self) -> bool:
        """Whether the login has given a token: it works."""
        return self.result is not None and self.result.get("grant") in _SPENDING


@dataclass(frozen=True, slots=True)
class _Stored:
    """All that is shown of a login that was stored."""

    secret_id: str
    stored: StoredSession
    use: _Use
    # What readers have now, None where that is not known; and the account that the API named.
    held: StoredToken | None
    account: str | None
    refresh_before: timedelta
    # What else was in the secret, and is not any more.
    given_up: str | None = None

    @property
    def session(self) -> Session:
        """The login itself."""
        return self.stored.session

    @property
    def expires_at(self) -> datetime | None:
        """When the refresh credential expires: the function may have learnt that."""
        told = None if self.use.result is None else self.use.result.get("session_expires_at")
        return datetime.fromisoformat(told) if told else self.session.expires_at

    @property
    def due_at(self) -> datetime | None:
        """When the token falls due that readers have now."""
        if self.held is None:
            return None
        token = self.held.token
        return token.expires_at - due_before(
            token, refresh_before=self.refresh_before, written_at=self.held.written_at
        )


def run(session: Session, options: argparse.Namespace, console: "Console | None") -> int:
    """Store ``session`` in the stack's session secret, and return the exit code.

    Raises:
        ConfigError: the stack has no session secret.
        StoreError: it could not be stored.
    """
    aws = session_for(options)
    stack = Stack.find(aws, options.stack)
    secret_id = stack.outputs.get("SessionSecretArn")
    if secret_id is None:
        raise ConfigError(
            f"this is a session, and the stack {stack.name!r} has no session secret to keep it in: "
            "deploy it with the parameter SessionSecretName (qwen/session), or put a token in"
        )
    client = secrets_manager(aws, secret_id)
    stored, given_up = store(session, secret_id, client, replace=options.replace)
    use = _Use() if options.no_check else _used_by_function(aws, stack)
    after = replace(_after(aws, stack, secret_id, stored, use), given_up=given_up)
    if console is None:
        print(json.dumps(_document(after)))
    else:
        _print(console, after)
        if after.use.failure is not None:
            reason, message, advice = after.use.failure
            told = f"the login is stored, but the function could not use it: {message}"
            complain(options, reason, told, advice)
    return OK if after.use.failure is None else FAILED


def store(
    session: Session, secret_id: str, client: "SecretsManagerClient", *, replace: bool
) -> tuple[StoredSession, str | None]:
    """Make ``session`` the login of this session secret; return it, and what else was given up."""
    secret = SessionStore(client, secret_id)
    given_up = what_is_given_up(secret.current_value(), of_token=False) if replace else None
    return secret.put(session, replace=replace), given_up


def _used_by_function(aws: boto3.Session, stack: Stack) -> _Use:
    """Have the deployed function use the login now. The login is stored, whatever comes of it."""
    try:
        return _Use(run_function(aws, stack.outputs["RefreshFunctionName"], {"force": True}))
    except FAILURES as error:
        failure = failure_of(error, {})
        if failure.reason == WrongAccountError.reason:
            failure = failure._replace(advice=_OTHER_ACCOUNT)
        return _Use(failure=failure)


def _after(
    aws: boto3.Session, stack: Stack, secret_id: str, stored: StoredSession, use: _Use
) -> _Stored:
    """Read what readers have now, and what the run remembers. What may not be read is left out."""
    token_secret = stack.outputs["SecretArn"]
    held = read_secret(secrets_manager(aws, token_secret), token_secret).held
    memory = read_memory(aws, stack).memory
    if use.result is not None and not use.has_spent:
        use = replace(use, failure=_trouble(use.result, memory, stored.version_id))
    return _Stored(
        secret_id=secret_id,
        stored=stored,
        use=use,
        held=held,
        account=None if held is None else held.token.account or _account_behind(held, memory),
        refresh_before=timedelta(days=float(stack.parameter("RefreshBeforeDays"))),
    )


def _trouble(
    result: Mapping[str, Any], memory: RunMemory, session_version_id: str
) -> CommandFailure | None:
    """Return what went wrong in a run that did not fail, as far as it was about the login."""
    for grant in (Grant.PASSWORD, Grant.REFRESH_TOKEN):
        refusal = memory.refusals.get(grant)
        if refusal is not None and refusal.version_id == session_version_id:
            # The run had another way to a token: the one that is there renewed itself, say.
            kind = SignInRefusedError if grant is Grant.PASSWORD else SessionRejectedError
            return CommandFailure(refusal.reason, refusal.message, kind.advice)
    if result["outcome"] == RETRYING:
        return _passing_trouble(memory.incident)
    if result["outcome"] == Outcome.AWAITING_TOKEN:
        return CommandFailure("token_missing", "the function did not see the login", _NOT_SEEN)
    return None


def _passing_trouble(incident: Incident | None) -> CommandFailure:
    """Describe why a run ended as ``retrying``: its result does not say it."""
    reason, message = RETRYING, "there is trouble that may pass"
    published = {} if incident is None else incident.published
    if incident is not None and published:
        reason = max(published, key=lambda each: published[each]).split()[1]
        if reason == incident.reason:
            message = incident.message
    return CommandFailure(reason, message, _TRIED_AGAIN)


def _account_behind(held: StoredToken, memory: RunMemory) -> str | None:
    """Return what the API said of a token that does not say itself whose it is."""
    return memory.account if memory.confirmed_version_id == held.version_id else None


def _document(after: _Stored) -> dict[str, object]:
    use, expires_at = after.use, after.expires_at
    token = after.held and after.held.token
    return {
        "kind": kind_of(after.session)[0],
        "secret_id": after.secret_id,
        "version_id": after.stored.version_id,
        "account": after.account,
        "used": use.has_spent,
        "run": use.result,
        "expires_at": token and token.expires_at.isoformat(),
        "days_remaining": token and in_days(token.remaining(datetime.now(UTC))),
        "session_expires_at": expires_at and expires_at.isoformat(),
        "given_up": after.given_up,
        "error": None if use.failure is None else use.failure._asdict(),
    }


def _print(console: "Console", after: _Stored) -> None:
    now, held, failure = datetime.now(UTC), after.held, after.use.failure
    rows: dict[str, object] = {
        "Session secret": after.secret_id,
        "Version": after.stored.version_id,
        "Kind": kind_of(after.session)[1],
        "Before": "whatever login was there is replaced by this one",
        **given_up_row(after.given_up),
    }
    if after.use.has_spent:
        rows["Account"] = after.account or "the token does not say"
    rows["Used"] = _use_text(after, now)
    if held is not None:
        token = held.token
        colour = "green" if token.remaining(now) > timedelta() else "red"
        rows["Token expires"] = date(token.expires_at)
        rows["Time left"] = token_bar(token, now, colour=colour, written_at=held.written_at)
    if after.session.refresh_token is not None or after.expires_at is not None:
        rows["Session expires"] = expiry_text(after.expires_at)
    if failure is None:
        rows["Next"] = _next_text(after)
    print_rows(console, "Login stored", rows)


def _use_text(after: _Stored, now: datetime) -> str:
    use = after.use
    if use.has_spent:
        return "the function has used it: it works, and a new token is in the secret"
    if use.failure is not None:
        return "not yet: the function could not"
    if _is_in_reserve(use):
        return "not yet: the token still renews itself; this login is for when that ends"
    return f"not yet: {_why_not(use)}; the function uses it {_due_text(after, now)}"


def _is_in_reserve(use: _Use) -> bool:
    """Return whether the token still renews itself: a sign-in is tried after that."""
    return use.result is not None and use.result.get("grant") == Grant.EXCHANGE


def _why_not(use: _Use) -> str:
    if use.result is None:
        return "it was only stored (--no-check)"
    return {
        Outcome.CHECKED.value: "the token is younger than ten minutes, so it was only checked",
        Outcome.LEASED.value: "another run was at work",
        Outcome.REFRESHED.value: "a token that an earlier run had got was still waiting",
    }.get(str(use.outcome), in_words(str(use.outcome), force=True))


def _due_text(after: _Stored, now: datetime) -> str:
    due_at = after.due_at
    if after.held is None:
        return "when a token is due"
    if due_at is None or due_at <= now:
        return "by the next run"
    return f"when the next token is due, on {date(due_at)}"


def _next_text(after: _Stored) -> str:
    if not after.use.has_spent and not _is_in_reserve(after.use):
        at = ""
        if after.held is not None and after.held.written_at is not None:
            at = f", from {date(after.held.written_at + SHORTEST_LIFE)} on"
        return f"to have it tried earlier: make refresh ARGS=--force{at}"
    if after.session.email is not None:
        return "nothing, as long as the password stays the same; an alert says when you are needed"
    if after.expires_at is None:
        return "nothing for now: an alert says when you are needed"
    return f"nothing until {date(after.expires_at)}; a reminder comes before"
