"""``status --fleet``: the members, starting with those that need attention, and the totals.

Session secrets are meant for the fleet alone, so this reads only the logins of the members shown.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import boto3

from qwen_token.fleet import Fleet, Member
from qwen_token.incidents import REMIND_EVERY
from qwen_token.policy import TokenState
from qwen_token.run_memory import Incident
from qwen_token.tokens import date, in_days

from .deployed import Stack, secrets_manager, session_for
from .fleet_readings import read_memories, read_sessions, read_tokens
from .membership import find_fleet
from .output import ATTENTION, FAILED, OK, Markup, console_for, histogram, print_line, print_rows
from .readings import SecretReading, SessionReading
from .standing import (
    Standing,
    described_incident,
    described_login,
    described_token,
    incident_text,
    is_grave,
)

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from rich.console import Console

# The most rows shown without --all.
_ROWS: Final = 30
_COLOURS: Final = {TokenState.FRESH: "green", TokenState.STALE: "yellow", TokenState.EXPIRED: "red"}
_UNREAD: Final = SessionReading(
    problem="not read: --all reads every login", unread=True, exists=True
)
_SESSION_ENDING: Final = "session_ending"
# The state table's items for the whole fleet, by the names shown for them.
SHARED: Final = {"Qwen": "fleet:upstream", "Sweeps": "fleet:sweep"}
# Reminders are repeated daily, so one that is older than this no longer applies.
_LATELY: Final = 2 * REMIND_EVERY


@dataclass(frozen=True, slots=True)
class _Row:
    """A member, with the state of its token and login."""

    member: Member
    standing: Standing

    @property
    def ends_at(self) -> datetime | None:
        """When a person is needed, if the login was read or a run remembers it; otherwise None."""
        return self.standing.login_ends_at or self.standing.runs.memory.session_expires_at

    def order(self) -> tuple[bool, bool, float, str]:
        """Return a sort key: first those without a token, then trouble, then the login's end."""
        standing = self.standing
        ends_at = float("inf") if self.ends_at is None else self.ends_at.timestamp()
        in_trouble = standing.needs_a_person or _is_announced_to_end(standing)
        return standing.secret.token is not None, not in_trouble, ends_at, self.member.name


@dataclass(frozen=True, slots=True)
class _Status:
    """All that is shown: the members in order. The logins of the first ``shown`` were read."""

    stack: Stack
    now: datetime
    rows: Sequence[_Row]
    shown: int
    # Incidents of the whole fleet, by the names in SHARED.
    shared: Mapping[str, Incident]

    @property
    def runs_problem(self) -> str | None:
        """Why the state table could not be read: the first member's problem, if there is any."""
        problems = (row.standing.runs.problem for row in self.rows)
        return next((problem for problem in problems if problem is not None), None)

    @property
    def totals(self) -> dict[str, int]:
        states = Counter(row.standing.state for row in self.rows)
        return {
            "secrets": len(self.rows),
            **{state.value: states[state] for state in TokenState},
            "unreadable": states[None],
            "with a session": sum(row.member.session_id is not None for row in self.rows),
            "incidents": sum(row.standing.runs.memory.incident is not None for row in self.rows),
        }


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = find_fleet(session, options.stack)
    if console is None:
        status = _read(session, stack, show_all=options.all, told=lambda _: None)
        print(json.dumps(_document(status)))
    else:
        with console.status("looking for the fleet's secrets") as progress:
            status = _read(session, stack, show_all=options.all, told=progress.update)
        _print(console, status)
    if any(row.standing.needs_a_person for row in status.rows) or any(
        is_grave(incident) for incident in status.shared.values()
    ):
        return ATTENTION
    return FAILED if any(_has_gaps(row) for row in status.rows) else OK


def _read(
    aws: boto3.Session, stack: Stack, *, show_all: bool, told: Callable[[str], None]
) -> _Status:
    """Read the fleet; ``told`` is called with the progress, as text.

    Raises:
        StoreError: Secrets Manager refused or failed a whole call.
    """
    now = datetime.now(UTC)
    client = secrets_manager(aws, "")
    tag = stack.parameter("FleetTag")
    tokens: list[tuple[Member, SecretReading]] = []
    for each in read_tokens(Fleet(client, tag), now=now):
        tokens.append(each)
        told(f"read {len(tokens)} secrets")
    members = [member.secret_id for member, _ in tokens]
    memories = read_memories(aws, stack, [*members, *SHARED.values()])
    rows = []
    for member, secret in tokens:
        standing = Standing(
            now=now,
            refresh_before=timedelta(days=float(stack.parameter("RefreshBeforeDays"))),
            critical_before=timedelta(days=float(stack.parameter("CriticalDays"))),
            secret=secret,
            login=SessionReading() if member.session_id is None else _UNREAD,
            runs=memories[member.secret_id],
        )
        rows.append(_Row(member, standing))
    rows.sort(key=_Row.order)
    shown = len(rows) if show_all else min(_ROWS, len(rows))
    told(f"reading the logins of {shown} members")
    rows[:shown] = sorted(_with_logins(rows[:shown], client), key=_Row.order)
    shared = {
        where: incident
        for where, key in SHARED.items()
        if (incident := memories[key].memory.incident) is not None
    }
    return _Status(stack, now, rows, shown, shared)


