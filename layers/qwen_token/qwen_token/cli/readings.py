"""Reads the deployed stack's secrets, runs, schedule and alarms from AWS.

If one of them cannot be read, the reason takes the value's place, and the rest is read.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.exceptions import ClientError

from qwen_token.errors import SessionMalformedError, StoreError, TokenError
from qwen_token.run_memory import RunMemory
from qwen_token.secret_store import AWS_CONFIG, CURRENT, SecretStore, held_in, translated, whole
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import StoredSession
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import Token

from .deployed import Stack, client_for, resources_of, secrets_manager
from .failures import FAILURES, asked

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# The states of a schedule or an alarm that does not exist, and of one that could not be read.
NONE: Final = "none"
_UNKNOWN: Final = "unknown"

# The logical id of the refresh function's schedule. The fleet has another one.
_TIMER: Final = "RefreshFunctionTimer"
_DENIED: Final = "AccessDenied"
_NOT_FOUND: Final = "ResourceNotFoundException"
_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")


@dataclass(frozen=True, slots=True)
class SecretReading:
    """The secret's token and when its version was written, or why they are missing."""

    held: StoredToken | None = None
    written_at: datetime | None = None
    problem: str | None = None
    # The secret could not be read, which says nothing about the token.
    unread: bool = False
    # It never had a value.
    awaits_first: bool = False

    @property
    def token(self) -> Token | None:
        """The token, if there is one."""
        return None if self.held is None else self.held.token


@dataclass(frozen=True, slots=True)
class SessionReading:
    """The session secret's login, or why it is missing. None of this may be shown as it is.

    A ``problem`` without ``unread`` is one that a person has to fix.
    """

    stored: StoredSession | None = None
    problem: str | None = None
    unread: bool = False
    # Most people should not be allowed to read it.
    forbidden: bool = False
    # There is a session secret, with or without a value.
    exists: bool = False


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """The runs' memory, or why it could not be read."""

    memory: RunMemory = field(default_factory=RunMemory)
    problem: str | None = None


NO_STATE_TABLE: Final = MemoryReading(
    problem=f"{_UNKNOWN} (the stack has no state table: deploy it anew)"
)


@dataclass(frozen=True, slots=True)
class ScheduleReading:
    """When the refresh function runs. ``state`` is EventBridge's, ``none`` or ``unknown (why)``."""

    state: str
    expression: str | None = None
    next_at: datetime | None = None


def read_secret(client: "SecretsManagerClient", secret_id: str) -> SecretReading:
    answer: Mapping[str, Any] = {}
    try:
        # There is no value or no secret: the store finds out which.
        not_found = client.exceptions.ResourceNotFoundException
        with translated(f"read the secret {secret_id}"), suppress(not_found):
            answer = whole(client.get_secret_value(SecretId=secret_id, VersionStage=CURRENT))
        if answer.get("SecretString") or answer.get("SecretBinary"):
            held: StoredToken | None = held_in(answer)
        else:
            held = SecretStore(client, secret_id).read()
    except TokenError as error:
        return SecretReading(problem=f"{error} ({error.reason})")
    except StoreError as error:
        return SecretReading(problem=f"{error} ({error.reason})", unread=True)
    if held is None:
        return SecretReading(problem="no token yet", awaits_first=True)
    written_at: datetime | None = answer.get("CreatedDate")
    return SecretReading(held, written_at and written_at.astimezone(UTC))


def read_session(session: boto3.Session, stack: Stack) -> SessionReading:
    """Return the login in the stack's session secret, or none if the stack has no such secret."""
    secret_id = stack.outputs.get("SessionSecretArn")
    if secret_id is None:
        return SessionReading()
    try:
        return SessionReading(SessionStore(secrets_manager(session, secret_id), secret_id).read())
    except SessionMalformedError as error:
        return SessionReading(problem=f"{error} ({error.reason})")
    except StoreError as error:
        return unread_session(error)


def unread_session(error: StoreError, *, exists: bool = False) -> SessionReading:
    """Return that the session secret could not be read; ``exists``: it is known to be there."""
    forbidden = error.__cause__ is not None and _DENIED in _code(error.__cause__)
    return SessionReading(problem=str(error), unread=True, forbidden=forbidden, exists=exists)


def read_memory(session: boto3.Session, stack: Stack) -> MemoryReading:
    """Return the runs' memory of the stack's secret."""
    table = stack.outputs.get("StateTableName")
    if table is None:
        return NO_STATE_TABLE
    key = {"secret_id": {"S": stack.outputs["SecretArn"]}}
    try:
        client = client_for(session, "dynamodb", config=AWS_CONFIG)
        with asked("DynamoDB"):
            answer = client.get_item(TableName=table, Key=key, ConsistentRead=True)
            text = answer.get("Item", {}).get("memory", {}).get("S")
    except FAILURES as error:
        return unread_memory(error)
    return memory_in(text)


def memory_in(text: str | None) -> MemoryReading:
    """Read the memory in an item of the state table; ``text`` is None if there is none."""
    if text is None:
        return MemoryReading()
    try:
        return MemoryReading(RunMemory.from_json(text))
    except ValueError:
        return MemoryReading(problem=f"{_UNKNOWN} (another release wrote it)")


def unread_memory(error: BaseException) -> MemoryReading:
    """Return that the state table could not be read."""
    return MemoryReading(problem=_unknown(error))


def read_schedule_and_alarms(
    session: boto3.Session, stack: Stack, now: datetime
) -> tuple[ScheduleReading, dict[str, str]]:
    """Return the schedule, and each alarm's state by the alarm's logical id."""
    try:
        resources = resources_of(session, stack)
    except FAILURES as error:
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
        client = client_for(session, "scheduler")
        with asked("Scheduler"):
            found = client.get_schedule(Name=name)
            state, expression = found["State"], found["ScheduleExpression"]
    except FAILURES as error:
        return ScheduleReading(NONE if _code(error) == _NOT_FOUND else _unknown(error))
    return ScheduleReading(state, expression, next_at=_next_run(found, now))


def _next_run(schedule: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return the time of the next run, if the schedule is enabled and has a rate."""
    rate = _RATE.fullmatch(schedule["ScheduleExpression"])
    if schedule["State"] != "ENABLED" or rate is None:
        return None
    period = timedelta(**{f"{rate[2]}s": int(rate[1])})
    # A rate counts from when the schedule was created or last changed.
    start: datetime = schedule.get("LastModificationDate") or schedule["CreationDate"]
    return (start + ((now - start) // period + 1) * period).astimezone(UTC)


def _read_alarms(session: boto3.Session, alarms: Mapping[str, str]) -> dict[str, str]:
    if not alarms:
        return {}
    try:
        client = client_for(session, "cloudwatch")
        with asked("CloudWatch"):
            described = client.describe_alarms(AlarmNames=list(alarms))["MetricAlarms"]
            states = {alarm["AlarmName"]: alarm["StateValue"] for alarm in described}
    except FAILURES as error:
        return dict.fromkeys(alarms.values(), _unknown(error))
    return {logical_id: states.get(name, NONE) for name, logical_id in alarms.items()}


def _unknown(error: BaseException) -> str:
    return f"{_UNKNOWN} ({_code(error)})"


def _code(error: BaseException) -> str:
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "no code")
    return type(error).__name__
