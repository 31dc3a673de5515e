"""The three grants against the stand-ins of both hosts: what is sent, granted and refused."""

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import product
from typing import Any

import pytest

from localcloud import qwen as either
from localcloud import sign_in_host as scenarios
from localcloud.qwen import ACCOUNT, QwenStandIn, Scenario
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
from qwen_token import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    Session,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
    Token,
    TokenMissingError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
    decode_token,
)
from qwen_token.errors import ChallengedError
from qwen_token.grants import Granted, Login, sign_in_host
from qwen_token.grants.hosts import Hosts
from qwen_token.origin import USER_AGENT, WEB_VERSION
from qwen_token.replies import Reply
from qwen_token.session import Grant
from tests.minting import all_said, mint, pieces, token
from tests.wire import Script, flood, raw, reply, wire

DAY = timedelta(days=1)
AMPLE = timedelta(seconds=20)
# Enough for one attempt of what is answered at once; what is repeated has time for a second one.
BRIEF = timedelta(seconds=3)
EMAIL, PASSWORD = "Owner@example.com", "correct horse battery staple"
CREDENTIAL = "an-opaque-credential-of-a-month"
BOTH_SESSION_GRANTS = pytest.mark.parametrize("grant", [Grant.REFRESH_TOKEN, Grant.PASSWORD])


@pytest.fixture(name="host")
def _host(qwen: QwenStandIn) -> Iterator[SignInHostStandIn]:
    with SignInHostStandIn(qwen) as host:
        host.set_password(EMAIL, PASSWORD)
        yield host


def hosts(host: SignInHostStandIn, **more: Any) -> Hosts:
    return Hosts(api_base_url=host.qwen.base_url, auth_base_url=host.base_url, **more)


def login(credential: str | None = CREDENTIAL, held: Token | None = None) -> Login:
    session = Session(refresh_token=credential, email=EMAIL, password=PASSWORD)
    return Login(held, session)


def obtain(
    host: SignInHostStandIn,
    grant: Grant,
    credential: str | None = None,
    *,
    within: timedelta = AMPLE,
    **more: Any,
) -> Granted:
    """Spend a login that is alive, or this credential."""
    given = host.log_in() if credential is None else credential
    return hosts(host, **more).source(grant).obtain(login(given), within=within)


def is_near(
    at: datetime | None, expected: datetime, *, within: timedelta = timedelta(seconds=10)
) -> bool:
    return at is not None and abs(at - expected) < within


def shows_none_of(said: str, *secrets: str) -> bool:
    return not any(piece in said for secret in secrets for piece in pieces(secret))


# --- what is sent ---------------------------------------------------------------------------------

JAVASCRIPTS_DATE = (
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d GMT\+0000"
)


def parsed(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), body


def on_wire(
    grant: Grant,
    *scripts: Script,
    held: Token | None = None,
    within: timedelta = BRIEF,
    path: str = "",
    **more: Any,
) -> tuple[Granted | QwenTokenError, list[bytes]]:
    """Spend a login at a server that answers so; return what came of it, and the requests."""
    with wire(*scripts) as server:
        settings = {"api_base_url": "https://chat.qwen.ai", **more}
        source = Hosts(auth_base_url=server.base_url + path, **settings).source(grant)
        try:
            got: Granted | QwenTokenError = source.obtain(login(held=held), within=within)
        except QwenTokenError as error:
            got = error
        return got, server.requests


def answer(data: Mapping[str, object] | None = None, *headers: str) -> Script:
    """Answer with an access token, and what ``data`` says besides."""
    fields = {"access_token": ACCESS_TOKEN, **(data or {})}
    body = json.dumps({"success": True, "request_id": "r", "data": fields}).encode()
    return reply("200 OK", body, "Content-Type: application/json", *headers)


NOW = datetime.now(UTC)
ACCESS_TOKEN = mint({"type": "access_token", "exp": int((NOW + timedelta(minutes=15)).timestamp())})
DEMANDED = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "source": "web",
    "Version": "0.3.12",
    "Origin": "https://chat.qwen.ai",
    "Referer": "https://chat.qwen.ai/",
    "x-request-origin": "https://chat.qwen.ai",
    "User-Agent": USER_AGENT,
}


def without_the_varying(headers: dict[str, str]) -> dict[str, str]:
    """Check the headers that differ in each request; return those that do not."""
    assert re.fullmatch(JAVASCRIPTS_DATE, headers["Timezone"])
    said = datetime.strptime(headers["Timezone"][4:24], "%b %d %Y %H:%M:%S").replace(tzinfo=UTC)
    assert is_near(said, datetime.now(UTC))
    assert said.strftime("%a") == headers["Timezone"][:3]
    assert str(uuid.UUID(headers["X-Request-Id"])) == headers["X-Request-Id"]
    ours = {"Timezone", "X-Request-Id", "Host", "Connection", "Accept-Encoding"}
    return {name: value for name, value in headers.items() if name not in ours}


def test_a_refresh_is_this_request_and_nothing_else() -> None:
    got, [request] = on_wire(Grant.REFRESH_TOKEN, answer(), held=token(left=DAY, now=NOW))

    assert isinstance(got, Granted)
    line, headers, body = parsed(request)
    assert line == "GET /api/v2/auths/refresh HTTP/1.1"
    assert without_the_varying(headers) == {**DEMANDED, "Cookie": f"refresh_token={CREDENTIAL}"}
    assert body == b""


