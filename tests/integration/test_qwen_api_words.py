"""What is sent to the API, to the byte, and what each of its answers is called, to the word."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from qwen_token import (
    QwenTokenError,
    Token,
    UpstreamUnexpectedError,
    WrongAccountError,
    decode_token,
)
from qwen_token.origin import USER_AGENT
from qwen_token.qwen_api import QwenApi
from tests.minting import ACCOUNT, mint, token
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
    assert line == "GET /api/v1/auths/ HTTP/1.1"
    assert named == {
        "Host": server.base_url.removeprefix("http://"),
        "Accept": "application/json",
        "source": "web",
        "User-Agent": USER_AGENT,
        # A bomb that is not asked for may still come: see the tests of the wire.
        "Accept-Encoding": "identity",
        "Connection": "keep-alive",
        "Authorization": f"Bearer {HELD.raw}",
    }


def test_the_user_agent_is_the_owners_choice() -> None:
    with wire(reply("200 OK", body(SESSION))) as server:
        QwenApi(server.base_url, user_agent="Mine/1").verify(HELD, within=BRIEF)
    assert b"\r\nUser-Agent: Mine/1\r\n" in server.requests[0]


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
                "unknown answer of the API: HTTP 200 with a JSON object (55 bytes)",
            ),
            (
                reply("200 OK", b" "),
                "unknown answer of the API: HTTP 200 with an empty body (1 bytes)",
            ),
            (
                reply("200 OK", b"[1]"),
                (
                    "unknown answer of the API: HTTP 200 with a text that is not a JSON "
                    "object (3 bytes)"
                ),
            ),
            (
                reply("200 OK", body(SESSION | {"role": "guest"})),
                "the API sees a guest behind this login: it is not signed in",
            ),
            (
                reply("200 OK", body(SESSION | {"id": "mallory"})),
                "the API sees another account behind this token",
            ),
            (
                reply("200 OK", body(SESSION | {"id": 7})),
                ("the API's answer is no session: it has no 'id', or neither 'email' nor 'role'"),
            ),
            (
                reply("200 OK", body(SESSION | {"token": None})),
                "the API's answer is no session: it has no 'token'",
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


def test_a_call_without_time_says_so() -> None:
    with pytest.raises(QwenTokenError) as caught:
        ask("http://127.0.0.1:1", within=timedelta(seconds=0.9))
    assert str(caught.value) == "no time was left to call the API"


@pytest.mark.parametrize(
    "seen", [{"role": "guest"}, {"email": "1722@guest.com"}], ids=["by its role", "by its e-mail"]
)
def test_a_guest_is_known(seen: dict[str, str]) -> None:
    answer = body({"id": ACCOUNT, "token": SUCCESSOR.raw, **seen})
    with wire(reply("200 OK", answer)) as server, pytest.raises(WrongAccountError, match="guest"):
        ask(server.base_url)


@pytest.mark.parametrize("call", ["refresh", "verify"])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(answer, kind, id=name)
        for name, answer, kind in [
            ("another's id", {"id": "mallory", "token": SUCCESSOR.raw}, WrongAccountError),
            ("a null id", {"id": None, "token": SUCCESSOR.raw}, UpstreamUnexpectedError),
            ("an empty id", {"id": "", "token": SUCCESSOR.raw}, UpstreamUnexpectedError),
            ("a number for an id", {"id": 7, "token": SUCCESSOR.raw}, UpstreamUnexpectedError),
            ("no id", {"token": SUCCESSOR.raw}, UpstreamUnexpectedError),
            ("another thing's id", {"id": "error-1", "message": "…"}, UpstreamUnexpectedError),
            ("a null token", {"id": ACCOUNT, "token": None}, UpstreamUnexpectedError),
            ("a guest without an id", {"role": "guest", "id": None}, WrongAccountError),
        ]
    ],
)
def test_only_a_session_says_whose_the_token_is(
    call: str, answer: dict[str, object], kind: type[QwenTokenError]
) -> None:
    with (
        wire(reply("200 OK", body(answer))) as server,
        pytest.raises(QwenTokenError) as caught,
    ):
        getattr(QwenApi(server.base_url), call)(HELD, within=BRIEF)
    assert type(caught.value) is kind


@pytest.mark.parametrize("session", [{"email": "a@b.c"}, {"role": "user"}, {"token": "opaque"}])
def test_a_verification_needs_no_token_and_says_whose_it_is(session: dict[str, object]) -> None:
    unnamed = decode_token(
        mint({"type": "access_token", "exp": int(SUCCESSOR.expires_at.timestamp())})
    )
    with wire(reply("200 OK", body({"id": ACCOUNT, **session}))) as server:
        api = QwenApi(server.base_url)
        assert api.verify(HELD, within=BRIEF) == ACCOUNT
        assert api.verify(unnamed, within=BRIEF) == ACCOUNT
