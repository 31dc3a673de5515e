"""What a reply means, and what its parts say, whoever brought them."""

import json
from datetime import timedelta
from email.utils import format_datetime

import pytest

from qwen_token import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    SessionRejectedError,
    SignInRefusedError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from qwen_token.errors import ChallengedError
from qwen_token.replies import (
    ENVELOPE_LIMIT,
    Reply,
    actual_status,
    body_refuses,
    failure_code,
    head_refuses,
    json_object,
    media_type,
    read_answer,
    require_member,
    retry_after,
)
from tests.minting import ACCOUNT, NOW, token

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SESSION = {"id": ACCOUNT, "role": "user", "token": token(left=7 * DAY).raw}
GOOD_BODY = json.dumps(SESSION).encode()


def reply(status: int, body: bytes = b"", *headers: str) -> Reply:
    pairs = [header.partition(": ") for header in headers]
    return Reply(status, tuple((name, value) for name, _, value in pairs), body, NOW)


@pytest.mark.parametrize(
    ("content_type", "alone"),
    [
        ("application/json", "application/json"),
        ("Application/Problem+JSON ; charset=utf-8; a=b", "application/problem+json"),
        ("; charset=utf-8", ""),
        ("", ""),
    ],
)
def test_a_media_type_is_taken_without_its_parameters_and_case(
    content_type: str, alone: str
) -> None:
    assert media_type(content_type) == alone


@pytest.mark.parametrize(
    ("status", "said", "meant"),
    [
        (200, "401", 401),
        (200, "100", 100),
        (200, "599", 599),
        (200, "", 200),
        (200, "600", 200),
        (200, "099", 200),
        (200, "4010", 200),
        (200, " 401", 200),
        (200, "٤٠١", 200),
        (201, "401", 201),
        (500, "200", 500),
    ],
)
def test_only_a_200_may_carry_another_status(status: int, said: str, meant: int) -> None:
    assert actual_status(status, said) == meant


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1]", {}),
        (b"null", {}),
        (b"", {}),
        (b"<html>", {}),
        (b"\xff\xfe\xc3", {}),
        (b"[" * 100_000, {}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_not_a_json_object_reads_as_empty(
    body: bytes, document: dict[str, object]
) -> None:
    assert json_object(body) == document


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"success": False, "data": {"code": "RateLimited"}}, "RateLimited"),
        ({"success": False, "data": {"code": 7}}, ""),
        ({"success": False, "data": {}}, ""),
        ({"success": False, "data": ["code"]}, ""),
        ({"success": False, "data": None}, ""),
        ({"success": False}, ""),
        ({"success": True, "data": {"code": "RateLimited"}}, None),
        ({"success": None, "data": {"code": "RateLimited"}}, None),
        ({"success": 0, "data": {"code": "RateLimited"}}, None),
        ({"data": {"code": "RateLimited"}}, None),
        ({}, None),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_failure_is_recognised_by_its_envelope_even_without_a_code(
    document: dict[str, object], code: str | None
) -> None:
    assert failure_code(document) == code


def envelope(code: str | None) -> bytes:
    """Return the newer API's way to fail; its status may be 200 all the same."""
    data = {"details": "…"} if code is None else {"details": "…", "code": code}
    return json.dumps({"success": False, "request_id": "r", "data": data}).encode()


DETAIL = b'{"detail": "No."}'
PROBLEM = b'{"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "No."}'
PROBLEM_JSON = "Content-Type: application/problem+json; charset=utf-8"


