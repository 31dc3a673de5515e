"""The token that was last read from the store, and when it is due."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

from qwen_token.policy import SHORTEST_LIFE, due_before
from qwen_token.tokens import Token

# The pause between two reads of the store for another process's token.
_LOOK: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token that was read from the store."""

    token: Token
    read_at: datetime
    # The store is not read again before this time.
    good_until: datetime
    # The token's whole life at most, or None if its age is unknown.
    lifetime: timedelta | None
    # When it was first read, if it was issued shortly before: an access token, or one that replaced
    # another one. Otherwise None.
    got_at: datetime | None = None

    @classmethod
    def read(
        cls, token: Token, *, now: datetime, before: Self | None, refresh_before: timedelta
    ) -> Self:
        """Return what is known after reading ``token``; ``before`` is what was known until then."""
        lifetime = None if before is None else before.lifetime
        got_at = None if before is None else before.got_at
        if got_at is not None:
            # If the clock was set back since.
            got_at = min(got_at, now)
        if before is not None and before.token != token:
            # The token was issued after the store was last read.
            lifetime = token.remaining(now) + max(now - before.read_at, timedelta(0))
            got_at = now
        elif before is None and token.is_access_token:
            got_at = now
        known = cls(token, now, now, lifetime, got_at)
        # The whole life of an access token may be shorter than ``refresh_before``.
        window = known.window(refresh_before) if token.is_access_token else refresh_before
        return replace(known, good_until=max(now + _LOOK, token.expires_at - window))

    def is_good(self, *, now: datetime) -> bool:
        """Return whether the token may be used without reading the store again.

        If the clock was set back, the store is read, because the last read's age is unknown.
        """
        return self.read_at <= now < self.good_until

    def without_the_store(self, *, now: datetime) -> Self:
        """Return the same token, used a little longer because the store cannot be read."""
        return replace(self, read_at=min(self.read_at, now), good_until=now + _LOOK)

    def window(self, refresh_before: timedelta) -> timedelta:
        """Return how long before its expiry the token is due for an automatic refresh.

        A token that lives less than twice ``refresh_before`` is due at half of its life; an access
        token, whose life is known, when the keeper of a stack would replace it.
        """
        if self.token.is_access_token:
            return self._window_of_access_token(refresh_before)
        if self.lifetime is None:
            return refresh_before
        return min(refresh_before, self.lifetime / 2)

    def _window_of_access_token(self, refresh_before: timedelta) -> timedelta:
        since = max(filter(None, (self.token.issued_at, self.got_at)), default=None)
        # By our own clock: with a wrong one, a new token could be due at once.
        token = replace(self.token, issued_at=since)
        return due_before(token, refresh_before=refresh_before, written_at=None)

    def is_new(self, *, now: datetime) -> bool:
        """Return whether the token is too new to be followed by another one."""
        since = self.got_at
        if self.token.is_access_token and self.token.issued_at is not None:
            since = self.token.issued_at
        # A time in the future comes from a clock that was set back since, or differs from ours.
        return since is not None and abs(now - since) < SHORTEST_LIFE
