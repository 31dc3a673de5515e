"""The API's client against servers that mean it harm: each ends in its class, in time, in vain."""

import gc
import gzip
import json
import logging
import socket
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import handler
from keeper_runtime.clients import Clients
from localcloud.qwen import QwenStandIn
from localcloud.waiting import wait_until
from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    UpstreamError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from qwen_token.grants.hosts import Hosts
from qwen_token.ports import STORE_CALL_LIMIT
from qwen_token.qwen_api import QwenApi
from tests.fake_lambda_context import FakeLambdaContext
from tests.fakes import FakeTopic
from tests.minting import ACCOUNT, all_said, pieces, token
from tests.wire import BRIEF, Script, drip, flood, raw, reply, wire

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

# What a call may take beyond its time: to cut off, and for a busy machine.
SLACK = 3.0

HELD = token(left=timedelta(days=2), now=datetime.now(UTC))
SUCCESSOR = token(left=timedelta(days=7), now=datetime.now(UTC))
SESSION = {"id": ACCOUNT, "email": "a@example.com", "role": "user", "token": SUCCESSOR.raw}
BODY = json.dumps(SESSION).encode()

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY_GZIP = gzip.compress(b"")
EMPTY_DEFLATE_BLOCK = b"\x00\x00\x00\xff\xff"

# Each is a network failure or not an answer of the API: none says anything about the token.
UNAVAILABLE, UNEXPECTED = UpstreamUnavailableError, UpstreamUnexpectedError


def deflate(data: bytes, *, window: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, window)
    return packer.compress(data) + packer.flush()


@cache
def bomb(*packers: Callable[[bytes], bytes]) -> bytes:
    """Return 64 MiB, packed by one after another."""
    data = b" " * (64 * 1024 * 1024)
    for pack in packers:
        data = pack(data)
    return data


def encoded(encoding: str, body: bytes) -> Script:
    return raw(OK + f"Content-Encoding: {encoding}\r\n\r\n".encode() + body)


def session(**changed: object) -> Script:
    return reply("200 OK", json.dumps(SESSION | changed).encode())


def quick_gzip(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1)


