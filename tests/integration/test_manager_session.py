"""The manager with a session, without AWS: against the stand-ins of both hosts."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest

from localcloud import sign_in_host as scenarios
from localcloud.qwen import ACCOUNT, ANOTHER_ACCOUNT, BLOCK_PAGE, ECHOES, SERVER_ERROR, QwenStandIn
from localcloud.serving import Reply, Scenario
from localcloud.sign_in_host import (
    CredentialForm,
    Delivery,
    Rotation,
    SessionPolicy,
    SignInHostStandIn,
    SignInRequest,
)
from qwen_token import (
    ConfigError,
    FileStore,
    MemoryStore,
    QwenTokenError,
    Session,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
    StoreError,
    TokenManager,
    TokenRejectedError,
    TokenStore,
    UpstreamUnavailableError,
    WrongAccountError,
    decode_token,
)
from tests.fake_time import Time
from tests.minting import all_said, pieces
from tests.programs import run_program, start_program

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
SOON: Final = 30.0
EMAIL, PASSWORD = "owner@example.com", "correct horse battery staple"
SIGN_IN: Final = Session(email=EMAIL, password=PASSWORD)
ROTATIONS: Final = [
    pytest.param(SessionPolicy(rotation=rotation, credential_form=form), id=f"{rotation}-{form}")
    for rotation in Rotation
    for form in CredentialForm
]


@pytest.fixture(name="time")
def _time() -> Iterator[Time]:
    with Time() as time:
        yield time


@pytest.fixture(name="host")
def _host(qwen: QwenStandIn) -> Iterator[SignInHostStandIn]:
    policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)
    with SignInHostStandIn(qwen, policy) as host:
        host.set_password(EMAIL, PASSWORD)
        yield host


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "token"


def managed(
    host: SignInHostStandIn, session: Session | None = None, **options: Any
) -> TokenManager:
    return TokenManager(
        session=session or Session(refresh_token=host.log_in()),
        base_url=host.qwen.base_url,
        auth_base_url=host.base_url,
        **options,
    )


@contextmanager
def managing(host: SignInHostStandIn, time: Time, **options: Any) -> Iterator[TokenManager]:
    """Return a manager for which time passes when ``time`` is told so."""
    manager = managed(host, clock=time.clock, elapsed=time.elapsed, wait=time.wait, **options)
    with manager:
        try:
            yield manager
        finally:
            time.__exit__()


def issuing(time: Time, lifetime: timedelta = timedelta(seconds=900)) -> Scenario:
    """Return a host that issues access tokens by the test's clock."""

    def answer(host: SignInHostStandIn, request: SignInRequest) -> Reply:
        return host.answer(request, access_lifetime=time.clock() - datetime.now(UTC) + lifetime)

    return Scenario("issues", "issues by the clock of the test", answer)


def stored(path: Path) -> dict[str, Any]:
    """Return the file that the session is kept in."""
    document: dict[str, Any] = json.loads(path.with_name("token.session").read_text())
    return document


# The first token, and the next


@pytest.mark.parametrize("policy", ROTATIONS)
def test_a_session_alone_gives_one_token_after_another(
    host: SignInHostStandIn, path: Path, policy: SessionPolicy
) -> None:
    host.policy = policy
    manager = managed(host, store=FileStore(path))
    first = manager.token
    assert (manager.info.user_id, manager.token) == (ACCOUNT, first)
    assert path.read_text() == first

    # As another process would, later: the program still gives the credential of the beginning.
    for _ in range(3):
        path.unlink()
        manager = managed(host, Session(refresh_token=_first_of(host)), store=FileStore(path))
        assert host.qwen.accepts(manager.token)
    assert set(host.spent.values()) == ({4} if policy.rotation is Rotation.NEVER else {1})
    assert host.serial_of(stored(path)["refresh_token"]) == len(host._credentials)


def _first_of(host: SignInHostStandIn) -> str:
    return next(iter(host._credentials))


@pytest.mark.parametrize("delivery", Delivery)
def test_however_the_credential_comes_back_it_is_kept(
    host: SignInHostStandIn, path: Path, delivery: Delivery
) -> None:
    host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN, delivery=delivery)
    credential = host.log_in()
    for _ in range(3):
        assert managed(host, Session(refresh_token=credential), store=FileStore(path)).token
        path.unlink()
    assert not any(login.ended for login in host._logins)


