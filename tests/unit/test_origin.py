"""Where a token may go: one answer of all that ask, and what HTTP libraries really connect to."""

import socket
import sys
import threading
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import urllib3.util

from keeper_runtime.settings import RefreshSettings
from qwen_token import ConfigError, QwenAuth, QwenClient, Session, TokenManager
from qwen_token.cli.token_input import safe_url
from qwen_token.host_options import HostOptions
from qwen_token.httpx_auth import QwenHttpxAuth
from qwen_token.origin import SAFE_URL_PATTERN, Origin, is_safe_url
from qwen_token.transport import Request, send
from tests.addresses import CASES, SAFE, UNSAFE
from tests.minting import token
from tests.unit.template import PARAMETERS, accepts
from tests.unit.test_settings import GOOD

RAW: Final = token(left=timedelta(days=2)).raw
# What an address that is not safe might be taken for.
ORIGINS: Final = ("https://chat.qwen.ai", "http://127.0.0.1", "http://localhost", "http://[::1]")


class Lookups:
    """The host and the port of each connection that this process is about to make, and stops."""

    def __init__(self) -> None:
        self._watching = threading.local()
        # There is no way to take it away, so it stays, and does nothing.
        sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        found: list[tuple[str, int]] | None = getattr(self._watching, "found", None)
        if event == "socket.getaddrinfo" and found is not None:
            host, port = arguments[:2]
            found.append((host.decode() if isinstance(host, bytes) else host, int(port)))
            raise socket.gaierror("stopped before anything is sent")

    def __enter__(self) -> list[tuple[str, int]]:
        self._watching.found = []
        return self._watching.found  # type: ignore[no-any-return]

    def __exit__(self, *_: object) -> None:
        del self._watching.found


LOOKUPS: Final = Lookups()


class Source:
    """A source of tokens that says whether it was asked for one."""

    def __init__(self) -> None:
        self.asked = 0

    def current(self) -> str:
        self.asked += 1
        return RAW

    def renew(self, *, rejected: str) -> str:
        raise AssertionError(rejected)


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def by_requests(address: str, source: Source, base_url: str) -> None:
    requests.get(address, auth=QwenAuth(source, base_url=base_url), timeout=5)


def by_httpx(address: str, source: Source, base_url: str) -> None:
    with httpx.Client(auth=QwenHttpxAuth(source, base_url=base_url), verify=False) as client:  # noqa: S501 - no connection is made
        client.get(address)


libraries = pytest.mark.parametrize("get", [by_requests, by_httpx], ids=["requests", "httpx"])


def takes(ask: Any, *given: Any, **named: Any) -> bool:
    """Return whether an address is taken; ConfigError says that it is not."""
    try:
        ask(*given, **named)
    except ConfigError as error:
        assert "URL" in str(error)  # noqa: PT017 - the error is half of the answer
        return False
    return True


def test_everything_that_takes_an_address_accepts_the_same_ones() -> None:
    for name, address, is_safe in CASES:
        answers = answers_to(address)
        assert answers == dict.fromkeys(answers, is_safe), name


def answers_to(address: str) -> dict[str, bool]:
    """Return who takes the address, of all that take one."""
    hosts = {"base_url": "https://chat.qwen.ai", "web_version": "1", "user_agent": "a"}
    answers = {
        "is_safe_url": is_safe_url(address),
        "ApiBaseUrl": accepts("ApiBaseUrl", address),
        "Origin": takes(Origin, address),
        "--api-base-url": takes(safe_url, address),
        "QwenClient": takes(QwenClient, RAW, base_url=address),
        "TokenManager": takes(TokenManager, RAW, base_url=address),
        "QwenAuth": takes(QwenAuth, Source(), base_url=address),
        "QwenHttpxAuth": takes(QwenHttpxAuth, Source(), base_url=address),
    }
    if address:
        # Empty, these two say that there is no such host.
        answers["AuthBaseUrl"] = accepts("AuthBaseUrl", address)
        answers["auth_base_url"] = takes(
            HostOptions.of, auth_base_url=address, session=Session(), **hosts
        )
    return answers


def test_the_function_takes_what_the_template_does() -> None:
    for name, address, is_safe in CASES:
        # Every variable is taken without the spaces around it.
        expected = is_safe_url(address.strip())
        assert expected is is_safe or address != address.strip(), name
        environ = {**GOOD, "API_BASE_URL": address, "AUTH_BASE_URL": ""}
        assert takes(RefreshSettings.from_environ, environ) is expected, name


def test_the_templates_patterns_are_the_librarys() -> None:
    assert PARAMETERS["ApiBaseUrl"]["AllowedPattern"] == f"^{SAFE_URL_PATTERN}$"
    assert PARAMETERS["AuthBaseUrl"]["AllowedPattern"] == f"^({SAFE_URL_PATTERN})?$"


@pytest.mark.parametrize("given", [None, b"https://chat.qwen.ai", 1])
def test_what_is_no_text_is_no_address(given: Any) -> None:
    assert not is_safe_url(given)
    with pytest.raises(ConfigError, match="base_url should be an https:// URL"):
        Origin(given)


@pytest.mark.parametrize("address", SAFE.values(), ids=SAFE)
def test_all_parsers_find_the_same_host_in_an_address_that_is_safe(address: str) -> None:
    origin = Origin(address)
    scheme = "https" if origin.is_encrypted else "http"
    expected = (scheme, origin.host, origin.port)
    default = {"https": 443, "http": 80}[scheme]

    standard, url3, url = urlsplit(address), urllib3.util.parse_url(address), httpx.URL(address)
    prepared = urlsplit(requests.Request("GET", address).prepare().url or "")
    assert (standard.scheme, standard.hostname, standard.port or default) == expected
    assert (url3.scheme, (url3.host or "").strip("[]"), url3.port or default) == expected
    assert (url.scheme, url.raw_host.decode(), url.port or default) == expected
    assert (prepared.scheme, prepared.hostname, prepared.port or default) == expected


@libraries
@pytest.mark.parametrize("address", SAFE.values(), ids=SAFE)
def test_a_token_is_sent_to_the_host_that_was_checked(get: Any, address: str) -> None:
    source, origin = Source(), Origin(address)
    with LOOKUPS as found, pytest.raises((requests.RequestException, httpx.HTTPError)):
        get(address, source, address)
    assert source.asked == 1
    assert found == [(origin.host, origin.port)]


@libraries
@pytest.mark.parametrize("base_url", ORIGINS)
def test_no_address_that_is_not_safe_gets_the_token_of_another_host(
    get: Any, base_url: str
) -> None:
    origin = Origin(base_url)
    for what, address in UNSAFE.items():
        source = Source()
        with LOOKUPS as found, pytest.raises(Exception):  # noqa: B017, PT011 - of many kinds
            get(address, source, base_url)
        assert not source.asked or found in ([], [(origin.host, origin.port)]), what


@pytest.mark.parametrize("base_url", ORIGINS)
def test_an_origin_holds_only_what_all_parsers_take_for_its_own(base_url: str) -> None:
    origin = Origin(base_url)
    for what, address in UNSAFE.items():
        if origin.holds(address):
            assert urlsplit(address).hostname == origin.host, what
            assert (urllib3.util.parse_url(address).host or "").strip("[]") == origin.host, what


def test_nothing_is_sent_to_an_address_that_is_not_safe() -> None:
    for address in UNSAFE.values():
        # A request may have a query, which a base URL may not.
        if "?" not in address:
            with pytest.raises(ConfigError, match="nothing was sent"):
                send(Request(address, headers={"Authorization": RAW}), within=timedelta(seconds=5))
