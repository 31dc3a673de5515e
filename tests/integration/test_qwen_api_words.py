"""What is sent to the API, to the byte, and what each of its answers is called, to the word."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from qwen_token import QwenTokenError, RateLimitedError, Token
from qwen_token.qwen_api import QwenApi, _Bearer
from tests.minting import ACCOUNT, token
from tests.wire import BRIEF, Script, raw, reply, wire

NOW = datetime.now(UTC)
HELD = token(left=timedelta(days=2), now=NOW)
SUCCESSOR = token(left=timedelta(days=7), now=NOW)
SESSION = {"id": ACCOUNT, "role": "user", "token": SUCCESSOR.raw}


def body(document: object) -> bytes:
    return json.dumps(document).encode()


def ask(base_url: str, *, within: timedelta = BRIEF) -> Token:
    return QwenApi(base_url).refresh(HELD, within=within)


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_the_request_is_this_and_nothing_else(slash: str) -> None:
    with wire(reply("200 OK", body(SESSION))) as server:
        ask(server.base_url + slash)

    [head] = server.requests
    line, *headers = head.decode().strip().split("\r\n")
    named = dict(header.split(": ", 1) for header in headers)
    agent = named.pop("User-Agent")
    assert line == "GET /api/v1/auths/ HTTP/1.1"
    assert agent.startswith("python-requests/")
    assert named == {
        "Host": server.base_url.removeprefix("http://"),
        "Accept": "application/json",
        # A bomb that is not asked for may still come: see the tests of the wire.
        "Accept-Encoding": "identity",
        "Connection": "keep-alive",
        "Authorization": f"Bearer {HELD.raw}",
    }


def test_a_base_url_may_have_a_path() -> None:
    with wire(reply("200 OK", body(SESSION))) as server:
        ask(f"{server.base_url}/XX/")
    assert server.requests[0].startswith(b"GET /XX/api/v1/auths/ HTTP/1.1\r\n")


PROBLEM = {"success": False, "data": {"code": "FeatureDisabled"}}
LIMITED = {"success": False, "data": {"code": "RateLimited"}}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(answer, said, id=said[:60])
        for answer, said in [
            (
                reply("401 No", b'{"detail": "401"}'),
                "the API refused the token: HTTP 401 with a JSON object (17 bytes)",
            ),
            (
                reply("200 OK", body(LIMITED)),
                "the API asks to be called less often: HTTP 200 with a JSON object (51 bytes)",
            ),
            (
                reply("503 Closed", b"<html>"),
                "the API failed: HTTP 503 with a page (6 bytes)",
            ),
            (
                reply("403 No", b"  <html>"),
                "something in front of the API refused the request: HTTP 403 with a page (8 bytes)",
            ),
            (
                reply("200 OK", b"<meta name=aliyun_waf_aa>"),
                "a firewall's challenge came in place of the API: HTTP 200 with a page (25 bytes)",
            ),
            (
                reply("200 OK", body(PROBLEM)),
                "not an answer of the API as it is known: HTTP 200 with a JSON object (55 bytes)",
            ),
            (
                reply("200 OK", b" "),
                "not an answer of the API as it is known: HTTP 200 with an empty body (1 bytes)",
            ),
            (
                reply("200 OK", b"[1]"),
                (
                    "not an answer of the API as it is known: HTTP 200 with a text that is no JSON "
                    "object (3 bytes)"
                ),
            ),
            (
                reply("200 OK", body(SESSION | {"role": "guest"})),
                "the API sees a guest behind this token: it is not signed in",
            ),
            (
                reply("200 OK", body(SESSION | {"id": "mallory"})),
                "the API sees another account behind this token",
            ),
            (
                reply("200 OK", body(SESSION | {"id": 7})),
                "the API's answer is no session: it has no 'id' or no 'token'",
            ),
            (
                reply("200 OK", body(SESSION | {"token": "a.b"})),
                (
                    "the token in the API's answer: the value is not a JWT: 3 characters in 2 "
                    "dot-separated part(s)"
                ),
            ),
            (
                reply("200 OK", b"{" + b" " * 1024 * 1024),
                "the API's answer is longer than 1048576 bytes",
            ),
            (
                raw(b""),
                "the API could not be reached, or broke off: ConnectionError",
            ),
        ]
    ],
)
def test_what_came_is_said_in_these_words(answer: Script, said: str) -> None:
    with wire(answer) as server, pytest.raises(QwenTokenError) as caught:
        ask(server.base_url)
    assert str(caught.value) == said


@pytest.mark.parametrize("answer", [{"data": 1}, {"success": True}, {"success": 1, "data": 1}])
def test_data_without_its_envelope_is_said_to_be_none(answer: dict[str, object]) -> None:
    with wire(reply("200 OK", body(answer))) as server, pytest.raises(QwenTokenError) as caught:
        QwenApi(server.base_url).data("/api/v2/users/status", HELD, within=BRIEF)
    assert str(caught.value) == (
        "the API's answer is no envelope: it has no 'success' or no 'data'"
    )


def test_what_brings_the_token_to_the_wire_does_not_show_it() -> None:
    assert repr(_Bearer(HELD)) == "_Bearer([redacted])"


def test_a_body_of_the_longest_length_is_read() -> None:
    text = body(SESSION)
    padded = text + b" " * (1024 * 1024 - len(text))
    with wire(reply("200 OK", padded)) as server:
        assert ask(server.base_url, within=timedelta(seconds=10)) == SUCCESSOR


def test_a_call_without_time_says_so() -> None:
    with pytest.raises(QwenTokenError) as caught:
        ask("http://127.0.0.1:1", within=timedelta(seconds=0.9))
    assert str(caught.value) == "no time was left to call the API"


def test_a_media_types_parameters_and_case_do_not_make_a_gateways_problem_the_apis_own() -> None:
    answer = reply(
        "401 No", b'{"detail": "No."}', "content-type: Application/Problem+JSON ; a=b; c=d"
    )
    with wire(answer) as server, pytest.raises(QwenTokenError) as caught:
        ask(server.base_url)
    assert caught.value.reason == "upstream_unexpected"


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        pytest.param(reply("429 Slow", b"", "Retry-After: 3600"), HOUR, id="in seconds"),
        pytest.param(
            reply("200 OK", body({**LIMITED, "data": {"code": "RateLimited", "num": 1}})),
            HOUR,
            id="in hours, in the envelope",
        ),
        pytest.param(
            reply("429 Slow", b"", f"Retry-After: {'9' * 400}"), 24 * HOUR, id="a day at most"
        ),
        pytest.param(reply("429 Slow"), None, id="not said"),
        pytest.param(reply("429 Slow", b"", "Retry-After: soon"), None, id="no number"),
        pytest.param(
            reply("200 OK", body({**LIMITED, "data": {"code": "RateLimited", "num": 0}})),
            None,
            id="none",
        ),
        pytest.param(
            reply("200 OK", body({"success": False, "data": {"code": "RateLimited", "num": True}})),
            None,
            id="no number of hours",
        ),
        pytest.param(
            reply("429 Slow", b'{"data": "none"}', "Retry-After: Fri, 31 Dec 9999"),
            None,
            id="no date",
        ),
        pytest.param(
            reply("429 Slow", b"", f"Retry-After: {'9' * 5000}"),
            None,
            id="a number that Python does not read",
        ),
        pytest.param(
            reply("429 Slow", b"", "Retry-After: Fri, 31 Dec 99999999999 00:00:00 GMT"),
            None,
            id="a date of no calendar",
        ),
    ],
)
def test_the_pause_that_the_api_asks_for_is_told(answer: Script, pause: timedelta | None) -> None:
    with wire(answer) as server, pytest.raises(RateLimitedError) as caught:
        ask(server.base_url)
    assert caught.value.retry_after == pause


def test_the_pause_that_the_api_asks_for_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + HOUR, usegmt=True)
    answer = reply("429 Slow", b"", f"Retry-After: {date}")
    with wire(answer) as server, pytest.raises(RateLimitedError) as caught:
        ask(server.base_url)
    told = caught.value.retry_after
    assert told is not None
    assert abs(told - HOUR) < timedelta(minutes=1)


def test_the_pause_that_the_api_asks_for_may_be_a_second() -> None:
    answer = reply("429 Slow", b"", "Retry-After: 1")
    with wire(answer) as server, pytest.raises(RateLimitedError) as caught:
        # No time to wait it out.
        ask(server.base_url, within=timedelta(seconds=1.5))
    assert caught.value.retry_after == timedelta(seconds=1)
