"""The token as the store was last seen to hold it, and when it is due."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

from qwen_token.tokens import Token

# Between two looks at a store for a token that another process may have put there.
_LOOK: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token that was read from the store."""

    token: Token
    read_at: datetime
    # The store is not read again before this time.
    good_until: datetime
    # The token's whole life at most, or None if the token may be of any age.
    lifetime: timedelta | None

    @classmethod
    def read(
        cls, token: Token, *, now: datetime, before: Self | None, refresh_before: timedelta
    ) -> Self:
        """Return what is known after reading ``token``; ``before`` was known until then."""
        lifetime = None if before is None else before.lifetime
        if before is not None and before.token != token:
            # The token was issued after the store was last read.
            lifetime = token.remaining(now) + max(now - before.read_at, timedelta(0))
        good_until = max(now + _LOOK, token.expires_at - refresh_before)
        return cls(token, now, good_until, lifetime)

    def without_the_store(self, *, now: datetime) -> Self:
        """Return the same token, used a little longer because the store cannot be read."""
        return replace(self, good_until=now + _LOOK)

    def window(self, refresh_before: timedelta) -> timedelta:
        """Return how long before its expiry the token is due for an automatic refresh.

        A token that lives less than twice ``refresh_before`` is due at half of its life.
        """
        if self.lifetime is None:
            return refresh_before
        return min(refresh_before, self.lifetime / 2)
