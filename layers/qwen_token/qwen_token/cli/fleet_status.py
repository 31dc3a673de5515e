"""``status --fleet``: the fleet's tokens, those that need a look first, and totals of all."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from qwen_token.errors import QwenTokenError, StoreError
from qwen_token.fleet import Fleet
from qwen_token.policy import TokenState, assess
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import Token, in_days

from .deployed import Stack, secrets_manager, session_for
from .membership import find_fleet
from .output import ATTENTION, FAILED, OK, Markup, console_for, histogram, print_line, print_rows

if TYPE_CHECKING:
    from rich.console import Console

# More rows than that are for --all, or for --json.
_ROWS: Final = 30
_COLOURS: Final = {TokenState.FRESH: "green", TokenState.STALE: "yellow", TokenState.EXPIRED: "red"}


@dataclass(frozen=True, slots=True)
class _Row:
    """A member: its token and what state that is in, or why none could be read."""

    name: str
    secret_id: str
    token: Token | None
    state: TokenState | None
    problem: QwenTokenError | None
    # Not the token's fault, nor the secret's: it may not be read from here, or not now.
    unread: bool

    def needs_a_person(self, now: datetime, critical_before: timedelta) -> bool:
        """Say whether nothing else helps: there is no usable token, or soon there will be none."""
        if self.token is None:
            return not self.unread
        return self.token.remaining(now) < critical_before

    @property
    def what_is_wrong(self) -> str | None:
        """The problem in words, None where there is none."""
        return None if self.problem is None else f"{self.problem} ({self.problem.reason})"

    def order(self) -> tuple[bool, float, str]:
        """Sort by the days left; what could not be read comes first."""
        expires_at = 0.0 if self.token is None else self.token.expires_at.timestamp()
        return self.token is not None, expires_at, self.name


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = find_fleet(session, options.stack)
    now = datetime.now(UTC)
    refresh_before = timedelta(days=float(stack.parameter("RefreshBeforeDays")))
    critical_before = timedelta(days=float(stack.parameter("CriticalDays")))
    fleet = Fleet(secrets_manager(session, ""), stack.parameter("FleetTag"))

    rows: list[_Row] = []
    if console is None:
        rows += _read(fleet, now, refresh_before)
        print(json.dumps(_document(stack, rows, now)))
    else:
        with console.status("looking for the fleet's secrets") as progress:
            for row in _read(fleet, now, refresh_before):
                rows.append(row)
                progress.update(f"read {len(rows)} secrets")
        _print(console, stack, rows, now, show_all=options.all)
    if any(row.needs_a_person(now, critical_before) for row in rows):
        return ATTENTION
    return FAILED if any(row.unread for row in rows) else OK


def _read(fleet: Fleet, now: datetime, refresh_before: timedelta) -> Iterator[_Row]:
    for page in fleet.pages():
        for member, found in fleet.read(page.members):
            if isinstance(found, StoredToken):
                state = assess(
                    found.token,
                    now=now,
                    refresh_before=refresh_before,
                    written_at=found.written_at,
                )
                yield _Row(member.name, member.secret_id, found.token, state, None, unread=False)
            else:
                unread = member.obstacle is None and isinstance(found, StoreError)
                yield _Row(member.name, member.secret_id, None, None, found, unread=unread)


def _totals(rows: Sequence[_Row]) -> dict[str, int]:
    states = Counter(row.state for row in rows)
    return {
        "secrets": len(rows),
        **{state.value: states[state] for state in TokenState},
        "unreadable": states[None],
    }


def _document(stack: Stack, rows: Sequence[_Row], now: datetime) -> dict[str, object]:
    return {
        "stack": stack.name,
        "tag": stack.parameter("FleetTag"),
        "totals": _totals(rows),
        "members": [
            {
                "name": row.name,
                "secret_id": row.secret_id,
                "account": row.token and row.token.account,
                "state": row.state and row.state.value,
                "expires_at": row.token and row.token.expires_at.isoformat(),
                "days_remaining": row.token and in_days(row.token.remaining(now)),
                "problem": row.what_is_wrong,
            }
            for row in sorted(rows, key=_Row.order)
        ],
    }


def _print(
    console: "Console", stack: Stack, rows: Sequence[_Row], now: datetime, *, show_all: bool
) -> None:
    in_order = sorted(rows, key=_Row.order)
    shown = in_order if show_all else in_order[:_ROWS]
    width = max((len(row.name) for row in shown), default=0)
    for row in shown:
        if row.token is None or row.state is None:
            days, state, more = "", Markup("[red]unreadable[/red]"), row.what_is_wrong
        else:
            colour = _COLOURS[row.state]
            days = f"{in_days(row.token.remaining(now)):.2f} days"
            state = Markup(f"[{colour}]{row.state.value:<10}[/{colour}]")
            more = row.token.account
        # Not a rich table: that folds names to the terminal's width, and nobody can copy them then.
        print_line(console, f"{row.name:<{width}}  {days:>11}  ", state, f"  {more}")
    if hidden := len(rows) - len(shown):
        console.print(f"… and {hidden} more that live longer (--all shows them, or --json)")
    days_left = [row.token.remaining(now) / timedelta(days=1) for row in rows if row.token]
    if days_left:
        console.print("\n[bold]Days left, and how many tokens have so many[/bold]")
        for line in histogram(days_left):
            console.print(line)
    print_rows(
        console,
        Markup(f"\n[bold]The fleet of {stack.name}[/bold]"),
        {name.capitalize(): count for name, count in _totals(rows).items()},
    )
