"""The hosts of a login, and the grants that use them."""

from dataclasses import dataclass

from qwen_token.errors import SessionMalformedError
from qwen_token.origin import AUTH_BASE_URL, BASE_URL, USER_AGENT, WEB_VERSION
from qwen_token.qwen_api import QwenApi
from qwen_token.session import Grant

from . import TokenSource
from .exchange import Exchange
from .password import HostSignIn, OpenWebUISignIn
from .refresh_token import RefreshToken
from .sign_in_host import SignInHost


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """The hosts of a login, and the headers for them.

    ``auth_base_url`` is empty if the API is an Open WebUI server, which signs in itself.
    """

    api_base_url: str = BASE_URL
    auth_base_url: str = AUTH_BASE_URL
    web_version: str = WEB_VERSION
    user_agent: str = USER_AGENT

    def api(self) -> QwenApi:
        """Return the API."""
        return QwenApi(self.api_base_url, user_agent=self.user_agent)

    def source(self, grant: Grant) -> TokenSource:
        """Return a grant.

        Raises:
            SessionMalformedError: an Open WebUI server has no such grant.
        """
        if grant is Grant.EXCHANGE:
            return Exchange(self.api())
        if not self.auth_base_url:
            if grant is Grant.REFRESH_TOKEN:
                raise SessionMalformedError(
                    "an Open WebUI server (AuthBaseUrl is empty) takes no refresh credential: put "
                    "an e-mail and password into the session secret"
                )
            return OpenWebUISignIn(self.api())
        host = SignInHost(
            self.auth_base_url,
            site=self.api_base_url,
            web_version=self.web_version,
            user_agent=self.user_agent,
        )
        return RefreshToken(host) if grant is Grant.REFRESH_TOKEN else HostSignIn(host)
