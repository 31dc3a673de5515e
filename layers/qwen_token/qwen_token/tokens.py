"""Tokens: a JWT's account and lifetime, read without verifying its signature."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Self

import jwt

from .errors import TokenMalformedError, UpstreamUnexpectedError, forgets_locals

# Only these characters ever reach a request header.
_JWT_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_COOKIE: Final = re.compile(r"""(?:^|[;\s])token=["']?([^;\s"']+)""")
# A Cookie or Set-Cookie header, with or without the header's name. Only a date has blanks.
_COOKIES: Final = re.compile(
    r"(?:(?:set-)?cookie[ \t]*:[ \t]*)?[\w.-]+=[^;\s]*"
    r"(?:;[ \t]*(?:expires=[^;\r\n]*|(?!expires=)[\w.-]+(?:=[^;\s]*)?)?)*",
    re.IGNORECASE,
)
# Without anything that separates a key from its value, or two values.
_WORD: Final = re.compile(r"[^\s{}\[\]<>:=,;&#\"'`]*")
_PREFIX: Final = re.compile(
    r"\A(?:(?:authorization\s*:\s*)?bearer\s+|authorization\s*:\s*)", re.IGNORECASE
)
# Characters around a copied value. The last are typographic quotes, a byte order mark and a
# zero-width space.
SURROUNDINGS: Final = " \t\r\n\"'`,;\u201c\u201d\u2018\u2019\ufeff\u200b"

_DAY: Final = timedelta(days=1)
# An expiry outside these years is in the wrong unit (milliseconds) or garbage.
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
_LATEST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Token:
    """A JWT and the claims acted on. Its signature is *not* verified: no key is held here.

    ``account`` is the claim ``id``, or else ``sub``. It is None only for an access token (claim
    ``type``) that names no account. ``expires_at`` and ``issued_at`` (None if the token does not
    say) are aware, UTC, whole seconds.
    """

    raw: str = field(repr=False)
    account: str | None
    expires_at: datetime
    issued_at: datetime | None = None
    is_access_token: bool = False

    def remaining(self, now: datetime) -> timedelta:
        """Return the time left at ``now``: negative once the token has expired."""
        return self.expires_at - now

    def __repr__(self) -> str:
        return (
            f"Token(raw=[redacted], account={self.account!r}, "
            f"expires_at={self.expires_at.isoformat()})"
        )


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """The account and the lifetime in a token's claims.

    ``user_id`` is None for an access token that does not say; ``issued_at`` (None if the token
    does not say) and ``expires_at`` are aware, UTC; ``days_remaining`` is a fraction, and negative
    once the token has expired.
    """

    user_id: str | None
    issued_at: datetime | None
    expires_at: datetime
    days_remaining: float

    @classmethod
    def of(cls, token: Token, *, now: datetime) -> Self:
        """Return the info of ``token`` at ``now``."""
        return cls(
            user_id=token.account,
            issued_at=token.issued_at,
            expires_at=token.expires_at,
            days_remaining=token.remaining(now) / _DAY,
        )


@forgets_locals
def decode_token(text: str) -> Token:
    """Read a token from what a person pasted or a server sent.

    Accepts surrounding white space and quotes, a leading ``Bearer ``, and a ``token=…`` cookie.

    Raises:
        TokenMalformedError: not a JWT, or a JWT without a valid expiry or an account (only an
            access token may lack an account).
    """
    raw = unwrapped(text)
    claims = unverified_claims(raw)
    expires_at = instant(claims.get("exp"))
    if expires_at is None:
        found = "no" if claims.get("exp") is None else "an unusable"
        raise TokenMalformedError(
            f"the token has {found} expiry: the claim 'exp' must be a number of seconds since "
            "1970, in the years 2000 to 9999"
        )
    account = account_of(claims)
    if account is None and not is_access_token(claims):
        raise TokenMalformedError("the token names no account: neither the claim 'id' nor 'sub'")
    return Token(
        raw=raw,
        account=account,
        expires_at=expires_at,
        issued_at=instant(claims.get("iat")),
        is_access_token=is_access_token(claims),
    )


def issued_token(raw: str, *, by: str) -> Token:
    """Return the token in an answer; ``by`` names the host, for the error.

    Raises:
        UpstreamUnexpectedError: it is not a token.
    """
    try:
        return decode_token(raw)
    except TokenMalformedError as error:
        raise UpstreamUnexpectedError(f"the token in {by}'s answer: {error}") from error


def unwrapped(text: str) -> str:
    """Return the value alone, without what people paste around it."""
    value = _PREFIX.sub("", text.strip(SURROUNDINGS))
    if cookie := _COOKIE.search(value):
        value = cookie[1]
    return value.strip(SURROUNDINGS)


def stands_alone(text: str) -> bool:
    """Return whether a text is a pasted token, or at most a single other word.

    Any other text may hold more than a token, which overwriting it would lose.
    """
    value = text.strip(SURROUNDINGS)
    if _WORD.fullmatch(_PREFIX.sub("", value)):
        return True
    return _COOKIES.fullmatch(value) is not None and _COOKIE.search(value) is not None


def unverified_claims(raw: str) -> Mapping[str, object]:
    """Return the claims of a JWT.

    Raises:
        TokenMalformedError: not a JWT.
    """
    problem = None
    if not _JWT_SHAPE.fullmatch(raw):
        parts = raw.count(".") + 1
        problem = f"the value is not a JWT: {len(raw)} characters in {parts} dot-separated part(s)"
    else:
        try:
            claims: Mapping[str, object] = jwt.decode(raw, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            problem = "the value looks like a JWT, but its parts cannot be decoded"
    if problem is not None:
        # Raised outside the except block: a decoder's exception would hold parts of the token.
        raise TokenMalformedError(problem)
    return claims


def is_access_token(claims: Mapping[str, object]) -> bool:
    """Return whether the claims are a session's access token's, which lives for minutes."""
    return claims.get("type") == "access_token"


def account_of(claims: Mapping[str, object]) -> str | None:
    """Return the account that a token's claims name, or None."""
    for claim in ("id", "sub"):
        account = claims.get(claim)
        if isinstance(account, str) and account:
            return account
    return None


def instant(seconds: object) -> datetime | None:
    """Return the time of a value in seconds since 1970, or None if it is not a time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    # The comparison also refuses NaN and the infinities.
    if not _EARLIEST <= seconds <= _LATEST:
        return None
    return datetime.fromtimestamp(math.floor(seconds), UTC)


def in_days(duration: timedelta) -> float:
    """Return a duration in days, rounded to two decimals (a quarter of an hour), for results."""
    return round(duration / _DAY, 2)


def date(instant: datetime) -> str:
    """Return an instant for a message to people, to the minute."""
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def iso(instant: datetime | None) -> str | None:
    """Return an instant for a result (ISO 8601), or None for None."""
    return None if instant is None else instant.isoformat()
