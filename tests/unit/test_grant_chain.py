"""The grants of one login: which is tried, what follows when it is refused, and what is kept."""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import pytest

from qwen_token import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    Session,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
    StoreError,
    Token,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from qwen_token.grant_chain import Obtained, Refused, SupersededError
from qwen_token.grants import Granted
from qwen_token.run_memory import RunMemory, SignIn
from qwen_token.session import Grant
from tests.minting import NOW, token
from tests.unit.keeper_fakes import (
    DAY,
    HOUR,
    MINUTE,
    NEW,
    NEWER,
    OLD,
    REJECTED,
    Answer,
    MemorySessions,
    Scene,
    access_token,
    crash,
)

SECOND: Final = timedelta(seconds=1)
CREDENTIAL: Final = "credential-1"
NEXT_CREDENTIAL: Final = "credential-2"
ACCESS: Final = access_token("held", left=5 * MINUTE)
NEXT_ACCESS: Final = access_token("next")
DEAD_SESSION: Final = SessionRejectedError("the session is over")
DOWN: Final = UpstreamUnavailableError("down")

BY_CREDENTIAL: Final = Session(refresh_token=CREDENTIAL)
BY_PASSWORD: Final = Session(email="a@example.com", password="a password")
BY_BOTH: Final = Session(refresh_token=CREDENTIAL, email="a@example.com", password="a password")