def test_a_sign_in_alone_gives_a_token_and_the_credential_of_the_next(
    host: SignInHostStandIn, path: Path
) -> None:
    manager = managed(host, SIGN_IN, store=FileStore(path))
    assert host.qwen.accepts(manager.token)
    path.unlink()
    assert host.qwen.accepts(managed(host, SIGN_IN, store=FileStore(path)).token)
    assert host.sign_in_attempts == 1
    assert [request.grant for request in host.requests] == ["password", "refresh_token"]
    assert (stored(path)["email"], stored(path)["account"]) == (EMAIL, ACCOUNT)


def test_an_open_webui_server_signs_in_itself(qwen: QwenStandIn) -> None:
    qwen.set_password(EMAIL, PASSWORD)
    manager = TokenManager(session=SIGN_IN, base_url=qwen.base_url, auth_base_url="")
    qwen.answer_with(ECHOES)
    assert manager.info.days_remaining == pytest.approx(7, abs=0.01)


def test_a_token_of_the_first_kind_gives_way_to_the_sessions(host: SignInHostStandIn) -> None:
    raw = host.qwen.mint(lifetime=30 * DAY)
    manager = managed(host, store=MemoryStore(raw))
    assert manager.token == raw
    successor = manager.refresh()
    assert decode_token(successor).is_access_token
    assert manager.token == successor


def test_where_the_session_is_dead_the_token_is_its_own_login(host: SignInHostStandIn) -> None:
    credential = host.log_in()
    host.end_login(credential)
    raw = host.qwen.mint(lifetime=2 * DAY)
    manager = managed(host, Session(refresh_token=credential), store=MemoryStore(raw))
    assert manager.refresh() == manager.token != raw
    assert manager.info.days_remaining == pytest.approx(7, abs=0.01)


def test_a_json_document_keeps_its_other_keys_beside_an_access_token(
    host: SignInHostStandIn, path: Path
) -> None:
    path.write_text(json.dumps({"token": host.qwen.mint(lifetime=DAY), "note": "ours"}))
    successor = managed(host, store=FileStore(path)).refresh()
    document = json.loads(path.read_text())
    assert (document["token"], document["note"]) == (successor, "ours")


# Tokens of minutes


@pytest.mark.parametrize("names_account", [True, False])
def test_a_token_of_fifteen_minutes_is_replaced_every_ten(
    host: SignInHostStandIn, time: Time, *, names_account: bool
) -> None:
    # The claim would be of the host's own clock, which does not follow the test's.
    host.policy = SessionPolicy(
        rotation=Rotation.REUSE_ENDS_LOGIN, has_iat=False, names_account=names_account
    )
    host.answer_with(issuing(time))
    began = time.clock()
    heard: list[float] = []
    with managing(host, time) as manager:
        manager.on("refresh", lambda _: heard.append((time.clock() - began) / MINUTE))
        manager.start_auto_refresh(check_interval_hours=24)
        time.passes(HOUR)
        assert manager.token
    assert heard == [pytest.approx(9.5 * turn, abs=0.1) for turn in range(1, 7)]
    assert set(host.spent.values()) == {1}


@pytest.mark.parametrize("has_iat", [True, False])
def test_an_access_token_is_due_with_a_third_of_its_life_left(
    host: SignInHostStandIn, time: Time, *, has_iat: bool
) -> None:
    raw = host.qwen.issue_access_token(has_iat=has_iat)
    with managing(host, time, auth_token=raw) as manager:
        assert not manager.needs_refresh()
        time.takes(timedelta(minutes=9))
        assert not manager.needs_refresh()
        time.takes(MINUTE)
        assert manager.needs_refresh()
        assert manager.token == raw


def test_an_expired_token_is_replaced_when_it_is_asked_for(
    host: SignInHostStandIn, time: Time
) -> None:
    host.answer_with(issuing(time))
    with managing(host, time) as manager:
        first = manager.token
        time.takes(timedelta(minutes=14))
        assert manager.token == first
        time.takes(timedelta(minutes=2))
        second = manager.token
        assert second != first
        assert manager.token == second
    assert list(host.spent.values()) == [1, 1]


def test_reads_while_the_host_is_down_call_it_once_a_minute(
    host: SignInHostStandIn, time: Time
) -> None:
    host.answer_with(SERVER_ERROR)
    with managing(host, time) as manager:
        for _ in range(5):
            with pytest.raises(UpstreamUnavailableError):
                _ = manager.token
        asked = len(host.requests)
        time.takes(MINUTE)
        host.answer_with(scenarios.ANSWERS)
        assert manager.token
        assert len(host.requests) == asked + 1


