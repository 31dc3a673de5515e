"""The decisions, pure: where a token is on its timeline, what is better, how bad a failure is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Final

from .errors import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    TokenError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from .tokens import Token

_FIRST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=1)
# After an answer that asks for fewer calls, and does not say from when on.
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

    On the boundaries: with exactly ``refresh_before`` left it is STALE, at its expiry EXPIRED.
    """
    remaining = token.remaining(now)
    if remaining <= timedelta(0):
        return TokenState.EXPIRED
    return TokenState.STALE if remaining <= refresh_before else TokenState.FRESH


def require_better(successor: Token, *, than: Token) -> Token:
    """Return ``successor`` if it may replace the token ``than``.

    Raises:
        WrongAccountError: it is another account's.
        TokenNotExtendedError: it does not expire later.
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
    """Say whether ``token`` is the same account's, and outlives the other: not by nothing."""
    return token.account == than.account and token.expires_at > than.expires_at


@contextmanager
def verifying_a_new_token() -> Iterator[None]:
    """See a refusal of the token that the API has just issued as what it is: no dead token.

    Raises:
        UpstreamUnexpectedError: in place of the TokenRejectedError of the verification inside.
    """
    try:
        yield
    except TokenRejectedError as error:
        raise UpstreamUnexpectedError(
            "the API refused the token that it had just issued"
        ) from error


def require_long_lived(token: Token, *, now: datetime, critical_before: timedelta) -> None:
    """Check that a token just stored lives at least ``critical_before``; exactly that is enough.

    Raises:
        TokenShortLivedError: it lives less, so that the next run may come too late.
    """
    if token.remaining(now) < critical_before:
        error = TokenShortLivedError(
            f"the new token was stored, but it expires at {token.expires_at.isoformat()} already: "
            f"less than {critical_before} from now"
        )
        error.expires_at = token.expires_at
        raise error


def severity(error: QwenTokenError, *, now: datetime, critical_before: timedelta) -> Severity:
    """Say how bad a failure is.

    CRITICAL when only a person can help, or with less than ``critical_before`` left; with exactly
    that left, or where it is unknown how much is left, a WARNING.
    """
    if isinstance(error, TokenError | ConfigError):
        return Severity.CRITICAL
    if error.expires_at is not None and error.expires_at - now < critical_before:
        return Severity.CRITICAL
    return Severity.WARNING


def pause_after(error: Exception, *, failures: int, remaining: timedelta) -> timedelta:
    """Return the pause after so many tries that failed in a row, the last of them with ``error``.

    Twice as long after each, from a minute to an hour, but halfway to the expiry at the latest; an
    hour after what only a person can mend; and where the API wants fewer calls, what it asks for.
    """
    # Twelve is far beyond the longest, and not beyond what can be calculated.
    pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 12), _LONGEST_PAUSE)
    if isinstance(error, RateLimitedError):
        return max(pause, error.retry_after or _RATE_LIMITED_PAUSE)
    if isinstance(error, TokenError | ConfigError):
        pause = _LONGEST_PAUSE
    if remaining > timedelta(0):
        pause = min(pause, max(remaining / 2, _FIRST_PAUSE))
    return pause
