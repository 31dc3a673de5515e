"""Streamed answers that the auth for requests has looked at: whoever reads one reads all of it."""

import csv
import gzip
import io
import json
import shutil
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from qwen_token import QwenAuth
from tests.unit.auth_fakes import (
    ENVELOPE,
    JSON,
    NEW,
    OLD,
    WELCOME,
    Api,
    Reply,
    Seen,
    Tokens,
    serving,
)
from tests.wire import Script, raw, wire

LIMIT = 64 * 1024
# Lines, of which some are long, with each way to end one.
TEXT = "\r\n".join(f"{number},für,{'x' * (number % 97)}\n{number}" for number in range(60)).encode()
LONG = TEXT * (LIMIT // len(TEXT) + 2)
SQUEEZED = gzip.compress(TEXT)


def pieces(body: bytes, size: int) -> Callable[[], Iterator[bytes]]:
    return lambda: (body[start : start + size] for start in range(0, len(body), size))


def whole(body: bytes, **headers: str) -> Callable[[], Reply]:
    return lambda: Reply(200, {**JSON, **headers}, body)


def chunked(body: bytes, size: int = 700, **headers: str) -> Callable[[], Reply]:
    return lambda: Reply(200, {**JSON, **headers}, chunks=pieces(body, size)())


GZIP = {"Content-Encoding": "gzip"}
ANSWERS = {
    "whole": whole(TEXT),
    "empty": whole(b""),
    "a JSON document": whole(WELCOME),
    "long": whole(LONG),
    "in chunks": chunked(TEXT),
    "long, in chunks": chunked(LONG, 5000),
    "no chunk": chunked(b""),
    "up to the limit": chunked(TEXT * 40 + b"7" * (LIMIT - len(TEXT * 40))),
    "one more than the limit": chunked(b"7" * (LIMIT + 1), 9000),
    "until the connection ends": chunked(TEXT, Connection="close"),
    "long, until the connection ends": chunked(LONG, 5000, Connection="close"),
    "compressed": whole(SQUEEZED, **GZIP),
    "compressed, in chunks": chunked(SQUEEZED, 50, **GZIP),
    "compressed, long": whole(gzip.compress(LONG), **GZIP),
    "deflated": whole(zlib.compress(TEXT), **{"Content-Encoding": "deflate"}),
    "not what it says": whole(TEXT, **GZIP),
    "less than it says": chunked(
        TEXT, 700, **{"Content-Length": str(len(TEXT) + 9), "Connection": "close"}
    ),
}


def until_empty(read: Callable[[], bytes]) -> bytes:
    return b"".join(iter(read, b""))


def into(response: requests.Response) -> bytes:
    buffer, found = bytearray(7), b""
    while count := response.raw.readinto(buffer):
        found += buffer[:count]
    return found


def raw_of(response: requests.Response) -> Any:
    return response.raw


def copied(response: requests.Response) -> bytes:
    target = io.BytesIO()
    shutil.copyfileobj(response.raw, target)
    return target.getvalue()


def rows(response: requests.Response) -> list[list[str]]:
    response.raw.auto_close = False
    return list(csv.reader(io.TextIOWrapper(raw_of(response), encoding="utf-8")))


def decoded(response: requests.Response) -> bytes:
    response.raw.decode_content = True
    return copied(response)


def where_it_is(response: requests.Response) -> list[Any]:
    found = []
    for size in (0, 1, 10, None):
        read = len(response.raw.read(size))
        found.append((read, response.raw.tell(), response.raw.closed, response.raw.isclosed()))
    return found


def before_it_is_read(response: requests.Response) -> Any:
    raw = raw_of(response)
    return raw.tell(), raw.closed, raw.length_remaining, raw.chunked, raw.fileno() > 0, len(raw.msg)


def closed_at_once(response: requests.Response) -> Any:
    response.close()
    return response.raw.closed, response.raw.read()


def drained(response: requests.Response) -> Any:
    response.raw.drain_conn()
    return response.raw.closed, response.raw.read()


WAYS: dict[str, Callable[[requests.Response], Any]] = {
    "read": lambda response: response.raw.read(),
    "read, decoded": lambda response: response.raw.read(decode_content=True),
    "read, not decoded": lambda response: response.raw.read(decode_content=False),
    "read by size": lambda response: until_empty(lambda: response.raw.read(10)),
    "read by size, decoded": lambda response: until_empty(
        lambda: response.raw.read(10, decode_content=True)
    ),
    "read1": lambda response: until_empty(response.raw.read1),
    "read1 by size": lambda response: until_empty(lambda: response.raw.read1(10)),
    "readinto": into,
    "readline": lambda response: until_empty(response.raw.readline),
    "readlines": lambda response: response.raw.readlines(),
    "a part, and the rest": lambda response: (response.raw.read(7), response.raw.read()),
    "line by line": lambda response: list(response.raw),
    "stream": lambda response: list(response.raw.stream(64)),
    "stream, decoded": lambda response: list(response.raw.stream(64, decode_content=True)),
    "stream as it comes": lambda response: list(response.raw.stream(None)),
    "read_chunked": lambda response: list(response.raw.read_chunked()),
    "data": lambda response: (response.raw.data, response.raw.data),
    "iter_content": lambda response: list(response.iter_content(1000)),
    "iter_content as it comes": lambda response: list(response.iter_content(None)),
    "iter_content, byte by byte": lambda response: b"".join(response.iter_content()),
    "iter_lines": lambda response: list(response.iter_lines()),
    "content": lambda response: response.content,
    "text": lambda response: response.text,
    "json": lambda response: response.json(),
    "json.load": lambda response: json.load(response.raw),
    "copyfileobj": copied,
    "copyfileobj, decoded": decoded,
    "BufferedReader": lambda response: io.BufferedReader(response.raw).read(),
    "BufferedReader, by lines": lambda response: io.BufferedReader(response.raw).readlines(),
    "TextIOWrapper": lambda response: io.TextIOWrapper(raw_of(response), encoding="utf-8").read(),
    "csv": rows,
    "GzipFile": lambda response: gzip.GzipFile(fileobj=response.raw).read(),
    "tell and closed": where_it_is,
    "before it is read": before_it_is_read,
    "closed at once": closed_at_once,
    "drained": drained,
}


def welcoming(answer: Callable[[], Reply]) -> Callable[[Seen], Reply]:
    return lambda _seen: answer()


@pytest.fixture(name="api")
def _api() -> Iterator[Api]:
    with serving() as api:
        api.refusal = lambda: Reply(401)
        yield api


def outcome(
    url: str, auth: QwenAuth | None, read: Callable[[requests.Response], Any]
) -> tuple[Any, Any]:
    """Return what a reader gets, or the class of its exception."""
    with (
        requests.Session() as session,
        session.get(url, auth=auth, stream=True, timeout=3.0) as response,
    ):
        try:
            found = read(response)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other must get it as well
            found = type(error)
        return found, response.raw.closed


# Byte by byte, or nearly so, the longest answers take seconds; and what is like another by day.
SLOW = (
    *("readline", "iter_content, byte by byte", "readinto", "read by size, decoded"),
    *("readlines", "read1 by size", "stream as it comes", "iter_content as it comes", "text"),
    *("copyfileobj, decoded", "BufferedReader, by lines", "read by size"),
)


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.nightly if way in SLOW else ()) for way in WAYS]
)
def test_a_streamed_answer_is_read_as_it_is_without_an_auth(api: Api, way: str) -> None:
    auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
    different = []
    for name, answer in ANSWERS.items():
        api.welcome = welcoming(answer)
        found = outcome(api.base_url, auth, WAYS[way])
        api.live = None
        if found != outcome(api.base_url, None, WAYS[way]):
            different.append(name)
        api.live = NEW
    assert different == []