@dataclass
class Case:
    """A login, what the hosts answer, and what that comes to: a grant's name, or a failure."""

    held: Token | None
    session: Session | None
    answers: dict[Grant, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ends: Grant | type[QwenTokenError] = Grant.EXCHANGE


def scene_of(
    held: Token | None, session: Session | None, answers: dict[Grant, Answer] | None = None
) -> Scene:
    scene = Scene()
    if held is not None:
        scene.store.hold(held)
    if session is not None:
        scene.log_in(session)
    shown: dict[Grant, object] = {Grant.EXCHANGE: held}
    if session is not None:
        shown |= {Grant.REFRESH_TOKEN: session.refresh_token, Grant.PASSWORD: session.password}
    for grant, answer in (answers or {}).items():
        scene.source(grant).answers[shown[grant]] = answer
    return scene


def spend(scene: Scene) -> Obtained | Refused:
    """Try the grants in their order, as a run does."""
    with scene.chain() as chain:
        held, stored = scene.store.read(), chain.session()
        outcome = chain.without_sign_in(held, stored)
        if isinstance(outcome, Refused):
            outcome = chain.sign_in(held, stored, after=outcome)
        return outcome


_CASES = [
    pytest.param(
        Case(OLD, None, {Grant.EXCHANGE: NEW}, ["exchange"], Grant.EXCHANGE),
        id="a token without a session is exchanged",
    ),
    pytest.param(
        Case(
            ACCESS,
            BY_CREDENTIAL,
            {Grant.REFRESH_TOKEN: NEXT_ACCESS},
            ["refresh_token"],
            Grant.REFRESH_TOKEN,
        ),
        id="the credential comes first",
    ),
    pytest.param(
        Case(
            OLD,
            BY_BOTH,
            {Grant.REFRESH_TOKEN: NEXT_ACCESS},
            ["refresh_token"],
            Grant.REFRESH_TOKEN,
        ),
        id="the credential comes before an exchange",
    ),
    pytest.param(
        Case(
            OLD,
            BY_CREDENTIAL,
            {Grant.REFRESH_TOKEN: DEAD_SESSION, Grant.EXCHANGE: NEW},
            ["refresh_token", "exchange"],
            Grant.EXCHANGE,
        ),
        id="where the credential is dead the token is exchanged",
    ),
    pytest.param(
        Case(
            ACCESS,
            BY_CREDENTIAL,
            {Grant.REFRESH_TOKEN: DEAD_SESSION},
            ["refresh_token"],
            SessionRejectedError,
        ),
        id="where the credential is dead an access token is not exchanged",
    ),
    pytest.param(
        Case(
            ACCESS,
            BY_BOTH,
            {Grant.REFRESH_TOKEN: DEAD_SESSION, Grant.PASSWORD: NEXT_ACCESS},
            ["refresh_token", "password"],
            Grant.PASSWORD,
        ),
        id="where the credential is dead a sign-in follows",
    ),
    pytest.param(
        Case(
            OLD,
            BY_BOTH,
            {Grant.REFRESH_TOKEN: DOWN},
            ["refresh_token"],
            UpstreamUnavailableError,
        ),
        id="where nothing is known of the credential nothing else is tried",
    ),
    pytest.param(
        Case(
            ACCESS,
            BY_BOTH,
            {Grant.REFRESH_TOKEN: ACCESS},
            ["refresh_token"],
            UpstreamUnexpectedError,
        ),
        id="the same access token again does not make the credential dead",
    ),
    pytest.param(
        Case(OLD, None, {Grant.EXCHANGE: REJECTED}, ["exchange"], TokenRejectedError),
        id="a dead token without a session is the end",
    ),
    pytest.param(
        Case(OLD, None, {Grant.EXCHANGE: OLD}, ["exchange"], TokenNotExtendedError),
        id="an echo without a session is the end",
    ),
    pytest.param(
        Case(
            OLD,
            BY_PASSWORD,
            {Grant.EXCHANGE: REJECTED, Grant.PASSWORD: NEW},
            ["exchange", "password"],
            Grant.PASSWORD,
        ),
        id="where the token is dead a sign-in follows",
    ),
    pytest.param(
        Case(
            OLD,
            BY_PASSWORD,
            {Grant.EXCHANGE: OLD, Grant.PASSWORD: NEW},
            ["exchange", "password"],
            Grant.PASSWORD,
        ),
        id="where the token is echoed a sign-in follows",
    ),
    pytest.param(
        Case(OLD, BY_PASSWORD, {Grant.EXCHANGE: DOWN}, ["exchange"], UpstreamUnavailableError),
        id="where nothing is known of the token no sign-in follows",
    ),
    pytest.param(
        Case(
            OLD,
            BY_PASSWORD,
            {
                Grant.EXCHANGE: token(left=7 * DAY, account="mallory"),
            },
            ["exchange"],
            WrongAccountError,
        ),
        id="another account's token is the end",
    ),
    pytest.param(
        Case(
            OLD,
            BY_BOTH,
            {
                Grant.REFRESH_TOKEN: DEAD_SESSION,
                Grant.EXCHANGE: OLD,
                Grant.PASSWORD: SignInRefusedError("wrong password"),
            },
            ["refresh_token", "exchange", "password"],
            SignInRefusedError,
        ),
        id="a refused password is the end",
    ),
    pytest.param(
        Case(
            OLD,
            BY_CREDENTIAL,
            {Grant.REFRESH_TOKEN: DEAD_SESSION, Grant.EXCHANGE: REJECTED},
            ["refresh_token", "exchange"],
            SessionRejectedError,
        ),
        id="of two refusals the first one is told",
    ),
    pytest.param(
        Case(ACCESS, None, {}, [], TokenNotExtendedError),
        id="an access token without a session is told to need one",
    ),
    pytest.param(
        Case(
            None,
            BY_BOTH,
            {Grant.REFRESH_TOKEN: NEXT_ACCESS},
            ["refresh_token"],
            Grant.REFRESH_TOKEN,
        ),
        id="the first token comes by the credential",
    ),
    pytest.param(
        Case(None, BY_PASSWORD, {Grant.PASSWORD: NEW}, ["password"], Grant.PASSWORD),
        id="the first token comes by a sign-in where there is no credential",
    ),
]


@pytest.mark.parametrize("case", _CASES)
def test_the_grants_are_tried_in_their_order(case: Case) -> None:
    scene = scene_of(case.held, case.session, case.answers)

    try:
        outcome = spend(scene)
    except QwenTokenError as error:
        ended: object = type(error)
    else:
        ended = outcome.grant if isinstance(outcome, Obtained) else type(outcome.error)

    assert (ended, [name for name, _ in scene.calls]) == (case.ends, case.asked)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        pytest.param({Grant.REFRESH_TOKEN: DEAD_SESSION}, True, id="now"),
        pytest.param({}, False, id="never"),
    ],
)
def test_a_refusal_says_whether_a_host_was_asked(
    *, answers: dict[Grant, Answer], asked: bool
) -> None:
    outcome = spend(scene_of(ACCESS, BY_CREDENTIAL if answers else None, answers))

    assert isinstance(outcome, Refused)
    assert outcome.was_asked is asked


