"""The lease, which one run at a time has, and the memory that goes with it."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from qwen_token import StoreError
from qwen_token.ledger import Leased, Ledger, UnsharedState
from qwen_token.policy import Severity
from qwen_token.run_memory import Incident, RunMemory, SignIn
from tests.minting import NOW

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
MARGIN = 5 * SECOND


class DownState(UnsharedState):
    """A state that does not answer; it counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        self.asked += 1
        raise StoreError("down", may_pass=True)


def ledger(
    state: UnsharedState,
    *,
    now: datetime = NOW,
    time_left: timedelta = timedelta(minutes=2),
    in_process: UnsharedState | None = None,
    wait: Callable[[float], object] | None = None,
) -> Ledger:
    return Ledger(
        lambda: state,
        clock=lambda: now,
        time_left=lambda: time_left,
        in_process=in_process,
        wait=wait,
    )


def test_only_one_of_two_runs_gets_the_lease() -> None:
    state = UnsharedState()

    assert ledger(state).open()
    assert not ledger(state).open()


def test_of_many_threads_one_gets_the_lease() -> None:
    state = UnsharedState()
    start = threading.Barrier(8)
    got: list[bool] = []

    def take() -> None:
        start.wait()
        got.append(ledger(state).open())

    threads = [threading.Thread(target=take) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert sorted(got) == [False] * 7 + [True]


def test_a_ledger_that_is_open_stays_open() -> None:
    run = ledger(UnsharedState())

    assert run.open()
    assert run.open()


def test_what_a_run_remembers_is_there_for_the_next_one() -> None:
    state = UnsharedState()
    first = ledger(state)
    first.open()
    first.memory = RunMemory(pending="v2")
    first.close()

    second = ledger(state)

    assert second.open()
    assert second.memory == RunMemory(pending="v2")


@pytest.mark.parametrize(
    ("left", "passed", "is_taken"),
    [
        pytest.param(
            60 * SECOND, 60 * SECOND + MARGIN - SECOND, False, id="not before the run is killed"
        ),
        pytest.param(60 * SECOND, 60 * SECOND + MARGIN, True, id="once the run was killed"),
        pytest.param(
            timedelta.max, timedelta(minutes=15), False, id="not within a quarter of an hour"
        ),
        pytest.param(
            timedelta.max,
            timedelta(minutes=15) + MARGIN,
            True,
            id="after a quarter of an hour where nothing kills a run",
        ),
    ],
)
def test_the_lease_of_a_run_that_died_is_taken_over(
    *, left: timedelta, passed: timedelta, is_taken: bool
) -> None:
    state = UnsharedState()
    ledger(state, time_left=left).open()

    assert ledger(state, now=NOW + passed).open() is is_taken


def test_a_takeover_is_remembered_until_a_run_has_looked() -> None:
    state = UnsharedState()
    state.memory = RunMemory(pending="v2")
    ledger(state).open()
    later = NOW + timedelta(hours=1)
    second = ledger(state, now=later)
    second.open()
    second.close()

    third = ledger(state, now=later)
    third.open()

    assert third.memory == RunMemory(pending="v2", token_left_behind=True, session_left_behind=True)


def test_a_lease_that_was_given_back_leaves_nothing_behind() -> None:
    state = UnsharedState()
    first = ledger(state)
    first.open()
    first.close()
    second = ledger(state, now=NOW + timedelta(hours=1))

    assert second.open()
    assert second.memory == RunMemory()


def test_a_run_whose_lease_was_taken_over_writes_nothing() -> None:
    state = UnsharedState()
    slow = ledger(state)
    slow.open()
    fast = ledger(state, now=NOW + timedelta(hours=1))
    fast.open()

    slow.memory = RunMemory(pending="the slow one's")
    with pytest.raises(StoreError, match="took the lease over"):
        slow.save()
    slow.close()

    assert state.memory == RunMemory()
    assert not ledger(state, now=NOW + timedelta(hours=1)).open()


def test_what_is_saved_is_written_before_the_run_ends() -> None:
    state = UnsharedState()
    run = ledger(state)
    run.open()
    run.memory = replace(run.memory, pending="v2")

    run.save()

    assert state.read() == RunMemory(pending="v2")


def test_a_state_that_cannot_be_reached_is_asked_once_by_a_run() -> None:
    state = DownState()
    run = ledger(state)

    for _ in range(2):
        with pytest.raises(StoreError, match="down"):
            run.open()

    assert state.asked == 1


def test_closing_a_ledger_that_was_never_open_asks_nobody() -> None:
    state = DownState()

    ledger(state).close()

    assert state.asked == 0


def test_the_history_of_a_run_with_the_lease_is_its_memory() -> None:
    state = UnsharedState()
    state.memory = RunMemory(pending="v2")

    assert ledger(state).history() == RunMemory(pending="v2")
    assert not ledger(state).open()


def test_the_history_is_read_without_the_lease_if_another_run_has_it() -> None:
    state = UnsharedState()
    state.memory = RunMemory(pending="v2")
    ledger(state).open()

    assert ledger(state).history() == RunMemory(pending="v2")


def test_a_run_that_reports_waits_until_another_one_gives_the_lease_back() -> None:
    """Then it knows what that one published, and the next one knows what this one does."""
    state = UnsharedState()
    other = ledger(state)
    assert other.open()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) >= 5:
            other.memory = RunMemory(pending="v2")
            other.close()

    reporting = ledger(state, wait=wait)

    assert reporting.history() == RunMemory(pending="v2")
    assert reporting.is_open
    assert sum(waits) == 5


