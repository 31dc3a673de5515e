"""The output of commands, for people and scripts: exit codes, rows or JSON, and failures."""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from qwen_token.errors import ConfigError
from qwen_token.tokens import Token, in_days

if TYPE_CHECKING:
    from rich.console import Console

OK: Final = 0
FAILED: Final = 1
ATTENTION: Final = 3
INTERRUPTED: Final = 130

# The assumed lifetime of a token of unknown age: of the first kind, or of a session.
_USUAL_TOKEN: Final = timedelta(days=7)
_USUAL_ACCESS_TOKEN: Final = timedelta(minutes=15)
_MINUTE: Final = timedelta(minutes=1)
_IN_MINUTES: Final = timedelta(hours=1)
_BAR_WIDTH: Final = 24
_MOST_EMPTY_DAYS: Final = 7


class Markup(str):
    """Text with rich's markup; any other text is printed as it is."""

    __slots__ = ()


def console_for(options: argparse.Namespace) -> "Console | None":
    """Return where to print, or None for JSON. Call it before acting, because it may fail."""
    if options.json:
        return None
    try:
        from rich.console import Console  # noqa: PLC0415 - only people need it
    except ImportError as error:
        raise ConfigError(
            "the tables need the extra 'cli', as in pip install 'qwen-token[cli]'; --json does not"
        ) from error
    # An ARN contains ":secret:", which is also the name of an emoji.
    return Console(emoji=False, highlight=False)


def print_rows(console: "Console", title: str, rows: Mapping[str, object]) -> None:
    shown = {label: value for label, value in rows.items() if value is not None}
    width = max(map(len, shown), default=0)
    print_line(console, Markup("[bold]"), title, Markup("[/bold]"))
    for label, value in shown.items():
        # Not a rich table, which folds an ARN to the terminal's width, so that it cannot be copied.
        print_line(console, Markup(f"  [dim]{label:<{width}}[/dim]  "), value)


def print_line(console: "Console", *parts: object) -> None:
    """Print one line, however long; only Markup is parsed for colours."""
    from rich.markup import escape  # noqa: PLC0415 - only people need it

    line = "".join(
        part if isinstance(part, Markup) else escape(_printable(str(part))) for part in parts
    )
    console.print(line, soft_wrap=True)


def _printable(text: str) -> str:
    # Anybody may have written the account in a token, and terminals obey control characters.
    return "".join(each if each.isprintable() else "?" for each in text)


def bar(left: timedelta, life: timedelta, *, colour: str) -> Markup:
    """Draw the time left of a whole life, in minutes if that is an hour at most."""
    left = max(left, timedelta(0))
    life = max(life, left)
    filled = round(_BAR_WIDTH * (left / life))
    if life <= _IN_MINUTES:
        amount = f"{left / _MINUTE:.1f} of {life / _MINUTE:.1f} minutes"
    else:
        amount = f"{in_days(left):.2f} of {in_days(life):.2f} days"
    full, empty = ("█", "░") if _draws() else ("#", "-")
    return Markup(f"[{colour}]{full * filled}[/{colour}]{empty * (_BAR_WIDTH - filled)} {amount}")


def token_bar(
    token: Token, now: datetime, *, colour: str, written_at: datetime | None = None
) -> Markup:
    """Draw a token's time left; ``written_at`` is when the keeper stored it, if it did."""
    begins_at = token.issued_at or written_at
    usual = _USUAL_ACCESS_TOKEN if token.is_access_token else _USUAL_TOKEN
    life = token.expires_at - begins_at if begins_at else usual
    return bar(token.remaining(now), life, colour=colour)


def refused_bar() -> Markup:
    """Draw a token that the API has refused, whatever its expiry."""
    return Markup(f"[red]{('░' if _draws() else '-') * _BAR_WIDTH} refused by the API[/red]")


def histogram(days: Sequence[float]) -> Iterator[str]:
    """Draw the count of these numbers for each whole day; negative ones share a bar.

    Many empty days in a row become one line, because some tokens live for years.
    """
    counted = Counter(max(-1, math.floor(each)) for each in days)
    most = max(counted.values())
    full = "█" if _draws() else "#"
    before = min(counted)
    for day, count in sorted(counted.items()):
        empty = range(before + 1, day)
        if len(empty) > _MOST_EMPTY_DAYS:
            yield f"  {'…' if _draws() else '...':>7}"
        else:
            yield from (f"  {_label(each):>7}" for each in empty)
        # One is visible, too.
        yield f"  {_label(day):>7}  {full * max(1, round(_BAR_WIDTH * count / most))} {count}"
        before = day


def _label(day: int) -> str:
    return "expired" if day < 0 else f"{day}-{day + 1}"


def mark(*, passed: bool | None) -> Markup:
    """Draw whether something passed; None means that it was not tried."""
    drawn, plain, colour = {
        True: ("✓", "ok", "green"),
        False: ("✗", "!!", "red"),
        None: ("·", "--", "dim"),
    }[passed]
    return Markup(f"[{colour}]{drawn if _draws() else plain}[/{colour}]")


def _draws() -> bool:
    """Return whether standard output supports such characters."""
    return "utf" in (sys.stdout.encoding or "").lower()


def complain(options: argparse.Namespace, reason: str, message: str, advice: str) -> None:
    if options.json:
        print(json.dumps({"error": {"reason": reason, "message": message, "advice": advice}}))
        return
    # AWS's messages may have several lines.
    said = _printable(" ".join(message.split()))
    print(f"error: {said} ({reason})\n       {advice}", file=sys.stderr)