# --- what is dead is not asked again --------------------------------------------------------------

_REFUSALS = [
    pytest.param(OLD, None, Grant.EXCHANGE, REJECTED, id="a dead token"),
    pytest.param(OLD, None, Grant.EXCHANGE, OLD, id="an echo"),
    pytest.param(ACCESS, BY_CREDENTIAL, Grant.REFRESH_TOKEN, DEAD_SESSION, id="a dead credential"),
]


@pytest.mark.parametrize(("held", "session", "grant", "answer"), _REFUSALS)
def test_a_refusal_is_known_for_an_hour_without_a_call(
    held: Token, session: Session | None, grant: Grant, answer: Answer
) -> None:
    scene = scene_of(held, session, {grant: answer})
    first = spend(scene)
    scene.passes(HOUR - SECOND)

    again = spend(scene)

    assert isinstance(first, Refused)
    assert isinstance(again, Refused)
    assert type(again.error) is type(first.error)
    assert str(again.error) == f"{first.error}; not asked again before 13:00 UTC"
    assert not again.was_asked
    assert scene.calls == []

    scene.passes(SECOND)
    spend(scene)
    assert [name for name, _ in scene.calls] == [grant]


def test_another_token_is_asked_about_at_once() -> None:
    scene = scene_of(OLD, None, {Grant.EXCHANGE: REJECTED})
    spend(scene)
    scene.store.hold(NEW)
    scene.exchange.answers[NEW] = NEWER

    assert isinstance(spend(scene), Obtained)


def test_another_credential_is_tried_at_once() -> None:
    scene = scene_of(ACCESS, BY_CREDENTIAL, {Grant.REFRESH_TOKEN: DEAD_SESSION})
    spend(scene)
    scene.log_in(Session(refresh_token=NEXT_CREDENTIAL))
    scene.refresh_token.answers[NEXT_CREDENTIAL] = NEXT_ACCESS

    assert isinstance(spend(scene), Obtained)


# --- the sign-in ----------------------------------------------------------------------------------


def signing_in(answer: Answer) -> Scene:
    """Return a login whose token is echoed, so that the password is needed."""
    return scene_of(OLD, BY_PASSWORD, {Grant.EXCHANGE: OLD, Grant.PASSWORD: answer})


def attempts(scene: Scene) -> int:
    return [name for name, _ in scene.calls].count("password")


