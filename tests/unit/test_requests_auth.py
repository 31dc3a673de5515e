"""The token on requests, by requests and by httpx: where it goes, and when it is renewed."""

import asyncio
import gzip
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import requests

from qwen_token import ConfigError, QwenAuth, SharedToken, TokenRejectedError
from qwen_token.httpx_auth import QwenHttpxAuth
from qwen_token.origin import Origin
from tests.fake_secrets_manager import FakeSecretsManager
from tests.fakes import Clock
from tests.minting import token
from tests.unit.auth_fakes import (
    ENVELOPE,
    JSON,
    NEW,
    OLD,
    SOON,
    WELCOME,
    Api,
    Reply,
    Seen,
    Tokens,
    serving,
)
from tests.wire import NO_CERTIFICATES

LIMIT = 64 * 1024


@pytest.fixture(name="api")
def _api() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture(name="elsewhere")
def _elsewhere() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture(name="tokens")
def _tokens() -> Tokens:
    return Tokens()


@dataclass
class Answer:
    status: int
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Call:
    """What is sent, and how; ``before_reading`` is done once the answer's head is there."""

    base_url: str | None = None
    method: str = "GET"
    headers: Mapping[str, str] | None = None
    body: Any = None
    streams: bool = False
    before_reading: Callable[[], None] = lambda: None


class Requests:
    """How requests sends."""

    def send(self, source: Any, url: str, **options: Any) -> Answer:
        call = Call(**options)
        auth = QwenAuth(source, base_url=call.base_url or url)
        with (
            requests.Session() as session,
            session.request(
                call.method,
                url,
                auth=auth,
                data=call.body,
                headers=call.headers,
                stream=call.streams,
                timeout=SOON,
            ) as response,
        ):
            call.before_reading()
            if call.streams:
                return Answer(response.status_code, b"".join(response.iter_content(1000)))
            return Answer(response.status_code, response.content)


class Httpx(Requests):
    """How httpx sends."""

    def send(self, source: Any, url: str, **options: Any) -> Answer:
        call = Call(**options)
        auth = QwenHttpxAuth(source, base_url=call.base_url or url)
        with httpx.Client(
            timeout=SOON, follow_redirects=True, trust_env=False, verify=NO_CERTIFICATES
        ) as client:
            request = client.build_request(
                call.method, url, content=call.body, headers=call.headers
            )
            response = client.send(request, auth=auth, stream=call.streams)
            try:
                call.before_reading()
                if call.streams:
                    return Answer(response.status_code, b"".join(response.iter_bytes(1000)))
                return Answer(response.status_code, response.content)
            finally:
                response.close()


class HttpxAsync(Requests):
    """How httpx sends under asyncio."""

    def send(self, source: Any, url: str, **options: Any) -> Answer:
        return asyncio.run(self._send(source, url, Call(**options)))

    async def _send(self, source: Any, url: str, call: Call) -> Answer:
        async def pieces() -> Any:
            for piece in call.body:
                yield piece

        body = call.body if call.body is None or isinstance(call.body, bytes) else pieces()
        auth = QwenHttpxAuth(source, base_url=call.base_url or url)
        async with httpx.AsyncClient(
            timeout=SOON, follow_redirects=True, trust_env=False, verify=NO_CERTIFICATES
        ) as client:
            request = client.build_request(call.method, url, content=body, headers=call.headers)
            response = await client.send(request, auth=auth, stream=call.streams)
            try:
                call.before_reading()
                if call.streams:
                    chunks = [chunk async for chunk in response.aiter_bytes(1000)]
                    return Answer(response.status_code, b"".join(chunks))
                return Answer(response.status_code, response.content)
            finally:
                await response.aclose()


@pytest.fixture(
    name="http",
    params=[Requests, Httpx, HttpxAsync],
    ids=["requests", "httpx", "httpx async"],
)
def _http(request: pytest.FixtureRequest) -> Requests:
    client: Requests = request.param()
    return client


def chunked(body: bytes, size: int = 50) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


