"""Qwen's sign-in host: the headers that it requires, and what its answers grant."""

import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz
from typing import Final
from urllib.parse import urlsplit

from qwen_token.errors import (
    QwenTokenError,
    UpstreamUnexpectedError,
)
from qwen_token.origin import Origin, is_loopback
from qwen_token.replies import Reply, read_answer, require_member
from qwen_token.session import is_credential
from qwen_token.stored_session import expiry_of_credential
from qwen_token.tokens import Token, instant, issued_token

from . import Granted

# With /api in front; without it, the load balancer answers 502.
REFRESH_PATH: Final = "/api/v2/auths/refresh"

_COOKIE: Final = "refresh_token"
# More digits than this are not a sensible number of seconds.
_MAX_AGE: Final = re.compile(r"-?[0-9]{1,12}")


class SignInHost:
    """The host at ``base_url``; ``site`` is the web client's address, which the host requires."""

    def __init__(self, base_url: str, *, site: str, web_version: str, user_agent: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._site = str(Origin(site))
        self._web_version = web_version
        self._user_agent = user_agent

    def headers(self) -> dict[str, str]:
        """Return the headers of one request: those that the host requires, and no faked ones."""
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": self._user_agent,
            "source": "web",
            "Version": self._web_version,
            "Origin": self._site,
            "Referer": f"{self._site}/",
            "x-request-origin": self._site,
            "X-Request-Id": str(uuid.uuid4()),
            # As JavaScript's Date prints it, with English names in any locale.
            "Timezone": _javascript_date(datetime.now(UTC)),
        }

    def read(self, reply: Reply, *, refusal: type[QwenTokenError]) -> Granted:
        """Return what an answer grants: a credential even if there is no token.

        Raises:
            refusal: the host says that what was spent is dead.
            UpstreamError: one of its kinds; whether what was spent is alive is unknown.
            WrongAccountError: the answer is for a guest.
            ConfigError: the host refuses the request for its headers.
        """
        document = read_answer(reply, refusal=refusal)
        data = document.get("data")
        if document.get("success") is not True or not isinstance(data, Mapping):
            raise UpstreamUnexpectedError(
                "the sign-in host's answer is no envelope: it has no 'success' or no 'data'"
            )
        require_member(data)
        credential, expires_at = self._credential(reply, data)
        try:
            return Granted(_access_token(data), credential, expires_at)
        except UpstreamUnexpectedError as fault:
            if credential is None:
                raise
            return Granted(None, credential, expires_at, fault)

    def _credential(
        self, reply: Reply, data: Mapping[str, object]
    ) -> tuple[str | None, datetime | None]:
        """Return the new credential and its expiry: the body's wins over the cookie's."""
        said = data.get(_COOKIE)
        in_body = said if isinstance(said, str) and is_credential(said) else None
        in_cookie, cookie_ends_at = self._cookie(reply)
        credential = in_body or in_cookie
        if credential is None:
            return None, None
        ends_at = expiry_of_credential(credential)
        if ends_at is None and in_cookie is not None:
            # The cookie's expiry also holds for the body's credential, which is of the same login.
            ends_at = cookie_ends_at
        return credential, ends_at

    def _cookie(self, reply: Reply) -> tuple[str | None, datetime | None]:
        """Return the cookie that a browser would send after this reply, and its expiry."""
        # Each domain and path has its own cookie, and a deletion removes only that one.
        kept: dict[tuple[str, str], tuple[str, datetime | None]] = {}
        for line in reply.values("Set-Cookie"):
            pair, *rest = line.split(";")
            name, _, value = pair.strip().partition("=")
            if name.strip() != _COOKIE:
                continue
            attributes = _attributes(rest)
            place = (
                attributes.get("domain", "").removeprefix(".").lower(),
                attributes.get("path", ""),
            )
            kept.pop(place, None)
            value = value.strip().strip('"')
            lasts, ends_at = _cookie_end(attributes, reply.received_at)
            if lasts and is_credential(value) and self._is_for_refresh(*place):
                kept[place] = value, ends_at
        return list(kept.values())[-1] if kept else (None, None)

    def _is_for_refresh(self, domain: str, path: str) -> bool:
        """Return whether a cookie for ``domain`` and ``path`` is sent with a refresh."""
        parts = urlsplit(self.base_url + REFRESH_PATH)
        host = parts.hostname or ""
        # A stand-in on this machine sets cookies as Qwen's host does.
        if domain and not is_loopback(host) and not f".{host}".endswith(f".{domain}"):
            return False
        # Without a path, it is the request's folder, which is also the refresh's.
        return not path.startswith("/") or f"{parts.path}/".startswith(f"{path.rstrip('/')}/")


def _access_token(data: Mapping[str, object]) -> Token:
    raw = data.get("access_token")
    if not isinstance(raw, str):
        raise UpstreamUnexpectedError("the sign-in host's answer has no 'access_token'")
    return issued_token(raw, by="the sign-in host")


def _attributes(parts: list[str]) -> Mapping[str, str]:
    """Return a cookie's attributes, by lower-case name."""
    pairs = (each.partition("=") for each in parts)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _cookie_end(attributes: Mapping[str, str], now: datetime) -> tuple[bool, datetime | None]:
    """Return whether a cookie is alive, and its expiry (None: unknown).

    ``Max-Age`` wins over ``Expires`` (RFC 6265). An expired cookie is a deletion.
    """
    max_age = attributes.get("max-age", "")
    date = parsedate_tz(attributes.get("expires", ""))
    seconds: float | None = None
    if _MAX_AGE.fullmatch(max_age):
        seconds = now.timestamp() + int(max_age)
    elif date is not None:
        with suppress(ValueError, OverflowError):
            seconds = mktime_tz(date)
    if seconds is None:
        return True, None
    return seconds > now.timestamp(), instant(seconds)


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def _javascript_date(now: datetime) -> str:
    return f"{_DAYS[now.weekday()]} {_MONTHS[now.month - 1]} {now:%d %Y %H:%M:%S} GMT+0000"
