"""Eight runs at once, and a person in between: one winner, nothing spent twice, nobody alarmed."""

import itertools
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from localcloud.qwen import QwenStandIn, Reply, Request, Scenario
from localcloud.recording_proxy import Answer, AwsRefusal, Call, refuse
from localcloud.sign_in_host import (
    ANSWERS,
    Rotation,
    SessionPolicy,
    SignInHostStandIn,
    SignInRequest,
)
from localcloud.stack import CURRENT, PREVIOUS
from tests.proofs.crash_points.sandbox import (
    DAY,
    PERSON,
    RENEWS,
    ROTATES,
    WEEK,
    Sandbox,
    Sandboxes,
    labelled,
    token_in,
)
from tests.proofs.crash_points.worker import End

# Of each kind of race.
ROUNDS = 2
ROUNDS_AT_NIGHT = 50
RUNS = 8
# A round is mostly waiting.
SIDE_BY_SIDE = 3
# Longer than any run.
PATIENCE = 60.0
MINUTE = timedelta(minutes=1)

_TAKES_LEASE = b"SET lease_owner"
_GIVES_LEASE_BACK = b"REMOVE lease_owner"

# How a run may end that alarms nobody.
WELL = {"refreshed", "superseded", "fresh", "leased"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of login; a token with ``due`` left is to be replaced, one with ``fresh`` is not."""

    api: Scenario
    due: timedelta
    fresh: timedelta
    session: SessionPolicy | None = None

    def mint(self, sandbox: Sandbox, *, is_due: bool) -> str:
        """Log in: return a token that the sandbox's login did not give."""
        left = self.due if is_due else self.fresh
        if self.session is None:
            return sandbox.mint(left=left, line=PERSON)
        # One whose lifetime nobody knows is due.
        return sandbox.qwen.issue_access_token(lifetime=left, has_iat=not is_due)


# The API and the host are as bad as they may be: both retire what was spent, and the host ends a
# login whose credential is used again.
TOKEN = Kind(ROTATES, due=2 * DAY, fresh=WEEK)
SESSION = Kind(
    RENEWS,
    due=2 * MINUTE,
    fresh=15 * MINUTE,
    session=SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN),
)


