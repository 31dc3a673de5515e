"""The settings of the fleet's functions, parsed once from their environments."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

from keeper_runtime.settings import HostSettings, Settings, read_from, text

STACK_NAME: Final = "STACK_NAME"
FLEET_TAG: Final = "FLEET_TAG"
QUEUE_URL: Final = "QUEUE_URL"
DISPATCH_FUNCTION: Final = "DISPATCH_FUNCTION"
MAXIMUM_CONCURRENCY: Final = "MAXIMUM_CONCURRENCY"
FLEET_SCHEDULE: Final = "FLEET_SCHEDULE"
CHECK_SCHEDULE: Final = "CHECK_SCHEDULE"

_RATE: Final = re.compile(r"rate\(([1-9][0-9]{0,2}) (minute|hour)s?\)")
_COUNT_SHAPE: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)


def _count(value: str) -> int | None:
    return int(value) if _COUNT_SHAPE.fullmatch(value) else None


def _interval(value: str) -> timedelta | None:
    found = _RATE.fullmatch(value)
    return timedelta(**{f"{found[2]}s": int(found[1])}) if found else None


def _checks(value: str) -> bool | None:
    return bool(value)


_STACK: Final = read_from(STACK_NAME, "the stack's name", text)
_QUEUE: Final = read_from(QUEUE_URL, "the URL of an SQS queue", partial(text, start="http"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings(Settings):
    """The environment of the fleet's dispatch function."""

    stack: str = field(metadata=_STACK)
    queue_url: str = field(metadata=_QUEUE)
    tag: str = field(metadata=read_from(FLEET_TAG, "the key of a tag", text))
    # The time between two sweeps: each queues what falls due before the next one.
    interval: timedelta = field(
        metadata=read_from(FLEET_SCHEDULE, "rate(N minutes) or rate(N hours)", _interval)
    )
    checks: bool = field(metadata=read_from(CHECK_SCHEDULE, "a schedule, or empty", _checks))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(HostSettings):
    """The environment of the fleet's worker function."""

    stack: str = field(metadata=_STACK)
    queue_url: str = field(metadata=_QUEUE)
    dispatch_function: str = field(metadata=read_from(DISPATCH_FUNCTION, "a function's name", text))
    # The most workers that run at once. They share the writes that AWS allows an account.
    workers: int = field(
        metadata=read_from(MAXIMUM_CONCURRENCY, "a whole number from 1 to 9999", _count)
    )