REFUSALS = [
    pytest.param(lambda: Reply(401, JSON, b'{"detail": "401 Unauthorized"}'), id="401"),
    pytest.param(lambda: Reply(401), id="401 with nothing"),
    pytest.param(lambda: Reply(401, chunks=chunked(b"x" * 3 * LIMIT, 9000)), id="a long 401"),
    pytest.param(lambda: Reply(200, JSON, ENVELOPE), id="the envelope"),
    pytest.param(lambda: Reply(200, JSON, chunks=chunked(ENVELOPE)), id="the envelope in chunks"),
    pytest.param(
        lambda: Reply(200, {**JSON, "Content-Encoding": "gzip"}, gzip.compress(ENVELOPE)),
        id="the envelope compressed",
    ),
    pytest.param(
        lambda: Reply(200, {"Content-Type": "application/JSON; charset=utf-8"}, ENVELOPE),
        id="the envelope with a charset",
    ),
    pytest.param(
        lambda: Reply(200, {"x-actual-status-code": "401", "Content-Type": "text/event-stream"}),
        id="the site's own header",
    ),
]
NO_REFUSALS = [
    pytest.param(Reply(403, JSON, b'{"detail": "Not authenticated"}'), id="403"),
    pytest.param(Reply(403, JSON, ENVELOPE), id="403 with the envelope"),
    pytest.param(Reply(401, {"Content-Type": "text/html"}, b"<html>"), id="a page with 401"),
    pytest.param(
        Reply(200, {"Content-Type": "text/html"}, b'<meta name="aliyun_waf_aa">'), id="a block page"
    ),
    pytest.param(
        Reply(200, JSON, b'{"ret": ["FAIL_SYS_USER_VALIDATE"], "data": {}}'), id="a block in JSON"
    ),
    pytest.param(
        Reply(200, JSON, ENVELOPE.replace(b"unauthorized", b"RateLimited")), id="a rate limit"
    ),
    pytest.param(
        Reply(200, JSON, b'{"success": true, "data": {"code": "unauthorized"}}'), id="a success"
    ),
    pytest.param(Reply(200, {"Content-Type": "text/plain"}, ENVELOPE), id="text"),
    pytest.param(Reply(200, JSON, b"[" * 50_000 + b"unauthorized"), id="deep nesting"),
    pytest.param(Reply(500, JSON, ENVELOPE), id="a server's failure"),
]
STREAMS = pytest.mark.parametrize("streams", [False, True], ids=["read", "streamed"])


def test_the_token_goes_to_its_origin(http: Requests, api: Api) -> None:
    assert http.send(Tokens(NEW), f"{api.base_url}/api/v2/chats/").body == WELCOME
    assert [seen.authorization for seen in api.requests] == [f"Bearer {NEW}"]


def test_no_other_origin_gets_it(http: Requests, api: Api, elsewhere: Api) -> None:
    tokens = Tokens()
    answer = http.send(tokens, elsewhere.base_url, base_url=api.base_url)
    assert answer.status == 401
    assert elsewhere.tokens == [None]
    assert tokens.rejected == []


def test_another_origins_own_authorization_stays(http: Requests, api: Api, elsewhere: Api) -> None:
    headers = {"Authorization": "Basic YTpi"}
    http.send(Tokens(), elsewhere.base_url, base_url=api.base_url, headers=headers)
    assert [seen.authorization for seen in elsewhere.requests] == ["Basic YTpi"]


@STREAMS
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_token_is_renewed_and_the_request_sent_once_more(
    http: Requests, api: Api, tokens: Tokens, refusal: Callable[[], Reply], *, streams: bool
) -> None:
    api.refusal = refusal
    answer = http.send(tokens, api.base_url, method="POST", body=b"question", streams=streams)
    assert (answer.status, answer.body) == (200, WELCOME)
    assert api.tokens == [OLD, NEW]
    assert [seen.body for seen in api.requests] == [b"question"] * 2
    assert tokens.rejected == [OLD]


@STREAMS
@pytest.mark.parametrize("reply", NO_REFUSALS)
def test_what_is_no_refusal_comes_through_as_it_is(
    http: Requests, api: Api, tokens: Tokens, reply: Reply, *, streams: bool
) -> None:
    api.refusal = lambda: reply
    answer = http.send(tokens, api.base_url, streams=streams)
    assert (answer.status, answer.body) == (reply.status, reply.body)
    assert len(api.requests) == 1
    assert tokens.rejected == []