@pytest.mark.parametrize(
    ("status", "body", "header", "kind"),
    [
        pytest.param(status, body, header, kind, id=name)
        for name, status, body, header, kind in [
            ("the API's 401", 401, DETAIL, "", TokenRejectedError),
            ("the API's 403", 403, b'{"detail": "Not authenticated"}', "", TokenRejectedError),
            ("code unauthorized on 200", 200, envelope("unauthorized"), "", TokenRejectedError),
            (
                "a session on an actual 500",
                200,
                GOOD_BODY,
                "x-actual-status-code: 500",
                UpstreamUnavailableError,
            ),
            (
                "a session on an actual 429",
                200,
                GOOD_BODY,
                "x-actual-status-code: 429",
                RateLimitedError,
            ),
            (
                "a session on an actual 403",
                200,
                GOOD_BODY,
                "x-actual-status-code: 403",
                UpstreamBlockedError,
            ),
            (
                "nothing on an actual 401",
                200,
                b"",
                "x-actual-status-code: 401",
                UpstreamUnexpectedError,
            ),
            ("code unauthorized on 403", 403, envelope("unauthorized"), "", TokenRejectedError),
            ("an unknown code on 401", 401, envelope("Expired"), "", TokenRejectedError),
            ("no code on 401", 401, envelope(None), "", TokenRejectedError),
            (
                "an unknown code on an actual 401",
                200,
                envelope("Expired"),
                "x-actual-status-code: 401",
                TokenRejectedError,
            ),
            (
                "the API's detail on an actual 401",
                200,
                DETAIL,
                "x-actual-status-code: 401",
                TokenRejectedError,
            ),
            ("code RateLimited on 403", 403, envelope("RateLimited"), "", RateLimitedError),
            ("code RateLimited on 401", 401, envelope("RateLimited"), "", RateLimitedError),
            ("an unknown code on 429", 429, envelope("Busy"), "", RateLimitedError),
            ("another code on 403", 403, envelope("FeatureDisabled"), "", UpstreamUnexpectedError),
            (
                "another code on an actual 403",
                200,
                envelope("FeatureDisabled"),
                "x-actual-status-code: 403",
                UpstreamUnexpectedError,
            ),
            ("another code on 200", 200, envelope("FeatureDisabled"), "", UpstreamUnexpectedError),
            ("an unknown code on 500", 500, envelope("Oops"), "", UpstreamUnavailableError),
            ("a gateway's problem on 401", 401, PROBLEM, "", UpstreamUnexpectedError),
            ("a gateway's problem on 403", 403, PROBLEM, "", UpstreamBlockedError),
            (
                "a gateway's brief problem on 403",
                403,
                DETAIL,
                PROBLEM_JSON,
                UpstreamBlockedError,
            ),
            (
                "a detail that is no text on 401",
                401,
                b'{"detail": [1]}',
                "",
                UpstreamUnexpectedError,
            ),
            (
                "a session on an actual 401",
                200,
                GOOD_BODY,
                "x-actual-status-code: 401",
                UpstreamUnexpectedError,
            ),
            (
                "a page on an actual 503",
                200,
                b"<html>",
                "x-actual-status-code: 503",
                UpstreamUnavailableError,
            ),
            (
                "a session in a redirect",
                302,
                GOOD_BODY,
                "x-actual-status-code: 200",
                UpstreamUnexpectedError,
            ),
            (
                "the API's 401 under an actual 200",
                401,
                DETAIL,
                "x-actual-status-code: 200",
                TokenRejectedError,
            ),
        ]
    ],
)
def test_only_the_api_itself_can_call_a_token_dead(
    status: int, body: bytes, header: str, kind: type[QwenTokenError]
) -> None:
    with pytest.raises(QwenTokenError) as caught:
        read_answer(reply(status, body, *([header] if header else [])))
    assert type(caught.value) is kind


def test_a_method_that_the_api_itself_refuses_is_not_a_block() -> None:
    with pytest.raises(UpstreamUnexpectedError):
        read_answer(reply(405, b'{"detail": "Method Not Allowed"}'))


def test_a_gateways_problem_is_recognised_whatever_its_media_types_case() -> None:
    kind = "content-type: Application/Problem+JSON ; a=b; c=d"
    with pytest.raises(UpstreamUnexpectedError):
        read_answer(reply(401, b'{"detail": "No."}', kind))


def test_a_redirect_to_the_challenge_is_a_block_with_any_body() -> None:
    with pytest.raises(UpstreamBlockedError):
        read_answer(reply(302, GOOD_BODY, "location: /_____tmd_____/punish?x5secdata=1"))