def _with_logins(rows: Sequence[_Row], client: "SecretsManagerClient") -> list[_Row]:
    logins = read_sessions(client, [row.member.session_id for row in rows if row.member.session_id])
    return [
        row
        if row.member.session_id is None
        else replace(row, standing=replace(row.standing, login=logins[row.member.session_id]))
        for row in rows
    ]


def _is_announced_to_end(standing: Standing) -> bool:
    """Return whether the owner was reminded in the last two days that the login ends."""
    reminded = standing.runs.memory.reminded
    return any(
        key.split()[1] == _SESSION_ENDING and standing.now - at < _LATELY
        for key, at in reminded.items()
    )


def _has_gaps(row: _Row) -> bool:
    """Return whether something could not be read. A login skipped on purpose does not count."""
    if row.standing.login is _UNREAD:
        return replace(row.standing, login=SessionReading()).has_gaps
    return row.standing.has_gaps


# ── For scripts ───────────────────────────────────────────────────────────────────────────────────


def _document(status: _Status) -> dict[str, object]:
    return {
        "stack": status.stack.name,
        "tag": status.stack.parameter("FleetTag"),
        "totals": {label.replace(" ", "_"): count for label, count in status.totals.items()},
        "runs_problem": status.runs_problem,
        "incidents": {
            key: described_incident(status.shared.get(where)) for where, key in SHARED.items()
        },
        "members": [
            {
                "name": row.member.name,
                "secret_id": row.member.secret_id,
                "session_secret_id": row.member.session_id,
                "problem": row.standing.secret.problem,
                **described_token(row.standing),
                "login": described_login(row.standing),
                "runs_problem": row.standing.runs.problem,
                "incident": described_incident(row.standing.runs.memory.incident),
            }
            for row in status.rows
        ],
    }


# ── For people ────────────────────────────────────────────────────────────────────────────────────


def _print(console: "Console", status: _Status) -> None:
    shown = status.rows[: status.shown]
    width = max((len(row.member.name) for row in shown), default=0)
    for row in shown:
        # Not a rich table, which wraps names at the terminal's width: they could not be copied.
        print_line(console, f"{row.member.name:<{width}}  ", *_cells(row.standing))
        incident = row.standing.runs.memory.incident
        if incident is not None:
            # An incident that a member has not published itself is part of the shared one.
            is_shared = incident.highest is None and "Qwen" in status.shared
            text = f"since {date(incident.since)}: shared, see below"
            print_line(
                console,
                Markup("  [yellow]incident[/yellow] "),
                text if is_shared else incident_text(incident),
            )
    if hidden := len(status.rows) - len(shown):
        console.print(f"… and {hidden} more (--all shows them, or --json)")
    ends = [row.ends_at for row in status.rows]
    days_left = [(each - status.now) / timedelta(days=1) for each in ends if each is not None]
    if days_left:
        console.print("\n[bold]Days until a login ends, and how many do[/bold]")
        for line in histogram(days_left):
            console.print(line)
        if unknown := len(ends) - len(days_left):
            console.print(f"  of {unknown} more, no end is known or was read")
    print_rows(
        console,
        Markup(f"\n[bold]The fleet of {status.stack.name}[/bold]"),
        {
            **{label.capitalize(): count for label, count in status.totals.items()},
            **({} if status.runs_problem is None else {"Incidents": status.runs_problem}),
            **{where: incident_text(incident) for where, incident in status.shared.items()},
        },
    )


def _cells(standing: Standing) -> list[object]:
    """Return the cells after a member's name."""
    token, state = standing.secret.token, standing.state
    if token is None or state is None:
        waits = standing.secret.awaits_first and not standing.needs_a_person
        drawn = "[yellow]waiting   [/yellow]" if waits else "[red]unreadable[/red]"
        return [f"{'':>12}  ", Markup(drawn), f"  {standing.secret.problem}"]
    colour = _COLOURS[state]
    return [
        f"{_left(token.remaining(standing.now)):>12}  ",
        Markup(f"[{colour}]{state.value:<10}[/{colour}]"),
        f"  {_login_text(standing):<20}  {standing.account or 'account not said'}",
    ]


def _left(left: timedelta) -> str:
    """Return the time left as text: in minutes up to an hour, otherwise in days."""
    if abs(left) <= timedelta(hours=1):
        return f"{left / timedelta(minutes=1):.1f} minutes"
    return f"{in_days(left):.2f} days"


def _login_text(standing: Standing) -> str:
    """Return the kind of login, with the time until the session ends if that is known."""
    kind = standing.kind[0]
    if kind is None:
        return "session may not be read" if standing.login.forbidden else "session not readable"
    words = kind.replace("_", " ")
    if standing.session_expires_at is None:
        return words
    return f"{words}, {_left(standing.session_expires_at - standing.now)}"
