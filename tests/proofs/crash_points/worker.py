"""Processes that run the real handler, as Lambda's do: warm from one run to the next, and mortal.

They are forked from a server that has imported everything already, so that a new one costs
milliseconds. Each has its own boto3 clients and its own requests.
"""

import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ensure_running
from typing import TYPE_CHECKING, Any, Final

from keeper_runtime.clients import Clients
from qwen_token.errors import QwenTokenError
from qwen_token.secret_store import new_client
from tests.fake_lambda_context import FakeLambdaContext

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

# Starting a process looks after all the others, which is not safe from several threads.
_CARE: Final = threading.Lock()
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.proofs.crash_points.preload"])
# As the template has it.
_TIMEOUT: Final = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended: with a result, with a failure's reason, or with its process's exit code."""

    result: Mapping[str, Any] | None = None
    reason: str | None = None
    exit_code: int | None = None

    @property
    def well(self) -> bool:
        """Say whether the run returned."""
        return self.result is not None

    @property
    def killed(self) -> bool:
        """Say whether the process was killed in the middle of the run."""
        return self.exit_code == -signal.SIGKILL

    @property
    def word(self) -> str:
        """The outcome, the failure's reason, or how the process died."""
        if self.result is not None:
            return str(self.result["outcome"])
        return self.reason or f"exit code {self.exit_code}"


class Worker:
    """One process. It is started when it is first needed, and again when it was killed."""

    def __init__(self) -> None:
        self._process: ForkServerProcess | None = None
        self._line: Connection | None = None

    def run(
        self,
        environ: Mapping[str, str],
        event: Mapping[str, object] | None = None,
        *,
        ahead: timedelta = timedelta(),
    ) -> End:
        """Run the handler in this environment, to its end or to that of the process.

        The handler's clock is ``ahead`` of this machine's.
        """
        if self._process is None or self._line is None:
            self._line, other_end = _FORKS.Pipe()
            self._process = _FORKS.Process(target=_serve, args=(other_end,), daemon=True)
            with _CARE:
                self._process.start()
            other_end.close()
        self._line.send((dict(environ), dict(event or {}), ahead))
        wait([self._line, self._process.sentinel])
        try:
            end: End = self._line.recv()
        except (EOFError, ConnectionResetError):
            end = End(exit_code=self.close())
        return end

    def kill(self) -> None:
        """Kill the process with SIGKILL, whatever it is doing, and wait until it is gone."""
        # Another thread waits for the run that ends here, and forgets the process as it does.
        process = self._process
        assert process is not None
        process.kill()
        wait([process.sentinel])

    def close(self) -> int | None:
        """End the process, if there is one, and return its exit code."""
        if self._process is None or self._line is None:
            return None
        self._line.close()
        wait([self._process.sentinel])
        with _CARE:
            self._process.join()
        exit_code = self._process.exitcode
        self._process = self._line = None
        return exit_code


def start_fork_server(environ: Mapping[str, str]) -> None:
    """Start the server that workers are forked from, if there is none yet, in ``environ``.

    It ends with this process.
    """
    own = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(own)


class _ContextOnTheClock(FakeLambdaContext):
    """Lambda's context, for which time really passes."""

    def __init__(self) -> None:
        super().__init__()
        self._deadline = time.monotonic() + _TIMEOUT.total_seconds()

    def get_remaining_time_in_millis(self) -> int:
        return int((self._deadline - time.monotonic()) * 1000)


class _Clock:
    """The handler's clock, which may be ahead of this machine's."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


_CLOCK: Final = _Clock()


def _serve(line: Connection) -> None:
    """Run whatever comes down the line, until it is closed."""
    # The function's log: not of interest here, and what it may hold has tests of its own.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while True:
        try:
            environ, event, _CLOCK.ahead = line.recv()
        except EOFError:
            return
        line.send(_run(environ, event))


def _run(environ: Mapping[str, str], event: Mapping[str, object]) -> End:
    # Powertools reads the environment when the handler is imported: see preload.
    handler: Any = importlib.import_module("handler")
    if dict(os.environ) != environ:
        os.environ.clear()
        os.environ.update(environ)
        # Another environment names another endpoint: the clients are made anew.
        clients = _new_clients()
        handler._clients = lambda: clients
    try:
        return End(result=handler.handler(event, _ContextOnTheClock()))
    except QwenTokenError as error:
        return End(reason=error.reason)
    except Exception as error:  # noqa: BLE001 - a bug: the test shall see it
        return End(reason=f"a bug: {error!r}")


def _new_clients() -> Clients:
    """Return the real ones for the environment as it is, of the one session."""
    session = importlib.import_module("tests.proofs.crash_points.preload").SESSION
    names = {"secrets": "secretsmanager", "dynamodb": "dynamodb", "sns": "sns", "events": "events"}
    made: dict[str, Any] = {
        part: cache(partial(new_client, name, session=lambda: session))
        for part, name in names.items()
    }
    return replace(Clients.real(), clock=_CLOCK, **made)
