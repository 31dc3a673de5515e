"""A store that loses no token: one that cannot be written stays in memory until it can."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from qwen_token.errors import StoreError, TokenMissingError, WrongAccountError
from qwen_token.policy import expires_later, same_account
from qwen_token.ports import Store
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import Token

# The version id of a token that was never written.
_UNWRITTEN: Final = ""


class WritableStore(Store, Protocol):
    """A keeper's store into which a token can be put: a ``SecretStore`` or a ``TokenStore``."""

    def put(self, token: Token) -> StoredToken: ...


class WriteBehind:
    """The keeper's store: it wraps a store that is opened when it is first needed.

    The first ``read`` puts in ``first``, if the store has no token or one that expires sooner.
    A new token that the store does not accept is current here nevertheless, until a later ``read``
    can write it; ``failure`` is the store's error meanwhile.
    """

    def __init__(
        self, open_store: Callable[[], WritableStore], *, first: Token | None = None
    ) -> None:
        self._open = open_store
        self._first = first
        self._opened: WritableStore | None = None
        self._unwritten: StoredToken | None = None
        self._failure: StoreError | None = None

    @property
    def failure(self) -> StoreError | None:
        """The error for which the current token is not in the store, or None if it is there."""
        return None if self._unwritten is None else self._failure

    @property
    def is_settled(self) -> bool:
        """Whether every token was written to the store."""
        return self._first is None and self._unwritten is None

    def read(self) -> StoredToken | None:
        """Return the current token, after writing one that is not written yet.

        Raises:
            WrongAccountError: the store holds another account's token than ``first``.
        """
        if self._first is not None:
            return self._put_first(self._first)
        if self._unwritten is None:
            return self._store.read()
        try:
            current = self._store.read()
            if current is None:
                current = self._store.put(self._unwritten.token)
            elif _takes_over(self._unwritten.token, current.token):
                staged = self._store.stage(self._unwritten.token, over=current)
                current = self._store.promote(staged, over=current)
        except StoreError as error:
            self._failure = error
            return self._unwritten
        self._settle()
        return current

    def put(self, token: Token) -> StoredToken:
        held = self._store.put(token)
        self._first = None
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

    def read_version(self, version_id: str) -> StoredToken | None:
        return self._store.read_version(version_id)

    def put_first(self, token: Token) -> StoredToken:
        try:
            held = self._store.put_first(token)
        except StoreError as error:
            self._failure = error
            self._unwritten = StoredToken(token, _UNWRITTEN, "")
            return self._unwritten
        self._settle()
        return held

    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        return self._store.alternatives(to=to)

    def note_rejected(self, held: StoredToken) -> None:
        if held.version_id != _UNWRITTEN:
            self._store.note_rejected(held)

    def note_accepted(self, held: StoredToken) -> None:
        if held.version_id != _UNWRITTEN:
            self._store.note_accepted(held)

    def after_fork(self) -> None:
        """Open the store again: its connections are the parent process's."""
        self._opened = None

    @property
    def _store(self) -> WritableStore:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _put_first(self, first: Token) -> StoredToken:
        try:
            held = self._store.read()
        except TokenMissingError:
            held = None
        if held is not None and not same_account(held.token, first):
            raise WrongAccountError(
                "the store holds the token of another account than auth_token's: "
                "set_token replaces it"
            )
        if held is None or expires_later(first, than=held.token):
            return self.put(first)
        self._first = None
        return held

    def _settle(self) -> None:
        self._unwritten = None


def _takes_over(token: Token, current: Token) -> bool:
    """Return whether an unwritten token replaces what the store holds."""
    is_newer_word = token.is_access_token and not current.is_access_token
    return expires_later(token, than=current) or (is_newer_word and same_account(token, current))