@dataclass
class Attempt:
    """What a sign-in ends with, and how long the next one waits."""

    answer: Answer
    pause: timedelta
    kind: type[QwenTokenError]


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(
            Attempt(NEW, DAY, TokenNotExtendedError), id="after a token the echo is what is told"
        ),
        pytest.param(
            Attempt(DOWN, 10 * MINUTE, UpstreamUnavailableError), id="no answer counts ten minutes"
        ),
        pytest.param(
            Attempt(RateLimitedError("slow"), 10 * MINUTE, RateLimitedError),
            id="a rate limit counts ten minutes",
        ),
        pytest.param(
            Attempt(UpstreamBlockedError("blocked"), 10 * MINUTE, UpstreamBlockedError),
            id="a block page counts ten minutes",
        ),
        pytest.param(
            Attempt(UpstreamUnexpectedError("odd"), DAY, UpstreamUnexpectedError),
            id="an answer that nobody knows counts a day",
        ),
        pytest.param(
            Attempt(ConfigError("a header"), DAY, ConfigError),
            id="a request that was refused for its headers counts a day",
        ),
        pytest.param(
            Attempt(WrongAccountError("a guest"), DAY, WrongAccountError),
            id="another account counts a day",
        ),
    ],
)
def test_the_next_sign_in_waits_and_the_failure_says_until_when(attempt: Attempt) -> None:
    scene = signing_in(attempt.answer)
    try:
        spend(scene)
    except QwenTokenError as error:
        first: QwenTokenError | None = error
    else:
        first = None
    scene.passes(attempt.pause - SECOND)

    waiting = spend(scene)

    assert isinstance(waiting, Refused)
    assert waiting.waits_for_sign_in
    assert type(waiting.error) is attempt.kind
    until = NOW + attempt.pause
    assert str(waiting.error).endswith(f"the next sign-in is allowed at {until:%Y-%m-%d %H:%M} UTC")
    assert first is None or str(waiting.error).startswith(f"{first}; ")
    assert attempts(scene) == 0

    scene.passes(SECOND)
    scene.password.answers[BY_PASSWORD.password] = NEW
    assert isinstance(spend(scene), Obtained)


def test_a_run_that_dies_while_it_signs_in_counts_as_answered() -> None:
    scene = signing_in(NEW)
    scene.password.during = [crash]
    scene.dies()
    scene.passes(DAY - 4 * MINUTE)

    outcome = spend(scene)
    assert isinstance(outcome, Refused)
    assert outcome.waits_for_sign_in
    assert attempts(scene) == 0

    scene.passes(2 * MINUTE)
    assert isinstance(spend(scene), Obtained)


def test_a_sign_in_that_cannot_be_noted_is_not_tried() -> None:
    scene = signing_in(NEW)

    def goes_down() -> None:
        scene.state.is_down = True

    scene.exchange.during = [goes_down]

    scene.fails(StoreError)

    assert attempts(scene) == 0


def test_a_sign_in_that_was_not_tried_does_not_make_the_next_one_wait() -> None:
    scene = signing_in(NEW)

    def goes_down() -> None:
        scene.state.is_down = True

    scene.exchange.during = [goes_down]
    ledger = scene.ledger()
    with pytest.raises(StoreError):
        scene.keeper(ledger).run()
    scene.state.is_down = False
    ledger.close()
    scene.passes(MINUTE)

    assert scene.run().grant is Grant.PASSWORD


def test_a_run_that_lost_its_lease_does_not_sign_in() -> None:
    scene = signing_in(NEW)

    def another_run_takes_over() -> None:
        scene.passes(HOUR)
        assert scene.ledger().open()

    scene.exchange.during = [another_run_takes_over]

    scene.fails(StoreError)

    assert attempts(scene) == 0


def test_a_refused_password_is_not_tried_again_in_a_year() -> None:
    scene = signing_in(SignInRefusedError("wrong password"))
    spend(scene)
    scene.passes(365 * DAY)

    outcome = spend(scene)

    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, SignInRefusedError)
    assert str(outcome.error) == "wrong password; tried at 2026-11-24 12:00 UTC"
    assert attempts(scene) == 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(SignInRefusedError("wrong password"), id="a refusal"),
        pytest.param(DOWN, id="an attempt without an answer"),
        pytest.param(UpstreamUnexpectedError("odd"), id="an attempt with an answer"),
    ],
)
def test_a_persons_new_session_lifts_every_limit(answer: QwenTokenError) -> None:
    scene = signing_in(answer)
    with suppress(QwenTokenError):
        spend(scene)
    scene.log_in(Session(email="a@example.com", password="another"))
    scene.password.answers["another"] = NEW

    outcome = spend(scene)

    assert isinstance(outcome, Obtained)
    assert outcome.grant is Grant.PASSWORD


def test_the_same_sign_in_put_in_again_counts_as_a_new_login() -> None:
    scene = signing_in(SignInRefusedError("wrong password"))
    spend(scene)
    scene.log_in(BY_PASSWORD)
    scene.calls.clear()

    spend(scene)

    assert attempts(scene) == 1