def test_a_token_that_is_refused_again_is_not_renewed_again(
    http: Requests, api: Api, tokens: Tokens
) -> None:
    api.live = "another one"
    assert http.send(tokens, api.base_url).status == 401
    assert api.tokens == [OLD, NEW]
    assert tokens.rejected == [OLD]


def test_what_the_source_raises_is_raised_to_the_caller(http: Requests, api: Api) -> None:
    dead = TokenRejectedError("the API refused the token")
    with pytest.raises(TokenRejectedError):
        http.send(Tokens(then=dead), api.base_url)
    assert api.tokens == [OLD]


def test_a_body_that_is_gone_is_not_sent_again_but_the_token_is_renewed(
    http: Requests, api: Api, tokens: Tokens
) -> None:
    pieces = (piece for piece in [b"one", b"two"])
    answer = http.send(tokens, api.base_url, method="POST", body=pieces)
    assert (answer.status, answer.body) == (401, b'{"detail": "401 Unauthorized"}')
    assert [seen.body for seen in api.requests] == [b"onetwo"]
    assert tokens.now == NEW


@pytest.mark.parametrize("hops", [1, 2], ids=["there", "there and back"])
def test_nothing_leaks_over_a_redirect(http: Requests, api: Api, elsewhere: Api, hops: int) -> None:
    def redirect(url: str) -> Callable[[Seen], Reply]:
        return lambda _seen: Reply(302, {"Location": url})

    api.live, api.welcome = OLD, redirect(f"{elsewhere.base_url}/trap")
    if hops == 2:
        elsewhere.live, elsewhere.welcome = None, redirect(f"{api.base_url}/back")
    tokens = Tokens()
    assert http.send(tokens, api.base_url).status == 401
    assert elsewhere.tokens == [None]
    assert api.tokens == [OLD, None][:hops]
    assert tokens.rejected == []


def test_a_token_refused_after_a_redirect_within_the_origin_is_renewed(
    http: Requests, api: Api, tokens: Tokens
) -> None:
    def welcome(seen: Seen) -> Reply:
        if seen.path == "/old":
            api.live = NEW
            return Reply(302, {"Location": "/new"})
        return Reply(200, JSON, WELCOME)

    api.live, api.welcome = OLD, welcome
    assert http.send(tokens, f"{api.base_url}/old").status == 200
    # httpx begins the second attempt from the start, requests where the refusal came.
    assert api.tokens[:3] == [OLD, OLD, NEW]
    assert tokens.rejected == [OLD]


def held_back(first: bytes, rest: bytes, release: threading.Event) -> Iterator[bytes]:
    yield first
    assert release.wait(SOON), "the client waited for more than the first part"
    yield rest


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        pytest.param("text/event-stream", b"data: {}\n\n", id="events"),
        pytest.param("application/x-ndjson", b"{}\n", id="lines of JSON"),
        pytest.param("application/octet-stream", b"{", id="a file"),
        pytest.param("application/json", b"[" + b"1," * LIMIT, id="JSON, but a lot of it"),
    ],
)
def test_a_stream_stays_a_stream(http: Requests, api: Api, kind: str, first: bytes) -> None:
    release = threading.Event()
    chunks = held_back(first, b"the end", release)
    api.welcome = lambda _seen: Reply(200, {"Content-Type": kind}, chunks=chunks)
    answer = http.send(Tokens(NEW), api.base_url, streams=True, before_reading=release.set)
    assert answer.body == first + b"the end"


def test_a_streamed_body_that_says_it_is_long_is_not_even_begun(http: Requests, api: Api) -> None:
    release = threading.Event()
    headers = {**JSON, "Content-Length": str(LIMIT + 1)}
    chunks = held_back(b"{", b" " * LIMIT, release)
    api.welcome = lambda _seen: Reply(200, headers, chunks=chunks)
    answer = http.send(Tokens(NEW), api.base_url, streams=True, before_reading=release.set)
    assert len(answer.body) == LIMIT + 1


