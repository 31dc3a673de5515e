"""A failed refresh, and which other calls get its error."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from qwen_token.errors import QwenTokenError
from qwen_token.tokens import Token

# A token that the API has just refused is not sent again.
_REFUSED: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """The error of a refresh, the token that was to be refreshed, and when it failed."""

    error: QwenTokenError
    token: Token | None
    at: datetime

    def answers(self, rejected: Token | None, *, now: datetime) -> bool:
        """Return whether another refresh of ``rejected`` would be too soon after this one.

        None stands for the first token, when there was none to refresh.
        """
        return self.token == rejected and self.at <= now < self.at + _REFUSED
