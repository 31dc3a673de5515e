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


def test_a_changed_password_kills_the_tokens_so_far(qwen: QwenStandIn) -> None:
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