@pytest.mark.parametrize(
    ("time_left", "waits"),
    [
        pytest.param(timedelta(minutes=2), 10, id="for ten seconds"),
        pytest.param(12 * SECOND, 3, id="for a quarter of its time"),
        pytest.param(-SECOND, 0, id="not at all when its time is over"),
    ],
)
def test_a_run_that_reports_waits_for_the_lease(time_left: timedelta, waits: float) -> None:
    state = UnsharedState()
    state.memory = RunMemory(pending="v2")
    ledger(state).open()
    waited: list[float] = []

    reporting = ledger(state, time_left=time_left, wait=waited.append)

    assert reporting.history() == RunMemory(pending="v2")
    assert sum(waited) == waits
    assert not reporting.is_open


def test_where_no_history_can_be_read_that_of_the_process_has_to_do() -> None:
    in_process = UnsharedState()
    first = ledger(DownState(), in_process=in_process)
    assert first.history() == RunMemory()

    first.remember(RunMemory(pending="v2"))
    first.close()

    assert ledger(DownState(), in_process=in_process).history() == RunMemory(pending="v2")


def test_what_was_published_while_the_state_was_down_is_known_once_it_is_up() -> None:
    """Nobody is told twice."""
    in_process, up = UnsharedState(), UnsharedState()
    up.memory = RunMemory(pending="v2", reminded={"earlier": NOW - SECOND})
    incident = Incident("v1", NOW)
    ledger(DownState(), in_process=in_process).remember(
        RunMemory(incident=incident, reminded={"ending": NOW})
    )

    run = ledger(up, in_process=in_process)
    run.open()

    assert run.memory == RunMemory(
        pending="v2",
        incident=incident,
        reminded={"earlier": NOW - SECOND, "ending": NOW},
    )


def test_what_was_published_without_the_lease_is_known_to_the_next_runs_of_the_process() -> None:
    """The dead run whose lease it is had published something less severe."""
    in_process, state = UnsharedState(), UnsharedState()
    notice = Incident("v1", NOW - MINUTE, Severity.NOTICE, "e", "m", {"notice e": NOW - MINUTE})
    state.memory = RunMemory(pending="v2", incident=notice)
    ledger(state).open()

    run = ledger(state, in_process=in_process)
    critical = replace(
        notice,
        highest=Severity.CRITICAL,
        reason="f",
        published={**notice.published, "critical f": NOW},
    )
    run.remember(replace(run.history(), incident=critical))
    run.close()

    known = RunMemory(pending="v2", incident=critical)
    assert ledger(state, in_process=in_process).history() == known
    later = ledger(state, in_process=in_process, now=NOW + 5 * MINUTE)
    assert later.open()
    assert replace(later.memory, token_left_behind=False, session_left_behind=False) == known


def test_it_is_written_once() -> None:
    in_process, up = UnsharedState(), UnsharedState()
    ledger(DownState(), in_process=in_process).remember(RunMemory(incident=Incident("v1", NOW)))
    first = ledger(up, in_process=in_process)
    first.open()
    first.memory = RunMemory()
    first.close()

    second = ledger(up, in_process=in_process)
    second.open()

    assert second.memory == RunMemory()


def test_what_was_noted_by_a_clock_that_was_ahead_lapses_from_now_on() -> None:
    state = UnsharedState()
    tomorrow = NOW + timedelta(days=1)
    state.memory = RunMemory(sign_in=SignIn("v1", tomorrow, answered=True))
    run = ledger(state)
    assert run.open()
    run.close()

    # What the next run finds is not later than that.
    assert state.memory.sign_in is not None
    assert state.memory.sign_in.next_at() == tomorrow
