"""The stand-in answers as the servers do that it stands in for."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest
import requests

from localcloud import qwen as scenarios
from localcloud.qwen import ACCOUNT, SCENARIOS, QwenStandIn, Scenario
from tests.minting import mint as mint_elsewhere

DAY = timedelta(days=1)


def ask(
    qwen: QwenStandIn, authorization: str | None, path: str = "/api/v1/auths/"
) -> requests.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return requests.get(qwen.base_url + path, headers=headers, timeout=5, allow_redirects=False)


def test_a_live_token_is_traded_for_one_with_the_full_lifetime(qwen: QwenStandIn) -> None:
    old = qwen.mint(lifetime=2 * DAY)

    reply = ask(qwen, f"Bearer {old}")

    document = reply.json()
    claims = jwt.decode(document["token"], options={"verify_signature": False})
    assert reply.status_code == 200
    assert reply.headers["set-cookie"].startswith("token=")
    assert document["id"] == claims["id"] == ACCOUNT
    assert document["expires_at"] == claims["exp"]
    assert abs(claims["exp"] - (datetime.now(UTC) + 7 * DAY).timestamp()) < 5
    assert qwen.accepts(document["token"])
    assert qwen.accepts(old)


@pytest.mark.parametrize(
    ("authorization", "status", "detail"),
    [
        (None, 403, "Not authenticated"),
        ("Basic abc", 403, "Not authenticated"),
        ("Bearer garbage", 401, "401 Unauthorized"),
        (f"Bearer {mint_elsewhere({'id': ACCOUNT, 'exp': 4e9})}", 401, "401 Unauthorized"),
    ],
    ids=["no header", "no bearer", "garbage", "another server's signature"],
)
def test_what_is_no_token_of_this_server_is_refused(
    qwen: QwenStandIn, authorization: str | None, status: int, detail: str
) -> None:
    reply = ask(qwen, authorization)

    assert (reply.status_code, reply.json()) == (status, {"detail": detail})


def test_an_expired_token_is_refused(qwen: QwenStandIn) -> None:
    raw = qwen.mint(lifetime=-DAY)

    assert ask(qwen, f"Bearer {raw}").status_code == 401
    assert not qwen.accepts(raw)


def test_a_changed_password_ends_all_earlier_tokens(qwen: QwenStandIn) -> None:
    old = qwen.mint()

    qwen.revoke()
    new = qwen.mint()

    assert ask(qwen, f"Bearer {old}").status_code == 401
    assert ask(qwen, f"Bearer {new}").status_code == 200


def test_a_deleted_account_is_refused_though_its_token_is_signed_well(qwen: QwenStandIn) -> None:
    raw = qwen.mint()

    qwen.forget()

    reply = ask(qwen, f"Bearer {raw}")
    assert reply.status_code == 401
    assert "sign in again" in reply.json()["detail"]


def test_without_the_trailing_slash_the_web_app_answers(qwen: QwenStandIn) -> None:
    reply = ask(qwen, f"Bearer {qwen.mint()}", "/api/v1/auths")

    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html"


def test_a_server_that_echoes_gives_the_same_token_back(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.ECHOES)
    raw = qwen.mint(lifetime=DAY)

    assert ask(qwen, f"Bearer {raw}").json()["token"] == raw


def test_a_server_without_expiry_says_so_twice(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.MINTS_WITHOUT_EXPIRY)

    document = ask(qwen, f"Bearer {qwen.mint()}").json()

    assert document["expires_at"] is None
    assert "exp" not in jwt.decode(document["token"], options={"verify_signature": False})


def test_a_retired_token_dies_as_its_successor_is_born(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.RETIRES_OLD)
    old = qwen.mint()

    new = ask(qwen, f"Bearer {old}").json()["token"]

    assert (qwen.accepts(old), qwen.accepts(new)) == (False, True)


def test_a_server_may_refuse_what_it_has_just_issued(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.ISSUES_THEN_REFUSES)
    old = qwen.mint()

    new = ask(qwen, f"Bearer {old}").json()["token"]

    assert (qwen.accepts(old), qwen.accepts(new)) == (True, False)


def test_a_script_is_followed_and_its_last_line_stays(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.MINTS, scenarios.TOKEN_DEAD)
    bearer = f"Bearer {qwen.mint()}"

    assert [ask(qwen, bearer).status_code for _ in range(3)] == [200, 401, 401]


def test_requests_are_remembered_by_account_and_expiry_and_show_no_token(qwen: QwenStandIn) -> None:
    raw = qwen.mint(lifetime=DAY)

    ask(qwen, f"Bearer {raw}")
    ask(qwen, None)

    first, second = qwen.requests
    assert first.account == ACCOUNT
    assert first.expires_at is not None
    assert abs(first.expires_at - datetime.now(UTC) - DAY) < timedelta(seconds=5)
    assert (second.account, second.expires_at) == (None, None)
    assert not any(part in repr(qwen.requests) for part in raw.split("."))


STATUSES = {
    scenarios.TOKEN_DEAD: 401,
    scenarios.RATE_LIMITED: 429,
    scenarios.RATE_LIMITED_RETRY_AFTER: 429,
    scenarios.BLOCK_REDIRECT: 302,
    scenarios.FORBIDDEN_PAGE: 403,
    scenarios.NOT_ALLOWED_PAGE: 405,
    scenarios.UNAVAILABLE_PAGE: 503,
    scenarios.BAD_GATEWAY_PAGE: 502,
    scenarios.SERVER_ERROR: 500,
    scenarios.UNAUTHORIZED_PAGE: 401,
    scenarios.REDIRECT_ELSEWHERE: 302,
}
SILENT = (scenarios.HANGS, scenarios.BREAKS_OFF)


@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS.values() if one not in SILENT], ids=lambda one: one.name
)
def test_a_scenario_answers_with_its_status_which_is_mostly_200(
    qwen: QwenStandIn, scenario: Scenario
) -> None:
    qwen.answer_with(scenario)

    assert ask(qwen, f"Bearer {qwen.mint()}").status_code == STATUSES.get(scenario, 200)


@pytest.mark.parametrize("scenario", SILENT, ids=lambda one: one.name)
def test_some_never_answer(qwen: QwenStandIn, scenario: Scenario) -> None:
    qwen.answer_with(scenario)

    with pytest.raises((requests.Timeout, requests.ConnectionError)):
        requests.get(f"{qwen.base_url}/api/v1/auths/", timeout=0.5)


def sign_in(qwen: QwenStandIn, email: str, password: str) -> requests.Response:
    return requests.post(
        f"{qwen.base_url}/api/v1/auths/signin",
        json={"email": email, "password": password},
        timeout=5,
    )


@pytest.mark.parametrize("names_account", [True, False])
@pytest.mark.parametrize("answers_token", [True, False])
def test_an_access_token_is_known_and_not_renewed(
    qwen: QwenStandIn, *, names_account: bool, answers_token: bool
) -> None:
    qwen.answers_token = answers_token
    raw = qwen.issue_access_token(names_account=names_account)

    reply = ask(qwen, f"Bearer {raw}")

    document = reply.json()
    assert document["id"] == ACCOUNT
    assert document.get("token") == (raw if answers_token else None)
    assert ("set-cookie" in reply.headers) is answers_token
    assert qwen.requests[-1].account == ACCOUNT
    assert qwen.accepts(raw)


def test_two_access_tokens_of_one_second_differ() -> None:
    qwen = QwenStandIn()

    assert qwen.issue_access_token(names_account=False) != qwen.issue_access_token(
        names_account=False
    )


@pytest.mark.parametrize("names_account", [True, False])
def test_an_access_token_dies_by_its_expiry_and_by_a_changed_password(
    qwen: QwenStandIn, *, names_account: bool
) -> None:
    expired = qwen.issue_access_token(lifetime=-DAY, names_account=names_account)
    revoked = qwen.issue_access_token(names_account=names_account)

    qwen.revoke()

    assert ask(qwen, f"Bearer {expired}").status_code == 401
    assert ask(qwen, f"Bearer {revoked}").status_code == 401


def test_a_guest_is_one_by_the_role_or_by_the_address_in_any_case(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.sees_a_guest(email="7@Guest.COM", role="user"))

    document = ask(qwen, f"Bearer {qwen.mint()}").json()

    assert (document["email"], document["role"]) == ("7@Guest.COM", "user")


def test_an_account_may_be_a_guests(qwen: QwenStandIn) -> None:
    raw = qwen.issue_access_token(scenarios.GUEST_ACCOUNT)

    assert ask(qwen, f"Bearer {raw}").json()["role"] == "guest"


@pytest.mark.parametrize("scenario", [scenarios.MINTS, scenarios.ECHOES], ids=lambda one: one.name)
def test_the_right_password_gets_a_new_token_even_if_tokens_are_echoed(
    qwen: QwenStandIn, scenario: Scenario
) -> None:
    qwen.answer_with(scenario)
    qwen.set_password("owner@example.com", "correct horse")

    reply = sign_in(qwen, "Owner@example.com", "correct horse")

    document = reply.json()
    claims = jwt.decode(document["token"], options={"verify_signature": False})
    assert reply.status_code == 200
    assert document["id"] == claims["id"] == ACCOUNT
    assert document["expires_at"] == claims["exp"]
    assert claims["exp"] - claims["iat"] == 7 * DAY.total_seconds()
    assert ask(qwen, f"Bearer {document['token']}").status_code == 200


def test_a_wrong_password_is_refused_and_an_unknown_address_alike(qwen: QwenStandIn) -> None:
    qwen.set_password("owner@example.com", "correct horse")

    replies = [
        sign_in(qwen, "owner@example.com", "wrong"),
        sign_in(qwen, "nobody@example.com", "correct horse"),
    ]

    for reply in replies:
        assert reply.status_code == 400
        assert reply.json()["detail"].startswith("The email or password provided is incorrect.")


def test_every_sign_in_of_an_address_counts_towards_its_limit(qwen: QwenStandIn) -> None:
    qwen.sign_ins_allowed = 2
    qwen.set_password("owner@example.com", "correct horse")
    attempts = ["wrong", "correct horse", "correct horse"]

    statuses = [sign_in(qwen, "owner@example.com", each).status_code for each in attempts]

    assert statuses == [400, 200, 429]


def test_sign_ins_follow_a_script_of_their_own(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.TOKEN_DEAD)
    qwen.answer_sign_ins_with(scenarios.SIGN_IN_OFF, scenarios.BLOCK_PAGE)

    replies = [sign_in(qwen, "owner@example.com", "wrong") for _ in range(2)]

    assert [reply.status_code for reply in replies] == [403, 200]
    assert "aliyun_waf" in replies[1].text


def test_a_sign_in_is_remembered_without_its_password(qwen: QwenStandIn) -> None:
    sign_in(qwen, "owner@example.com", "correct horse")

    [request] = qwen.requests
    assert (request.method, request.path) == ("POST", "/api/v1/auths/signin")
    assert "horse" not in repr(request)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_signing_out_kills_the_token_and_is_noticed(qwen: QwenStandIn, method: str) -> None:
    raw = qwen.mint()

    requests.request(
        method,
        f"{qwen.base_url}/api/v1/auths/signout",
        headers={"Authorization": f"Bearer {raw}"},
        timeout=5,
    )

    assert qwen.sign_outs == 1
    assert not qwen.accepts(raw)


def test_nothing_else_can_be_posted(qwen: QwenStandIn) -> None:
    assert requests.post(f"{qwen.base_url}/api/v1/auths/", timeout=5).status_code == 405
