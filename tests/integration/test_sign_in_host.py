"""The stand-in of the sign-in host answers as its policy says, whatever that is."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import jwt
import pytest
import requests

from localcloud import qwen as api
from localcloud import sign_in_host as scenarios
from localcloud.qwen import ACCOUNT, ANOTHER_ACCOUNT, GUEST_ACCOUNT, QwenStandIn
from localcloud.serving import Scenario
from localcloud.sign_in_host import (
    SCENARIOS,
    CookieExpiry,
    CredentialForm,
    Delivery,
    ExpiresAt,
    FailureStyle,
    Rotation,
    SessionPolicy,
    SignInHostStandIn,
)

DAY = timedelta(days=1)
REFRESH = "/api/v2/auths/refresh"
SIGN_IN = "/api/v2/auths/signin"
EMAIL, PASSWORD = "owner@example.com", "correct horse"

Changed = Mapping[str, str | None]


@pytest.fixture(name="host")
def _host(qwen: QwenStandIn) -> Iterator[SignInHostStandIn]:
    with SignInHostStandIn(qwen) as host:
        yield host


def headers(changed: Changed | None = None) -> dict[str, str]:
    """Return the headers that the host demands; None takes one away."""
    demanded: dict[str, str | None] = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "source": "web",
        "Version": "0.3.12",
        "Origin": "https://chat.qwen.ai",
        "Referer": "https://chat.qwen.ai/",
        "x-request-origin": "https://chat.qwen.ai",
        "X-Request-Id": str(uuid.uuid4()),
        "Timezone": "Thu Nov 26 2026 02:00:00 GMT+0000",
    }
    given = {**demanded, **(changed or {})}
    return {name: value for name, value in given.items() if value is not None}


def refresh(
    host: SignInHostStandIn,
    credential: str | None,
    changed: Changed | None = None,
    *,
    path: str = REFRESH,
) -> requests.Response:
    sent = headers(changed)
    if credential is not None:
        sent["Cookie"] = f"lang=en; refresh_token={credential}"
    return requests.get(host.base_url + path, headers=sent, timeout=5, allow_redirects=False)


def sign_in(
    host: SignInHostStandIn, password: str = PASSWORD, *, email: str = EMAIL
) -> requests.Response:
    digest = hashlib.sha256(password.encode()).hexdigest()
    return requests.post(
        host.base_url + SIGN_IN,
        json={"email": email, "password": digest},
        headers=headers(),
        timeout=5,
    )


def ask_api(host: SignInHostStandIn, access_token: str) -> requests.Response:
    return requests.get(
        f"{host.qwen.base_url}/api/v1/auths/",
        headers={"Authorization": f"Bearer {access_token}"},
        timeout=5,
    )


def data(reply: requests.Response) -> dict[str, Any]:
    document = reply.json()
    assert document["success"] is True
    got: dict[str, Any] = document["data"]
    return got


def cookie(reply: requests.Response) -> str:
    """Return the credential in the cookie. Its domain is not this server's: no client keeps it."""
    name, _, value = reply.headers["set-cookie"].partition(";")[0].partition("=")
    assert name == "refresh_token"
    return value


def claims_of(raw: str) -> Mapping[str, Any]:
    claims: dict[str, Any] = jwt.decode(raw, options={"verify_signature": False})
    return claims


def is_refused(reply: requests.Response) -> bool:
    return reply.json()["success"] is False


def test_a_credential_gets_an_access_token_that_the_api_knows(host: SignInHostStandIn) -> None:
    credential = host.log_in()

    reply = refresh(host, credential)

    got = data(reply)
    claims = claims_of(got["access_token"])
    assert (claims["type"], claims["id"]) == ("access_token", ACCOUNT)
    assert claims["exp"] - claims["iat"] == 900
    assert abs(got["expires_at"] - claims["exp"]) <= 1
    assert got["refresh_token"] == cookie(reply) == credential
    assert ask_api(host, got["access_token"]).json()["id"] == ACCOUNT


