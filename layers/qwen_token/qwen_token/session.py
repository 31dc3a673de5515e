"""The session: the login with which the keeper gets tokens, and the grants."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from .errors import SessionMalformedError, forgets_locals

# Visible ASCII without quotes, comma and semicolon: nothing else ever reaches a Cookie header.
_CREDENTIAL: Final = re.compile(r"[!#-&(-+\--:<-~]{1,16384}")
_SPACE: Final = re.compile(r"\s")
# Half a surrogate pair, which JSON's escapes can express, and which cannot be encoded.
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class Grant(StrEnum):
    """A way to get the next token (OAuth 2.0's word)."""

    EXCHANGE = "exchange"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - OAuth's name of a grant
    PASSWORD = "password"  # noqa: S105 - the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the keeper gets tokens with: a refresh credential, or e-mail and password, or both.

    ``expires_at`` is the credential's: aware, UTC, or None if unknown. ``account`` is the login's
    account, once that is known.

    Raises:
        SessionMalformedError: a field cannot be sent or stored as it is.
    """

    refresh_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    email: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    account: str | None = None

    def __post_init__(self) -> None:
        if self.refresh_token is not None and not is_credential(self.refresh_token):
            raise SessionMalformedError(
                "'refresh_token' should be one word of visible ASCII characters, without quotes, "
                "commas and semicolons, of at most 16384 characters"
            )
        if self.email is not None and ("@" not in self.email or _SPACE.search(self.email)):
            raise SessionMalformedError("'email' should be an e-mail address")
        if (self.email is None) is not (self.password is None):
            raise SessionMalformedError("'email' and 'password' belong together: one is missing")
        for name in ("email", "password", "account"):
            value = getattr(self, name)
            if value is not None and (not value or _SURROGATE.search(value)):
                raise SessionMalformedError(f"'{name}' is empty, or not valid text")

    def __repr__(self) -> str:
        hidden = ", ".join(
            f"{name}={'None' if getattr(self, name) is None else '[redacted]'}"
            for name in ("refresh_token", "email", "password")
        )
        expires_at = self.expires_at and self.expires_at.isoformat()
        return f"Session({hidden}, expires_at={expires_at}, account={self.account!r})"


# The constructor's arguments are secrets, too.
Session.__init__ = forgets_locals(Session.__init__)  # type: ignore[method-assign]


def is_credential(text: str) -> bool:
    """Return whether a refresh credential can be sent in a Cookie header as it is."""
    return _CREDENTIAL.fullmatch(text) is not None
