"""Where a program without AWS stores its token: in memory, in a file, or elsewhere."""

import hmac
import os
import re
import secrets
import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Final, Self

from qwen_token.errors import (
    ConfigError,
    FileStoreError,
    SessionMalformedError,
    TokenMalformedError,
    TokenMissingError,
    forgets_locals,
)
from qwen_token.policy import expires_later, same_account
from qwen_token.stored_token import StoredToken, parse, rendered
from qwen_token.tokens import Token

from .owner_file import OwnerFile
from .text_place import TextPlace, require_text, translated_store

# The key for names of versions that no other process has to know.
_PROCESS_KEY: Final = secrets.token_bytes(32)
# The texts beside the token: the login, and the state that its processes share.
SESSION: Final = "session"
STATE: Final = "state"


_JWT: Final = re.compile(r"eyJ[\w-]*\.")


class TokenStore(ABC):
    """A place for one token. Subclasses implement ``load`` and ``save``.

    It holds a text, as a secret does: the bare token, or a JSON object with it under ``token``,
    whose other keys are kept. One manager uses it, and never in two threads at once; any number of
    processes may. A manager with a ``session`` needs ``beside`` as well.
    """

    _staged: StoredToken | None = None
    _rejected: str | None = None
    _key: bytes = _PROCESS_KEY

    @abstractmethod
    def load(self) -> str | None:
        """Return the text, or None if there is none.

        Raises:
            StoreError: it cannot be read.
        """

    @abstractmethod
    def save(self, text: str, *, over: str | None) -> bool:
        """Replace the text ``over`` (None: there was none) by ``text``, atomically.

        Returns False, and changes nothing, if another text is there by now.

        Raises:
        StoreError: it cannot be written; the old text is still there.
        """

    def beside(self, name: str) -> TextPlace | None:  # noqa: ARG002 - for a store that has such
        """Return a place for another text beside the token, or None if there is none.

        ``name`` is ``session`` (the login, which is as secret as the token) or ``state`` (which
        holds no secret). Processes that share the token share these, too.
        """
        return None

    def name_by(self, key: bytes) -> None:
        """Name the token's versions by this key: processes with the same key agree on the names."""
        self._key = key

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy in another process, without the staged token and the key."""
        return {
            name: value for name, value in vars(self).items() if name not in {"_staged", "_key"}
        }

    @forgets_locals
    def read(self) -> StoredToken | None:
        """Return the current token, or None if there is no text.

        Raises:
        TokenMissingError: the text holds no token.
        TokenMalformedError: what it holds is not a token.
        """
        text = self._loaded()
        return None if text is None else self._held(text)

    @forgets_locals
    def put(self, token: Token) -> StoredToken:
        """Make ``token`` current, whatever is there now. The shape and the other keys are kept."""
        while True:
            over = self._loaded()
            held = self._held(rendered(token, over=over or ""))
            if self._saved(held.text, over=over):
                return held

    @forgets_locals
    def put_first(self, token: Token) -> StoredToken:
        """Store the first token, unless there is one by now; return the current one."""
        held = self._held(token.raw)
        while not self._saved(held.text, over=None):
            if (current := self.read()) is not None:
                return current
        return held

    @forgets_locals
    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken:
        """Hold ``successor``, which is to replace ``over``; nobody reads it yet."""
        self._staged = self._held(rendered(successor, over=over.text))
        return self._staged

    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        """Stage the token of ``candidate``."""
        return self.stage(candidate.token, over=over)

    @forgets_locals
    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken:
        """Replace ``over`` by ``staged``, and return what is then current.

        That is ``staged``, unless another writer has put in another account's token, or one that
        expires no sooner.
        """
        while not self._replaced(over, staged.text):
            current = self.read()
            if current is None:
                raise TokenMissingError("the stored token was taken away during the refresh")
            if not expires_later(staged.token, than=current.token):
                return current
            staged, over = self.stage(staged.token, over=current), current
        self._staged = None
        return staged

    def read_version(self, version_id: str) -> StoredToken | None:
        """Return the staged token, if it has this version."""
        staged = self._staged
        return staged if staged is not None and staged.version_id == version_id else None

    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        """Return the staged token, if it is of the same account and not current."""
        staged = self._staged
        if staged is None or not same_account(staged.token, to.token):
            return []
        return [] if staged.token.raw == to.token.raw else [staged]

    def note_rejected(self, held: StoredToken) -> None:
        """Mark this version, in this process: the API called its token dead."""
        self._rejected = held.version_id

    def note_accepted(self, held: StoredToken) -> None:
        """Remove the mark of ``note_rejected``."""
        if self._rejected == held.version_id:
            self._rejected = None

    def _loaded(self) -> str | None:
        with translated_store("read"):
            return require_text(self.load())

    def _saved(self, text: str, *, over: str | None) -> bool:
        with translated_store("written"):
            return self.save(text, over=over)

    def _replaced(self, over: StoredToken, text: str) -> bool:
        # The store compares with its own text, which ``over`` may hold with escapes.
        found = self._loaded()
        if found is None or _encoded(found).decode() != over.text:
            return False
        return self._saved(text, over=found)

    def _held(self, text: str) -> StoredToken:
        encoded = _encoded(text)
        held = parse(encoded.decode(), hmac.digest(self._key, encoded, "sha256").hex())
        return replace(held, is_rejected=held.version_id == self._rejected)


class MemoryStore(TokenStore):
    """Keeps the token in this process's memory."""

    def __init__(self, text: str | None = None) -> None:
        self._text = text
        self._saving = threading.Lock()
        self._beside: dict[str, TextPlace] = {}

    def load(self) -> str | None:
        return self._text

    def save(self, text: str, *, over: str | None) -> bool:
        with self._saving:
            if self._text != over:
                return False
            self._text = text
            return True

    def beside(self, name: str) -> TextPlace:
        with self._saving:
            return self._beside.setdefault(name, _OfOneProcess())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _known: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise memory_is_of_one_process()

    def __repr__(self) -> str:
        return "MemoryStore([redacted])"


