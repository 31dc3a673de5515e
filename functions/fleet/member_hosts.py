"""Qwen's hosts for the members of one batch, who share one breaker for each host."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from breaker import Breaker
from qwen_token.errors import ChallengedError, RateLimitedError, UpstreamBlockedError
from qwen_token.grants.exchange import Exchange
from qwen_token.session import Grant

if TYPE_CHECKING:
    from keeper_runtime.clients import Clients
    from keeper_runtime.settings import HostSettings
    from qwen_token.grants import Granted, Login, TokenSource
    from qwen_token.grants.exchange import TokenApi
    from qwen_token.tokens import Token
    from sign_ins import SignIns

# After one of these, another member's sign-in would only make things worse.
_TOO_MANY_SIGN_INS: Final = (ChallengedError, UpstreamBlockedError, RateLimitedError)


@dataclass(frozen=True, slots=True)
class MemberHosts:
    """The hosts for one batch. Threads may share an instance."""

    settings: "HostSettings"
    clients: "Clients"
    _of_api: Breaker = field(default_factory=Breaker)
    _of_sign_in_host: Breaker = field(default_factory=Breaker)

    def api(self, member: str) -> "MemberApi":
        """Return the API for a member's calls."""
        settings = self.settings
        return MemberApi(
            self.clients.qwen(settings.api_base_url, settings.user_agent), self._of_api, member
        )

    def source(self, grant: Grant, member: str, sign_ins: "SignIns") -> "TokenSource":
        """Return the source of tokens for a member's grant."""
        if grant is Grant.EXCHANGE:
            return Exchange(self.api(member))
        source = self.clients.grant(grant, self.settings)
        spending = _Spending(source, self._breaker_of_sign_in(), member)
        if grant is Grant.PASSWORD:
            return _SignIn(spending, sign_ins)
        return spending

    def may_not_sign_in(self) -> bool:
        """Return whether this batch has stopped calling the sign-in host."""
        return self._breaker_of_sign_in().is_open

    def _breaker_of_sign_in(self) -> Breaker:
        # An Open WebUI server has no separate sign-in host.
        return self._of_sign_in_host if self.settings.auth_base_url else self._of_api


@dataclass(frozen=True, slots=True)
class MemberApi:
    """The API for one member; once the breaker is open, every call raises its error."""

    api: "TokenApi"
    breaker: Breaker
    member: str

    def refresh(self, token: "Token", *, within: timedelta) -> "Token":
        return self.breaker.ask(self.member, lambda: self.api.refresh(token, within=within))

    def verify(self, token: "Token", *, within: timedelta) -> str:
        return self.breaker.ask(self.member, lambda: self.api.verify(token, within=within))


@dataclass(frozen=True, slots=True)
class _Spending:
    """A grant for one member, behind the sign-in host's breaker."""

    source: "TokenSource"
    breaker: Breaker
    member: str

    def obtain(self, login: "Login", *, within: timedelta) -> "Granted":
        return self.breaker.ask(self.member, lambda: self.source.obtain(login, within=within))


@dataclass(frozen=True, slots=True)
class _SignIn:
    """A member's sign-in. If the host answers with a challenge or a limit, all sign-ins pause."""

    source: "TokenSource"
    sign_ins: "SignIns"

    def obtain(self, login: "Login", *, within: timedelta) -> "Granted":
        try:
            return self.source.obtain(login, within=within)
        except _TOO_MANY_SIGN_INS:
            self.sign_ins.rest()
            raise
