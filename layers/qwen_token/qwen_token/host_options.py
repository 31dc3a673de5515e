"""A program's options for the hosts of its login; the hosts are created when needed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qwen_token.errors import ConfigError
from qwen_token.origin import AUTH_BASE_URL, BASE_URL, SAFE_URL, Origin, is_safe_url
from qwen_token.session import Grant, Session

# requests is slow to import, so the first refresh imports it.
if TYPE_CHECKING:
    from qwen_token.grants import TokenSource
    from qwen_token.grants.hosts import Hosts
    from qwen_token.qwen_api import QwenApi


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """The hosts of a login and their headers; checked at once, created when needed."""

    base_url: str
    auth_base_url: str
    web_version: str
    user_agent: str

    @classmethod
    def of(
        cls,
        *,
        base_url: str,
        auth_base_url: str | None,
        web_version: str,
        user_agent: str,
        session: Session | None,
    ) -> Self:
        """Check the options of a program.

        Raises:
            ConfigError: names the invalid option, and what it should be.
        """
        if auth_base_url is None:
            if session is not None and str(Origin(base_url)) != BASE_URL:
                # A guess could send a password to the wrong host.
                raise ConfigError(
                    "auth_base_url should be given beside another base_url: the host that signs "
                    "in, or '' where base_url is an Open WebUI server, which signs in itself"
                )
            auth_base_url = AUTH_BASE_URL
        if auth_base_url and not is_safe_url(auth_base_url):
            raise ConfigError(f"auth_base_url should be {SAFE_URL}, or ''")
        for name, value in (("web_version", web_version), ("user_agent", user_agent)):
            if not (value.strip() == value and value.isascii() and value.isprintable() and value):
                raise ConfigError(f"{name} should be a header's value, in visible ASCII")
        return cls(
            base_url=base_url,
            auth_base_url=auth_base_url,
            web_version=web_version,
            user_agent=user_agent,
        )

    def hosts(self) -> "Hosts":
        from qwen_token.grants.hosts import Hosts  # noqa: PLC0415

        return Hosts(
            api_base_url=self.base_url,
            auth_base_url=self.auth_base_url,
            web_version=self.web_version,
            user_agent=self.user_agent,
        )

    def api(self) -> "QwenApi":
        return self.hosts().api()

    def source(self, grant: Grant) -> "TokenSource":
        return self.hosts().source(grant)
