"""Where a token may go: the hosts, the origin that a token is for, the header that it goes in."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from .errors import ConfigError

BASE_URL: Final = "https://chat.qwen.ai"
AUTH_BASE_URL: Final = "https://auth.qwen.ai"
# The version of Qwen's web client that the sign-in host is told; its own, not the chat's.
WEB_VERSION: Final = "0.3.12"
USER_AGENT: Final = "Mozilla/5.0 (compatible; qwen-token-refresh/1.0)"
SAFE_URL: Final = (
    "an https:// URL without user, query or fragment (http:// on a loopback address only)"
)

_PORTS: Final = {"https": 443, "http": 80}
_SCHEME: Final = "Bearer "


class Origin:
    """Scheme, host and port: the one place that a token goes to."""

    def __init__(self, base_url: str) -> None:
        """Take the origin of ``base_url``; its path does not matter.

        Raises:
            ConfigError: a token may not be sent to ``base_url``.
        """
        if not is_safe_url(base_url):
            raise ConfigError(f"base_url should be {SAFE_URL}")
        self._parts = _origin(base_url)

    def holds(self, url: str) -> bool:
        """Return whether ``url`` is of this origin."""
        try:
            return _origin(url) == self._parts
        except ValueError:
            return False

    def __str__(self) -> str:
        scheme, host, port = self._parts
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}" + ("" if port == _PORTS[scheme] else f":{port}")


def is_safe_url(url: str) -> bool:
    """Return whether a token may be sent to ``url``: https, or http that stays on the machine."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def authorization(raw: str) -> str:
    """Return the header ``Authorization`` that sends a token."""
    return _SCHEME + raw


def token_in(authorization: str) -> str | None:
    """Return the token in a header ``Authorization``, or None where it holds something else."""
    return authorization.removeprefix(_SCHEME) if authorization.startswith(_SCHEME) else None


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0)
