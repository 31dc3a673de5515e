"""Qwen's API as the keeper's client sees it: what it knows of each token, and how it answers."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache

import jwt

from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    Token,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    decode_token,
)

# Nobody verifies the signature but the API, and that remembers what it has issued.
_KEY = "a key that is long enough for the algorithm"
SHORT_LIFE = timedelta(seconds=900)


# Reading tokens is most of what a simulation does. The function under test reads its own.
read_token = lru_cache(maxsize=4096)(decode_token)


class Mode(Enum):
    """How the API answers those who show a live token."""

    MINTS = "mints"
    RETIRES_THE_OLD = "retires the old token as it issues a new one"
    ECHOES = "echoes"
    MINTS_SHORT_LIVED = "mints tokens of 900 s"
    MINTS_FOR_ANOTHER = "mints tokens of another account"


class Outage(Enum):
    """How nobody gets through to the API."""

    DOWN = "down"
    RATE_LIMITED = "a storm of 429"
    BLOCKED = "a block page"

    def error(self) -> QwenTokenError:
        """Return what the client makes of it."""
        kinds: dict[Outage, type[QwenTokenError]] = {
            Outage.DOWN: UpstreamUnavailableError,
            Outage.RATE_LIMITED: RateLimitedError,
            Outage.BLOCKED: UpstreamBlockedError,
        }
        return kinds[self]("simulated")


@dataclass
class SimulatedQwen:
    """The API. ``now`` is its own clock; all tokens that it issued are remembered."""

    now: datetime
    lifetime: timedelta = timedelta(days=7)
    mode: Mode = Mode.MINTS
    outage: Outage | None = None
    # Per account, how often its password was changed; a token is dead once that differs.
    passwords: dict[str, int] = field(default_factory=dict)
    issued: dict[str, tuple[str, int]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    verified: set[str] = field(default_factory=set)
    _serial: int = 0

    def log_in(self, account: str, *, lifetime: timedelta | None = None) -> Token:
        """Issue a token to somebody who knows the password."""
        self._serial += 1
        expires_at = self.now + (self.lifetime if lifetime is None else lifetime)
        claims = {"id": account, "jti": self._serial, "exp": int(expires_at.timestamp())}
        raw = jwt.encode(claims, _KEY)
        self.issued[raw] = (account, self.passwords.get(account, 0))
        return read_token(raw)

    def change_password(self, account: str) -> None:
        """End every session of the account."""
        self.passwords[account] = self.passwords.get(account, 0) + 1

    def accepts(self, token: Token) -> bool:
        """Say whether the API would know this token, could it be asked."""
        known = self.issued.get(token.raw)
        return (
            known == (token.account, self.passwords.get(token.account, 0))
            and token.raw not in self.retired
            and token.expires_at > self.now
        )

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        """Trade a live token for another, as the mode has it."""
        self._require(token)
        if self.mode is Mode.ECHOES:
            return token
        short = self.mode is Mode.MINTS_SHORT_LIVED
        account = "stranger" if self.mode is Mode.MINTS_FOR_ANOTHER else token.account
        successor = self.log_in(account, lifetime=SHORT_LIFE if short else None)
        self.parents[successor.raw] = token.raw
        if self.mode is Mode.RETIRES_THE_OLD:
            self.retired.add(token.raw)
        return successor

    def verify(self, token: Token, *, within: timedelta) -> None:
        """Know a live token."""
        self._require(token)
        self.verified.add(token.raw)

    def descends(self, token: Token, *, of: Token) -> bool:
        """Say whether ``token`` came of a refresh of ``of``, at however many removes."""
        raw: str | None = token.raw
        while raw is not None and raw != of.raw:
            raw = self.parents.get(raw)
        return raw is not None

    def forget(self) -> None:
        """Let go of tokens that are long dead, for a simulation that goes on for years."""
        horizon = self.now - timedelta(days=60)
        gone = [raw for raw in self.issued if read_token(raw).expires_at < horizon]
        for raw in gone:
            del self.issued[raw]
            self.parents.pop(raw, None)
            self.retired.discard(raw)
            self.verified.discard(raw)

    def _require(self, token: Token) -> None:
        if self.outage is not None:
            raise self.outage.error()
        if not self.accepts(token):
            raise TokenRejectedError("simulated")


def start() -> datetime:
    """Return when simulated time begins."""
    return datetime(2026, 1, 1, tzinfo=UTC)