# The next three: a version that a run wrote is no person's word.


def signed_in_with_a_credential() -> Scene:
    """Return a login that signed in, and got a credential that was kept as a new version."""
    scene = scene_of(
        ACCESS,
        BY_BOTH,
        {
            Grant.REFRESH_TOKEN: DEAD_SESSION,
            Grant.PASSWORD: Granted(NEXT_ACCESS, NEXT_CREDENTIAL),
        },
    )
    scene.refresh_token.answers[NEXT_CREDENTIAL] = DEAD_SESSION
    return scene


def test_the_version_with_the_credential_of_a_sign_in_does_not_lift_its_limit() -> None:
    scene = signed_in_with_a_credential()
    assert isinstance(spend(scene), Obtained)
    scene.passes(DAY - SECOND)

    outcome = spend(scene)

    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, SessionRejectedError)
    assert attempts(scene) == 0


def test_a_dead_runs_credential_does_not_lift_a_refusal() -> None:
    scene = scene_of(
        ACCESS,
        BY_BOTH,
        {
            Grant.REFRESH_TOKEN: DEAD_SESSION,
            Grant.PASSWORD: SignInRefusedError("wrong password"),
        },
    )
    spend(scene)
    scene.passes(2 * HOUR)
    scene.refresh_token.answers[CREDENTIAL] = Granted(NEXT_ACCESS, NEXT_CREDENTIAL)
    scene.store.before_stage = crash
    scene.dies()
    scene.passes(2 * DAY)
    scene.refresh_token.answers[NEXT_CREDENTIAL] = DEAD_SESSION

    outcome = spend(scene)

    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, SignInRefusedError)
    assert attempts(scene) == 0


def test_a_limit_that_a_person_lifted_stays_lifted_though_a_run_dies() -> None:
    scene = signed_in_with_a_credential()
    spend(scene)
    sessions = scene.log_in(
        Session(refresh_token="credential-3", email="a@example.com", password="another")
    )
    scene.refresh_token.answers["credential-3"] = Granted(NEXT_ACCESS, "credential-4")
    scene.store.before_stage = crash
    scene.dies()
    assert sessions.current_session.refresh_token == "credential-4"
    scene.refresh_token.answers["credential-4"] = DEAD_SESSION
    scene.password.answers["another"] = NEXT_ACCESS

    outcome = spend(scene)

    assert isinstance(outcome, Obtained)
    assert outcome.grant is Grant.PASSWORD


def test_in_steady_state_nothing_is_written_before_the_end() -> None:
    scene = scene_of(ACCESS, BY_BOTH, {Grant.REFRESH_TOKEN: Granted(NEXT_ACCESS, NEXT_CREDENTIAL)})
    scene.memory = RunMemory(sign_in=SignIn("s1", NOW - HOUR, answered=True))
    spend(scene)
    scene.refresh_token.answers[NEXT_CREDENTIAL] = Granted(NEXT_ACCESS, "credential-3")
    spend(scene)

    assert scene.state.writes == 0


def test_the_time_of_the_next_sign_in_for_a_first_token_is_reported() -> None:
    scene = scene_of(None, BY_PASSWORD)
    scene.memory = RunMemory(sign_in=SignIn("s1", NOW - HOUR, answered=True))

    outcome = spend(scene)

    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, TokenMissingError)
    assert str(outcome.error) == (
        "the secret has no token yet; the next sign-in is allowed at 2026-11-25 11:00 UTC"
    )


# --- the credential that comes --------------------------------------------------------------------

ENDS_AT: Final = NOW + 30 * DAY


def rotating(granted: Granted, *, session: Session = BY_CREDENTIAL) -> tuple[Scene, MemorySessions]:
    scene = scene_of(ACCESS, session, {Grant.REFRESH_TOKEN: granted})
    assert scene.sessions is not None
    return scene, scene.sessions


