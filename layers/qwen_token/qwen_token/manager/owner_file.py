"""A file that its owner alone can use, replaced as a whole by writers that take turns."""

import errno
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
# The ending of a new text's file until it is renamed.
_BESIDE: Final = ".new"
# A save takes milliseconds. A process that keeps the lock for longer was stopped, or hangs.
_PATIENCE: Final = timedelta(seconds=10)
# The pause between two attempts to take the lock.
_LOOK: Final = timedelta(milliseconds=5)
# A symbolic link is an error, and a named pipe must not block the call.
_SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OwnerFile:
    """A text in a file that only its owner can read, from the first byte on.

    A new text is written beside the file, synced to the disk, and renamed into its place: a reader
    finds the whole old text or the whole new one at any time, even after a crash. Writers take
    turns, across processes too, by a lock on a file beside it that nobody else can open. That file
    exists while somebody writes, and a writer waits for it for at most ``patience``.

    The file is trusted only if nobody else can have written it: it belongs to this process's user
    or to root, and neither others nor their groups may write it or replace it in its directory.
    A file that root writes keeps its owner.

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
        """Take the file's path; ``~`` is expanded. The file need not exist, but its directory must.

        ``beside`` is the file that this one accompanies: it gets the same owner. ``unusable`` is
        the error for a content that is too long or not a text.

        Raises:
            ConfigError: ``~`` or the working directory leads nowhere.
        """
        # Absolute, so that it stays the same file if the process changes its directory.
        try:
            self.path = Path(path).expanduser().absolute()
        except (RuntimeError, OSError, TypeError) as error:
            # The home directory or the working directory does not exist.
            raise ConfigError(
                f"path should be a file's, from a directory that is there: {type(error).__name__}"
            ) from error
        self._accompanied = beside
        name = self.path.name
        self._lock = self.path.with_name(f".{name}.write.lock")
        self._prefix = f".{name}."
        # As tempfile names them, but not those of a file with a longer name.
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
        # Raised outside the except block: the decoder's exception holds the content.
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
        """Hold the lock: no other process writes."""
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
            # Polled, because the call that waits for the lock has no timeout.
            time.sleep(_LOOK.total_seconds())
        try:
            yield
        finally:
            # A process that waits for this file finds that it no longer has this name.
            self._lock.unlink(missing_ok=True)
            # Unlocked explicitly: a child that was forked meanwhile has the file open as well.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _locked_file(self) -> int | None:
        """Return the locked file's descriptor, or None if another process has the lock."""
        import fcntl  # noqa: PLC0415 - as above

        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
        except PermissionError:
            if os.path.lexists(self._lock):
                # Root has just created it, and is about to give it to the file's owner.
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
            # Another process has the lock, or had it and removed the file meanwhile.
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _clear(self) -> None:
        """Remove the files of a process that died while writing. The lock must be held."""
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
            with suppress(OSError):  # the first failure is the one to report
                Path(beside).unlink()
            raise
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _give_to_owner(self, descriptor: int) -> None:
        """Set a new file's mode to 0600, which a umask may have narrowed, and its owner.

        A file that root writes keeps the old file's owner, so that a service can still read it.
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
            # An impossible path, a text that cannot be encoded, or a system without locks.
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
        """Return whose file it is, for the error of a file that may not be read."""
        if isinstance(error, PermissionError):
            with suppress(OSError):
                if (owner := self.path.lstat().st_uid) != os.geteuid():
                    return f": it belongs to the user {owner}, and this is the user {os.geteuid()}"
        return ""

    def __repr__(self) -> str:
        return f"OwnerFile({str(self.path)!r})"


def _require_private_directory(directory: Path) -> None:
    """Require that nobody else can replace a file in the directory.

    In a directory with the sticky bit, like /tmp, others may add files, but change only their own.
    """
    status = directory.stat()
    if os.geteuid() not in {0, status.st_uid} and status.st_uid != 0:
        raise FileStoreError(
            f"{directory} belongs to another user ({status.st_uid}), who could replace the file: "
            "use a directory of your own"
        )
    if not status.st_mode & stat.S_ISVTX and _may_be_written_by_others(directory, status):
        raise FileStoreError(
            f"others may write in {directory}, and could replace the file: use a directory in "
            "which its owner alone may write (chmod go-w)"
        )


def _require_trusted(path: Path, status: os.stat_result) -> None:
    """Require a regular file that nobody else can have written."""
    if not stat.S_ISREG(status.st_mode):
        raise FileStoreError(f"{path} is not a regular file")
    if not _is_ours(status, path.parent):
        raise FileStoreError(
            f"{path} belongs to another user ({status.st_uid}), and is not trusted: remove it, or "
            "make it your own (chown)"
        )
    if _may_be_written_by_others(path, status):
        raise FileStoreError(
            f"others may write {path}, so it is not trusted: see that it holds what it should, and "
            "make it its owner's alone (chmod 600)"
        )


def _is_ours(status: os.stat_result, directory: Path) -> bool:
    """Return whether a file belongs to this user, or to root, who may do anything anyway.

    Root itself accepts a service's file only in that service's own directory.
    """
    if status.st_uid in {0, os.geteuid()}:
        return True
    return os.geteuid() == 0 and status.st_uid == directory.stat().st_uid


def _may_be_written_by_others(path: Path, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False
    # Where there is an access control list, the group's bits are the most that it gives to anybody.
    return not _is_owner_alone(status) or _has_access_list(path)


def _has_access_list(path: Path) -> bool:
    """Return whether somebody has rights to a file that its mode does not name, as on Linux."""
    get_attribute = getattr(os, "getxattr", None)
    if get_attribute is None:
        return False
    try:
        return bool(get_attribute(path, "system.posix_acl_access"))
    except OSError as error:
        if error.errno not in {errno.ENODATA, errno.ENOTSUP}:
            raise
        return False


def _is_owner_alone(status: os.stat_result) -> bool:
    """Return whether a file's group is its owner's private group, which many systems create."""
    import grp  # noqa: PLC0415 - not everywhere, where the other stores work
    import pwd  # noqa: PLC0415 - the same

    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    is_own = owner.pw_gid == status.st_gid and owner.pw_name == group.gr_name
    return is_own and set(group.gr_mem) <= {owner.pw_name}
