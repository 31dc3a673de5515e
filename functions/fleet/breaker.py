"""The breaker: the API, which a batch does not ask any more once it cannot be asked."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Final

from qwen_token.errors import (
    QwenTokenError,
    RateLimitedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
)
from qwen_token.grants.exchange import TokenApi
from qwen_token.tokens import Token

# Trouble that says nothing about a token, but much about whether the next one is worth sending.
TROUBLE: Final = (RateLimitedError, UpstreamUnavailableError, UpstreamBlockedError)
# How many accounts in a row have to meet it before all others are kept from the API: Qwen limits
# single accounts, too, and one account's limit must not hold up all that share a batch with it.
_ACCOUNTS_IN_TROUBLE: Final = 2


class Breaker:
    """The API for one batch; once it is open, every call raises the trouble that opened it.

    ``api`` is called for the API's client when that is first needed.
    """

    def __init__(self, api: Callable[[], TokenApi]) -> None:
        self._api = cache(api)
        self._lock = threading.Lock()
        # The accounts that met trouble since the API last answered one of them, and the trouble.
        self._accounts: set[str | None] = set()
        self._trouble: QwenTokenError | None = None

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        return self._ask(token, lambda: self._api().refresh(token, within=within))

    def verify(self, token: Token, *, within: timedelta) -> str:
        return self._ask(token, lambda: self._api().verify(token, within=within))

    def _ask[Answer](self, token: Token, question: Callable[[], Answer]) -> Answer:
        if self._trouble is not None:
            # The expiry in it is another token's.
            raise self._trouble.with_expiry(None) from self._trouble
        try:
            answer = question()
        except TROUBLE as error:
            with self._lock:
                self._accounts.add(token.account)
                if len(self._accounts) >= _ACCOUNTS_IN_TROUBLE:
                    self._trouble = error
            raise
        with self._lock:
            self._accounts.clear()
        return answer
