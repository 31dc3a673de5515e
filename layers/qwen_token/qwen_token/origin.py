"""What an auth needs for any HTTP library: where a token may go, and which answers refuse it."""

import ipaddress
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urlsplit

from .errors import ConfigError
from .replies import UNAUTHORIZED, actual_status, failure_code, json_object, media_type

BASE_URL: Final = "https://chat.qwen.ai"
SAFE_URL: Final = (
    "an https:// URL without user, query or fragment (http:// on a loopback address only)"
)
# A failure envelope has a few hundred bytes: a longer body is none, and is not read to find out.
ENVELOPE_LIMIT: Final = 64 * 1024

_JSON: Final = "application/json"
_PAGE: Final = "text/html"
_PORTS: Final = {"https": 443, "http": 80}
_SCHEME: Final = "Bearer "


class Source(Protocol):
    """Where tokens come from; ``SharedToken`` says what each call promises."""

    def current(self) -> str: ...
    def renew(self, *, rejected: str) -> str: ...


class Origin:
    """Scheme, host and port: the one place that a token goes to."""

    def __init__(self, base_url: str) -> None:
        """Take the origin of ``base_url``; its path does not matter.

        Raises:
            ConfigError: it is no URL that a token may be sent to.
        """
        if not is_safe_url(base_url):
            raise ConfigError(
                "base_url should be an https:// URL without user, query or fragment "
                "(http:// on a loopback address only)"
            )
        self._parts = _origin(base_url)

    def holds(self, url: str) -> bool:
        """Say whether ``url`` is of this origin."""
        try:
            return _origin(url) == self._parts
        except ValueError:
            return False

    def __str__(self) -> str:
        scheme, host, port = self._parts
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}" + ("" if port == _PORTS[scheme] else f":{port}")


def is_safe_url(url: str) -> bool:
    """Say whether a token may be sent there: https, or http that never leaves the machine."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def header(raw: str) -> str:
    """Return the value of the header ``Authorization``."""
    return _SCHEME + raw


def bearer(value: str) -> str | None:
    """Return the token in a header ``Authorization``, or None where it has none."""
    return value.removeprefix(_SCHEME) if value.startswith(_SCHEME) else None


def refuses(*, status: int, said: str, content_type: str) -> bool | None:
    """Say by its head whether an answer refuses the token; None where it takes the body to know.

    A page is never the API's own word, whatever its status, and a 403 does not speak of the token.
    """
    kind = media_type(content_type)
    if kind == _PAGE:
        return False
    if actual_status(status, said) == HTTPStatus.UNAUTHORIZED:
        return True
    return None if status == HTTPStatus.OK and kind == _JSON else False


def is_refusal(body: bytes) -> bool:
    """Say whether a body is the API's failure envelope with the code ``unauthorized``."""
    # Nearly every body is none, and most are not worth parsing twice.
    return (
        len(body) <= ENVELOPE_LIMIT
        and UNAUTHORIZED.encode() in body
        and failure_code(json_object(body)) == UNAUTHORIZED
    )


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0)
