"""Failures of commands, in words for those who type them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from qwen_token import errors
from qwen_token.environment_faults import AWS_CA_BUNDLES, unusable_ca_bundle
from qwen_token.errors import ConfigError, QwenTokenError, StoreError

# The advice, by the class of the error or one of its bases: the nearest one counts.
Advice = Mapping[type[QwenTokenError], str]

# Used instead of the classes' own advice, which is for those who run the function.
_ADVICE: Final[Advice] = {
    ConfigError: "Fix what the message names, and try again.",
    StoreError: "Check that the secret is in this region, and that you may use it.",
}


_ADVICE_FOR_AWS: Final = "Check credentials, region and permissions."


class CommandFailure(NamedTuple):
    """A failure, and what to do about it."""

    reason: str
    message: str
    advice: str


class FunctionFailedError(Exception):
    """The deployed function's run failed; ``failure`` has its error's words."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        """Take Lambda's answer for an error."""
        name = str(payload.get("errorType", "unknown"))
        kind = getattr(errors, name, None)
        self.failure = CommandFailure(
            getattr(kind, "reason", "function_failed"),
            str(payload.get("errorMessage", name)),
            getattr(kind, "advice", "Look at the function's log (make logs)."),
        )
        super().__init__(self.failure.message)


class NotAskedError(Exception):
    """A service of AWS could not be called, or something else answered."""


# All failures of commands. Anything else is a bug, and is not caught.
FAILURES: Final = (
    QwenTokenError,
    FunctionFailedError,
    NotAskedError,
    BotoCoreError,
    ClientError,
)


@contextmanager
def asked(service: str) -> Iterator[None]:
    """Translate any exception inside to one of ``FAILURES``.

    Use it only around calls of boto3 and the reading of their answers: files, variables and
    programs of the user's machine may make boto3 raise any exception.
    """
    try:
        yield
    except FAILURES:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        variable = unusable_ca_bundle(AWS_CA_BUNDLES)
        fault = f" (the CA bundle that {variable} names cannot be used)" if variable else ""
        kind = type(error).__name__
        raise NotAskedError(
            f"{service} could not be asked, or its answer not be read: {kind}{fault}"
        ) from None


def failure_of(error: Exception, advice: Advice) -> CommandFailure:
    """Describe one of ``FAILURES``; ``advice`` is the command's own, by the class of the error."""
    if isinstance(error, FunctionFailedError):
        return error.failure
    if isinstance(error, QwenTokenError):
        known = {**_ADVICE, **advice}
        given = next((known[kind] for kind in type(error).mro() if kind in known), error.advice)
        return CommandFailure(error.reason, str(error), given)
    return CommandFailure("aws_failed", str(error), _ADVICE_FOR_AWS)
