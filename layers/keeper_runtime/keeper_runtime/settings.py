"""The functions' environments and events, parsed once."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from typing import Any, Final, Self
from urllib.parse import urlsplit

from qwen_token.errors import ConfigError
from qwen_token.origin import AUTH_BASE_URL as QWENS_AUTH_BASE_URL
from qwen_token.origin import SAFE_URL, is_loopback, is_safe_url
from qwen_token.policy import AlertPolicy

SECRET_ID: Final = "SECRET_ID"  # noqa: S105 - no password
API_BASE_URL: Final = "API_BASE_URL"
REFRESH_BEFORE_DAYS: Final = "REFRESH_BEFORE_DAYS"
CRITICAL_DAYS: Final = "CRITICAL_DAYS"
ALERT_TOPIC_ARN: Final = "ALERT_TOPIC_ARN"
STATE_TABLE: Final = "STATE_TABLE"
ALERT_AFTER_MINUTES: Final = "ALERT_AFTER_MINUTES"
WEB_VERSION: Final = "WEB_VERSION"
USER_AGENT: Final = "USER_AGENT"
# Variables that may be empty: no session secret, an API that signs in itself, no change events.
SESSION_SECRET_ID: Final = "SESSION_SECRET_ID"  # noqa: S105 - no password
AUTH_BASE_URL: Final = "AUTH_BASE_URL"
EVENT_BUS_ARN: Final = "EVENT_BUS_ARN"

# Longer than any token's life, and small enough for calculations.
_MOST_DAYS: Final = 36_500
# A key with other characters may be a value pasted into the wrong place, so it is not quoted.
_NAME_SHAPE: Final = re.compile(r"[A-Za-z_]{1,20}")
_MOST_NAMED: Final = 3
_MINUTES_SHAPE: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
# A valid header value, without line breaks, which could begin another header.
_HEADER_SHAPE: Final = re.compile(r"[ -~]{1,256}")
# The key in a field's metadata.
_VARIABLE: Final = "variable"


@dataclass(frozen=True, slots=True)
class _Variable:
    """A variable of an environment; ``parse`` returns None for an invalid value."""

    name: str
    should_be: str
    parse: Callable[[str], object | None]


def read_from(
    name: str, should_be: str, parse: Callable[[str], object | None]
) -> dict[str, object]:
    """Return a field's metadata, which name its variable."""
    return {_VARIABLE: _Variable(name, should_be, parse)}


def text(value: str, *, start: str = "") -> str | None:
    """Return a text that is not empty and has the right beginning."""
    return value if value and value.startswith(start) else None


def url(value: str) -> str | None:
    """Return a URL to which a token may be sent, without a slash at its end."""
    return value.rstrip("/") if is_safe_url(value) else None


def _days(text: str) -> timedelta | None:
    try:
        days = float(text)
    except ValueError:
        return None
    if not (math.isfinite(days) and 0 < days <= _MOST_DAYS):
        return None
    # None, too, if it is greater than 0 but rounds to 0 microseconds.
    return timedelta(days=days) or None


def _minutes(text: str) -> timedelta | None:
    return timedelta(minutes=int(text)) if _MINUTES_SHAPE.fullmatch(text) else None


def _is_qwens(url: str) -> bool:
    """Return whether a safe URL is of a host of Qwen, or (in tests) of this machine."""
    host = _host(url)
    return host == "qwen.ai" or host.endswith(".qwen.ai") or is_loopback(host)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _optional(text: str) -> str | None:
    return text


def _optional_url(text: str) -> str | None:
    return text and url(text)


def _header(text: str) -> str | None:
    return text if _HEADER_SHAPE.fullmatch(text) else None


