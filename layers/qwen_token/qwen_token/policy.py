"""Pure decisions: when a token is due, which of two is better, how bad a failure is."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Final

from .errors import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    SessionError,
    TokenError,
    TokenNotExtendedError,
    TokenShortLivedError,
    WrongAccountError,
)
from .session import Grant, Session
from .stored_token import StoredToken
from .tokens import Token

# A token that lives less than this may expire before its successor is stored. AWS also advises
# that a secret gets a new version at most every ten minutes.
SHORTEST_LIFE: Final = timedelta(minutes=10)
BRAKE: Final = SHORTEST_LIFE

_FIRST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=1)
# The pause after a 429 without one of its own.
_RATE_LIMITED_PAUSE: Final = timedelta(minutes=15)
# Added so that a run that starts a little early does not leave the token to the next run.
_SCHEDULING_MARGIN: Final = timedelta(seconds=30)


class TokenState(Enum):
    """Whether a token is not due, due, or expired."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


class Severity(StrEnum):
    """Who has to act: nobody yet, somebody soon, or a person now."""

    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def grade(self) -> int:
        """The rank: the most severe has the highest."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """When a failure becomes more severe: by the incident's age, and by the login's time left.

    ``refresh_before`` is how long before its end a login's end is announced.
    """

    alert_after: timedelta
    critical_before: timedelta
    refresh_before: timedelta = timedelta()


def assess(
    token: Token,
    *,
    now: datetime,
    refresh_before: timedelta,
    written_at: datetime | None = None,
) -> TokenState:
    """Return the state of ``token``; ``written_at`` is when the keeper stored it.

    With exactly ``due_before`` left it is STALE, at its expiry EXPIRED.
    """
    remaining = token.remaining(now)
    if remaining <= timedelta(0):
        return TokenState.EXPIRED
    due = due_before(token, refresh_before=refresh_before, written_at=written_at)
    return TokenState.STALE if remaining <= due else TokenState.FRESH


def due_before(
    token: Token, *, refresh_before: timedelta, written_at: datetime | None
) -> timedelta:
    """Return how long before its expiry ``token`` is due.

    That is ``refresh_before``. If the token's whole lifetime is known and no longer than that, it
    is a third of the lifetime plus half a minute. The lifetime begins when the token was issued,
    or, if the token does not say, when the keeper stored it (``written_at``).
    """
    begins_at = token.issued_at or written_at
    if begins_at is None:
        return refresh_before
    lifetime = token.expires_at - begins_at
    # A lifetime of zero or less comes from a wrong clock, so the lifetime is unknown.
    if timedelta(0) < lifetime <= refresh_before:
        return lifetime / 3 + _SCHEDULING_MARGIN
    return refresh_before


def state_of(held: StoredToken, *, now: datetime, refresh_before: timedelta) -> TokenState:
    """Return the state of a stored token, as ``assess`` does; a rejected one is due at once."""
    state = assess(held.token, now=now, refresh_before=refresh_before, written_at=held.written_at)
    return TokenState.STALE if held.is_rejected and state is TokenState.FRESH else state


def is_braked(held: StoredToken, *, now: datetime) -> bool:
    """Return whether the keeper wrote this version too recently to write another one.

    If it did, a forced run first checks the token. If the API refuses a staged token this young,
    the run does not stage another one. The version's time comes from the store's clock, which may
    be ahead of ours, but not by hours.
    """
    return held.written_at is not None and abs(now - held.written_at) < BRAKE


def require_better(successor: Token, *, than: Token, is_dead: bool = False) -> Token:
    """Return ``successor`` if it may replace the token ``than``.

    It must expire strictly later, with two exceptions: ``than`` is dead, or ``than`` is a
    long-lived token and ``successor`` an access token from a session that the owner stored later.

    Raises:
        WrongAccountError: the successor belongs to another account.
        TokenNotExtendedError: the successor does not expire strictly later.
    """
    if not same_account(successor, than):
        raise WrongAccountError("the API answered with a token of another account")
    if successor.raw == than.raw:
        raise TokenNotExtendedError("the API echoed the token that it was shown, unchanged")
    is_newer_word = successor.is_access_token and not than.is_access_token
    if successor.expires_at <= than.expires_at and not (is_dead or is_newer_word):
        raise TokenNotExtendedError(
            f"the API's token expires at {successor.expires_at.isoformat()}, no later than "
            f"the old one ({than.expires_at.isoformat()})"
        )
    return successor


def same_account(token: Token, other: Token) -> bool:
    """Return whether both may belong to one account. Some access tokens name no account."""
    return None in {token.account, other.account} or token.account == other.account


def expires_later(token: Token, *, than: Token) -> bool:
    """Return whether ``token`` belongs to the same account and expires strictly later."""
    return same_account(token, than) and token.expires_at > than.expires_at


def require_long_lived(token: Token, *, now: datetime) -> None:
    """Check that a token just stored lives for ten minutes; exactly that is enough.

    Raises:
        TokenShortLivedError: the token lives for less, so its successor may come too late.
    """
    if token.remaining(now) < SHORTEST_LIFE:
        raise TokenShortLivedError(
            f"the new token was stored, but it expires at {token.expires_at.isoformat()} already: "
            f"less than {SHORTEST_LIFE} from now",
            expires_at=token.expires_at,
        )


def grants_for(token: Token | None, session: Session) -> tuple[Grant, ...]:
    """Return the grants of a login, in the order in which they are tried.

    A later one is tried only if the earlier one is missing, dead, or cannot extend the token. An
    access token is never exchanged.
    """
    grants = []
    if session.refresh_token is not None:
        grants.append(Grant.REFRESH_TOKEN)
    if token is not None and not token.is_access_token:
        grants.append(Grant.EXCHANGE)
    if session.email is not None:
        grants.append(Grant.PASSWORD)
    return tuple(grants)


def login_ends_at(token: Token | None, session: Session) -> datetime | None:
    """Return when a person is needed at the latest, or None if no end is known.

    That is when the refresh credential expires, or when the token does if it is its own login.
    """
    if session.email is not None:
        return None
    if session.refresh_token is not None:
        return session.expires_at
    return None if token is None else token.expires_at


def severity(
    error: QwenTokenError, *, now: datetime, since: datetime, policy: AlertPolicy
) -> Severity:
    """Return how bad a failure of an incident that began at ``since`` is.

    CRITICAL if only a person can help, if the token is dead or has expired, or if a token that is
    exchanged has less than ``critical_before`` left. Any other failure may pass: it is a NOTICE
    until the incident is ``alert_after`` old, and a WARNING from then on. That includes waiting for
    a sign-in that is allowed before the token expires. If the time left is unknown, it counts as
    enough. If the clock was set back, an incident in the future counts as beginning now.
    """
    needs_a_person = isinstance(error, TokenError | SessionError | ConfigError)
    if needs_a_person and not _signs_in_in_time(error):
        return Severity.CRITICAL
    if error.facts is not None and error.facts.is_dead:
        return Severity.CRITICAL
    if error.expires_at is not None:
        left = error.expires_at - now
        is_exchanged = error.facts is not None and error.facts.is_exchanged
        if left <= timedelta(0) or (is_exchanged and left < policy.critical_before):
            return Severity.CRITICAL
    age = max(now - since, timedelta(0))
    return Severity.NOTICE if age < policy.alert_after else Severity.WARNING


def _signs_in_in_time(error: QwenTokenError) -> bool:
    at = None if error.facts is None else error.facts.next_sign_in_at
    return at is not None and error.expires_at is not None and at < error.expires_at


def pause_after(error: Exception, *, failures: int, remaining: timedelta) -> timedelta:
    """Return how long to wait after ``failures`` failed tries in a row, the last with ``error``.

    It doubles with each failure, from a minute to an hour, but ends halfway to the token's expiry
    at the latest. It is an hour if only a person can help. After a 429, it is at least the pause
    that the API names.
    """
    # Twelve is far beyond the longest pause, and small enough for a timedelta.
    pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 12), _LONGEST_PAUSE)
    if isinstance(error, RateLimitedError):
        return max(pause, error.retry_after or _RATE_LIMITED_PAUSE)
    if isinstance(error, TokenError | SessionError | ConfigError):
        pause = _LONGEST_PAUSE
    if remaining > timedelta(0):
        pause = min(pause, max(remaining / 2, _FIRST_PAUSE))
    return pause
