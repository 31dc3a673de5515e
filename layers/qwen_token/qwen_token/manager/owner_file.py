"""A file that its owner alone can use, replaced as a whole by writers that take turns."""

import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from qwen_token.errors import (
    ConfigError,
    FileStoreError,
    QwenTokenError,
    forgets_locals,
)

# As Secrets Manager's own limit.
_MOST_BYTES: Final = 64 * 1024
# What a new text's file ends with, until it is in its place.
_BESIDE: Final = ".new"
# A save takes milliseconds. Whoever has the lock for longer was stopped, or hangs.
_PATIENCE: Final = timedelta(seconds=10)
# Between two looks whether the lock is free.
_LOOK: Final = timedelta(milliseconds=5)
# A symbolic link is an error, and a named pipe must not make the call wait.
_SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OwnerFile:
    """A text in a file that its owner alone can read, from the first byte on.

    A new text is written beside the file, brought to the disk and put in its place: whoever reads
    it at any time, and after any crash, finds the old text or the new one, whole. Writers take
    turns, also those of other processes, by a lock on a file beside it that nobody else can open;
    it is there while somebody writes, and is not waited for longer than ``patience``.

    The file is trusted only if nobody else can have written it: it belongs to this process's user,
    or to root, and neither others nor their groups may write it, or replace it in its directory.
    What root writes stays the property of the file's owner.

    Every failure is a FileStoreError. For systems with POSIX files and locks.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        beside: Path | None = None,
        unusable: Callable[[str], QwenTokenError] = FileStoreError,
        patience: timedelta = _PATIENCE,
    ) -> None:
        """Take the file's path, ``~`` included. It need not be there yet; its directory must.

        ``beside`` is the file that this one accompanies: it gets the same owner. ``unusable`` is
        the error for a content that is too long, or is no text.

        Raises:
            ConfigError: ``~`` or the working directory leads nowhere.
        """
        # Absolute, so that it stays the same file in whatever directory the process goes on.
        try:
            self.path = Path(path).expanduser().absolute()
        except (RuntimeError, OSError, TypeError) as error:
            # No home directory, or no working directory any more.
            raise ConfigError(
                f"path should be a file's, from a directory that is there: {type(error).__name__}"
            ) from error
        self._accompanied = beside
        name = self.path.name
        self._lock = self.path.with_name(f".{name}.write.lock")
        self._prefix = f".{name}."
        # As tempfile names them; not those of a file whose name goes on after this one's.
        self._left_behind = re.compile(rf"\.{re.escape(name)}\.[a-z0-9_]+{re.escape(_BESIDE)}")
        self._unusable = unusable
        self._patience = patience.total_seconds()

    @forgets_locals
    def load(self) -> str | None:
        with self._translated("read"):
            try:
                _require_private_directory(self.path.parent)
                descriptor = os.open(self.path, os.O_RDONLY | _SAFELY)
            except FileNotFoundError:
                return None
            with os.fdopen(descriptor, "rb") as file:
                _require_trusted(self.path, os.fstat(descriptor))
                content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise self._unusable(f"{self.path} is longer than {_MOST_BYTES} bytes")
        with suppress(UnicodeDecodeError):
            return content.decode()
        # Raised out here: the decoder's exception holds all that was read.
        raise self._unusable(f"{self.path} is not a text in UTF-8, and stays as it is")

    @forgets_locals
    def save(self, text: str, *, over: str | None) -> bool:
        content = text.encode()
        if len(content) > _MOST_BYTES:
            raise self._unusable(
                f"{self.path} would be longer than {_MOST_BYTES} bytes, and stays as it is"
            )
        with self._translated("written"), self.locked():
            if self.load() != over:
                return False
            self._clear()
            self._replace(content)
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who writes."""
        import fcntl  # noqa: PLC0415 - not everywhere, where the other stores work

        _require_private_directory(self.path.parent)
        deadline = time.monotonic() + self._patience
        while (descriptor := self._locked_file()) is None:
            if time.monotonic() >= deadline:
                raise FileStoreError(
                    f"{self.path} could not be written: another process has held its lock, "
                    f"{self._lock}, for {self._patience:g} seconds; it may have been stopped",
                    may_pass=True,
                )
            # A lock says nothing when it becomes free, except to a call without an end.
            time.sleep(_LOOK.total_seconds())
        try:
            yield
        finally:
            # Whoever waits for this very file finds that it is not the one by this name any more.
            self._lock.unlink(missing_ok=True)
            # Not left to the closing: a child that was forked meanwhile has it open as well.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _locked_file(self) -> int | None:
        """Return the locked file's descriptor, or None while somebody else has the lock."""
        import fcntl  # noqa: PLC0415 - as above

        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
        except PermissionError:
            if os.path.lexists(self._lock):
                # Root's, which gives it to the file's owner in a moment.
                return None
            raise
        try:
            status = os.fstat(descriptor)
            _require_trusted(self._lock, status)
            self._give_to_owner(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(status, self._lock.lstat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            # Somebody has it; or had it, and took it away while this one was opened.
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _clear(self) -> None:
        """Remove what a process left behind that died as it wrote: who has the lock is alone."""
        for file in self.path.parent.iterdir():
            if self._left_behind.fullmatch(file.name):
                with suppress(FileNotFoundError):
                    if _is_ours(file.lstat(), self.path.parent):
                        file.unlink()

    def _replace(self, content: bytes) -> None:
        descriptor, beside = tempfile.mkstemp(_BESIDE, self._prefix, self.path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                self._give_to_owner(descriptor)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            Path(beside).replace(self.path)
        except BaseException:
            with suppress(OSError):  # the first failure is the one to tell
                Path(beside).unlink()
            raise
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _give_to_owner(self, descriptor: int) -> None:
        """Make a new file its owner's alone: it never was more, but a umask may have made it less.

        Root's new files belong to whom the file belonged before: a service goes on reading it.
        """
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        if os.geteuid() != 0:
            return
        for path in (self.path, self._accompanied):
            with suppress(FileNotFoundError):
                if path is not None:
                    status = path.lstat()
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                    return

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, ImportError) as error:
            # A path that no file can have, a text that no file can hold, a system without locks.
            raise FileStoreError(
                f"the token file could not be {what}: {type(error).__name__}"
            ) from error
        except OSError as error:
            if self.path.is_symlink():
                raise FileStoreError(
                    f"{self.path} is a symbolic link, which a new file would replace: "
                    "name the file that it leads to"
                ) from error
            raise FileStoreError(
                f"{self.path} could not be {what}: {error.strerror or type(error).__name__}"
                f"{self._whose(error) if what == 'read' else ''}"
            ) from error

    def _whose(self, error: OSError) -> str:
        """Say to whom the file belongs that may not be read."""
        if isinstance(error, PermissionError):
            with suppress(OSError):
                if (owner := self.path.lstat().st_uid) != os.geteuid():
                    return f": it belongs to the user {owner}, and this is the user {os.geteuid()}"
        return ""

    def __repr__(self) -> str:
        return f"OwnerFile({str(self.path)!r})"


def _require_private_directory(directory: Path) -> None:
    """Require that nobody else can replace a file in it.

    In one with the sticky bit, as /tmp is, others may add files, and touch only their own.
    """
    status = directory.stat()
    if os.geteuid() not in {0, status.st_uid} and status.st_uid != 0:
        raise FileStoreError(
            f"{directory} belongs to another user ({status.st_uid}), who could replace the file: "
            "use a directory of your own"
        )
    if not status.st_mode & stat.S_ISVTX and _may_be_written_by_others(status):
        raise FileStoreError(
            f"others may write in {directory}, and could replace the file: use a directory in "
            "which its owner alone may write (chmod go-w)"
        )


def _require_trusted(path: Path, status: os.stat_result) -> None:
    """Require that a file is regular, and that nobody else can have written it."""
    if not stat.S_ISREG(status.st_mode):
        raise FileStoreError(f"{path} is no regular file")
    if not _is_ours(status, path.parent):
        raise FileStoreError(
            f"{path} belongs to another user ({status.st_uid}), and is not trusted: remove it, or "
            "make it your own (chown)"
        )
    if _may_be_written_by_others(status):
        raise FileStoreError(
            f"others may write {path}, so it is not trusted: see that it holds what it should, and "
            "make it its owner's alone (chmod 600)"
        )


def _is_ours(status: os.stat_result, directory: Path) -> bool:
    """Return whether a file belongs to this user, or to root, who may do anything anyway.

    Root itself works on a service's file where the service's directory is, and nowhere else.
    """
    if status.st_uid in {0, os.geteuid()}:
        return True
    return os.geteuid() == 0 and status.st_uid == directory.stat().st_uid


def _may_be_written_by_others(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_owner_alone(status)


def _is_owner_alone(status: os.stat_result) -> bool:
    """Return whether the group of a file is its owner's own, as many systems give each user one."""
    import grp  # noqa: PLC0415 - not everywhere, where the other stores work
    import pwd  # noqa: PLC0415 - the same

    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    is_own = owner.pw_gid == status.st_gid and owner.pw_name == group.gr_name
    return is_own and set(group.gr_mem) <= {owner.pw_name}
