"""The machine that a bench runs on: it says nothing about time while others use it."""

import os
import time
from datetime import timedelta
from typing import Final

# sysexits.h: a temporary failure, try again later.
BUSY: Final = 75

_LOOK_EVERY: Final = 10.0


class MachineBusyError(Exception):
    """Others use the machine so much that nothing could be measured."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the machine is too busy, nothing was measured: {why} ({load()})")


def load() -> str:
    """Say how busy the machine is."""
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def wait_until_idle(*, within: timedelta) -> None:
    """Wait until one core at least has nothing to do.

    Raises:
        MachineBusyError: that was not so in all this time.
    """
    deadline = time.monotonic() + within.total_seconds()
    most = max((os.cpu_count() or 1) - 1, 0.5)
    while os.getloadavg()[0] > most:
        if time.monotonic() > deadline:
            raise MachineBusyError(f"waited for {within} (--busy measures all the same)")
        time.sleep(_LOOK_EVERY)
