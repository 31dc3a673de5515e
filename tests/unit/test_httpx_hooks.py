"""httpx clients whose hooks or transports read an answer before the auth looks at it."""

import gzip
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest

from qwen_token.httpx_auth import QwenHttpxAuth
from tests.unit.auth_fakes import (
    BACKENDS,
    ENVELOPE,
    JSON,
    NEW,
    OLD,
    SOON,
    WELCOME,
    Api,
    Reply,
    Tokens,
    serving,
)
from tests.wire import NO_CERTIFICATES

_log = logging.getLogger(__name__)


@pytest.fixture(name="api")
def _api() -> Iterator[Api]:
    with serving() as api:
        yield api


class Logged(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream that an instrumentation puts around another one."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self.seen = b""

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._original:
            self.seen += chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._original:
            self.seen += chunk
            yield chunk

    def close(self) -> None:
        self._original.close()

    async def aclose(self) -> None:
        await self._original.aclose()


def reads(response: httpx.Response) -> None:
    response.read()


async def areads(response: httpx.Response) -> None:
    await response.aread()


def logs(response: httpx.Response) -> None:
    response.read()
    _log.info("%s: %s", response.status_code, response.text)


async def alogs(response: httpx.Response) -> None:
    await response.aread()
    _log.info("%s: %s", response.status_code, response.text)


def reads_by_lines(response: httpx.Response) -> None:
    if not hasattr(response, "_content"):
        response._content = "\n".join(response.iter_lines()).encode()


async def areads_by_lines(response: httpx.Response) -> None:
    response._content = "\n".join([line async for line in response.aiter_lines()]).encode()


def wraps(response: httpx.Response) -> None:
    response.stream = Logged(response.stream)


async def awraps(response: httpx.Response) -> None:
    response.stream = Logged(response.stream)


def only_looks(response: httpx.Response) -> None:
    assert response.headers


async def aonly_looks(response: httpx.Response) -> None:
    assert response.headers


HOOKS = pytest.mark.parametrize(
    ("hook", "ahook"),
    [
        pytest.param(reads, areads, id="reads"),
        pytest.param(logs, alogs, id="logs"),
        pytest.param(reads_by_lines, areads_by_lines, id="reads by lines"),
        pytest.param(wraps, awraps, id="wraps the stream"),
        pytest.param(only_looks, aonly_looks, id="looks at the headers"),
    ],
)

Hook = Callable[[httpx.Response], None]
AsyncHook = Callable[[httpx.Response], Awaitable[None]]
Send = Callable[..., tuple[int, bytes]]


def send(source: Any, url: str, hook: Hook, *, streams: bool = False) -> tuple[int, bytes]:
    auth = source if isinstance(source, QwenHttpxAuth) else QwenHttpxAuth(source, base_url=url)
    hooks = {"response": [hook]}
    with httpx.Client(
        auth=auth, event_hooks=hooks, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES
    ) as client:
        if not streams:
            response = client.get(url)
            return response.status_code, response.content
        with client.stream("GET", url) as response:
            return response.status_code, response.read()


async def asend(
    source: Any, url: str, hook: AsyncHook, *, streams: bool = False
) -> tuple[int, bytes]:
    auth = source if isinstance(source, QwenHttpxAuth) else QwenHttpxAuth(source, base_url=url)
    hooks = {"response": [hook]}
    async with httpx.AsyncClient(
        auth=auth, event_hooks=hooks, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES
    ) as client:
        if not streams:
            response = await client.get(url)
            return response.status_code, response.content
        async with client.stream("GET", url) as response:
            return response.status_code, await response.aread()


@pytest.fixture(name="sends", params=["sync", *BACKENDS])
def _sends(request: pytest.FixtureRequest) -> Any:
    """Return what sends with a hook, and which of two hooks it takes."""
    if request.param == "sync":
        return lambda source, url, hook, _ahook, **how: send(source, url, hook, **how)

    def run(source: Any, url: str, _hook: Hook, ahook: AsyncHook, **how: bool) -> tuple[int, bytes]:
        async def main() -> tuple[int, bytes]:
            return await asend(source, url, ahook, **how)

        return anyio.run(main, backend=request.param)

    return run


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a body is coded, and how it is read."""

    headers: Mapping[str, str]
    streams: bool

    def coded(self, body: bytes) -> bytes:
        return gzip.compress(body) if self.headers.get("Content-Encoding") == "gzip" else body


CASES = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(headers={**JSON, **coding}, streams=streams), id=f"{name}, {how}")
        for name, coding in {
            "plain": {},
            "compressed": {"Content-Encoding": "gzip"},
            "identity": {"Content-Encoding": "identity"},
        }.items()
        for how, streams in {"read": False, "streamed": True}.items()
    ],
)


@HOOKS
@CASES
def test_an_answer_that_a_hook_reads_comes_through(
    api: Api, sends: Send, hook: Hook, ahook: AsyncHook, case: Case
) -> None:
    api.welcome = lambda _seen: Reply(200, case.headers, case.coded(WELCOME))
    assert sends(Tokens(NEW), api.base_url, hook, ahook, streams=case.streams) == (200, WELCOME)
    assert api.tokens == [NEW]


@HOOKS
@CASES
def test_a_refusal_that_a_hook_reads_is_seen(
    api: Api, sends: Send, hook: Hook, ahook: AsyncHook, case: Case
) -> None:
    api.refusal = lambda: Reply(200, case.headers, case.coded(ENVELOPE))
    assert sends(Tokens(), api.base_url, hook, ahook, streams=case.streams) == (200, WELCOME)
    assert api.tokens == [OLD, NEW]


@HOOKS
def test_a_long_answer_that_a_hook_reads_comes_through(
    api: Api, sends: Send, hook: Hook, ahook: AsyncHook
) -> None:
    body = ENVELOPE + b"7" * 200_000
    api.welcome = lambda _seen: Reply(200, JSON, body)
    assert sends(Tokens(NEW), api.base_url, hook, ahook) == (200, body)


def takes(response: httpx.Response) -> None:
    for _ in response.iter_raw():
        pass


async def atakes(response: httpx.Response) -> None:
    async for _ in response.aiter_raw():
        pass


def begins(response: httpx.Response) -> None:
    next(response.iter_bytes(1))


def closes(response: httpx.Response) -> None:
    response.close()


async def acloses(response: httpx.Response) -> None:
    await response.aclose()


@pytest.mark.parametrize(
    ("hook", "ahook", "told"),
    [
        pytest.param(takes, atakes, httpx.StreamConsumed, id="takes all"),
        pytest.param(closes, acloses, httpx.StreamClosed, id="closes it"),
    ],
)
def test_an_answer_that_a_hook_has_taken_is_gone_as_without_an_auth(
    api: Api, sends: Send, hook: Hook, ahook: AsyncHook, told: type[Exception]
) -> None:
    with pytest.raises(told):
        sends(Tokens(NEW), api.base_url, hook, ahook)
    assert api.tokens == [NEW]


def test_an_answer_that_a_hook_has_begun_is_gone_as_without_an_auth(api: Api) -> None:
    with pytest.raises(httpx.StreamConsumed):
        send(Tokens(NEW), api.base_url, begins)
    assert api.tokens == [NEW]


def raises(response: httpx.Response) -> None:
    response.raise_for_status()


async def araises(response: httpx.Response) -> None:
    response.raise_for_status()


def reads_and_raises(response: httpx.Response) -> None:
    response.read()
    response.raise_for_status()


async def areads_and_raises(response: httpx.Response) -> None:
    await response.aread()
    response.raise_for_status()


@pytest.mark.parametrize(
    ("hook", "ahook"), [(raises, araises), (reads_and_raises, areads_and_raises)]
)
@pytest.mark.parametrize("status", [401, 403, 500])
def test_after_a_refusal_that_a_hook_raises_the_next_request_renews_first(
    api: Api, sends: Send, hook: Hook, ahook: AsyncHook, status: int
) -> None:
    api.refusal = lambda: Reply(status, JSON, b'{"detail": "no"}')
    tokens = Tokens()
    auth = QwenHttpxAuth(tokens, base_url=api.base_url)
    with pytest.raises(httpx.HTTPStatusError):
        sends(auth, api.base_url, hook, ahook)
    if status == 401:
        assert sends(auth, api.base_url, hook, ahook) == (200, WELCOME)
    else:
        with pytest.raises(httpx.HTTPStatusError):
            sends(auth, api.base_url, hook, ahook)
    assert tokens.rejected == ([OLD] if status == 401 else [])
    assert api.tokens == [OLD, NEW if status == 401 else OLD]


def test_another_servers_refusal_that_a_hook_raises_renews_nothing(api: Api) -> None:
    with serving() as elsewhere:
        api.live, api.welcome = OLD, lambda _seen: Reply(302, {"Location": elsewhere.base_url})
        tokens = Tokens()
        auth = QwenHttpxAuth(tokens, base_url=api.base_url)
        hooks = {"response": [lambda answer: answer.is_redirect or answer.raise_for_status()]}
        with httpx.Client(
            auth=auth,
            event_hooks=hooks,
            follow_redirects=True,
            trust_env=False,
            verify=NO_CERTIFICATES,
        ) as client:
            for _ in range(2):
                with pytest.raises(httpx.HTTPStatusError):
                    client.get(api.base_url)
    assert tokens.rejected == []


class Reading(httpx.BaseTransport):
    """A transport that reads each answer before it gives it on, as one that caches does."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        response.read()
        return response

    def close(self) -> None:
        self._inner.close()


class AsyncReading(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        await response.aread()
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("is_mounted", [False, True], ids=["the client's", "mounted"])
def test_a_transport_may_read_the_answer_before(api: Api, *, is_mounted: bool) -> None:
    api.refusal = lambda: Reply(200, JSON, ENVELOPE)
    transport = Reading(httpx.HTTPTransport())
    how: Any = {"mounts": {"http://": transport}} if is_mounted else {"transport": transport}
    auth = QwenHttpxAuth(Tokens(), base_url=api.base_url)
    with httpx.Client(
        auth=auth, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES, **how
    ) as client:
        assert client.get(api.base_url).content == WELCOME


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_async_transport_may_read_the_answer_before(api: Api, backend: str) -> None:
    api.refusal = lambda: Reply(200, JSON, ENVELOPE)
    auth = QwenHttpxAuth(Tokens(), base_url=api.base_url)

    async def main() -> bytes:
        transport = AsyncReading(httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(auth=auth, timeout=SOON, transport=transport) as client:
            return (await client.get(api.base_url)).content

    assert anyio.run(main, backend=backend) == WELCOME


@pytest.mark.parametrize(
    "made",
    [
        lambda body: httpx.Response(200, content=body, headers=JSON),
        lambda body: httpx.Response(200, json=json.loads(body)),
        lambda body: httpx.Response(200, content=iter([body[:20], body[20:]]), headers=JSON),
        lambda body: httpx.Response(
            200, content=gzip.compress(body), headers={**JSON, "Content-Encoding": "gzip"}
        ),
    ],
    ids=["content", "json", "a stream", "compressed"],
)
def test_a_mock_transports_answers_are_looked_at(made: Callable[[bytes], httpx.Response]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return made(WELCOME if request.headers["Authorization"].endswith(NEW) else ENVELOPE)

    auth = QwenHttpxAuth(Tokens())
    with httpx.Client(auth=auth, transport=httpx.MockTransport(answer)) as client:
        assert client.get("https://chat.qwen.ai").json() == json.loads(WELCOME)


def test_an_answer_from_a_cache_may_be_given_again_and_again() -> None:
    auth = QwenHttpxAuth(Tokens(NEW))

    def cache() -> httpx.MockTransport:
        cached = httpx.Response(200, content=WELCOME, headers=JSON)
        return httpx.MockTransport(lambda _request: cached)

    async def main() -> list[bytes]:
        async with httpx.AsyncClient(auth=auth, transport=cache()) as client:
            return [(await client.get("https://chat.qwen.ai")).content for _ in range(3)]

    with httpx.Client(auth=auth, transport=cache()) as client:
        assert [client.get("https://chat.qwen.ai").content for _ in range(3)] == [WELCOME] * 3
    assert anyio.run(main) == [WELCOME] * 3