def test_a_changed_credential_is_stored_with_its_expiry_and_other_keys() -> None:
    scene, sessions = rotating(Granted(NEXT_ACCESS, NEXT_CREDENTIAL, ENDS_AT), session=BY_BOTH)

    outcome = spend(scene)

    assert isinstance(outcome, Obtained)
    assert outcome.stored.session == sessions.current_session
    assert sessions.current_session == Session(
        refresh_token=NEXT_CREDENTIAL,
        expires_at=ENDS_AT,
        email="a@example.com",
        password="a password",
    )


def test_the_end_of_the_old_credential_is_not_that_of_the_new_one() -> None:
    session = Session(refresh_token=CREDENTIAL, expires_at=ENDS_AT)
    scene, sessions = rotating(Granted(NEXT_ACCESS, NEXT_CREDENTIAL), session=session)

    spend(scene)

    assert sessions.current_session.expires_at is None


@pytest.mark.parametrize(
    "granted",
    [
        pytest.param(Granted(NEXT_ACCESS), id="none comes"),
        pytest.param(Granted(NEXT_ACCESS, CREDENTIAL), id="the same comes"),
        pytest.param(Granted(NEXT_ACCESS, CREDENTIAL, ENDS_AT), id="the same comes with its end"),
    ],
)
def test_a_credential_that_stays_the_same_makes_no_version(granted: Granted) -> None:
    scene, sessions = rotating(granted)

    spend(scene)

    assert list(sessions.versions) == ["s1"]


def test_the_later_end_of_the_same_credential_is_remembered() -> None:
    scene, _ = rotating(Granted(NEXT_ACCESS, CREDENTIAL, ENDS_AT))
    spend(scene)

    with scene.chain() as chain:
        assert chain.session().session.expires_at == ENDS_AT


def test_what_is_remembered_of_a_session_is_not_said_of_another_one() -> None:
    scene, _ = rotating(Granted(NEXT_ACCESS, CREDENTIAL, ENDS_AT))
    spend(scene)
    scene.log_in(Session(refresh_token=NEXT_CREDENTIAL))

    with scene.chain() as chain:
        assert chain.session().session.expires_at is None


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(ACCESS, id="that is the old one"),
        pytest.param(access_token("sooner", left=MINUTE), id="that expires sooner"),
        pytest.param(access_token("mallory's", account="mallory"), id="of another account"),
    ],
)
def test_the_credential_is_kept_though_it_came_with_a_bad_token(bad: Token) -> None:
    held = access_token("held", left=5 * MINUTE, account="alice")
    scene = scene_of(
        held if bad is not ACCESS else ACCESS,
        BY_CREDENTIAL,
        {Grant.REFRESH_TOKEN: Granted(bad, NEXT_CREDENTIAL)},
    )

    with pytest.raises((UpstreamUnexpectedError, WrongAccountError)):
        spend(scene)

    assert scene.sessions is not None
    assert scene.sessions.current_session.refresh_token == NEXT_CREDENTIAL


def test_a_session_that_a_person_put_in_meanwhile_wins() -> None:
    scene, sessions = rotating(Granted(NEXT_ACCESS, NEXT_CREDENTIAL))
    theirs = Session(refresh_token="a-persons")
    scene.refresh_token.during = [lambda: sessions.hold(theirs)]

    with pytest.raises(SupersededError):
        spend(scene)

    assert sessions.current_session == theirs


@pytest.mark.parametrize("failures", [1, 2])
def test_keeping_the_credential_is_tried_three_times(failures: int) -> None:
    scene, sessions = rotating(Granted(NEXT_ACCESS, NEXT_CREDENTIAL))
    left = [StoreError("throttled", may_pass=True)] * failures

    def fails() -> None:
        if left:
            raise left.pop()

    sessions.before_stage = fails

    assert isinstance(spend(scene), Obtained)
    assert sessions.current_session.refresh_token == NEXT_CREDENTIAL


