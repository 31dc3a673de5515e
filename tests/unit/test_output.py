"""What people see of a command: its lines, the bars, and the histogram of a fleet's days."""

import io
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from rich.console import Console

from qwen_token.cli.output import Markup, bar, histogram, print_line, refused_bar, token_bar
from tests.minting import NOW, token


def test_what_is_printed_cannot_command_the_terminal_nor_begin_another_line() -> None:
    printed = io.StringIO()
    console = Console(file=printed, emoji=False, highlight=False)

    print_line(console, Markup("[red]unreadable[/red]"), "  zoë\x1b[2J [bold]\nnobody  fresh")

    assert printed.getvalue() == "unreadable  zoë?[2J [bold]?nobody  fresh\n"


def test_each_day_has_its_bar_and_the_fullest_one_fills_the_width() -> None:
    lines = [line.split() for line in histogram([-3.5, -0.1, 0.5, 2.0, 2.9, 2.1, 2.2])]

    assert [line[0] for line in lines] == ["expired", "0-1", "1-2", "2-3"]
    assert [line[-1] for line in lines] == ["2", "1", "1-2", "4"]
    assert [len(line[1]) for line in lines if len(line) > 1] == [12, 6, 24]


def test_a_token_of_years_does_not_draw_a_line_for_each_day() -> None:
    lines = [line.split() for line in histogram([5.0, 3650.0])]

    assert [line[0] for line in lines] == ["5-6", "…", "3650-3651"]


@pytest.mark.parametrize(
    ("left", "life", "drawn"),
    [
        (timedelta(days=5), timedelta(days=7), "5.00 of 7.00 days"),
        (timedelta(minutes=9.5), timedelta(minutes=15), "9.5 of 15.0 minutes"),
        (timedelta(minutes=30), timedelta(hours=1), "30.0 of 60.0 minutes"),
        (timedelta(hours=1), timedelta(hours=2), "0.04 of 0.08 days"),
        (-timedelta(minutes=1), timedelta(minutes=15), "0.0 of 15.0 minutes"),
        # Clocks differ: a life is never shorter than what is left of it.
        (timedelta(minutes=16), timedelta(minutes=15), "16.0 of 16.0 minutes"),
    ],
)
def test_a_lifetime_up_to_an_hour_is_shown_in_minutes(
    left: timedelta, life: timedelta, drawn: str
) -> None:
    assert bar(left, life, colour="green").endswith(f" {drawn}")


@pytest.mark.parametrize(
    ("issued_at", "written_at", "drawn"),
    [
        (None, None, "5.00 of 7.00 days"),
        (NOW - timedelta(days=25), NOW, "5.00 of 30.00 days"),
        (None, NOW - timedelta(days=5), "5.00 of 10.00 days"),
    ],
    ids=["not known", "since it was issued", "since the keeper stored it"],
)
def test_a_token_is_drawn_against_its_life(
    issued_at: datetime | None, written_at: datetime | None, drawn: str
) -> None:
    held = replace(token(left=timedelta(days=5)), issued_at=issued_at)
    assert token_bar(held, NOW, colour="green", written_at=written_at).endswith(drawn)


def test_an_access_token_of_unknown_age_is_drawn_against_a_quarter_of_an_hour() -> None:
    held = token(left=timedelta(minutes=5), type="access_token")
    assert token_bar(held, NOW, colour="green").endswith("5.0 of 15.0 minutes")


def test_a_refused_token_has_an_empty_bar() -> None:
    drawn = refused_bar()
    assert "refused by the API" in drawn
    assert "█" not in drawn
    assert "green" not in drawn
