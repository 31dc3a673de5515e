"""What the transport makes of a server that breaks every rule, as the API's client meets it."""

import gzip
import json
import random
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    Token,
    UpstreamBlockedError,
    UpstreamError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
)
from qwen_token.qwen_api import QwenApi
from tests.minting import ACCOUNT, all_said, pieces, token
from tests.wire import Script, raw, reply, wire

AMPLE = timedelta(seconds=20)
HELD = token(left=timedelta(days=2), now=datetime.now(UTC))
SUCCESSOR = token(left=timedelta(days=7), now=datetime.now(UTC))
GOOD_BODY = json.dumps({"id": ACCOUNT, "role": "user", "token": SUCCESSOR.raw}).encode()
GOOD = reply("200 OK", GOOD_BODY, "Content-Type: application/json")


def refresh(base_url: str, *, within: timedelta = AMPLE) -> Token:
    return QwenApi(base_url).refresh(HELD, within=within)


def failure(*scripts: Script, within: timedelta = AMPLE) -> QwenTokenError:
    with wire(*scripts) as server, pytest.raises(UpstreamError) as caught:
        refresh(server.base_url, within=within)
    return caught.value


def senders() -> list[threading.Thread]:
    """Return the threads of all calls that go on."""
    return [each for each in threading.enumerate() if each.name == "qwen-token-sender"]