@pytest.mark.parametrize(
    "body",
    [
        b'<meta name="aliyun_waf_aa">',
        b"<script>var aliyun_waf_bb</script>",
        b'<script src="/_____tmd_____/punish"></script>',
        b"<script>location = '/?x5secdata=0'</script>",
        b'{"rgv587_flag": "sm", "url": "https://x/_____tmd_____/punish?x5secdata=0"}',
        b'{"ret": ["FAIL_SYS_USER_VALIDATE", "RGV587_ERROR::SM::try later"]}',
        b'{"ret": ["RGV587_ERROR::SM"]}',
    ],
)
@pytest.mark.parametrize("status", [200, 401, 403, 503])
def test_a_firewalls_mark_is_a_block_at_any_status(status: int, body: bytes) -> None:
    with pytest.raises(UpstreamBlockedError):
        read_answer(reply(status, body))


@pytest.mark.parametrize(
    "document",
    [
        {"success": True, "data": [{"title": "What is aliyun_waf_aa? And x5secdata?"}]},
        {"id": ACCOUNT, "role": "user", "name": "_____tmd_____"},
        {"ret": "FAIL_SYS_USER_VALIDATE", "data": 1},
        {"ret": [7, "SUCCESS"], "url": 7},
    ],
    ids=json.dumps,
)
def test_such_words_in_the_apis_own_documents_are_not_a_block(document: dict[str, object]) -> None:
    assert read_answer(reply(200, json.dumps(document).encode())) == document


def detailed(details: object, code: str = "Bad_Request") -> bytes:
    return json.dumps({"success": False, "data": {"code": code, "details": details}}).encode()


REFRESHING = SessionRejectedError
SIGNING_IN = SignInRefusedError


@pytest.mark.parametrize(
    ("refusal", "status", "body", "header", "kind"),
    [
        pytest.param(refusal, status, body, header, kind, id=name)
        for name, refusal, status, body, header, kind in [
            ("a 401 with the code", REFRESHING, 401, envelope("Unauthorized"), "", REFRESHING),
            ("a 401 with any code", REFRESHING, 401, envelope("Gone"), "", REFRESHING),
            ("a 401 with a detail", REFRESHING, 401, DETAIL, "", REFRESHING),
            ("a 401 with a page", REFRESHING, 401, b"<html>", "", UpstreamUnexpectedError),
            ("a 401 with nothing", REFRESHING, 401, b"", "", UpstreamUnexpectedError),
            ("a gateway's 401", REFRESHING, 401, PROBLEM, "", UpstreamUnexpectedError),
            ("a 403, forbidden", REFRESHING, 403, envelope("forbidden"), "", REFRESHING),
            ("a 403, Forbidden", REFRESHING, 403, envelope("Forbidden"), "", REFRESHING),
            ("a 403, invalid token", REFRESHING, 403, envelope("invalid token"), "", REFRESHING),
            ("a 403, InvalidToken", REFRESHING, 403, envelope("InvalidToken"), "", REFRESHING),
            ("a 403, token_invalid", REFRESHING, 403, envelope("token_invalid"), "", REFRESHING),
            ("a 403, other", REFRESHING, 403, envelope("Other"), "", UpstreamUnexpectedError),
            ("a 403 with a page", REFRESHING, 403, b"<html>", "", UpstreamBlockedError),
            ("a 403 with nothing", REFRESHING, 403, b"", "", UpstreamBlockedError),
            ("a 200, unauthorized", REFRESHING, 200, envelope("unauthorized"), "", REFRESHING),
            ("a 200, forbidden", REFRESHING, 200, envelope("FORBIDDEN"), "", REFRESHING),
            ("a 200, other", REFRESHING, 200, envelope("Other"), "", UpstreamUnexpectedError),
            (
                "an actual 401",
                REFRESHING,
                200,
                envelope("Gone"),
                "x-actual-status-code: 401",
                REFRESHING,
            ),
            ("forbidden for a token", TokenRejectedError, 403, envelope("forbidden"), "", None),
            ("limited", REFRESHING, 200, envelope("RateLimited"), "", RateLimitedError),
            ("limited by status", REFRESHING, 429, b"", "", RateLimitedError),
            ("a 502 of alb", REFRESHING, 502, b"<center>alb", "", UpstreamUnavailableError),
            ("a challenge", REFRESHING, 200, b"aliyun_waf_aa", "", UpstreamBlockedError),
            ("headers", REFRESHING, 400, detailed("Invalid request header"), "", ConfigError),
            (
                "headers on 200",
                REFRESHING,
                200,
                detailed("invalid request header: Version"),
                "",
                ConfigError,
            ),
            (
                "headers, unauthorized",
                REFRESHING,
                401,
                detailed("Invalid request header", "unauthorized"),
                "",
                ConfigError,
            ),
            (
                "headers at a sign-in",
                SIGNING_IN,
                400,
                detailed("Invalid request header"),
                "",
                ConfigError,
            ),
            ("details that are no text", REFRESHING, 400, detailed([1]), "", None),
            ("a 400 with a code", SIGNING_IN, 400, envelope("invalid_credentials"), "", SIGNING_IN),
            ("a 400 without a code", SIGNING_IN, 400, envelope(None), "", SIGNING_IN),
            ("a 400 with a detail", SIGNING_IN, 400, DETAIL, "", SIGNING_IN),
            ("a 400 with a page", SIGNING_IN, 400, b"<html>", "", UpstreamUnexpectedError),
            ("a 200 with a code", SIGNING_IN, 200, envelope("whatever"), "", SIGNING_IN),
            ("a sign-in's 403", SIGNING_IN, 403, DETAIL, "", SIGNING_IN),
            ("a sign-in's 404", SIGNING_IN, 404, DETAIL, "", UpstreamUnexpectedError),
            ("a sign-in's block", SIGNING_IN, 403, b"<html>", "", UpstreamBlockedError),
            ("a sign-in's challenge", SIGNING_IN, 200, b"_____tmd_____", "", ChallengedError),
            ("a sign-in's 500", SIGNING_IN, 500, envelope("Oops"), "", UpstreamUnavailableError),
            (
                "a sign-in's actual 500",
                SIGNING_IN,
                200,
                envelope("Oops"),
                "x-actual-status-code: 500",
                UpstreamUnavailableError,
            ),
            ("a sign-in's limit", SIGNING_IN, 429, DETAIL, "", RateLimitedError),
        ]
    ],
)
def test_what_a_refusal_means_depends_on_what_was_sent(
    refusal: type[QwenTokenError],
    status: int,
    body: bytes,
    header: str,
    kind: type[QwenTokenError] | None,
) -> None:
    answer = reply(status, body, *([header] if header else []))
    with pytest.raises(QwenTokenError) as caught:
        read_answer(answer, refusal=refusal)
    assert type(caught.value) is (kind or UpstreamUnexpectedError)