def test_the_bytes_are_compared_with_the_right_ones(api: Api) -> None:
    api.welcome = lambda _seen: ANSWERS["compressed, in chunks"]()
    auth = QwenAuth(Tokens(NEW), base_url=api.base_url)

    assert outcome(api.base_url, auth, WAYS["copyfileobj, decoded"]) == (TEXT, True)
    assert outcome(api.base_url, auth, WAYS["copyfileobj"]) == (SQUEEZED, True)


@pytest.mark.parametrize("answer", ["whole", "in chunks", "compressed", "long, in chunks"])
def test_a_connection_serves_again_once_its_answer_is_read(api: Api, answer: str) -> None:
    api.welcome = lambda _seen: ANSWERS[answer]()
    with requests.Session() as session:
        session.auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
        for _ in range(3):
            with session.get(api.base_url, stream=True, timeout=3.0) as response:
                response.raw.read()
    assert len({seen.port for seen in api.requests}) == 1


def test_a_hook_may_have_read_the_answer_before(api: Api) -> None:
    """The request was prepared with a hook, and got its auth afterwards."""
    api.refusal = lambda: Reply(200, JSON, ENVELOPE)
    tokens = Tokens(OLD)
    with requests.Session() as session:
        request = session.prepare_request(
            requests.Request("GET", api.base_url, hooks={"response": [reads_all]})
        )
        request.prepare_auth(QwenAuth(tokens, base_url=api.base_url))
        response = session.send(request, stream=True, timeout=3.0)
        assert response.content == WELCOME
    assert tokens.rejected == [OLD]


def reads_all(response: requests.Response, **_how: Any) -> None:
    assert response.content


@pytest.mark.parametrize("size", [10, None], ids=["a part", "all"])
def test_a_hook_may_have_taken_the_answer_before(api: Api, size: int | None) -> None:
    taken = []

    def takes(response: requests.Response, **_how: Any) -> None:
        taken.append(response.raw.read(size))

    api.welcome = lambda _seen: Reply(200, JSON, TEXT)
    with requests.Session() as session:
        request = session.prepare_request(
            requests.Request("GET", api.base_url, hooks={"response": [takes]})
        )
        request.prepare_auth(QwenAuth(Tokens(NEW), base_url=api.base_url))
        response = session.send(request, stream=True, timeout=3.0)
        assert taken[0] + response.raw.read() == TEXT


def stalls(head: bytes) -> Script:
    """Answer with this beginning, and then with nothing until the client goes away."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        connection.recv(1)

    return send


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(stalls(HEAD + b"Content-Length: 99\r\n\r\n{"), id="a part of a whole"),
        pytest.param(
            stalls(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"), id="a chunk of some"
        ),
        pytest.param(
            raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nnumber\r\n"),
            id="a chunk without a size",
        ),
    ],
)
@pytest.mark.parametrize("way", ["read", "iter_content", "content", "stream", "read1", "data"])
def test_a_broken_answer_raises_when_it_is_read_as_without_an_auth(
    script: Script, way: str
) -> None:
    def read(response: requests.Response) -> Any:
        return WAYS[way](response)

    def told(auth: QwenAuth | None, url: str) -> Any:
        with requests.get(url, auth=auth, stream=True, timeout=0.3) as response:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - the other's class counts
                read(response)
            return type(caught.value)

    with wire(script) as server:
        auth = QwenAuth(Tokens(NEW), base_url=server.base_url)
        assert told(auth, server.base_url) is told(None, server.base_url)
