"""Commands that never outlive their starter, and leave neither a child nor a file behind.

Between the starter and its command there is one more process: this file, run as a script. It
holds the reading end of a pipe. When the other end is closed, on purpose or because the starter
died, it kills the command's whole process group and removes its temporary directory.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_PREFIX: Final = "qwen-token-refresh-"
_KILL_TIMEOUT: Final = 10.0
_INTERVAL: Final = 0.02


class Supervisor:
    """A directory, and a command that may be started in it. Both end with the supervisor.

    The directory is the command's TMPDIR, and the command's output goes to a file there.
    """

    def __init__(self, directory: Path) -> None:
        """Use ``directory``, which belongs to this supervisor alone."""
        self.directory = directory
        self.log = directory / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str | Path], *, environ: Mapping[str, str]) -> None:
        """Start ``command`` in the directory; a supervisor has one command."""
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the harness's own commands
                [sys.executable, "-I", __file__, self.directory, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environ, "TMPDIR": str(self.directory)},
                cwd=self.directory,
                # Ctrl-C at the terminal is for the starter, which then calls ``let_go``.
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """Return the command's exit code, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def wait(self) -> int | None:
        """Wait for the command's end, and return its exit code."""
        return None if self._process is None else self._process.wait()

    def output(self) -> str:
        """Return the command's output so far, including standard error."""
        return self.log.read_text(errors="replace")

    def let_go(self) -> None:
        """End the command, if it is still running, and wait for its end."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()


@contextmanager
def supervised() -> Iterator[Supervisor]:
    """Keep a new temporary directory, and the command started in it, during the block."""
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        held = Supervisor(directory)
        try:
            yield held
        finally:
            held.let_go()
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    def unless_gone(_function: Callable[..., Any], _path: str, error: BaseException) -> None:
        # The starter may be removing it at the same time.
        if not isinstance(error, FileNotFoundError):
            raise error

    shutil.rmtree(directory, onexc=unless_gone)


def _main(directory: Path, command: Sequence[str]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - as above
    let_go = threading.Event()

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        let_go.set()
        if process.returncode is None:
            _kill_group(process.pid)

    signal.signal(signal.SIGTERM, lambda *_: _kill_group(process.pid))
    threading.Thread(target=watch, daemon=True).start()
    # Its children are killed before it is reaped: until then, its process id is not reused.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    _kill_group(process.pid)
    code = process.wait()
    _wait_for_group(process.pid)
    if let_go.is_set():
        _remove(directory)
    return code if code >= 0 else 128 - code


def _kill_group(group: int) -> None:
    # SIGKILL, because nothing that these commands hold has to be saved.
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # No process is left; macOS says "not permitted" if there is only a zombie.


def _wait_for_group(group: int) -> None:
    deadline = time.monotonic() + _KILL_TIMEOUT
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(_INTERVAL)


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:]))