def test_a_refusal_of_the_headers_names_the_parameter_to_change() -> None:
    with pytest.raises(ConfigError, match="WebVersion"):
        read_answer(reply(400, detailed("Invalid request header")), refusal=REFRESHING)


@pytest.mark.parametrize(
    "document",
    [
        {"role": "guest"},
        {"email": "1722@guest.com", "role": "user"},
        {"email": "1722@GUEST.COM"},
    ],
)
def test_a_guest_is_not_signed_in(document: dict[str, object]) -> None:
    with pytest.raises(WrongAccountError, match="guest"):
        require_member(document)


@pytest.mark.parametrize(
    "document",
    [{}, {"role": "user", "email": None}, {"email": "guest.com@example.org"}, {"role": "admin"}],
)
def test_whoever_is_not_a_guest_is_a_member(document: dict[str, object]) -> None:
    require_member(document)


def test_an_answer_is_its_document() -> None:
    assert read_answer(reply(200, GOOD_BODY)) == SESSION


def limited(**data: object) -> bytes:
    return json.dumps({"success": False, "data": {"code": "RateLimited", **data}}).encode()


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        pytest.param(reply(429, b"", "Retry-After: 3600"), HOUR, id="in seconds"),
        pytest.param(reply(429, b"", "Retry-After:  60 "), HOUR / 60, id="with blanks"),
        pytest.param(reply(429, b"", "retry-after: 1"), HOUR / 3600, id="a second"),
        pytest.param(reply(200, limited(num=1)), HOUR, id="in hours, in the envelope"),
        pytest.param(
            reply(200, limited(num=1), "Retry-After: 60"), HOUR / 60, id="in both: the header's"
        ),
        pytest.param(
            reply(200, limited(num=1), "Retry-After: soon"), HOUR, id="in both, and one is nonsense"
        ),
        pytest.param(reply(200, limited(num=1), "Retry-After: 0"), None, id="none, in the header"),
        pytest.param(reply(429, b"", f"Retry-After: {'9' * 400}"), DAY, id="a day at most"),
        pytest.param(reply(200, limited(num=10**400)), DAY, id="a day at most, of hours"),
        pytest.param(reply(429), None, id="not said"),
        pytest.param(reply(429, b"", "Retry-After: soon"), None, id="no number"),
        pytest.param(reply(200, limited(num=0)), None, id="none"),
        pytest.param(reply(200, limited(num=-1)), None, id="less than none"),
        pytest.param(reply(200, limited(num=True)), None, id="no number of hours"),
        pytest.param(
            reply(429, b'{"data": "none"}', "Retry-After: Fri, 31 Dec 9999"), None, id="no date"
        ),
        pytest.param(
            reply(429, b"", f"Retry-After: {'9' * 5000}"),
            None,
            id="a number that Python does not read",
        ),
        pytest.param(
            reply(429, b"", "Retry-After: Fri, 31 Dec 99999999999 00:00:00 GMT"),
            None,
            id="a date of no calendar",
        ),
        pytest.param(
            reply(429, b"", f"Retry-After: {format_datetime(NOW + HOUR, usegmt=True)}"),
            HOUR,
            id="a date",
        ),
        pytest.param(
            reply(429, b"", f"Retry-After: {format_datetime(NOW - HOUR, usegmt=True)}"),
            None,
            id="a date in the past",
        ),
        pytest.param(
            reply(429, b"", "Retry-After: Tue, 24 Nov 2026 15:00:00 +0200"),
            HOUR,
            id="a date of another time zone",
        ),
    ],
)
def test_the_pause_that_the_api_names_is_reported(answer: Reply, pause: timedelta | None) -> None:
    with pytest.raises(RateLimitedError) as caught:
        read_answer(answer)
    assert caught.value.retry_after == pause


