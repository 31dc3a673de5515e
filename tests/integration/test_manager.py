"""The manager of programs that keep their token themselves, against the stand-in of the API."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

import pytest
import requests

from localcloud import qwen as scenarios
from localcloud.qwen import ACCOUNT, ANOTHER_ACCOUNT, QwenStandIn, Reply, Request, Scenario
from qwen_token import (
    ConfigError,
    FileStore,
    MemoryStore,
    QwenAuth,
    QwenTokenError,
    RateLimitedError,
    StoreError,
    TokenMalformedError,
    TokenManager,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenStore,
    UpstreamBlockedError,
    UpstreamUnexpectedError,
    WrongAccountError,
    decode_token,
)
from tests.fake_time import Time
from tests.minting import all_said, pieces
from tests.programs import run_program, start_program

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
SOON: Final = 20.0


@pytest.fixture(name="time")
def _time() -> Iterator[Time]:
    with Time() as time:
        yield time


@contextmanager
def managing(
    qwen: QwenStandIn, time: Time, raw: str | None = None, **options: Any
) -> Iterator[TokenManager]:
    """Return a manager for which time passes when ``time`` is told so."""
    manager = TokenManager(
        raw,
        base_url=qwen.base_url,
        clock=time.clock,
        elapsed=time.elapsed,
        wait=time.wait,
        **options,
    )
    with manager:
        try:
            yield manager
        finally:
            # So that nobody waits for it any more when the thread is stopped.
            time.__exit__()


def minting(time: Time, lifetime: timedelta = 7 * DAY) -> Scenario:
    """Return a server that mints by the test's clock."""
    return Scenario(
        "mints",
        "mints tokens by the clock of the test",
        # The server's own clock is the real one.
        lambda qwen, request: qwen.renew(request, time.clock() - datetime.now(UTC) + lifetime),
    )


def refreshes(qwen: QwenStandIn) -> list[str | None]:
    """Return the tokens that were traded: each second request verifies a new one."""
    return [request.raw for request in qwen.requests]


class Picky(TokenStore):
    """A store of one's own, which fails when it is told to."""

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.fails: Exception | None = None
        self.refuses: Exception | None = None

    def load(self) -> str | None:
        if self.fails:
            raise self.fails
        return self.text

    def save(self, text: str, *, over: str | None) -> bool:
        if self.refuses:
            raise self.refuses
        if self.text != over:
            return False
        self.text = text
        return True


# The token


def test_a_token_in_memory_is_there_and_tells_of_itself(qwen: QwenStandIn) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    manager = TokenManager(f"Bearer {raw}\n", base_url=qwen.base_url)

    assert manager.token == manager.current() == raw
    assert (manager.info.user_id, manager.info.issued_at) == (ACCOUNT, None)
    assert manager.info.expires_at == decode_token(raw).expires_at
    assert manager.info.days_remaining == pytest.approx(2, abs=0.01)
    assert qwen.requests == []


def test_without_a_token_one_is_missing_until_it_is_set(qwen: QwenStandIn) -> None:
    manager = TokenManager(base_url=qwen.base_url)
    for ask in (
        manager.current,
        manager.needs_refresh,
        manager.refresh,
        lambda: manager.info,
        lambda: manager.renew(rejected="x"),
    ):
        with pytest.raises(TokenMissingError, match="no token is stored yet"):
            ask()
    raw = qwen.mint()
    manager.set_token(raw)
    assert manager.token == raw


@pytest.mark.parametrize(
    ("left", "due"),
    [(3 * DAY + timedelta(seconds=1), False), (3 * DAY, True), (DAY, True), (-DAY, True)],
)
def test_a_token_is_due_with_refresh_before_left(
    qwen: QwenStandIn, time: Time, left: timedelta, *, due: bool
) -> None:
    time.sets(decode_token(raw := qwen.mint()).expires_at - left - time.clock())
    with managing(qwen, time, raw) as manager:
        assert manager.needs_refresh() is due
    with managing(qwen, time, raw, refresh_before=timedelta(seconds=1)) as manager:
        assert manager.needs_refresh() is (left < timedelta(0))