@pytest.mark.parametrize("ahead", [10 * MINUTE, -10 * MINUTE, 20 * MINUTE], ids=str)
def test_by_a_clock_that_is_wrong_the_session_is_not_spent_again_and_again(
    host: SignInHostStandIn, time: Time, ahead: timedelta
) -> None:
    host.answer_with(issuing(time, timedelta(seconds=900) - ahead))
    with managing(host, time) as manager:
        manager.start_auto_refresh()
        time.passes(HOUR)
        assert manager.info.user_id == ACCOUNT
    assert 2 <= len(host.requests) <= (24 if ahead > timedelta(0) else 7)
    assert set(host.spent.values()) == {1}


@pytest.mark.parametrize("wrong_by", [-5 * HOUR, -12 * MINUTE, 12 * MINUTE, 5 * HOUR], ids=str)
def test_a_corrected_clock_is_noticed_before_the_access_token_expires(
    host: SignInHostStandIn, time: Time, wrong_by: timedelta
) -> None:
    # The host's clock is right all the time, and ours was wrong until now.
    off_by = [wrong_by]
    time.sets(wrong_by)

    def answer(host: SignInHostStandIn, request: SignInRequest) -> Reply:
        right = time.clock() - off_by[0]
        life = right - datetime.now(UTC) + timedelta(seconds=900)
        return host.answer(request, access_lifetime=life)

    host.answer_with(Scenario("issues", "issues by a clock that is right", answer))
    with managing(host, time) as manager:
        manager.start_auto_refresh()
        time.passes(MINUTE)
        time.sets(-wrong_by)
        off_by[0] = timedelta(0)
        for _ in range(30):
            time.passes(MINUTE)
            assert time.clock() < manager.info.expires_at
    assert set(host.spent.values()) == {1}


def test_a_short_lived_token_is_reported_and_returned_until_it_expires(
    host: SignInHostStandIn,
) -> None:
    host.answer_with(scenarios.SHORT_LIVED)
    manager = managed(host)
    told: list[str] = []
    manager.on("expired", lambda error: told.append(error.reason))
    assert host.qwen.accepts(manager.token)
    assert told == ["token_short_lived"]
    assert len(host.requests) == 1


# What limits it


def test_a_young_token_is_checked_and_not_replaced(host: SignInHostStandIn, time: Time) -> None:
    host.answer_with(issuing(time))
    with managing(host, time) as manager:
        first = manager.token
        assert [manager.refresh() for _ in range(3)] == [first] * 3
        with pytest.raises(TokenRejectedError, match="too new to be replaced"):
            manager.renew(rejected=first)
        assert len(host.requests) == 1
        host.qwen.retire(first)
        time.takes(MINUTE)
        assert manager.renew(rejected=first) == manager.token != first
        assert len(host.requests) == 2


def test_what_the_host_refused_is_not_asked_again_for_an_hour_whoever_asks(
    host: SignInHostStandIn, time: Time, path: Path
) -> None:
    credential = host.log_in()
    host.end_login(credential)
    told: list[str] = []
    session = Session(refresh_token=credential)
    with managing(host, time, session=session, store=FileStore(path)) as manager:
        manager.on("expired", lambda error: told.append(error.reason))
        for _ in range(3):
            with pytest.raises(SessionRejectedError):
                manager.refresh()
        another = managed(host, session, store=FileStore(path), clock=time.clock)
        with pytest.raises(SessionRejectedError, match="not asked again before"):
            another.refresh()
        assert len(host.requests) == 1
        time.takes(HOUR)
        with pytest.raises(SessionRejectedError):
            another.refresh()
        assert len(host.requests) == 2
    assert told == ["session_rejected"]


def test_a_refused_password_is_not_tried_again_until_another_one_is_given(
    host: SignInHostStandIn, time: Time, path: Path
) -> None:
    host.answer_sign_ins_with(issuing(time))
    wrong = Session(email=EMAIL, password="a wrong one")
    for _ in range(3):
        time.takes(2 * DAY)
        manager = managed(host, wrong, store=FileStore(path), clock=time.clock)
        with pytest.raises(SignInRefusedError):
            _ = manager.token
    assert host.sign_in_attempts == 1
    manager.set_session(SIGN_IN)
    assert manager.token
    assert host.sign_in_attempts == 2


