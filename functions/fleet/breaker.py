"""The breaker: a host, which a batch does not ask any more once it cannot be asked."""

import threading
from collections.abc import Callable
from typing import Final

from qwen_token.errors import (
    QwenTokenError,
    RateLimitedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
)

# Trouble that says nothing about a login, but much about whether the next one is worth sending.
TROUBLE: Final = (RateLimitedError, UpstreamUnavailableError, UpstreamBlockedError)
# How many members in a row have to meet it before all others are kept from the host: Qwen limits
# single accounts, too, and one account's limit must not hold up all that share a batch with it.
_MEMBERS_IN_TROUBLE: Final = 2


class Breaker:
    """One host for one batch; once it is open, every call raises the trouble that opened it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The members that met trouble since the host last answered one of them, and the trouble.
        self._members: set[str] = set()
        self._trouble: QwenTokenError | None = None

    @property
    def is_open(self) -> bool:
        """Whether the host is not asked any more."""
        return self._trouble is not None

    def ask[Answer](self, member: str, question: Callable[[], Answer]) -> Answer:
        """Return the host's answer to what is asked for a member.

        Raises:
            QwenTokenError: the host's answer, or the trouble that keeps it from being asked.
        """
        if self._trouble is not None:
            # The expiry in it is another token's.
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
