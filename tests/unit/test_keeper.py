"""One run of the keeper, as a table of scenarios, each with what is stored afterwards."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    StoreError,
    Token,
    TokenMalformedError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from qwen_token.keeper import Keeper, Outcome, Report
from qwen_token.stored_token import StoredToken
from tests.minting import NOW, token

DAY = timedelta(days=1)
WEEK = 7 * DAY


@dataclass
class MemoryStore:
    """The secret's versions in memory, with the labels that the keeper moves."""

    versions: dict[str, StoredToken] = field(default_factory=dict)
    current: str | None = None
    previous: str | None = None
    pending: str | None = None
    before_promote: Callable[[], None] = lambda: None
    read_fails: QwenTokenError | None = None
    promote_fails: QwenTokenError | None = None

    def hold(self, held_token: Token, *, note: str = "") -> None:
        """Put a token in, as a person does, with something of their own beside it."""
        version = f"v{len(self.versions) + 1}"
        self.versions[version] = StoredToken(held_token, version, f"{held_token.raw} {note}")
        self._move(version)

    def _move(self, version: str) -> None:
        self.previous, self.current = self.current, version

    @property
    def current_token(self) -> Token:
        assert self.current is not None
        return self.versions[self.current].token

    def read(self) -> StoredToken | None:
        if self.read_fails is not None:
            raise self.read_fails
        return None if self.current is None else self.versions[self.current]

    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken:
        version = f"v{len(self.versions) + 1}"
        self.versions[version] = StoredToken(successor, version, self._text(successor, over))
        self.pending = version
        return self.versions[version]

    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        if candidate.text == self._text(candidate.token, over):
            return candidate
        return self.stage(candidate.token, over=over)

    def _text(self, successor: Token, over: StoredToken) -> str:
        return over.text.replace(over.token.raw, successor.raw)

    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken:
        self.before_promote()
        if self.promote_fails is not None:
            raise self.promote_fails
        if self.current == over.version_id:
            self._move(staged.version_id)
        current = self.read()
        assert current is not None
        return current

    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        labelled = [v for v in (self.pending, self.previous) if v and v != to.version_id]
        found = [self.versions[version] for version in dict.fromkeys(labelled)]
        return sorted(found, key=lambda held: held.token.expires_at, reverse=True)


@dataclass
class ScriptedClient:
    """The API: what it answers to which token."""

    refreshes: dict[Token, Token | QwenTokenError] = field(default_factory=dict)
    refuses: dict[Token, QwenTokenError] = field(default_factory=dict)
    calls: list[tuple[str, Token]] = field(default_factory=list)
    given: list[timedelta] = field(default_factory=list)
    during_refresh: list[Callable[[], None]] = field(default_factory=list)

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        self.calls.append(("refresh", token))
        self.given.append(within)
        if self.during_refresh:
            self.during_refresh.pop(0)()
        answer = self.refreshes[token]
        if isinstance(answer, QwenTokenError):
            raise answer
        return answer

    def verify(self, token: Token, *, within: timedelta) -> None:
        self.calls.append(("verify", token))
        self.given.append(within)
        if token in self.refuses:
            raise self.refuses[token]


@dataclass
class Scene:
    store: MemoryStore = field(default_factory=MemoryStore)
    client: ScriptedClient = field(default_factory=ScriptedClient)
    time_left: timedelta = timedelta(seconds=120)

    def run(self, **options: bool) -> Report:
        return Keeper(
            store=self.store,
            client=lambda: self.client,
            clock=lambda: NOW,
            time_left=lambda: self.time_left,
            refresh_before=3 * DAY,
            critical_before=DAY,
        ).run(**options)


OLD = token(left=2 * DAY)
NEW = token(left=WEEK)
NEWER = token(left=WEEK + DAY)


def interrupt_once(scene: Scene, write: Callable[[], None]) -> None:
    """Let another writer write just before the run's first promotion."""

    def interrupt() -> None:
        scene.store.before_promote = lambda: None
        write()

    scene.store.before_promote = interrupt


@pytest.fixture
def scene() -> Scene:
    """A stale token is held, and the API trades it for a new one."""
    scene = Scene()
    scene.store.hold(OLD)
    scene.client.refreshes[OLD] = NEW
    return scene


def test_a_fresh_token_is_left_alone_and_nobody_is_asked() -> None:
    scene = Scene()
    scene.store.hold(NEW)

    report = scene.run()

    assert (report.outcome, report.held) == (Outcome.FRESH, scene.store.versions["v1"])
    assert scene.client.calls == []
    assert list(scene.store.versions) == ["v1"]


