"""What the fleet's functions are told by their environments, parsed once."""

import re
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from keeper_runtime.settings import API_BASE_URL, Settings, read_from, text, url
from qwen_token.origin import SAFE_URL

STACK_NAME: Final = "STACK_NAME"
FLEET_TAG: Final = "FLEET_TAG"
QUEUE_URL: Final = "QUEUE_URL"
DISPATCH_FUNCTION: Final = "DISPATCH_FUNCTION"
MAXIMUM_CONCURRENCY: Final = "MAXIMUM_CONCURRENCY"

_COUNT_SHAPE: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)


def _count(value: str) -> int | None:
    return int(value) if _COUNT_SHAPE.fullmatch(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings(Settings):
    """What the environments of both functions of the fleet say."""

    stack: str = field(metadata=read_from(STACK_NAME, "the stack's name", text))
    queue_url: str = field(
        metadata=read_from(QUEUE_URL, "the URL of an SQS queue", partial(text, start="http"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings(FleetSettings):
    """The environment of the fleet's dispatch function."""

    tag: str = field(metadata=read_from(FLEET_TAG, "the key of a tag", text))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(FleetSettings):
    """The environment of the fleet's worker function."""

    dispatch_function: str = field(metadata=read_from(DISPATCH_FUNCTION, "a function's name", text))
    # How many workers there may be at once, and share what AWS lets an account write.
    workers: int = field(
        metadata=read_from(MAXIMUM_CONCURRENCY, "a whole number from 1 to 9999", _count)
    )
    api_base_url: str = field(metadata=read_from(API_BASE_URL, SAFE_URL, url))
