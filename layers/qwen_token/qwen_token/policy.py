"""The pure decisions: where a token is on its timeline, which is better, how bad a failure is."""

from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Final

from .errors import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    TokenError,
    TokenNotExtendedError,
    TokenShortLivedError,
    WrongAccountError,
)
from .tokens import Token

_FIRST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=1)
# After an answer that asks for fewer calls, and does not say for how long.
_RATE_LIMITED_PAUSE: Final = timedelta(minutes=15)


class TokenState(Enum):
    """A token's place on its timeline."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


class Severity(StrEnum):
    """Who has to act: nobody yet, or a person now."""

    WARNING = "warning"
    CRITICAL = "critical"


def assess(token: Token, *, now: datetime, refresh_before: timedelta) -> TokenState:
    """Place ``token`` on its timeline.

    With exactly ``refresh_before`` left it is STALE, at its expiry EXPIRED.
    """
    remaining = token.remaining(now)
    if remaining <= timedelta(0):
        return TokenState.EXPIRED
    return TokenState.STALE if remaining <= refresh_before else TokenState.FRESH


def require_better(successor: Token, *, than: Token) -> Token:
    """Return ``successor`` if it may replace the token ``than``.

    Raises:
        WrongAccountError: it belongs to another account.
        TokenNotExtendedError: it does not expire strictly later.
    """
    if successor.account != than.account:
        raise WrongAccountError("the API answered with a token of another account")
    if successor.raw == than.raw:
        raise TokenNotExtendedError("the API echoed the token that it was shown, unchanged")
    if successor.expires_at <= than.expires_at:
        raise TokenNotExtendedError(
            f"the API's token expires at {successor.expires_at.isoformat()}, no later than "
            f"the old one ({than.expires_at.isoformat()})"
        )
    return successor


def expires_later(token: Token, *, than: Token) -> bool:
    """Return whether ``token`` belongs to the same account and expires strictly later."""
    return token.account == than.account and token.expires_at > than.expires_at


def require_long_lived(token: Token, *, now: datetime, critical_before: timedelta) -> None:
    """Check that a token just stored has ``critical_before`` left; exactly that is enough.

    Raises:
        TokenShortLivedError: it has less left, so the next run may come too late.
    """
    if token.remaining(now) < critical_before:
        raise TokenShortLivedError(
            f"the new token was stored, but it expires at {token.expires_at.isoformat()} already: "
            f"less than {critical_before} from now",
            expires_at=token.expires_at,
        )


def severity(error: QwenTokenError, *, now: datetime, critical_before: timedelta) -> Severity:
    """Return how bad a failure is.

    CRITICAL when only a person can help, or when the token has less than ``critical_before`` left;
    a WARNING when it has exactly that left, or an unknown time.
    """
    if isinstance(error, TokenError | ConfigError):
        return Severity.CRITICAL
    if error.expires_at is not None and error.expires_at - now < critical_before:
        return Severity.CRITICAL
    return Severity.WARNING


def pause_after(error: Exception, *, failures: int, remaining: timedelta) -> timedelta:
    """Return how long to wait after ``failures`` failed tries in a row, the last with ``error``.

    The wait doubles with each, from a minute to an hour, but ends halfway to the token's expiry at
    the latest. It is an hour where only a person can help. Where the API asks for fewer calls, it
    is at least what the API asks for.
    """
    # Twelve is far beyond the longest pause, and small enough for a timedelta.
    pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 12), _LONGEST_PAUSE)
    if isinstance(error, RateLimitedError):
        return max(pause, error.retry_after or _RATE_LIMITED_PAUSE)
    if isinstance(error, TokenError | ConfigError):
        pause = _LONGEST_PAUSE
    if remaining > timedelta(0):
        pause = min(pause, max(remaining / 2, _FIRST_PAUSE))
    return pause
