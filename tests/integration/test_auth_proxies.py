"""Plain http stays on this machine: the auths let no proxy see a token on its way to loopback."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import httpx
import pytest
import requests

from qwen_token import ConfigError, QwenAuth
from qwen_token.httpx_auth import QwenHttpxAuth
from tests.minting import token
from tests.wire import NO_CERTIFICATES, Wire, reply, wire

RAW: Final = token(left=timedelta(days=2)).raw
ANSWER: Final = reply("200 OK", b"{}", "Content-Type: application/json")
VARIABLES: Final = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


class Source:
    def current(self) -> str:
        return RAW

    def renew(self, *, rejected: str) -> str:
        raise AssertionError(rejected)


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="server")
def _server() -> Iterator[Wire]:
    with wire(ANSWER) as server:
        yield server


@pytest.fixture(name="proxy")
def _proxy() -> Iterator[Wire]:
    with wire(ANSWER) as proxy:
        yield proxy


def by_requests(url: str, **options: Any) -> int:
    return requests.get(
        url, auth=QwenAuth(Source(), base_url=url), timeout=5, **options
    ).status_code


def by_httpx(url: str, **options: Any) -> int:
    with httpx.Client(
        auth=QwenHttpxAuth(Source(), base_url=url), verify=NO_CERTIFICATES, **options
    ) as client:
        return client.get(url).status_code


def by_async_httpx(url: str, **options: Any) -> int:
    async def get() -> int:
        auth = QwenHttpxAuth(Source(), base_url=url)
        async with httpx.AsyncClient(auth=auth, verify=NO_CERTIFICATES, **options) as client:
            return (await client.get(url)).status_code

    return asyncio.run(get())


ALL: Final = {"requests": by_requests, "httpx": by_httpx, "asynchronous httpx": by_async_httpx}
libraries = pytest.mark.parametrize("get", ALL.values(), ids=ALL)


def has_the_token(seen: Wire) -> bool:
    return any(RAW.encode() in request for request in seen.requests)


@libraries
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_proxy_of_the_environment_gets_no_token(
    get: Callable[..., int],
    variable: str,
    server: Wire,
    proxy: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, proxy.base_url)
    with pytest.raises(ConfigError, match=r"add 127\.0\.0\.1 to NO_PROXY"):
        get(server.base_url)
    assert not has_the_token(proxy)
    assert server.requests == []


@libraries
@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "example.com,127.0.0.1"])
def test_with_no_proxy_for_the_host_the_token_goes_straight_to_it(
    get: Callable[..., int],
    exempt: str,
    server: Wire,
    proxy: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
    monkeypatch.setenv("NO_PROXY", exempt)
    assert get(server.base_url) == 200
    assert has_the_token(server)
    assert proxy.requests == []


@pytest.mark.parametrize("get", [by_httpx, by_async_httpx], ids=["httpx", "asynchronous httpx"])
def test_a_proxy_that_an_httpx_client_names_gets_no_token(
    get: Callable[..., int], server: Wire
) -> None:
    transport = httpx.HTTPTransport if get is by_httpx else httpx.AsyncHTTPTransport
    with wire(ANSWER) as proxy:
        with pytest.raises(ConfigError, match="through a proxy"):
            get(server.base_url, proxy=proxy.base_url)
        with pytest.raises(ConfigError, match="through a proxy"):
            get(server.base_url, mounts={"http://": transport(proxy=proxy.base_url)})
    assert not any(proxy.requests), "connections, and nothing over them"


def test_a_connection_through_a_proxy_that_is_open_already_gets_no_token(
    server: Wire,
) -> None:
    kept = threading.Event()

    def serve(connection: Any) -> None:
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        connection.sendall(body)
        later.append(connection.recv(65536))
        kept.set()

    later: list[bytes] = []
    with wire(serve) as proxy:
        with httpx.Client(proxy=proxy.base_url, verify=NO_CERTIFICATES) as client:
            assert client.get(server.base_url).status_code == 200
            with pytest.raises(ConfigError):
                client.get(server.base_url, auth=QwenHttpxAuth(Source(), base_url=server.base_url))
        assert kept.wait(5)
    assert later == [b""]


def test_socks_gets_no_token() -> None:
    auth = QwenHttpxAuth(Source(), base_url="http://127.0.0.1:8080")
    ours = {"host": "127.0.0.1", "port": 8080}
    with pytest.raises(ConfigError, match="through a proxy"):
        auth._require_no_proxy("socks.setup_socks5_connection.started", ours)
    auth._require_no_proxy("socks.setup_socks5_connection.started", {**ours, "port": 80})


@pytest.mark.parametrize("place", ["call", "session"])
def test_a_proxy_that_requests_was_given_is_complained_of_at_once(
    place: str, server: Wire, proxy: Wire
) -> None:
    """The auth does not see it before: that is documented, and it does not go unnoticed."""
    proxies = {"http": proxy.base_url}
    with requests.Session() as session:
        if place == "session":
            session.proxies = proxies
        with pytest.raises(ConfigError, match="give the session no proxy for http"):
            session.get(
                server.base_url,
                auth=QwenAuth(Source(), base_url=server.base_url),
                proxies=proxies if place == "call" else None,
                timeout=5,
            )
    assert len(proxy.requests) == 1
    assert server.requests == []


@libraries
def test_a_request_to_another_host_may_go_through_a_proxy(
    get: Callable[..., int], proxy: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
    url = "http://another.example/"
    auths = {by_requests: QwenAuth, by_httpx: QwenHttpxAuth}
    if get is by_async_httpx:

        async def ask() -> int:
            auth = QwenHttpxAuth(Source(), base_url="http://127.0.0.1:1")
            async with httpx.AsyncClient(auth=auth, verify=NO_CERTIFICATES) as client:
                return (await client.get(url)).status_code

        assert asyncio.run(ask()) == 200
    else:
        module: Any = requests if get is by_requests else httpx
        auth = auths[get](Source(), base_url="http://127.0.0.1:1")
        assert module.get(url, auth=auth, timeout=5).status_code == 200
    assert not has_the_token(proxy)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_programs_own_trace_still_hears_of_everything(server: Wire, *, is_async: bool) -> None:
    heard: list[str] = []
    auth = QwenHttpxAuth(Source(), base_url=server.base_url)

    def trace(event: str, _info: object) -> None:
        heard.append(event)

    async def async_trace(event: str, _info: object) -> None:
        heard.append(event)

    async def get() -> None:
        async with httpx.AsyncClient(auth=auth, verify=NO_CERTIFICATES) as client:
            await client.get(server.base_url, extensions={"trace": async_trace})

    if is_async:
        asyncio.run(get())
    else:
        with httpx.Client(auth=auth, verify=NO_CERTIFICATES) as client:
            client.get(server.base_url, extensions={"trace": trace})
    assert "http11.send_request_headers.started" in heard
    assert "connection.connect_tcp.complete" in heard