def test_a_stale_token_is_traded_verified_and_replaced(scene: Scene) -> None:
    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert report.held is not None
    assert report.held.token == NEW
    assert scene.store.current_token == NEW
    assert scene.store.previous == "v1"
    assert scene.client.calls == [("refresh", OLD), ("verify", NEW)]


def test_an_expired_token_is_still_shown_to_the_api() -> None:
    scene = Scene()
    expired = token(left=-DAY)
    scene.store.hold(expired)
    scene.client.refreshes[expired] = NEW

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW


def test_force_refreshes_even_a_fresh_token() -> None:
    scene = Scene()
    scene.store.hold(NEW)
    scene.client.refreshes[NEW] = NEWER

    assert scene.run(force=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEWER


def test_a_dry_run_says_what_it_would_do_and_does_nothing(scene: Scene) -> None:
    assert scene.run(dry_run=True).outcome is Outcome.WOULD_REFRESH
    assert scene.client.calls == []
    assert list(scene.store.versions) == ["v1"]


def test_a_dry_run_wins_over_force() -> None:
    scene = Scene()
    scene.store.hold(NEW)

    assert scene.run(force=True, dry_run=True).outcome is Outcome.WOULD_REFRESH
    assert scene.client.calls == []
    assert list(scene.store.versions) == ["v1"]


def test_a_secret_that_never_had_a_value_awaits_its_token() -> None:
    assert Scene().run() == Report(Outcome.AWAITING_TOKEN, None)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(OLD, TokenNotExtendedError, id="an echo"),
        pytest.param(token(left=DAY), TokenNotExtendedError, id="a worse token"),
        pytest.param(token(left=WEEK, account="mallory"), WrongAccountError, id="another's"),
        pytest.param(UpstreamUnavailableError("down"), UpstreamUnavailableError, id="no answer"),
        pytest.param(RateLimitedError("slow"), RateLimitedError, id="a rate limit"),
        pytest.param(TokenRejectedError("dead"), TokenRejectedError, id="a rejection"),
    ],
)
def test_a_refresh_that_fails_leaves_the_old_token_and_nothing_staged(
    scene: Scene, answer: Token | QwenTokenError, kind: type[QwenTokenError]
) -> None:
    scene.client.refreshes[OLD] = answer

    with pytest.raises(kind) as caught:
        scene.run()

    assert caught.value.expires_at == OLD.expires_at
    assert scene.store.current_token == OLD
    assert list(scene.store.versions) == ["v1"]


def test_a_new_token_refused_at_verify_says_nothing_about_the_old_one(scene: Scene) -> None:
    scene.client.refuses[NEW] = TokenRejectedError("refused")

    with pytest.raises(UpstreamUnexpectedError) as caught:
        scene.run()

    assert str(caught.value) == "the API refused the token that it had just issued"
    assert caught.value.expires_at == OLD.expires_at
    assert scene.store.current_token == OLD
    assert scene.store.pending == "v2"


def test_a_new_token_that_could_not_be_verified_is_not_promoted(scene: Scene) -> None:
    scene.client.refuses[NEW] = UpstreamUnavailableError("down")

    with pytest.raises(UpstreamUnavailableError):
        scene.run()

    assert scene.store.current_token == OLD


def test_a_short_lived_token_is_stored_and_then_reported() -> None:
    scene = Scene()
    old, short = token(left=timedelta(hours=1)), token(left=timedelta(hours=2))
    scene.store.hold(old)
    scene.client.refreshes[old] = short

    with pytest.raises(TokenShortLivedError) as caught:
        scene.run()

    assert scene.store.current_token == short
    assert caught.value.expires_at == short.expires_at


def test_a_faster_writer_wins_and_the_run_ends_well(scene: Scene) -> None:
    scene.store.before_promote = lambda: scene.store.hold(NEWER)

    report = scene.run()

    assert report.outcome is Outcome.SUPERSEDED
    assert report.held is not None
    assert report.held.token == NEWER
    assert scene.store.current_token == NEWER


@pytest.mark.parametrize("left", [2 * DAY, -DAY], ids=["a stale", "an expired"])
def test_a_faster_writers_token_that_is_due_itself_is_refreshed_in_the_same_run(
    scene: Scene, left: timedelta
) -> None:
    due = token(left=left, jti="a login")
    interrupt_once(scene, lambda: scene.store.hold(due))
    scene.client.refreshes[due] = NEWER

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEWER
    assert [call for call in scene.client.calls if call[0] == "refresh"] == [
        ("refresh", OLD),
        ("refresh", due),
    ]


