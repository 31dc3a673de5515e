"""The client for programs that hold a token themselves, against the stand-in of the API."""

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from localcloud import qwen as scenarios
from localcloud.qwen import ACCOUNT, QwenStandIn, Reply, Request, Scenario
from localcloud.sign_in_host import Rotation, SessionPolicy, SignInHostStandIn
from localcloud.waiting import wait_until
from qwen_token import (
    ConfigError,
    QwenClient,
    QwenTokenError,
    Session,
    SignInRefusedError,
    TokenMalformedError,
    TokenNotExtendedError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from tests.minting import all_said, pieces
from tests.wire import BRIEF, reply, wire

DAY = timedelta(days=1)


def client(qwen: QwenStandIn, raw: str) -> QwenClient:
    return QwenClient(auth_token=raw, base_url=qwen.base_url, timeout=BRIEF)


def page(*ids: object) -> bytes:
    return json.dumps({"success": True, "data": [{"id": each} for each in ids]}).encode()


def test_a_token_tells_its_user_and_its_life_and_nobody_is_asked(qwen: QwenStandIn) -> None:
    issued = datetime(2026, 11, 20, tzinfo=UTC)
    info = client(qwen, qwen.mint(lifetime=2 * DAY, iat=issued.timestamp())).decode_token()

    assert info.user_id == ACCOUNT
    assert info.issued_at == issued
    assert abs(info.expires_at - datetime.now(UTC) - 2 * DAY) < timedelta(minutes=1)
    assert info.days_remaining == pytest.approx(2, abs=0.01)
    assert qwen.requests == []


def test_a_token_that_has_expired_has_less_than_no_days_left(qwen: QwenStandIn) -> None:
    info = client(qwen, qwen.mint(lifetime=-DAY)).decode_token()
    assert info.issued_at is None
    assert info.days_remaining == pytest.approx(-1, abs=0.01)


def test_the_api_is_asked_for_the_account_and_its_new_token_is_not_shown(
    qwen: QwenStandIn,
) -> None:
    qwen.answer_with(scenarios.ECHOES)
    raw = qwen.mint()
    info = client(qwen, raw).get_token_info()

    assert (info["id"], info["email"], info["role"]) == (ACCOUNT, "owner@example.com", "user")
    assert not pieces(raw) & pieces(str(info))


@pytest.mark.parametrize("pasted", ["{raw}", "Bearer {raw}\n", "token={raw}; a=b"])
def test_a_refresh_returns_a_token_that_was_verified_and_is_used_from_then_on(
    qwen: QwenStandIn, pasted: str
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    ours = client(qwen, pasted.format(raw=raw))
    successor = ours.refresh_token()
    ours.list_chats()

    assert [request.raw for request in qwen.requests] == [raw, successor, successor]
    assert ours.decode_token().days_remaining == pytest.approx(7, abs=0.01)


@pytest.mark.parametrize(
    ("scenario", "kind"),
    [
        (scenarios.ECHOES, TokenNotExtendedError),
        (scenarios.MINTS_SHORT_LIVED, TokenNotExtendedError),
        (scenarios.MINTS_FOR_ANOTHER_ACCOUNT, WrongAccountError),
        (scenarios.SEES_A_GUEST, WrongAccountError),
        (scenarios.TOKEN_DEAD, TokenRejectedError),
        (scenarios.ISSUES_THEN_REFUSES, UpstreamUnexpectedError),
        (scenarios.STRANGE_TOKEN, UpstreamUnexpectedError),
        (scenarios.BLOCK_PAGE, UpstreamBlockedError),
        (scenarios.HANGS, UpstreamUnavailableError),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else value.__name__,
)
def test_after_a_failed_refresh_the_client_keeps_its_token(
    qwen: QwenStandIn, scenario: Scenario, kind: type[QwenTokenError]
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    ours = client(qwen, raw)
    before = ours.decode_token().expires_at
    qwen.answer_with(scenario)
    with pytest.raises(QwenTokenError) as caught:
        ours.refresh_token()

    assert type(caught.value) is kind
    assert not pieces(raw) & pieces(all_said(caught.value))
    assert ours.decode_token().expires_at == before
    ours.list_chats()
    assert qwen.requests[-1].raw == raw


def test_threads_that_refresh_at_once_get_the_token_of_one_refresh(qwen: QwenStandIn) -> None:
    def waiting() -> list[str]:
        innermost = [frame.f_code.co_name for frame in sys._current_frames().values()]
        # The name has more to it where the client is a mutant.
        return [name for name in innermost if "refresh_token" in name]

    def answer(qwen: QwenStandIn, request: Request) -> Reply:
        wait_until(
            lambda: len(waiting()) == 7,
            within=timedelta(seconds=10),
            expected="seven threads that wait for the eighth",
            seen=lambda: str(threading.enumerate()),
        )
        return qwen.renew(request, qwen.lifetime)

    raw = qwen.mint(lifetime=2 * DAY)
    qwen.answer_with(Scenario("waits", "waits for the others", answer), scenarios.ECHOES)
    ours = QwenClient(auth_token=raw, base_url=qwen.base_url)
    with ThreadPoolExecutor(8) as pool:
        [successor] = set(pool.map(lambda _: ours.refresh_token(), range(8)))

    assert [request.raw for request in qwen.requests] == [raw, successor]


def test_the_users_status_is_what_the_api_says_of_it(qwen: QwenStandIn) -> None:
    assert client(qwen, qwen.mint()).get_user_status() is True


@pytest.mark.parametrize("count", [0, 1, 50, 120])
def test_all_pages_of_chats_are_read_in_their_order(qwen: QwenStandIn, count: int) -> None:
    titles = [f"Chat {number}" for number in range(count)]
    qwen.chats[ACCOUNT] = titles
    raw = qwen.mint()

    assert [chat["title"] for chat in client(qwen, raw).list_chats()] == titles
    pages = -(-count // 50)
    assert [request.path for request in qwen.requests] == [
        f"/api/v2/chats/?page={number}" for number in range(1, pages + 2)
    ]
    assert {request.raw for request in qwen.requests} == {raw}


def test_a_chat_that_moves_while_the_pages_are_read_is_listed_once(qwen: QwenStandIn) -> None:
    with wire(*(reply("200 OK", page(*ids)) for ids in (["a", "b"], ["b", "c"], []))) as server:
        ours = QwenClient(auth_token=qwen.mint(), base_url=server.base_url)
        assert [chat["id"] for chat in ours.list_chats()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        pytest.param(
            [page("a"), page("a")],
            "page 2 .* on a page before: the API does not page as it did$",
            id="a page twice",
        ),
        pytest.param([page(7)], "page 1 .* 'id'", id="an id that is no text"),
        pytest.param([b'{"success": true, "data": ["a"]}'], "page 1 .* 'id'", id="no objects"),
        pytest.param([b'{"success": true, "data": {"a": {}}}'], "page 1 .* list", id="no list"),
        pytest.param([b'{"success": true}'], "no envelope", id="no data"),
        pytest.param([b'{"data": []}'], "no envelope", id="no success"),
        pytest.param([b"[]"], "unknown answer", id="no envelope"),
        pytest.param([page("a"), b"<html>"], "a page", id="the web app"),
    ],
)
def test_chats_that_are_none_are_no_answer(
    qwen: QwenStandIn, pages: list[bytes], said: str
) -> None:
    with wire(*(reply("200 OK", body) for body in pages)) as server:
        ours = QwenClient(auth_token=qwen.mint(), base_url=server.base_url, timeout=BRIEF)
        with pytest.raises(UpstreamUnexpectedError, match=said):
            ours.list_chats()
    assert len(server.requests) == len(pages)


def test_a_dead_token_lists_nothing_and_says_so(qwen: QwenStandIn) -> None:
    raw = qwen.mint()
    qwen.revoke()
    for call in (client(qwen, raw).list_chats, client(qwen, raw).get_token_info):
        with pytest.raises(TokenRejectedError):
            call()


def test_what_is_no_token_is_refused_at_once(qwen: QwenStandIn) -> None:
    with pytest.raises(TokenMalformedError):
        client(qwen, "not-a-token")


def test_a_token_is_not_sent_in_the_open(qwen: QwenStandIn) -> None:
    with pytest.raises(ConfigError, match="https"):
        QwenClient(auth_token=qwen.mint(), base_url="http://chat.qwen.ai")


def test_a_client_shown_shows_no_token(qwen: QwenStandIn) -> None:
    raw = qwen.mint()
    ours = client(qwen, raw)
    assert repr(ours) == f"QwenClient({qwen.base_url}, token=[redacted])"
    assert not pieces(raw) & pieces(repr(ours) + repr(ours.decode_token()))


# With a session

EMAIL, PASSWORD = "owner@example.com", "correct horse battery staple"


@pytest.fixture(name="host")
def _host(qwen: QwenStandIn) -> Iterator[SignInHostStandIn]:
    policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)
    with SignInHostStandIn(qwen, policy) as host:
        host.set_password(EMAIL, PASSWORD)
        yield host


def with_session(
    host: SignInHostStandIn, session: Session | None = None, raw: str | None = None
) -> QwenClient:
    return QwenClient(
        raw,
        session=session or Session(refresh_token=host.log_in()),
        base_url=host.qwen.base_url,
        auth_base_url=host.base_url,
        timeout=BRIEF,
    )


def credential_of(ours: QwenClient) -> str:
    assert ours.session is not None
    assert ours.session.refresh_token is not None
    return ours.session.refresh_token


@pytest.mark.parametrize("rotation", Rotation)
def test_a_session_gets_a_token_and_its_new_state_can_be_stored(
    host: SignInHostStandIn, rotation: Rotation
) -> None:
    host.policy = SessionPolicy(rotation=rotation)
    given = host.log_in()
    ours = with_session(host, Session(refresh_token=given))
    for _ in range(3):
        host.answer_with(longer())
        token = ours.refresh_token()
        assert ours.decode_token().user_id == ACCOUNT
        assert host.qwen.accepts(token)
        # What the caller saves, the next client goes on with.
        assert ours.session is not None
        assert ours.session.account == ACCOUNT
        assert ours.session.expires_at is not None
        ours = with_session(host, ours.session, token)
    assert (credential_of(ours) == given) is (rotation is Rotation.NEVER)
    assert set(host.spent.values()) == ({3} if rotation is Rotation.NEVER else {1})


_LIVES: Iterator[int] = iter(range(900, 10_000, 60))


def longer() -> Scenario:
    """Return a host each of whose tokens expires later than the one before."""
    lifetime = timedelta(seconds=next(_LIVES))
    return Scenario(
        "longer", "", lambda host, request: host.answer(request, access_lifetime=lifetime)
    )


def test_with_a_session_alone_the_first_use_gets_one_token_for_all_threads(
    host: SignInHostStandIn,
) -> None:
    ours = with_session(host)
    with ThreadPoolExecutor(4) as pool:
        infos = list(pool.map(lambda _: ours.get_token_info()["id"], range(8)))
    assert infos == [ACCOUNT] * 8
    assert list(host.spent.values()) == [1]
    assert ours.list_chats() == []
    assert len(host.requests) == 1


def test_after_a_failure_the_changed_credential_is_there_nevertheless(
    host: SignInHostStandIn,
) -> None:
    raw = host.qwen.mint()
    ours = with_session(host, raw=raw)
    before = credential_of(ours)
    host.qwen.answer_with(scenarios.BLOCK_PAGE)
    with pytest.raises(UpstreamBlockedError):
        ours.refresh_token()
    assert credential_of(ours) == host.current() != before
    host.qwen.answer_with(scenarios.MINTS)
    assert ours.decode_token().days_remaining > 1
    assert host.qwen.accepts(ours.refresh_token())
    assert list(host.spent.values()) == [1, 1]


def test_a_dead_session_gives_way_to_the_token_and_that_to_a_sign_in(
    host: SignInHostStandIn,
) -> None:
    raw = host.qwen.mint(lifetime=DAY)
    dead = host.log_in()
    host.end_login(dead)
    both = Session(refresh_token=dead, email=EMAIL, password=PASSWORD)
    ours = with_session(host, both, raw)
    assert ours.refresh_token() != raw
    assert host.sign_in_attempts == 0
    host.qwen.answer_with(scenarios.ECHOES)
    ours.refresh_token()
    assert credential_of(ours) == host.current()
    assert [request.grant for request in host.requests] == ["refresh_token", "password"]


def test_a_refused_password_is_not_tried_again(host: SignInHostStandIn) -> None:
    ours = with_session(host, Session(email=EMAIL, password="a wrong one"))
    for _ in range(3):
        with pytest.raises(SignInRefusedError) as caught:
            ours.refresh_token()
        assert "a wrong one" not in all_said(caught.value)
    assert host.sign_in_attempts == 1


def test_a_session_of_another_account_is_not_used(host: SignInHostStandIn) -> None:
    session = Session(refresh_token=host.log_in(), account="somebody-else")
    with pytest.raises(WrongAccountError):
        with_session(host, session).refresh_token()


def test_a_client_shown_shows_no_session(host: SignInHostStandIn) -> None:
    session = Session(refresh_token=host.log_in(), email=EMAIL, password=PASSWORD)
    ours = with_session(host, session)
    token = ours.refresh_token()
    shown = repr(ours) + repr(vars(ours)) + repr(vars(ours._login))
    for secret in (token, credential_of(ours), PASSWORD):
        assert not pieces(secret) & pieces(shown)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "auth_token or session"),
        ({"session": Session()}, "auth_token or session"),
        ({"session": Session(email=EMAIL, password=PASSWORD)}, "auth_base_url should be given"),
    ],
    ids=["nothing", "an empty session", "a server of one's own"],
)
def test_a_client_without_what_it_needs_is_refused(
    qwen: QwenStandIn, options: dict[str, Session], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        QwenClient(session=options.get("session"), base_url=qwen.base_url)
