"""The pace: how callers of any thread take turns."""

from bisect import bisect_left

import pytest

from pace import Pace
from qwen_token.fleet import WRITES_PER_SECOND


def test_callers_pass_at_the_pace_however_many_come_at_once() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)

    pace = Pace(4, clock=lambda: now[0], sleep=sleep, phase=lambda: 0.5)
    for _ in range(4):
        pace()
    now[0] += 10
    pace()

    assert slept == [0.125, 0.375, 0.625, 0.875, 0.125]


def test_of_a_short_pause_an_eighth_of_a_second_is_made_up_for() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)

    pace = Pace(4, clock=lambda: now[0], sleep=sleep, phase=lambda: 0.0)
    pace()
    now[0] += 1.0
    for _ in range(4):
        pace()

    assert slept == [0, 0, 0.125, 0.375, 0.625]


@pytest.mark.parametrize("pause", [0.05, 0.125, 0.3, 0.9, 1.0])
def test_five_workers_that_pause_at_once_stay_below_what_aws_allows(pause: float) -> None:
    now, written = [100.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(WRITES_PER_SECOND / 5, clock=lambda: now[0], sleep=sleep, phase=lambda: 0.0)
    for _ in range(10):
        for _ in range(20):
            pace()
            written.append(now[0])
        now[0] += pause

    most = max(
        bisect_left(written, begun + 1 - 1e-9) - first for first, begun in enumerate(written)
    )
    assert 5 * most <= 45
