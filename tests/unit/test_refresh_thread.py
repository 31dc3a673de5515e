"""The thread that checks again and again: at its times, without drift and without a burst."""

import threading
from datetime import timedelta

import pytest

from qwen_token.manager.refresh_thread import Pause, RefreshThread, elapsed, wait
from tests.fake_time import Time

SOON = 20.0
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def always(pause: timedelta) -> Pause:
    """Return a pause that no clock changes."""
    return lambda _: pause


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (0.0, 60.0),
        (1.0, 59.0),
        (59.0, 1.0),
        (60.0, 60.0),
        (60.0 - 1e-8, 60.0 + 1e-8),
        (60.0 + 1e-8, 60.0 - 1e-8),
        (200.0, 40.0),
    ],
)
def test_the_next_turn_is_the_next_multiple_of_the_interval(gone: float, left: float) -> None:
    now = [0.0]
    thread = RefreshThread(lambda _: always(MINUTE), interval=MINUTE, clock=lambda: now[0])
    now[0] = gone
    assert thread.until_next_turn().total_seconds() == pytest.approx(left, abs=1e-5)


def test_a_machine_that_slept_checks_once_not_for_each_missed_turn() -> None:
    checks: list[float] = []
    now = [0.0]
    done = threading.Event()

    def sleeps(woken: threading.Event, seconds: float) -> None:
        if len(checks) == 5:
            done.set()
            woken.wait(SOON)
        # In the middle of a wait, the lid is closed for ten hours.
        now[0] += seconds + (36_000 if len(checks) == 2 and now[0] < 36_000 else 0)

    def check(thread: RefreshThread) -> Pause:
        checks.append(now[0])
        return always(thread.until_next_turn())

    thread = RefreshThread(check, interval=timedelta(hours=1), clock=lambda: now[0], wait=sleeps)
    thread.start()
    assert done.wait(SOON)
    thread.stop()
    assert checks == [0, 3600, 3660 + 36_000, 43_200, 46_800]


def test_however_short_a_pause_is_asked_for_it_is_one() -> None:
    waits: list[float] = []
    enough = threading.Event()

    def remembers(woken: threading.Event, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            enough.set()
        wait(woken, seconds)

    thread = RefreshThread(lambda _: always(timedelta(0)), interval=MINUTE, wait=remembers)
    thread.start()
    assert enough.wait(SOON)
    thread.stop()
    assert waits[0] == pytest.approx(0.1, abs=0.05)


def test_a_wait_ends_at_once_when_it_is_woken_or_stopped() -> None:
    checked = threading.Semaphore(0)

    def check(_: RefreshThread) -> Pause:
        checked.release()
        return always(timedelta(days=1))

    thread = RefreshThread(check, interval=timedelta(days=1))
    thread.start()
    assert checked.acquire(timeout=SOON)
    thread.wake()
    assert checked.acquire(timeout=SOON)
    began = elapsed()
    thread.stop()
    assert elapsed() - began < SOON
    assert not checked.acquire(blocking=False)


def test_the_first_check_comes_even_to_who_stops_at_once() -> None:
    for _ in range(50):
        checks: list[RefreshThread] = []

        def check(thread: RefreshThread, checks: list[RefreshThread] = checks) -> Pause:
            checks.append(thread)
            return always(timedelta(days=1))

        thread = RefreshThread(check, interval=timedelta(days=1))
        thread.start()
        thread.stop()
        assert checks == [thread]


def test_a_stop_just_before_a_check_is_heard_after_it() -> None:
    class Late(threading.Event):
        """Forgets what woke it only after the stop."""

        def clear(self) -> None:
            assert self.wait(SOON)
            super().clear()

    checks: list[RefreshThread] = []

    def check(thread: RefreshThread) -> Pause:
        checks.append(thread)
        return always(timedelta(seconds=SOON))

    thread = RefreshThread(check, interval=timedelta(days=1))
    thread._woken = Late()
    began = elapsed()
    thread.start()
    thread.stop()
    assert checks == [thread]
    assert elapsed() - began < SOON / 2


@pytest.mark.parametrize(
    ("set_by", "next_check"),
    [
        pytest.param(timedelta(0), 10 * HOUR, id="not at all"),
        pytest.param(4 * HOUR, 6 * HOUR, id="ahead, with time left"),
        pytest.param(15 * HOUR, HOUR + MINUTE, id="ahead, over the time that it is due"),
        pytest.param(-4 * HOUR, 10 * HOUR, id="back: the check comes too early and does nothing"),
    ],
)
def test_a_pause_is_over_when_the_wall_clock_says_so(
    set_by: timedelta, next_check: timedelta
) -> None:
    with Time() as time:
        due_at = time.clock() + 10 * HOUR
        checks: list[timedelta] = []

        def check(_: RefreshThread) -> Pause:
            checks.append(timedelta(seconds=time.elapsed() - 1_000))
            return lambda ended_at: max(due_at - ended_at, 20 * HOUR * bool(checks[1:]))

        thread = RefreshThread(
            check, interval=timedelta(days=9), now=time.clock, clock=time.elapsed, wait=time.wait
        )
        thread.start()
        time.passes(HOUR)
        time.sets(set_by)
        time.passes(10 * HOUR)
        assert checks == [timedelta(0), pytest.approx(next_check, abs=MINUTE)]
        assert max(time.waits) <= 60
        time.__exit__()
        thread.stop()
