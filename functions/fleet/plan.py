"""Pure decisions: what a sweep does about a member."""

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from jobs import LONGEST_DELAY
from qwen_token.policy import BRAKE, TokenState, due_before, is_braked, state_of
from qwen_token.stored_token import StoredToken

# The next sweep may come a little late, and takes some time to reach a member.
_LATE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """A member's job: its delay in seconds, and the job's options."""

    delay: int = 0
    force: bool = False
    check: bool = False


def plan_for(
    held: StoredToken, *, now: datetime, refresh_before: timedelta, interval: timedelta
) -> Plan | None:
    """Return the job that a sweep queues for a token, or None if a later sweep is early enough.

    Sweeps come every ``interval``. A token that falls due before the next sweep is queued with a
    delay until it is due and the keeper's last version is ten minutes old. SQS delays a message by
    at most a quarter of an hour. A token that is due later than that is left to the next sweep if
    it will still have half of its time between due and expiry; otherwise it is replaced early.
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
    # One second more: a worker that comes too early would find nothing to do.
    delay = math.ceil(due_in.total_seconds()) + 1
    if delay <= LONGEST_DELAY:
        return Plan(delay)
    is_early_enough = held.token.remaining(next_sweep) >= due_for / 2
    return None if is_early_enough else Plan(force=True)


def _braked_for(held: StoredToken, due_for: timedelta, *, now: datetime) -> timedelta:
    """Return how long to wait because the version is too young to be replaced.

    It is zero if the token cannot wait: after the wait, it must still have at least half of its
    time between due and expiry (``due_for``).
    """
    if held.written_at is None or not is_braked(held, now=now):
        return timedelta(0)
    # Our clock may be behind the store's.
    wait = min(held.written_at + BRAKE - now, BRAKE)
    return wait if held.token.remaining(now + wait) >= due_for / 2 else timedelta(0)


def is_urgent(held: StoredToken, *, now: datetime, interval: timedelta) -> bool:
    """Return whether a later sweep would be too late if the job fails.

    The next sweep may come before the job itself, so the token is urgent if it expires by the sweep
    after that.
    """
    return held.token.remaining(now) <= 2 * interval + _LATE


def is_checked_now(
    secret_id: str, held: StoredToken, *, now: datetime, interval: timedelta
) -> bool:
    """Return whether now is a secret's time of day for the check of a token with over a day left.

    That time is derived from the secret's ARN, which spreads the checks over the day. The two
    sweeps nearest to it may both check, because a sweep may come late, or not at all.
    """
    if held.token.remaining(now) <= _DAY:
        return False
    digest = hashlib.sha256(secret_id.encode()).digest()
    own = int.from_bytes(digest[:8]) % int(_DAY.total_seconds())
    since = timedelta(seconds=(now.timestamp() + interval.total_seconds() - own) % 86_400)
    return since < 2 * interval
