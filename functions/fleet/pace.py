"""The pace of the fleet's writes, which keeps all workers together below AWS's limit."""

import math
import random
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

from qwen_token.fleet import WRITES_PER_SECOND

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_WRITES: Final = ("PutSecretValue", "UpdateSecretVersionStage")
# In seconds. Between two batches, a worker has nothing to write for less than this.
_SHORT_PAUSE: Final = 1.0
# In seconds. If five workers, the default, make up for it at once, they write 45 times in a second.
_MADE_UP_FOR: Final = 0.125


def pace_writes(secrets: "SecretsManagerClient", *, workers: int) -> None:
    """Make each write of ``secrets`` wait for its turn; ``workers`` processes share the pace.

    Each attempt waits, including botocore's own retries. Calling this again for the same client
    changes nothing.
    """
    for operation in _WRITES:
        secrets.meta.events.register(
            f"before-send.secrets-manager.{operation}",
            _pace(workers),
            unique_id=f"fleet-pace-{operation}",
        )


class Pace:
    """Lets callers through one by one at a fixed rate, shared by all threads.

    After a pause of up to a second, as between two batches, an eighth of a second of it is made up
    for. After a longer one, the first caller waits as well, for a part of the interval that
    ``phase`` returns (0 to 1): otherwise workers that start together would all write at the same
    moment.
    """

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        phase: Callable[[], float] = random.random,
    ) -> None:
        self._interval = 1 / per_second
        self._clock = clock
        self._sleep = sleep
        self._phase = phase
        self._lock = threading.Lock()
        self._next_turn = -math.inf

    def __call__(self, **_: object) -> None:
        """Wait for this caller's turn. (botocore passes arguments to its hooks; none is needed.)"""
        with self._lock:
            now = self._clock()
            turn = self._next_turn
            if now - turn > _SHORT_PAUSE:
                turn = now + self._interval * self._phase()
            else:
                turn = max(turn, now - _MADE_UP_FOR)
            self._next_turn = turn + self._interval
        self._sleep(max(0.0, turn - now))


@cache
def _pace(workers: int) -> Pace:
    """Return this process's pace: its share of the writes allowed to all workers together."""
    return Pace(WRITES_PER_SECOND / workers)