def memory_is_of_one_process() -> ConfigError:
    """Return the error for passing a token in memory to another process."""
    return ConfigError(
        "a MemoryStore cannot be passed to another process, as it keeps its token in the memory "
        "of this one: use a FileStore, which processes share"
    )


class _OfOneProcess(MemoryStore):
    """A text that a forked child must not use, because the parent would not see its changes."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def load(self) -> str | None:
        self._require_process()
        return super().load()

    def save(self, text: str, *, over: str | None) -> bool:
        self._require_process()
        return super().save(text, over=over)

    def _require_process(self) -> None:
        if os.getpid() != self._process:
            raise ConfigError(
                "the session is in the memory of the process that this one was forked from, and "
                "two processes must not spend one: share a FileStore between them, or make the "
                "manager after the fork"
            )


class FileStore(TokenStore):
    """Keeps the token in a file that only its owner can read, from the first byte on.

    A new text is written beside the file, synced to the disk, and renamed into its place: a reader
    finds the whole old text or the whole new one at any time, even after a crash. Writers take
    turns, across processes too; a writer that keeps the lock for ten seconds is given up on.
    A file that others may write, or may replace in its directory, is not trusted. A file that root
    writes keeps its owner. Every failure is a FileStoreError. For systems with POSIX files and
    locks.

    With a ``session``, there are two more files beside it, treated with the same care:
    ``<name>.session`` holds the login. ``<name>.state`` holds no secret: it says which process is
    spending the login, and what the API has refused.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take the file's path; ``~`` is expanded. The file need not exist, but its directory must.

        Raises:
        ConfigError: the path is a token, or leads nowhere.
        """
        if isinstance(path, str | os.PathLike) and _JWT.search(os.fspath(path)):
            raise ConfigError("path should be a file's, but looks like a token: it was not used")
        self._file = OwnerFile(path, unusable=TokenMalformedError)

    @forgets_locals
    def load(self) -> str | None:
        return self._file.load()

    @forgets_locals
    def save(self, text: str, *, over: str | None) -> bool:
        return self._file.save(text, over=over)

    def beside(self, name: str) -> TextPlace:
        path = self._file.path
        return OwnerFile(
            path.with_name(f"{path.name}.{name}"),
            beside=path,
            unusable=SessionMalformedError if name == SESSION else FileStoreError,
        )

    def __repr__(self) -> str:
        return f"FileStore({str(self._file.path)!r})"


def _encoded(text: str) -> bytes:
    # Half a surrogate pair, which only JSON's escapes can express, is written as that escape again.
    return text.encode(errors="backslashreplace")