def test_credentials_in_netrc_do_not_replace_the_token(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with wire(GOOD) as server:
        refresh(server.base_url)

    assert f"Authorization: Bearer {HELD.raw}\r\n".encode() in server.requests[0]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_token_goes_to_a_loopback_address_without_a_proxy_on_the_way(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with wire(GOOD) as proxy, wire(GOOD) as server:
        monkeypatch.setenv(variable, proxy.base_url)
        assert refresh(server.base_url) == SUCCESSOR

    assert proxy.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with wire(GOOD) as elsewhere:
        moved = reply(f"{status} Moved", b"", f"Location: {elsewhere.base_url}/api/v1/auths/")
        assert isinstance(failure(moved), UpstreamUnexpectedError)

    assert elsewhere.requests == []


def test_a_redirect_to_the_challenge_is_a_block() -> None:
    moved = reply("302 Found", b"", "Location: /_____tmd_____/punish?x5secdata=1")
    assert isinstance(failure(moved), UpstreamBlockedError)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
    sent = 0
    while sent < 64 * 1024 * 1024:
        sent += connection.send(b" " * 65536)
    raise AssertionError("64 MiB were read")


def test_an_endless_body_is_refused_without_reading_on() -> None:
    assert "longer than" in str(failure(endless))


def endless_after(head: bytes) -> Script:
    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        endless(connection)

    return send


def test_the_endless_body_of_a_redirect_is_not_read_either() -> None:
    error = failure(endless_after(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n"))
    assert "longer than" in str(error)


def test_the_endless_body_of_a_retried_reply_is_not_read_either() -> None:
    with wire(endless_after(b"HTTP/1.1 503 Busy\r\n\r\n"), GOOD) as server:
        assert refresh(server.base_url) == SUCCESSOR


@pytest.mark.parametrize("times", [1, 2])
def test_a_compressed_bomb_is_refused_before_it_is_unpacked(times: int) -> None:
    bomb = b" " * (256 * 1024 * 1024)
    for _ in range(times):
        bomb = gzip.compress(bomb, compresslevel=1)
    answer = reply("200 OK", bomb, f"Content-Encoding: {', '.join(['gzip'] * times)}")
    tracemalloc.start()
    try:
        assert "longer than" in str(failure(answer))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * 1024 * 1024


def test_what_is_compressed_though_nobody_asked_for_it_is_read() -> None:
    answer = reply("200 OK", gzip.compress(GOOD_BODY), "Content-Encoding: gzip")
    with wire(answer) as server:
        assert refresh(server.base_url) == SUCCESSOR


def test_a_body_that_drips_is_cut_off_in_time() -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while connection.send(b" "):
            time.sleep(0.05)

    started = time.monotonic()
    error = failure(drip, within=timedelta(seconds=2))

    assert isinstance(error, UpstreamUnavailableError)
    assert time.monotonic() - started < 5


def test_headers_that_drip_are_cut_off_in_time() -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while connection.send(b"a"):
            time.sleep(0.05)

    started = time.monotonic()
    error = failure(drip, within=timedelta(seconds=2))

    assert isinstance(error, UpstreamUnavailableError)
    assert time.monotonic() - started < 5


def test_a_server_that_is_silent_is_cut_off_in_time() -> None:
    def wait(connection: socket.socket) -> None:
        connection.recv(1)

    assert isinstance(failure(wait, within=timedelta(seconds=2)), UpstreamUnavailableError)


@contextmanager
def full_server() -> Iterator[str]:
    """Yield the address of a server that takes no further connection, and does not say so."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as waiting:
        address = server.getsockname()
        with suppress(TimeoutError):
            while True:
                waiting.enter_context(socket.create_connection(address, timeout=0.2))
        yield f"http://127.0.0.1:{address[1]}"


def test_a_server_that_does_not_accept_is_not_waited_for_all_the_time() -> None:
    started = time.monotonic()
    with full_server() as base_url, pytest.raises(UpstreamUnavailableError) as caught:
        refresh(base_url, within=timedelta(seconds=4.4))

    assert str(caught.value) == "the API did not answer in time"
    assert 3 <= time.monotonic() - started < 4.4


def test_a_slow_connection_is_given_up_with_the_call() -> None:
    with full_server() as base_url:
        with pytest.raises(UpstreamUnavailableError):
            refresh(base_url, within=timedelta(seconds=1.2))
        for sender in senders():
            sender.join(1)
        assert senders() == []


def test_a_connection_that_is_reset_is_unavailable() -> None:
    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    assert isinstance(failure(reset, within=timedelta(seconds=1.4)), UpstreamUnavailableError)


def test_a_slow_name_look_up_ends_the_call_and_no_token_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up = socket.getaddrinfo
    given_up = threading.Event()

    def look_up_slowly(*question: Any) -> Any:
        given_up.wait(10)
        return look_up(*question)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
    with wire(GOOD) as server:
        started = time.monotonic()
        with pytest.raises(UpstreamUnavailableError) as caught:
            refresh(server.base_url, within=timedelta(seconds=1.6))
        took = time.monotonic() - started
        given_up.set()
        for sender in senders():
            sender.join(10)

    assert str(caught.value) == "the API gave no complete answer within 2 s"
    assert took < 5
    assert not any(b"Bearer" in request for request in server.requests)


def test_a_call_that_is_not_waited_for_keeps_no_program_from_ending() -> None:
    senders: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        senders.extend(each for each in threading.enumerate() if each.name == "qwen-token-sender")
        GOOD(connection)

    with wire(answer) as server:
        refresh(server.base_url)

    assert {each.daemon for each in senders} == {True}


def test_an_absent_server_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UpstreamUnavailableError):
        refresh(f"http://127.0.0.1:{port}", within=timedelta(seconds=2))


def test_a_reply_cut_off_at_any_byte_is_never_taken_for_an_answer() -> None:
    body = GOOD_BODY
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    whole = head + body
    for end in range(0, len(whole), 7):
        # Within less than two seconds there is no time for a second attempt.
        error = failure(raw(whole[:end]), within=timedelta(seconds=1.2))
        assert isinstance(error, UpstreamUnavailableError | UpstreamUnexpectedError), end


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"not HTTP at all", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", id="5000 headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", id="a huge header"),
        pytest.param(b"HTTP/1.1 999999 Odd\r\n\r\n{}", id="an absurd status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}", id="a negative length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="a broken chunk"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
            id="no gzip",
        ),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://[broken\r\nContent-Length: 0\r\n\r\n",
            id="a broken location",
        ),
    ],
)
def test_a_broken_reply_is_classed(data: bytes) -> None:
    failure(raw(data), within=timedelta(seconds=1.5))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    with wire(reply(f"{status} Status"), GOOD) as server:
        assert refresh(server.base_url) == SUCCESSOR
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 501, 505])
def test_a_status_that_stays_is_not_tried_again(status: int) -> None:
    with wire(reply(f"{status} Status"), GOOD) as server, pytest.raises(QwenTokenError):
        refresh(server.base_url)
    assert len(server.requests) == 1


def test_each_wait_for_another_attempt_is_longer_than_the_one_before() -> None:
    # The draws after this seed are all above 0.4.
    random.seed(92)
    arrivals: list[float] = []

    def busy(connection: socket.socket) -> None:
        arrivals.append(time.monotonic())
        reply("503 Busy")(connection)

    failure(busy)

    waits = [later - earlier for earlier, later in pairwise(arrivals)]
    # Half a second, doubled each time from the second on, and up to half a second at random.
    for wait, least in zip(waits, [0.0, 1.2, 2.2], strict=True):
        assert least <= wait < least + 0.5 + 1


def test_where_there_is_no_time_for_a_wait_and_an_attempt_there_is_none() -> None:
    # A wait of at most half a second, and an attempt of at least one.
    with wire(reply("503 Busy")) as server, pytest.raises(UpstreamUnavailableError):
        refresh(server.base_url, within=timedelta(seconds=1.4))
    assert len(server.requests) == 1


def test_a_wait_that_leaves_too_little_time_for_an_attempt_is_not_started() -> None:
    slow = reply("429 Slow", b"", "Retry-After: 2")
    with wire(slow) as server, pytest.raises(RateLimitedError):
        refresh(server.base_url, within=timedelta(seconds=2.8))
    assert len(server.requests) == 1


def test_a_second_is_enough_for_a_call() -> None:
    with wire(GOOD) as server:
        assert refresh(server.base_url, within=timedelta(seconds=1)) == SUCCESSOR


def test_a_failure_that_passes_is_outlived() -> None:
    with wire(reply("503 Busy"), raw(b""), GOOD) as server:
        assert refresh(server.base_url) == SUCCESSOR
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("down", "said"),
    [
        pytest.param(reply("502 Bad Gateway"), "the API failed", id="fails"),
        pytest.param(
            raw(b""), "the API could not be reached, or broke off: ConnectionError", id="breaks off"
        ),
    ],
)
def test_a_server_that_stays_down_is_asked_four_times_and_no_more(down: Script, said: str) -> None:
    with wire(down) as server, pytest.raises(UpstreamUnavailableError, match=said):
        refresh(server.base_url)
    assert len(server.requests) == 4


def test_retry_after_is_honoured_if_there_is_time() -> None:
    with wire(reply("429 Slow", b"", "Retry-After: 1"), GOOD) as server:
        started = time.monotonic()
        assert refresh(server.base_url) == SUCCESSOR
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("retry_after", ["8", "100000", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_wait_beyond_the_runs_time_is_not_begun_and_the_reason_is_kept(retry_after: str) -> None:
    slow = reply("429 Slow", b"", f"Retry-After: {retry_after}")
    started = time.monotonic()
    with wire(slow) as server, pytest.raises(RateLimitedError):
        refresh(server.base_url, within=timedelta(seconds=5))

    assert time.monotonic() - started < 4
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["429 Slow", "503 Busy"])
def test_a_server_that_asks_for_a_long_pause_is_not_asked_again_before(status: str) -> None:
    with wire(reply(status, b"", "Retry-After: 11"), GOOD) as server, pytest.raises(UpstreamError):
        refresh(server.base_url, within=timedelta(hours=2))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "retry_after",
    [
        pytest.param("soon", id="a word"),
        pytest.param("Wed, 21 Oct 99999 07:28:00 GMT", id="a year beyond the calendar"),
        pytest.param("9" * 5000, id="more digits than Python converts"),
    ],
)
def test_a_retry_after_that_is_nonsense_is_passed_over(retry_after: str) -> None:
    with wire(reply("429 Slow", b"", f"Retry-After: {retry_after}"), GOOD) as server:
        assert refresh(server.base_url) == SUCCESSOR


def test_without_time_for_an_attempt_nobody_is_called() -> None:
    with wire(GOOD) as server, pytest.raises(UpstreamUnavailableError, match="no time"):
        refresh(server.base_url, within=timedelta(seconds=-3))
    assert server.requests == []


@pytest.mark.parametrize("broken", ["a line without a colon", "X-Spaced : 1"])
def test_a_broken_header_does_not_bring_the_cookies_token_into_the_log(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = f"Set-Cookie: token={SUCCESSOR.raw}; Path=/"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(GOOD_BODY)}\r\n{broken}\r\n{cookie}\r\n\r\n"
    with wire(raw(head.encode() + GOOD_BODY)) as server, suppress(UpstreamError):
        refresh(server.base_url, within=timedelta(seconds=1.5))

    assert not any(piece in caplog.text for piece in SUCCESSOR.raw.split(".")[1:])


def test_what_a_server_says_instead_of_a_status_line_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with wire(raw(f"{SUCCESSOR.raw}\r\n\r\n".encode()), GOOD) as server:
        refresh(server.base_url)

    assert not any(piece in caplog.text for piece in SUCCESSOR.raw.split(".")[1:])


def test_an_error_does_not_keep_a_malformed_status_line() -> None:
    error = failure(raw(f"{SUCCESSOR.raw}\r\n\r\n".encode()), within=timedelta(seconds=1.5))
    shown = f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert not any(piece in shown for piece in SUCCESSOR.raw.split(".")[1:])


# A body that echoes the token, at its start, its end or in what the API's own failures have.
ECHOES = {
    "the token alone": HELD.raw,
    "a page": f"<html>{HELD.raw}</html>",
    "a detail": json.dumps({"detail": HELD.raw}),
    "an envelope": json.dumps(
        {"success": False, "data": {"code": HELD.raw, "details": HELD.raw, "message": HELD.raw}}
    ),
    "an envelope of a known code": json.dumps(
        {"success": False, "data": {"code": "UNAUTHORIZED", "details": HELD.raw}}
    ),
    "a session of nobody's": json.dumps({"id": 1, "token": HELD.raw, "email": HELD.raw}),
    "an unreadable token": json.dumps(
        {"id": ACCOUNT, "role": "user", "token": HELD.raw.replace(".", ".x", 1)}
    ),
}


@pytest.mark.parametrize("body", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("status", ["200 OK", "401 No", "403 No", "404 Lost", "429 Wait", "500 Oh"])
def test_no_error_shows_the_token_or_what_the_server_said(status: str, body: str) -> None:
    answer = reply(status, body.encode(), f"Content-Type: application/json; x={HELD.raw}")
    with wire(answer) as server, pytest.raises(QwenTokenError) as caught:
        refresh(server.base_url, within=timedelta(seconds=1.5))

    said = all_said(caught.value)
    assert not any(piece in said for piece in pieces(HELD.raw) | pieces(body))