def test_a_refusal_that_does_not_end_is_not_waited_for(
    http: Requests, api: Api, tokens: Tokens
) -> None:
    release = threading.Event()
    chunks = held_back(b"never mind", b"", release)
    api.refusal = lambda: Reply(401, chunks=chunks)

    def welcome(_seen: Seen) -> Reply:
        release.set()
        return Reply(200, JSON, WELCOME)

    api.welcome = welcome
    assert http.send(tokens, api.base_url, streams=True).body == WELCOME


def test_a_long_streamed_body_is_not_looked_at(http: Requests, api: Api) -> None:
    body = ENVELOPE + b" " * LIMIT
    api.welcome = lambda _seen: Reply(200, JSON, body)
    tokens = Tokens(NEW)
    assert http.send(tokens, api.base_url, streams=True).body == body
    assert tokens.rejected == []


@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT])
def test_a_streamed_body_that_was_looked_at_is_whole(http: Requests, api: Api, size: int) -> None:
    body = b"unauthorized"[:size] + b"7" * (size - 12)
    api.welcome = lambda _seen: Reply(200, JSON, chunks=chunked(body, 5000))
    assert http.send(Tokens(NEW), api.base_url, streams=True).body == body


def test_ten_threads_that_are_refused_cause_one_read_of_the_secret(
    http: Requests, api: Api
) -> None:
    secrets: Any = FakeSecretsManager()
    secrets.add("qwen/token", OLD)
    shared = SharedToken("qwen/token", client=secrets, clock=Clock())
    shared.current()
    secrets.hold("qwen/token", NEW)
    with ThreadPoolExecutor(10) as pool:
        sent = [pool.submit(http.send, shared, api.base_url) for _ in range(10)]
        assert {each.result(SOON).status for each in sent} == {200}
    assert len(secrets.calls) == 2


@pytest.mark.parametrize("stored", [True, False], ids=["with a successor", "with none"])
def test_ten_requests_whose_token_ends_on_the_way_cause_one_read(
    http: Requests, api: Api, *, stored: bool
) -> None:
    short = token(left=timedelta(minutes=15)).raw
    secrets: Any = FakeSecretsManager()
    secrets.add("qwen/token", short)
    clock = Clock()
    shared = SharedToken("qwen/token", client=secrets, clock=clock)
    shared.current()
    everybody_has_sent = threading.Barrier(11)

    def refusal() -> Reply:
        everybody_has_sent.wait(SOON)
        everybody_has_sent.wait(SOON)
        return Reply(401, JSON, b'{"detail": "401 Unauthorized"}')

    def send() -> int:
        try:
            return http.send(shared, api.base_url).status
        except TokenRejectedError:
            return 401

    api.refusal = refusal
    with ThreadPoolExecutor(10) as pool:
        sent = [pool.submit(send) for _ in range(10)]
        everybody_has_sent.wait(SOON)
        clock.sleep(900)
        if stored:
            secrets.hold("qwen/token", NEW)
        everybody_has_sent.wait(SOON)
        assert {each.result(SOON) for each in sent} == {200 if stored else 401}
    assert len(secrets.calls) == 2
    assert api.tokens.count(short) == 10


def test_a_token_in_its_last_minute_is_not_sent_if_there_is_another(
    http: Requests, api: Api
) -> None:
    short, clock = token(left=timedelta(minutes=4)).raw, Clock()
    secrets: Any = FakeSecretsManager()
    secrets.add("qwen/token", short)
    shared = SharedToken("qwen/token", client=secrets, clock=clock)
    api.live = short
    assert http.send(shared, api.base_url).status == 200
    secrets.hold("qwen/token", NEW)
    clock.sleep(180)
    api.live = NEW
    assert http.send(shared, api.base_url).status == 200
    assert api.tokens == [short, NEW]


@pytest.mark.parametrize("kind", [QwenAuth, QwenHttpxAuth])
def test_an_auth_is_made_from_a_secret(kind: Any) -> None:
    secrets: Any = FakeSecretsManager()
    secrets.add("qwen/token", OLD)
    auth = kind.from_secret("qwen/token", client=secrets)
    assert repr(auth) == f"{kind.__name__}(https://chat.qwen.ai, token=[redacted])"
    assert secrets.calls == []


def test_auths_from_the_same_secret_share_one_copy() -> None:
    one, other = (QwenAuth.from_secret("qwen/shared") for _ in range(2))
    assert one._source is other._source


