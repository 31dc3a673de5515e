"""The outcomes of the refresh function, in words."""

from collections.abc import Mapping
from typing import Any, Final

from qwen_token.run_report import Outcome

from .output import ATTENTION, FAILED, OK

# The outcome of a failure that may pass, for which nobody is called.
RETRYING: Final = "retrying"

_WORDS: Final[Mapping[str, str]] = {
    Outcome.FRESH: "the token is not due, nothing was done",
    Outcome.REFRESHED: "a new token is in the secret",
    Outcome.SUPERSEDED: "somebody else wrote to a secret meanwhile, and that is kept",
    Outcome.WOULD_REFRESH: "the token would be refreshed now; nothing was done",
    Outcome.AWAITING_TOKEN: "there is no token yet, and no session to get one with",
    Outcome.CHECKED: "the API accepts the token",
    Outcome.LEASED: "another run is at work, so this one did nothing; try again in a minute",
    RETRYING: "failed, with trouble that may pass: the next run tries again (make status says why)",
}
_UNANSWERED: Final = "the API gave no answer, so nothing was changed"
_NOT_REPLACED: Final = (
    "the token was not replaced: the API gave no answer, or the next sign-in is not allowed yet"
)
_TOO_YOUNG: Final = "the API accepts the token; younger than ten minutes, it is not replaced"


def in_words(outcome: str, *, force: bool = False, check: bool = False) -> str:
    """Return the meaning of the outcome of a run with these options."""
    if outcome == Outcome.FRESH and (force or check):
        return _NOT_REPLACED if force else _UNANSWERED
    if outcome == Outcome.CHECKED and force:
        return _TOO_YOUNG
    return _WORDS.get(outcome, "not an outcome that this release knows")


def exit_code_of(result: Mapping[str, Any]) -> int:
    """Return a command's exit code for the function's result."""
    if result["outcome"] == Outcome.AWAITING_TOKEN:
        return ATTENTION
    return FAILED if result["outcome"] == RETRYING else OK
