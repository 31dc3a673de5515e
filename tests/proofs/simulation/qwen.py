"""Qwen's two hosts as the keeper's clients see them: what they know of a login, what they answer.

What is not known of the real sign-in host is a field of ``SimulatedQwen``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache

import jwt

from localcloud.sign_in_host import Rotation
from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    Token,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    decode_token,
)
from qwen_token.errors import SessionRejectedError, SignInRefusedError
from qwen_token.grants import Granted, Login
from qwen_token.session import Grant

# Nobody verifies the signature but the API, and that remembers what it has issued.
_KEY = "a key that is long enough for the algorithm"
# Less than the contract asks of a token.
SHORT_LIFE = timedelta(minutes=5)
EMAIL = "owner@example.org"


# Reading tokens is most of what a simulation does. The function under test reads its own.
read_token = lru_cache(maxsize=4096)(decode_token)


class Mode(Enum):
    """How the API answers those who show a live token."""

    MINTS = "mints"
    RETIRES_THE_OLD = "retires the old token as it issues a new one"
    ECHOES = "echoes"
    MINTS_SHORT_LIVED = "mints tokens of five minutes"
    MINTS_FOR_ANOTHER = "mints tokens of another account"


class Outage(Enum):
    """How nobody gets through to a host."""

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


class Host(Enum):
    """Who answers."""

    API = "the API"
    SIGN_IN = "the sign-in host"


BOTH = frozenset(Host)


@dataclass
class Credential:
    """A refresh credential: of which login it is, and whether another one took its place."""

    login: int
    account: str
    issued_under: int
    expires_at: datetime
    is_superseded: bool = False


@dataclass
class SimulatedQwen:
    """Both hosts. ``now`` is their own clock; what they issued is remembered.

    ``is_open_webui`` says that the API signs in itself, and that a sign-in gives a token of the
    first kind. ``violations`` are what the keeper must never ask for.
    """

    now: datetime
    lifetime: timedelta = timedelta(days=7)
    mode: Mode = Mode.MINTS
    is_open_webui: bool = False
    access_lifetime: timedelta = timedelta(minutes=15)
    credential_lifetime: timedelta = timedelta(days=30)
    rotation: Rotation = Rotation.NEVER
    # Whether an answer has the credential, and says when it ends; only after a refresh.
    returns_credential: bool = True
    says_end: bool = True
    names_account: bool = True
    has_iat: bool = True
    outage: Outage | None = None
    unreachable: frozenset[Host] = BOTH
    # Per account, how often its password was changed; a token is dead once that differs.
    passwords: dict[str, int] = field(default_factory=dict)
    issued: dict[str, tuple[str, int]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    verified: set[str] = field(default_factory=set)
    credentials: dict[str, Credential] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    sign_ins: list[datetime] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _serial: int = 0

    # --- for people -------------------------------------------------------------------------------

    def log_in(self, account: str, *, lifetime: timedelta | None = None) -> Token:
        """Issue a token of the first kind to somebody who knows the password."""
        expires_at = self.now + (self.lifetime if lifetime is None else lifetime)
        return self._issue(account, {"id": account, "exp": int(expires_at.timestamp())})

    def open_session(self, account: str) -> str:
        """Issue a refresh credential to somebody who knows the password."""
        self._serial += 1
        return self._issue_credential(self._serial, account)

    def password(self, account: str) -> str:
        """Return the password that the account has now."""
        return f"password {self.passwords.get(account, 0)}"

    def change_password(self, account: str) -> None:
        """End every session of the account."""
        self.passwords[account] = self.passwords.get(account, 0) + 1

    # --- for the simulation -----------------------------------------------------------------------

    def accepts(self, token: Token) -> bool:
        """Say whether the API would know this token, could it be asked."""
        account, issued_under = self.issued.get(token.raw, ("", 0))
        return (
            account != ""
            and issued_under == self.passwords.get(account, 0)
            and token.raw not in self.retired
            and token.expires_at > self.now
        )

    def account_of(self, token: Token) -> str | None:
        """Return whose a token is."""
        return self.issued.get(token.raw, (None, 0))[0]

    def takes(self, raw: str | None) -> bool:
        """Say whether the sign-in host would give a token for this credential."""
        found = self.credentials.get(raw or "")
        return found is not None and self._is_alive(found) and not self._is_spent(found)

    def is_out_of_reach(self, host: Host) -> bool:
        """Say whether nobody gets through to the host."""
        return self.outage is not None and host in self.unreachable

    def descends(self, token: Token, *, of: Token) -> bool:
        """Say whether ``token`` came of a refresh of ``of``, at however many removes."""
        raw: str | None = token.raw
        while raw is not None and raw != of.raw:
            raw = self.parents.get(raw)
        return raw is not None

    def forget(self) -> None:
        """Let go of what is long dead, for a simulation that goes on for years."""
        horizon = self.now - timedelta(days=60)
        for raw in [raw for raw in self.issued if read_token(raw).expires_at < horizon]:
            del self.issued[raw]
            self.parents.pop(raw, None)
            self.retired.discard(raw)
            self.verified.discard(raw)
        for raw in [raw for raw, each in self.credentials.items() if each.expires_at < horizon]:
            del self.credentials[raw]

    # --- for the keeper ---------------------------------------------------------------------------

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        """Trade a live token for another, as the mode has it."""
        if token.is_access_token:
            self.violations.append("an access token is never exchanged")
        self._require(token)
        if self.mode is Mode.ECHOES:
            return token
        short = self.mode is Mode.MINTS_SHORT_LIVED
        account = "stranger" if self.mode is Mode.MINTS_FOR_ANOTHER else token.account
        assert account is not None
        successor = self.log_in(account, lifetime=SHORT_LIFE if short else None)
        self.parents[successor.raw] = token.raw
        if self.mode is Mode.RETIRES_THE_OLD:
            self.retired.add(token.raw)
        return successor

    def verify(self, token: Token, *, within: timedelta) -> str:
        """Know a live token, and whose it is."""
        self._require(token)
        self.verified.add(token.raw)
        return self.issued[token.raw][0]

    def obtain(self, grant: Grant, login: Login) -> Granted:
        """Give the next token for a credential, or for an e-mail and a password."""
        if grant is Grant.EXCHANGE:
            assert login.token is not None
            return Granted(self.refresh(login.token, within=timedelta()))
        self._get_through(Host.API if self.is_open_webui else Host.SIGN_IN)
        if grant is Grant.PASSWORD:
            return self._sign_in(login)
        assert login.session.refresh_token is not None
        return self._spend(login.session.refresh_token)

    def _spend(self, raw: str) -> Granted:
        found = self.credentials.get(raw)
        if found is None or not self._is_alive(found):
            raise SessionRejectedError("simulated")
        if self._is_spent(found):
            self.violations.append("a credential is never spent twice")
            if self.rotation is Rotation.REUSE_ENDS_LOGIN:
                self.ended.add(found.login)
            raise SessionRejectedError("simulated")
        if self.rotation is not Rotation.NEVER:
            found.is_superseded = True
            raw = self._issue_credential(found.login, found.account)
        token = self._access_token(found.account)
        if not self.returns_credential:
            return Granted(token)
        return Granted(token, raw, self.credentials[raw].expires_at if self.says_end else None)

    def _sign_in(self, login: Login) -> Granted:
        self.sign_ins.append(self.now)
        account = "owner"
        if (login.session.email, login.session.password) != (EMAIL, self.password(account)):
            raise SignInRefusedError("simulated")
        if self.is_open_webui:
            return Granted(self.log_in(account))
        raw = self.open_session(account)
        ends_at = self.credentials[raw].expires_at if self.says_end else None
        return Granted(self._access_token(account), raw, ends_at)

    # --- inside -----------------------------------------------------------------------------------

    def _issue(self, account: str, claims: dict[str, object]) -> Token:
        self._serial += 1
        raw = jwt.encode({**claims, "jti": self._serial}, _KEY)
        self.issued[raw] = (account, self.passwords.get(account, 0))
        return read_token(raw)

    def _access_token(self, account: str) -> Token:
        claims: dict[str, object] = {
            "type": "access_token",
            "exp": int((self.now + self.access_lifetime).timestamp()),
        }
        if self.names_account:
            claims["id"] = account
        if self.has_iat:
            claims["iat"] = int(self.now.timestamp())
        return self._issue(account, claims)

    def _issue_credential(self, login: int, account: str) -> str:
        self._serial += 1
        raw = f"credential-{self._serial:012}-of-a-login"
        expires_at = self.now + self.credential_lifetime
        issued_under = self.passwords.get(account, 0)
        self.credentials[raw] = Credential(login, account, issued_under, expires_at)
        return raw

    def _is_alive(self, credential: Credential) -> bool:
        return (
            credential.login not in self.ended
            and credential.issued_under == self.passwords.get(credential.account, 0)
            and credential.expires_at > self.now
        )

    def _is_spent(self, credential: Credential) -> bool:
        stays = self.rotation in {Rotation.NEVER, Rotation.OLD_STAYS}
        return credential.is_superseded and not stays

    def _require(self, token: Token) -> None:
        self._get_through(Host.API)
        if not self.accepts(token):
            raise TokenRejectedError("simulated")

    def _get_through(self, host: Host) -> None:
        if self.outage is not None and host in self.unreachable:
            raise self.outage.error()


class SimulatedGrant:
    """One grant of the hosts; ``call`` carries a call out, or lets it go wrong."""

    def __init__(
        self,
        qwen: SimulatedQwen,
        grant: Grant,
        call: Callable[[str, Callable[[], Granted]], Granted],
    ) -> None:
        self._qwen = qwen
        self._grant = grant
        self._call = call

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        """Give the next token."""
        assert within > timedelta()
        return self._call(
            f"obtain {self._grant.value}", lambda: self._qwen.obtain(self._grant, login)
        )


def start() -> datetime:
    """Return when simulated time begins."""
    return datetime(2026, 1, 1, tzinfo=UTC)
