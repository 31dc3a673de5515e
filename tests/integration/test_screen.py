"""What goes onto the terminal, as plain text."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from localcloud.screen import Life, Screen

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def screen(encoding: str) -> tuple[Screen, io.TextIOWrapper]:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Screen(Console(file=output, width=100)), output


def read(output: io.TextIOWrapper) -> list[str]:
    output.seek(0)
    return output.read().splitlines()


def test_lives_are_drawn_on_one_time_line_used_up_fresh_and_due() -> None:
    shown, output = screen("ascii")
    lives = [Life("before", NOW - 5 * DAY, NOW + 2 * DAY), Life("after", NOW, NOW + 9 * DAY)]

    shown.lifetimes(lives, now=NOW, refresh_before=3 * DAY)

    before, after, arrow, _legend = read(output)
    # Fourteen days in 56 cells: four cells a day.
    assert before == "  before  " + 20 * "." + 8 * "=" + 28 * " " + " until Nov 26, 2.0 days left"
    assert after == "  after   " + 20 * " " + 24 * "#" + 12 * "=" + " until Dec 03, 9.0 days left"
    assert arrow == "          " + 20 * " " + "^ now, Nov 24"


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "✓"), ("ascii", "ok")])
def test_a_step_shows_its_result_and_its_time(encoding: str, sign: str) -> None:
    shown, output = screen(encoding)

    with shown.step("Count the stars") as step:
        step.done("[many]")

    (line,) = read(output)
    assert line.startswith(f"{sign} Count the stars  ")
    assert line.endswith(" s  [many]")


def test_a_step_that_fails_is_shown_as_failed() -> None:
    shown, output = screen("ascii")

    with pytest.raises(KeyboardInterrupt), shown.step("Count the stars"):
        raise KeyboardInterrupt

    (line,) = read(output)
    assert line.startswith("FAILED Count the stars")