def test_an_expired_token_is_reported_and_not_returned(qwen: QwenStandIn) -> None:
    manager = TokenManager(qwen.mint(lifetime=-DAY), base_url=qwen.base_url)
    told: list[QwenTokenError] = []
    manager.on("expired", told.append)

    assert manager.info.days_remaining == pytest.approx(-1, abs=0.01)
    for _ in range(2):
        with pytest.raises(TokenRejectedError, match="expired") as caught:
            _ = manager.token
    assert caught.value.expires_at == manager.info.expires_at
    assert [error.reason for error in told] == ["token_rejected"]


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://chat.qwen.ai"},
        {"refresh_before": timedelta(0)},
        {"refresh_before": 3},
    ],
)
def test_what_is_off_is_named(options: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TokenManager(**options)


def test_what_is_no_token_is_refused_at_once(qwen: QwenStandIn) -> None:
    manager = TokenManager(qwen.mint(), base_url=qwen.base_url)
    for give in (TokenManager, manager.set_token):
        with pytest.raises(TokenMalformedError):
            give("not-a-token")
    assert manager.info.user_id == ACCOUNT


def test_a_first_token_gives_way_to_one_that_is_stored_and_expires_later(qwen: QwenStandIn) -> None:
    old, new = qwen.mint(lifetime=DAY), qwen.mint(lifetime=2 * DAY)
    assert TokenManager(old, store=MemoryStore(new)).token == new
    assert TokenManager(new, store=MemoryStore(old)).token == new
    assert TokenManager(old, store=MemoryStore(" ")).token == old
    another = MemoryStore(qwen.mint(account=ANOTHER_ACCOUNT))
    manager = TokenManager(old, store=another)
    with pytest.raises(WrongAccountError, match="another account"):
        _ = manager.token
    manager.set_token(old)
    assert manager.token == another.load() == old


# The refresh


def test_a_refresh_returns_a_token_that_was_verified_and_stored(qwen: QwenStandIn) -> None:
    raw = qwen.mint(lifetime=5 * DAY)
    store = MemoryStore(raw)
    manager = TokenManager(store=store, base_url=qwen.base_url)
    heard: list[str] = []
    manager.on("refresh", lambda info: heard.append(f"{info.days_remaining:.1f} {store.load()}"))
    successor = manager.refresh()

    assert refreshes(qwen) == [raw, successor]
    assert manager.token == store.load() == successor
    assert heard == [f"7.0 {successor}"]


@pytest.mark.parametrize(
    ("scenario", "kind"),
    [
        (scenarios.ECHOES, TokenNotExtendedError),
        (scenarios.MINTS_SHORT_LIVED, TokenNotExtendedError),
        (scenarios.MINTS_FOR_ANOTHER_ACCOUNT, WrongAccountError),
        (scenarios.TOKEN_DEAD, TokenRejectedError),
        (scenarios.ISSUES_THEN_REFUSES, UpstreamUnexpectedError),
        (scenarios.BLOCK_PAGE, UpstreamBlockedError),
        (scenarios.RATE_LIMITED_ENVELOPE, RateLimitedError),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else value.__name__,
)
def test_after_a_refresh_that_failed_the_token_is_the_old_one(
    qwen: QwenStandIn, scenario: Scenario, kind: type[QwenTokenError]
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    store = MemoryStore(raw)
    manager = TokenManager(store=store, base_url=qwen.base_url)
    told: list[QwenTokenError] = []
    manager.on("expired", told.append)
    qwen.answer_with(scenario)
    with pytest.raises(QwenTokenError) as caught:
        manager.refresh()

    assert type(caught.value) is kind
    assert caught.value.expires_at == manager.info.expires_at
    assert not pieces(raw) & pieces(all_said(caught.value))
    assert manager.token == store.load() == raw
    helpless = kind.__name__.startswith(("Token", "Wrong"))
    assert told == ([caught.value] if helpless else [])


def test_an_unverified_new_token_is_used_if_the_old_one_has_expired(
    qwen: QwenStandIn,
) -> None:
    qwen.answer_with(scenarios.RETIRES_OLD, scenarios.BLOCK_PAGE, scenarios.RETIRES_OLD)
    raw = qwen.mint(lifetime=2 * DAY)
    manager = TokenManager(raw, base_url=qwen.base_url)
    with pytest.raises(UpstreamBlockedError):
        manager.refresh()
    assert manager.token == raw
    qwen.answer_with(scenarios.ECHOES)
    successor = manager.refresh()
    assert qwen.accepts(successor)
    assert not qwen.accepts(raw)


@pytest.mark.parametrize(
    "scenario", [scenarios.MINTS, scenarios.TOKEN_DEAD], ids=lambda each: each.name
)
def test_threads_that_refresh_at_once_share_one_refresh_and_its_failure(
    qwen: QwenStandIn, scenario: Scenario
) -> None:
    lock = Watched()

    def answer(qwen: QwenStandIn, request: Request) -> Reply | None:
        assert lock.has_waiting(7)
        return scenario.answer(qwen, request)

    qwen.answer_with(
        Scenario("waits", "waits for the others", answer),
        scenarios.ECHOES if scenario is scenarios.MINTS else scenario,
    )
    raw = qwen.mint(lifetime=2 * DAY)
    manager = TokenManager(raw, base_url=qwen.base_url)
    manager._lock = lock  # type: ignore[assignment]

    def refreshed() -> str:
        try:
            return manager.refresh()
        except TokenRejectedError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(refreshed) for _ in range(8)]
        [result] = {each.result() for each in results}

    calls = [raw, result] if scenario is scenarios.MINTS else [raw]
    assert refreshes(qwen) == calls


class Watched:
    """A lock that tells how many wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._changed = threading.Condition()

    def has_waiting(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting == count, SOON)

    def __enter__(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
        self._lock.acquire()
        with self._changed:
            self._waiting -= 1

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_readers_do_not_wait_for_a_refresh_while_the_token_is_alive(
    qwen: QwenStandIn, time: Time
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    asked, may_answer = threading.Event(), threading.Event()

    def answer(qwen: QwenStandIn, request: Request) -> Reply:
        asked.set()
        assert may_answer.wait(SOON)
        return qwen.renew(request, qwen.lifetime)

    qwen.answer_with(Scenario("slow", "waits", answer), scenarios.ECHOES)
    with managing(qwen, time, raw) as manager, ThreadPoolExecutor(1) as pool:
        assert manager.token == raw
        refreshing = pool.submit(manager.refresh)
        assert asked.wait(SOON)
        # Long enough for the store to be looked at again.
        time.takes(MINUTE)
        assert manager.token == raw
        may_answer.set()
        assert refreshing.result() == manager.token != raw


def test_a_refresh_keeps_a_faster_processs_token_that_expires_later(
    qwen: QwenStandIn,
) -> None:
    store = Picky(qwen.mint(lifetime=2 * DAY))
    for lifetime, wins in ((6 * DAY, False), (20 * DAY, True)):
        theirs = qwen.mint(lifetime=lifetime)

        def answer(qwen: QwenStandIn, request: Request, theirs: str = theirs) -> Reply:
            store.text = theirs
            return qwen.renew(request, timedelta(days=10))

        qwen.answer_with(Scenario("raced", "is raced", answer), scenarios.ECHOES)
        manager = TokenManager(store=store, base_url=qwen.base_url)
        assert (manager.refresh() == theirs) is wins
        assert manager.token == store.text


def test_a_failed_refresh_succeeds_if_another_process_has_refreshed(qwen: QwenStandIn) -> None:
    raw, theirs = qwen.mint(lifetime=2 * DAY), qwen.mint(lifetime=7 * DAY)
    store = Picky(raw)

    def answer(qwen: QwenStandIn, request: Request) -> Reply:
        store.text = theirs
        return qwen.recognise(request)

    qwen.answer_with(Scenario("raced", "echoes, and is raced", answer), scenarios.ECHOES)
    # Due itself, so that the run goes on with it, and cannot.
    manager = TokenManager(store=store, base_url=qwen.base_url, refresh_before=30 * DAY)
    assert manager.refresh() == manager.token == theirs


def test_a_token_taken_away_during_the_refresh_is_missing(qwen: QwenStandIn) -> None:
    store = Picky(qwen.mint(lifetime=2 * DAY))

    def answer(qwen: QwenStandIn, request: Request) -> Reply:
        store.text = None
        return qwen.renew(request, qwen.lifetime)

    qwen.answer_with(Scenario("taken", "taken away", answer), scenarios.ECHOES)
    manager = TokenManager(store=store, base_url=qwen.base_url)
    with pytest.raises(TokenMissingError, match="taken away"):
        manager.refresh()
    assert store.text is None


def test_a_json_document_keeps_its_other_keys(qwen: QwenStandIn) -> None:
    store = MemoryStore(f'{{"note": "ours", "token": "{qwen.mint(lifetime=2 * DAY)}"}}')
    manager = TokenManager(store=store, base_url=qwen.base_url)
    successor = manager.refresh()
    expires_at = int(decode_token(successor).expires_at.timestamp())
    assert store.load() == (
        f'{{"note": "ours", "token": "{successor}", "expires_at": {expires_at}}}'
    )


# What the store does not take


def test_a_new_token_that_could_not_be_stored_is_used_and_stored_later(
    qwen: QwenStandIn, time: Time
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    store = Picky(raw)
    store.refuses = StoreError("the disk is full")
    with managing(qwen, time, store=store) as manager:
        heard: list[str] = []
        manager.on("refresh", lambda _: heard.append("refresh"))
        manager.on("error", lambda error: heard.append(str(error)))
        manager.on("expired", lambda _: heard.append("expired"))
        manager.start_auto_refresh()
        time.passes()
        successor = manager.token
        assert successor != raw == store.text
        time.passes(MINUTE)
        assert heard == ["the disk is full"] * 2
        store.refuses = None
        time.passes(2 * MINUTE)
        assert store.text == manager.token == successor
        assert heard == ["the disk is full"] * 2 + ["refresh"]

    assert refreshes(qwen) == [raw, successor]


def test_what_could_not_be_stored_gives_way_to_what_somebody_else_stored(
    qwen: QwenStandIn, time: Time
) -> None:
    store = Picky(qwen.mint(lifetime=2 * DAY))
    store.refuses = StoreError("the disk is full")
    with managing(qwen, time, store=store) as manager:
        with pytest.raises(StoreError, match="full"):
            manager.refresh()
        assert manager.token != store.text
        store.text = qwen.mint(lifetime=9 * DAY)
        store.refuses = None
        assert manager.renew(rejected=manager.token) == manager.token == store.text


def test_an_emptied_store_gets_the_token_that_could_not_be_stored(qwen: QwenStandIn) -> None:
    store = Picky(qwen.mint(lifetime=2 * DAY))
    store.refuses = StoreError("the disk is full")
    manager = TokenManager(store=store, base_url=qwen.base_url)
    with pytest.raises(StoreError):
        manager.refresh()
    store.refuses, store.text = None, None
    qwen.answer_with(scenarios.ECHOES)
    with pytest.raises(TokenNotExtendedError):
        manager.refresh()
    assert store.text == manager.token


def test_a_store_that_cannot_be_read_is_bridged_while_the_token_lives(
    qwen: QwenStandIn, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    store = Picky(raw := qwen.mint(lifetime=2 * DAY))
    with managing(qwen, time, store=store) as manager:
        assert manager.token == raw
        store.fails = StoreError("the disk is gone")
        time.takes(DAY)
        assert manager.token == raw
        assert "the disk is gone" in caplog.text
        time.takes(DAY)
        with pytest.raises(StoreError):
            _ = manager.token


def test_a_token_that_another_process_stored_is_found_once_the_own_one_is_due(
    qwen: QwenStandIn, time: Time
) -> None:
    store = Picky(raw := qwen.mint(lifetime=4 * DAY))
    heard: list[float] = []
    with managing(qwen, time, store=store) as manager:
        manager.on("refresh", lambda info: heard.append(info.days_remaining))
        assert manager.token == raw
        store.text = qwen.mint(lifetime=8 * DAY)
        time.takes(DAY - MINUTE)
        assert manager.token == raw
        time.takes(2 * MINUTE)
        assert manager.token == store.text
    assert heard == [pytest.approx(7, abs=0.01)]


# A source for requests


def test_an_auth_uses_the_managers_token_and_refreshes_a_refused_one(
    qwen: QwenStandIn,
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    qwen.chats[ACCOUNT] = ["Bread"]
    manager = TokenManager(raw, base_url=qwen.base_url)
    auth = QwenAuth(manager, base_url=qwen.base_url)
    url = f"{qwen.base_url}/api/v2/chats/?page=1"
    assert requests.get(url, auth=auth, timeout=10).json()["data"][0]["title"] == "Bread"

    # The chats refuse it, the session's endpoint still trades it.
    traded = Scenario("trades", "trades what it refused", lambda _, __: reply_of(successor))
    successor = qwen.mint(lifetime=7 * DAY)
    qwen.answer_with(traded, scenarios.ECHOES)
    qwen.retire(raw)

    def reply_of(token: str) -> Reply:
        request = Request("GET", "/", ACCOUNT, None, token)
        return qwen.recognise(request)

    assert requests.get(url, auth=auth, timeout=10).json()["success"] is True
    assert manager.token == successor


def test_a_refused_token_is_not_sent_to_the_api_again_and_again(
    qwen: QwenStandIn, time: Time
) -> None:
    raw = qwen.mint()
    qwen.revoke()
    with managing(qwen, time, raw) as manager:
        for _ in range(3):
            with pytest.raises(TokenRejectedError):
                manager.renew(rejected=raw)
        assert len(qwen.requests) == 1
        time.takes(MINUTE)
        with pytest.raises(TokenRejectedError):
            manager.renew(rejected=raw)
        assert len(qwen.requests) == 2
        manager.set_token(qwen.mint())
        assert manager.renew(rejected=raw) == manager.token
    assert len(qwen.requests) == 2


# The automatic refresh


def test_the_first_check_is_at_once_and_the_others_at_multiples_of_the_interval(
    qwen: QwenStandIn, time: Time
) -> None:
    raw = qwen.mint(lifetime=30 * DAY)
    store = Slow(time, raw)
    with managing(qwen, time, store=store) as manager:
        manager.start_auto_refresh()
        manager.start_auto_refresh(check_interval_hours=1)
        time.passes()
        assert store.loads == [0]
        store.takes = 20 * MINUTE
        time.passes(5 * DAY)
        days = [round(each / DAY.total_seconds(), 6) for each in store.loads]
        assert days == [0, 1, 2, 3, 4, 5]
        # What passes while one check takes long is not made up for.
        store.takes = 3 * DAY
        time.passes(DAY)
        store.takes = timedelta(0)
        time.passes(DAY)
        assert [round(each / DAY.total_seconds(), 6) for each in store.loads[6:]] == [6, 10]
    assert max(time.waits) <= 60


class Slow(MemoryStore):
    """A store that takes its time."""

    def __init__(self, time: Time, raw: str) -> None:
        super().__init__(raw)
        self._time = time
        self._began = time.elapsed()
        self.takes = timedelta(0)
        self.loads: list[float] = []

    def load(self) -> str | None:
        self.loads.append(self._time.elapsed() - self._began)
        self._time.takes(self.takes)
        return super().load()


def test_a_token_is_refreshed_each_time_it_is_due(qwen: QwenStandIn, time: Time) -> None:
    qwen.answer_with(minting(time))
    began = time.clock()
    heard: list[float] = []
    with managing(qwen, time, qwen.mint(lifetime=7 * DAY)) as manager:
        manager.on("refresh", lambda _: heard.append((time.clock() - began) / DAY))
        manager.start_auto_refresh(check_interval_hours=24 * 30)
        time.passes(28 * DAY)
        assert qwen.accepts(manager.token)
        assert heard == [pytest.approx(4 * turn, abs=0.01) for turn in range(1, 8)]


@pytest.mark.parametrize("jump", [5 * DAY, 6 * DAY + 23 * HOUR, -30 * DAY], ids=str)
def test_a_clock_that_jumps_is_noticed_within_a_minute(
    qwen: QwenStandIn, time: Time, jump: timedelta
) -> None:
    qwen.answer_with(minting(time))
    with managing(qwen, time, qwen.mint(lifetime=7 * DAY)) as manager:
        first = manager.token
        manager.start_auto_refresh(check_interval_hours=24 * 30)
        time.passes(HOUR / 2)
        assert manager.token == first
        time.sets(jump)
        time.passes(MINUTE)
        assert (manager.token != first) is (jump > timedelta(0))
        # Set back, the clock was wrong before, and the token is due as much later.
        time.sets(-min(jump, timedelta(0)))
        time.passes(4 * DAY)
        assert manager.token != first


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=str)
def test_a_clock_that_jumps_during_a_check_is_noticed_after_it(
    qwen: QwenStandIn, time: Time, jump: timedelta
) -> None:
    raw = qwen.mint(lifetime=5 * DAY)

    class Set(MemoryStore):
        """A store that the clock is set under, once."""

        def load(self) -> str | None:
            nonlocal jump
            time.sets(jump)
            jump = timedelta(0)
            return super().load()

    qwen.answer_with(minting(time))
    began = time.clock()
    with managing(qwen, time, store=Set(raw)) as manager:
        refreshed: list[float] = []
        manager.on("refresh", lambda _: refreshed.append((time.clock() - began) / DAY))
        manager.start_auto_refresh(check_interval_hours=24 * 30)
        time.passes(4 * DAY)
    assert refreshed == [pytest.approx(2, abs=0.01)]


def test_the_pause_after_a_failure_ends_in_time_for_a_clock_that_jumped(
    qwen: QwenStandIn, time: Time
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    qwen.answer_with(scenarios.BLOCK_PAGE)
    with managing(qwen, time, raw) as manager:
        manager.start_auto_refresh()
        # The next try is in an hour.
        time.passes(125 * MINUTE)
        asked = len(qwen.requests)
        time.sets(decode_token(raw).expires_at - time.clock() - 20 * MINUTE)
        qwen.answer_with(minting(time))
        time.passes(10 * MINUTE)
        assert len(qwen.requests) > asked
        assert manager.token != raw


def test_what_expired_by_a_clock_that_was_ahead_is_announced_when_it_does_expire(
    qwen: QwenStandIn, time: Time
) -> None:
    told: list[str] = []
    with managing(qwen, time, qwen.mint(lifetime=DAY)) as manager:
        manager.on("expired", lambda error: told.append(error.reason))
        time.sets(30 * DAY)
        with pytest.raises(TokenRejectedError):
            _ = manager.token
        time.sets(-30 * DAY)
        assert manager.token
        time.takes(DAY)
        for _ in range(3):
            with pytest.raises(TokenRejectedError):
                _ = manager.token
    assert told == ["token_rejected"] * 2


def test_a_clock_that_is_set_back_makes_the_store_be_read_again(
    qwen: QwenStandIn, time: Time
) -> None:
    store = Picky(qwen.mint(lifetime=2 * DAY))
    with managing(qwen, time, store=store) as manager:
        assert manager.token == store.text
        time.sets(-10 * HOUR)
        store.text = qwen.mint(lifetime=3 * DAY)
        assert manager.token == store.text


def test_a_token_shorter_than_the_interval_is_refreshed_at_half_its_life(
    qwen: QwenStandIn, time: Time
) -> None:
    life = timedelta(seconds=900)
    qwen.answer_with(minting(time, life))
    began = time.clock()
    heard: list[float] = []
    with managing(qwen, time, qwen.mint(lifetime=life / 2)) as manager:
        manager.on("refresh", lambda _: heard.append((time.clock() - began).total_seconds()))
        manager.start_auto_refresh()
        time.passes(HOUR)
        assert manager.info.days_remaining > 0
    assert heard == [pytest.approx(450 * turn, abs=30) for turn in range(9)]


def test_two_processes_with_one_short_lived_token_refresh_it_once_between_them(
    qwen: QwenStandIn, time: Time
) -> None:
    life = timedelta(seconds=900)
    qwen.answer_with(minting(time, life))
    store = Picky(qwen.mint(lifetime=life / 2))
    began = time.clock()
    heard: list[int] = []
    with managing(qwen, time, store=store) as ours:
        theirs = TokenManager(store=store, base_url=qwen.base_url, clock=time.clock)
        ours.start_auto_refresh()
        time.passes(timedelta(seconds=400))
        assert theirs.refresh() == store.text
        calls = len(qwen.requests)
        ours.on("refresh", lambda _: heard.append(round((time.clock() - began).total_seconds())))
        # At 450 s it is due by its first look, and then has another one, which is due at 650 s: for
        # all that is known it was issued as soon as the first look was over.
        time.passes(timedelta(seconds=200))
        assert ours.token == store.text
        assert len(qwen.requests) == calls
        time.passes(timedelta(seconds=200))
    assert heard == pytest.approx([450, 650], abs=10)


def test_a_failed_check_is_tried_again_with_pauses_that_grow(
    qwen: QwenStandIn, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    qwen.answer_with(scenarios.BLOCK_PAGE)
    began = time.clock()
    failed: list[int] = []
    with managing(qwen, time, raw) as manager:
        manager.on("error", lambda _: failed.append(round((time.clock() - began) / MINUTE)))
        manager.start_auto_refresh()
        time.passes(4 * HOUR)
        assert failed == [0, 1, 3, 7, 15, 31, 63, 123, 183]
        qwen.answer_with(minting(time))
        time.passes(HOUR)
        assert manager.token != raw
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 9
    assert "next try in 0:01:00" in caplog.text
    assert not pieces(raw) & pieces(caplog.text)


def test_a_check_that_succeeds_makes_the_pauses_short_again(qwen: QwenStandIn, time: Time) -> None:
    store = Picky(qwen.mint())
    began = time.clock()
    failed: list[int] = []
    with managing(qwen, time, store=store) as manager:
        manager.on("error", lambda _: failed.append(round((time.clock() - began) / MINUTE)))
        store.fails = StoreError("the disk is gone")
        manager.start_auto_refresh(check_interval_hours=1)
        time.passes(6 * MINUTE)
        store.fails = None
        time.passes(MINUTE)
        store.fails = StoreError("the disk is gone")
        time.passes(HOUR - 2 * MINUTE)
    assert failed == [0, 1, 3, 60, 61, 63]


def test_near_expiry_checks_are_repeated_sooner_and_expiry_announced_once(
    qwen: QwenStandIn, time: Time
) -> None:
    qwen.answer_with(scenarios.BLOCK_PAGE)
    raw = qwen.mint(lifetime=70 * MINUTE)
    began = time.clock()
    failed: list[float] = []
    expired: list[str] = []
    with managing(qwen, time, raw) as manager:
        manager.on("error", lambda _: failed.append((time.clock() - began) / MINUTE))
        manager.on("expired", lambda error: expired.append(error.reason))
        manager.start_auto_refresh()
        time.passes(69 * MINUTE)
        assert expired == []
        minutes = [0, 1, 3, 7, 15, 31, 50.5, 60.25, 65.1, 67.6, 68.8]
        assert failed == pytest.approx(minutes, abs=0.1)
        time.passes(5 * HOUR)
    assert expired == ["upstream_blocked"]
    minutes = [69.8, 70.8, 130.8, 190.8, 250.8, 310.8]
    assert failed[11:] == pytest.approx(minutes, abs=0.1)


def test_who_asks_for_fewer_calls_gets_them_even_where_the_interval_is_short(
    qwen: QwenStandIn, time: Time
) -> None:
    # For three hours.
    qwen.answer_with(scenarios.RATE_LIMITED_ENVELOPE)
    failed: list[int] = []
    began = time.clock()
    with managing(qwen, time, qwen.mint(lifetime=DAY)) as manager:
        manager.on("error", lambda _: failed.append(round((time.clock() - began) / MINUTE)))
        manager.start_auto_refresh(check_interval_hours=0.1)
        time.passes(6 * HOUR)
    assert failed == [0, 180, 360]


def test_a_dead_token_is_reported_once_and_a_new_one_used_at_once(
    qwen: QwenStandIn, time: Time
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    qwen.revoke()
    qwen.answer_with(minting(time))
    told: list[str] = []
    with managing(qwen, time, raw) as manager:
        manager.on("expired", lambda error: told.append(error.reason))
        manager.start_auto_refresh()
        time.passes(10 * HOUR)
        assert told == ["token_rejected"]
        assert len(qwen.requests) == 11
        fresh = qwen.mint(lifetime=DAY)
        manager.set_token(fresh)
        time.passes()
        assert manager.token != fresh
        assert manager.info.days_remaining > 6
        qwen.revoke()
        time.passes(5 * DAY)
    assert told == ["token_rejected"] * 2


def test_a_revoked_token_is_reported_once_for_any_number_of_checks(
    qwen: QwenStandIn, time: Time
) -> None:
    raw = qwen.mint(lifetime=30 * DAY)
    qwen.revoke()
    told: list[str] = []
    with managing(qwen, time, raw) as manager:
        manager.on("expired", lambda error: told.append(error.reason))
        manager.start_auto_refresh()
        for _ in range(3):
            time.passes(DAY)
            with pytest.raises(TokenRejectedError):
                manager.renew(rejected=raw)
        assert told == ["token_rejected"]
        manager.set_token(qwen.mint(lifetime=-DAY))
        with pytest.raises(TokenRejectedError):
            manager.current()
    assert told == ["token_rejected"] * 2


def test_the_thread_survives_any_exception_of_a_store(
    qwen: QwenStandIn, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    store = Picky(raw)
    store.fails = RuntimeError(f"redis: {raw}")
    heard: list[Exception] = []
    with managing(qwen, time, store=store) as manager:
        manager.on("error", heard.append)
        manager.start_auto_refresh()
        time.passes()
        [error] = heard
        assert isinstance(error, StoreError)
        assert "the store could not be read: RuntimeError in " in caplog.text
        assert not pieces(raw) & pieces(caplog.text)
        store.fails = None
        time.passes(MINUTE)
        assert manager.info.days_remaining > 6


@pytest.mark.parametrize(
    "hours", [0, -1, 1e-12, float("nan"), float("inf"), 1e9, True, "24", None], ids=repr
)
def test_an_invalid_interval_is_refused(hours: Any) -> None:
    with pytest.raises(ConfigError, match="check_interval_hours"):
        TokenManager().start_auto_refresh(hours)


def refreshers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "qwen-token-refresh"]


def test_stopping_ends_the_thread_at_once_and_it_can_be_started_again(qwen: QwenStandIn) -> None:
    heard = threading.Semaphore(0)
    before = refreshers()
    with TokenManager(base_url=qwen.base_url) as manager:
        manager.on("error", lambda _: heard.release())
        for _ in range(3):
            manager.start_auto_refresh()
            manager.start_auto_refresh()
            assert heard.acquire(timeout=SOON)
            assert len(refreshers()) == len(before) + 1
            manager.stop_auto_refresh()
            manager.stop_auto_refresh()
            assert refreshers() == before
        manager.start_auto_refresh()
    assert refreshers() == before


def test_a_callback_may_stop_the_thread_that_calls_it(qwen: QwenStandIn) -> None:
    manager = TokenManager(base_url=qwen.base_url)
    stopped = threading.Event()

    def stop(_: object) -> None:
        manager.stop_auto_refresh()
        stopped.set()

    manager.on("error", stop)
    manager.start_auto_refresh()
    [thread] = refreshers()
    assert stopped.wait(SOON)
    thread.join(SOON)
    assert not thread.is_alive()


# Callbacks


def test_a_callback_that_raises_disturbs_nobody_and_says_no_token(
    qwen: QwenStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    manager = TokenManager(qwen.mint(lifetime=2 * DAY), base_url=qwen.base_url)
    heard: list[str] = []

    def boast(_: object) -> None:
        raise ValueError(manager.token)

    manager.on("refresh", boast)
    manager.on("refresh", lambda _: heard.append(manager.token))
    successor = manager.refresh()
    assert heard == [successor]
    assert "a callback for 'refresh' raised ValueError in " in caplog.text
    assert not pieces(successor) & pieces(caplog.text)


def test_a_subscription_ends_by_itself(qwen: QwenStandIn) -> None:
    heard: list[object] = []
    manager = TokenManager(qwen.mint(lifetime=2 * DAY), base_url=qwen.base_url)
    first = manager.on("refresh", heard.append)
    manager.on("refresh", heard.append)
    first()
    first()
    manager.refresh()
    assert len(heard) == 1


def test_an_unknown_event_is_refused() -> None:
    on: Any = TokenManager().on
    with pytest.raises(ConfigError, match="refresh, expired, error"):
        on("refreshed", print)


def test_a_manager_shown_shows_no_token(qwen: QwenStandIn) -> None:
    raw = qwen.mint()
    manager = TokenManager(raw, base_url=qwen.base_url)
    assert manager.token == raw
    assert repr(manager) == f"TokenManager({qwen.base_url}, token=[redacted])"
    shown = repr(vars(manager)) + repr(MemoryStore(raw))
    manager.on("refresh", print)
    assert not pieces(raw) & pieces(shown)


# Processes

CHILD = """
import os, sys, threading
from qwen_token import FileStore, TokenManager

def seen(names):
    return [each.name for each in threading.enumerate() if each.name == "qwen-token-refresh"]

raw, base_url, path = sys.stdin.read().split()
"""

FORK = """
checked, again = threading.Event(), threading.Event()
manager = TokenManager(raw, base_url=base_url, store=FileStore(path))
off = manager.on("refresh", lambda info: (checked.set(), again.wait(10)))
manager.start_auto_refresh()
assert checked.wait(10)
manager._lock.acquire()
manager._auto_refresh._lock.acquire()
child = os.fork()
if child == 0:
    # The thread that holds the locks is not here: those kept from the parent would wait for ever.
    threading.Timer(10, lambda: os._exit(7)).start()
    assert seen(threading) == []
    off()
    ours = threading.Event()
    manager.on("refresh", lambda info: ours.set())
    assert manager.token != raw
    assert seen(threading) == ["qwen-token-refresh"]
    manager.refresh()
    assert ours.is_set()
    manager.stop_auto_refresh()
    assert seen(threading) == []
    os._exit(0)
manager._lock.release()
manager._auto_refresh._lock.release()
again.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

EXIT = """
manager = TokenManager(raw, base_url=base_url)
manager.start_auto_refresh()
print("done")
"""


def run(program: str, *given: object) -> str:
    return run_program(CHILD + program, typed="\n".join(map(str, given)))


def test_a_child_has_the_token_and_a_thread_of_its_own(qwen: QwenStandIn, tmp_path: Path) -> None:
    lives = iter(range(7, 100))
    qwen.answer_with(
        Scenario(
            "mints longer",
            "each expires later than the one before",
            lambda qwen, request: qwen.renew(request, next(lives) * DAY),
        )
    )
    assert run(FORK, qwen.mint(lifetime=2 * DAY), qwen.base_url, tmp_path / "token") == "0"


def test_a_process_ends_while_its_thread_waits_for_the_api(qwen: QwenStandIn) -> None:
    qwen.answer_with(scenarios.HANGS)
    assert run(EXIT, qwen.mint(lifetime=2 * DAY), qwen.base_url, "-") == "done"


RACE = """
from qwen_token import QwenTokenError
from datetime import datetime, timedelta
manager = TokenManager(store=FileStore(path), base_url=base_url)
assert manager.token == raw
print("ready", flush=True)
sys.stdin.readline()
print(manager.refresh() == manager.token != raw)
"""


def tell(running: Popen[str], line: str) -> None:
    assert running.stdin is not None
    running.stdin.write(line)
    running.stdin.flush()


def test_processes_that_refresh_a_file_at_once_all_end_with_its_token(
    qwen: QwenStandIn, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(raw := qwen.mint(lifetime=2 * DAY))
    program = CHILD.replace("sys.stdin.read()", "sys.stdin.readline()") + RACE
    with ExitStack() as running:
        racers = [running.enter_context(start_program(program)) for _ in range(4)]
        for racer in racers:
            tell(racer, f"{raw} {qwen.base_url} {path}\n")
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            tell(racer, "go\n")
        assert [racer.communicate(timeout=SOON) for racer in racers] == [("True\n", "")] * 4
    assert qwen.accepts(path.read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_a_token_issued_to_another_process_in_the_same_second_is_no_failure(
    qwen: QwenStandIn,
) -> None:
    store = Picky(raw := qwen.mint(lifetime=2 * DAY))
    manager = TokenManager(store=store, base_url=qwen.base_url)
    assert manager.token == raw
    store.text = qwen.mint(lifetime=7 * DAY)
    qwen.answer_with(scenarios.ECHOES)
    assert manager.refresh() == store.text
    # Said twice, it is an echo.
    with pytest.raises(TokenNotExtendedError):
        manager.refresh()


def test_two_managers_of_one_file_go_on_with_what_the_other_stored(
    qwen: QwenStandIn, time: Time, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    raw = qwen.mint(lifetime=2 * DAY)
    path.write_text(f"{raw}\n")
    ours = TokenManager(store=FileStore(path), base_url=qwen.base_url)
    with managing(qwen, time, store=FileStore(path)) as theirs:
        assert ours.token == theirs.token == raw
        successor = ours.refresh()
        time.takes(MINUTE)
        assert theirs.token == successor == path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
