"""The session: the login that the keeper gets tokens with, and the grants that it is good for."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from .errors import SessionMalformedError, forgets_locals

# Visible ASCII without quotes, comma and semicolon: only these ever reach a Cookie header.
_CREDENTIAL: Final = re.compile(r"[!#-&(-+\--:<-~]{1,16384}")
_SPACE: Final = re.compile(r"\s")
# Half a character, as JSON's escapes can spell it: nothing can encode it.
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class Grant(StrEnum):
    """A way to the next token, by OAuth 2.0's word."""

    EXCHANGE = "exchange"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - OAuth's name of a grant
    PASSWORD = "password"  # noqa: S105 - the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the keeper may get tokens with: a refresh credential, or an e-mail and its password.

    ``expires_at`` is the credential's: aware, UTC, or None where it is not known. ``account`` is
    the account that the login belongs to, once that is known.

    Raises:
        SessionMalformedError: a field could not be sent or stored as it is.
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


# The constructor's arguments are secrets as well.
Session.__init__ = forgets_locals(Session.__init__)  # type: ignore[method-assign]


def is_credential(text: str) -> bool:
    """Return whether a refresh credential can travel in a Cookie header as it is."""
    return _CREDENTIAL.fullmatch(text) is not None
