"""The keeper's ports: the interfaces of the two secrets and of the API."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from .stored_token import StoredToken
from .tokens import Token

if TYPE_CHECKING:
    from .session import Session
    from .stored_session import StoredSession

# The most that one call to the store takes.
STORE_CALL_LIMIT: Final = timedelta(seconds=15)


def at_once() -> datetime | None:
    """Return that a sign-in need not wait for any other."""
    return None


class Store(Protocol):
    """The token secret; ``SecretStore`` documents each step."""

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
    """The API; ``QwenApi`` documents the call."""

    def verify(self, token: Token, *, within: timedelta) -> str: ...


class Sessions(Protocol):
    """The session secret; ``SessionStore`` documents each step."""

    def read(self) -> "StoredSession | None": ...
    def keep(self, session: "Session", *, over: "StoredSession") -> "StoredSession | None": ...
    def left_behind(self, *, over: "StoredSession") -> "StoredSession | None": ...
