"""``status``: the token, its time left, the schedule and the alarms."""

import argparse
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from qwen_token.errors import StoreError, TokenError
from qwen_token.policy import assess
from qwen_token.secret_store import SecretStore
from qwen_token.tokens import in_days

from . import fleet_status
from .deployed import Stack, client_for, resources_of, secrets_manager, session_for
from .output import ATTENTION, FAILED, OK, Markup, bar, console_for, date, print_rows

# States of what could not be read, and of what is not there.
_UNKNOWN: Final = "unknown"
_NONE: Final = "none"
# The logical id of the refresh function's schedule.
_TIMER: Final = "RefreshFunctionTimer"
_NOT_FOUND: Final = "ResourceNotFoundException"

_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")


def check(options: argparse.Namespace) -> str | None:
    """Say what is off about the command line."""
    if options.all and not options.fleet:
        return "--all goes with --fleet"
    return None


def run(options: argparse.Namespace) -> int:
    if options.fleet:
        return fleet_status.run(options)
    console = console_for(options)
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    now = datetime.now(UTC)
    secret_id = stack.outputs["SecretArn"]
    client = secrets_manager(session, secret_id)
    refresh_before = timedelta(days=float(stack.parameters["RefreshBeforeDays"]))
    critical_before = timedelta(days=float(stack.parameters["CriticalDays"]))

    # Whatever may not be read, the rest is shown.
    token, version, problem, unread = None, None, None, False
    try:
        held = SecretStore(client, secret_id).read()
        if held is None:
            problem = "no token yet: put the first one in (make put-token)"
        else:
            token = held.token
            version = client.get_secret_value(SecretId=secret_id, VersionId=held.version_id)
    except TokenError as error:
        problem = f"{error} ({error.reason})"
    except StoreError as error:
        problem, unread = f"{error} ({error.reason})", True
    except (BotoCoreError, ClientError) as error:
        problem, unread = f"the version's age is {_unknown(error)}", True
    schedule, alarms = _schedule_and_alarms(session, stack, now)

    state = None if token is None else assess(token, now=now, refresh_before=refresh_before)
    written_at = None if version is None else version["CreatedDate"].astimezone(UTC)
    document = {
        "stack": stack.name,
        "secret_id": secret_id,
        "problem": problem,
        "account": token and token.account,
        "state": state and state.value,
        "issued_at": token and token.issued_at and token.issued_at.isoformat(),
        "expires_at": token and token.expires_at.isoformat(),
        "days_remaining": token and in_days(token.remaining(now)),
        "version_id": version and version["VersionId"],
        "written_at": written_at and written_at.isoformat(),
        "schedule": schedule,
        "alarms": alarms,
    }
    if console is None:
        print(json.dumps(document))
    else:
        print_rows(
            console,
            f"Stack {stack.name}",
            {
                "Secret": secret_id,
                "Problem": problem,
                "Account": token and token.account,
                "Issued": token and (date(token.issued_at) if token.issued_at else "not said"),
                "Expires": token and date(token.expires_at),
                "Time left": token
                and bar(token, now, refresh_before=refresh_before, critical_before=critical_before),
                "Version": document["version_id"],
                # Secrets Manager does not say by whom: a person's put looks the same.
                "Last refresh": written_at and f"{date(written_at)} (or put in by hand then)",
                "Schedule": _describe_schedule(schedule),
                **{f"Alarm {name}": _coloured(alarm) for name, alarm in alarms.items()},
            },
        )
    no_token = not unread and (token is None or token.remaining(now) < critical_before)
    if no_token or "ALARM" in alarms.values() or schedule["state"] in {_NONE, "DISABLED"}:
        return ATTENTION
    states = [schedule["state"], *alarms.values()]
    return FAILED if unread or any(state.startswith(_UNKNOWN) for state in states) else OK


def _schedule_and_alarms(
    session: boto3.Session, stack: Stack, now: datetime
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the schedule and the alarms' states; a state says where one could not be read."""
    schedule: dict[str, Any] = {"expression": None, "state": _NONE, "next_at": None}
    try:
        resources = resources_of(session, stack)
    except (BotoCoreError, ClientError) as error:
        return {**schedule, "state": _unknown(error)}, {"states": _unknown(error)}
    for name, logical_id in resources.get("AWS::Scheduler::Schedule", {}).items():
        if logical_id != _TIMER:
            # The fleet's.
            continue
        try:
            schedule = _read_schedule(session, name, now)
        except (BotoCoreError, ClientError) as error:
            schedule["state"] = _NONE if _code(error) == _NOT_FOUND else _unknown(error)
    alarms = resources.get("AWS::CloudWatch::Alarm", {})
    if not alarms:
        return schedule, {}
    try:
        described = client_for(session, "cloudwatch").describe_alarms(AlarmNames=list(alarms))
    except (BotoCoreError, ClientError) as error:
        return schedule, dict.fromkeys(alarms.values(), _unknown(error))
    states = {alarm["AlarmName"]: alarm["StateValue"] for alarm in described["MetricAlarms"]}
    return schedule, {alarms[name]: states.get(name, _NONE) for name in alarms}


def _code(error: Exception) -> str:
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "no code")
    return type(error).__name__


def _unknown(error: Exception) -> str:
    return f"{_UNKNOWN} ({_code(error)})"


def _read_schedule(session: boto3.Session, name: str, now: datetime) -> dict[str, Any]:
    found = client_for(session, "scheduler").get_schedule(Name=name)
    expression = found["ScheduleExpression"]
    next_at = None
    if found["State"] == "ENABLED" and (rate := _RATE.fullmatch(expression)):
        period = timedelta(**{f"{rate[2]}s": int(rate[1])})
        # A rate counts from the moment at which the schedule was made or last changed.
        start = found.get("LastModificationDate") or found["CreationDate"]
        next_at = start + (((now - start) // period) + 1) * period
    return {
        "expression": expression,
        "state": found["State"],
        "next_at": next_at and next_at.astimezone(UTC).isoformat(timespec="seconds"),
    }


def _describe_schedule(schedule: Mapping[str, Any]) -> str:
    if schedule["state"] != "ENABLED":
        expression = f"{schedule['expression']} is " if schedule["expression"] else ""
        colour = "yellow" if schedule["state"].startswith(_UNKNOWN) else "red"
        return Markup(f"[{colour}]{expression}{schedule['state']}[/{colour}]")
    if schedule["next_at"] is None:
        return str(schedule["expression"])
    next_at = date(datetime.fromisoformat(schedule["next_at"]))
    return f"{schedule['expression']}, next at about {next_at}"


def _coloured(alarm_state: str) -> Markup:
    colour = {"OK": "green", "ALARM": "red", _NONE: "red"}.get(alarm_state, "yellow")
    return Markup(f"[{colour}]{alarm_state}[/{colour}]")
