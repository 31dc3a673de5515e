"""What a sweep does about a member: pure decisions."""

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from jobs import LONGEST_DELAY
from qwen_token.policy import BRAKE, TokenState, due_before, is_braked, state_of
from qwen_token.stored_token import StoredToken

# The next sweep may come a little late, and it, too, takes its time.
_LATE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """When a member's job is to be done, in seconds from now, and what is special about it."""

    delay: int = 0
    force: bool = False
    check: bool = False


def plan_for(
    held: StoredToken, *, now: datetime, refresh_before: timedelta, interval: timedelta
) -> Plan | None:
    """Return the job that a sweep queues for a token; None where a later sweep is early enough.

    Sweeps come every ``interval``. What falls due before the next one is queued, to be done when it
    is due, and not before the keeper's last version is ten minutes old. SQS delays for a quarter of
    an hour at most: what is due later than that is left to the next sweep where half of the time
    that it is due for is left then, and is replaced early else.
    """
    state = state_of(held, now=now, refresh_before=refresh_before)
    if state is TokenState.EXPIRED or held.is_rejected:
        return Plan()
    due_for = due_before(held.token, refresh_before=refresh_before, written_at=held.written_at)
    next_sweep = now + interval + _LATE
    due_in = max(held.token.expires_at - due_for - now, _braked_for(held, due_for, now=now))
    if due_in <= timedelta(0):
        return Plan()
    if now + due_in > next_sweep:
        return None
    # A second more: a worker that comes early would find nothing to do.
    delay = math.ceil(due_in.total_seconds()) + 1
    if delay <= LONGEST_DELAY:
        return Plan(delay)
    is_early_enough = held.token.remaining(next_sweep) >= due_for / 2
    return None if is_early_enough else Plan(force=True)


def _braked_for(held: StoredToken, due_for: timedelta, *, now: datetime) -> timedelta:
    """Return how long the version is still too young to be replaced: zero if it can bear no wait.

    It can if half of the time that it is due for is left afterwards.
    """
    if held.written_at is None or not is_braked(held, now=now):
        return timedelta(0)
    # Our clock may be behind the store's.
    wait = min(held.written_at + BRAKE - now, BRAKE)
    return wait if held.token.remaining(now + wait) >= due_for / 2 else timedelta(0)


def is_urgent(held: StoredToken, *, now: datetime, interval: timedelta) -> bool:
    """Return whether a job that fails cannot be left to a later sweep.

    The next sweep may come before the job itself, so this asks if the token expires by the one
    after it.
    """
    return held.token.remaining(now) <= 2 * interval + _LATE


def is_checked_now(
    secret_id: str, held: StoredToken, *, now: datetime, interval: timedelta
) -> bool:
    """Return whether a sweep may check a token that is fresh for a day: at its own time of day.

    Each secret has one, by its ARN, so that the checks of many are spread over the day. The sweeps
    beside that time count, too, as one may come late, or not at all.
    """
    if held.token.remaining(now) <= _DAY:
        return False
    digest = hashlib.sha256(secret_id.encode()).digest()
    own = int.from_bytes(digest[:8]) % int(_DAY.total_seconds())
    since = timedelta(seconds=(now.timestamp() + interval.total_seconds() - own) % 86_400)
    return since < 2 * interval
