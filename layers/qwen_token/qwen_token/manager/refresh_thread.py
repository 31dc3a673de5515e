"""A thread that does something again and again, at its times, without drift and without a burst."""

import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

# What a wait is counted by may stand still while the machine sleeps: afterwards, a check that is
# overdue comes so much later at most.
_LONGEST_WAIT: Final = 600.0
# However short a pause is asked for.
_SHORTEST_WAIT: Final = 0.1
# In intervals.
_ROUNDING: Final = 1e-6


def elapsed() -> float:
    """Return seconds on a clock that nobody sets, and that counts the machine's sleep if it can."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def wait(woken: threading.Event, seconds: float) -> None:
    """Wait so long, or until somebody wakes."""
    woken.wait(seconds)


class RefreshThread:
    """Calls ``check`` in a daemon thread: at once, and again after each pause that it returns."""

    def __init__(
        self,
        check: Callable[["RefreshThread"], timedelta],
        *,
        interval: timedelta,
        clock: Callable[[], float] = elapsed,
        wait: Callable[[threading.Event, float], None] = wait,
    ) -> None:
        """Prepare a thread. ``check`` must not raise; time and waiting are given for tests."""
        self.interval = interval
        self._check = check
        self._clock = clock
        self._wait = wait
        self._started_at = clock()
        self._stopping = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qwen-token-refresh", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """End the pause: check now."""
        self._woken.set()

    def stop(self) -> None:
        """Let the check under way come to its end, or the first one, and no other begin."""
        self._stopping = True
        self._woken.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def until_next_turn(self) -> timedelta:
        """Return the time to the next multiple of ``interval`` since the start.

        Those that passed during a long check, or while the machine slept, are not made up for.
        """
        interval = self.interval.total_seconds()
        gone = self._clock() - self._started_at
        # A turn that has come but for a rounding error is not to come once more.
        turns = math.floor(gone / interval + _ROUNDING) + 1
        return timedelta(seconds=turns * interval - gone)

    def _run(self) -> None:
        # The first check comes in any case, even to who stops at once.
        while True:
            # Before it: who wakes from here on is heard after it.
            self._woken.clear()
            pause = self._check(self)
            self._rest(max(pause.total_seconds(), _SHORTEST_WAIT))
            if self._stopping:
                return

    def _rest(self, seconds: float) -> None:
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            if self._stopping or self._woken.is_set():
                return
            self._wait(self._woken, min(left, _LONGEST_WAIT))
