"""The manager's events, and the callbacks that a program subscribes to them."""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from qwen_token.errors import ConfigError, forget_locals

_log = logging.getLogger(__name__)


class Events:
    """Events and their callbacks: ``leave`` queues one under a lock, ``tell`` calls back later."""

    def __init__(self, *events: str) -> None:
        self._callbacks: dict[str, tuple[Callable[[Any], object], ...]] = dict.fromkeys(events, ())
        self._changing = threading.Lock()
        self._untold: deque[tuple[str, object]] = deque()

    def subscribe(self, event: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call ``callback`` at each ``event``, until the returned function is called.

        Raises:
            ConfigError: there is no such event.
        """
        if event not in self._callbacks:
            raise ConfigError(f"the event should be one of: {', '.join(self._callbacks)}")
        # A wrapper for each subscription: the same callback may be subscribed twice.
        entry = partial(callback)

        def end() -> None:
            with self._changing:
                left = [each for each in self._callbacks[event] if each is not entry]
                self._callbacks[event] = tuple(left)

        with self._changing:
            self._callbacks[event] += (entry,)
        return end

    def leave(self, event: str, what: object) -> None:
        """Queue an event for ``tell``."""
        self._untold.append((event, what))

    def tell(self) -> None:
        """Call the callbacks of the queued events; log an exception of theirs without its text."""
        while True:
            try:
                event, what = self._untold.popleft()
            except IndexError:
                return
            if isinstance(what, Exception):
                # A callback may well pass it to an error tracker.
                forget_locals(what)
            for callback in self._callbacks[event]:
                try:
                    callback(what)
                except Exception as error:  # noqa: BLE001 - a program's callback may raise anything
                    _log.error("a callback for %r raised %s", event, place(error))

    def after_fork(self) -> None:
        self._changing = threading.Lock()
        # The parent process's threads call back for these.
        self._untold.clear()


def place(error: Exception) -> str:
    """Return a foreign exception's class and where it was raised, without its text.

    The text may hold a token.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.filename}, line {last.lineno}"