def test_a_sign_in_is_this_request_and_nothing_else() -> None:
    _, [request] = on_wire(Grant.PASSWORD, answer(), held=token(left=DAY, now=NOW))

    line, headers, body = parsed(request)
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    assert line == "POST /api/v2/auths/signin HTTP/1.1"
    assert json.loads(body) == {"email": EMAIL, "password": digest}
    assert headers.pop("Content-Length") == str(len(body))
    assert without_the_varying(headers) == DEMANDED
    assert PASSWORD.encode() not in request, "it never leaves in plain"


def test_an_exchange_sends_the_token_as_bearer_and_no_part_of_the_session(
    qwen: QwenStandIn,
) -> None:
    held = decode_token(qwen.mint(lifetime=2 * DAY))
    with wire(reply("200 OK", b"{}")) as server, pytest.raises(UpstreamUnexpectedError):
        Hosts(api_base_url=server.base_url).source(Grant.EXCHANGE).obtain(
            login(held=held), within=BRIEF
        )

    line, headers, body = parsed(server.requests[0])
    assert line == "GET /api/v1/auths/ HTTP/1.1"
    assert headers["Authorization"] == f"Bearer {held.raw}"
    assert not {"Cookie", "Version", "Origin"} & headers.keys()
    assert body == b""
    assert CREDENTIAL.encode() not in server.requests[0]


def test_a_password_goes_to_an_open_webui_in_plain_and_with_none_of_qwens_headers() -> None:
    with wire(reply("200 OK", b"{}")) as server, pytest.raises(UpstreamUnexpectedError):
        Hosts(api_base_url=server.base_url, auth_base_url="").source(Grant.PASSWORD).obtain(
            login(), within=BRIEF
        )

    line, headers, body = parsed(server.requests[0])
    assert line == "POST /api/v1/auths/signin HTTP/1.1"
    assert json.loads(body) == {"email": EMAIL, "password": PASSWORD}
    assert not {"Authorization", "Cookie", "Version", "Origin", "X-Request-Id"} & headers.keys()
    assert CREDENTIAL.encode() not in server.requests[0]


@BOTH_SESSION_GRANTS
def test_each_request_has_an_id_of_its_own(host: SignInHostStandIn, grant: Grant) -> None:
    source = hosts(host).source(grant)
    given = login(host.log_in())
    for _ in range(3):
        source.obtain(given, within=AMPLE)

    assert len({request.headers["x-request-id"] for request in host.requests}) == 3
    assert not any(request.invalid_headers for request in host.requests)


@BOTH_SESSION_GRANTS
def test_the_owner_may_choose_the_version_and_the_user_agent(grant: Grant) -> None:
    _, [request] = on_wire(grant, answer(), web_version="0.9.0", user_agent="Mine/1")
    _, headers, _ = parsed(request)
    assert (headers["Version"], headers["User-Agent"]) == ("0.9.0", "Mine/1")


