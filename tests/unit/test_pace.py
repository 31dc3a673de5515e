"""The pace: how callers of any thread take turns."""

from pace import Pace


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
