"""``status``: the token and its login, their time left, what the runs met, schedule and alarms."""

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from qwen_token.errors import TokenRejectedError
from qwen_token.policy import Severity, TokenState, login_ends_at, state_of
from qwen_token.run_memory import Incident, RunMemory
from qwen_token.session import Grant, Session
from qwen_token.tokens import date, in_days, iso

from . import fleet_status
from .deployed import Stack, run_function, secrets_manager, session_for
from .failures import FAILURES, CommandFailure, failure_of
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
    MemoryReading,
    ScheduleReading,
    SecretReading,
    SessionReading,
    is_unknown,
    read_memory,
    read_schedule_and_alarms,
    read_secret,
    read_session,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

SUMMARY: Final = "show the token and its login, their time left, the last trouble, the alarms"

# What a session is drawn against: the secret does not say when its login began.
_SESSION_LIFE: Final = timedelta(days=30)

# The kinds of login, by whether there is a refresh credential and a sign-in.
_KINDS: Final = {
    (True, False): ("session", "session (a refresh credential)"),
    (False, True): ("sign_in", "sign-in (e-mail and password)"),
    (True, True): ("session_and_sign_in", "session (a refresh credential), and a sign-in"),
}


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
    """What became of asking the API, by the function's result or its failure."""

    result: "Mapping[str, Any] | None" = None
    failure: CommandFailure | None = None


@dataclass(frozen=True, slots=True)
class _Status:
    """All that is shown of the deployed stack."""

    stack: str
    secret_id: str
    refresh_before: timedelta
    critical_before: timedelta
    now: datetime
    check: _Check | None
    secret: SecretReading
    login: SessionReading
    runs: MemoryReading
    schedule: ScheduleReading
    alarms: "Mapping[str, str]"

    @property
    def session(self) -> Session | None:
        """The session beside the token, an empty one where there is none; None: not known."""
        stored = self.login.stored
        if stored is None:
            return None if self.login.problem else Session()
        return stored.session

    @property
    def session_expires_at(self) -> datetime | None:
        """When the refresh credential expires: a run may have learnt it since it was stored."""
        stored, memory = self.login.stored, self.runs.memory
        if stored is None or stored.session.refresh_token is None:
            return None
        if memory.session_version_id == stored.version_id and memory.session_expires_at:
            return memory.session_expires_at
        return stored.session.expires_at

    @property
    def login_ends_at(self) -> datetime | None:
        """When a person is needed at the latest; None: no end is known."""
        token, session = self.secret.token, self.session
        if session is None:
            # What cannot be read may well be a session: an access token has one as a rule.
            return None if token is None or token.is_access_token else token.expires_at
        if session.email is None and session.refresh_token is not None:
            return self.session_expires_at
        return login_ends_at(token, session)

    @property
    def account(self) -> str | None:
        """The account of the token, as it says itself or as the API said to a run."""
        held, memory = self.secret.held, self.runs.memory
        if held is not None and held.token.account is not None:
            return held.token.account
        if held is not None and memory.confirmed_version_id == held.version_id:
            return memory.account
        return None

    @property
    def confirmed_at(self) -> datetime | None:
        """When the API last accepted this very token."""
        held, memory = self.secret.held, self.runs.memory
        is_this = held is not None and memory.confirmed_version_id == held.version_id
        return memory.confirmed_at if is_this else None

    @property
    def refused_at(self) -> datetime | None:
        """When the API refused this very token, if it has not accepted it since."""
        held, refusal = self.secret.held, self.runs.memory.refusals.get(Grant.EXCHANGE)
        if held is None or refusal is None or refusal.version_id != held.version_id:
            return None
        if refusal.reason != TokenRejectedError.reason:
            return None
        confirmed_at = self.confirmed_at
        return refusal.at if confirmed_at is None or confirmed_at < refusal.at else None

    @property
    def state(self) -> TokenState | None:
        """The token's place on its timeline."""
        held = self.secret.held
        if held is None:
            return None
        return state_of(held, now=self.now, refresh_before=self.refresh_before)

    def is_ending(self) -> bool:
        """Return whether the login ends so soon that a person is needed now."""
        ends_at = self.login_ends_at
        return ends_at is not None and ends_at - self.now < self.critical_before


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
    # After the check, which may change all of it.
    now = datetime.now(UTC)
    secret = read_secret(secrets_manager(session, secret_id), secret_id)
    login = read_session(session, stack)
    runs = read_memory(session, stack)
    schedule, alarms = read_schedule_and_alarms(session, stack, now)
    return _Status(
        stack=stack.name,
        secret_id=secret_id,
        refresh_before=timedelta(days=float(stack.parameter("RefreshBeforeDays"))),
        critical_before=timedelta(days=float(stack.parameter("CriticalDays"))),
        now=now,
        check=check,
        secret=secret,
        login=login,
        runs=runs,
        schedule=schedule,
        alarms=alarms,
    )


