"""What the functions are told from outside: their environments and events, parsed once."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from typing import Any, Final, Self

from qwen_token.errors import ConfigError
from qwen_token.origin import SAFE_URL, is_safe_url

SECRET_ID: Final = "SECRET_ID"  # noqa: S105 - no password
API_BASE_URL: Final = "API_BASE_URL"
REFRESH_BEFORE_DAYS: Final = "REFRESH_BEFORE_DAYS"
CRITICAL_DAYS: Final = "CRITICAL_DAYS"
ALERT_TOPIC_ARN: Final = "ALERT_TOPIC_ARN"
# The one that may be empty: no change events then.
EVENT_BUS_ARN: Final = "EVENT_BUS_ARN"
# The fleet's own.
STACK_NAME: Final = "STACK_NAME"
FLEET_TAG: Final = "FLEET_TAG"
QUEUE_URL: Final = "QUEUE_URL"
DISPATCH_FUNCTION: Final = "DISPATCH_FUNCTION"
MAXIMUM_CONCURRENCY: Final = "MAXIMUM_CONCURRENCY"

# Far beyond any token's life, and small enough to calculate with.
_MOST_DAYS: Final = 36_500
# A key that is none of these may be a value pasted into the wrong place: it is not repeated.
_NAME_SHAPE: Final = re.compile(r"\w{1,40}", re.ASCII)
_COUNT_SHAPE: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
# The key in a field's metadata.
_VARIABLE: Final = "variable"


@dataclass(frozen=True, slots=True)
class _Variable:
    """One variable of an environment; ``parse`` returns None for a value that is off."""

    name: str
    should_be: str
    parse: Callable[[str], object | None]


def _read(name: str, should_be: str, parse: Callable[[str], object | None]) -> dict[str, object]:
    """Return a field's metadata: which variable it is read from."""
    return {_VARIABLE: _Variable(name, should_be, parse)}


def _text(text: str, *, start: str = "") -> str | None:
    return text if text and text.startswith(start) else None


def _url(text: str) -> str | None:
    url = text.rstrip("/")
    return url if is_safe_url(url) else None


def _count(text: str) -> int | None:
    return int(text) if _COUNT_SHAPE.fullmatch(text) else None


def _days(text: str) -> timedelta | None:
    try:
        days = float(text)
    except ValueError:
        return None
    if not (math.isfinite(days) and 0 < days <= _MOST_DAYS):
        return None
    # None also where it is greater than 0, but rounds to no microsecond.
    return timedelta(days=days) or None


_DAYS: Final = f"a number of days greater than 0, at most {_MOST_DAYS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment of every function says, validated. Each field names its variable."""

    refresh_before: timedelta = field(metadata=_read(REFRESH_BEFORE_DAYS, _DAYS, _days))
    critical_before: timedelta = field(metadata=_read(CRITICAL_DAYS, _DAYS, _days))
    alert_topic_arn: str = field(
        metadata=_read(ALERT_TOPIC_ARN, "the ARN of an SNS topic", partial(_text, start="arn:"))
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment.

        Raises:
            ConfigError: names every variable that is missing or off, and what it should be.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for each in fields(cls):
            variable: _Variable = each.metadata[_VARIABLE]
            value = variable.parse(environ.get(variable.name, "").strip())
            if value is None:
                problems.append(f"{variable.name} should be {variable.should_be}")
            values[each.name] = value
        refresh_before, critical_before = values["refresh_before"], values["critical_before"]
        if refresh_before and critical_before and critical_before > refresh_before:
            problems.append(f"{CRITICAL_DAYS} should not be more than {REFRESH_BEFORE_DAYS}")
        if problems:
            raise ConfigError(f"the environment is off: {'; '.join(problems)}")
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSettings(Settings):
    """The refresh function's environment."""

    secret_id: str = field(metadata=_read(SECRET_ID, "the secret's ARN or name", _text))
    api_base_url: str = field(metadata=_read(API_BASE_URL, SAFE_URL, _url))


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings(Settings):
    """What the environments of both functions of the fleet say."""

    stack: str = field(metadata=_read(STACK_NAME, "the stack's name", _text))
    queue_url: str = field(
        metadata=_read(QUEUE_URL, "the URL of an SQS queue", partial(_text, start="http"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings(FleetSettings):
    """The environment of the fleet's dispatch function."""

    tag: str = field(metadata=_read(FLEET_TAG, "the key of a tag", _text))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(FleetSettings):
    """The environment of the fleet's worker function."""

    dispatch_function: str = field(metadata=_read(DISPATCH_FUNCTION, "a function's name", _text))
    # How many workers there may be at once, and share what AWS lets an account write.
    workers: int = field(
        metadata=_read(MAXIMUM_CONCURRENCY, "a whole number from 1 to 9999", _count)
    )
    api_base_url: str = field(metadata=_read(API_BASE_URL, SAFE_URL, _url))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The event, validated: what this one run should do differently."""

    force: bool = False
    dry_run: bool = False

    @classmethod
    def from_event(cls, event: object) -> Self:
        """Read the event: an object with none, one or both of the keys, each true or false.

        Raises:
            ConfigError: names every key that is unknown or has a value of a wrong type.
        """
        if not isinstance(event, Mapping):
            raise ConfigError(
                f"the event should be a JSON object, but is of type {type(event).__name__}"
            )
        known = {option.name for option in fields(cls)}
        problems = [
            f"unknown key {_shown(key)} (known: {', '.join(sorted(known))})"
            for key in event
            if key not in known
        ]
        problems += [
            f"{key} should be true or false, but is of type {type(event[key]).__name__}"
            for key in sorted(known & set(event))
            if not isinstance(event[key], bool)
        ]
        if problems:
            raise ConfigError(f"the event is off: {'; '.join(problems)}")
        return cls(**event)


def _shown(key: object) -> str:
    return repr(key) if isinstance(key, str) and _NAME_SHAPE.fullmatch(key) else "(not a name)"