def test_the_cookie_is_a_browsers_only_and_lives_a_month(host: SignInHostStandIn) -> None:
    sent = refresh(host, host.log_in()).headers["set-cookie"]

    attributes = dict(part.partition("=")[::2] for part in sent.split("; "))
    assert attributes["Domain"] == ".qwen.ai"
    assert "HttpOnly" in attributes
    assert abs(int(attributes["Max-Age"]) - 30 * DAY.total_seconds()) < 5
    expires = parsedate_to_datetime(attributes["Expires"])
    assert abs(expires - datetime.now(UTC) - 30 * DAY) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("expiry", "named"),
    [
        (CookieExpiry.MAX_AGE, {"Max-Age"}),
        (CookieExpiry.EXPIRES, {"Expires"}),
        (CookieExpiry.BOTH, {"Max-Age", "Expires"}),
        (CookieExpiry.ABSENT, set()),
    ],
)
def test_the_cookie_may_say_in_two_ways_when_it_expires(
    host: SignInHostStandIn, expiry: CookieExpiry, named: set[str]
) -> None:
    host.policy = SessionPolicy(cookie_expiry=expiry)

    sent = refresh(host, host.log_in()).headers["set-cookie"]

    assert {part.partition("=")[0] for part in sent.split("; ")} & {"Max-Age", "Expires"} == named


@pytest.mark.parametrize(
    ("delivery", "in_body", "in_cookie"),
    [
        (Delivery.BODY, True, False),
        (Delivery.COOKIE, False, True),
        (Delivery.BOTH, True, True),
        (Delivery.NONE, False, False),
    ],
)
def test_the_credential_comes_back_where_the_policy_says(
    host: SignInHostStandIn, delivery: Delivery, *, in_body: bool, in_cookie: bool
) -> None:
    host.policy = SessionPolicy(delivery=delivery)

    reply = refresh(host, host.log_in())

    assert ("refresh_token" in data(reply), "set-cookie" in reply.headers) == (in_body, in_cookie)


@pytest.mark.parametrize(
    ("expires_at", "factor"),
    [(ExpiresAt.SECONDS, 1), (ExpiresAt.MILLISECONDS, 1000), (ExpiresAt.ABSENT, None)],
)
def test_the_expiry_is_in_seconds_or_milliseconds_or_absent(
    host: SignInHostStandIn, expires_at: ExpiresAt, factor: int | None
) -> None:
    host.policy = SessionPolicy(expires_at=expires_at)

    got = data(refresh(host, host.log_in()))

    if factor is None:
        assert "expires_at" not in got
    else:
        assert abs(got["expires_at"] - claims_of(got["access_token"])["exp"] * factor) <= factor


@pytest.mark.parametrize("form", CredentialForm)
def test_a_credential_is_a_jwt_or_opaque(host: SignInHostStandIn, form: CredentialForm) -> None:
    host.policy = SessionPolicy(credential_form=form)

    credential = host.log_in(lifetime=DAY)

    assert (credential.count(".") == 2) is (form is CredentialForm.JWT)
    assert data(refresh(host, credential))
    if form is CredentialForm.JWT:
        assert abs(claims_of(credential)["exp"] - (datetime.now(UTC) + DAY).timestamp()) < 5


@pytest.mark.parametrize("names_account", [True, False])
@pytest.mark.parametrize("has_iat", [True, False])
def test_an_access_token_need_not_name_its_account_or_time_of_issue(
    host: SignInHostStandIn, *, names_account: bool, has_iat: bool
) -> None:
    host.policy = SessionPolicy(names_account=names_account, has_iat=has_iat)

    raw = data(refresh(host, host.log_in(ANOTHER_ACCOUNT)))["access_token"]

    assert ({"id", "iat"} & claims_of(raw).keys()) == {
        name for name, given in {"id": names_account, "iat": has_iat}.items() if given
    }
    assert ask_api(host, raw).json()["id"] == ANOTHER_ACCOUNT


@pytest.mark.parametrize(
    ("rotation", "old_is_good", "login_goes_on"),
    [
        (Rotation.NEVER, True, True),
        (Rotation.OLD_STAYS, True, True),
        (Rotation.OLD_DIES, False, True),
        (Rotation.REUSE_ENDS_LOGIN, False, False),
    ],
)
def test_a_second_use_of_a_credential_ends_as_the_rotation_says(
    host: SignInHostStandIn, rotation: Rotation, *, old_is_good: bool, login_goes_on: bool
) -> None:
    host.policy = SessionPolicy(rotation=rotation)
    old = host.log_in()

    new = data(refresh(host, old))["refresh_token"]

    assert (new == old) is (rotation is Rotation.NEVER)
    assert host.current() == new
    assert is_refused(refresh(host, old)) is not old_is_good
    assert is_refused(refresh(host, new)) is not login_goes_on


