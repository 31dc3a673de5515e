"""What a sweep plans for a member: at once, later, early, or not yet; and when it is checked."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from plan import Plan, is_checked_now, is_urgent, plan_for
from qwen_token.policy import BRAKE, TokenState, due_before, state_of
from qwen_token.stored_token import StoredToken
from tests.minting import NOW, token

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
REFRESH_BEFORE = 3 * DAY


def held(left: timedelta, *, lifetime: timedelta | None = None) -> StoredToken:
    """Return a token with so much time left, of a lifetime that is known where it is given."""
    found = token(left=left)
    written_at = None if lifetime is None else NOW + left - lifetime
    return StoredToken(found, "v1", found.raw, written_at=written_at)


@pytest.mark.parametrize(
    ("what", "interval", "expected"),
    [
        pytest.param(held(-DAY), 10 * MINUTE, Plan(), id="one that is over, at once"),
        pytest.param(held(3 * DAY), 10 * MINUTE, Plan(), id="one that is due, at once"),
        pytest.param(held(3 * DAY + 5 * MINUTE), 10 * MINUTE, Plan(301), id="when it falls due"),
        pytest.param(held(3 * DAY + 11 * MINUTE), 10 * MINUTE, Plan(661), id="at the next sweep"),
        pytest.param(held(3 * DAY + 12 * MINUTE), 10 * MINUTE, None, id="after the next sweep"),
        pytest.param(held(30 * DAY), 12 * HOUR, None, id="fresh for days"),
        pytest.param(
            held(15 * MINUTE, lifetime=15 * MINUTE), 10 * MINUTE, Plan(601), id="an access token"
        ),
        pytest.param(
            held(MINUTE * 5.25, lifetime=15 * MINUTE),
            10 * MINUTE,
            Plan(16),
            id="due, but not ten minutes old",
        ),
        pytest.param(
            held(11 * MINUTE, lifetime=11 * MINUTE),
            10 * MINUTE,
            Plan(411),
            id="one that would be nearly over after ten minutes",
        ),
        pytest.param(
            replace(held(10 * MINUTE, lifetime=15 * MINUTE), is_rejected=True),
            10 * MINUTE,
            Plan(),
            id="one that the API refused, at once",
        ),
        pytest.param(
            held(16 * MINUTE, lifetime=15 * MINUTE),
            10 * MINUTE,
            Plan(631),
            id="one of the future, as the store's clock has it",
        ),
        pytest.param(
            held(3 * DAY + 30 * MINUTE), HOUR, None, id="later than SQS delays, and in time then"
        ),
        pytest.param(
            held(80 * MINUTE, lifetime=2 * HOUR), HOUR, Plan(force=True), id="early, or too late"
        ),
        pytest.param(
            held(15 * MINUTE, lifetime=15 * MINUTE), HOUR, Plan(601), id="as well as it goes"
        ),
    ],
)
def test_a_job_is_queued_for_when_the_token_falls_due(
    what: StoredToken, interval: timedelta, expected: Plan | None
) -> None:
    assert plan_for(what, now=NOW, refresh_before=REFRESH_BEFORE, interval=interval) == expected


def _schedules() -> Iterator[object]:
    """Give the intervals and lifetimes in which a token can be kept, the longest by night."""
    for interval in (2 * MINUTE, 10 * MINUTE, 15 * MINUTE, HOUR, 12 * HOUR):
        for lifetime in (3 * HOUR, 12 * HOUR, 2 * DAY, 7 * DAY):
            if lifetime >= 3 * interval:
                marks = pytest.mark.nightly if lifetime == 7 * DAY else ()
                yield pytest.param(interval, lifetime, marks=marks)


@pytest.mark.parametrize(("interval", "lifetime"), list(_schedules()))
@pytest.mark.parametrize("phase", range(7))
def test_no_token_expires_between_two_sweeps_that_come_three_times_in_its_life(
    interval: timedelta, lifetime: timedelta, phase: int
) -> None:
    now, written_at = NOW + phase * interval / 7, NOW
    while True:
        found = token(left=lifetime - (now - written_at), now=now)
        stored = StoredToken(found, "v1", found.raw, written_at=written_at)
        plan = plan_for(stored, now=now, refresh_before=REFRESH_BEFORE, interval=interval)
        if plan is not None:
            break
        # Each sweep may come a minute late.
        now += interval + MINUTE
        assert now < written_at + lifetime

    at = now + timedelta(seconds=plan.delay)
    assert at < written_at + lifetime - min(
        due_before(found, refresh_before=REFRESH_BEFORE, written_at=written_at) / 3, HOUR
    )
    state = state_of(stored, now=at, refresh_before=REFRESH_BEFORE)
    assert plan.force or state is TokenState.STALE, "a worker that comes then finds it due"


@pytest.mark.parametrize("phase", range(10))
@pytest.mark.parametrize("late", [timedelta(), timedelta(seconds=20)])
def test_a_session_gets_at_most_one_version_in_ten_minutes(phase: int, late: timedelta) -> None:
    """A day of sweeps every ten minutes, whose jobs are done at once or a little late."""
    interval, lifetime = 10 * MINUTE, 15 * MINUTE
    written = [NOW - phase * MINUTE]
    for sweep in (NOW + number * interval for number in range(144)):
        found = token(left=lifetime - (sweep - written[-1]), now=sweep)
        stored = StoredToken(found, "v1", found.raw, written_at=written[-1])
        plan = plan_for(stored, now=sweep, refresh_before=REFRESH_BEFORE, interval=interval)
        if plan is None:
            continue
        at = sweep + timedelta(seconds=plan.delay) + late
        assert state_of(stored, now=at, refresh_before=REFRESH_BEFORE) is TokenState.STALE
        written.append(at)

    pauses = [after - before for before, after in pairwise(written)]
    assert min(pauses) >= BRAKE
    assert max(pauses) <= 12 * MINUTE
    assert len(pauses) <= 144


@pytest.mark.parametrize(
    ("left", "urgent"),
    [(-DAY, True), (15 * MINUTE, True), (21 * MINUTE, True), (22 * MINUTE, False)],
)
def test_what_expires_before_a_later_sweep_could_help_is_urgent(
    left: timedelta, *, urgent: bool
) -> None:
    assert is_urgent(held(left), now=NOW, interval=10 * MINUTE) is urgent


def test_a_secret_is_checked_at_its_own_time_of_day_by_the_sweeps_beside_it() -> None:
    found, interval = held(20 * DAY), 10 * MINUTE
    sweeps = [NOW + number * interval for number in range(144)]

    times = {
        name: [at for at in sweeps if is_checked_now(name, found, now=at, interval=interval)]
        for name in (f"arn:{number}" for number in range(200))
    }

    assert {len(each) for each in times.values()} == {2}, "one of them may not come"
    assert all((b - a) % DAY in {interval, DAY - interval} for a, b in times.values())
    hours = [sum(at.hour == hour for each in times.values() for at in each) for hour in range(24)]
    assert min(hours) > 4, "spread over the day"


def test_a_token_that_is_replaced_within_a_day_needs_no_check() -> None:
    for number in range(100):
        assert not is_checked_now(f"arn:{number}", held(DAY), now=NOW, interval=12 * HOUR)
        assert is_checked_now(f"arn:{number}", held(2 * DAY), now=NOW, interval=12 * HOUR)
