"""``status``: the token, its time left, the schedule and the alarms."""

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from qwen_token.policy import assess
from qwen_token.tokens import in_days

from . import fleet_status
from .deployed import Stack, secrets_manager, session_for
from .output import ATTENTION, FAILED, OK, Markup, bar, console_for, date, print_rows
from .readings import (
    NONE,
    ScheduleReading,
    SecretReading,
    is_unknown,
    read_schedule_and_alarms,
    read_secret,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

SUMMARY: Final = "show the token, its time left, the schedule and the alarms"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(check=_check)
    parser.add_argument(
        "--fleet", action="store_true", help="show the fleet's tokens: those that expire first"
    )
    parser.add_argument("--all", action="store_true", help="with --fleet: every one of them")


def _check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the combination of options."""
    if options.all and not options.fleet:
        return "--all goes with --fleet"
    return None


def run(options: argparse.Namespace) -> int:
    if options.fleet:
        return fleet_status.run(options)
    console = console_for(options)
    status = _read(options)
    if console is None:
        print(json.dumps(_document(status)))
    else:
        _print(console, status)
    return _exit_code(status)


@dataclass(frozen=True, slots=True)
class _Status:
    """All that is shown of the deployed stack."""

    stack: str
    secret_id: str
    refresh_before: timedelta
    critical_before: timedelta
    now: datetime
    secret: SecretReading
    schedule: ScheduleReading
    alarms: "Mapping[str, str]"


def _read(options: argparse.Namespace) -> _Status:
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    secret_id = stack.outputs["SecretArn"]
    now = datetime.now(UTC)
    secret = read_secret(secrets_manager(session, secret_id), secret_id)
    schedule, alarms = read_schedule_and_alarms(session, stack, now)
    return _Status(
        stack=stack.name,
        secret_id=secret_id,
        refresh_before=timedelta(days=float(stack.parameters["RefreshBeforeDays"])),
        critical_before=timedelta(days=float(stack.parameters["CriticalDays"])),
        now=now,
        secret=secret,
        schedule=schedule,
        alarms=alarms,
    )


def _exit_code(status: _Status) -> int:
    secret, states = status.secret, [status.schedule.state, *status.alarms.values()]
    if not secret.unread and (
        secret.token is None or secret.token.remaining(status.now) < status.critical_before
    ):
        return ATTENTION
    if status.schedule.state in {NONE, "DISABLED"} or "ALARM" in status.alarms.values():
        return ATTENTION
    return FAILED if secret.unread or any(map(is_unknown, states)) else OK


def _document(status: _Status) -> dict[str, object]:
    secret, schedule = status.secret, status.schedule
    return {
        "stack": status.stack,
        "secret_id": status.secret_id,
        "problem": secret.problem,
        **_described_token(status),
        "version_id": secret.version_id,
        "written_at": secret.written_at and secret.written_at.isoformat(),
        "schedule": {
            "expression": schedule.expression,
            "state": schedule.state,
            "next_at": schedule.next_at and schedule.next_at.isoformat(timespec="seconds"),
        },
        "alarms": status.alarms,
    }


def _described_token(status: _Status) -> dict[str, object]:
    token = status.secret.token
    if token is None:
        names = ("account", "state", "issued_at", "expires_at", "days_remaining")
        return dict.fromkeys(names)
    return {
        "account": token.account,
        "state": assess(token, now=status.now, refresh_before=status.refresh_before).value,
        "issued_at": token.issued_at and token.issued_at.isoformat(),
        "expires_at": token.expires_at.isoformat(),
        "days_remaining": in_days(token.remaining(status.now)),
    }


def _print(console: "Console", status: _Status) -> None:
    print_rows(
        console,
        f"Stack {status.stack}",
        {
            "Secret": status.secret_id,
            "Problem": status.secret.problem,
            **_token_rows(status),
            **_version_rows(status.secret),
            "Schedule": _schedule_text(status.schedule),
            **{f"Alarm {name}": _alarm_text(state) for name, state in status.alarms.items()},
        },
    )


def _token_rows(status: _Status) -> dict[str, object]:
    token = status.secret.token
    if token is None:
        return {}
    return {
        "Account": token.account,
        "Issued": date(token.issued_at) if token.issued_at else "not said",
        "Expires": date(token.expires_at),
        "Time left": bar(
            token,
            status.now,
            refresh_before=status.refresh_before,
            critical_before=status.critical_before,
        ),
    }


def _version_rows(secret: SecretReading) -> dict[str, object]:
    if secret.written_at is None:
        return {}
    return {
        "Version": secret.version_id,
        # Secrets Manager does not say who wrote a version: a person's put looks the same.
        "Last refresh": f"{date(secret.written_at)} (or put in by hand then)",
    }


def _schedule_text(schedule: ScheduleReading) -> str:
    if schedule.state != "ENABLED":
        expression = f"{schedule.expression} is " if schedule.expression else ""
        colour = "yellow" if is_unknown(schedule.state) else "red"
        return Markup(f"[{colour}]{expression}{schedule.state}[/{colour}]")
    if schedule.next_at is None:
        return str(schedule.expression)
    return f"{schedule.expression}, next at about {date(schedule.next_at)}"


def _alarm_text(state: str) -> Markup:
    colour = {"OK": "green", "ALARM": "red", NONE: "red"}.get(state, "yellow")
    return Markup(f"[{colour}]{state}[/{colour}]")
