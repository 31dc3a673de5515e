"""One run of the keeper, as a table of scenarios, each with what is stored afterwards."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import pytest

from qwen_token import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    Session,
    SessionMalformedError,
    SessionRejectedError,
    StoreError,
    Token,
    TokenMalformedError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from qwen_token.errors import RunFacts, TokenDocumentError
from qwen_token.grants import Granted
from qwen_token.policy import AlertPolicy, Severity, severity
from qwen_token.run_memory import RunMemory, SignIn
from qwen_token.run_report import Outcome, Report
from qwen_token.session import Grant
from tests.minting import ACCOUNT, NOW, token
from tests.unit.keeper_fakes import (
    DAY,
    HOUR,
    MINUTE,
    NEW,
    NEWER,
    OLD,
    REJECTED,
    WEEK,
    Answer,
    MemorySessions,
    Scene,
    access_token,
    crash,
)

SECOND: Final = timedelta(seconds=1)
DOWN: Final = UpstreamUnavailableError("down")
DEAD_SESSION: Final = SessionRejectedError("the session is over")

BY_CREDENTIAL: Final = Session(refresh_token="credential-1")
BY_PASSWORD: Final = Session(email="a@example.com", password="a password")

# Of a session: about to expire, and the ones that come then.
ACCESS: Final = access_token("held", left=4 * MINUTE)
NEXT_ACCESS: Final = access_token("next")
LATER_ACCESS: Final = access_token("later", left=30 * MINUTE)


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
    scene.exchange.answers[OLD] = NEW
    return scene


def test_a_fresh_token_is_left_alone_and_nobody_is_asked() -> None:
    scene = Scene()
    scene.store.hold(NEW)

    report = scene.run()

    assert (report.outcome, report.held) == (Outcome.FRESH, scene.store.versions["v1"])
    assert scene.calls == []
    assert list(scene.store.versions) == ["v1"]


def test_a_stale_token_is_traded_verified_and_replaced(scene: Scene) -> None:
    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert report.held is not None
    assert report.held.token == NEW
    assert scene.store.current_token == NEW
    assert scene.store.previous == "v1"
    assert scene.calls == [("exchange", OLD), ("verify", NEW)]


def test_an_expired_token_is_still_shown_to_the_api() -> None:
    scene = Scene()
    expired = token(left=-DAY)
    scene.store.hold(expired)
    scene.exchange.answers[expired] = NEW

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW


def test_force_refreshes_even_a_fresh_token() -> None:
    scene = Scene()
    scene.store.hold(NEW)
    scene.exchange.answers[NEW] = NEWER

    assert scene.run(force=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEWER


def test_a_dry_run_shows_its_decision_and_does_nothing(scene: Scene) -> None:
    assert scene.run(dry_run=True).outcome is Outcome.WOULD_REFRESH
    assert scene.calls == []
    assert list(scene.store.versions) == ["v1"]


def test_a_dry_run_wins_over_force() -> None:
    scene = Scene()
    scene.store.hold(NEW)

    assert scene.run(force=True, dry_run=True).outcome is Outcome.WOULD_REFRESH
    assert scene.calls == []
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
    scene.exchange.answers[OLD] = answer

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
    old, short = token(left=timedelta(minutes=5)), token(left=timedelta(minutes=9))
    scene.store.hold(old)
    scene.exchange.answers[old] = short

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
def test_a_faster_writers_due_token_is_refreshed_in_the_same_run(
    scene: Scene, left: timedelta
) -> None:
    due = token(left=left, jti="a login")
    interrupt_once(scene, lambda: scene.store.hold(due))
    scene.exchange.answers[due] = NEWER

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEWER
    assert [call for call in scene.calls if call[0] == "exchange"] == [
        ("exchange", OLD),
        ("exchange", due),
    ]


def test_a_faster_writers_dead_token_gives_way_to_this_runs_staged_one(
    scene: Scene,
) -> None:
    dead = token(left=2 * DAY, jti="a login")
    interrupt_once(scene, lambda: scene.store.hold(dead))
    scene.exchange.answers[dead] = TokenRejectedError("dead")

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW


def test_a_key_edited_during_the_run_is_kept_and_the_token_refreshed(
    scene: Scene,
) -> None:
    interrupt_once(scene, lambda: scene.store.hold(OLD, note="edited"))

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert report.held is not None
    assert report.held.token == NEW
    assert json.loads(report.held.text)["note"] == "edited"


def test_a_run_that_other_writers_keep_overtaking_fails_in_the_end(
    scene: Scene,
) -> None:
    due = [token(left=2 * DAY, jti=f"login {each}") for each in range(4)]
    logins = iter(due)
    scene.store.before_promote = lambda: scene.store.hold(next(logins))
    scene.exchange.answers |= dict.fromkeys(due, NEW)

    with pytest.raises(StoreError, match=r"^another writer keeps replacing the token") as caught:
        scene.run()

    # At the third, it gives up.
    assert caught.value.expires_at == due[2].expires_at
    assert scene.store.current_token == due[2]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(TokenRejectedError("dead"), id="is rejected"),
        pytest.param(UpstreamUnavailableError("down"), id="gets no answer"),
        pytest.param(WrongAccountError("a guest"), id="is answered for another account"),
        pytest.param(OLD, id="is echoed"),
    ],
)
def test_a_login_during_a_run_wins_whatever_the_result(
    scene: Scene, failure: Token | QwenTokenError
) -> None:
    scene.exchange.answers[OLD] = failure
    scene.exchange.during = [lambda: scene.store.hold(NEWER)]

    report = scene.run()

    assert report.outcome is Outcome.SUPERSEDED
    assert scene.store.current_token == NEWER
    assert scene.calls == [("exchange", OLD)]


def test_a_stale_token_put_in_during_a_run_is_refreshed_in_that_run(
    scene: Scene,
) -> None:
    due = token(left=2 * DAY, jti="a login")
    scene.exchange.answers |= {OLD: TokenRejectedError("dead"), due: NEWER}
    scene.exchange.during = [lambda: scene.store.hold(due)]

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEWER


def test_garbage_put_in_during_a_run_is_what_the_run_fails_with(
    scene: Scene,
) -> None:
    def garble() -> None:
        scene.store.read_fails = TokenMalformedError("no JWT")

    scene.exchange.answers[OLD] = TokenRejectedError("dead")
    scene.exchange.during = [garble]

    with pytest.raises(TokenMalformedError) as caught:
        scene.run()

    assert caught.value.expires_at is None


def test_a_store_failure_does_not_hide_the_first_failure(
    scene: Scene,
) -> None:
    def break_down() -> None:
        scene.store.read_fails = StoreError("down")

    scene.exchange.answers[OLD] = RateLimitedError("slow")
    scene.exchange.during = [break_down]

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
    scene.exchange.answers[OLD] = TokenRejectedError("dead")
    held = scene.store.read()
    assert held is not None
    scene.store.stage(NEW, over=held)

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW
    assert scene.calls == [("exchange", OLD), ("verify", NEW)]
    assert list(scene.store.versions) == ["v1", "v2"]


def test_a_stale_previous_token_is_refreshed_before_it_takes_over() -> None:
    scene = Scene()
    previous, dead = token(left=DAY), token(left=2 * DAY)
    scene.store.hold(previous)
    scene.store.hold(dead)
    scene.exchange.answers = {dead: TokenRejectedError("dead"), previous: NEW}

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW


def test_a_previous_token_that_is_dead_too_leaves_the_first_rejection() -> None:
    scene = Scene()
    previous, dead = token(left=DAY), token(left=2 * DAY)
    scene.store.hold(previous)
    scene.store.hold(dead)
    scene.exchange.answers = {
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
    scene.exchange.answers = {dead: TokenRejectedError("dead")}

    with pytest.raises(TokenRejectedError):
        scene.run()

    assert scene.calls == [("exchange", dead)]


def test_an_untried_alternative_is_named_in_the_rejection() -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.exchange.answers = {dead: TokenRejectedError("dead")}
    scene.client.refuses = {NEW: UpstreamUnavailableError("down")}

    with pytest.raises(TokenRejectedError, match="could not be tried"):
        scene.run()

    assert scene.store.current_token == dead


@pytest.mark.parametrize(
    "kind",
    [TokenRejectedError, WrongAccountError, UpstreamUnavailableError],
    ids=["dead too", "another account's", "not to be tried"],
)
def test_a_bad_alternative_does_not_end_the_search(
    kind: type[QwenTokenError],
) -> None:
    scene = Scene()
    staged, previous, dead = token(left=WEEK), token(left=6 * DAY), token(left=2 * DAY)
    scene.store.hold(previous)
    scene.store.hold(dead)
    held = scene.store.read()
    assert held is not None
    scene.store.stage(staged, over=held)
    scene.exchange.answers = {dead: TokenRejectedError("dead")}
    scene.client.refuses = {staged: kind("no good")}

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == previous


def test_an_alternative_takes_over_the_current_versions_other_keys() -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW, note="as it was")
    scene.store.hold(dead, note="as it is")
    scene.exchange.answers = {dead: TokenRejectedError("dead")}

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert report.held is not None
    assert json.loads(report.held.text) == {"token": NEW.raw, "note": "as it is"}


@pytest.mark.parametrize("kind", [TokenMalformedError, TokenMissingError])
def test_what_another_writer_put_in_during_a_recovery_is_what_the_run_fails_with(
    kind: type[QwenTokenError],
) -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.exchange.answers = {dead: TokenRejectedError("dead")}
    scene.store.promote_fails = kind("what is there now")

    with pytest.raises(kind, match="what is there now"):
        scene.run()


def test_a_store_failure_during_a_recovery_is_named_in_the_rejection() -> None:
    scene = Scene()
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.exchange.answers = {dead: TokenRejectedError("dead")}
    scene.store.promote_fails = StoreError("throttled")

    with pytest.raises(TokenRejectedError, match="throttled") as caught:
        scene.run()

    assert caught.value.expires_at == dead.expires_at


# --- time -----------------------------------------------------------------------------------------


def test_a_call_to_the_api_gets_no_more_time_than_the_run_can_spare(scene: Scene) -> None:
    scene.time_left = timedelta(seconds=80)

    scene.run()

    # A minute stays for storing and for the alert; the rest is shared by what is still to come.
    assert scene.given == [timedelta(seconds=10), timedelta(seconds=20)]


def test_an_alternative_is_verified_within_the_time_too() -> None:
    scene = Scene()
    scene.time_left = timedelta(seconds=80)
    dead = token(left=2 * DAY)
    scene.store.hold(NEW)
    scene.store.hold(dead)
    scene.exchange.answers = {dead: TokenRejectedError("dead")}

    scene.run()

    assert scene.given == [timedelta(seconds=10), *[timedelta(seconds=20)] * 2]


def test_a_call_to_the_api_has_a_limit_even_with_time_left(scene: Scene) -> None:
    scene.time_left = timedelta(hours=1)
    scene.run()
    assert scene.given == [timedelta(seconds=25)] * 2


# --- the lease ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"force": True}, {"check": True}])
def test_a_run_without_the_lease_spends_nothing_and_does_not_fail(
    scene: Scene, options: dict[str, bool]
) -> None:
    with scene.is_leased():
        report = scene.run(**options)

    assert report == Report(Outcome.LEASED, scene.store.versions["v1"])
    assert scene.calls == []


def test_a_run_that_would_get_the_first_token_needs_the_lease_as_well() -> None:
    scene = Scene()
    scene.log_in(BY_CREDENTIAL)

    with scene.is_leased():
        assert scene.run() == Report(Outcome.LEASED, None)

    assert scene.calls == []


def test_a_fresh_run_needs_no_lease() -> None:
    scene = Scene()
    scene.store.hold(NEW)
    scene.state.is_down = True

    assert scene.run().outcome is Outcome.FRESH


@pytest.mark.parametrize("options", [{}, {"force": True}, {"check": True}])
def test_where_the_lease_cannot_be_known_nothing_is_spent(
    scene: Scene, options: dict[str, bool]
) -> None:
    scene.state.is_down = True

    failure = scene.fails(StoreError, **options)

    assert failure.expires_at == OLD.expires_at
    assert failure.facts is not None
    assert failure.facts.version_id == "v1"
    assert scene.calls == []


def test_where_the_lease_cannot_be_known_no_first_token_is_got() -> None:
    scene = Scene()
    scene.log_in(BY_CREDENTIAL)
    scene.state.is_down = True

    scene.fails(StoreError)

    assert scene.calls == []


def test_a_run_with_an_outdated_read_spends_nothing(
    scene: Scene,
) -> None:
    scene.before_lease = [scene.run, scene.calls.clear]

    ledger = scene.ledger()
    report = scene.keeper(ledger).run()

    assert report.outcome is Outcome.SUPERSEDED
    assert report.held is not None
    assert report.held.token == NEW
    assert [name for name, _ in scene.calls].count("exchange") == 1


def test_a_run_overtaken_twice_goes_on_with_the_due_current_token(scene: Scene) -> None:
    due = token(left=2 * DAY, jti="a login")
    scene.exchange.answers[due] = NEWER

    def then_a_person_writes() -> None:
        scene.run()
        scene.store.hold(due)

    scene.before_lease = [then_a_person_writes]

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEWER
    assert [shown for name, shown in scene.calls if name == "exchange"] == [OLD, due]


@pytest.mark.parametrize("left", [2 * DAY, WEEK], ids=["that is due", "that is fresh"])
def test_a_token_that_another_run_spent_in_vain_is_not_spent_again(
    scene: Scene, left: timedelta
) -> None:
    theirs = token(left=left, jti="a login")
    scene.exchange.answers[theirs] = NEWER
    # A person puts a token in while the other run spends the one before.
    scene.exchange.during = [lambda: scene.store.hold(theirs)]
    scene.before_lease = [scene.run]

    assert scene.run().outcome is Outcome.SUPERSEDED

    spent = [shown for name, shown in scene.calls if name == "exchange"]
    assert spent.count(OLD) == 1


def test_a_run_that_read_before_the_first_token_spends_nothing() -> None:
    scene = first_of_a_session()
    scene.before_lease = [scene.run]

    report = scene.run()

    assert report.outcome is Outcome.SUPERSEDED
    assert [name for name, _ in scene.calls].count("refresh_token") == 1


# --- a session ------------------------------------------------------------------------------------


def of_a_session(answer: Answer = NEXT_ACCESS, *, held: Token = ACCESS) -> Scene:
    """Return a session whose access token is due."""
    scene = Scene()
    scene.store.hold(held)
    scene.log_in(BY_CREDENTIAL)
    scene.refresh_token.answers["credential-1"] = answer
    return scene


def sessions_of(scene: Scene) -> MemorySessions:
    assert scene.sessions is not None
    return scene.sessions


def test_an_access_token_is_replaced_by_the_credential() -> None:
    scene = of_a_session(Granted(NEXT_ACCESS, "credential-2", NOW + 30 * DAY))

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert report.grant is Grant.REFRESH_TOKEN
    assert report.replaced == "v1"
    assert report.session_expires_at == NOW + 30 * DAY
    assert report.expires_at == NEXT_ACCESS.expires_at
    assert scene.store.current_token == NEXT_ACCESS
    assert sessions_of(scene).current_session.refresh_token == "credential-2"
    assert scene.calls == [("refresh_token", "credential-1"), ("verify", NEXT_ACCESS)]


def test_a_token_of_the_first_kind_gives_way_to_a_session_though_it_expires_later() -> None:
    scene = of_a_session(held=OLD)

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEXT_ACCESS


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param("stage", id="cannot be staged"),
        pytest.param("verify", id="is refused"),
        pytest.param("promote", id="cannot be promoted"),
    ],
)
def test_the_credential_is_stored_whatever_happens_to_the_token(trouble: str) -> None:
    scene = of_a_session(Granted(NEXT_ACCESS, "credential-2"))
    if trouble == "stage":
        scene.store.stage_fails = StoreError("down")
    if trouble == "verify":
        scene.client.refuses[NEXT_ACCESS] = REJECTED
    if trouble == "promote":
        scene.store.promote_fails = StoreError("down")

    scene.fails(QwenTokenError)

    assert sessions_of(scene).current_session.refresh_token == "credential-2"


def test_the_credential_is_kept_before_the_token_is_staged() -> None:
    scene = of_a_session(Granted(NEXT_ACCESS, "credential-2"))
    scene.store.before_stage = crash

    scene.dies()

    assert sessions_of(scene).current_session.refresh_token == "credential-2"
    assert list(scene.store.versions) == ["v1"]


def test_a_session_put_in_during_a_run_is_used_by_that_run() -> None:
    scene = of_a_session(Granted(NEXT_ACCESS, "credential-2"))
    scene.refresh_token.during = [lambda: sessions_of(scene).hold(Session(refresh_token="theirs"))]
    scene.refresh_token.answers["theirs"] = LATER_ACCESS

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS
    assert sessions_of(scene).current_session.refresh_token == "theirs"


def test_a_run_that_persons_keep_overtaking_with_sessions_fails_in_the_end() -> None:
    scene = of_a_session(Granted(NEXT_ACCESS, "credential-2"))
    sessions_of(scene).before_promote = lambda: sessions_of(scene).hold(BY_CREDENTIAL)

    failure = scene.fails(StoreError)

    assert str(failure).startswith("another writer keeps replacing the token, or the session")
    assert scene.store.current_token == ACCESS


def test_the_account_that_the_verification_names_is_remembered_and_then_written() -> None:
    scene = of_a_session()
    scene.run()
    assert sessions_of(scene).current_session.account is None
    scene.passes(11 * MINUTE)
    scene.refresh_token.answers["credential-1"] = Granted(LATER_ACCESS, "credential-2")

    scene.run()

    assert sessions_of(scene).current_session.account == ACCOUNT


_OTHERS = [
    pytest.param(Session(refresh_token="credential-1", account="alice"), ACCESS, id="the session"),
    pytest.param(BY_CREDENTIAL, access_token(left=4 * MINUTE, account="alice"), id="the token"),
    pytest.param(BY_CREDENTIAL, token(left=DAY, account="alice"), id="a token of the first kind"),
]


@pytest.mark.parametrize(("session", "held"), _OTHERS)
def test_a_token_without_an_account_must_be_verified_as_that_of(
    session: Session, held: Token
) -> None:
    scene = of_a_session(held=held)
    scene.log_in(session)
    scene.client.accounts[NEXT_ACCESS] = "mallory"

    failure = scene.fails(WrongAccountError)

    assert scene.store.current_token == held
    assert failure.expires_at == held.expires_at


def test_an_exchanged_token_does_not_prove_the_account_of_a_session() -> None:
    scene = of_a_session(DEAD_SESSION, held=OLD)
    scene.exchange.answers[OLD] = NEW

    scene.run()

    assert scene.memory.account is None


def test_what_a_failed_run_knew_of_its_login_goes_with_the_failure() -> None:
    scene = of_a_session(DOWN)
    scene.log_in(Session(refresh_token="credential-1", expires_at=NOW + DAY))

    assert scene.fails(UpstreamUnavailableError).facts == RunFacts(
        version_id="v1", login_ends_at=NOW + DAY, session_expires_at=NOW + DAY
    )


@pytest.mark.parametrize("note", ["", "ours"])
def test_a_failed_run_knows_whether_a_bare_login_would_lose_other_keys(note: str) -> None:
    scene = of_a_session(DEAD_SESSION)
    scene.store.hold(ACCESS, note=note)

    facts = scene.fails(SessionRejectedError).facts

    assert facts is not None
    assert (facts.token_holds_more, facts.session_holds_more) == (bool(note), False)


def test_an_unread_session_may_hold_more_than_a_login() -> None:
    scene = of_a_session()
    scene.log_in(SessionMalformedError("a comma too many"))

    facts = scene.fails(SessionMalformedError).facts

    assert facts is not None
    assert facts.session_holds_more


@pytest.mark.parametrize("text", ["", '{"refresh_token": "credential-1", "note": 1}'])
def test_a_run_that_succeeds_says_it_of_the_session(text: str) -> None:
    scene = of_a_session()
    sessions_of(scene).text = text

    assert scene.run().session_holds_more is bool(text)
    assert scene.run(check=True).session_holds_more is bool(text)


def test_a_token_that_is_its_own_login_ends_with_it(scene: Scene) -> None:
    scene.exchange.answers[OLD] = DOWN

    assert scene.fails(UpstreamUnavailableError).facts == RunFacts(
        version_id="v1", login_ends_at=OLD.expires_at, is_exchanged=True
    )


def test_a_malformed_session_beside_a_token_is_raised_after_the_refresh(
    scene: Scene,
) -> None:
    scene.log_in(SessionMalformedError("no login"))

    failure = scene.fails(SessionMalformedError)

    assert scene.store.current_token == NEW
    assert failure.expires_at == NEW.expires_at
    assert failure.facts is not None
    assert (failure.facts.version_id, failure.facts.replaced) == ("v2", "v1")


def test_a_token_put_in_beside_a_malformed_session_is_refreshed(
    scene: Scene,
) -> None:
    due = token(left=2 * DAY, jti="a login")
    scene.log_in(SessionMalformedError("no login"))
    interrupt_once(scene, lambda: scene.store.hold(due))
    scene.exchange.answers[due] = NEWER

    scene.fails(SessionMalformedError)

    assert scene.store.current_token == NEWER


def test_a_malformed_session_beside_a_dead_token_leaves_the_rejection(
    scene: Scene,
) -> None:
    scene.log_in(SessionMalformedError("no login"))
    scene.exchange.answers[OLD] = REJECTED

    scene.fails(TokenRejectedError)


@pytest.mark.parametrize("held", [ACCESS, None], ids=["an access token", "no token"])
def test_a_malformed_session_without_a_token_to_exchange_is_a_failure(
    held: Token | None,
) -> None:
    scene = Scene()
    if held is not None:
        scene.store.hold(held)
    scene.log_in(SessionMalformedError("no login"))

    scene.fails(SessionMalformedError)

    assert scene.calls == []


# --- dry runs, checks, and the brake of force -----------------------------------------------------

YOUNG: Final = 10 * MINUTE - SECOND


@pytest.mark.parametrize(
    ("held", "age", "options", "outcome"),
    [
        pytest.param(OLD, None, {}, Outcome.WOULD_REFRESH, id="a stale token"),
        pytest.param(NEW, None, {}, Outcome.FRESH, id="a fresh token"),
        pytest.param(NEW, None, {"check": True}, Outcome.FRESH, id="a fresh token to be checked"),
        pytest.param(NEW, None, {"force": True}, Outcome.WOULD_REFRESH, id="a forced run"),
        pytest.param(NEW, YOUNG, {"force": True}, Outcome.FRESH, id="a forced run with the brake"),
        pytest.param(None, None, {}, Outcome.WOULD_REFRESH, id="a session without a token"),
    ],
)
def test_a_dry_run_reads_and_decides_and_calls_nobody(
    held: Token | None, age: timedelta | None, options: dict[str, bool], outcome: Outcome
) -> None:
    scene = Scene()
    scene.log_in(BY_CREDENTIAL)
    if held is not None and age is not None:
        scene.store.hold_own(held, age=age)
    elif held is not None:
        scene.store.hold(held)
    scene.state.is_down = True
    versions = dict(scene.store.versions)

    report = scene.run(dry_run=True, **options)

    assert report.outcome is outcome
    assert scene.calls == []
    assert scene.store.versions == versions


def test_a_session_secret_without_a_value_still_awaits_the_first_token() -> None:
    scene = Scene()
    scene.sessions = MemorySessions()

    assert scene.run() == Report(Outcome.AWAITING_TOKEN, None)


def fresh() -> Scene:
    """Return a session whose access token is fresh, and may be replaced."""
    scene = Scene()
    scene.log_in(BY_CREDENTIAL)
    scene.refresh_token.answers["credential-1"] = LATER_ACCESS
    scene.store.hold_own(NEXT_ACCESS, age=10 * MINUTE)
    return scene


def test_a_check_confirms_a_live_token() -> None:
    scene = fresh()

    report = scene.run(check=True)

    assert report == Report(Outcome.CHECKED, scene.store.read(), session=BY_CREDENTIAL)
    assert scene.calls == [("verify", NEXT_ACCESS)]
    assert (scene.memory.confirmed_version_id, scene.memory.confirmed_at) == ("v1", NOW)


def test_a_check_replaces_a_token_that_is_dead() -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = REJECTED

    assert scene.run(check=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS


def test_a_check_says_nothing_of_a_session_that_cannot_be_read() -> None:
    scene = fresh()
    scene.log_in(SessionMalformedError("no login"))

    assert scene.run(check=True) == Report(Outcome.CHECKED, scene.store.read())


def test_a_session_put_in_during_a_check_is_not_a_failure() -> None:
    scene = fresh()
    scene.refresh_token.answers["credential-1"] = Granted(LATER_ACCESS, "credential-2")
    sessions_of(scene).before_promote = crash
    scene.dies(force=True)
    sessions_of(scene).before_promote = lambda: sessions_of(scene).hold(BY_CREDENTIAL)

    assert scene.run(check=True) == Report(Outcome.CHECKED, scene.store.read())


@pytest.mark.parametrize("rotates", [True, False], ids=["kept", "refused"])
def test_a_session_put_in_while_another_one_is_spent_is_used(*, rotates: bool) -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.refresh_token.answers |= {
        "credential-1": Granted(LATER_ACCESS, "credential-2") if rotates else DEAD_SESSION,
        "theirs": LATER_ACCESS,
    }
    scene.refresh_token.during = [lambda: sessions_of(scene).hold(Session(refresh_token="theirs"))]

    assert scene.run(check=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS


@pytest.mark.parametrize(
    "trouble",
    [DOWN, UpstreamBlockedError("blocked"), RateLimitedError("slow"), UpstreamUnexpectedError("?")],
    ids=["down", "blocked", "slow", "odd"],
)
def test_a_check_without_an_answer_changes_nothing(trouble: QwenTokenError) -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = trouble

    assert scene.run(check=True).outcome is Outcome.FRESH
    assert scene.calls == [("verify", NEXT_ACCESS)]
    assert scene.memory == RunMemory()


@pytest.mark.parametrize("kind", [WrongAccountError, ConfigError])
def test_a_check_that_only_a_person_can_help_is_a_failure(kind: type[QwenTokenError]) -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = kind("…")

    failure = scene.fails(kind, check=True)

    assert failure.expires_at == NEXT_ACCESS.expires_at
    assert failure.facts is not None
    assert failure.facts.version_id == "v1"


def test_a_token_put_in_while_the_old_one_is_checked_wins() -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = WrongAccountError("a guest")
    scene.client.during_verify = [lambda: scene.store.hold(NEW)]

    report = scene.run(check=True)

    assert report.outcome is Outcome.SUPERSEDED
    assert report.held is not None
    assert report.held.token == NEW


def test_a_check_of_a_token_that_is_due_refreshes_it(scene: Scene) -> None:
    assert scene.run(check=True).outcome is Outcome.REFRESHED
    assert scene.calls == [("exchange", OLD), ("verify", NEW)]


def test_a_dead_token_without_a_way_on_fails_without_a_call_for_an_hour() -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.refresh_token.answers["credential-1"] = DEAD_SESSION
    scene.fails(SessionRejectedError, check=True)
    scene.passes(2 * MINUTE)

    scene.fails(SessionRejectedError, check=True)

    assert scene.calls == []


@pytest.mark.parametrize("options", [{"check": True}, {"force": True}], ids=["check", "force"])
def test_a_dead_token_is_due_for_the_runs_that_follow(options: Mapping[str, bool]) -> None:
    scene = Scene()
    scene.store.hold(NEW)
    scene.log_in(BY_CREDENTIAL)
    scene.client.refuses[NEW] = scene.exchange.answers[NEW] = REJECTED
    scene.refresh_token.answers["credential-1"] = DEAD_SESSION if "force" in options else DOWN
    scene.fails(QwenTokenError, **options)
    scene.passes(2 * HOUR)
    of_today = access_token(now=scene.now)
    scene.refresh_token.answers["credential-1"] = of_today

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == of_today


def test_with_a_dead_token_trouble_with_the_next_one_is_critical() -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.refresh_token.answers["credential-1"] = DOWN

    at_the_check = scene.fails(UpstreamUnavailableError, check=True)
    scene.passes(MINUTE)
    after_it = scene.fails(UpstreamUnavailableError)

    policy = AlertPolicy(alert_after=HOUR, critical_before=DAY)
    for failure in (at_the_check, after_it):
        assert severity(failure, now=NOW, since=NOW, policy=policy) is Severity.CRITICAL


def test_a_mark_that_cannot_be_set_does_not_hide_the_runs_failure() -> None:
    scene = fresh()
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.refresh_token.answers["credential-1"] = DOWN
    scene.store.note_fails = StoreError("refused")

    scene.fails(UpstreamUnavailableError, check=True)


def test_a_token_that_was_called_dead_but_is_alive_is_fresh_again() -> None:
    scene = Scene()
    scene.store.hold(NEWER)
    scene.log_in(BY_PASSWORD)
    scene.client.refuses[NEWER] = scene.exchange.answers[NEWER] = REJECTED
    scene.password.answers["a password"] = DOWN
    scene.fails(UpstreamUnavailableError, check=True)
    scene.passes(2 * HOUR)
    del scene.client.refuses[NEWER]
    scene.exchange.answers[NEWER] = TokenNotExtendedError("an echo")
    scene.password.answers["a password"] = NEW

    assert scene.run().outcome is Outcome.FRESH
    scene.passes(MINUTE)
    assert scene.run().outcome is Outcome.FRESH
    assert scene.calls == []


@pytest.mark.parametrize(
    ("age", "outcome"),
    [
        pytest.param(YOUNG, Outcome.CHECKED, id="for ten minutes"),
        pytest.param(10 * MINUTE, Outcome.REFRESHED, id="and no longer"),
    ],
)
def test_a_forced_run_only_checks_what_the_keeper_wrote(age: timedelta, outcome: Outcome) -> None:
    scene = of_a_session(LATER_ACCESS)
    scene.store.hold_own(NEXT_ACCESS, age=age)

    assert scene.run(force=True).outcome is outcome


def test_a_forced_run_replaces_a_dead_token_however_young() -> None:
    scene = of_a_session(LATER_ACCESS)
    scene.store.hold_own(NEXT_ACCESS)
    scene.client.refuses[NEXT_ACCESS] = REJECTED

    assert scene.run(force=True).outcome is Outcome.REFRESHED


def dying_young() -> Scene:
    """Return a session whose tokens the API accepts, and then refuses: twice by now."""
    scene = Scene()
    scene.log_in(BY_CREDENTIAL)
    scene.store.hold_own(NEXT_ACCESS)
    scene.refresh_token.answers["credential-1"] = LATER_ACCESS
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    assert scene.run(check=True).outcome is Outcome.REFRESHED
    scene.client.refuses[LATER_ACCESS] = REJECTED
    return scene


def test_tokens_that_die_young_are_not_followed_by_another_at_once() -> None:
    scene = dying_young()

    for _ in range(5):
        scene.fails(TokenShortLivedError, check=True)
        scene.now += MINUTE

    assert list(scene.store.versions) == ["v1", "v2"]


def test_tokens_that_died_young_do_not_hold_up_a_session_that_a_person_put_in() -> None:
    scene = dying_young()
    scene.fails(TokenShortLivedError, check=True)
    scene.log_in(THEIRS)
    theirs = access_token("theirs", left=45 * MINUTE)
    scene.refresh_token.answers["theirs"] = Granted(theirs, "kept")

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == theirs


def test_what_a_persons_session_gives_may_die_young_as_often() -> None:
    scene = dying_young()
    scene.log_in(THEIRS)
    given = [access_token(name, left=45 * MINUTE + len(name) * SECOND) for name in ("1", "22")]
    for each in given:
        scene.refresh_token.answers["theirs"] = each
        assert scene.run(check=True).outcome is Outcome.REFRESHED
        scene.client.refuses[each] = REJECTED

    scene.fails(TokenShortLivedError, check=True)

    assert list(scene.store.versions) == ["v1", "v2", "v3", "v4"]


@pytest.mark.parametrize(
    "fault",
    [SessionMalformedError("nothing that can be read"), StoreError("throttled", may_pass=True)],
    ids=["malformed", "not to be read"],
)
def test_tokens_that_die_young_are_reported_even_if_the_session_is_unreadable(
    fault: QwenTokenError,
) -> None:
    scene = dying_young()
    scene.log_in(fault)

    scene.fails(TokenShortLivedError, check=True)


def test_a_hundred_forced_runs_make_one_version_in_ten_minutes(scene: Scene) -> None:
    for _ in range(100):
        scene.run(force=True)
        scene.now += 5 * SECOND

    assert len(scene.store.versions) == 2


def test_a_forced_run_on_a_live_token_that_waits_for_a_sign_in_ends_as_fresh() -> None:
    scene = Scene()
    scene.store.hold(NEW)
    scene.log_in(BY_PASSWORD)
    scene.exchange.answers[NEW] = NEW
    scene.password.answers["a password"] = DOWN
    scene.fails(UpstreamUnavailableError, force=True)
    scene.passes(MINUTE)

    report = scene.run(force=True)

    assert report == Report(Outcome.FRESH, scene.store.read(), session=BY_PASSWORD)


def test_a_dead_token_that_waits_for_a_sign_in_is_not_called_fresh() -> None:
    scene = Scene()
    scene.store.hold(NEW)
    scene.log_in(BY_PASSWORD)
    scene.client.refuses[NEW] = REJECTED
    scene.password.answers["a password"] = DOWN
    scene.fails(UpstreamUnavailableError, check=True)
    scene.passes(MINUTE)

    scene.fails(UpstreamUnavailableError, check=True)

    assert scene.calls == []


def test_a_stale_token_that_waits_for_a_sign_in_alarms_nobody(
    scene: Scene,
) -> None:
    scene.log_in(BY_PASSWORD)
    scene.exchange.answers[OLD] = OLD
    scene.password.answers["a password"] = DOWN
    scene.fails(UpstreamUnavailableError)
    scene.passes(2 * MINUTE)

    scene.fails(UpstreamUnavailableError)

    assert scene.calls == []


# --- a successor that is staged already -----------------------------------------------------------


def staged(*, at_verify: QwenTokenError = DOWN) -> Scene:
    """Return what a run leaves that staged a successor, and could not verify it."""
    scene = of_a_session(held=access_token("held", left=14 * MINUTE))
    scene.client.refuses[NEXT_ACCESS] = at_verify
    with suppress(QwenTokenError):
        scene.run(force=True)
    scene.passes(2 * MINUTE)
    return scene


def test_a_staged_successor_is_verified_before_another_one_is_got() -> None:
    scene = staged()
    del scene.client.refuses[NEXT_ACCESS]

    report = scene.run(force=True)

    assert report.outcome is Outcome.REFRESHED
    assert report.grant is None
    assert scene.calls == [("verify", NEXT_ACCESS)]
    assert scene.store.current_token == NEXT_ACCESS
    assert scene.memory.pending is None


def test_trouble_at_the_verification_adds_no_versions() -> None:
    scene = staged()

    for _ in range(5):
        scene.fails(UpstreamUnavailableError, force=True)
        scene.now += MINUTE

    assert list(scene.store.versions) == ["v1", "v2"]


def test_it_does_not_do_so_with_a_rewritten_staged_value_either() -> None:
    """A key was edited beside the token after the successor had been staged."""
    scene = staged()
    held = scene.store.read()
    assert held is not None
    scene.store.hold(held.token, note="edited")

    for _ in range(5):
        scene.fails(UpstreamUnavailableError, force=True)
        scene.now += MINUTE

    assert list(scene.store.versions) == ["v1", "v2", "v3", "v4"]


def test_a_successor_that_waited_is_not_short_lived_for_that() -> None:
    scene = staged()
    scene.passes(5 * MINUTE)
    scene.client.refuses.clear()

    report = scene.run(force=True)

    assert report.outcome is Outcome.REFRESHED
    assert report.expires_at == NOW + 15 * MINUTE


def test_a_successor_refused_at_once_and_young_is_not_followed_by_another() -> None:
    scene = staged(at_verify=REJECTED)

    failure = scene.fails(UpstreamUnexpectedError, force=True)

    assert str(failure) == "the API refused the token that it had just issued"
    assert scene.calls == [("verify", NEXT_ACCESS)]
    assert list(scene.store.versions) == ["v1", "v2"]


def test_an_undated_successor_refused_at_once_is_not_promoted(scene: Scene) -> None:
    scene.store.clock = lambda: None
    scene.client.refuses[NEW] = REJECTED

    scene.fails(UpstreamUnexpectedError)

    assert scene.store.current_token == OLD


@pytest.mark.parametrize(
    "refusal", [REJECTED, WrongAccountError("a guest")], ids=["refused", "of another account"]
)
def test_a_bad_successor_is_followed_by_another_after_ten_minutes(
    refusal: QwenTokenError,
) -> None:
    scene = staged(at_verify=refusal)
    scene.now = NOW + YOUNG
    scene.fails(type(refusal) if refusal is not REJECTED else UpstreamUnexpectedError, force=True)
    scene.now = NOW + 10 * MINUTE
    scene.refresh_token.answers["credential-1"] = LATER_ACCESS

    assert scene.run(force=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS
    assert scene.memory.pending is None


THEIRS: Final = Session(refresh_token="theirs")
NO_GOOD: Final = pytest.mark.parametrize(
    ("refusal", "failure"),
    [(REJECTED, UpstreamUnexpectedError), (WrongAccountError("a guest"), WrongAccountError)],
    ids=["refused", "of another account"],
)


@NO_GOOD
def test_a_bad_successor_does_not_delay_a_persons_new_session(
    refusal: QwenTokenError, failure: type[QwenTokenError]
) -> None:
    scene = staged(at_verify=refusal)
    scene.fails(failure, force=True)
    scene.log_in(THEIRS)
    scene.refresh_token.answers["theirs"] = LATER_ACCESS

    assert scene.run(force=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS


def test_nor_one_that_was_put_in_while_the_login_before_it_was_spent() -> None:
    scene = of_a_session()
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.refresh_token.during.append(lambda: sessions_of(scene).hold(THEIRS))
    scene.fails(UpstreamUnexpectedError)
    scene.refresh_token.answers["theirs"] = LATER_ACCESS

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS


def test_a_first_session_beside_an_exchanged_token_lifts_nothing(scene: Scene) -> None:
    scene.sessions = MemorySessions()
    scene.client.refuses[NEW] = REJECTED
    scene.fails(UpstreamUnexpectedError)
    scene.log_in(THEIRS)
    scene.refresh_token.answers["theirs"] = LATER_ACCESS

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS


@pytest.mark.parametrize("kept", [None, "kept"], ids=["stays", "rotates"])
def test_what_a_persons_session_gives_is_held_to_the_brake_as_well(kept: str | None) -> None:
    """The host goes on with tokens that the API refuses: one more version, and no storm."""
    scene = staged(at_verify=REJECTED)
    scene.log_in(THEIRS)
    scene.client.refuses[LATER_ACCESS] = REJECTED
    for credential in ("theirs", "kept"):
        scene.refresh_token.answers[credential] = Granted(LATER_ACCESS, kept)

    for _ in range(9):
        scene.fails(UpstreamUnexpectedError, force=True)
        scene.now += MINUTE

    assert list(scene.store.versions) == ["v1", "v2", "v3"]


def test_a_persons_session_is_tried_until_it_gives_a_token() -> None:
    scene = staged(at_verify=REJECTED)
    scene.log_in(THEIRS)
    scene.refresh_token.answers["theirs"] = DOWN
    scene.fails(UpstreamUnavailableError, force=True)
    scene.refresh_token.answers["theirs"] = LATER_ACCESS

    assert scene.run(force=True).outcome is Outcome.REFRESHED


def test_what_a_successor_came_of_is_known_where_the_credential_rotates() -> None:
    scene = of_a_session(Granted(NEXT_ACCESS, "credential-2"))
    scene.client.refuses[NEXT_ACCESS] = REJECTED

    for _ in range(5):
        scene.fails(UpstreamUnexpectedError)
        scene.now += MINUTE

    assert list(scene.store.versions) == ["v1", "v2"]


@pytest.mark.parametrize("left", [DAY, -DAY], ids=["due", "expired"])
def test_a_dead_session_adds_no_version_while_earlier_tokens_are_revived(
    left: timedelta,
) -> None:
    """What is revived comes of no session: it is held to the brake beside any."""
    scene = Scene()
    scene.store.hold(OLD)
    scene.store.hold(token(left=left))
    scene.log_in(BY_CREDENTIAL)
    scene.exchange.answers = {scene.store.current_token: REJECTED, OLD: NEW}
    scene.refresh_token.answers["credential-1"] = DEAD_SESSION
    scene.refresh_token.answers["theirs"] = DEAD_SESSION
    scene.client.refuses[NEW] = REJECTED
    with suppress(QwenTokenError):
        scene.run()
    scene.log_in(THEIRS)
    before = len(scene.store.versions)

    for _ in range(9):
        with suppress(QwenTokenError):
            scene.run()
        scene.now += MINUTE

    assert len(scene.store.versions) <= before + 1


def test_an_earlier_staged_successor_does_not_replace_a_persons_token() -> None:
    scene = staged()
    scene.store.hold(access_token("a person's", left=4 * MINUTE))
    scene.refresh_token.answers["credential-1"] = LATER_ACCESS

    assert scene.run().outcome is Outcome.REFRESHED
    assert ("verify", NEXT_ACCESS) not in scene.calls
    assert scene.store.current_token == LATER_ACCESS


def test_a_staged_successor_that_has_expired_is_not_asked_about() -> None:
    scene = staged()
    scene.passes(20 * MINUTE)
    scene.refresh_token.answers["credential-1"] = access_token("much later", left=HOUR)

    assert scene.run().outcome is Outcome.REFRESHED
    assert ("verify", NEXT_ACCESS) not in scene.calls


def test_a_successor_that_could_not_be_promoted_is_promoted_by_the_next_run(
    scene: Scene,
) -> None:
    scene.store.promote_fails = StoreError("down")
    scene.fails(StoreError)
    scene.store.promote_fails = None
    scene.passes(2 * MINUTE)

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.calls == [("verify", NEW)]
    assert list(scene.store.versions) == ["v1", "v2"]


def test_a_persons_token_wins_over_a_staged_one_that_is_not_better() -> None:
    scene = staged()
    theirs = token(left=2 * DAY, account="alice")
    scene.store.hold(theirs)
    scene.sessions = None
    scene.exchange.answers[theirs] = better = token(left=WEEK, account="alice")
    scene.client.accounts[NEXT_ACCESS] = "mallory"
    scene.client.refuses.clear()
    scene.now = NOW + 10 * MINUTE

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == better


def test_no_login_is_spent_if_the_new_token_cannot_be_stored() -> None:
    scene = of_a_session()
    scene.store.hold(ACCESS)
    held = scene.store.versions[scene.store.current or ""]
    scene.store.versions[held.version_id] = replace(held, text=f"token={ACCESS.raw}\nnote=ours")

    scene.fails(TokenDocumentError)

    assert scene.calls == []
    assert scene.store.current == held.version_id


# --- an expired current token, and a verification that says nothing -------------------------------

EXPIRED: Final = access_token("expired", left=-MINUTE)


@pytest.mark.parametrize(
    "trouble",
    [DOWN, UpstreamBlockedError("blocked"), RateLimitedError("slow"), UpstreamUnexpectedError("?")],
    ids=["down", "blocked", "slow", "odd"],
)
def test_readers_of_an_expired_token_have_nothing_to_lose(trouble: QwenTokenError) -> None:
    scene = of_a_session(held=EXPIRED)
    scene.client.refuses[NEXT_ACCESS] = trouble

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEXT_ACCESS
    assert scene.memory.confirmed_at is None


def test_a_staged_successor_is_promoted_unverified_once_the_current_token_has_expired() -> None:
    scene = staged()
    scene.passes(12 * MINUTE)

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEXT_ACCESS
    assert scene.calls == [("verify", NEXT_ACCESS)]


@pytest.mark.parametrize("refusal", [REJECTED, WrongAccountError("a guest")])
def test_a_refusal_is_not_silence_even_if_the_current_token_has_expired(
    refusal: QwenTokenError,
) -> None:
    scene = of_a_session(held=EXPIRED)
    scene.client.refuses[NEXT_ACCESS] = refusal

    scene.fails(QwenTokenError)

    assert scene.store.current_token == EXPIRED

    # Nor is it forgotten when the API is silent.
    scene.client.refuses[NEXT_ACCESS] = DOWN
    scene.fails(UpstreamUnavailableError)

    assert scene.store.current_token == EXPIRED


def test_readers_of_an_expired_token_get_none_of_another_account_either() -> None:
    expired = access_token("expired", left=-MINUTE, account="owner")
    scene = of_a_session(held=expired)
    scene.log_in(replace(BY_CREDENTIAL, account="mallory"))
    scene.client.refuses[NEXT_ACCESS] = DOWN

    scene.fails(UpstreamUnavailableError)

    assert scene.store.current_token == expired


# --- the first token ------------------------------------------------------------------------------


def first_of_a_session() -> Scene:
    """Return a session without a token."""
    scene = Scene()
    scene.log_in(BY_CREDENTIAL)
    scene.refresh_token.answers["credential-1"] = Granted(NEXT_ACCESS, "credential-2")
    return scene


def test_the_first_token_is_verified_before_it_is_stored() -> None:
    scene = first_of_a_session()
    scene.store.before_stage = lambda: scene.calls.append(("store", NEXT_ACCESS))

    report = scene.run()

    assert report.outcome is Outcome.REFRESHED
    assert (report.grant, report.replaced) == (Grant.REFRESH_TOKEN, None)
    assert scene.store.current_token == NEXT_ACCESS
    assert scene.calls == [
        ("refresh_token", "credential-1"),
        ("verify", NEXT_ACCESS),
        ("store", NEXT_ACCESS),
    ]


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        pytest.param(DOWN, UpstreamUnavailableError, id="no answer"),
        pytest.param(REJECTED, UpstreamUnexpectedError, id="a refusal"),
        pytest.param(WrongAccountError("a guest"), WrongAccountError, id="another account"),
    ],
)
def test_an_unverified_first_token_is_neither_stored_nor_requested_again_soon(
    trouble: QwenTokenError, kind: type[QwenTokenError]
) -> None:
    scene = first_of_a_session()
    scene.client.refuses[NEXT_ACCESS] = trouble
    scene.fails(kind)
    scene.passes(YOUNG)

    failure = scene.fails(kind)

    assert str(failure).endswith("; the next first token is asked for at 12:10 UTC")
    assert scene.calls == []
    assert scene.store.versions == {}

    scene.passes(SECOND)
    scene.refresh_token.answers["credential-2"] = LATER_ACCESS
    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.memory.first_try is None


def test_a_first_token_that_cannot_be_stored_is_not_got_again_at_once() -> None:
    scene = first_of_a_session()
    scene.store.stage_fails = StoreError("forbidden")
    scene.fails(StoreError)
    scene.passes(2 * MINUTE)

    scene.fails(StoreError)

    assert scene.calls == []


def test_a_persons_new_session_is_used_for_the_first_token_at_once() -> None:
    scene = first_of_a_session()
    scene.client.refuses[NEXT_ACCESS] = WrongAccountError("a guest")
    scene.fails(WrongAccountError)
    scene.log_in(Session(refresh_token="theirs"))
    scene.refresh_token.answers["theirs"] = LATER_ACCESS

    assert scene.run().outcome is Outcome.REFRESHED


def test_a_failed_first_sign_in_is_reported_until_the_next_one() -> None:
    scene = Scene()
    scene.log_in(BY_PASSWORD)
    scene.password.answers["a password"] = NEW
    scene.client.refuses[NEW] = DOWN
    scene.fails(UpstreamUnavailableError)
    scene.passes(HOUR)

    failure = scene.fails(UpstreamUnavailableError)

    assert str(failure) == "down; the next sign-in is allowed at 2026-11-25 12:00 UTC"
    assert scene.calls == []


def test_a_token_that_a_person_put_in_before_the_first_one_was_stored_wins() -> None:
    scene = first_of_a_session()
    scene.store.before_stage = lambda: scene.store.hold(NEW)

    report = scene.run()

    assert report.outcome is Outcome.SUPERSEDED
    assert scene.store.current_token == NEW


def test_a_token_that_a_person_put_in_while_the_first_one_failed_wins() -> None:
    scene = first_of_a_session()
    scene.refresh_token.answers["credential-1"] = DEAD_SESSION
    scene.refresh_token.during = [lambda: scene.store.hold(NEW)]

    assert scene.run().outcome is Outcome.SUPERSEDED


def test_a_first_token_of_another_account_is_not_stored() -> None:
    scene = first_of_a_session()
    scene.log_in(replace(BY_CREDENTIAL, account="alice"))

    scene.fails(WrongAccountError)

    assert scene.store.versions == {}


def test_a_first_token_that_is_short_lived_is_stored_and_then_reported() -> None:
    scene = first_of_a_session()
    scene.refresh_token.answers["credential-1"] = short = access_token(left=9 * MINUTE)

    failure = scene.fails(TokenShortLivedError)

    assert scene.store.current_token == short
    assert failure.expires_at == short.expires_at
    assert failure.facts is not None
    assert (failure.facts.version_id, failure.facts.replaced) == ("v1", None)


# --- never older ----------------------------------------------------------------------------------


def rejected_early() -> Scene:
    """Return an access token that the API refused in a check; the next one expires sooner."""
    scene = of_a_session(access_token("sooner", left=12 * MINUTE))
    scene.store.hold_own(access_token("refused", left=14 * MINUTE), age=10 * MINUTE)
    scene.client.refuses[scene.store.current_token] = REJECTED
    return scene


def test_a_rejected_but_live_token_does_not_give_way_to_an_older_one() -> None:
    scene = rejected_early()
    held = scene.store.current_token
    scene.refresh_token.during = [scene.client.refuses.clear]

    assert scene.run(check=True).outcome is Outcome.FRESH
    assert scene.store.current_token == held
    assert [call for call in scene.calls if call[0] == "verify"] == [("verify", held)] * 2
    scene.calls.clear()
    assert scene.run(check=True).outcome is Outcome.CHECKED


def test_a_rejected_token_that_is_dead_gives_way_to_an_older_one() -> None:
    scene = rejected_early()

    assert scene.run(check=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == access_token("sooner", left=12 * MINUTE)


def test_a_rejected_token_is_not_asked_about_again_before_a_newer_one() -> None:
    scene = rejected_early()
    held = scene.store.current_token
    scene.refresh_token.answers["credential-1"] = LATER_ACCESS

    assert scene.run(check=True).outcome is Outcome.REFRESHED
    assert scene.calls.count(("verify", held)) == 1


def persons_new_token(*, age: timedelta = SECOND) -> Scene:
    """Return a person's new token, wrongly refused once; older ones live longer than it.

    The one before it is a person's too, and a third was staged by a run that came to nothing.
    """
    scene = Scene()
    scene.store.hold(NEW)
    over = scene.store.read()
    assert over is not None
    scene.store.stage(NEWER, over=over)
    scene.now += age
    theirs = token(left=5 * DAY)
    scene.store.hold(theirs)
    scene.exchange.answers[theirs] = REJECTED
    return scene


def forget_refusal(scene: Scene) -> Callable[[], None]:
    """Return what ends the wrong answer of an exchange, when it is called."""
    return scene.exchange.answers.clear


@pytest.mark.parametrize("age", [SECOND, timedelta()], ids=["earlier", "in the same second"])
@pytest.mark.parametrize("option", ["force", "check"])
def test_one_wrong_refusal_does_not_bring_an_older_token_back(age: timedelta, option: str) -> None:
    scene = persons_new_token(age=age)
    if not age:
        versions = scene.store.versions
        scene.store.versions = {
            name: replace(held, created_at=NOW) for name, held in versions.items()
        }
    theirs = scene.store.current_token
    if option == "check":
        scene.client.refuses[theirs] = REJECTED
    # It is wrong for one answer only.
    scene.client.during_verify = [lambda: None] * (option == "check")
    scene.client.during_verify += [scene.client.refuses.clear, forget_refusal(scene)]

    assert scene.run(**{option: True}).outcome is Outcome.FRESH
    assert scene.store.current_token == theirs
    assert scene.calls[-1] == ("verify", theirs)
    assert not scene.memory.refusals


def test_an_earlier_staged_token_is_not_an_exception() -> None:
    scene = persons_new_token()
    theirs = scene.store.current_token
    scene.memory = RunMemory(pending=scene.store.pending, pending_over="v1", token_left_behind=True)
    scene.client.during_verify = [lambda: None, forget_refusal(scene)]

    assert scene.run(force=True).outcome is Outcome.FRESH
    assert scene.store.current_token == theirs


def test_without_a_second_answer_the_older_token_does_not_come_back_either() -> None:
    scene = persons_new_token()
    theirs = scene.store.current_token
    scene.client.refuses[theirs] = DOWN

    failure = scene.fails(TokenRejectedError, force=True)

    assert "could not be tried" in str(failure)
    assert scene.store.current_token == theirs
    scene.client.refuses.clear()
    scene.exchange.answers.clear()
    assert scene.run(check=True).outcome is Outcome.FRESH
    assert scene.store.current_token == theirs


def test_a_token_that_is_refused_twice_gives_way_to_the_one_before_it() -> None:
    scene = persons_new_token()
    scene.client.refuses[NEWER] = REJECTED

    assert scene.run(force=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW


def test_one_that_expires_sooner_waits_if_the_second_check_has_no_answer() -> None:
    scene = rejected_early()
    held = scene.store.current_token

    def is_down() -> None:
        scene.client.refuses[held] = DOWN

    scene.refresh_token.during = [is_down]
    scene.fails(UpstreamUnavailableError, check=True)
    assert scene.store.current_token == held
    assert scene.memory.pending is not None
    scene.calls.clear()

    scene.fails(UpstreamUnavailableError, check=True)
    scene.client.refuses.clear()
    assert scene.run(check=True).outcome is Outcome.FRESH
    assert scene.store.current_token == held
    assert "refresh_token" not in dict(scene.calls), "what was spent is not spent again"


# --- recovery, and what a run that died left behind -----------------------------------------------


def dead_with_an_alternative() -> Scene:
    scene = Scene()
    scene.store.hold(NEW)
    scene.store.hold(token(left=2 * DAY))
    scene.exchange.answers[scene.store.current_token] = REJECTED
    return scene


def test_the_alternatives_are_tried_before_the_password() -> None:
    scene = dead_with_an_alternative()
    scene.log_in(BY_PASSWORD)

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == NEW
    assert "password" not in dict(scene.calls)


def test_the_password_is_tried_if_no_alternative_is_alive() -> None:
    scene = dead_with_an_alternative()
    scene.log_in(BY_PASSWORD)
    scene.client.refuses[NEW] = REJECTED
    scene.password.answers["a password"] = NEWER

    report = scene.run()

    assert (report.outcome, report.grant) == (Outcome.REFRESHED, Grant.PASSWORD)
    assert scene.store.current_token == NEWER


def echoed_after_a_sign_in(*, age: timedelta) -> Scene:
    """Return a server that echoes, and a sign-in that failed this long ago."""
    scene = Scene()
    scene.store.hold(OLD)
    version = scene.log_in(BY_PASSWORD).current
    assert version is not None
    scene.exchange.answers[OLD] = OLD
    scene.memory = RunMemory(sign_in=SignIn(version, NOW - age, answered=True))
    return scene


def test_a_failure_says_when_the_sign_in_comes_that_ends_it() -> None:
    scene = echoed_after_a_sign_in(age=HOUR)

    facts = scene.fails(TokenNotExtendedError).facts

    assert facts is not None
    assert facts.next_sign_in_at == NOW + 23 * HOUR


def test_if_readers_have_a_dead_token_no_sign_in_comes_in_time() -> None:
    scene = echoed_after_a_sign_in(age=HOUR)
    assert scene.sessions is not None
    scene.sessions.versions["s1"] = replace(BY_PASSWORD, refresh_token="credential-1")
    scene.refresh_token.answers["credential-1"] = SessionRejectedError("dead")
    scene.exchange.answers[OLD] = TokenRejectedError("dead")

    facts = scene.fails(SessionRejectedError).facts

    assert facts is not None
    assert facts.next_sign_in_at is None


def test_no_sign_in_comes_after_the_session_was_taken_away() -> None:
    scene = echoed_after_a_sign_in(age=HOUR)
    scene.sessions = None

    facts = scene.fails(TokenNotExtendedError).facts

    assert facts is not None
    assert facts.next_sign_in_at is None


def test_no_sign_in_is_spent_for_a_token_that_a_person_has_replaced_by_now(scene: Scene) -> None:
    scene.log_in(BY_PASSWORD)
    scene.exchange.answers[OLD] = REJECTED
    scene.exchange.during = [lambda: scene.store.hold(NEW)]

    assert scene.run().outcome is Outcome.SUPERSEDED
    assert scene.store.current_token == NEW
    assert "password" not in dict(scene.calls)


def test_no_sign_in_is_spent_while_an_alternative_could_not_be_tried() -> None:
    scene = dead_with_an_alternative()
    scene.log_in(BY_PASSWORD)
    scene.client.refuses[NEW] = DOWN

    scene.fails(UpstreamUnavailableError)

    assert "password" not in dict(scene.calls)


def test_an_alternative_that_expires_sooner_replaces_only_a_dead_token() -> None:
    scene = of_a_session(DEAD_SESSION, held=access_token("previous", left=13 * MINUTE))
    scene.store.hold_own(NEXT_ACCESS, age=10 * MINUTE)
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.refresh_token.during = [scene.client.refuses.clear]

    assert scene.run(check=True).outcome is Outcome.FRESH
    assert scene.store.current_token == NEXT_ACCESS


def test_so_does_the_successor_of_an_alternative() -> None:
    scene = Scene()
    previous, dead = token(left=DAY), token(left=30 * DAY)
    scene.store.hold(previous)
    scene.store.hold(dead)
    scene.client.refuses[dead] = REJECTED
    scene.exchange.answers[previous] = NEW
    scene.exchange.during = [scene.client.refuses.clear]

    assert scene.run(check=True).outcome is Outcome.FRESH
    assert scene.store.current_token == dead
    assert list(scene.store.versions) == ["v1", "v2"]


def test_an_echo_is_not_followed_by_an_alternative_that_expires_sooner(scene: Scene) -> None:
    scene.store.hold(echoed := token(left=2 * DAY + HOUR))
    scene.exchange.answers[echoed] = echoed

    scene.fails(TokenNotExtendedError)

    assert scene.calls == [("exchange", echoed)]


@pytest.mark.parametrize("answer", [OLD, TokenNotExtendedError("an echo")], ids=["worse", "echo"])
def test_a_persons_live_token_stays_though_the_old_one_expires_later(
    answer: Answer,
) -> None:
    scene = Scene()
    scene.store.hold(NEWER)
    scene.store.hold(NEW)
    scene.exchange.answers[NEW] = answer

    scene.fails(TokenNotExtendedError, force=True)

    assert scene.store.current_token == NEW


def test_the_next_run_tries_the_alternative_that_could_not_be_tried() -> None:
    scene = dead_with_an_alternative()
    dead = scene.store.current_token
    scene.client.refuses[NEW] = DOWN
    scene.fails(TokenRejectedError)
    scene.passes(2 * MINUTE)
    scene.client.refuses.clear()

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.calls == [("verify", NEW), ("verify", dead)]
    assert scene.store.current_token == NEW


def test_an_earlier_token_with_minutes_left_is_not_called_short_lived() -> None:
    scene = of_a_session(DEAD_SESSION)
    scene.store.hold_own(NEXT_ACCESS)
    scene.client.refuses[NEXT_ACCESS] = REJECTED

    assert scene.run(check=True).outcome is Outcome.REFRESHED
    assert scene.store.current_token == ACCESS


def test_another_accounts_alternative_does_not_take_over() -> None:
    scene = of_a_session(DEAD_SESSION, held=LATER_ACCESS)
    scene.store.hold_own(ACCESS, age=11 * MINUTE)
    scene.log_in(replace(BY_CREDENTIAL, account="alice"))

    scene.fails(SessionRejectedError)

    assert ("verify", LATER_ACCESS) in scene.calls
    assert scene.store.current_token == ACCESS


def test_trouble_at_the_verification_of_an_alternatives_successor_adds_no_versions() -> None:
    scene = Scene()
    previous = token(left=DAY)
    scene.store.hold(previous)
    scene.store.hold(token(left=2 * DAY))
    scene.exchange.answers = {scene.store.current_token: REJECTED, previous: NEW}
    scene.client.refuses[NEW] = DOWN

    for _ in range(5):
        scene.fails(QwenTokenError)
        scene.now += 2 * MINUTE

    assert list(scene.store.versions) == ["v1", "v2", "v3"]


def died_before_promoting() -> Scene:
    scene = of_a_session(held=access_token("held", left=4 * MINUTE))
    scene.store.before_promote = crash
    scene.dies()
    scene.store.before_promote = lambda: None
    return scene


def test_the_token_that_a_run_staged_and_died_is_verified_and_promoted() -> None:
    scene = died_before_promoting()

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.calls == [("verify", NEXT_ACCESS)]
    assert scene.store.current_token == NEXT_ACCESS


def test_it_does_not_replace_a_token_that_a_person_put_in_since() -> None:
    scene = died_before_promoting()
    scene.passes(2 * MINUTE)
    scene.store.hold(access_token("a person's", left=4 * MINUTE, now=scene.now))
    scene.refresh_token.answers["credential-1"] = LATER_ACCESS

    assert scene.run().outcome is Outcome.REFRESHED
    assert ("verify", NEXT_ACCESS) not in scene.calls
    assert scene.store.current_token == LATER_ACCESS


def test_where_it_is_refused_it_does_not_hold_up_a_session_that_was_put_in_since() -> None:
    scene = died_before_promoting()
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.log_in(THEIRS)
    scene.refresh_token.answers["theirs"] = LATER_ACCESS

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.store.current_token == LATER_ACCESS


@pytest.mark.parametrize("date", [NOW, None], ids=["dated", "without a date"])
def test_where_it_is_refused_it_may_have_come_of_the_session_that_is_there(
    date: datetime | None,
) -> None:
    scene = of_a_session()
    sessions_of(scene).dates["s1"] = date
    scene.client.refuses[NEXT_ACCESS] = REJECTED
    scene.client.during_verify.append(crash)
    scene.dies()

    for _ in range(5):
        scene.fails(UpstreamUnexpectedError)
        scene.now += MINUTE

    assert list(scene.store.versions) == ["v1", "v2"]


def test_it_is_found_even_if_the_first_run_after_it_could_not_look() -> None:
    scene = died_before_promoting()
    scene.store.alternatives_fail = StoreError("throttled", may_pass=True)
    scene.fails(StoreError)
    scene.store.alternatives_fail = None
    scene.calls.clear()

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.calls == [("verify", NEXT_ACCESS)]


def test_a_dead_runs_staged_credential_is_found_after_a_check_as_well() -> None:
    scene = fresh()
    scene.refresh_token.answers["credential-1"] = Granted(LATER_ACCESS, "credential-2")
    sessions_of(scene).before_promote = crash
    scene.dies(force=True)
    sessions_of(scene).before_promote = lambda: None
    assert scene.run(check=True).outcome is Outcome.CHECKED
    scene.calls.clear()
    scene.refresh_token.answers["credential-2"] = LATER_ACCESS

    scene.run(force=True)

    assert scene.calls[0] == ("refresh_token", "credential-2")


def test_a_token_whose_staging_had_no_answer_is_found_by_the_next_run() -> None:
    scene = Scene()
    scene.store.hold(OLD)
    scene.log_in(BY_PASSWORD)
    scene.exchange.answers[OLD] = OLD
    scene.password.answers[BY_PASSWORD.password] = NEW
    scene.store.stage_is_unanswered = StoreError("no answer", may_pass=True)
    scene.fails(StoreError)
    scene.store.stage_is_unanswered = None
    scene.passes(2 * MINUTE)

    assert scene.run().outcome is Outcome.REFRESHED
    assert scene.calls == [("verify", NEW)]


def test_looking_for_what_was_left_behind_is_done_once() -> None:
    scene = died_before_promoting()
    scene.run()

    assert not scene.memory.token_left_behind
    assert not scene.memory.session_left_behind
