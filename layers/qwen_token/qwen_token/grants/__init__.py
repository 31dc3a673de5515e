"""The grants: the ways to the next token, one module each.

``policy`` decides which of them are tried, and in what order. Only the modules import requests, so
a run that needs no grant does not pay for that.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from qwen_token.errors import UpstreamUnexpectedError
from qwen_token.session import Session
from qwen_token.tokens import Token


@dataclass(frozen=True, slots=True)
class Login:
    """What a grant may spend: the current token, and the session beside it."""

    token: Token | None
    session: Session


@dataclass(frozen=True, slots=True)
class Granted:
    """What a grant returned: the successor, and the refresh credential if there is one.

    ``refresh_token_expires_at`` is None if unknown. ``fault`` says what is wrong with an answer
    that has a credential but no token. That credential is stored nevertheless, because the one
    before it may be spent.
    """

    token: Token | None
    refresh_token: str | None = field(default=None, repr=False)
    refresh_token_expires_at: datetime | None = None
    fault: UpstreamUnexpectedError | None = None

    def issued(self) -> Token:
        """Return the token.

        Raises:
            UpstreamUnexpectedError: the answer had none.
        """
        if self.token is None:
            raise self.fault or UpstreamUnexpectedError("the answer has no token")
        return self.token


class TokenSource(Protocol):
    """One grant. It spends a login once, and never repeats that by itself."""

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        """Return the next token, which is not verified yet.

        Raises:
        TokenRejectedError, SessionRejectedError, SignInRefusedError: the API says that what was
        spent is dead.
            WrongAccountError: the API answered for a guest.
            UpstreamError: one of its kinds; whether what was spent is alive is unknown.
            ConfigError: the host refuses the request for its headers.
        """
        ...
