"""The background thread that checks the token: when it runs, and when it checks next."""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from qwen_token.errors import ConfigError, QwenTokenError
from qwen_token.policy import pause_after

from .events import place

# A hundred years, in hours.
_MOST_HOURS: Final = 876_000
# The minimum time between two successful checks, however short a token lives.
_SHORTEST_PAUSE: Final = timedelta(seconds=10)
# The longest wait without a look at the wall clock, by which tokens expire: it may be set during a
# pause, and the clock of a wait may stop while the machine sleeps.
_LONGEST_WAIT: Final = timedelta(minutes=1)
# The minimum pause, so that the thread never takes a whole processor.
_SHORTEST_WAIT: Final = timedelta(seconds=0.1)
# How near to the next turn counts as that turn, as a part of the interval.
_ROUNDING: Final = 1e-6

# Returns how long to wait after a check that ended at a time of the wall clock. It is called again
# during the pause, with that time corrected for changes of the clock.
Pause = Callable[[datetime], timedelta]

_log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Return the time of the wall clock."""
    return datetime.now(UTC)


def elapsed() -> float:
    """Return the seconds of a clock that is never set.

    If the system has such a clock, it runs while the machine sleeps.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def wait(woken: threading.Event, seconds: float) -> None:
    """Wait for ``seconds``, or until ``woken`` is set."""
    woken.wait(seconds)


def interval_from(check_interval_hours: float) -> timedelta:
    """Return the interval that a program asked for.

    Raises:
        ConfigError: ``check_interval_hours`` is not a number of hours greater than 0.
    """
    if (
        isinstance(check_interval_hours, bool)
        or not isinstance(check_interval_hours, int | float)
        or not (math.isfinite(check_interval_hours) and 0 < check_interval_hours <= _MOST_HOURS)
        # Greater than 0, but rounded to 0: a timedelta has whole microseconds.
        or not timedelta(hours=check_interval_hours)
    ):
        raise ConfigError(
            "check_interval_hours should be a number of hours greater than 0, at most "
            f"{_MOST_HOURS}"
        )
    return timedelta(hours=check_interval_hours)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check, and when the current token needs the next one."""

    error: Exception | None
    # None if there is no token.
    expires_at: datetime | None
    # How long before its expiry the token is due.
    window: timedelta

    def remaining(self, now: datetime) -> timedelta:
        """Return the time until the token expires."""
        return timedelta(0) if self.expires_at is None else self.expires_at - now


class AutoRefresh:
    """Runs ``check`` in a background thread, from ``start`` to ``stop``.

    A child process after a fork has no such thread: ``resume`` starts it again.
    """

    def __init__(
        self,
        check: Callable[[], CheckResult],
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        wait: Callable[[threading.Event, float], None],
    ) -> None:
        """Take the check, which must not raise. Clocks and waiting are replaced by tests."""
        self._check = check
        self._now = now
        self._clock = clock
        self._wait = wait
        # Only the holder of the lock starts or stops the thread.
        self._lock = threading.Lock()
        self._thread: RefreshThread | None = None
        # The interval of the parent process's thread, until this process has a thread.
        self._interrupted: timedelta | None = None
        # The failures in a row. Only the thread changes it.
        self._failures = 0

    def start(self, interval: timedelta) -> None:
        """Start the thread, unless it is running."""
        with self._lock:
            self._interrupted = None
            if self._thread is None:
                self._start(interval)

    def stop(self) -> None:
        """Stop the thread, and wait for its current check (or its first) to end."""
        with self._lock:
            running, self._thread = self._thread, None
            self._interrupted = None
        # Without the lock, which a callback of the check may need.
        if running is not None:
            running.stop()

    def resume(self) -> None:
        """Start the thread if it was running when this process was forked."""
        if self._interrupted is None:
            return
        with self._lock:
            interval, self._interrupted = self._interrupted, None
            if interval is not None and self._thread is None:
                self._start(interval)

    def wake(self) -> None:
        """Check now, if the thread is running."""
        if (running := self._thread) is not None:
            running.wake()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._thread is not None:
            self._interrupted = self._thread.interval
            self._thread = None

    def _start(self, interval: timedelta) -> None:
        self._failures = 0
        running = RefreshThread(
            self._check_once,
            interval=interval,
            now=self._now,
            clock=self._clock,
            wait=self._wait,
        )
        running.start()
        self._thread = running

    def _check_once(self, running: "RefreshThread") -> Pause:
        """Check, and return the pause until the next check."""
        result = self._check()
        if (error := result.error) is None:
            self._failures = 0
            next_turn = running.until_next_turn()

            def until_due(ended_at: datetime) -> timedelta:
                due_in = result.remaining(ended_at) - result.window
                return min(next_turn, max(due_in, _SHORTEST_PAUSE))

            return until_due
        self._failures += 1
        failures = self._failures

        def until_next_try(ended_at: datetime) -> timedelta:
            return pause_after(error, failures=failures, remaining=result.remaining(ended_at))

        # The text of a foreign exception may hold a token.
        said = error if isinstance(error, QwenTokenError) else place(error)
        pause = until_next_try(self._now())
        _log.warning("the token was not refreshed (next try in %s): %s", pause, said)
        return until_next_try


class RefreshThread:
    """Calls ``check`` in a daemon thread: at once, and again after each pause.

    The pause is timed by ``clock``, which nobody sets. But tokens expire by the wall clock
    (``now``). So the thread looks at that once a minute; if it was set meanwhile, the pause is
    shortened accordingly. It is never prolonged, because a check that comes too early does no harm.
    """

    def __init__(
        self,
        check: Callable[["RefreshThread"], Pause],
        *,
        interval: timedelta,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = elapsed,
        wait: Callable[[threading.Event, float], None] = wait,
    ) -> None:
        """Take the check, which must not raise. Clocks and waiting are replaced by tests."""
        self.interval = interval
        self._check = check
        self._now = now
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
        """Start no other check, and wait for the current one (or the first) to end."""
        self._stopping = True
        self._woken.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def until_next_turn(self) -> timedelta:
        """Return the time to the next multiple of ``interval`` since the start.

        Turns that passed during a long check, or while the machine slept, are skipped.
        """
        interval = self.interval.total_seconds()
        gone = self._clock() - self._started_at
        # A rounding error must not make the same turn come twice.
        turns = math.floor(gone / interval + _ROUNDING) + 1
        return timedelta(seconds=turns * interval - gone)

    def _run(self) -> None:
        # The first check runs even if the thread is stopped at once.
        while True:
            # Cleared before the check: a wake during the check ends the pause after it.
            self._woken.clear()
            self._rest(self._check(self))
            if self._stopping:
                return

    def _rest(self, pause: Pause) -> None:
        ended = self._clock()
        shortest = pause(self._now())
        while not (self._stopping or self._woken.is_set()):
            gone = timedelta(seconds=self._clock() - ended)
            # When the check ended, by the wall clock as it is set now.
            shortest = min(shortest, pause(self._now() - gone))
            left = max(shortest, _SHORTEST_WAIT) - gone
            if left <= timedelta(0):
                return
            self._wait(self._woken, min(left, _LONGEST_WAIT).total_seconds())
