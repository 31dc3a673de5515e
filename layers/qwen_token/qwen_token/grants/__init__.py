"""The grants: the ways to the next token, one module each.

Which of them is tried, and in what order, is decided in ``policy``. What imports requests is in the
modules: a run that needs none of them does not pay for that.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from qwen_token.errors import UpstreamUnexpectedError
from qwen_token.session import Session
from qwen_token.tokens import Token


@dataclass(frozen=True, slots=True)
class Login:
    """What a grant may spend: the token that is current, and the session beside it."""

    token: Token | None
    session: Session


@dataclass(frozen=True, slots=True)
class Granted:
    """What a grant gave: the successor, and the refresh credential, where one came.

    ``refresh_token_expires_at`` is None where nothing says when that one ends. ``fault`` is what is
    wrong with an answer that has a credential, but no token: that credential is kept all the same,
    because the one before it may be spent.
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
    """One grant. It spends a login once, and never tries it again by itself."""

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        """Return the next token, which is not yet to be trusted.

        Raises:
            TokenRejectedError, SessionRejectedError, SignInRefusedError: the API says that what was
                spent is dead.
            WrongAccountError: the API answered for a guest.
            UpstreamError: one of its kinds; whether what was spent is alive is unknown.
            ConfigError: the host refuses the request for its headers.
        """
        ...
