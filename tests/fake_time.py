"""Time that passes in a test when it is told to, for a thread that waits."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Final, Self

_SOON: Final = 20.0


class Time:
    """A wall clock, a clock that nobody sets, and a wait; all stand still until ``passes``.

    Inside a ``with`` block; at its end whoever waits does so in real time.
    """

    def __init__(self) -> None:
        self.began = datetime.now(UTC)
        self.waits: list[float] = []
        self._gone = 0.0
        self._until = 0.0
        self._waiting = False
        self._over = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def clock(self) -> datetime:
        return self.began + timedelta(seconds=self._gone)

    def elapsed(self) -> float:
        return 1_000.0 + self._gone

    def sets(self, by: timedelta) -> None:
        """Set the wall clock, and let no time pass."""
        self.began += by

    def takes(self, duration: timedelta) -> None:
        """Let time pass for whoever is at work."""
        self._gone += duration.total_seconds()

    def wait(self, woken: threading.Event, seconds: float) -> None:
        """Stand in for ``Event.wait``."""
        with self._changed:
            target = self._gone + seconds
            while not (self._over or woken.is_set() or self._until >= target):
                self._gone = max(self._gone, self._until)
                self._waiting = True
                self._changed.notify_all()
                self._changed.wait(_SOON)
            self._waiting = False
            if not (self._over or woken.is_set()):
                self._gone = target
                self.waits.append(seconds)
        if self._over:
            woken.wait(_SOON)

    def passes(self, duration: timedelta = timedelta()) -> None:
        """Let so much time pass, until the one thread that waits would wait beyond it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting, _SOON), "nobody waits"
            self._until = max(self._until, self._gone) + duration.total_seconds()
            self._waiting = False
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._waiting, _SOON), "nobody waits any more"
