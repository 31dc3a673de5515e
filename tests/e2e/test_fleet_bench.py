"""The fleet's bench with a few members: what it measures at length, it can measure."""

import io
from collections.abc import Iterator
from datetime import timedelta

import pytest
from rich.console import Console

from localcloud.fleet import DeployedFleet
from tests.bench.fleet import LongLived, measure_sessions, measure_tokens, measure_trouble
from tests.bench.fleet_sessions import Sessions
from tests.bench.machine import MachineBusyError, wait_until_idle
from tests.bench.meter import Lapse, Meter

# What the bench shows is measured by hand, before a release.
pytestmark = pytest.mark.nightly

# Tokens of this age are due at once, and live for four minutes.
DUE_AT_ONCE = timedelta(minutes=11)


@pytest.fixture(name="meter")
def _meter(fleet: DeployedFleet) -> Iterator[Meter]:
    before = fleet.cloud.relay.gate
    yield Meter(fleet.cloud)
    fleet.cloud.relay.gate = before


@pytest.fixture(name="console")
def _console() -> Console:
    return Console(file=io.StringIO(), width=120)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_long_lived_tokens_are_measured_beside_both_loops(
    fleet: DeployedFleet, meter: Meter, console: Console
) -> None:
    bench = LongLived(fleet, meter, console, secrets=4, due=2)
    bench.fill()

    measure_tokens(bench, rounds=1)

    shown = printed(console)
    assert "an hour with 2 due: calls" in shown
    # One that lists, and four reads and four writes.
    assert "9" in next(line for line in shown.splitlines() if "calls to AWS" in line)


def test_sessions_are_measured_and_none_of_their_readers_is_without_a_token(
    fleet: DeployedFleet, meter: Meter, console: Console
) -> None:
    bench = Sessions(fleet, meter, console, members=2, latency=0)
    bench.fill(youngest=DUE_AT_ONCE, oldest=DUE_AT_ONCE)

    hour = measure_sessions(bench, minutes=0.1)

    assert hour.lapses == []
    assert "without a valid token: 0 members" in printed(console)
    # What it began with, the fleet's next one, and that of the loop over all.
    assert [len(meter.current[name]) for name in bench.names] == [3, 3]


def test_trouble_is_measured_and_told_from_an_outage(
    fleet: DeployedFleet, meter: Meter, console: Console
) -> None:
    bench = Sessions(fleet, meter, console, members=3, latency=0)
    bench.fill(youngest=DUE_AT_ONCE, oldest=DUE_AT_ONCE)

    second = timedelta(seconds=1)
    is_well = measure_trouble(
        bench, outage=second, begins_after=5 * second, after=second, kills=False
    )

    shown = printed(console)
    assert is_well, shown
    rows = {
        cells[1].strip(): cells[2].strip()
        for cells in map(cells_of, shown.splitlines())
        if len(cells) > 2
    }
    assert rows["of these told exactly once"] == "1"
    assert rows["members without a valid token for a while"] == "0"


def cells_of(line: str) -> list[str]:
    return line.split("│")


def test_a_lapse_is_from_the_end_of_a_token_to_the_next_one(fleet: DeployedFleet) -> None:
    meter = Meter(fleet.cloud)
    meter.current["kept"] += [(0.0, 900.0), (570.0, 1470.0)]
    meter.current["late"] += [(0.0, 900.0), (960.0, 1860.0)]
    meter.current["dead"] += [(0.0, 900.0)]

    lapses = meter.lapses(["kept", "late", "dead"], 1000.0)

    assert lapses == [Lapse("late", 900.0, 960.0), Lapse("dead", 900.0, 1000.0)]


def test_a_machine_that_stays_busy_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))

    with pytest.raises(MachineBusyError, match=r"nothing was measured.*load average 1000\.0"):
        wait_until_idle(within=timedelta(0))