def test_a_faster_writers_dead_token_gives_way_to_the_one_that_this_run_staged(
    scene: Scene,
) -> None:
    dead = token(left=2 * DAY, jti="a login")
    interrupt_once(scene, lambda: scene.store.hold(dead))
    scene.client.refreshes[dead] = TokenRejectedError("dead")

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW


def test_a_key_edited_beside_the_token_meanwhile_is_kept_and_the_token_refreshed_all_the_same(
    scene: Scene,
) -> None:
    interrupt_once(scene, lambda: scene.store.hold(OLD, note="edited"))

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert report.held is not None
    assert report.held.token == NEW
    assert report.held.text.endswith(" edited")


def test_a_run_that_other_writers_keep_overtaking_with_due_tokens_fails_in_the_end(
    scene: Scene,
) -> None:
    due = [token(left=2 * DAY, jti=f"login {each}") for each in range(3)]
    logins = iter(due)
    scene.store.before_promote = lambda: scene.store.hold(next(logins))
    scene.client.refreshes |= dict.fromkeys(due, NEW)

    with pytest.raises(StoreError, match=r"^another writer keeps .* due itself$") as caught:
        scene.run()

    assert caught.value.expires_at == due[1].expires_at
    assert scene.store.current_token == due[1]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(TokenRejectedError("dead"), id="is rejected"),
        pytest.param(UpstreamUnavailableError("down"), id="gets no answer"),
        pytest.param(WrongAccountError("a guest"), id="is answered for another account"),
        pytest.param(OLD, id="is echoed"),
    ],
)
def test_a_login_while_the_api_is_asked_wins_whatever_becomes_of_the_old_token(
    scene: Scene, failure: Token | QwenTokenError
) -> None:
    scene.client.refreshes[OLD] = failure
    scene.client.during_refresh = [lambda: scene.store.hold(NEWER)]

    report = scene.run()

    assert report.outcome is Outcome.SUPERSEDED
    assert scene.store.current_token == NEWER
    assert scene.client.calls == [("refresh", OLD)]


def test_a_stale_token_put_in_while_the_old_one_was_rejected_is_refreshed_in_the_same_run(
    scene: Scene,
) -> None:
    due = token(left=2 * DAY, jti="a login")
    scene.client.refreshes |= {OLD: TokenRejectedError("dead"), due: NEWER}
    scene.client.during_refresh = [lambda: scene.store.hold(due)]

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEWER


def test_garbage_put_in_while_the_old_token_was_rejected_is_what_the_run_fails_with(
    scene: Scene,
) -> None:
    def garble() -> None:
        scene.store.read_fails = TokenMalformedError("no JWT")

    scene.client.refreshes[OLD] = TokenRejectedError("dead")
    scene.client.during_refresh = [garble]

    with pytest.raises(TokenMalformedError) as caught:
        scene.run()

    assert caught.value.expires_at is None


def test_a_store_that_fails_when_looked_at_again_does_not_hide_what_failed_first(
    scene: Scene,
) -> None:
    def break_down() -> None:
        scene.store.read_fails = StoreError("down")

    scene.client.refreshes[OLD] = RateLimitedError("slow")
    scene.client.during_refresh = [break_down]

    with pytest.raises(RateLimitedError) as caught:
        scene.run()

    assert caught.value.expires_at == OLD.expires_at


def test_what_replaced_the_token_meanwhile_and_is_none_fails_with_an_unknown_expiry(
    scene: Scene,
) -> None:
    def garble() -> None:
        scene.store.hold(NEWER)
        scene.store.read_fails = TokenMalformedError("no JWT")

    scene.store.before_promote = garble

    with pytest.raises(TokenMalformedError) as caught:
        scene.run()

    assert caught.value.expires_at is None


@pytest.mark.parametrize("kind", [TokenMissingError, TokenMalformedError, StoreError])
def test_a_secret_that_cannot_be_read_fails_with_an_unknown_expiry(
    kind: type[QwenTokenError],
) -> None:
    scene = Scene()
    scene.store.read_fails = kind("…")

    with pytest.raises(kind) as caught:
        scene.run()

    assert caught.value.expires_at is None


# --- recovery from a rejected current token -------------------------------------------------------


def test_a_staged_token_takes_over_when_the_current_one_is_dead(scene: Scene) -> None:
    scene.client.refreshes[OLD] = TokenRejectedError("dead")
    held = scene.store.read()
    assert held is not None
    scene.store.stage(NEW, over=held)

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW
    assert scene.client.calls == [("refresh", OLD), ("verify", NEW)]
    assert list(scene.store.versions) == ["v1", "v2"]


