"""A token source for event loops: answers at once if it can, otherwise from one shared thread.

The thread belongs to the source, not to a pool whose threads may all be waiting for it. It makes
one call after the other, and ends when no task waits any more. Tasks of any event loop, under
asyncio or trio, share a call. A cancelled task leaves nothing behind but the thread, until its
call ends.
"""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from .errors import QwenTokenError
from .fork_safety import renew_after_fork
from .shared_token import Source

if TYPE_CHECKING:
    from types import TracebackType


async def current(source: Source) -> str:
    """Return what ``source.current()`` returns, or raise what it raises."""
    at_once = _at_once(source)
    if at_once is None:
        return await _threads.begin(source, rejected=None).result()
    if (raw := at_once()) is not None:
        return raw
    call = _threads.begin(source, rejected=None)
    if (raw := at_once(is_reading=True)) is not None:
        return raw
    return await call.result()


async def renew(source: Source, *, rejected: str) -> str:
    """Return what ``source.renew(rejected=…)`` returns, or raise what it raises."""
    at_once = _at_once(source)
    raw = None if at_once is None else at_once()
    if raw is not None and raw != rejected:
        # Another task has renewed it already.
        return raw
    return await _threads.begin(source, rejected=rejected).result()


def _at_once(source: Source) -> Callable[..., str | None] | None:
    """Return the source's ``current_nowait``, or None if none matches its ``current``."""
    for kind in type(source).__mro__:
        # If a subclass overrides ``current``, the inherited method does not match it.
        if "current_nowait" in vars(kind):
            at_once: Callable[..., str | None] = source.current_nowait  # type: ignore[attr-defined]
            return at_once
        if "current" in vars(kind):
            return None
    return None


class _Call:
    """One call of a source, and the tasks that wait for it."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        # The context of the first task: the source may read context variables, as tracing does.
        self._context = contextvars.copy_context()
        self._changing = threading.Lock()
        self._is_over = False
        self._raw = ""
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        self._wakers: set[Callable[[], object]] = set()

    async def result(self) -> str:
        """Wait for the call, and return its result or raise its exception."""
        over = anyio.Event()
        wake = partial(_caller_from_threads(), over.set)
        with self._changing:
            if self._is_over:
                over.set()
            else:
                self._wakers.add(wake)
        try:
            await over.wait()
        finally:
            with self._changing:
                self._wakers.discard(wake)
        if self._error is None:
            return self._raw
        error = self._error
        if isinstance(error, QwenTokenError):
            # Each waiting task gets its own copy.
            error = error.again()
        # Its traceback starts at the source; otherwise it would grow with each task.
        raise error.with_traceback(self._trace)

    def make(self) -> None:
        """Call the source. Runs in the source's thread."""
        try:
            self._raw = self._context.run(self._ask)
        except BaseException as error:  # noqa: BLE001 - a user's source may raise anything
            self._error, self._trace = error, error.__traceback__

    def end(self) -> None:
        """Wake the waiting tasks. Runs in the source's thread."""
        with self._changing:
            self._is_over = True
            wakers, self._wakers = self._wakers, set()
        for wake in wakers:
            try:
                wake()
            except RuntimeError:
                # The task's event loop was closed meanwhile, so there is no task to wake.
                continue


class _Threads:
    """The running threads of sources, and the calls that they have to make."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        # A forked child has neither these threads nor the tasks that wait for them.
        self._changing = threading.Lock()
        # By the source's id, because a source need not be hashable; its thread keeps it alive.
        self._calls: dict[int, dict[str | None, _Call]] = {}

    def begin(self, source: Source, *, rejected: str | None) -> _Call:
        """Return the running or queued call, or start one."""
        with self._changing:
            calls = self._calls.get(id(source))
            if calls is not None and rejected in calls:
                return calls[rejected]
            ask = source.current if rejected is None else partial(source.renew, rejected=rejected)
            call = _Call(ask)
            if calls is not None:
                calls[rejected] = call
                return call
            self._calls[id(source)] = {rejected: call}
            thread = threading.Thread(
                target=self._make_calls,
                args=(source,),
                name="qwen-token-source",
                # If the interpreter's exit cut off a refresh, a credential could be lost.
                daemon=False,
            )
            try:
                thread.start()
            except BaseException:
                # No thread can be started, or the interpreter is exiting.
                del self._calls[id(source)]
                raise
            return call

    def _make_calls(self, source: Source) -> None:
        """Make the calls of one source until none is left."""
        while (due := self._next(source)) is not None:
            rejected, call = due
            call.make()
            with self._changing:
                del self._calls[id(source)][rejected]
            call.end()

    def _next(self, source: Source) -> tuple[str | None, _Call] | None:
        with self._changing:
            calls = self._calls[id(source)]
            if not calls:
                del self._calls[id(source)]
                return None
            return next(iter(calls.items()))


_threads: Final = _Threads()


def _caller_from_threads() -> Callable[..., Any]:
    """Return the function with which another thread schedules a call in this event loop."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            # Then this is not a trio task.
            pass
        else:
            soon: Callable[..., Any] = trio.lowlevel.current_trio_token().run_sync_soon
            return soon
    return asyncio.get_running_loop().call_soon_threadsafe
