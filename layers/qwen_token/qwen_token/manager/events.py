"""What happened, told to those who want to hear of it."""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from qwen_token.errors import ConfigError

_log = logging.getLogger(__name__)


class Events:
    """Events and their callbacks. What is left under some lock can be told without it."""

    def __init__(self, *events: str) -> None:
        self._callbacks: dict[str, tuple[Callable[[Any], object], ...]] = dict.fromkeys(events, ())
        self._changing = threading.Lock()
        self._untold: deque[tuple[str, object]] = deque()

    def subscribe(self, event: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Have ``callback`` told of each ``event``; calling what is returned ends that.

        Raises:
            ConfigError: there is no such event.
        """
        if event not in self._callbacks:
            raise ConfigError(f"the event should be one of: {', '.join(self._callbacks)}")
        # Of its own, so that each subscription ends by itself.
        entry = partial(callback)

        def end() -> None:
            with self._changing:
                left = [each for each in self._callbacks[event] if each is not entry]
                self._callbacks[event] = tuple(left)

        with self._changing:
            self._callbacks[event] += (entry,)
        return end

    def leave(self, event: str, what: object) -> None:
        """Leave an event to be told."""
        self._untold.append((event, what))

    def tell(self) -> None:
        """Tell what was left; a callback that raises is logged, without what it says."""
        while True:
            try:
                event, what = self._untold.popleft()
            except IndexError:
                return
            for callback in self._callbacks[event]:
                try:
                    callback(what)
                except Exception as error:  # noqa: BLE001 - theirs, of whatever kind
                    _log.error("a callback for %r raised %s", event, place(error))

    def after_fork(self) -> None:
        self._changing = threading.Lock()
        # The parent has the threads that tell these.
        self._untold.clear()


def place(error: Exception) -> str:
    """Name an exception that is not ours, and where it was raised, but not what it says.

    That may hold a token.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.filename}, line {last.lineno}"
