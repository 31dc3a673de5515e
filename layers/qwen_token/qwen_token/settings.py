"""What the function is told from outside: its environment and its event, parsed once."""

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Final, Self
from urllib.parse import urlsplit

from .errors import ConfigError

SECRET_ID: Final = "SECRET_ID"  # noqa: S105 - no password
API_BASE_URL: Final = "API_BASE_URL"
REFRESH_BEFORE_DAYS: Final = "REFRESH_BEFORE_DAYS"
CRITICAL_DAYS: Final = "CRITICAL_DAYS"
ALERT_TOPIC_ARN: Final = "ALERT_TOPIC_ARN"
# The one that may be empty: no change events then.
EVENT_BUS_ARN: Final = "EVENT_BUS_ARN"

SAFE_URL: Final = (
    "an https:// URL without user, query or fragment (http:// on a loopback address only)"
)

# Far beyond any token's life, and small enough to calculate with.
_MOST_DAYS: Final = 36_500
# A key that is none of these may be a value pasted into the wrong place: it is not repeated.
_NAME_SHAPE: Final = re.compile(r"\w{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Settings:
    """The function's environment, validated."""

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
        problems: list[str] = []

        def text(name: str, should: str, *, start: str = "") -> str:
            value = environ.get(name, "").strip()
            if not value or not value.startswith(start):
                problems.append(f"{name} should be {should}")
            return value

        def days(name: str) -> timedelta:
            value = _positive_days(environ.get(name, ""))
            if value is None:
                problems.append(
                    f"{name} should be a number of days greater than 0, at most {_MOST_DAYS}"
                )
            return value or timedelta()

        settings = cls(
            secret_id=text(SECRET_ID, "the secret's ARN or name"),
            api_base_url=environ.get(API_BASE_URL, "").strip().rstrip("/"),
            refresh_before=days(REFRESH_BEFORE_DAYS),
            critical_before=days(CRITICAL_DAYS),
            alert_topic_arn=text(ALERT_TOPIC_ARN, "the ARN of an SNS topic", start="arn:"),
        )
        if not is_safe_url(settings.api_base_url):
            problems.append(f"{API_BASE_URL} should be {SAFE_URL}")
        if settings.critical_before > settings.refresh_before > timedelta():
            problems.append(f"{CRITICAL_DAYS} should not be more than {REFRESH_BEFORE_DAYS}")
        if problems:
            raise ConfigError(f"the environment is off: {'; '.join(problems)}")
        return settings


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


def is_safe_url(url: str) -> bool:
    """Say whether a token may be sent there: https, or http that never leaves the machine."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