def _exit_code(status: _Status) -> int:
    if _needs_a_person(status):
        return ATTENTION
    unread = [status.schedule.state, *status.alarms.values()]
    if status.secret.unread or any(map(is_unknown, unread)) or status.runs.problem:
        return FAILED
    if status.login.unread and not status.login.forbidden:
        return FAILED
    return FAILED if status.check is not None and not _was_checked(status.check) else OK


def _needs_a_person(status: _Status) -> bool:
    secret, incident = status.secret, status.runs.memory.incident
    if not secret.unread:
        # The next run gets a first token where there is a login to get it with.
        waits = secret.awaits_first and status.login.stored is not None
        if secret.token is None and not waits:
            return True
        if status.state is TokenState.EXPIRED or status.refused_at or status.is_ending():
            return True
    if status.login.problem and not status.login.unread:
        return True
    if incident is not None and incident.highest in {Severity.WARNING, Severity.CRITICAL}:
        return True
    return status.schedule.state in {NONE, "DISABLED"} or "ALARM" in status.alarms.values()


def _was_checked(check: _Check) -> bool:
    return check.result is not None and check.result["outcome"] in {
        "checked",
        "refreshed",
        "superseded",
    }


# ── For scripts ───────────────────────────────────────────────────────────────────────────────────


def _document(status: _Status) -> dict[str, object]:
    secret, schedule = status.secret, status.schedule
    document = {
        "stack": status.stack,
        "secret_id": status.secret_id,
        "problem": secret.problem,
        **_described_token(status),
        "version_id": secret.held and secret.held.version_id,
        "written_at": iso(secret.written_at),
        "confirmed_at": iso(status.confirmed_at),
        "refused_at": iso(status.refused_at),
        "login": _described_login(status),
        "runs_problem": status.runs.problem,
        "incident": _described_incident(status.runs.memory.incident),
        "last_alert": _described_alert(_last_alert(status.runs.memory)),
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


def _described_token(status: _Status) -> dict[str, object]:
    token, state = status.secret.token, status.state
    if token is None or state is None:
        names = ("account", "state", "issued_at", "expires_at", "days_remaining")
        return dict.fromkeys(names)
    return {
        "account": status.account,
        "state": state.value,
        "issued_at": iso(token.issued_at),
        "expires_at": token.expires_at.isoformat(),
        "days_remaining": in_days(token.remaining(status.now)),
    }


def _described_login(status: _Status) -> dict[str, object]:
    expires_at, ends_at = status.session_expires_at, status.login_ends_at
    return {
        "kind": _kind(status)[0],
        "problem": status.login.problem,
        "session_expires_at": iso(expires_at),
        "session_days_remaining": expires_at and in_days(expires_at - status.now),
        "ends_at": iso(ends_at),
    }


def _described_incident(incident: Incident | None) -> dict[str, object] | None:
    if incident is None:
        return None
    return {
        "since": incident.since.isoformat(timespec="seconds"),
        "severity": incident.highest and incident.highest.value,
        "reason": incident.reason or None,
        "message": incident.message or None,
    }


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
            "Problem": _problem_text(status),
            **_token_rows(status),
            **_version_rows(status.secret),
            **_login_rows(status),
            **_run_rows(status),
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


def _problem_text(status: _Status) -> str | None:
    problem = status.secret.problem
    if not status.secret.awaits_first:
        return problem
    if status.login.stored is not None:
        return f"{problem}: the next run gets the first one"
    return f"{problem}: put a token or a session in (make put-token)"


def _token_rows(status: _Status) -> dict[str, object]:
    held = status.secret.held
    if held is None:
        return {}
    token = held.token
    if status.refused_at is not None:
        drawn = refused_bar()
    else:
        drawn = token_bar(
            token, status.now, colour=_token_colour(status), written_at=held.written_at
        )
    return {
        "Account": status.account or "not said",
        "Issued": date(token.issued_at) if token.issued_at else "not said",
        "Expires": date(token.expires_at),
        "Time left": drawn,
        "Confirmed": _confirmed_text(status),
    }


def _token_colour(status: _Status) -> str:
    token, session = status.secret.token, status.session
    # Where a token is its own login, its end is the login's.
    is_login = session is None or session == Session()
    if status.state is TokenState.EXPIRED or (
        is_login and token and not token.is_access_token and status.is_ending()
    ):
        return "red"
    return "green" if status.state is TokenState.FRESH else "yellow"


def _confirmed_text(status: _Status) -> object:
    if status.runs.problem:
        return status.runs.problem
    if status.refused_at is not None:
        return Markup(f"[red]the API refused this token on {date(status.refused_at)}[/red]")
    if status.confirmed_at is None:
        return "not since it was put in (--check asks the API now)"
    return f"{date(status.confirmed_at)}: the API accepted this token"


def _version_rows(secret: SecretReading) -> dict[str, object]:
    if secret.held is None or secret.written_at is None:
        return {}
    written = date(secret.written_at)
    if secret.held.written_at is None:
        # A label tells the keeper's version, but only until it stages the next one.
        written += " (or put in by hand then)"
    return {"Version": secret.held.version_id, "Last refresh": written}


def _kind(status: _Status) -> tuple[str | None, str]:
    """Return the kind of login: for scripts, and in words."""
    token, session = status.secret.token, status.session
    if session is None:
        unread = "not known: the session secret "
        unread += "may not be read from here" if status.login.forbidden else "cannot be read"
        return None, f"{unread} ({status.login.problem})"
    has = session.refresh_token is not None, session.email is not None
    if has in _KINDS:
        return _KINDS[has]
    if token is None:
        return "none", "none: there is nothing to get a token with"
    if token.is_access_token:
        return "none", "none: an access token cannot be renewed by itself"
    return "token", "token (its own login)"


def _login_rows(status: _Status) -> dict[str, object]:
    rows: dict[str, object] = {"Login": _kind(status)[1]}
    session, expires_at = status.session, status.session_expires_at
    if session is None or session.refresh_token is None:
        return rows
    if expires_at is None:
        return {**rows, "Session expires": "not known; as a rule 30 days after the log-in"}
    left = expires_at - status.now
    colour = "green"
    if session.email is None and left <= status.refresh_before:
        colour = "red" if status.is_ending() else "yellow"
    return {
        **rows,
        "Session expires": date(expires_at),
        "Session left": bar(left, _SESSION_LIFE, colour=colour),
    }


def _run_rows(status: _Status) -> dict[str, object]:
    if status.runs.problem:
        return {"Incident": status.runs.problem, "Last alert": status.runs.problem}
    incident, alert = status.runs.memory.incident, _last_alert(status.runs.memory)
    return {
        "Incident": "none" if incident is None else _incident_text(incident),
        "Last alert": "none is remembered"
        if alert is None
        else "{1} ({0}) on {2}".format(*alert[:2], date(alert[2])),
    }


def _incident_text(incident: Incident) -> str:
    since = f"since {date(incident.since)}"
    if incident.highest is None:
        return f"{since}: not published yet, the function's log says what it is (make logs)"
    return f"{since}: {incident.message} ({incident.reason}, {incident.highest.value})"


def _last_alert(memory: RunMemory) -> tuple[str, str, datetime] | None:
    """Return the severity and reason that were published last, and when."""
    published = dict(memory.reminded)
    if memory.incident is not None:
        published |= memory.incident.published
    if not published:
        return None
    key = max(published, key=lambda each: published[each])
    # What a reminder is about may follow: the end of a login.
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
