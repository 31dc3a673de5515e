"""A file that its owner alone can read, replaced as a whole by writers that take turns."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from qwen_token.errors import FileStoreError, QwenTokenError

# As Secrets Manager's own limit.
_MOST_BYTES: Final = 64 * 1024
# What a new text's file ends with, until it is in its place.
_BESIDE: Final = ".new"


class TextPlace(Protocol):
    """A place for one text. Each call raises StoreError where the place fails."""

    def load(self) -> str | None:
        """Return the text, or None while there is none."""
        ...

    def save(self, text: str, *, over: str | None) -> bool:
        """Put ``text`` in the place of the text ``over`` (None: of none), wholly or not at all.

        Returns False, and changes nothing, where another text is there by now.
        """
        ...


class OwnerFile:
    """A text in a file that its owner alone can read, from the first byte on.

    A new text is written beside the file, brought to the disk and put in its place: whoever reads
    it at any time, and after any crash, finds the old text or the new one, whole. Writers take
    turns (by a lock on the directory, which leaves nothing behind), also those of other processes.
    Every failure is a FileStoreError. For systems with POSIX files and locks.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        too_long: Callable[[str], QwenTokenError] = FileStoreError,
    ) -> None:
        """Take the file's path, ``~`` included, and the error for a text that is too long.

        The file need not be there yet; its directory must.
        """
        # Absolute, so that it stays the same file in whatever directory the process goes on.
        self.path = Path(path).expanduser().absolute()
        self._beside = f".{self.path.name}."
        self._too_long = too_long

    def load(self) -> str | None:
        with self._translated("read"):
            try:
                descriptor = os.open(
                    self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                )
            except FileNotFoundError:
                return None
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FileStoreError(f"{self.path} is no regular file")
                content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise self._too_long(f"{self.path} is longer than {_MOST_BYTES} bytes")
        # What is not UTF-8 is reported where the text is parsed.
        return content.decode(errors="replace")

    def save(self, text: str, *, over: str | None) -> bool:
        with self._translated("written"), self.locked() as directory:
            if self.load() != over:
                return False
            # Whoever holds the lock is alone: what lies here is of a process that died.
            for file in self.path.parent.iterdir():
                if file.name.startswith(self._beside) and file.name.endswith(_BESIDE):
                    file.unlink(missing_ok=True)
            self._replace(text)
            os.fsync(directory)
            return True

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Lock the file's directory, and return its descriptor."""
        import fcntl  # noqa: PLC0415 - not everywhere, where the other stores work

        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            try:
                yield directory
            finally:
                # Not left to the closing: a child that was forked meanwhile has it open as well.
                fcntl.flock(directory, fcntl.LOCK_UN)
        finally:
            os.close(directory)

    def _replace(self, text: str) -> None:
        descriptor, beside = tempfile.mkstemp(_BESIDE, self._beside, self.path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                # It never was more than this; a umask may have made it less.
                os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
                file.write(text.encode())
                file.flush()
                os.fsync(descriptor)
            Path(beside).replace(self.path)
        except BaseException:
            with suppress(OSError):  # the first failure is the one to tell
                Path(beside).unlink()
            raise

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self.path.is_symlink():
                raise FileStoreError(
                    f"{self.path} is a symbolic link, which a new file would replace: "
                    "name the file that it leads to"
                ) from error
            raise FileStoreError(
                f"{self.path} could not be {what}: {error.strerror or type(error).__name__}"
            ) from error

    def __repr__(self) -> str:
        return f"OwnerFile({str(self.path)!r})"