@pytest.mark.parametrize(
    "base_url",
    ["http://chat.qwen.ai", "chat.qwen.ai", "", "ftp://chat.qwen.ai", "https://me:x@chat.qwen.ai"],
)
def test_a_base_url_that_no_token_may_go_to_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigError, match="base_url should be"):
        QwenAuth(Tokens(), base_url=base_url)


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("https://chat.qwen.ai", True),
        ("https://chat.qwen.ai:443/a?b#c", True),
        ("HTTPS://CHAT.QWEN.AI/", True),
        # What is before a host is where parsers disagree.
        ("https://me@chat.qwen.ai/", False),
        ("https://chat.qwen.ai\\@example/", False),
        ("https://chat.qwen.ai?x=1", True),
        ("http://chat.qwen.ai/", False),
        ("https://chat.qwen.ai:8443/", False),
        ("https://chat.qwen.ai.example/", False),
        ("https://www.chat.qwen.ai/", False),
        ("https://chat.qwen.ai@example/", False),
        ("https://example/https://chat.qwen.ai", False),
        ("https://[::1", False),
        ("https://chat.qwen.ai:port/", False),
        ("", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, *, is_ours: bool) -> None:
    assert Origin("https://chat.qwen.ai/any/path").holds(url) is is_ours


@pytest.mark.parametrize(
    "url", ["https://chat.qwen.ai", "http://127.0.0.1:8000", "http://[::1]:80", "https://a:8443"]
)
def test_an_origin_shows_itself(url: str) -> None:
    assert str(Origin(url)) == url.removesuffix(":80")


@pytest.mark.parametrize("at", [0, 3])
def test_requests_sends_a_file_again_from_where_it_began(
    api: Api, tokens: Tokens, tmp_path: Path, at: int
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        file.seek(at)
        answer = Requests().send(tokens, api.base_url, method="PUT", body=file)
    assert answer.status == 200
    assert [seen.body for seen in api.requests] == [b"0123456789"[at:]] * 2


def test_requests_does_not_send_a_file_again_that_was_closed(api: Api, tokens: Tokens) -> None:
    class Closes(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:
                self.close()
            return data

        def __iter__(self) -> Iterator[bytes]:
            yield self.read()
            self.close()

    answer = Requests().send(tokens, api.base_url, method="PUT", body=Closes(b"once"))
    assert answer.status == 401
    assert [seen.body for seen in api.requests] == [b"once"]


def test_requests_keeps_the_refusal_in_the_history_and_its_cookies(
    api: Api, tokens: Tokens
) -> None:
    api.refusal = lambda: Reply(401, {**JSON, "Set-Cookie": "from=refusal"}, b"{}")
    with requests.Session() as session:
        session.auth = QwenAuth(tokens, base_url=api.base_url)
        response = session.get(api.base_url, timeout=SOON)
        assert [each.status_code for each in response.history] == [401]
        assert session.cookies.get_dict() == {"from": "refusal"}
        assert [seen.cookie for seen in api.requests] == [None, "from=refusal"]
        assert response.request.headers["Authorization"] == f"Bearer {NEW}"
        assert session.get(api.base_url, timeout=SOON).history == []


def test_requests_sends_again_over_the_same_connection(api: Api, tokens: Tokens) -> None:
    assert Requests().send(tokens, api.base_url).status == 200
    first, second = api.requests
    assert first.port == second.port


def test_requests_lets_go_of_a_refusal_that_was_to_be_streamed(api: Api, tokens: Tokens) -> None:
    api.refusal = lambda: Reply(401, chunks=chunked(b"x" * 100))
    auth = QwenAuth(tokens, base_url=api.base_url)
    with requests.get(api.base_url, auth=auth, stream=True, timeout=SOON) as response:
        assert [refusal.raw.closed for refusal in response.history] == [True]


def test_httpx_lets_go_of_a_stream_that_was_looked_at(api: Api) -> None:
    limits = httpx.Limits(max_connections=1)
    api.welcome = lambda _seen: Reply(200, JSON, chunks=chunked(b"7" * 10 * LIMIT, 5000))
    auth = QwenHttpxAuth(Tokens(NEW), base_url=api.base_url)

    def streams_twice() -> None:
        with httpx.Client(
            auth=auth, limits=limits, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES
        ) as client:
            for _ in range(2):
                with client.stream("GET", api.base_url) as response:
                    assert response.status_code == 200

    async def streams_twice_async() -> None:
        client = httpx.AsyncClient(
            auth=auth, limits=limits, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES
        )
        async with client:
            for _ in range(2):
                async with client.stream("GET", api.base_url) as response:
                    assert response.status_code == 200

    streams_twice()
    asyncio.run(streams_twice_async())


def test_a_session_that_keeps_headers_over_redirects_gets_no_other_token(
    api: Api, elsewhere: Api, tokens: Tokens
) -> None:
    class Careless(requests.Session):
        def should_strip_auth(self, old_url: str, new_url: str) -> bool:
            return False

    api.live, api.welcome = OLD, lambda _seen: Reply(302, {"Location": elsewhere.base_url})
    auth = QwenAuth(tokens, base_url=api.base_url)
    with Careless() as session:
        assert session.get(api.base_url, auth=auth, timeout=SOON).status_code == 401
    assert elsewhere.tokens == [OLD]
    assert tokens.rejected == []


def test_httpx_that_keeps_the_header_to_https_gets_no_other_token_there(tokens: Tokens) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.url} {request.headers['Authorization']}")
        if request.url.scheme == "http":
            return httpx.Response(301, headers={"Location": "https://localhost/"})
        return httpx.Response(401)

    auth = QwenHttpxAuth(tokens, base_url="http://localhost")
    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport, follow_redirects=True) as client:
        assert client.get("http://localhost/", auth=auth).status_code == 401
    assert seen == [f"http://localhost/ Bearer {OLD}", f"https://localhost/ Bearer {OLD}"]
    assert tokens.rejected == []


