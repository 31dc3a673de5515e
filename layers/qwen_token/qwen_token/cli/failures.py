"""What went wrong, in words for those who type commands."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from qwen_token import errors
from qwen_token.errors import ConfigError, QwenTokenError, StoreError

# What to do, by the class of the error or one of its bases: the nearest one counts.
Advice = Mapping[type[QwenTokenError], str]

# In place of the classes' own advice, which is for those who run the function.
_ADVICE: Final[Advice] = {
    ConfigError: "Fix what the message names, and try again.",
    StoreError: "Check that the secret is in this region, and that you may use it.",
}


class CommandFailure(NamedTuple):
    """What went wrong, and what to do."""

    reason: str
    message: str
    advice: str


class FunctionFailedError(Exception):
    """The deployed function's run failed; ``failure`` has the words of the error that it raised."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        """Take what Lambda answers for an error."""
        name = payload.get("errorType", "unknown")
        kind = getattr(errors, name, None)
        self.failure = CommandFailure(
            getattr(kind, "reason", "function_failed"),
            payload.get("errorMessage", name),
            getattr(kind, "advice", "Look at the function's log (make logs)."),
        )
        super().__init__(self.failure.message)


# All that a command may fail with; anything else is a bug, and not caught.
FAILURES: Final = (QwenTokenError, FunctionFailedError, BotoCoreError, ClientError)


def failure_of(error: Exception, advice: Advice) -> CommandFailure:
    """Describe one of ``FAILURES``; ``advice`` is a command's own, by the class of the error."""
    if isinstance(error, FunctionFailedError):
        return error.failure
    if isinstance(error, QwenTokenError):
        known = {**_ADVICE, **advice}
        given = next((known[kind] for kind in type(error).mro() if kind in known), error.advice)
        return CommandFailure(error.reason, str(error), given)
    return CommandFailure("aws_failed", str(error), "Check credentials, region and permissions.")