NEVER_ENDS: list[tuple[str, Script]] = [
    ("a status line that drips", drip(b"HTTP/1.1 200 ", b"O")),
    ("a header that drips", drip(OK + b"X-Slow: ", b"a")),
    ("headers that drip", drip(OK, b"X: y\r\n")),
    ("a body that drips", drip(OK + b"Content-Length: 100000\r\n\r\n", b" ")),
    ("a body without a length that drips", drip(OK + b"\r\n", b" ")),
    ("chunks that drip", drip(CHUNKED, b"1\r\n \r\n")),
    ("a chunk's size that drips", drip(CHUNKED, b"0")),
    ("trailers that drip", drip(CHUNKED + b"0\r\n", b"X: y\r\n")),
    ("continue, for ever", flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
    (
        "continue with a header of 60 kB, for ever",
        flood(b"", b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 60_000 + b"\r\n\r\n"),
    ),
    ("continue, dripping", drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
    ("trailers for ever", flood(CHUNKED + b"0\r\n", b"X: y\r\n")),
    ("chunks of one byte for ever", flood(CHUNKED, b"1\r\n \r\n")),
    (
        "a gzip header without an end",
        flood(OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\x03", b"n" * 65_536),
    ),
    (
        "empty gzip members for ever",
        flood(OK + b"Content-Encoding: gzip\r\n\r\n", EMPTY_GZIP * 1000),
    ),
    (
        "empty deflate blocks for ever",
        flood(OK + b"Content-Encoding: deflate\r\n\r\n\x78\x01", EMPTY_DEFLATE_BLOCK * 1000),
    ),
]

ENDS_BADLY: list[tuple[str, Script, type[QwenTokenError]]] = [
    # Heads.
    ("a status line without an end", flood(b"HTTP/1.1 200 ", b"O" * 65_536), UNAVAILABLE),
    ("a header without an end", flood(OK + b"X: ", b"y" * 65_536), UNAVAILABLE),
    ("headers without an end", flood(OK, b"X: y\r\n"), UNAVAILABLE),
    ("5000 headers", raw(OK + b"X: y\r\n" * 5000 + b"\r\n" + BODY), UNAVAILABLE),
    ("a header of 1 MB", raw(OK + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n" + BODY), UNAVAILABLE),
    ("a header that is no header", raw(OK + b"X " + b"\r" * 6000 + b"\r\n\r\n"), UNEXPECTED),
    ("102 for ever", flood(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), UNEXPECTED),
    (
        "early hints, then a session",
        raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"\r\n" + BODY),
        UNEXPECTED,
    ),
    ("a switch of protocols", raw(b"HTTP/1.1 101 Switching\r\n\r\n" + BODY), UNEXPECTED),
    ("a body without a head, as HTTP/0.9", raw(BODY), UNAVAILABLE),
    ("a page without a head", raw(b"<html>\r\n\r\n</html>"), UNAVAILABLE),
    ("HTTP/2", raw(b"\0\0\x12\x04\0\0\0\0\0\0\x03" + b"\0" * 100), UNAVAILABLE),
    ("HTTP/3.7", raw(b"HTTP/3.7 200 OK\r\n\r\n" + BODY), UNAVAILABLE),
    ("status 000", raw(b"HTTP/1.1 000 OK\r\n\r\n" + BODY), UNAVAILABLE),
    ("status 2000", raw(b"HTTP/1.1 2000 OK\r\n\r\n" + BODY), UNAVAILABLE),
    ("status 299", raw(b"HTTP/1.1 299 OK\r\n\r\n" + BODY), UNEXPECTED),
    ("nothing at all", raw(b""), UNAVAILABLE),
    (
        "a date of 60,000 brackets to try again at",
        raw(b"HTTP/1.1 429 Slow\r\nRetry-After: Mon, " + b"(" * 60_000 + b"\r\n\r\n"),
        RateLimitedError,
    ),
    # Lengths.
    ("a length too short", raw(OK + b"Content-Length: 9\r\n\r\n" + BODY), UNEXPECTED),
    ("a length too long", raw(OK + b"Content-Length: 99999\r\n\r\n" + BODY), UNAVAILABLE),
    (
        "a length of 50 digits",
        raw(OK + b"Content-Length: " + b"9" * 50 + b"\r\n\r\n" + BODY),
        UNAVAILABLE,
    ),
    ("a length of zero", raw(OK + b"Content-Length: 0\r\n\r\n" + BODY), UNEXPECTED),
    (
        "two lengths",
        raw(OK + b"Content-Length: 9\r\nContent-Length: 99\r\n\r\n" + BODY),
        UNAVAILABLE,
    ),
    ("a chunk of 16^4000 bytes", raw(CHUNKED + b"f" * 4000 + b"\r\n" + BODY), UNAVAILABLE),
    ("a chunk of less than nothing", raw(CHUNKED + b"-5\r\n" + BODY), UNAVAILABLE),
    ("a chunk's size without an end", flood(CHUNKED, b"0" * 65_536), UNAVAILABLE),
    ("a chunk's extension without an end", flood(CHUNKED + b"1;", b"e" * 65_536), UNAVAILABLE),
    ("chunks that are none", raw(CHUNKED + BODY), UNAVAILABLE),
    # Bodies.
    ("a body without an end", flood(OK + b"\r\n", b" " * 65_536), UNEXPECTED),
    (
        "a chunked body without an end",
        flood(CHUNKED, b"100\r\n" + b" " * 256 + b"\r\n"),
        UNEXPECTED,
    ),
    (
        "a redirect's body without an end",
        flood(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b" " * 65_536),
        UNEXPECTED,
    ),
    (
        "a refusal's body without an end",
        flood(b"HTTP/1.1 401 No\r\n\r\n", b'{"detail": "No."}' * 4096),
        UNEXPECTED,
    ),
    ("gzip", encoded("gzip", bomb(quick_gzip)), UNEXPECTED),
    ("deflate", encoded("deflate", bomb(lambda data: deflate(data, window=15))), UNEXPECTED),
    ("raw deflate", encoded("deflate", bomb(lambda data: deflate(data, window=-15))), UNEXPECTED),
    ("gzip in gzip", encoded("gzip, gzip", bomb(quick_gzip, quick_gzip)), UNEXPECTED),
    (
        "gzip in gzip, five times over",
        encoded("gzip, gzip, gzip, gzip, gzip", bomb(*[quick_gzip] * 5)),
        UNEXPECTED,
    ),
    ("two hundred encodings", encoded(", ".join(["gzip"] * 200), EMPTY_GZIP), UNAVAILABLE),
    ("brotli, or not", encoded("br", b"\x1b\xff\xff\xff" * 20), UNEXPECTED),
    ("zstandard, or not", encoded("zstd", b"\x28\xb5\x2f\xfd" * 20), UNEXPECTED),
    ("no gzip at all", encoded("gzip", BODY), UNAVAILABLE),
    ("gzip broken off", encoded("gzip", gzip.compress(BODY)[:-40]), UNEXPECTED),
    # Documents.
    ("JSON broken off", reply("200 OK", BODY[:-1]), UNEXPECTED),
    ("JSON twice", reply("200 OK", BODY * 2), UNEXPECTED),
    ("100,000 brackets", reply("200 OK", b"[" * 100_000 + b"]" * 100_000), UNEXPECTED),
    ("100,000 open brackets", reply("200 OK", b"[" * 100_000), UNEXPECTED),
    (
        "100,000 objects in each other",
        reply("200 OK", b'{"id":' * 100_000 + b"1" + b"}" * 100_000),
        UNEXPECTED,
    ),
    ("300,000 lists", reply("200 OK", b'{"id": [' + b"[]," * 300_000 + b"[]]}"), UNEXPECTED),
    ("a megabyte of cookies as token", session(token=" token=" * 140_000), UNEXPECTED),
    ("a megabyte of blanks as token", session(token=f"bearer{' ' * 1_000_000}x"), UNEXPECTED),
    ("no UTF-8", reply("200 OK", BODY.replace(b"user", b"\xff\xfe\xc3")), UNEXPECTED),
    (
        "half a character of UTF-16",
        reply("200 OK", BODY.decode().encode("utf-16-le")[:-1]),
        UNEXPECTED,
    ),
    ("half a surrogate as account", session(id="\ud800"), WrongAccountError),
    ("half a surrogate in the token", session(token="\udfff." * 3), UNEXPECTED),
]


def scenarios(
    table: Iterable[tuple[object, ...]], *, by_night: Collection[str] = ()
) -> list[object]:
    return [
        pytest.param(*rest, id=str(name), marks=pytest.mark.nightly if name in by_night else ())
        for name, *rest in table
    ]


def ends_in(kind: type[QwenTokenError], base_url: str) -> None:
    """See that a call ends in this class, in time, alone, and that it shows no token."""
    started = time.monotonic()
    with pytest.raises(QwenTokenError) as caught:
        QwenApi(base_url).refresh(HELD, within=BRIEF)

    assert time.monotonic() - started < BRIEF.total_seconds() + SLACK
    assert type(caught.value) is kind
    assert not any(
        piece in all_said(caught.value) for piece in pieces(HELD.raw) | pieces(SUCCESSOR.raw)
    )


def nobody_sends() -> bool:
    return all(each.name != "qwen-token-sender" for each in threading.enumerate())


def wait_until_nobody_sends() -> None:
    """Wait for the end of the thread, which may still be busy with what it had read before."""
    wait_until(
        nobody_sends,
        within=timedelta(seconds=20),
        expected="the sender's thread to end",
        seen=lambda: str(threading.enumerate()),
    )


# Each takes the processor for as long as it is read.
OTHER_FLOODS = (
    "empty deflate blocks for ever",
    "a gzip header without an end",
    "trailers for ever",
    "continue with a header of 60 kB, for ever",
)


@pytest.mark.parametrize("script", scenarios(NEVER_ENDS, by_night=OTHER_FLOODS))
def test_a_reply_that_never_ends_is_cut_off_and_no_thread_reads_on(script: Script) -> None:
    with wire(script) as server:
        ends_in(UpstreamUnavailableError, server.base_url)
        # Asked while the server still sends: nobody is there to read it.
        wait_until_nobody_sends()


@pytest.mark.parametrize(("script", "kind"), scenarios(ENDS_BADLY))
def test_a_reply_that_breaks_the_rules_is_classed(
    script: Script, kind: type[QwenTokenError]
) -> None:
    with wire(script) as server:
        ends_in(kind, server.base_url)
        wait_until_nobody_sends()


# urllib3 leaves this one connection to the garbage collector, which complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_lengths_in_one_header_are_no_answer() -> None:
    with wire(raw(OK + b"Content-Length: 9, 99\r\n\r\n" + BODY)) as server:
        ends_in(UpstreamUnavailableError, server.base_url)
    gc.collect()


@pytest.mark.xfail(
    strict=True,
    raises=UpstreamUnavailableError,
    reason="requests reads cookies that nobody asked for, and http.cookiejar warns, with a "
    "traceback on standard error, of a number that it cannot read; a warning is an error here",
)
def test_a_cookie_for_longer_than_a_float_holds_is_nobodys_business() -> None:
    with wire(reply("200 OK", BODY, "Set-Cookie: a=b; max-age=" + "9" * 400)) as server:
        assert QwenApi(server.base_url).refresh(HELD, within=BRIEF) == SUCCESSOR


# What any field may hold instead of what it should: text, as the server would send it.
WRONG = {
    "null": "null",
    "a boolean": "true",
    "a number": "7",
    "a fraction": "1.5",
    "more than a float holds": "1e999",
    "less than a float holds": "-1e999",
    "NaN": "NaN",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "a number of 4000 digits": "1" + "0" * 4000,
    "an empty list": "[]",
    "a list of a text": json.dumps([ACCOUNT]),
    "an object": '{"id": "x"}',
    "a list in a list, 900 times": "[" * 900 + "]" * 900,
}


def document(field: str, value: str) -> Script:
    """Answer with a session with this one value in place of its own."""
    fields = {name: json.dumps(each) for name, each in SESSION.items()} | {field: value}
    body = ",".join(f"{json.dumps(name)}:{each}" for name, each in fields.items())
    return reply("200 OK", f"{{{body}}}".encode())


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("field", ["id", "token"])
def test_a_session_without_a_text_where_it_needs_one_is_unexpected(field: str, value: str) -> None:
    with wire(document(field, value)) as server:
        ends_in(UpstreamUnexpectedError, server.base_url)


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize(
    "field", ["email", "role", "name", "expires_at", "success", "detail", "ret", "data"]
)
def test_what_a_session_has_besides_may_be_anything(field: str, value: str) -> None:
    with wire(document(field, value)) as server:
        assert QwenApi(server.base_url).refresh(HELD, within=BRIEF) == SUCCESSOR


@pytest.mark.parametrize(
    "field", ["id", "token", "email", "role", "name", "expires_at", "success", "detail", "ret"]
)
def test_a_number_with_too_many_digits_makes_the_answer_unexpected(field: str) -> None:
    with wire(document(field, "1" + "0" * 5000)) as server:
        ends_in(UpstreamUnexpectedError, server.base_url)


@pytest.mark.parametrize(
    "reply_with",
    [
        pytest.param(lambda url: [f"Location: {url}/"], id="an address"),
        pytest.param(lambda url: [f"Location: //{urlsplit(url).netloc}/"], id="no scheme"),
        pytest.param(
            lambda url: [f"Location: http://chat.qwen.ai@{urlsplit(url).netloc}/"],
            id="a well-known name before the host",
        ),
        pytest.param(lambda url: [f"Location: {url}/", f"Location: {url}/2"], id="two addresses"),
        pytest.param(lambda url: [f"Refresh: 0; url={url}/"], id="a refresh"),
        pytest.param(lambda url: [f"Content-Location: {url}/"], id="the content's location"),
        pytest.param(
            lambda url: [f'Alt-Svc: http/1.1="{urlsplit(url).netloc}"; ma=1'], id="another service"
        ),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "300 Choose", "301 Moved", "302 Found", "307 Here"])
def test_wherever_a_server_points_nobody_else_is_asked(
    status: str, reply_with: Callable[[str], list[str]]
) -> None:
    with wire(reply("200 OK", BODY)) as elsewhere:
        pointing = reply(status, b"<html>", *reply_with(elsewhere.base_url))
        with wire(pointing) as server:
            ends_in(UpstreamUnexpectedError, server.base_url)

    assert len(server.requests) == 1
    assert elsewhere.requests == []


@pytest.fixture(name="real_reply", scope="module")
def _real_reply() -> bytes:
    """Return what the stand-in sends, byte for byte."""
    with QwenStandIn() as qwen:
        there = urlsplit(qwen.base_url)
        with socket.create_connection((there.hostname, there.port)) as connection:
            connection.sendall(
                b"GET /api/v1/auths/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                b"Authorization: Bearer " + qwen.mint().encode() + b"\r\n\r\n"
            )
            whole = b""
            while chunk := connection.recv(65_536):
                whole += chunk
    return whole


def as_it_is(head: bytes, body: bytes) -> bytes:
    return head + b"\r\n\r\n" + body


def in_chunks(head: bytes, body: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if b"content-length" not in line.lower()]
    halves = [body[:100], body[100:], b""]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(half), half) for half in halves)
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n" + chunks


def until_it_closes(head: bytes, body: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if b"content-length" not in line.lower()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize("framed", [as_it_is, in_chunks, until_it_closes])
@pytest.mark.parametrize(
    "apart",
    [
        pytest.param(11, id="at every eleventh byte"),
        pytest.param(1, id="at every byte", marks=pytest.mark.nightly),
    ],
)
def test_a_real_reply_that_is_cut_off_is_never_taken_for_an_answer(
    real_reply: bytes, framed: Callable[[bytes, bytes], bytes], apart: int
) -> None:
    head, _, body = real_reply.partition(b"\r\n\r\n")
    whole = framed(head, body)
    account = json.loads(body)["id"]
    asking = token(left=timedelta(days=2), account=account, now=datetime.now(UTC))
    # The document itself has to be whole; of what comes after it, nothing is missed.
    needed = whole.rindex(b"}") + 1
    begun = len(whole) - len(whole.partition(b"\r\n\r\n")[2])
    ends = [*sorted({*range(0, needed, apart), begun - 1, begun, needed - 1}), len(whole)]

    with wire(*[raw(whole[:end]) for end in ends]) as server:
        api = QwenApi(server.base_url)
        for end in ends[:-1]:
            with pytest.raises(UpstreamError) as caught:
                api.refresh(asking, within=BRIEF)
            assert type(caught.value) in {UpstreamUnavailableError, UpstreamUnexpectedError}, end
        assert api.refresh(asking, within=BRIEF).raw == json.loads(body)["token"]

    assert len(server.requests) == len(ends)


# Each in a process of its own, which tells the most that it ever had in memory.
_MEASURED_CALL = """
import sys
from datetime import timedelta
from pathlib import Path

from qwen_token import QwenTokenError, decode_token
from qwen_token.qwen_api import QwenApi

token = decode_token(sys.stdin.read())
try:
    QwenApi(sys.argv[1]).refresh(token, within=timedelta(seconds=float(sys.argv[2])))
except QwenTokenError as error:
    print(error.reason)
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM:"):
        print(line.split()[1])
"""

GREEDY: list[tuple[str, Script]] = [
    ("98 headers of 64 kB", raw(OK + (b"X: " + b"y" * 65_000 + b"\r\n") * 98 + b"\r\n")),
    ("98 headers that are none", raw(OK + (b"X " + b"\r" * 65_000 + b"\r\n") * 98 + b"\r\n")),
    (
        "98 cookies of 64 kB",
        raw(OK + (b"Set-Cookie: a=b; expires=1 Jan" + b" " * 60_000 + b"x\r\n") * 98 + b"\r\n"),
    ),
    ("a body without an end", flood(OK + b"\r\n", b" " * 65_536)),
    ("gzip in gzip", encoded("gzip, gzip", bomb(quick_gzip, quick_gzip))),
    ("a million brackets", reply("200 OK", b"[" * 1_000_000)),
    ("350,000 objects", reply("200 OK", b'{"id": [' + b"{}," * 340_000 + b"{}]}")),
    (
        "empty deflate blocks for ever",
        flood(OK + b"Content-Encoding: deflate\r\n\r\n\x78\x01", EMPTY_DEFLATE_BLOCK * 1000),
    ),
    ("continue, for ever", flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
]
# One of heads, of bodies, of what is packed, and of what is parsed.
GREEDY_BY_DAY = {
    "98 cookies of 64 kB",
    "a body without an end",
    "gzip in gzip",
    "350,000 objects",
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it, others do not")
@pytest.mark.parametrize(
    "script", scenarios(GREEDY, by_night={name for name, _ in GREEDY} - GREEDY_BY_DAY)
)
def test_no_server_makes_the_function_outgrow_its_memory(script: Script) -> None:
    with wire(script) as server:
        ended = subprocess.run(  # noqa: S603 - our own words
            [sys.executable, "-c", _MEASURED_CALL, server.base_url, "2"],
            input=HELD.raw,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": "layers/qwen_token"},
            cwd=Path(__file__).parents[2],
        )
    reason, kilobytes = ended.stdout.split()
    assert reason in {"upstream_unavailable", "upstream_unexpected"}
    # The function has 256 MB, and boto3 and Powertools take some sixty of it.
    assert int(kilobytes) < 180 * 1024
    assert ended.stderr == ""


# For two short calls to Qwen, besides those to AWS.
TIME_LEFT = int((4 * STORE_CALL_LIMIT + 2 * BRIEF) / timedelta(milliseconds=1))


@dataclass(frozen=True)
class Aws:
    """The embedded AWS, as the function reaches it."""

    secrets: "SecretsManagerClient"
    dynamodb: "DynamoDBClient"
    state_table: str

    def clients(self, secret_id: str, base_url: str, topic: FakeTopic) -> Clients:
        """Return the outside world of a function that keeps this secret with this server."""
        return Clients(
            environ={
                "SECRET_ID": secret_id,
                "API_BASE_URL": base_url,
                "WEB_VERSION": "0.3.12",
                "USER_AGENT": "Mine/1",
                "REFRESH_BEFORE_DAYS": "3",
                "CRITICAL_DAYS": "1",
                "ALERT_AFTER_MINUTES": "0",
                "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
                "STATE_TABLE": self.state_table,
            },
            clock=lambda: datetime.now(UTC),
            secrets=lambda: self.secrets,
            sns=lambda: topic,  # type: ignore[arg-type,return-value]
            events=lambda: pytest.fail("there is no bus"),
            sqs=lambda: pytest.fail("there is no queue"),
            functions=lambda: pytest.fail("it runs no other function"),
            dynamodb=lambda: self.dynamodb,
            qwen=lambda url, user_agent: QwenApi(url, user_agent=user_agent),
            grant=lambda grant, _settings: Hosts(api_base_url=base_url).source(grant),
        )


@pytest.fixture(name="aws")
def _aws(secrets: "SecretsManagerClient", dynamodb: "DynamoDBClient", state_table: str) -> Aws:
    return Aws(secrets, dynamodb, state_table)


@pytest.mark.parametrize(
    ("script", "reason"),
    scenarios(
        [
            ("continue, for ever", flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "unavailable"),
            ("a header that drips", drip(OK + b"X-Slow: ", b"a"), "unavailable"),
            ("a body without an end", flood(OK + b"\r\n", b" " * 65_536), "unexpected"),
            ("gzip in gzip", encoded("gzip, gzip", bomb(quick_gzip, quick_gzip)), "unexpected"),
            ("a session broken off", raw(OK + b"\r\n" + BODY[:-1]), "unexpected"),
            ("a token broken off", session(token=SUCCESSOR.raw[:-60]), "unexpected"),
            ("100,000 brackets", reply("200 OK", b"[" * 100_000), "unexpected"),
        ]
    ),
)
def test_whatever_the_server_does_the_secret_and_its_versions_stay_as_they_were(
    script: Script,
    reason: str,
    aws: Aws,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secrets = aws.secrets
    arn = secrets.create_secret(Name=f"test/{uuid.uuid4()}", SecretString=HELD.raw)["ARN"]
    before = secrets.describe_secret(SecretId=arn)["VersionIdsToStages"]
    topic = FakeTopic()
    with wire(script) as server, caplog.at_level(logging.DEBUG):
        clients = aws.clients(arn, server.base_url, topic)
        # With the deployed handler's decorator, so that nothing counted is left for other tests.
        counting = handler.metrics.log_metrics(
            lambda event, context: handler.run(event, context, clients)
        )
        with pytest.raises(UpstreamError) as caught:
            counting({}, FakeLambdaContext(TIME_LEFT))

    assert caught.value.reason == f"upstream_{reason}"
    assert secrets.get_secret_value(SecretId=arn, VersionStage="AWSCURRENT")["SecretString"] == (
        HELD.raw
    )
    assert secrets.describe_secret(SecretId=arn)["VersionIdsToStages"] == before
    [alert] = topic.documents
    ours = [each.getMessage() for each in caplog.records if not each.name.startswith("botocore")]
    said = f"{alert}{ours}{capfd.readouterr()}{all_said(caught.value)}"
    assert not any(piece in said for piece in pieces(HELD.raw) | pieces(SUCCESSOR.raw))
