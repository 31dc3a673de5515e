"""Where a program without AWS keeps its token: its memory, a file, or a place of its own."""

import hashlib
import os
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from qwen_token.errors import FileStoreError, TokenMalformedError, TokenMissingError
from qwen_token.policy import expires_later
from qwen_token.stored_token import StoredToken, parse, rendered
from qwen_token.tokens import Token

# As Secrets Manager's own limit.
_MOST_BYTES: Final = 64 * 1024
# What a new text's file ends with, until it is in its place.
_BESIDE: Final = ".new"


class TokenStore(ABC):
    """A place for one token, of which only ``load`` and ``save`` have to be written.

    What is there is text, as in a secret: the bare token, or a JSON object with it under ``token``,
    whose other keys stay. One manager uses it, and never in two threads at once; any number of
    processes may.
    """

    _staged: StoredToken | None = None

    @abstractmethod
    def load(self) -> str | None:
        """Return the text, or None while there is none.

        Raises:
            StoreError: it cannot be read.
        """

    @abstractmethod
    def save(self, text: str, *, over: str | None) -> bool:
        """Put ``text`` in the place of the text ``over`` (None: of none), wholly or not at all.

        Returns False, and changes nothing, where another text is there by now.

        Raises:
            StoreError: it cannot be written; what was there is there still.
        """

    def read(self) -> StoredToken | None:
        """Return what is current, or None while there is nothing.

        Raises:
            TokenMissingError: the text holds no token.
            TokenMalformedError: what it holds is none.
        """
        text = self.load()
        return None if text is None else _held(text)

    def put(self, token: Token) -> StoredToken:
        """Make ``token`` current, whatever is there now; the shape and the other keys are kept."""
        while True:
            over = self.load()
            held = _held(rendered(token, over=over or ""))
            if self.save(held.text, over=over):
                return held

    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken:
        """Keep ``successor`` at hand, to take the place of ``over``; nobody reads it yet."""
        self._staged = _held(rendered(successor, over=over.text))
        return self._staged

    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        """Stage the token of ``candidate``."""
        return self.stage(candidate.token, over=over)

    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken:
        """Put ``staged`` in the place of ``over``, and return what is current then.

        That is ``staged``, unless another writer put in another account's token meanwhile, or one
        that expires no sooner.
        """
        while not self.save(staged.text, over=over.text):
            current = self.read()
            if current is None:
                raise TokenMissingError("the stored token was taken away during the refresh")
            if not expires_later(staged.token, than=current.token):
                return current
            staged, over = self.stage(staged.token, over=current), current
        self._staged = None
        return staged

    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        """Return the staged token, if there is one of the same account that is not current."""
        staged = self._staged
        if staged is None or staged.token.account != to.token.account:
            return []
        return [] if staged.token.raw == to.token.raw else [staged]


class MemoryStore(TokenStore):
    """Keeps the token in this process: gone with it."""

    def __init__(self, text: str | None = None) -> None:
        self._text = text

    def load(self) -> str | None:
        return self._text

    def save(self, text: str, *, over: str | None) -> bool:
        if self._text != over:
            return False
        self._text = text
        return True

    def __repr__(self) -> str:
        return "MemoryStore([redacted])"


class FileStore(TokenStore):
    """Keeps the token in a file that its owner alone can read, from the first byte on.

    A new text is written beside the file, brought to the disk and put in its place: whoever reads
    it at any time, and after any crash, finds the old text or the new one, whole. Writers take
    turns (by a lock on the directory, which leaves nothing behind), also those of other processes.
    Every failure is a FileStoreError. For systems with POSIX files and locks.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take the file's path, ``~`` included. It need not be there yet; its directory must."""
        # Absolute, so that it stays the same file in whatever directory the process goes on.
        self._path = Path(path).expanduser().absolute()
        self._beside = f".{self._path.name}."

    def load(self) -> str | None:
        with self._translated("read"):
            try:
                descriptor = os.open(
                    self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                )
            except FileNotFoundError:
                return None
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FileStoreError(f"{self._path} is no regular file")
                content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise TokenMalformedError(f"{self._path} is longer than {_MOST_BYTES} bytes")
        # What is no UTF-8 is no token either, and is told so where it is parsed.
        return content.decode(errors="replace")

    def save(self, text: str, *, over: str | None) -> bool:
        with self._translated("written"), self._locked() as directory:
            if self.load() != over:
                return False
            # Whoever holds the lock is alone: what lies here is of a process that died.
            for file in self._path.parent.iterdir():
                if file.name.startswith(self._beside) and file.name.endswith(_BESIDE):
                    file.unlink(missing_ok=True)
            self._replace(text)
            os.fsync(directory)
            return True

    def _replace(self, text: str) -> None:
        descriptor, beside = tempfile.mkstemp(_BESIDE, self._beside, self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                # It never was more than this; a umask may have made it less.
                os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
                file.write(text.encode())
                file.flush()
                os.fsync(descriptor)
            Path(beside).replace(self._path)
        except BaseException:
            with suppress(OSError):  # the first failure is the one to tell
                Path(beside).unlink()
            raise

    @contextmanager
    def _locked(self) -> Iterator[int]:
        import fcntl  # noqa: PLC0415 - not everywhere, where the other stores work

        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            try:
                yield directory
            finally:
                # Not left to the closing: a child that was forked meanwhile has it open as well.
                fcntl.flock(directory, fcntl.LOCK_UN)
        finally:
            os.close(directory)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._path.is_symlink():
                raise FileStoreError(
                    f"{self._path} is a symbolic link, which a new file would replace: "
                    "name the file that it leads to"
                ) from error
            raise FileStoreError(
                f"{self._path} could not be {what}: {error.strerror or type(error).__name__}"
            ) from error

    def __repr__(self) -> str:
        return f"FileStore({str(self._path)!r})"


def _held(text: str) -> StoredToken:
    # Half a surrogate pair, which only JSON's escapes can bring, becomes that escape again.
    encoded = text.encode(errors="backslashreplace")
    return parse(encoded.decode(), hashlib.sha256(encoded).hexdigest())
