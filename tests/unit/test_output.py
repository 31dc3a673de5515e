"""What people see of a command: its lines, and the histogram of a fleet's days."""

import io

from rich.console import Console

from qwen_token.cli.output import Markup, histogram, print_line


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


def test_one_token_that_lives_for_years_does_not_draw_a_line_for_each_day_until_then() -> None:
    lines = [line.split() for line in histogram([5.0, 3650.0])]

    assert [line[0] for line in lines] == ["5-6", "…", "3650-3651"]
