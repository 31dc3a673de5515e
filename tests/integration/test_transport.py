"""What the transport sends, and what it hands back, whatever the request is for."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qwen_token import UpstreamUnavailableError
from qwen_token.transport import Request, send
from tests.wire import BRIEF, Script, raw, reply, wire

SECRET = "a-secret-of-a-person"


def parsed(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return a request's first line, its headers, and its body."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), body


def test_a_request_is_sent_with_its_method_its_headers_and_its_json() -> None:
    with wire(reply("200 OK")) as server:
        request = Request(
            f"{server.base_url}/in",
            method="POST",
            headers={"Cookie": f"token={SECRET}", "X-Request": "1"},
            json={"password": SECRET},
        )
        send(request, within=BRIEF)

    [(line, headers, body)] = map(parsed, server.requests)
    assert line == "POST /in HTTP/1.1"
    assert json.loads(body) == {"password": SECRET}
    assert headers["Content-Type"] == "application/json"
    assert headers["Cookie"] == f"token={SECRET}"
    assert headers["X-Request"] == "1"
    assert headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in headers


def test_a_request_without_json_has_no_body() -> None:
    with wire(reply("200 OK")) as server:
        send(Request(server.base_url), within=BRIEF)

    [(line, headers, body)] = map(parsed, server.requests)
    assert line == "GET / HTTP/1.1"
    assert body == b""
    assert not {"Content-Type", "Content-Length", "Cookie"} & headers.keys()


def test_an_empty_json_object_is_a_body_too() -> None:
    with wire(reply("200 OK")) as server:
        send(Request(server.base_url, method="POST", json={}), within=BRIEF)
    assert parsed(server.requests[0])[2] == b"{}"


def test_a_reply_has_its_status_its_body_and_each_of_its_headers() -> None:
    cookies = (
        f"token={SECRET}; Path=/; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
        "ssxmod_itna=2; Path=/",
    )
    answer = reply("418 Teapot", b"short", *(f"Set-Cookie: {cookie}" for cookie in cookies))
    with wire(answer) as server:
        got = send(Request(server.base_url), within=BRIEF)

    assert (got.status, got.body) == (418, b"short")
    assert got.values("set-cookie") == cookies
    assert got.header("content-length") == "5"
    assert abs(got.received_at - datetime.now(UTC)) < timedelta(seconds=10)


@pytest.mark.parametrize(
    ("date", "at"),
    [
        ("Sat, 01 Jan 2050 12:00:00 GMT", datetime(2050, 1, 1, 12, tzinfo=UTC)),
        ("Sat, 01 Jan 2000 12:00:00 GMT", datetime(2000, 1, 1, 12, tzinfo=UTC)),
        ("soon", None),
        ("Sat, 01 Jan 99999999 12:00:00 GMT", None),
    ],
)
def test_a_reply_is_dated_by_the_servers_clock_if_known(date: str, at: datetime | None) -> None:
    with wire(reply("200 OK", b"", f"Date: {date}")) as server:
        got = send(Request(server.base_url), within=BRIEF)
    assert abs(got.received_at - (at or datetime.now(UTC))) < timedelta(seconds=10)


def test_a_pause_until_a_date_is_counted_by_the_servers_clock() -> None:
    busy = reply(
        "503 Busy",
        b"",
        "Date: Sat, 01 Jan 2050 12:00:00 GMT",
        "Retry-After: Sat, 01 Jan 2050 12:00:01 GMT",
    )
    with wire(busy, reply("200 OK")) as server:
        assert send(Request(server.base_url), within=timedelta(seconds=6)).status == 200


def test_a_cookie_that_was_set_goes_with_no_other_request() -> None:
    with wire(reply("503 Busy", b"", f"Set-Cookie: token={SECRET}; Path=/"), reply("200 OK")) as (
        server
    ):
        send(Request(server.base_url), within=timedelta(seconds=5))
        send(Request(server.base_url), within=BRIEF)

    assert len(server.requests) == 3
    assert not any(b"Cookie" in request for request in server.requests)


def test_netrc_adds_nothing_to_a_request_without_authorization(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with wire(reply("200 OK")) as server:
        send(Request(server.base_url), within=BRIEF)

    assert b"Authorization" not in server.requests[0]


# Of a request that spends something: a sign-in, or a credential in the cookie of a GET.
SPENDS = pytest.mark.parametrize(
    "spends",
    [
        pytest.param({"method": "POST", "json": {}, "repeatable": False}, id="a sign-in"),
        pytest.param({"method": "POST", "json": {}}, id="another POST"),
        pytest.param({"repeatable": False}, id="a credential"),
    ],
)


@SPENDS
@pytest.mark.parametrize("status", ["429 Wait", "500 Oh", "502 Bad", "503 Busy", "504 Late"])
def test_a_request_that_a_server_may_have_acted_on_is_not_repeated(
    status: str, spends: Mapping[str, Any]
) -> None:
    """A sign-in that is repeated is a second one, and a credential may be good for one use."""
    busy = reply(status, b"", "Retry-After: 0")
    with wire(busy, reply("200 OK")) as server:
        got = send(Request(server.base_url, **spends), within=timedelta(seconds=9))
    assert got.status == int(status[:3])
    assert len(server.requests) == 1


@SPENDS
@pytest.mark.parametrize("answer", [b"", b"no HTTP at all\r\n\r\n"])
def test_a_request_that_broke_off_after_it_was_sent_is_not_repeated(
    answer: bytes, spends: Mapping[str, Any]
) -> None:
    with wire(raw(answer), reply("200 OK")) as server, pytest.raises(UpstreamUnavailableError):
        send(Request(server.base_url, **spends), within=timedelta(seconds=9))
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [reply("302 Found", b"", "Location: /"), reply("401 No", b"{}")])
def test_whatever_a_reply_means_it_is_returned(answer: Script) -> None:
    with wire(answer) as server:
        assert send(Request(server.base_url), within=BRIEF).status in {302, 401}
    assert len(server.requests) == 1


def test_a_body_of_the_longest_length_is_read() -> None:
    longest = b" " * (1024 * 1024)
    with wire(reply("200 OK", longest)) as server:
        assert send(Request(server.base_url), within=timedelta(seconds=10)).body == longest


def test_the_repr_of_a_request_or_a_reply_shows_no_secret() -> None:
    request = Request(
        "https://chat.qwen.ai/",
        method="POST",
        headers={"Authorization": f"Bearer {SECRET}", "Cookie": f"token={SECRET}"},
        json={"password": SECRET},
    )
    assert repr(request) == "Request(url='https://chat.qwen.ai/', method='POST', repeatable=True)"

    answer = reply("200 OK", SECRET.encode(), f"Set-Cookie: token={SECRET}")
    with wire(answer) as server:
        assert SECRET not in repr(send(Request(server.base_url), within=BRIEF))