def test_a_day_passes_between_two_sign_ins_also_of_two_processes(
    host: SignInHostStandIn, time: Time, path: Path
) -> None:
    host.answer_sign_ins_with(issuing(time))
    with managing(host, time, session=SIGN_IN, store=FileStore(path)) as manager:
        assert manager.token
        host.end_login(stored(path)["refresh_token"])
        time.takes(HOUR)
        another = managed(host, SIGN_IN, store=FileStore(path), clock=time.clock)
        for each in (manager, another):
            with pytest.raises(QwenTokenError, match="the next sign-in is allowed at"):
                _ = each.token
        assert host.sign_in_attempts == 1
        time.takes(DAY)
        assert another.token
    assert host.sign_in_attempts == 2


# Whose word is newer


def test_a_login_that_is_passed_for_the_first_time_replaces_the_stored_one(
    host: SignInHostStandIn, path: Path
) -> None:
    old, new = host.log_in(), host.log_in()
    assert managed(host, Session(refresh_token=old), store=FileStore(path)).token
    path.unlink()
    assert managed(host, Session(refresh_token=new), store=FileStore(path)).token
    assert host.spent[host.serial_of(new)] == 1
    path.unlink()
    # Two programs, of which one still has the old one: that is no new word.
    assert managed(host, Session(refresh_token=old), store=FileStore(path)).token
    assert host.spent[host.serial_of(old)] == 1


def test_a_login_that_a_person_writes_into_the_file_is_the_newest(
    host: SignInHostStandIn, path: Path
) -> None:
    dead, alive = host.log_in(), host.log_in()
    host.end_login(dead)
    session = Session(refresh_token=dead)
    manager = managed(host, session, store=FileStore(path))
    with pytest.raises(SessionRejectedError):
        manager.refresh()
    path.with_name("token.session").write_text(f"refresh_token={alive}; other=1")
    # Neither the running program nor the next one puts its own back.
    assert manager.refresh()
    path.unlink()
    assert managed(host, session, store=FileStore(path)).token
    assert host.spent[host.serial_of(dead)] == 1


def test_a_session_put_in_while_the_old_one_is_spent_wins(
    host: SignInHostStandIn, path: Path
) -> None:
    theirs = host.log_in()
    file = path.with_name("token.session")

    def answer(host: SignInHostStandIn, request: SignInRequest) -> Reply:
        file.write_text(theirs)
        return host.answer(request)

    host.answer_with(Scenario("raced", "is raced by a person", answer), scenarios.ANSWERS)
    assert managed(host, store=FileStore(path)).token
    assert host.spent[host.serial_of(theirs)] == 1


def test_a_file_that_holds_no_login_is_named_and_stays(host: SignInHostStandIn, path: Path) -> None:
    file = path.with_name("token.session")
    file.write_text('{"note": 1}')
    manager = managed(host, store=FileStore(path))
    with pytest.raises(SessionMalformedError, match="no login"):
        manager.refresh()
    assert file.read_text() == '{"note": 1}'
    assert host.requests == []


def test_a_session_of_another_account_than_the_tokens_is_reported(host: SignInHostStandIn) -> None:
    raw = host.qwen.mint(account=ANOTHER_ACCOUNT, lifetime=DAY)
    manager = managed(host, store=MemoryStore(raw))
    with pytest.raises(WrongAccountError):
        manager.refresh()
    assert manager.token == raw


# The files


def test_the_files_are_their_owners_alone_and_the_state_holds_no_secret(
    host: SignInHostStandIn, path: Path
) -> None:
    both = Session(refresh_token=host.log_in(), email=EMAIL, password=PASSWORD)
    manager = managed(host, both, store=FileStore(path))
    token = manager.token
    manager.refresh()
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "token",
        "token.session",
        "token.state",
    ]
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}
    state = path.with_name("token.state").read_text()
    document = stored(path)
    said = state + repr(manager) + repr(vars(manager))
    for secret in (token, document["refresh_token"], PASSWORD, document["keeper_key"]):
        assert not pieces(secret) & pieces(said)


def test_without_a_session_no_other_file_appears(qwen: QwenStandIn, path: Path) -> None:
    path.write_text(qwen.mint(lifetime=DAY))
    TokenManager(store=FileStore(path), base_url=qwen.base_url).refresh()
    assert [each.name for each in path.parent.iterdir()] == ["token"]