@pytest.mark.parametrize(
    ("may_pass", "tries"),
    [
        pytest.param(True, 3, id="throttled for longer"),
        pytest.param(False, 1, id="forbidden"),
    ],
)
def test_a_credential_that_cannot_be_kept_fails_the_run(*, may_pass: bool, tries: int) -> None:
    scene, sessions = rotating(Granted(NEXT_ACCESS, NEXT_CREDENTIAL))
    tried = 0

    def fails() -> None:
        nonlocal tried
        tried += 1
        raise StoreError("no", may_pass=may_pass)

    sessions.before_stage = fails

    with pytest.raises(StoreError):
        spend(scene)

    assert tried == tries
    assert sessions.current_session.refresh_token == CREDENTIAL


# --- a credential that a run left behind ----------------------------------------------------------


def test_a_credential_that_was_staged_and_not_kept_is_kept_by_the_next_run() -> None:
    """The old one may be good for a single use: it is not spent again."""
    scene, sessions = rotating(Granted(NEXT_ACCESS, NEXT_CREDENTIAL))

    def fails() -> None:
        raise StoreError("down")

    sessions.before_promote = fails
    with scene.chain() as chain, pytest.raises(StoreError):
        chain.without_sign_in(scene.store.read(), chain.session())
    sessions.before_promote = lambda: None
    scene.passes(2 * MINUTE)
    scene.refresh_token.answers[NEXT_CREDENTIAL] = NEXT_ACCESS

    spend(scene)

    assert scene.calls == [("refresh_token", NEXT_CREDENTIAL)]


def left_behind() -> tuple[Scene, MemorySessions]:
    """Return what a run leaves behind that dies between staging the credential and keeping it."""
    scene, sessions = rotating(Granted(NEXT_ACCESS, NEXT_CREDENTIAL))
    sessions.before_promote = crash
    scene.dies()
    sessions.before_promote = lambda: None
    scene.refresh_token.answers[NEXT_CREDENTIAL] = Granted(NEXT_ACCESS, "credential-3")
    return scene, sessions


def test_a_dead_runs_staged_credential_is_spent_not_the_old_one() -> None:
    scene, sessions = left_behind()

    spend(scene)

    assert scene.calls == [("refresh_token", NEXT_CREDENTIAL)]
    assert sessions.current_session.refresh_token == "credential-3"


def test_it_is_found_though_the_first_run_after_it_could_not_look() -> None:
    scene, sessions = left_behind()
    sessions.left_behind_fails = StoreError("throttled", may_pass=True)
    with scene.chain() as chain, pytest.raises(StoreError):
        chain.session()
    sessions.left_behind_fails = None

    spend(scene)

    assert scene.calls == [("refresh_token", NEXT_CREDENTIAL)]


def test_a_session_that_a_person_put_in_after_it_wins() -> None:
    scene, _ = left_behind()
    scene.log_in(Session(refresh_token="a-persons"))
    scene.refresh_token.answers["a-persons"] = NEXT_ACCESS

    spend(scene)

    assert scene.calls == [("refresh_token", "a-persons")]


def test_a_session_that_a_person_puts_in_while_it_is_kept_wins() -> None:
    scene, sessions = left_behind()
    sessions.before_promote = lambda: sessions.hold(Session(refresh_token="a-persons"))

    with scene.chain() as chain, pytest.raises(SupersededError):
        chain.session()

    assert scene.calls == []
    assert sessions.current_session.refresh_token == "a-persons"


def test_where_there_is_no_session_secret_the_session_is_empty() -> None:
    scene = scene_of(OLD, None)

    with scene.chain() as chain:
        assert chain.session().session == Session()


def test_a_session_secret_without_a_value_is_an_empty_session() -> None:
    scene = scene_of(OLD, None)
    scene.sessions = MemorySessions()

    with scene.chain() as chain:
        assert chain.session().session == Session()


def test_a_session_that_cannot_be_read_is_a_failure() -> None:
    scene = scene_of(OLD, None)
    scene.log_in(SessionMalformedError("no login"))

    with scene.chain() as chain, pytest.raises(SessionMalformedError):
        chain.session()