@pytest.mark.parametrize(
    ("site", "origin"),
    [
        ("https://chat.qwen.ai/", "https://chat.qwen.ai"),
        ("https://Chat.Example.org:8443/some/path", "https://chat.example.org:8443"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
    ],
)
def test_the_site_is_told_as_an_origin(site: str, origin: str) -> None:
    _, [request] = on_wire(Grant.REFRESH_TOKEN, answer(), api_base_url=site)
    _, headers, _ = parsed(request)
    assert headers["Origin"] == headers["x-request-origin"] == origin
    assert headers["Referer"] == f"{origin}/"


@pytest.mark.parametrize("path", ["", "/"])
def test_the_sign_in_host_may_be_named_with_or_without_a_slash(path: str) -> None:
    _, [request] = on_wire(Grant.REFRESH_TOKEN, answer(), path=path)
    assert request.startswith(b"GET /api/v2/auths/refresh HTTP/1.1\r\n")


# --- what is granted ------------------------------------------------------------------------------

# Every switch that changes how a good answer looks, all at once.
LOOKS = [
    SessionPolicy(
        rotation=rotation,
        delivery=delivery,
        credential_form=form,
        expires_at=expires_at,
        cookie_expiry=cookie_expiry,
        names_account=names_account,
        has_iat=not names_account,
    )
    for (rotation, delivery, form, cookie_expiry), (expires_at, names_account) in zip(
        product(Rotation, Delivery, CredentialForm, CookieExpiry),
        [*product(ExpiresAt, (True, False))] * 22,
        strict=False,
    )
]


def named(policy: SessionPolicy) -> str:
    parts = (
        policy.rotation,
        policy.delivery,
        policy.credential_form,
        policy.cookie_expiry,
        policy.expires_at,
    )
    return " ".join([*(part.name.lower() for part in parts), f"named={policy.names_account}"])


def says_when_it_ends(policy: SessionPolicy, *, in_cookie: bool) -> bool:
    return policy.credential_form is CredentialForm.JWT or (
        in_cookie and policy.cookie_expiry is not CookieExpiry.ABSENT
    )


def require_access_token(granted: Granted, host: SignInHostStandIn) -> None:
    issued = granted.issued()
    assert host.qwen.accepts(issued.raw)
    assert issued.is_access_token
    assert is_near(issued.expires_at, datetime.now(UTC) + host.policy.access_lifetime)
    assert issued.account == (ACCOUNT if host.policy.names_account else None)
    assert (issued.issued_at is not None) is host.policy.has_iat


@pytest.mark.parametrize("policy", LOOKS, ids=named)
def test_a_refresh_grants_an_access_token_and_the_credential_that_came(
    host: SignInHostStandIn, policy: SessionPolicy
) -> None:
    host.policy = policy
    spent = host.log_in()

    granted = obtain(host, Grant.REFRESH_TOKEN, spent)

    require_access_token(granted, host)
    if policy.delivery is Delivery.NONE:
        assert (granted.refresh_token, granted.refresh_token_expires_at) == (None, None)
        return
    assert granted.refresh_token == host.current(), "whatever comes is good for the next refresh"
    assert (granted.refresh_token == spent) is (policy.rotation is Rotation.NEVER)
    in_cookie = policy.delivery in (Delivery.COOKIE, Delivery.BOTH)
    if says_when_it_ends(policy, in_cookie=in_cookie):
        assert is_near(granted.refresh_token_expires_at, datetime.now(UTC) + 30 * DAY)
    else:
        assert granted.refresh_token_expires_at is None
    # And with it, the next token comes.
    require_access_token(obtain(host, Grant.REFRESH_TOKEN, granted.refresh_token), host)
    assert host.sign_outs == 0


@pytest.mark.parametrize("policy", LOOKS[::5], ids=named)
def test_a_sign_in_grants_an_access_token_and_a_new_credential(
    host: SignInHostStandIn, policy: SessionPolicy
) -> None:
    host.policy = policy

    granted = obtain(host, Grant.PASSWORD, "unused-credential-of-before")

    require_access_token(granted, host)
    assert granted.refresh_token == host.current()
    if says_when_it_ends(policy, in_cookie=True):
        assert is_near(granted.refresh_token_expires_at, datetime.now(UTC) + 30 * DAY)
    else:
        assert granted.refresh_token_expires_at is None
    assert host.sign_outs == 0


def test_headers_that_are_not_demanded_do_no_harm(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(demands_headers=False, web_version="9.9.9")
    require_access_token(obtain(host, Grant.REFRESH_TOKEN), host)


def test_a_credential_in_its_grace_gets_the_one_that_took_its_place(
    host: SignInHostStandIn,
) -> None:
    host.policy = SessionPolicy(rotation=Rotation.OLD_DIES, grace=timedelta(minutes=1))
    spent = host.log_in()
    once = obtain(host, Grant.REFRESH_TOKEN, spent)
    again = obtain(host, Grant.REFRESH_TOKEN, spent)
    assert once.refresh_token == again.refresh_token == host.current()


@pytest.mark.parametrize("rotation", [Rotation.OLD_DIES, Rotation.REUSE_ENDS_LOGIN])
def test_a_credential_that_was_spent_is_dead(host: SignInHostStandIn, rotation: Rotation) -> None:
    host.policy = SessionPolicy(rotation=rotation)
    spent = host.log_in()
    obtain(host, Grant.REFRESH_TOKEN, spent)
    with pytest.raises(SessionRejectedError):
        obtain(host, Grant.REFRESH_TOKEN, spent)
    assert host.spent[host.serial_of(spent)] == 2


def test_an_exchange_grants_a_token_and_no_credential(qwen: QwenStandIn) -> None:
    held = decode_token(qwen.mint(lifetime=2 * DAY))
    granted = (
        Hosts(api_base_url=qwen.base_url)
        .source(Grant.EXCHANGE)
        .obtain(login(held=held), within=AMPLE)
    )
    assert qwen.accepts(granted.issued().raw)
    assert granted.issued().account == ACCOUNT
    assert (granted.refresh_token, granted.refresh_token_expires_at) == (None, None)


def test_a_sign_in_at_an_open_webui_grants_a_token_and_no_credential(qwen: QwenStandIn) -> None:
    qwen.set_password(EMAIL, PASSWORD)
    granted = (
        Hosts(api_base_url=qwen.base_url, auth_base_url="")
        .source(Grant.PASSWORD)
        .obtain(login(), within=AMPLE)
    )
    assert qwen.accepts(granted.issued().raw)
    assert (granted.refresh_token, granted.refresh_token_expires_at) == (None, None)
    assert qwen.sign_outs == 0


# --- the credential, in the body and in cookies ---------------------------------------------------


def jwt_until(at: datetime, **claims: object) -> str:
    return mint({"type": "refresh_token", "exp": int(at.timestamp()), **claims})


def cookie(value: str, *attributes: str) -> str:
    return f"Set-Cookie: {'; '.join([f'refresh_token={value}', *attributes])}"


IN_BODY, IN_COOKIE, IN_ANOTHER = "from-the-body-of-it", "from-a-cookie-of-it", "from-another-cookie"
TOMORROW, IN_A_WEEK, IN_A_MONTH = (NOW + DAY, NOW + 7 * DAY, NOW + 30 * DAY)
A_WEEK = f"Max-Age={7 * 86400}"
TILL_TOMORROW = f"Expires={format_datetime(TOMORROW, usegmt=True)}"
GONE = "Expires=Thu, 01 Jan 1970 00:00:00 GMT"
AS_JWT = jwt_until(IN_A_MONTH)


@pytest.mark.parametrize(
    ("data", "cookies", "credential", "ends_at"),
    [
        pytest.param(data, cookies, credential, ends_at, id=name)
        for name, data, cookies, credential, ends_at in [
            ("nothing", {}, [], None, None),
            ("in the body", {"refresh_token": IN_BODY}, [], IN_BODY, None),
            ("a JWT in the body", {"refresh_token": AS_JWT}, [], AS_JWT, IN_A_MONTH),
            (
                "a JWT's own end wins over the cookie's",
                {"refresh_token": AS_JWT},
                [cookie(AS_JWT, A_WEEK)],
                AS_JWT,
                IN_A_MONTH,
            ),
            (
                "a JWT in a cookie alone",
                {},
                [cookie(AS_JWT, A_WEEK)],
                AS_JWT,
                IN_A_MONTH,
            ),
            (
                "a JWT whose own end is in milliseconds",
                {},
                [cookie(jwt_until(NOW + 30 * DAY, exp=int(NOW.timestamp()) * 1000), A_WEEK)],
                jwt_until(NOW + 30 * DAY, exp=int(NOW.timestamp()) * 1000),
                IN_A_WEEK,
            ),
            (
                "the body wins over the cookie, which says when it ends",
                {"refresh_token": IN_BODY},
                [cookie(IN_COOKIE, A_WEEK)],
                IN_BODY,
                IN_A_WEEK,
            ),
            ("a null in the body", {"refresh_token": None}, [cookie(IN_COOKIE)], IN_COOKIE, None),
            ("an empty body's", {"refresh_token": ""}, [cookie(IN_COOKIE)], IN_COOKIE, None),
            ("a number in the body", {"refresh_token": 7}, [cookie(IN_COOKIE)], IN_COOKIE, None),
            (
                "what no header can carry in the body",
                {"refresh_token": "a b; c"},
                [cookie(IN_COOKIE)],
                IN_COOKIE,
                None,
            ),
            ("a cookie without an end", {}, [cookie(IN_COOKIE)], IN_COOKIE, None),
            ("Max-Age", {}, [cookie(IN_COOKIE, A_WEEK)], IN_COOKIE, IN_A_WEEK),
            ("Expires", {}, [cookie(IN_COOKIE, TILL_TOMORROW)], IN_COOKIE, TOMORROW),
            (
                "Expires with dashes",
                {},
                [cookie(IN_COOKIE, f"expires={TOMORROW:%a, %d-%b-%Y %H:%M:%S} GMT")],
                IN_COOKIE,
                TOMORROW,
            ),
            (
                "Max-Age wins over Expires",
                {},
                [cookie(IN_COOKIE, TILL_TOMORROW, A_WEEK)],
                IN_COOKIE,
                IN_A_WEEK,
            ),
            (
                "Max-Age wins over an Expires that is over",
                {},
                [cookie(IN_COOKIE, GONE, A_WEEK)],
                IN_COOKIE,
                IN_A_WEEK,
            ),
            (
                "a Max-Age that is no number",
                {},
                [cookie(IN_COOKIE, "Max-Age=soon", TILL_TOMORROW)],
                IN_COOKIE,
                TOMORROW,
            ),
            (
                "an Expires that is no date",
                {},
                [cookie(IN_COOKIE, "Expires=soon")],
                IN_COOKIE,
                None,
            ),
            (
                "an end beyond all years",
                {},
                [cookie(IN_COOKIE, "Max-Age=999999999999")],
                IN_COOKIE,
                None,
            ),
            (
                "names in any case, and blanks",
                {},
                [f"SET-COOKIE:  refresh_token = {IN_COOKIE} ;MAX-AGE = 604800 ; httponly"],
                IN_COOKIE,
                IN_A_WEEK,
            ),
            ("in quotes", {}, [cookie(f'"{IN_COOKIE}"', A_WEEK)], IN_COOKIE, IN_A_WEEK),
            ("deleted by Max-Age", {}, [cookie(IN_COOKIE, "Max-Age=0")], None, None),
            ("deleted by a Max-Age below 0", {}, [cookie(IN_COOKIE, "Max-Age=-1")], None, None),
            (
                "deleted by a Max-Age far below 0",
                {},
                [cookie(IN_COOKIE, "Max-Age=-2147483648")],
                None,
                None,
            ),
            ("deleted by Expires", {}, [cookie(IN_COOKIE, GONE)], None, None),
            ("deleted by its value", {}, [cookie("")], None, None),
            ("deleted by a value in quotes", {}, [cookie('""', GONE)], None, None),
            (
                "deleted, and another one in the body",
                {"refresh_token": IN_BODY},
                [cookie("", GONE)],
                IN_BODY,
                None,
            ),
            ("the last of two", {}, [cookie(IN_ANOTHER), cookie(IN_COOKIE)], IN_COOKIE, None),
            ("set, then deleted", {}, [cookie(IN_COOKIE), cookie("", GONE)], None, None),
            ("deleted, then set", {}, [cookie("", GONE), cookie(IN_COOKIE)], IN_COOKIE, None),
            (
                "set for all paths, and deleted for one",
                {},
                [cookie(IN_COOKIE, "Path=/"), cookie("", GONE, "Path=/api/v2/auths")],
                IN_COOKIE,
                None,
            ),
            ("another cookie", {}, [f"Set-Cookie: token={IN_COOKIE}; {A_WEEK}"], None, None),
            ("another name's end", {}, [f"Set-Cookie: xrefresh_token={IN_COOKIE}"], None, None),
            ("for every path", {}, [cookie(IN_COOKIE, "Path=/")], IN_COOKIE, None),
            ("for its path", {}, [cookie(IN_COOKIE, "Path=/api/v2/auths")], IN_COOKIE, None),
            (
                "for the refresh alone",
                {},
                [cookie(IN_COOKIE, "Path=/api/v2/auths/refresh")],
                IN_COOKIE,
                None,
            ),
            ("for a path with a slash", {}, [cookie(IN_COOKIE, "Path=/api/")], IN_COOKIE, None),
            ("without a path's value", {}, [cookie(IN_COOKIE, "Path=")], IN_COOKIE, None),
            ("for another path", {}, [cookie(IN_COOKIE, "Path=/admin")], None, None),
            ("for half a path", {}, [cookie(IN_COOKIE, "Path=/api/v2/aut")], None, None),
            (
                "for another path, after one for this",
                {},
                [cookie(IN_COOKIE, A_WEEK), cookie(IN_ANOTHER, "Path=/api/v1")],
                IN_COOKIE,
                IN_A_WEEK,
            ),
        ]
    ],
)
@BOTH_SESSION_GRANTS
def test_the_credential_that_a_browser_would_send_next_is_granted(
    data: dict[str, object],
    cookies: list[str],
    credential: str | None,
    ends_at: datetime | None,
    grant: Grant,
) -> None:
    got, _ = on_wire(grant, answer(data, *cookies))

    assert isinstance(got, Granted)
    assert got.refresh_token == credential
    if ends_at is None:
        assert got.refresh_token_expires_at is None
    else:
        # All ends are days apart, and were written down when the tests began.
        assert is_near(got.refresh_token_expires_at, ends_at, within=timedelta(hours=1))


@pytest.mark.parametrize(
    ("domain", "is_ours"),
    [
        (".qwen.ai", True),
        ("qwen.ai", True),
        ("Auth.Qwen.AI", True),
        ("", True),
        ("chat.qwen.ai", False),
        ("x.auth.qwen.ai", False),
        ("evil-qwen.ai", False),
        ("wen.ai", False),
        ("example.org", False),
    ],
)
def test_a_cookie_for_another_domain_is_ignored(domain: str, *, is_ours: bool) -> None:
    """No server here has that name, so the answer is handed to the part that reads it."""
    reader = sign_in_host.SignInHost(
        "https://auth.qwen.ai", site="https://chat.qwen.ai", web_version="1", user_agent="x"
    )
    body = json.dumps({"success": True, "data": {"access_token": ACCESS_TOKEN}}).encode()
    headers = (("Set-Cookie", f"refresh_token={IN_COOKIE}; Domain={domain}; Path=/"),)

    granted = reader.read(Reply(200, headers, body, NOW), refusal=SessionRejectedError)

    assert granted.refresh_token == (IN_COOKIE if is_ours else None)


@pytest.mark.parametrize("expires_at", [1, "soon", None, -1, 1e400, 99999999999999])
def test_the_access_tokens_own_expiry_wins_over_the_bodys(expires_at: object) -> None:
    got, _ = on_wire(Grant.REFRESH_TOKEN, answer({"expires_at": expires_at}))
    assert isinstance(got, Granted)
    assert got.issued() == decode_token(ACCESS_TOKEN)


@BOTH_SESSION_GRANTS
@pytest.mark.parametrize(
    "access_token",
    [None, "", 7, "none-of-your-business", "a.b.c", mint({"type": "access_token"})],
    ids=["null", "empty", "a number", "a text", "no JWT", "a JWT without an expiry"],
)
def test_a_credential_without_a_token_is_granted_with_the_fault(
    access_token: object, grant: Grant
) -> None:
    """The one before it may be spent: losing this one, too, would end the login."""
    got, _ = on_wire(grant, answer({"access_token": access_token, "refresh_token": AS_JWT}))

    assert isinstance(got, Granted)
    assert got.refresh_token == AS_JWT
    assert is_near(got.refresh_token_expires_at, IN_A_MONTH)
    with pytest.raises(UpstreamUnexpectedError) as caught:
        got.issued()
    assert shows_none_of(all_said(caught.value) + repr(got), AS_JWT, str(access_token))


@BOTH_SESSION_GRANTS
def test_an_answer_with_neither_token_nor_credential_is_unexpected(grant: Grant) -> None:
    got, _ = on_wire(grant, answer({"access_token": None}))
    assert isinstance(got, UpstreamUnexpectedError)


# --- what fails -----------------------------------------------------------------------------------

# By scenario: what a server says, or does not, whichever grant is asked for.
ANY_SERVER_FAILS: dict[Scenario, type[QwenTokenError]] = {
    either.FORBIDDEN_PAGE: UpstreamBlockedError,
    either.NOT_ALLOWED_PAGE: UpstreamBlockedError,
    either.UNAVAILABLE_PAGE: UpstreamUnavailableError,
    either.BAD_GATEWAY_PAGE: UpstreamUnavailableError,
    either.SERVER_ERROR: UpstreamUnavailableError,
    either.HANGS: UpstreamUnavailableError,
    either.BREAKS_OFF: UpstreamUnavailableError,
    either.UNAUTHORIZED_PAGE: UpstreamUnexpectedError,
    either.WEB_APP_PAGE: UpstreamUnexpectedError,
    either.REDIRECT_ELSEWHERE: UpstreamUnexpectedError,
    either.STRANGE_JSON: UpstreamUnexpectedError,
    either.EMPTY_ANSWER: UpstreamUnexpectedError,
    either.RATE_LIMITED: RateLimitedError,
    either.RATE_LIMITED_RETRY_AFTER: RateLimitedError,
    either.RATE_LIMITED_ENVELOPE: RateLimitedError,
}
# For a refresh; a sign-in differs in what is below.
FAILS: dict[Scenario, type[QwenTokenError]] = {
    scenarios.REFUSES: SessionRejectedError,
    scenarios.REFUSES_AND_DELETES: SessionRejectedError,
    scenarios.ANSWER_LOST: UpstreamUnavailableError,
    # More headers than Python's own HTTP client reads.
    scenarios.COOKIE_FLOOD: UpstreamUnavailableError,
    scenarios.BLOCK_SLIDER: UpstreamBlockedError,
    either.BLOCK_PAGE: UpstreamBlockedError,
    either.BLOCK_REDIRECT: UpstreamBlockedError,
    either.BLOCK_JSON: UpstreamBlockedError,
    **ANY_SERVER_FAILS,
}
# Where a sign-in is answered by a challenge, another one would only make it worse.
A_SIGN_IN_FAILS = {
    scenarios.BLOCK_SLIDER: ChallengedError,
    either.BLOCK_PAGE: ChallengedError,
    either.BLOCK_REDIRECT: ChallengedError,
    either.BLOCK_JSON: ChallengedError,
    scenarios.REFUSES: SignInRefusedError,
    scenarios.REFUSES_AND_DELETES: SignInRefusedError,
}
# These grant something, of which the keeper finds out later what it is worth.
GRANTS = {
    scenarios.ANSWERS,
    scenarios.SHORT_LIVED,
    scenarios.ISSUES_THEN_REFUSES,
    scenarios.ANSWERS_FOR_ANOTHER_ACCOUNT,
    scenarios.ANSWERS_FOR_A_GUEST,
    scenarios.DELETES_CREDENTIAL,
    scenarios.COOKIE_HUGE,
    scenarios.WITHOUT_TOKEN,
    scenarios.STRANGE_TOKEN,
}


def test_every_scenario_of_the_host_is_in_a_table() -> None:
    assert {*FAILS, *GRANTS} == set(SCENARIOS.values())


@pytest.mark.parametrize("scenario", sorted(GRANTS, key=str), ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("rotation", [Rotation.NEVER, Rotation.REUSE_ENDS_LOGIN])
def test_whatever_the_host_grants_its_credential_is_not_lost(
    host: SignInHostStandIn, scenario: Scenario, rotation: Rotation
) -> None:
    host.policy = SessionPolicy(rotation=rotation)
    host.answer_with(scenario)

    granted = obtain(host, Grant.REFRESH_TOKEN)

    if scenario is scenarios.DELETES_CREDENTIAL:
        assert granted.refresh_token is None
    else:
        assert granted.refresh_token == host.current()
    if scenario in (scenarios.WITHOUT_TOKEN, scenarios.STRANGE_TOKEN):
        with pytest.raises(UpstreamUnexpectedError):
            granted.issued()
    else:
        assert granted.issued().is_access_token


@BOTH_SESSION_GRANTS
@pytest.mark.parametrize("scenario", FAILS, ids=lambda scenario: scenario.name)
def test_a_failed_grant_has_its_class_is_sent_once_and_shows_no_secret(
    host: SignInHostStandIn,
    grant: Grant,
    scenario: Scenario,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever comes, or does not: a second request might be the second use of the credential."""
    caplog.set_level(logging.DEBUG)
    kind = FAILS[scenario]
    if grant is Grant.PASSWORD:
        kind = A_SIGN_IN_FAILS.get(scenario, kind)
    host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)
    # A second request would be answered well.
    host.answer_with(scenario, scenarios.ANSWERS)
    credential = host.log_in()

    with pytest.raises(QwenTokenError) as caught:
        obtain(host, grant, credential, within=BRIEF)

    assert type(caught.value) is kind
    assert len(host.requests) == 1
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    said = all_said(caught.value) + caplog.text
    assert shows_none_of(said, credential, PASSWORD, digest, EMAIL)
    assert host.sign_outs == host.qwen.sign_outs == 0


@pytest.mark.parametrize("style", FailureStyle)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda host, _: host.revoke(), id="the password was changed"),
        pytest.param(lambda host, credential: host.end_login(credential), id="it was logged out"),
    ],
)
def test_a_dead_credential_is_rejected_in_every_style(
    host: SignInHostStandIn, style: FailureStyle, spoil: Callable[[SignInHostStandIn, str], None]
) -> None:
    host.policy = SessionPolicy(failure_style=style)
    credential = host.log_in()
    spoil(host, credential)
    with pytest.raises(SessionRejectedError):
        obtain(host, Grant.REFRESH_TOKEN, credential)
    with pytest.raises(SessionRejectedError):
        obtain(host, Grant.REFRESH_TOKEN, "a-credential-that-nobody-knows")
    with pytest.raises(SessionRejectedError):
        obtain(host, Grant.REFRESH_TOKEN, host.log_in(lifetime=-DAY))


@pytest.mark.parametrize("style", FailureStyle)
def test_a_wrong_password_is_refused_in_every_style(
    host: SignInHostStandIn, style: FailureStyle
) -> None:
    host.policy = SessionPolicy(failure_style=style)
    host.set_password(EMAIL, "another password by now")
    with pytest.raises(SignInRefusedError) as caught:
        obtain(host, Grant.PASSWORD)
    assert host.sign_in_attempts == 1
    assert shows_none_of(all_said(caught.value), PASSWORD, EMAIL)


def test_the_challenge_after_too_many_sign_ins_is_a_refusal(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(sign_ins_before_challenge=0)
    with pytest.raises(SignInRefusedError, match="challenge"):
        obtain(host, Grant.PASSWORD)


@BOTH_SESSION_GRANTS
def test_a_version_that_the_host_no_longer_takes_names_the_parameter(
    host: SignInHostStandIn, grant: Grant
) -> None:
    host.policy = SessionPolicy(web_version="0.4.0")
    with pytest.raises(ConfigError, match="WebVersion"):
        obtain(host, grant)

    require_access_token(obtain(host, grant, web_version="0.4.0"), host)


@BOTH_SESSION_GRANTS
def test_an_answer_for_a_guest_is_for_the_wrong_account(grant: Grant) -> None:
    got, _ = on_wire(grant, answer({"role": "guest", "refresh_token": AS_JWT}))
    assert isinstance(got, WrongAccountError)


@BOTH_SESSION_GRANTS
@pytest.mark.parametrize(
    "document",
    [
        {"data": {"access_token": ACCESS_TOKEN}},
        {"success": True},
        {"success": 1, "data": {"access_token": ACCESS_TOKEN}},
        {"success": True, "data": [ACCESS_TOKEN]},
        {"success": True, "data": None},
        {"access_token": ACCESS_TOKEN},
    ],
    ids=["no success", "no data", "a success of 1", "a list", "a null", "no envelope"],
)
def test_a_token_outside_of_the_envelope_is_unexpected(
    document: dict[str, object], grant: Grant
) -> None:
    got, _ = on_wire(grant, reply("200 OK", json.dumps(document).encode()))
    assert isinstance(got, UpstreamUnexpectedError)


def envelope(code: str, details: str = "…") -> bytes:
    failure = {"success": False, "request_id": "r", "data": {"code": code, "details": details}}
    return json.dumps(failure).encode()


ALB_PAGE = b"<html><h1>502 Bad Gateway</h1><hr><center>alb</center></html>"


@pytest.mark.parametrize(
    ("script", "refresh", "sign_in"),
    [
        pytest.param(script, refresh, sign_in, id=name)
        for name, script, refresh, sign_in in [
            (
                "a 401 in JSON",
                reply("401 No", envelope("Unauthorized")),
                SessionRejectedError,
                SignInRefusedError,
            ),
            (
                "a 403, forbidden",
                reply("403 No", envelope("forbidden")),
                SessionRejectedError,
                SignInRefusedError,
            ),
            (
                "a 403, invalid token",
                reply("403 No", envelope("Invalid token")),
                SessionRejectedError,
                SignInRefusedError,
            ),
            (
                "a 200, unauthorized",
                reply("200 OK", envelope("unauthorized")),
                SessionRejectedError,
                SignInRefusedError,
            ),
            (
                "a 200, forbidden",
                reply("200 OK", envelope("Forbidden")),
                SessionRejectedError,
                SignInRefusedError,
            ),
            (
                "a 401 of a gateway",
                reply("401 No", b"<html>"),
                UpstreamUnexpectedError,
                UpstreamUnexpectedError,
            ),
            (
                "a 403 of a gateway",
                reply("403 No", b"<html>"),
                UpstreamBlockedError,
                UpstreamBlockedError,
            ),
            (
                "a 502 of the load balancer",
                reply("502 Bad Gateway", ALB_PAGE),
                UpstreamUnavailableError,
                UpstreamUnavailableError,
            ),
            (
                "a challenge with x5secdata",
                reply("200 OK", b"<script>location='/?x5secdata=1'</script>"),
                UpstreamBlockedError,
                ChallengedError,
            ),
            (
                "a request header that is missing",
                reply("400 No", envelope("Bad_Request", "Invalid request header")),
                ConfigError,
                ConfigError,
            ),
            (
                "the same, in a 200",
                reply("200 OK", envelope("", "Invalid request header")),
                ConfigError,
                ConfigError,
            ),
            (
                "a 429 with a Retry-After",
                reply("429 No", b"", "Retry-After: 1"),
                RateLimitedError,
                RateLimitedError,
            ),
            (
                "a 503 with a Retry-After",
                reply("503 No", b"", "Retry-After: 1"),
                UpstreamUnavailableError,
                UpstreamUnavailableError,
            ),
            (
                "a 413 with a Retry-After",
                reply("413 No", b"", "Retry-After: 1"),
                UpstreamUnexpectedError,
                UpstreamUnexpectedError,
            ),
            ("a 504", reply("504 No", b""), UpstreamUnavailableError, UpstreamUnavailableError),
            ("no HTTP", raw(b"220 ready\r\n"), UpstreamUnavailableError, UpstreamUnavailableError),
            (
                "half an answer",
                raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
                UpstreamUnavailableError,
                UpstreamUnavailableError,
            ),
            (
                "a body without an end",
                flood(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b" " * 65_536),
                UpstreamUnexpectedError,
                UpstreamUnexpectedError,
            ),
            (
                "a header of 100 kB",
                answer({}, f"Set-Cookie: refresh_token={'x' * 100_000}"),
                UpstreamUnavailableError,
                UpstreamUnavailableError,
            ),
            (
                "deep nesting",
                reply("200 OK", b'{"success": true, "data": ' + b"[" * 100_000),
                UpstreamUnexpectedError,
                UpstreamUnexpectedError,
            ),
        ]
    ],
)
@BOTH_SESSION_GRANTS
def test_each_failure_that_is_known_has_its_class_and_is_not_tried_again(
    script: Script,
    refresh: type[QwenTokenError],
    sign_in: type[QwenTokenError],
    grant: Grant,
) -> None:
    got, requests = on_wire(grant, script, answer())

    assert type(got) is (refresh if grant is Grant.REFRESH_TOKEN else sign_in)
    assert isinstance(got, QwenTokenError)
    assert len(requests) == 1
    assert shows_none_of(all_said(got), CREDENTIAL, PASSWORD, ACCESS_TOKEN)


@pytest.mark.parametrize("size", [16_384, 16_385, 60_000])
def test_a_credential_too_long_for_a_header_is_ignored(size: int) -> None:
    got, _ = on_wire(Grant.REFRESH_TOKEN, answer({}, cookie("x" * size, A_WEEK)))
    assert isinstance(got, Granted)
    assert got.refresh_token == ("x" * size if size == 16_384 else None)


@BOTH_SESSION_GRANTS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, grant: Grant) -> None:
    with wire(answer()) as elsewhere:
        location = f"Location: {elsewhere.base_url}/api/v2/auths/refresh"
        got, requests = on_wire(grant, reply(f"{status} Moved", b"", location))
        assert elsewhere.requests == []
    assert isinstance(got, UpstreamUnexpectedError)
    assert len(requests) == 1


@BOTH_SESSION_GRANTS
def test_a_host_that_cannot_be_reached_is_unavailable(grant: Grant) -> None:
    source = Hosts(auth_base_url="http://127.0.0.1:1").source(grant)
    with pytest.raises(UpstreamUnavailableError):
        source.obtain(login(), within=timedelta(seconds=1.4))


# --- at an Open WebUI -----------------------------------------------------------------------------

AN_OPEN_WEBUI_FAILS: dict[Scenario, type[QwenTokenError]] = {
    either.SIGN_IN_OFF: SignInRefusedError,
    either.TOKEN_DEAD: SignInRefusedError,
    either.TOKEN_DEAD_ENVELOPE: SignInRefusedError,
    either.BLOCK_PAGE: ChallengedError,
    either.BLOCK_REDIRECT: ChallengedError,
    either.BLOCK_JSON: ChallengedError,
    **ANY_SERVER_FAILS,
}


def open_webui(qwen: QwenStandIn, *, within: timedelta = BRIEF) -> Granted:
    source = Hosts(api_base_url=qwen.base_url, auth_base_url="").source(Grant.PASSWORD)
    return source.obtain(login(), within=within)


@pytest.mark.parametrize("scenario", AN_OPEN_WEBUI_FAILS, ids=lambda scenario: scenario.name)
def test_a_sign_in_that_fails_at_an_open_webui_has_its_class_and_is_sent_once(
    qwen: QwenStandIn, scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    qwen.set_password(EMAIL, PASSWORD)
    qwen.answer_sign_ins_with(scenario, either.SIGNS_IN)

    with pytest.raises(QwenTokenError) as caught:
        open_webui(qwen)

    assert type(caught.value) is AN_OPEN_WEBUI_FAILS[scenario]
    assert len(qwen.requests) == 1
    assert shows_none_of(all_said(caught.value) + caplog.text, PASSWORD, EMAIL)


def test_a_wrong_password_and_too_many_attempts_at_an_open_webui(qwen: QwenStandIn) -> None:
    qwen.set_password(EMAIL, "another password by now")
    qwen.sign_ins_allowed = 1
    with pytest.raises(SignInRefusedError):
        open_webui(qwen)
    with pytest.raises(RateLimitedError):
        open_webui(qwen)


def test_a_guest_at_an_open_webui_is_the_wrong_account(qwen: QwenStandIn) -> None:
    qwen.set_password(EMAIL, PASSWORD, either.GUEST_ACCOUNT)
    with pytest.raises(WrongAccountError):
        open_webui(qwen)


def test_a_token_without_an_expiry_is_not_one_to_keep(qwen: QwenStandIn) -> None:
    held = decode_token(qwen.mint())
    qwen.answer_sign_ins_with(
        replace(
            either.SIGNS_IN,
            answer=lambda stand_in, request: stand_in.recognise(
                replace(request, raw=held.raw), token=mint({"id": ACCOUNT})
            ),
        )
    )
    with pytest.raises(UpstreamUnexpectedError):
        open_webui(qwen)


# --- what cannot be spent -------------------------------------------------------------------------


def test_what_the_login_does_not_have_is_not_asked_for(host: SignInHostStandIn) -> None:
    nothing = Login(None, Session())
    with pytest.raises(SessionMalformedError):
        hosts(host).source(Grant.REFRESH_TOKEN).obtain(nothing, within=AMPLE)
    with pytest.raises(SessionMalformedError):
        hosts(host).source(Grant.PASSWORD).obtain(nothing, within=AMPLE)
    with pytest.raises(TokenMissingError):
        hosts(host).source(Grant.EXCHANGE).obtain(nothing, within=AMPLE)
    assert host.requests == []
    assert host.qwen.requests == []


def test_an_access_token_is_never_exchanged(host: SignInHostStandIn) -> None:
    held = decode_token(host.qwen.issue_access_token())
    with pytest.raises(TokenMissingError):
        hosts(host).source(Grant.EXCHANGE).obtain(Login(held, Session()), within=AMPLE)
    assert host.qwen.requests == []


def test_an_open_webui_takes_no_refresh_credential(qwen: QwenStandIn) -> None:
    with pytest.raises(SessionMalformedError, match="Open WebUI"):
        Hosts(api_base_url=qwen.base_url, auth_base_url="").source(Grant.REFRESH_TOKEN)


def test_a_dead_token_is_not_exchanged(qwen: QwenStandIn) -> None:
    held = decode_token(qwen.mint())
    qwen.revoke()
    with pytest.raises(TokenRejectedError):
        Hosts(api_base_url=qwen.base_url).source(Grant.EXCHANGE).obtain(
            login(held=held), within=BRIEF
        )


def test_nothing_that_is_granted_is_shown(host: SignInHostStandIn) -> None:
    granted = obtain(host, Grant.REFRESH_TOKEN)
    assert granted.refresh_token is not None
    assert shows_none_of(repr(granted), granted.refresh_token, granted.issued().raw)
    assert shows_none_of(repr(login(granted.refresh_token)), granted.refresh_token, PASSWORD, EMAIL)


def test_the_version_and_the_hosts_are_those_of_the_web_client() -> None:
    assert Hosts() == Hosts(
        api_base_url="https://chat.qwen.ai",
        auth_base_url="https://auth.qwen.ai",
        web_version=WEB_VERSION,
        user_agent=USER_AGENT,
    )
    assert issubclass(UpstreamBlockedError, UpstreamError)