def test_a_wait_of_nothing_differs_from_one_that_is_not_asked_for() -> None:
    assert retry_after("0", now=NOW) == timedelta(0)
    assert retry_after("", now=NOW) is None


@pytest.mark.parametrize(
    ("status", "headers", "refused"),
    [
        (401, {}, True),
        (401, {"Content-Type": "application/json"}, True),
        (401, {"Content-Type": "text/html; charset=utf-8"}, False),
        (200, {"x-actual-status-code": "401"}, True),
        (200, {"Content-Type": "application/json"}, None),
        (200, {"Content-Type": "text/event-stream"}, False),
        (200, {}, False),
        (403, {"Content-Type": "application/json"}, False),
    ],
)
def test_the_head_of_an_answer_says_whether_it_refuses_the_token_or_the_body_must(
    status: int, headers: dict[str, str], *, refused: bool | None
) -> None:
    assert head_refuses(status, headers) is refused


def test_a_body_refuses_the_token_by_its_envelope_alone() -> None:
    refusal = envelope("unauthorized")
    assert body_refuses(refusal)
    assert body_refuses(refusal + b" " * (ENVELOPE_LIMIT - len(refusal)))
    assert not body_refuses(refusal + b" " * (ENVELOPE_LIMIT - len(refusal) + 1))
    assert not body_refuses(envelope("RateLimited"))
    assert not body_refuses(b'{"title": "unauthorized"}')


def test_a_reply_finds_headers_in_any_case_and_its_repr_shows_none() -> None:
    answer = reply(200, b"of-the-body", "Set-Cookie: token=one", "set-cookie: b=two", "A: b")
    assert answer.values("SET-COOKIE") == ("token=one", "b=two")
    assert answer.header("set-cookie") == "token=one, b=two"
    assert answer.header("a") == "b"
    assert answer.header("Location") == ""
    assert repr(answer) == f"Reply(status=200, received_at={NOW!r})"
