"""A store that loses nothing: what could not be written stays in memory, and is written later."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from qwen_token import keeper
from qwen_token.errors import StoreError
from qwen_token.policy import expires_later
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import Token

# In the place of a version's id: the version was never written.
_UNWRITTEN: Final = ""


class WritableStore(keeper.Store, Protocol):
    """A keeper's store that a token can be put into: a ``SecretStore`` or a ``TokenStore``."""

    def put(self, token: Token) -> StoredToken: ...


class WriteBehind:
    """The keeper's store, over one that is opened when it is first needed.

    A new token that the store does not take is current here all the same, as ``failure`` tells,
    until a later ``read`` can write it.
    """

    def __init__(self, open_store: Callable[[], WritableStore]) -> None:
        self._open = open_store
        self._opened: WritableStore | None = None
        self._unwritten: StoredToken | None = None
        self._failure: StoreError | None = None

    @property
    def failure(self) -> StoreError | None:
        """Why the store does not hold what is current; None where it does."""
        return None if self._unwritten is None else self._failure

    def read(self) -> StoredToken | None:
        """Return what is current; first write what could not be written before."""
        if self._unwritten is None:
            return self._store.read()
        try:
            current = self._store.read()
            if current is None:
                current = self._store.put(self._unwritten.token)
            elif expires_later(self._unwritten.token, than=current.token):
                staged = self._store.stage(self._unwritten.token, over=current)
                current = self._store.promote(staged, over=current)
        except StoreError as error:
            self._failure = error
            return self._unwritten
        self._settle()
        return current

    def put(self, token: Token) -> StoredToken:
        held = self._store.put(token)
        self._settle()
        return held

    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken:
        try:
            return self._store.stage(successor, over=over)
        except StoreError as error:
            self._failure = error
            return StoredToken(successor, _UNWRITTEN, over.text)

    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        return self._store.adopt(candidate, over=over)

    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken:
        if staged.version_id != _UNWRITTEN:
            try:
                current = self._store.promote(staged, over=over)
            except StoreError as error:
                self._failure = error
            else:
                self._settle()
                return current
        self._unwritten = replace(staged, version_id=_UNWRITTEN)
        return staged

    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        return self._store.alternatives(to=to)

    def after_fork(self) -> None:
        """Open the store anew: what it talks over is the parent's."""
        self._opened = None

    @property
    def _store(self) -> WritableStore:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _settle(self) -> None:
        self._unwritten = None
