"""Where a token may go: the hosts, a token's origin, and the header for it."""

import ipaddress
import re
from typing import Final

from .errors import ConfigError

BASE_URL: Final = "https://chat.qwen.ai"
AUTH_BASE_URL: Final = "https://auth.qwen.ai"
# The header Version for the sign-in host: that of its own web client, not the chat's.
WEB_VERSION: Final = "0.3.12"
USER_AGENT: Final = "Mozilla/5.0 (compatible; qwen-token-refresh/1.0)"
SAFE_URL: Final = (
    "an https:// URL without user, query or fragment (http:// on a loopback address only)"
)

# A strict grammar about which no URL parsers disagree: for some, the host of
# ``http://a\[::1]`` is ``a``, and for others it is ``::1``. template.yaml has the same pattern.
# A host name's last label begins with a letter: some resolvers take ``0x7f.1`` for an address.
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LAST_LABEL: Final = "[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PORT: Final = (
    "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
)
# No segment is ``.`` or ``..``, which the sender of the request would resolve.
_PATH: Final = r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)*/?"
SAFE_URL_PATTERN: Final = (
    rf"(https://(({_LABEL}\.)*{_LAST_LABEL}|{_OCTET}(\.{_OCTET}){{3}})"
    rf"|http://(localhost|127(\.{_OCTET}){{3}}|\[::1\])){_PORT}{_PATH}"
)
LONGEST_URL: Final = 512

# The part of any URL before its path, if all parsers agree about it.
_ADDRESS: Final = re.compile(
    r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(?=[/?#]|\Z)",
    re.ASCII | re.IGNORECASE,
)
_PORTS: Final = {"https": 443, "http": 80}
_SCHEME: Final = "Bearer "


class Origin:
    """Scheme, host and port: the only place to which a token goes."""

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

    @property
    def host(self) -> str:
        """The host in lower case; an IPv6 address without its brackets."""
        return self._parts[1]

    @property
    def port(self) -> int:
        """The port; the scheme's default if the URL names none."""
        return self._parts[2]

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody on the way, not even a proxy, can read what is sent there."""
        return self._parts[0] == "https"

    def __str__(self) -> str:
        scheme, host, port = self._parts
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}" + ("" if port == _PORTS[scheme] else f":{port}")


def is_safe_url(url: str) -> bool:
    """Return whether a token may be sent to ``url``: https, or http that stays on the machine."""
    return (
        isinstance(url, str)
        and len(url) <= LONGEST_URL
        and re.fullmatch(SAFE_URL_PATTERN, url) is not None
    )


def authorization(raw: str) -> str:
    """Return the header ``Authorization`` that sends a token."""
    return _SCHEME + raw


def token_in(authorization: str) -> str | None:
    """Return the token in a header ``Authorization``, or None if it holds something else."""
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
    found = _ADDRESS.match(url)
    if found is None:
        raise ValueError
    scheme, port = found[1].lower(), found[3]
    return scheme, found[2].lower().strip("[]"), int(port) if port else _PORTS[scheme]