def test_a_stale_previous_token_is_refreshed_before_it_takes_over() -> None:
    scene = Scene()
    previous, dead = token(left=DAY), token(left=2 * DAY)
    scene.store.hold(previous)
    scene.store.hold(dead)
    scene.client.refreshes = {dead: TokenRejectedError("dead"), previous: NEW}

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW


def test_a_previous_token_that_is_dead_too_leaves_the_first_rejection() -> None:
    scene = Scene()
    previous, dead = token(left=DAY), token(left=2 * DAY)
    scene.store.hold(previous)
    scene.store.hold(dead)
    scene.client.refreshes = {
        dead: TokenRejectedError("dead"),
        previous: TokenRejectedError("dead too"),
    }

    with pytest.raises(TokenRejectedError) as caught:
        scene.run()

    assert str(caught.value) == "dead"
    assert caught.value.expires_at == dead.expires_at
    assert caught.value.expires_at == dead.expires_at
    assert scene.store.current_token == dead


def test_an_expired_previous_token_is_not_even_asked_about() -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(token(left=-DAY))
    scene.store.hold(dead)
    scene.client.refreshes = {dead: TokenRejectedError("dead")}

    with pytest.raises(TokenRejectedError):
        scene.run()

    assert scene.client.calls == [("refresh", dead)]


def test_an_alternative_that_cannot_be_tried_stays_a_rejection_that_says_so() -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.client.refreshes = {dead: TokenRejectedError("dead")}
    scene.client.refuses = {NEW: UpstreamUnavailableError("down")}

    with pytest.raises(TokenRejectedError, match="could not be tried"):
        scene.run()

    assert scene.store.current_token == dead


@pytest.mark.parametrize(
    "kind",
    [TokenRejectedError, WrongAccountError, UpstreamUnavailableError],
    ids=["dead too", "another account's", "not to be tried"],
)
def test_an_alternative_that_is_no_good_does_not_end_the_search(
    kind: type[QwenTokenError],
) -> None:
    scene = Scene()
    staged, previous, dead = token(left=WEEK), token(left=6 * DAY), token(left=2 * DAY)
    scene.store.hold(previous)
    scene.store.hold(dead)
    held = scene.store.read()
    assert held is not None
    scene.store.stage(staged, over=held)
    scene.client.refreshes = {dead: TokenRejectedError("dead")}
    scene.client.refuses = {staged: kind("no good")}

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == previous


def test_an_alternative_takes_over_the_current_versions_other_keys() -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW, note="as it was")
    scene.store.hold(dead, note="as it is")
    scene.client.refreshes = {dead: TokenRejectedError("dead")}

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert report.held is not None
    assert report.held.text == f"{NEW.raw} as it is"


@pytest.mark.parametrize("kind", [TokenMalformedError, TokenMissingError])
def test_what_another_writer_put_in_during_a_recovery_is_what_the_run_fails_with(
    kind: type[QwenTokenError],
) -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.client.refreshes = {dead: TokenRejectedError("dead")}
    scene.store.promote_fails = kind("what is there now")

    with pytest.raises(kind, match="what is there now"):
        scene.run()


def test_a_store_that_fails_during_a_recovery_stays_a_rejection_that_says_so() -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.client.refreshes = {dead: TokenRejectedError("dead")}
    scene.store.promote_fails = StoreError("throttled")

    with pytest.raises(TokenRejectedError, match="throttled") as caught:
        scene.run()

    assert caught.value.expires_at == dead.expires_at


# --- time -----------------------------------------------------------------------------------------


def test_a_call_to_the_api_gets_no_more_time_than_the_run_can_spare(scene: Scene) -> None:
    scene.time_left = timedelta(seconds=80)

    scene.run()

    # A minute stays for storing and for the alert; the rest is shared by what is still to come.
    assert scene.client.given == [timedelta(seconds=10), timedelta(seconds=20)]


def test_an_alternative_is_verified_within_the_time_too() -> None:
    scene = Scene(time_left=timedelta(seconds=80))
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.client.refreshes = {dead: TokenRejectedError("dead")}

    scene.run()

    assert scene.client.given == [timedelta(seconds=10), timedelta(seconds=20)]


def test_a_call_to_the_api_has_a_limit_however_much_time_there_is(scene: Scene) -> None:
    scene.time_left = timedelta(hours=1)
    scene.run()
    assert scene.client.given == [timedelta(seconds=25)] * 2