_DAYS: Final = f"a number of days greater than 0, at most {_MOST_DAYS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The validated environment of every function. Each field names its variable."""

    refresh_before: timedelta = field(metadata=read_from(REFRESH_BEFORE_DAYS, _DAYS, _days))
    critical_before: timedelta = field(metadata=read_from(CRITICAL_DAYS, _DAYS, _days))
    # Checked here, but read by ``Reporter``, which also reports an invalid environment.
    alert_topic_arn: str = field(
        metadata=read_from(ALERT_TOPIC_ARN, "the ARN of an SNS topic", partial(text, start="arn:"))
    )
    alert_after: timedelta = field(
        metadata=read_from(ALERT_AFTER_MINUTES, "a whole number of minutes, or 0", _minutes)
    )
    state_table: str = field(metadata=read_from(STATE_TABLE, "the name of a DynamoDB table", text))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment.

        Raises:
            ConfigError: names every missing or invalid variable, and what it should be.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for each in fields(cls):
            variable: _Variable = each.metadata[_VARIABLE]
            value = variable.parse(environ.get(variable.name, "").strip())
            if value is None:
                problems.append(f"{variable.name} should be {variable.should_be}")
            values[each.name] = value
        problems += cls._contradictions(values)
        if problems:
            raise ConfigError(f"invalid environment: {'; '.join(problems)}")
        return cls(**values)

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the combination of values; None stands for an invalid one."""
        refresh_before, critical_before = values["refresh_before"], values["critical_before"]
        if refresh_before and critical_before and critical_before > refresh_before:
            return [f"{CRITICAL_DAYS} should not be more than {REFRESH_BEFORE_DAYS}"]
        return []

    def alert_policy(self) -> AlertPolicy:
        """Return when a failure becomes more severe."""
        return AlertPolicy(self.alert_after, self.critical_before, self.refresh_before)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings(Settings):
    """The hosts of Qwen in the environment of a function that calls them."""

    api_base_url: str = field(metadata=read_from(API_BASE_URL, SAFE_URL, url))
    auth_base_url: str = field(
        metadata=read_from(AUTH_BASE_URL, f"{SAFE_URL}, or empty", _optional_url)
    )
    web_version: str = field(
        metadata=read_from(WEB_VERSION, "the version that the sign-in host asks for", _header)
    )
    user_agent: str = field(metadata=read_from(USER_AGENT, "a header's value", _header))

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        # super() without arguments does not work in a dataclass with slots.
        problems = super(HostSettings, cls)._contradictions(values)
        api, sign_in = values["api_base_url"], values["auth_base_url"]
        goes_to_qwen = sign_in and _host(sign_in) == _host(QWENS_AUTH_BASE_URL)
        if api and goes_to_qwen and not _is_qwens(api):
            # The password of an Open WebUI server must never go to Qwen.
            problems.append(
                f"{AUTH_BASE_URL} should be empty, because {API_BASE_URL} is not Qwen's: an Open "
                "WebUI server signs in itself"
            )
        return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSettings(HostSettings):
    """The refresh function's environment."""

    secret_id: str = field(metadata=read_from(SECRET_ID, "the secret's ARN or name", text))
    session_secret_id: str = field(
        metadata=read_from(
            SESSION_SECRET_ID, "the session secret's ARN or name, or empty", _optional
        )
    )


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The validated event: the options of this run."""

    force: bool = False
    dry_run: bool = False
    check: bool = False

    @classmethod
    def from_event(cls, event: object) -> Self:
        """Read the event: an object with any of the keys, each true or false.

        Raises:
            ConfigError: names every key that is unknown or has a value of a wrong type.
        """
        if not isinstance(event, Mapping):
            raise ConfigError(
                f"the event should be a JSON object, but is of type {type(event).__name__}"
            )
        known = {option.name for option in fields(cls)}
        unknown = [key for key in event if key not in known]
        problems = [
            f"unknown key {_shown(key)} (known: {', '.join(sorted(known))})"
            for key in unknown[:_MOST_NAMED]
        ]
        if len(unknown) > _MOST_NAMED:
            # The message becomes an alert, and an event may have thousands of keys.
            problems.append(f"and {len(unknown) - _MOST_NAMED} more unknown keys")
        problems += [
            f"{key} should be true or false, but is of type {type(event[key]).__name__}"
            for key in sorted(known & set(event))
            if not isinstance(event[key], bool)
        ]
        if problems:
            raise ConfigError(f"invalid event: {'; '.join(problems)}")
        return cls(**event)


def _shown(key: object) -> str:
    return repr(key) if isinstance(key, str) and _NAME_SHAPE.fullmatch(key) else "(not a name)"
