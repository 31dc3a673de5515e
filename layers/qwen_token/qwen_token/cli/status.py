"""``status``: the token and its login, their time left, open incidents, schedule and alarms."""

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from qwen_token.policy import TokenState
from qwen_token.run_memory import RunMemory
from qwen_token.session import Session
from qwen_token.tokens import date, iso

from . import fleet_status
from .deployed import Stack, run_function, secrets_manager, session_for
from .failures import FAILURES, CommandFailure, failure_of
from .login_kinds import expiry_text
from .outcomes import in_words
from .output import (
    ATTENTION,
    FAILED,
    OK,
    Markup,
    bar,
    console_for,
    print_rows,
    refused_bar,
    token_bar,
)
from .readings import (
    NONE,
    ScheduleReading,
    SecretReading,
    is_unknown,
    read_memory,
    read_schedule_and_alarms,
    read_secret,
    read_session,
)
from .standing import (
    Standing,
    described_incident,
    described_login,
    described_token,
    incident_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

SUMMARY: Final = "show the token and its login, their time left, the last trouble, the alarms"

# The assumed lifetime of a session: the secret does not say when its login began.
_SESSION_LIFE: Final = timedelta(days=30)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(check=_check)
    parser.add_argument(
        "--check",
        dest="ask_api",
        action="store_true",
        help="have the function ask the API now whether it accepts the token",
    )
    parser.add_argument(
        "--fleet", action="store_true", help="show the fleet's tokens: those that expire first"
    )
    parser.add_argument("--all", action="store_true", help="with --fleet: every one of them")


def _check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the combination of options."""
    if options.all and not options.fleet:
        return "--all goes with --fleet"
    if options.ask_api and options.fleet:
        return "--check is for the stack's own token, not for the fleet's"
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
class _Check:
    """The result of asking the API: the function's result or its failure."""

    result: "Mapping[str, Any] | None" = None
    failure: CommandFailure | None = None


@dataclass(frozen=True, slots=True)
class _Status:
    """Everything that is shown about the deployed stack."""

    stack: str
    secret_id: str
    check: _Check | None
    standing: Standing
    schedule: ScheduleReading
    alarms: "Mapping[str, str]"


def _read(options: argparse.Namespace) -> _Status:
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    secret_id = stack.outputs["SecretArn"]
    check = None
    if options.ask_api:
        try:
            function = stack.outputs["RefreshFunctionName"]
            check = _Check(run_function(session, function, {"check": True}))
        except FAILURES as error:
            check = _Check(failure=failure_of(error, {}))
    # Read after the check, which may change all of it.
    now = datetime.now(UTC)
    schedule, alarms = read_schedule_and_alarms(session, stack, now)
    return _Status(
        stack=stack.name,
        secret_id=secret_id,
        check=check,
        standing=Standing(
            now=now,
            refresh_before=timedelta(days=float(stack.parameter("RefreshBeforeDays"))),
            critical_before=timedelta(days=float(stack.parameter("CriticalDays"))),
            secret=read_secret(secrets_manager(session, secret_id), secret_id),
            login=read_session(session, stack),
            runs=read_memory(session, stack),
        ),
        schedule=schedule,
        alarms=alarms,
    )


def _exit_code(status: _Status) -> int:
    standing = status.standing
    if (
        standing.needs_a_person
        or status.schedule.state in {NONE, "DISABLED"}
        or "ALARM" in status.alarms.values()
    ):
        return ATTENTION
    unread = [status.schedule.state, *status.alarms.values()]
    if standing.has_gaps or any(map(is_unknown, unread)):
        return FAILED
    return FAILED if status.check is not None and not _was_checked(status.check) else OK


def _was_checked(check: _Check) -> bool:
    return check.result is not None and check.result["outcome"] in {
        "checked",
        "refreshed",
        "superseded",
    }


# ── For scripts ───────────────────────────────────────────────────────────────────────────────────


def _document(status: _Status) -> dict[str, object]:
    standing, schedule = status.standing, status.schedule
    secret, runs = standing.secret, standing.runs
    document = {
        "stack": status.stack,
        "secret_id": status.secret_id,
        "problem": secret.problem,
        **described_token(standing),
        "version_id": secret.held and secret.held.version_id,
        "written_at": iso(secret.written_at),
        "confirmed_at": iso(standing.confirmed_at),
        "refused_at": iso(standing.refused_at),
        "login": described_login(standing),
        "runs_problem": runs.problem,
        "incident": described_incident(runs.memory.incident),
        "last_alert": _described_alert(_last_alert(runs.memory)),
        "schedule": {
            "expression": schedule.expression,
            "state": schedule.state,
            "next_at": schedule.next_at and schedule.next_at.isoformat(timespec="seconds"),
        },
        "alarms": status.alarms,
    }
    if status.check is not None:
        failure = status.check.failure
        document["check"] = {
            "result": status.check.result,
            "error": None if failure is None else failure._asdict(),
        }
    return document


def _described_alert(alert: tuple[str, str, datetime] | None) -> dict[str, str] | None:
    if alert is None:
        return None
    severity, reason, at = alert
    return {"severity": severity, "reason": reason, "at": at.isoformat(timespec="seconds")}


# ── For people ────────────────────────────────────────────────────────────────────────────────────


def _print(console: "Console", status: _Status) -> None:
    print_rows(
        console,
        f"Stack {status.stack}",
        {
            "Check": _check_text(status.check),
            "Secret": status.secret_id,
            "Problem": _problem_text(status.standing),
            **_token_rows(status.standing),
            **_version_rows(status.standing.secret),
            **_login_rows(status.standing),
            **_run_rows(status.standing),
            "Schedule": _schedule_text(status.schedule),
            **{f"Alarm {name}": _alarm_text(state) for name, state in status.alarms.items()},
        },
    )


def _check_text(check: _Check | None) -> str | None:
    if check is None:
        return None
    if check.failure is not None:
        return f"failed: {check.failure.message} ({check.failure.reason}). {check.failure.advice}"
    assert check.result is not None  # noqa: S101 - the one or the other
    outcome = check.result["outcome"]
    return f"{outcome}: {in_words(outcome, check=True)}"


def _problem_text(standing: Standing) -> str | None:
    problem = standing.secret.problem
    if not standing.secret.awaits_first:
        return problem
    if standing.login.stored is not None:
        return f"{problem}: the next run gets the first one"
    return f"{problem}: put a token or a session in (make put-token)"


def _token_rows(standing: Standing) -> dict[str, object]:
    held = standing.secret.held
    if held is None:
        return {}
    token = held.token
    if standing.refused_at is not None:
        drawn = refused_bar()
    else:
        drawn = token_bar(
            token, standing.now, colour=_token_colour(standing), written_at=held.written_at
        )
    return {
        "Account": standing.account or "not said",
        "Issued": date(token.issued_at) if token.issued_at else "not said",
        "Expires": date(token.expires_at),
        "Time left": drawn,
        "Confirmed": _confirmed_text(standing),
    }


def _token_colour(standing: Standing) -> str:
    token, session = standing.secret.token, standing.session
    # If the token is its own login, its expiry is the login's end.
    is_login = session is None or session == Session()
    if standing.state is TokenState.EXPIRED or (
        is_login and token and not token.is_access_token and standing.is_ending
    ):
        return "red"
    return "green" if standing.state is TokenState.FRESH else "yellow"


def _confirmed_text(standing: Standing) -> object:
    if standing.runs.problem:
        return standing.runs.problem
    if standing.refused_at is not None:
        return Markup(f"[red]the API refused this token on {date(standing.refused_at)}[/red]")
    if standing.confirmed_at is None:
        return "not since it was put in (--check asks the API now)"
    return f"{date(standing.confirmed_at)}: the API accepted this token"


def _version_rows(secret: SecretReading) -> dict[str, object]:
    if secret.held is None or secret.written_at is None:
        return {}
    written = date(secret.written_at)
    if secret.held.written_at is None:
        # The label marks the keeper's version only until the keeper stages the next one.
        written += " (or put in by hand then)"
    return {"Version": secret.held.version_id, "Last refresh": written}


def _login_rows(standing: Standing) -> dict[str, object]:
    rows: dict[str, object] = {"Login": standing.kind[1]}
    session, expires_at = standing.session, standing.session_expires_at
    if session is None or session.refresh_token is None:
        return rows
    if expires_at is None:
        return {**rows, "Session expires": expiry_text(None)}
    left = expires_at - standing.now
    colour = "green"
    if session.email is None and left <= standing.refresh_before:
        colour = "red" if standing.is_ending else "yellow"
    return {
        **rows,
        "Session expires": date(expires_at),
        "Session left": bar(left, _SESSION_LIFE, colour=colour),
    }


def _run_rows(standing: Standing) -> dict[str, object]:
    if standing.runs.problem:
        return {"Incident": standing.runs.problem, "Last alert": standing.runs.problem}
    incident, alert = standing.runs.memory.incident, _last_alert(standing.runs.memory)
    return {
        "Incident": "none" if incident is None else incident_text(incident),
        "Last alert": "none is remembered"
        if alert is None
        else "{1} ({0}) on {2}".format(*alert[:2], date(alert[2])),
    }


def _last_alert(memory: RunMemory) -> tuple[str, str, datetime] | None:
    """Return the last published severity and reason, and when."""
    published = dict(memory.reminded)
    if memory.incident is not None:
        published |= memory.incident.published
    if not published:
        return None
    key = max(published, key=lambda each: published[each])
    # The key of a reminder may continue: with the end of a login.
    severity, reason, *_ = key.split()
    return severity, reason, published[key]


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