class Failing(MemoryStore):
    """A store whose session cannot be written when it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.places: dict[str, Any] = {}

    def beside(self, name: str) -> Any:
        outer = self

        class Place(MemoryStore):
            def save(self, text: str, *, over: str | None) -> bool:
                if outer.fails and name == "session":
                    raise StoreError("the disk is full")
                return super().save(text, over=over)

        return self.places.setdefault(name, Place())


def test_a_credential_that_cannot_be_written_is_used_and_written_later(
    host: SignInHostStandIn, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    store = Failing()
    host.answer_with(issuing(time))
    with managing(host, time, store=store) as manager:
        assert manager.token
        store.fails = True
        for _ in range(2):
            time.takes(16 * MINUTE)
            assert manager.token
        assert "the disk is full" in caplog.text
        before = store.places["session"].load()
        store.fails = False
        time.takes(16 * MINUTE)
        assert manager.token
        assert store.places["session"].load() != before
    assert list(host.spent.values()) == [1] * 4


def test_where_the_state_cannot_be_written_no_credential_is_spent(
    host: SignInHostStandIn, path: Path
) -> None:
    path.with_name("token.state").mkdir()
    with pytest.raises(StoreError, match=r"token\.state could not be"):
        managed(host, store=FileStore(path)).refresh()
    assert host.requests == []


def test_a_state_that_is_garbage_is_named_and_no_credential_is_spent(
    host: SignInHostStandIn, path: Path
) -> None:
    path.with_name("token.state").write_text("garbage")
    with pytest.raises(StoreError, match="delete it"):
        managed(host, store=FileStore(path)).refresh()
    assert host.requests == []


# What is refused


class Bare(TokenStore):
    """A store of one's own that has nothing beside the token."""

    def load(self) -> str | None:
        return None

    def save(self, text: str, *, over: str | None) -> bool:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"session": Session()}, "refresh_token, or an email"),
        ({"store": Bare()}, "session needs a MemoryStore"),
        ({"store": object()}, "session needs a MemoryStore"),
        ({"auth_base_url": None}, "auth_base_url should be given"),
        ({"auth_base_url": "http://auth.qwen.ai"}, "auth_base_url should be an https"),
        ({"web_version": "1\n2"}, "web_version"),
        ({"user_agent": ""}, "user_agent"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_an_option_that_cannot_be_used_is_named(options: Any, said: str) -> None:
    given = {
        "session": SIGN_IN,
        "base_url": "http://127.0.0.1:9",
        "auth_base_url": "http://127.0.0.1:9",
        **options,
    }
    with pytest.raises(ConfigError, match=said) as caught:
        TokenManager(**given)
    assert not pieces(PASSWORD) & pieces(all_said(caught.value))


def test_a_secrets_session_is_for_the_stack() -> None:
    with pytest.raises(ConfigError, match="belongs to the stack"):
        TokenManager.from_secret("qwen/token", session=SIGN_IN)
    with pytest.raises(ConfigError, match="made with one"):
        TokenManager().set_session(SIGN_IN)


def test_qwens_own_hosts_need_no_url() -> None:
    assert "chat.qwen.ai" in repr(TokenManager(session=SIGN_IN))


def test_the_options_reach_the_hosts(host: SignInHostStandIn) -> None:
    host.policy = SessionPolicy(web_version="9.9")
    with pytest.raises(ConfigError):
        managed(host).refresh()
    manager = managed(host, web_version="9.9", user_agent="mine/1.0")
    assert manager.token
    assert host.requests[-1].headers["user-agent"] == "mine/1.0"


# Processes


HEAD = """
import json, os, sys, time
from qwen_token import FileStore, Session, TokenManager
given = json.loads(sys.stdin.readline())
def made():
    return TokenManager(
        session=Session(**given["session"]), store=FileStore(given["path"]),
        base_url=given["base_url"], auth_base_url=given["auth_base_url"],
    )
"""
RACE = (
    HEAD
    + """
print("ready", flush=True)
while sys.stdin.readline():
    manager = made()
    print(manager.current() if given["reads"] else manager.refresh(), flush=True)
"""
)


def given(host: SignInHostStandIn, path: Path, *, reads: bool, **session: str) -> str:
    return json.dumps(
        {
            "session": session,
            "path": str(path),
            "base_url": host.qwen.base_url,
            "auth_base_url": host.base_url,
            "reads": reads,
        }
    )


@contextmanager
def racing(
    host: SignInHostStandIn, path: Path, count: int, *, reads: bool, **session: str
) -> Iterator[Any]:
    with ExitStack() as running:
        racers = [running.enter_context(start_program(RACE)) for _ in range(count)]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(given(host, path, reads=reads, **session) + "\n")
            racer.stdin.flush()
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"

        def race() -> list[str]:
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("go\n")
                racer.stdin.flush()
            return [racer.stdout.readline().strip() for racer in racers if racer.stdout]

        yield race
        for racer in racers:
            assert racer.communicate(timeout=SOON) == ("", "")


@pytest.mark.parametrize(
    "form", [CredentialForm.OPAQUE, pytest.param(CredentialForm.JWT, marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize(
    "rotation",
    [
        pytest.param(each, marks=() if each is Rotation.OLD_DIES else pytest.mark.nightly)
        for each in Rotation
    ],
)
def test_processes_with_one_file_spend_each_credential_once(
    host: SignInHostStandIn, path: Path, rotation: Rotation, form: CredentialForm
) -> None:
    host.policy = SessionPolicy(rotation=rotation, credential_form=form)
    with racing(host, path, 3, reads=True, refresh_token=host.log_in()) as race:
        for turn in range(1, 4):
            tokens = set(race())
            assert tokens == {path.read_text()}
            assert len(host.requests) == turn
            # The next turn finds one that has expired.
            path.write_text(host.qwen.issue_access_token(lifetime=-MINUTE))
    if rotation is not Rotation.NEVER:
        assert set(host.spent.values()) == {1}
    assert host.qwen.accepts(tokens.pop())


def test_processes_that_refresh_at_once_share_the_result(
    host: SignInHostStandIn, path: Path
) -> None:
    with racing(host, path, 4, reads=False, refresh_token=host.log_in()) as race:
        assert set(race()) == {path.read_text()}
    assert list(host.spent.values()) == [1]


def test_processes_that_find_no_token_sign_in_once_between_them(
    host: SignInHostStandIn, path: Path
) -> None:
    with racing(host, path, 4, reads=True, email=EMAIL, password=PASSWORD) as race:
        assert set(race()) == {path.read_text()}
    assert (host.sign_in_attempts, len(host.requests)) == (1, 1)


def test_a_process_that_died_with_the_lease_is_taken_over_from(
    host: SignInHostStandIn, path: Path, time: Time
) -> None:
    asked = threading.Event()
    credential = host.log_in()

    def answer(_host: SignInHostStandIn, _request: SignInRequest) -> None:
        asked.set()

    host.answer_with(Scenario("silent", "spends nothing", answer), issuing(time))
    with start_program(RACE) as running:
        assert running.stdin is not None
        running.stdin.write(given(host, path, reads=True, refresh_token=credential) + "\ngo\n")
        running.stdin.flush()
        assert asked.wait(SOON)
        running.kill()
    time.takes(4 * MINUTE)
    assert managed(
        host,
        Session(refresh_token=credential),
        store=FileStore(path),
        clock=time.clock,
        elapsed=lambda: monotonic() + 240,
    ).token


FORK = (
    HEAD
    + """
manager = made()
first = manager.token
child = os.fork()
if child == 0:
    try:
        assert manager.token == first
        print(manager.refresh() == first, flush=True)
    finally:
        os._exit(0)
os.waitpid(child, 0)
"""
)


def test_a_child_shares_the_file_with_its_parent(host: SignInHostStandIn, path: Path) -> None:
    typed = given(host, path, reads=True, refresh_token=host.log_in()) + "\n"
    assert run_program(FORK, typed=typed) == "True"
    assert list(host.spent.values()) == [1]


def test_a_child_does_not_spend_the_session_in_its_parents_memory(host: SignInHostStandIn) -> None:
    manager = managed(host)
    token = manager.token
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            manager.refresh()
        except ConfigError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        assert "share a FileStore" in said.read()
    assert manager.token == token
    assert len(host.requests) == 1


def test_a_block_page_makes_no_session_look_dead(host: SignInHostStandIn, time: Time) -> None:
    host.answer_with(BLOCK_PAGE, issuing(time))
    told: list[object] = []
    with managing(host, time) as manager:
        manager.on("expired", told.append)
        with pytest.raises(QwenTokenError):
            manager.refresh()
        assert manager.refresh()
    assert told == []