@pytest.mark.parametrize("rotation", [Rotation.OLD_DIES, Rotation.REUSE_ENDS_LOGIN])
def test_within_the_grace_an_old_credential_gets_the_new_one_again(
    host: SignInHostStandIn, rotation: Rotation
) -> None:
    host.policy = SessionPolicy(rotation=rotation, grace=timedelta(minutes=1))
    old = host.log_in()
    new = data(refresh(host, old))["refresh_token"]

    again = data(refresh(host, old))["refresh_token"]

    assert again == new
    host.policy = replace(host.policy, grace=timedelta(0))
    assert is_refused(refresh(host, old))


def test_a_host_that_gives_nothing_back_does_not_rotate(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN, delivery=Delivery.NONE)
    credential = host.log_in()

    assert data(refresh(host, credential))
    assert data(refresh(host, credential))
    assert host.current() == credential


def test_of_parallel_uses_of_a_single_use_credential_one_wins(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(rotation=Rotation.OLD_DIES)
    credential = host.log_in()

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: refresh(host, credential), range(8)))

    [winner] = [reply for reply in replies if not is_refused(reply)]
    assert host.current() == data(winner)["refresh_token"]
    assert host.spent == {host.serial_of(credential): 8}


def test_it_is_counted_how_often_each_credential_was_used(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(rotation=Rotation.OLD_STAYS)
    first = host.log_in()

    second = data(refresh(host, first))["refresh_token"]
    refresh(host, second)
    refresh(host, second)

    assert host.spent == Counter({host.serial_of(first): 1, host.serial_of(second): 2})


@pytest.mark.parametrize(
    ("style", "status"),
    [
        (FailureStyle.OWN_STATUS, 401),
        (FailureStyle.FORBIDDEN, 403),
        (FailureStyle.IN_200, 200),
    ],
)
def test_what_is_dead_unknown_or_missing_is_refused_in_the_policys_style(
    host: SignInHostStandIn, style: FailureStyle, status: int
) -> None:
    host.policy = SessionPolicy(failure_style=style)
    ended = host.log_in()
    host.end_login(ended)

    for credential in (ended, host.log_in(lifetime=-DAY), "unknown", None):
        reply = refresh(host, credential)

        assert reply.status_code == status
        assert is_refused(reply)
        assert reply.json()["data"]["code"].lower() in {"unauthorized", "forbidden"}


def test_a_changed_password_ends_the_logins_and_the_tokens(host: SignInHostStandIn) -> None:
    others = host.log_in(ANOTHER_ACCOUNT)
    credential = host.log_in()
    raw = data(refresh(host, credential))["access_token"]

    host.revoke()

    assert is_refused(refresh(host, credential))
    assert ask_api(host, raw).status_code == 401
    assert host.current(ANOTHER_ACCOUNT) == others
    with pytest.raises(LookupError):
        host.current()


def test_a_login_that_ended_leaves_its_access_tokens_alive(host: SignInHostStandIn) -> None:
    credential = host.log_in()
    raw = data(refresh(host, credential))["access_token"]

    host.end_login(credential)

    assert ask_api(host, raw).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_signing_out_ends_the_login_and_is_noticed(host: SignInHostStandIn, method: str) -> None:
    credential = host.log_in()

    requests.request(
        method,
        f"{host.base_url}/api/v2/auths/signout",
        headers={"Cookie": f"refresh_token={credential}"},
        timeout=5,
    )

    assert host.sign_outs == 1
    assert is_refused(refresh(host, credential))


@pytest.mark.parametrize(
    "changed",
    [
        *({name: None} for name in headers() if name != "Accept"),
        {"Accept": "*/*"},
        {"Version": "0.3.11"},
        {"X-Request-Id": "1"},
        {"Timezone": "Europe/Berlin"},
        {"Authorization": "Bearer abc"},
    ],
    ids=str,
)
def test_without_the_right_headers_nothing_is_spent(
    host: SignInHostStandIn, changed: Changed
) -> None:
    reply = refresh(host, host.log_in(), changed)

    assert is_refused(reply)
    assert reply.json()["data"]["details"] == "Invalid request header"
    assert host.requests[-1].invalid_headers == {name.lower() for name in changed}
    assert not host.spent


def test_a_host_may_look_at_no_header(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(demands_headers=False)

    assert data(refresh(host, host.log_in(), {"Version": None, "source": None}))


def test_the_version_is_the_policys(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(web_version="0.4.0")

    assert is_refused(refresh(host, host.log_in()))
    assert data(refresh(host, host.log_in(), {"Version": "0.4.0"}))


def test_without_api_in_the_path_the_load_balancer_answers(host: SignInHostStandIn) -> None:
    reply = refresh(host, host.log_in(), path="/v2/auths/refresh")

    assert reply.status_code == 502
    assert "alb" in reply.text
    assert refresh(host, None, path="/api/v2/auths/other").status_code == 404


def test_the_right_password_begins_a_login(host: SignInHostStandIn) -> None:
    host.set_password(EMAIL, PASSWORD)

    reply = sign_in(host, email=EMAIL.upper())

    got = data(reply)
    assert ask_api(host, got["access_token"]).json()["id"] == ACCOUNT
    assert got["refresh_token"] == cookie(reply) == host.current()
    assert data(refresh(host, cookie(reply)))


@pytest.mark.parametrize("delivery", Delivery)
def test_a_sign_in_always_sets_the_cookie(host: SignInHostStandIn, delivery: Delivery) -> None:
    host.policy = SessionPolicy(delivery=delivery)
    host.set_password(EMAIL, PASSWORD)

    assert cookie(sign_in(host)) == host.current()


@pytest.mark.parametrize(
    ("style", "status"),
    [
        (FailureStyle.OWN_STATUS, 400),
        (FailureStyle.FORBIDDEN, 403),
        (FailureStyle.IN_200, 200),
    ],
)
def test_a_wrong_password_is_refused_with_a_code(
    host: SignInHostStandIn, style: FailureStyle, status: int
) -> None:
    host.policy = SessionPolicy(failure_style=style)
    host.set_password(EMAIL, PASSWORD)

    for reply in (sign_in(host, "wrong"), sign_in(host, email="nobody@example.com")):
        assert reply.status_code == status
        assert is_refused(reply)
        assert reply.json()["data"]["code"]
    assert host.sign_in_attempts == 2


def test_a_password_in_plain_is_wrong(host: SignInHostStandIn) -> None:
    host.set_password(EMAIL, PASSWORD)

    reply = requests.post(
        host.base_url + SIGN_IN,
        json={"email": EMAIL, "password": PASSWORD},
        headers=headers(),
        timeout=5,
    )

    assert is_refused(reply)


def test_too_many_sign_ins_bring_a_challenge_even_to_the_right_password(
    host: SignInHostStandIn,
) -> None:
    host.policy = SessionPolicy(sign_ins_before_challenge=2)
    host.set_password(EMAIL, PASSWORD)

    replies = [sign_in(host) for _ in range(3)]

    assert [reply.headers["content-type"] for reply in replies] == [
        "application/json",
        "application/json",
        "text/html",
    ]
    assert data(refresh(host, host.current()))


def test_requests_are_recorded_without_secrets(host: SignInHostStandIn) -> None:
    host.set_password(EMAIL, PASSWORD)
    credential = host.log_in()

    refresh(host, credential)
    sign_in(host)

    first, second = host.requests
    assert (first.method, first.path, first.grant) == ("GET", REFRESH, "refresh_token")
    assert (second.method, second.path, second.grant) == ("POST", SIGN_IN, "password")
    assert first.serial == host.serial_of(credential)
    assert {"cookie", "x-request-id"} <= first.header_names
    assert not first.invalid_headers
    shown = repr(host.requests)
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    assert not any(secret in shown for secret in (*credential.split("."), digest, EMAIL))


def test_a_script_is_for_both_ways_in_until_sign_ins_have_their_own(
    host: SignInHostStandIn,
) -> None:
    host.set_password(EMAIL, PASSWORD)
    credential = host.log_in()
    host.answer_with(api.FORBIDDEN_PAGE)

    assert refresh(host, credential).status_code == 403
    assert sign_in(host).status_code == 403

    host.answer_sign_ins_with(scenarios.ANSWERS)
    assert sign_in(host).status_code == 200
    assert refresh(host, credential).status_code == 403


def test_an_answer_may_be_lost_after_the_credential_was_spent(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(rotation=Rotation.OLD_DIES)
    host.answer_with(scenarios.ANSWER_LOST, scenarios.ANSWERS)
    credential = host.log_in()

    with pytest.raises(requests.ConnectionError):
        refresh(host, credential)

    assert host.current() != credential
    assert is_refused(refresh(host, credential))


@pytest.mark.parametrize(
    ("scenario", "account", "role"),
    [
        (scenarios.ANSWERS_FOR_ANOTHER_ACCOUNT, ANOTHER_ACCOUNT, "user"),
        (scenarios.ANSWERS_FOR_A_GUEST, GUEST_ACCOUNT, "guest"),
    ],
)
def test_an_answer_may_be_somebody_elses(
    host: SignInHostStandIn, scenario: Scenario, account: str, role: str
) -> None:
    host.answer_with(scenario)

    document = ask_api(host, data(refresh(host, host.log_in()))["access_token"]).json()

    assert (document["id"], document["role"]) == (account, role)


def test_an_access_token_may_live_for_less_than_ten_minutes(host: SignInHostStandIn) -> None:
    host.answer_with(scenarios.SHORT_LIVED)

    claims = claims_of(data(refresh(host, host.log_in()))["access_token"])

    assert claims["exp"] - claims["iat"] == 300


def test_an_access_token_may_be_one_that_the_api_refuses(host: SignInHostStandIn) -> None:
    host.answer_with(scenarios.ISSUES_THEN_REFUSES)

    raw = data(refresh(host, host.log_in()))["access_token"]

    assert ask_api(host, raw).status_code == 401


def test_an_answer_may_delete_the_credential(host: SignInHostStandIn) -> None:
    host.answer_with(scenarios.DELETES_CREDENTIAL, scenarios.ANSWERS)
    credential = host.log_in()

    reply = refresh(host, credential)

    assert data(reply).keys() == {"access_token", "expires_at"}
    assert cookie(reply) == ""
    assert "Max-Age=0" in reply.headers["set-cookie"]
    assert is_refused(refresh(host, credential))


def test_a_refusal_may_delete_the_credential(host: SignInHostStandIn) -> None:
    host.answer_with(scenarios.REFUSES_AND_DELETES)

    reply = refresh(host, host.log_in())

    assert is_refused(reply)
    assert cookie(reply) == ""


def test_a_cookie_may_be_huge(host: SignInHostStandIn) -> None:
    host.answer_with(scenarios.COOKIE_HUGE)

    reply = refresh(host, host.log_in())

    assert len(reply.headers["set-cookie"]) > 60_000
    assert data(reply)["access_token"]


def test_there_may_be_more_cookies_than_a_client_takes(host: SignInHostStandIn) -> None:
    host.answer_with(scenarios.COOKIE_FLOOD)

    with pytest.raises(requests.ConnectionError, match="more than 100 headers"):
        refresh(host, host.log_in())


STATUSES = {
    scenarios.REFUSES: 401,
    scenarios.REFUSES_AND_DELETES: 401,
    api.FORBIDDEN_PAGE: 403,
    api.NOT_ALLOWED_PAGE: 405,
    api.UNAVAILABLE_PAGE: 503,
    api.BAD_GATEWAY_PAGE: 502,
    api.SERVER_ERROR: 500,
    api.UNAUTHORIZED_PAGE: 401,
    api.BLOCK_REDIRECT: 302,
    api.REDIRECT_ELSEWHERE: 302,
    api.RATE_LIMITED: 429,
    api.RATE_LIMITED_RETRY_AFTER: 429,
}
SILENT = (scenarios.ANSWER_LOST, scenarios.COOKIE_FLOOD, api.HANGS, api.BREAKS_OFF)


@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS.values() if one not in SILENT], ids=lambda one: one.name
)
def test_a_scenario_answers_with_its_status_which_is_mostly_200(
    host: SignInHostStandIn, scenario: Scenario
) -> None:
    host.answer_with(scenario)

    assert refresh(host, host.log_in()).status_code == STATUSES.get(scenario, 200)


@pytest.mark.parametrize("scenario", [api.HANGS, api.BREAKS_OFF], ids=lambda one: one.name)
def test_some_never_answer(host: SignInHostStandIn, scenario: Scenario) -> None:
    host.answer_with(scenario)

    with pytest.raises((requests.Timeout, requests.ConnectionError)):
        requests.get(host.base_url + REFRESH, timeout=0.5)