def test_requests_meets_a_broken_stream_where_it_reads_it(api: Api) -> None:
    def breaks() -> Iterator[bytes]:
        yield b'{"begun": '
        raise ConnectionError

    api.welcome = lambda _seen: Reply(200, JSON, chunks=breaks())
    auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
    with requests.get(api.base_url, auth=auth, stream=True, timeout=SOON) as response:
        pieces = response.iter_content(None)
        assert next(pieces) == b'{"begun": '
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(pieces)


class Slow(Tokens):
    """A source that takes its time: it reads the secret."""

    def __init__(self) -> None:
        super().__init__(NEW)
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()

    def current(self) -> str:
        self.is_asked.set()
        assert self.may_answer.wait(SOON), "nobody let it answer"
        return super().current()


def test_httpx_under_asyncio_lets_the_loop_go_on_while_the_source_reads(api: Api) -> None:
    source = Slow()

    async def main() -> int:
        async with client_for(api, source) as client:
            sending = await begin(client, api, source)
            source.may_answer.set()
            return (await sending).status_code

    assert asyncio.run(main()) == 200


def test_httpx_under_asyncio_does_not_wait_for_the_source_once_cancelled(api: Api) -> None:
    source = Slow()

    async def main() -> None:
        async with client_for(api, source) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(client.get, api.base_url)
                    while not source.is_asked.is_set():  # noqa: ASYNC110 - set in another thread
                        await anyio.sleep(0.01)
                    scope.cancel()
            assert not source.may_answer.is_set()
            source.may_answer.set()

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started < SOON
    assert api.requests == []


def client_for(api: Api, source: Slow) -> httpx.AsyncClient:
    auth = QwenHttpxAuth(source, base_url=api.base_url)
    return httpx.AsyncClient(auth=auth, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES)


async def begin(
    client: httpx.AsyncClient, api: Api, source: Slow
) -> "asyncio.Task[httpx.Response]":
    """Begin a request, and go on when the source was asked for the token."""
    sending = asyncio.create_task(client.get(api.base_url))
    while not source.is_asked.is_set():  # noqa: ASYNC110 - it is set in another thread
        await asyncio.sleep(0.01)
    return sending


def test_httpx_leaves_a_body_alone_that_cannot_be_decoded(api: Api) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    api.welcome = lambda _seen: Reply(200, headers, b"not compressed")
    with pytest.raises(httpx.DecodingError):
        Httpx().send(Tokens(NEW), api.base_url)
