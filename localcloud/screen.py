"""The terminal output of ``make run``: steps with their times, tables, and lifetimes as bars."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_TITLE_WIDTH: Final = 44
_BAR_WIDTH: Final = 56
_LABEL_WIDTH: Final = 8


@dataclass(frozen=True, slots=True)
class Life:
    """A token's life in the picture: a label, its first second and its last."""

    label: str
    begins_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Signs:
    done: str
    failed: str
    fresh: str
    due: str
    used: str
    now: str


_UNICODE: Final = _Signs(done="✓", failed="✗", fresh="█", due="▓", used="░", now="▲")
_ASCII: Final = _Signs(done="ok", failed="FAILED", fresh="#", due="=", used=".", now="^")


class Step:
    """A running step."""

    def __init__(self, title: str, progress: Progress) -> None:
        """Show ``title`` until there is a result."""
        self.result = ""
        self._title = title
        self._progress = progress
        self._task = progress.add_task(title)

    def doing(self, what: str) -> None:
        """Show what is being done or waited for, if the terminal can."""
        self._progress.update(self._task, description=f"{self._title}: {escape(what)}")

    def done(self, result: str) -> None:
        """Set the result, which is shown when the step ends."""
        self.result = result


class Screen:
    """A console: with colours and a spinner on a terminal, in plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        """Write to ``console``."""
        self.console = console
        self._signs = _UNICODE if console.encoding.startswith("utf") else _ASCII

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show the block as a step, with its time when it ends."""
        started = time.monotonic()
        progress = Progress(
            SpinnerColumn("dots" if self._signs is _UNICODE else "line"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        sign, style = self._signs.failed, "bold red"
        step = Step(title, progress)
        try:
            with progress:
                yield step
            sign, style = self._signs.done, "bold green"
        finally:
            seconds = time.monotonic() - started
            line = Text.assemble(
                (sign, style), " ", (title.ljust(_TITLE_WIDTH), "bold"), f"{seconds:6.1f} s"
            )
            if step.result:
                line.append(f"  {step.result}", "dim")
            self.console.print(line, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        """Print a line, or several."""
        self.console.print(Text(text, style), soft_wrap=True)

    def heading(self, text: str) -> None:
        """Print the title of what follows."""
        self.console.print()
        self.console.print(Text(text, "bold"))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; ``ALARM`` and ``OK`` get their colours."""
        colours = {"ALARM": "red", "OK": "green"}
        table = Table(*columns, box=None, padding=(0, 2, 0, 2), header_style="dim")
        for row in rows:
            table.add_row(*(Text(cell, colours.get(cell, "")) for cell in row))
        self.console.print(table)

    def facts(self, facts: Mapping[str, str]) -> None:
        """Print names and their values."""
        table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
        for name, value in facts.items():
            table.add_row(Text(name, "dim"), Text(value, overflow="fold"))
        self.console.print(table)

    def letter(self, title: str, text: str) -> None:
        """Print a text in a frame."""
        self.console.print(Panel(Text(text.rstrip()), title=escape(title), title_align="left"))

    def lifetimes(
        self,
        lives: Sequence[Life],
        *,
        now: datetime,
        refresh_before: timedelta,
        date: str = "%b %d",
    ) -> None:
        """Draw lives on a common time line: used up, fresh, and due for a refresh.

        ``date`` is how instants are written, as ``strftime`` has it.
        """
        signs = self._signs
        begin = min(life.begins_at for life in lives)
        scale = (max(life.expires_at for life in lives) - begin) / _BAR_WIDTH
        instants = [begin + (cell + 0.5) * scale for cell in range(_BAR_WIDTH)]
        for life in lives:
            line = Text(f"  {life.label:<{_LABEL_WIDTH}}")
            for instant in instants:
                if not life.begins_at <= instant < life.expires_at:
                    line.append(" ")
                elif instant < now:
                    line.append(signs.used, "dim")
                elif instant < life.expires_at - refresh_before:
                    line.append(signs.fresh, "green")
                else:
                    line.append(signs.due, "yellow")
            line.append(f" until {life.expires_at:{date}}, {in_words(life.expires_at - now)} left")
            self.console.print(line, soft_wrap=True)
        position = min(int((now - begin) / scale), _BAR_WIDTH - 1)
        self.say(f"  {'':<{_LABEL_WIDTH}}{'':<{position}}{signs.now} now, {now:{date}}")
        self.say(
            f"  {'':<{_LABEL_WIDTH}}{signs.used} used up   {signs.fresh} fresh   "
            f"{signs.due} due: less than {in_words(refresh_before)} left",
            "dim",
        )


def in_words(duration: timedelta) -> str:
    """Return a duration for people, in days, or in minutes if it is short."""
    if abs(duration) < timedelta(hours=2):
        return f"{duration / timedelta(minutes=1):.1f} minutes"
    return f"{duration / timedelta(days=1):.1f} days"