class Crowd:
    """Stands at the way out of several processes and shuffles what passes.

    ``together`` holds the first reads back until every run has made its own: all of them have the
    same stale token then. With ``late``, one run asks for the lease when another one has given it
    back. ``meanwhile`` is done, by somebody else, when call number ``at`` comes.
    """

    def __init__(
        self,
        dice: random.Random,
        *,
        together: bool,
        late: bool = False,
        at: int | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self._dice = dice
        self._start = threading.Barrier(RUNS, timeout=PATIENCE) if together else None
        self._late = dice.randrange(1, RUNS) if late else None
        self._asked = itertools.count()
        self._was_released = threading.Event()
        self._at = at
        self._meanwhile = threading.Thread(target=meanwhile)
        self._came = 0
        self._lock = threading.Lock()

    def surround(self, sandbox: Sandbox, api: Scenario) -> None:
        """Take the place in front of the sandbox's AWS, API and sign-in host."""

        def to_qwen(qwen: QwenStandIn, request: Request) -> Reply | None:
            return self._pass(lambda: api.answer(qwen, request))

        def to_host(host: SignInHostStandIn, request: SignInRequest) -> Reply | None:
            return self._pass(lambda: host.answer(request))

        sandbox.relay.gate = self.to_aws
        sandbox.qwen.answer_with(Scenario("shuffles", "answers when it likes", to_qwen))
        sandbox.host.answer_with(Scenario("shuffles", "answers when it likes", to_host))

    def to_aws(self, call: Call, carry_out: Callable[[], Answer | None]) -> Answer | None:
        if _TAKES_LEASE in call.body and next(self._asked) == self._late:
            self._was_released.wait(PATIENCE)
        answer = self._pass(carry_out)
        if _GIVES_LEASE_BACK in call.body:
            self._was_released.set()
        return answer

    def _pass[A](self, carry_out: Callable[[], A]) -> A:
        with self._lock:
            number, self._came = self._came, self._came + 1
            before, after = (self._dice.expovariate(150) for _ in range(2))
        if self._start is None or number >= RUNS:
            time.sleep(before)
        if number == self._at:
            self._meanwhile.start()
        answer = carry_out()
        if self._start is not None and number < RUNS:
            # The first call of each run is its read.
            self._start.wait()
        time.sleep(after)
        return answer

    def settle(self) -> None:
        """Wait for whoever acted meanwhile; let them act now where they have not yet."""
        if self._at is not None:
            if self._meanwhile.ident is None:
                self._meanwhile.start()
            self._meanwhile.join()


def run_all(sandboxes: Sandboxes, sandbox: Sandbox) -> list[End]:
    """Run the function in several processes at once."""
    with ExitStack() as lent:
        workers = [lent.enter_context(sandboxes.worker()) for _ in range(RUNS)]
        pool = lent.enter_context(ThreadPoolExecutor(RUNS))
        return list(pool.map(lambda worker: worker.run(sandbox.environ), workers))


def words_of(ends: list[End]) -> Counter[str]:
    return Counter(end.word for end in ends)


def winners_of(ends: list[End]) -> list[str]:
    """Return the versions that runs have made current."""
    return [str(end.result["version_id"]) for end in ends if end.result and end.word == "refreshed"]


def spent_in(sandbox: Sandbox, kind: Kind) -> Counter[str]:
    """Return how often each login was spent: a refresh credential, or a token that was not young.

    A token that is verified is young.
    """
    if kind.session is not None:
        return Counter({str(serial): uses for serial, uses in sandbox.host.spent.items()})
    soon = datetime.now(UTC) + 4 * DAY
    return Counter(
        request.raw
        for request in sandbox.qwen.requests
        if request.raw and request.expires_at and request.expires_at < soon
    )


def check_nothing_was_lost(sandbox: Sandbox, kind: Kind, ends: list[End]) -> Counter[str]:
    """Check what is true of every race; return how the runs ended."""
    words = words_of(ends)
    assert words.keys() <= WELL, words
    assert sandbox.alerts == 0
    assert max(spent_in(sandbox, kind).values(), default=0) <= 1
    assert sandbox.serves_a_live_token()
    if kind.session is not None:
        # Of the newest login, and never spent: the next run can go on.
        assert sandbox.credential() == sandbox.host.current()
    return words


@dataclass(frozen=True, slots=True)
class Round:
    """One race. In the first of each kind, all runs surely read the same, and one is late."""

    luck: random.Random
    is_first: bool

    def crowd(self, meanwhile: Callable[[], object] | None = None) -> Crowd:
        """Return a crowd in which somebody else does ``meanwhile``, where that is given."""
        together, late = (self.is_first or self.luck.random() < part for part in (0.5, 0.7))
        if meanwhile is None:
            return Crowd(self.luck, together=together, late=late)
        at = self.luck.randrange(RUNS if self.is_first else 0, 4 * RUNS)
        return Crowd(self.luck, together=together, late=late, at=at, meanwhile=meanwhile)


def hold_race(sandboxes: Sandboxes, kind: Kind, held: Round) -> Counter[str]:
    """Let several runs race by themselves, check what they leave, and count the ends."""
    with sandboxes.sandbox(left=kind.due, session=kind.session) as sandbox:
        first = labelled(CURRENT, sandbox.versions())
        crowd = held.crowd()
        crowd.surround(sandbox, kind.api)

        ends = run_all(sandboxes, sandbox)

        words = check_nothing_was_lost(sandbox, kind, ends)
        assert spent_in(sandbox, kind).total() == 1
        versions = sandbox.versions()
        assert winners_of(ends) == [labelled(CURRENT, versions).version_id]
        assert labelled(PREVIOUS, versions).version_id == first.version_id
        return words


def hold_race_with_a_token(sandboxes: Sandboxes, kind: Kind, held: Round) -> Counter[str]:
    """Do the same, while a person puts a token in: one that may be due itself."""
    with sandboxes.sandbox(left=kind.due, session=kind.session) as sandbox:
        first = labelled(CURRENT, sandbox.versions())
        # A late run would refresh one that is due.
        is_due = not held.is_first and held.luck.random() < 0.5
        theirs = kind.mint(sandbox, is_due=is_due)
        put: list[str] = []
        crowd = held.crowd(meanwhile=lambda: put.append(sandbox.put(theirs)))
        crowd.surround(sandbox, kind.api)

        ends = run_all(sandboxes, sandbox)
        crowd.settle()

        words = check_nothing_was_lost(sandbox, kind, ends)
        versions, winners = sandbox.versions(), winners_of(ends)
        current, previous = labelled(CURRENT, versions), labelled(PREVIOUS, versions)
        if current.version_id == put[0]:
            assert len(winners) <= 1
            assert previous.version_id == (winners[0] if winners else first.version_id)
        else:
            # A run has refreshed what the person put in; another one perhaps what was there before.
            assert is_due
            assert kind.session is not None or sandbox.line() == PERSON
            assert current.version_id in winners
            assert len(winners) <= 2
            assert token_in(previous.text) == theirs
        # Two, where a run had spent the login before the person came.
        assert spent_in(sandbox, kind).total() <= 2
        return words


def hold_race_with_a_session(sandboxes: Sandboxes, kind: Kind, held: Round) -> Counter[str]:
    """Do the same, while a person puts another session in."""
    with sandboxes.sandbox(left=kind.due, session=kind.session) as sandbox:
        first = labelled(CURRENT, sandbox.versions())
        theirs = sandbox.host.log_in()
        crowd = held.crowd(meanwhile=lambda: sandbox.put_session(theirs))
        crowd.surround(sandbox, kind.api)

        ends = run_all(sandboxes, sandbox)
        crowd.settle()

        words = check_nothing_was_lost(sandbox, kind, ends)
        versions = sandbox.versions()
        assert winners_of(ends) == [labelled(CURRENT, versions).version_id]
        assert labelled(PREVIOUS, versions).version_id == first.version_id
        assert spent_in(sandbox, kind).total() in {1, 2}
        return words


Race = Callable[[Sandboxes, Kind, Round], Counter[str]]

few_or_many = pytest.mark.parametrize(
    "rounds", [ROUNDS, pytest.param(ROUNDS_AT_NIGHT, marks=pytest.mark.nightly)]
)


@few_or_many
@pytest.mark.parametrize(
    ("kind", "race"),
    [
        pytest.param(TOKEN, hold_race, id="on a token"),
        pytest.param(SESSION, hold_race, id="on a session"),
        pytest.param(TOKEN, hold_race_with_a_token, id="on a token, and a person puts one in"),
        pytest.param(SESSION, hold_race_with_a_token, id="on a session, and a person a token"),
        pytest.param(SESSION, hold_race_with_a_session, id="on a session, and a person another"),
    ],
)
def test_one_run_spends_the_login_and_no_put_is_lost(
    sandboxes: Sandboxes, kind: Kind, race: Race, rounds: int
) -> None:
    seed = secrets.randbits(32)

    def hold(number: int) -> Counter[str]:
        try:
            luck = random.Random(f"{seed}-{number}")  # noqa: S311 - no secret
            return race(sandboxes, kind, Round(luck, is_first=number == 0))
        except AssertionError as error:
            error.add_note(f"seed {seed}, round {number}")
            raise

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        tally = sum(pool.map(hold, range(rounds)), Counter[str]())

    print(f"{rounds} rounds of {RUNS} runs, seed {seed}: {dict(tally)}")  # noqa: T201 - with -rP
    assert tally["leased"] > rounds, "hardly a race"
    assert tally["superseded"] > 0, "no run was late"


@few_or_many
def test_runs_that_recover_at_once_end_well_with_the_staged_token(
    sandboxes: Sandboxes, rounds: int
) -> None:
    seed = secrets.randbits(32)
    for number in range(rounds):
        with sandboxes.sandbox(left=2 * DAY) as sandbox:
            sandbox.qwen.retire(token_in(sandbox.current()))
            staged = sandbox.stage(sandbox.mint(left=WEEK))
            crowd = Crowd(random.Random(f"{seed}-{number}"), together=True)  # noqa: S311 - no secret
            crowd.surround(sandbox, RENEWS)

            ends = run_all(sandboxes, sandbox)

            assert words_of(ends).keys() <= WELL, seed
            assert winners_of(ends) == [staged], seed
            assert sandbox.alerts == 0, seed
            assert labelled(CURRENT, sandbox.versions()).version_id == staged, seed


def test_a_password_changed_during_a_run_alerts_nobody(sandboxes: Sandboxes) -> None:
    with sandboxes.sandbox(left=2 * DAY) as sandbox:

        def change_password(qwen: QwenStandIn, request: Request) -> Reply | None:
            qwen.revoke()
            sandbox.put(sandbox.mint(left=WEEK, line=PERSON))
            return RENEWS.answer(qwen, request)

        sandbox.qwen.answer_with(
            Scenario("changes", "the password changes as the request comes", change_password),
            RENEWS,
        )
        end = sandbox.run()

        assert sandbox.line() == PERSON
        assert (end.well, sandbox.alerts) == (True, 0), end.word


def test_a_changed_password_and_a_new_login_alert_nobody(
    sandboxes: Sandboxes,
) -> None:
    with sandboxes.sandbox(left=SESSION.due, session=SESSION.session) as sandbox:

        def change_password(host: SignInHostStandIn, request: SignInRequest) -> Reply | None:
            host.revoke()
            sandbox.put_session(host.log_in())
            return host.answer(request)

        sandbox.host.answer_with(
            Scenario("changes", "the password changes as the request comes", change_password),
            ANSWERS,
        )
        end = sandbox.run()

        assert (end.word, sandbox.alerts) == ("refreshed", 0)
        assert sandbox.serves_a_live_token()
        assert sandbox.credential() == sandbox.host.current()


@few_or_many
@pytest.mark.parametrize("kind", [TOKEN, SESSION], ids=["of a token", "of a session"])
def test_runs_that_all_fail_at_once_publish_one_alert(
    sandboxes: Sandboxes, kind: Kind, rounds: int
) -> None:
    seed = secrets.randbits(32)
    for number in range(rounds):
        with sandboxes.sandbox(left=kind.due, session=kind.session) as sandbox:
            crowd = Crowd(random.Random(f"{seed}-{number}"), together=True)  # noqa: S311 - no secret
            crowd.surround(sandbox, kind.api)

            def may_not_read(
                call: Call,
                carry_out: Callable[[], Answer | None],
                crowd: Crowd = crowd,
            ) -> Answer | None:
                if call.operation != "secretsmanager:GetSecretValue":
                    return crowd.to_aws(call, carry_out)
                return crowd.to_aws(call, lambda: refuse(call, AwsRefusal("AccessDeniedException")))

            sandbox.relay.gate = may_not_read

            words = words_of(run_all(sandboxes, sandbox))

            assert words.keys() <= {"retrying", "store_failed"}, (seed, words)
            assert sandbox.alerts == 1, seed
