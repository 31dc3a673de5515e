"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, TypeVar

_INTERVAL: Final = 0.1

_Seen = TypeVar("_Seen")


def wait_until(
    probe: Callable[[], _Seen | None], *, within: timedelta, expected: str, seen: Callable[[], str]
) -> _Seen:
    """Call ``probe`` until its result is true, and return that.

    ``expected`` names the condition; ``seen`` describes what was there instead.

    Raises:
        TimeoutError: the deadline passed.
    """
    deadline = time.monotonic() + within.total_seconds()
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"expected {expected} within {within.total_seconds():.0f} s; seen: {seen()}"
            )
        time.sleep(_INTERVAL)
    return result
