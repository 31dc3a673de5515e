"""The keeper's ports: what it needs of the two secrets and of the API, whoever provides it."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from .stored_token import StoredToken
from .tokens import Token

if TYPE_CHECKING:
    from .session import Session
    from .stored_session import StoredSession

# What one call to the store takes at most.
STORE_CALL_LIMIT: Final = timedelta(seconds=15)


def at_once() -> datetime | None:
    """Return that a sign-in need not wait for any other."""
    return None


class Store(Protocol):
    """The token secret; ``SecretStore`` says what each step promises."""

    def read(self) -> StoredToken | None: ...
    def read_version(self, version_id: str) -> StoredToken | None: ...
    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken: ...
    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken: ...
    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken: ...
    def put_first(self, token: Token) -> StoredToken: ...
    def alternatives(self, *, to: StoredToken) -> list[StoredToken]: ...
    def note_rejected(self, held: StoredToken) -> None: ...
    def note_accepted(self, held: StoredToken) -> None: ...


class Client(Protocol):
    """The API; ``QwenApi`` says what the call promises."""

    def verify(self, token: Token, *, within: timedelta) -> str: ...


class Sessions(Protocol):
    """The session secret; ``SessionStore`` says what each step promises."""

    def read(self) -> "StoredSession | None": ...
    def keep(self, session: "Session", *, over: "StoredSession") -> "StoredSession | None": ...
    def left_behind(self, *, over: "StoredSession") -> "StoredSession | None": ...
