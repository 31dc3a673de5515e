"""What AWS says about the deployed stack: its secret, its schedule and its alarms.

What cannot be read does not keep the rest from being read: it is said in place of the value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from qwen_token.errors import StoreError, TokenError
from qwen_token.secret_store import SecretStore
from qwen_token.tokens import Token

from .deployed import Stack, client_for, resources_of

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# The states of a schedule or an alarm that does not exist, and of one that could not be read.
NONE: Final = "none"
_UNKNOWN: Final = "unknown"

# The logical id of the refresh function's schedule. The fleet has another one.
_TIMER: Final = "RefreshFunctionTimer"
_NOT_FOUND: Final = "ResourceNotFoundException"
_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")


@dataclass(frozen=True, slots=True)
class SecretReading:
    """The secret's token and when its version was written, or why they are missing."""

    token: Token | None = None
    version_id: str | None = None
    written_at: datetime | None = None
    problem: str | None = None
    # The secret could not be read, which says nothing about the token.
    unread: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleReading:
    """When the refresh function runs. ``state`` is EventBridge's, ``none`` or ``unknown (why)``."""

    state: str
    expression: str | None = None
    next_at: datetime | None = None


def read_secret(client: "SecretsManagerClient", secret_id: str) -> SecretReading:
    try:
        held = SecretStore(client, secret_id).read()
    except TokenError as error:
        return SecretReading(problem=f"{error} ({error.reason})")
    except StoreError as error:
        return SecretReading(problem=f"{error} ({error.reason})", unread=True)
    if held is None:
        return SecretReading(problem="no token yet: put the first one in (make put-token)")
    try:
        version = client.get_secret_value(SecretId=secret_id, VersionId=held.version_id)
    except (BotoCoreError, ClientError) as error:
        problem = f"the version's age is {_unknown(error)}"
        return SecretReading(held.token, problem=problem, unread=True)
    return SecretReading(
        held.token, version["VersionId"], written_at=version["CreatedDate"].astimezone(UTC)
    )


def read_schedule_and_alarms(
    session: boto3.Session, stack: Stack, now: datetime
) -> tuple[ScheduleReading, dict[str, str]]:
    """Return the schedule, and each alarm's state by the alarm's logical id."""
    try:
        resources = resources_of(session, stack)
    except (BotoCoreError, ClientError) as error:
        return ScheduleReading(_unknown(error)), {"states": _unknown(error)}
    schedules = resources.get("AWS::Scheduler::Schedule", {})
    alarms = resources.get("AWS::CloudWatch::Alarm", {})
    return _read_schedule(session, schedules, now), _read_alarms(session, alarms)


def is_unknown(state: str) -> bool:
    return state.startswith(_UNKNOWN)


def _read_schedule(
    session: boto3.Session, schedules: Mapping[str, str], now: datetime
) -> ScheduleReading:
    name = next((name for name, logical_id in schedules.items() if logical_id == _TIMER), None)
    if name is None:
        return ScheduleReading(NONE)
    try:
        found = client_for(session, "scheduler").get_schedule(Name=name)
    except (BotoCoreError, ClientError) as error:
        return ScheduleReading(NONE if _code(error) == _NOT_FOUND else _unknown(error))
    return ScheduleReading(
        found["State"], found["ScheduleExpression"], next_at=_next_run(found, now)
    )


def _next_run(schedule: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return the time of the next run, if the schedule is on and says a rate."""
    rate = _RATE.fullmatch(schedule["ScheduleExpression"])
    if schedule["State"] != "ENABLED" or rate is None:
        return None
    period = timedelta(**{f"{rate[2]}s": int(rate[1])})
    # A rate counts from the moment at which the schedule was made or last changed.
    start: datetime = schedule.get("LastModificationDate") or schedule["CreationDate"]
    return (start + ((now - start) // period + 1) * period).astimezone(UTC)


def _read_alarms(session: boto3.Session, alarms: Mapping[str, str]) -> dict[str, str]:
    if not alarms:
        return {}
    try:
        described = client_for(session, "cloudwatch").describe_alarms(AlarmNames=list(alarms))
    except (BotoCoreError, ClientError) as error:
        return dict.fromkeys(alarms.values(), _unknown(error))
    states = {alarm["AlarmName"]: alarm["StateValue"] for alarm in described["MetricAlarms"]}
    return {logical_id: states.get(name, NONE) for name, logical_id in alarms.items()}


def _unknown(error: Exception) -> str:
    return f"{_UNKNOWN} ({_code(error)})"


def _code(error: Exception) -> str:
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "no code")
    return type(error).__name__
