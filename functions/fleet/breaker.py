"""The breaker: stops a batch from calling a host that gives no usable answers."""

import threading
from collections.abc import Callable
from typing import Final

from qwen_token.errors import (
    QwenTokenError,
    RateLimitedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
)

# Failures of the host, not of a login: the next member's call would probably fail, too.
TROUBLE: Final = (RateLimitedError, UpstreamUnavailableError, UpstreamBlockedError)
# This many members in a row must meet trouble before the rest of the batch stops calling the host:
# Qwen also limits single accounts, and one account's limit must not hold up the rest of its batch.
_MEMBERS_IN_TROUBLE: Final = 2


class Breaker:
    """One host for one batch; once it is open, every call raises the trouble that opened it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The members that met trouble since the host last answered a member.
        self._members: set[str] = set()
        self._trouble: QwenTokenError | None = None

    @property
    def is_open(self) -> bool:
        """Whether the batch has stopped calling the host."""
        return self._trouble is not None

    def ask[Answer](self, member: str, question: Callable[[], Answer]) -> Answer:
        """Call the host for a member, and return its answer.

        Raises:
            QwenTokenError: the call failed, or the breaker is open.
        """
        if self._trouble is not None:
            # The error's expiry belongs to another member's token.
            raise self._trouble.with_expiry(None) from self._trouble
        try:
            answer = question()
        except TROUBLE as error:
            with self._lock:
                self._members.add(member)
                if len(self._members) >= _MEMBERS_IN_TROUBLE:
                    self._trouble = error
            raise
        with self._lock:
            self._members.clear()
        return answer
