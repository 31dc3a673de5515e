"""What the functions are told from outside: their environments and events, parsed once."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Final, Self

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


@dataclass(frozen=True, slots=True)
class Settings:
    """The refresh function's environment, validated."""

    secret_id: str
    api_base_url: str
    refresh_before: timedelta
    critical_before: timedelta
    alert_topic_arn: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment.

        Raises:
            ConfigError: names every variable that is missing or off, and what it should be.
        """
        with _reading(environ) as variables:
            refresh_before, critical_before = variables.windows()
            return cls(
                secret_id=variables.text(SECRET_ID, "the secret's ARN or name"),
                api_base_url=variables.url(API_BASE_URL),
                refresh_before=refresh_before,
                critical_before=critical_before,
                alert_topic_arn=variables.topic(),
            )


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """The environment of the fleet's dispatch function, validated."""

    stack: str
    tag: str
    queue_url: str
    refresh_before: timedelta
    critical_before: timedelta
    alert_topic_arn: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment. Raises: as ``Settings`` does."""
        with _reading(environ) as variables:
            refresh_before, critical_before = variables.windows()
            return cls(
                stack=variables.text(STACK_NAME, "the stack's name"),
                tag=variables.text(FLEET_TAG, "the key of a tag"),
                queue_url=variables.queue(),
                refresh_before=refresh_before,
                critical_before=critical_before,
                alert_topic_arn=variables.topic(),
            )


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The environment of the fleet's worker function, validated."""

    stack: str
    dispatch_function: str
    queue_url: str
    # How many workers there may be at once, and share what AWS lets an account write.
    workers: int
    api_base_url: str
    refresh_before: timedelta
    critical_before: timedelta
    alert_topic_arn: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment. Raises: as ``Settings`` does."""
        with _reading(environ) as variables:
            refresh_before, critical_before = variables.windows()
            return cls(
                stack=variables.text(STACK_NAME, "the stack's name"),
                dispatch_function=variables.text(DISPATCH_FUNCTION, "a function's name"),
                queue_url=variables.queue(),
                workers=variables.count(MAXIMUM_CONCURRENCY),
                api_base_url=variables.url(API_BASE_URL),
                refresh_before=refresh_before,
                critical_before=critical_before,
                alert_topic_arn=variables.topic(),
            )


class _Variables:
    """The variables of an environment; whatever is off with one is kept in ``problems``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str, should: str, *, start: str = "") -> str:
        value = self._environ.get(name, "").strip()
        if not value or not value.startswith(start):
            self._should(name, should)
        return value

    def topic(self) -> str:
        return self.text(ALERT_TOPIC_ARN, "the ARN of an SNS topic", start="arn:")

    def queue(self) -> str:
        return self.text(QUEUE_URL, "the URL of an SQS queue", start="http")

    def url(self, name: str) -> str:
        value = self._environ.get(name, "").strip().rstrip("/")
        if not is_safe_url(value):
            self._should(name, SAFE_URL)
        return value

    def windows(self) -> tuple[timedelta, timedelta]:
        """Return before how much time left to refresh, and how much is critical."""
        refresh_before, critical_before = map(self._days, (REFRESH_BEFORE_DAYS, CRITICAL_DAYS))
        if critical_before > refresh_before > timedelta():
            self.problems.append(f"{CRITICAL_DAYS} should not be more than {REFRESH_BEFORE_DAYS}")
        return refresh_before, critical_before

    def count(self, name: str) -> int:
        value = self._environ.get(name, "").strip()
        if not _COUNT_SHAPE.fullmatch(value):
            self._should(name, "a whole number from 1 to 9999")
            return 1
        return int(value)

    def _days(self, name: str) -> timedelta:
        value = _positive_days(self._environ.get(name, ""))
        if value is None:
            self._should(name, f"a number of days greater than 0, at most {_MOST_DAYS}")
        return value or timedelta()

    def _should(self, name: str, be: str) -> None:
        self.problems.append(f"{name} should be {be}")


@contextmanager
def _reading(environ: Mapping[str, str]) -> Iterator[_Variables]:
    """Read variables, and raise a ConfigError that names all that are off."""
    variables = _Variables(environ)
    yield variables
    if variables.problems:
        raise ConfigError(f"the environment is off: {'; '.join(variables.problems)}")


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


def _positive_days(text: str) -> timedelta | None:
    try:
        days = float(text)
    except ValueError:
        return None
    return timedelta(days=days) if math.isfinite(days) and 0 < days <= _MOST_DAYS else None
