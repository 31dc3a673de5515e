"""Who is alerted, and when: histories of runs, and what is published after each of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_token import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    StoreError,
    TokenMalformedError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamUnavailableError,
)
from qwen_token.errors import (
    RunFacts,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
)
from qwen_token.incidents import REMIND_EVERY, ending, is_over, observe
from qwen_token.policy import AlertPolicy, Severity
from qwen_token.run_memory import Incident, RunMemory
from tests.minting import NOW

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
POLICY: Final = AlertPolicy(alert_after=HOUR, critical_before=DAY, refresh_before=3 * DAY)

# How a run ended: with a failure on a version of the token, or well, by a refresh or by a check.
type Ending = QwenTokenError | str
type Step = tuple[float, Ending]


def failing(
    kind: Callable[[str], QwenTokenError] = UpstreamUnavailableError,
    version: str | None = "v1",
    *,
    left: timedelta | None = 7 * DAY,
    exchanged: bool = False,
    replaced: str | None = None,
) -> QwenTokenError:
    """Return a failure of a run on ``version``; the token has ``left`` as the history begins."""
    facts = RunFacts(version_id=version, is_exchanged=exchanged, replaced=replaced)
    return kind("…").of_run(facts, expires_at=None if left is None else NOW + left)


@dataclass
class Owner:
    """Carries out what is decided, as the function does, and keeps what was published.

    ``topic_works`` says whether a publish at that minute succeeds.
    """

    policy: AlertPolicy = POLICY
    topic_works: Callable[[float], bool] = lambda _: True
    incident: Incident | None = None
    told: list[tuple[float, str]] = field(default_factory=list)
    recovered: list[tuple[float, Incident]] = field(default_factory=list)

    def after(self, minutes: float, ending_: Ending) -> None:
        now = NOW + minutes * MINUTE
        if isinstance(ending_, QwenTokenError):
            replaced = ending_.facts.replaced if ending_.facts else None
            seen = observe(self.incident, ending_, now=now, policy=self.policy, replaced=replaced)
            self.incident = seen.unpublished
            if seen.publish and self.topic_works(minutes):
                self.told.append((minutes, f"{seen.severity} {ending_.reason}"))
                self.incident = seen.incident
            # What is remembered survives being written and read.
            written = RunMemory(incident=self.incident).to_json()
            assert RunMemory.from_json(written).incident == self.incident
            return
        how, _, version = ending_.partition(" ")
        incident = self.incident
        if incident and is_over(incident, version_id=version or "v1", by_check=how == "checked"):
            self.incident = None
            if incident.highest is not None:
                self.told.append((minutes, f"recovered {incident.highest} {incident.reason}"))
                self.recovered.append((minutes, incident))


def told(history: Iterable[Step], *, policy: AlertPolicy = POLICY) -> list[tuple[float, str]]:
    owner = Owner(policy)
    for minutes, ending_ in history:
        owner.after(minutes, ending_)
    return owner.told


down, dead = failing(), failing(TokenRejectedError)
dying = failing(left=10 * MINUTE)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([(0, "refreshed")], [], id="nothing is said while all is well"),
        pytest.param(
            [(0, down), (2, "refreshed v2")],
            [(0, "notice upstream_unavailable"), (2, "recovered notice upstream_unavailable")],
            id="trouble that passes is a notice, and its end too",
        ),
        pytest.param(
            [(0, down), (2, down), (59.9, down), (60, down), (62, down)],
            [(0, "notice upstream_unavailable"), (60, "warning upstream_unavailable")],
            id="after an hour, on the minute, it is a warning, once",
        ),
        pytest.param(
            [(minute, dying) for minute in range(0, 20, 2)],
            [(0, "notice upstream_unavailable"), (10, "critical upstream_unavailable")],
            id="at the expiry of a token it is critical, however young the incident",
        ),
        pytest.param(
            [(0, failing(exchanged=True, left=DAY)), (1, failing(exchanged=True, left=DAY))],
            [(0, "notice upstream_unavailable"), (1, "critical upstream_unavailable")],
            id="a token that is exchanged is critical with less than a day left",
        ),
        pytest.param(
            [(0, failing(left=DAY / 2)), (1, failing(left=DAY / 2))],
            [(0, "notice upstream_unavailable")],
            id="a token of a session is not",
        ),
        pytest.param(
            [(0, failing(StoreError, None, left=None)), (2, failing(StoreError, None, left=None))],
            [(0, "notice store_failed")],
            id="a token that cannot be read counts as alive",
        ),
        pytest.param(
            [(minute, dead) for minute in range(0, 2 * 24 * 60 + 1, 2)],
            [(day * 24 * 60, "critical token_rejected") for day in range(3)],
            id="what only a person can mend is critical at once, and again each day",
        ),
        pytest.param(
            [(minute, ConfigError("off")) for minute in range(0, 24 * 60, 2)],
            [(0, "critical config_invalid")],
            id="an invalid environment does not cause 720 alerts a day",
        ),
        pytest.param(
            [(0, down), (2, failing(RateLimitedError)), (4, down), (6, failing(RateLimitedError))],
            [(0, "notice upstream_unavailable"), (2, "notice rate_limited")],
            id="each reason is said once, however they alternate",
        ),
        pytest.param(
            [(0, down), (70, failing(RateLimitedError)), (72, down)],
            [
                (0, "notice upstream_unavailable"),
                (70, "warning rate_limited"),
                (72, "warning upstream_unavailable"),
            ],
            id="another reason does not make the incident younger",
        ),
        pytest.param(
            [(0, down), (58, "refreshed v2"), (60, failing(version="v2"))],
            [
                (0, "notice upstream_unavailable"),
                (58, "recovered notice upstream_unavailable"),
                (60, "notice upstream_unavailable"),
            ],
            id="after a success it is another incident",
        ),
        pytest.param(
            [(0, dead), (2, failing(TokenRejectedError, "v2")), (4, "refreshed v3")],
            [
                (0, "critical token_rejected"),
                (2, "critical token_rejected"),
                (4, "recovered critical token_rejected"),
            ],
            id="another version's failure is another incident, whose end is said",
        ),
        pytest.param(
            [(0, down), (60, failing(StoreError, None, left=None)), (62, down)],
            [
                (0, "notice upstream_unavailable"),
                (60, "warning store_failed"),
                (62, "warning upstream_unavailable"),
            ],
            id="a version that could not be read is taken for the same",
        ),
        pytest.param(
            [
                (0, failing(TokenShortLivedError, "v2", replaced="v1")),
                (10, failing(TokenShortLivedError, "v3", replaced="v2")),
                (20, failing(TokenShortLivedError, "v4", replaced="v3")),
            ],
            [(0, "critical token_short_lived")],
            id="a version that the failing run wrote itself is no other incident",
        ),
        pytest.param(
            [(0, dead), (2, "checked v1"), (4, "refreshed v2")],
            [(0, "critical token_rejected"), (2, "recovered critical token_rejected")],
            id="it recovers once",
        ),
        pytest.param(
            [(0, dead), (2, down), (70, down), (72, "refreshed v2")],
            [
                (0, "critical token_rejected"),
                (2, "notice upstream_unavailable"),
                (70, "warning upstream_unavailable"),
                (72, "recovered critical token_rejected"),
            ],
            id="the recovery is that of the gravest failure",
        ),
    ],
)
def test_a_history_of_runs_is_published_as_it_should_be(
    history: Sequence[Step], expected: list[tuple[float, str]]
) -> None:
    assert told(history) == expected


def test_without_a_wait_trouble_is_a_warning_at_once() -> None:
    at_once = replace(POLICY, alert_after=timedelta(0))
    assert told([(0, down)], policy=at_once) == [(0, "warning upstream_unavailable")]


def test_a_clock_that_was_set_back_does_not_make_a_warning_a_notice() -> None:
    at_once = replace(POLICY, alert_after=timedelta(0))
    history = [(0, down), (-10, failing(RateLimitedError))]
    assert told(history, policy=at_once)[1] == (-10, "warning rate_limited")


@pytest.mark.parametrize(
    "kind",
    [
        TokenNotExtendedError,
        TokenShortLivedError,
        SessionMalformedError,
        SessionRejectedError,
        SignInRefusedError,
    ],
)
def test_a_check_does_not_end_an_incident_that_stops_the_next_token(
    kind: type[QwenTokenError],
) -> None:
    failed = (0, failing(kind))
    [alert] = told([failed, (2, "checked v1")])
    assert told([failed, (2, "checked v2")]) == [alert, (2, f"recovered critical {kind.reason}")]
    assert told([failed, (2, "refreshed v1")])[1:] == [(2, f"recovered critical {kind.reason}")]


def test_a_check_does_not_end_an_incident_with_a_later_failure_either() -> None:
    history: list[Step] = [(0, failing(SessionRejectedError)), (2, dead), (4, "checked v1")]
    assert told(history) == [(0, "critical session_rejected"), (2, "critical token_rejected")]


def test_what_could_not_be_published_is_published_by_the_next_run() -> None:
    owner = Owner(topic_works=lambda minutes: minutes >= 4)
    for minutes in (0, 2, 4, 6):
        owner.after(minutes, dead)
    assert owner.told == [(4, "critical token_rejected")]
    assert owner.incident is not None
    assert owner.incident.since == NOW


def test_an_unpublished_incident_ends_without_a_recovery() -> None:
    owner = Owner(topic_works=lambda _: False)
    owner.after(0, dead)
    owner.after(2, "refreshed v2")
    assert owner.told == []
    assert owner.incident is None


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        pytest.param(3 * DAY + timedelta(seconds=1), None, id="more than the window"),
        pytest.param(3 * DAY, Severity.WARNING, id="exactly the window"),
        pytest.param(DAY, Severity.WARNING, id="exactly the critical time"),
        pytest.param(DAY - timedelta(seconds=1), Severity.CRITICAL, id="less than that"),
        pytest.param(-DAY, Severity.CRITICAL, id="over"),
    ],
)
def test_the_end_of_a_login_is_a_warning_and_then_critical(
    left: timedelta, expected: Severity | None
) -> None:
    assert ending(NOW + left, now=NOW, policy=POLICY) is expected


# --- any history ----------------------------------------------------------------------------------

_KINDS: Final = (
    RateLimitedError,
    UpstreamUnavailableError,
    StoreError,
    TokenRejectedError,
    TokenMalformedError,
    SessionRejectedError,
    ConfigError,
)

FAILURES: Final = st.builds(
    lambda kind, version, left, exchanged: failing(
        kind, version, left=None if left is None else left * HOUR, exchanged=exchanged
    ),
    st.sampled_from(_KINDS),
    st.sampled_from(["v1", "v1", "v1", "v2", None]),
    st.one_of(st.none(), st.integers(-10, 100)),
    st.booleans(),
)
ENDINGS: Final = st.one_of(
    FAILURES,
    FAILURES,
    FAILURES,
    st.sampled_from(["refreshed v2", "checked v1", "checked v2"]),
)
HISTORIES: Final = st.lists(st.tuples(st.integers(1, 12 * 60), ENDINGS), max_size=40)


@given(steps=HISTORIES, broken=st.sets(st.integers(0, 39)))
def test_over_any_history_everybody_hears_in_time_and_nobody_twice(
    steps: list[tuple[int, Ending]], broken: set[int]
) -> None:
    minutes, count = 0, 0
    works = True
    owner = Owner(topic_works=lambda _: works)
    # Of the incident that goes on: when each reason was last said at each severity.
    said: dict[str, datetime] = {}
    since: datetime | None = None

    for later, ending_ in steps:
        minutes += later
        now, works, count = NOW + minutes * MINUTE, count not in broken, count + 1
        before, heard = owner.incident, len(owner.told)
        owner.after(minutes, ending_)
        new = [what for _, what in owner.told[heard:]]

        if owner.incident is None or before is None or owner.incident.since != before.since:
            said_before, said = said, {}
            since = None
        else:
            said_before = said
        if not isinstance(ending_, QwenTokenError):
            # A recovery is for whoever heard of the failure, and says what was the worst of it.
            assert len(new) == (owner.incident is None and bool(said_before))
            if new:
                levels = [Severity(key.split()[0]) for key in said_before]
                worst = max(levels, key=lambda level: level.grade)
                assert new[0].startswith(f"recovered {worst} ")
            said = {} if owner.incident is None else said_before
            continue

        assert owner.incident is not None
        since = since or owner.incident.since
        assert owner.incident.since == since <= now
        for what in new:
            # Nobody is alerted twice for the same thing within a day, in one incident.
            assert what not in said or now - said[what] >= REMIND_EVERY
            said[what] = now
        # Whoever is needed was alerted within a day, if the topic works: of this very thing.
        if works:
            level = observe(before, ending_, now=now, policy=POLICY).severity
            assert now - said[f"{level} {ending_.reason}"] < REMIND_EVERY


@given(steps=HISTORIES)
def test_with_a_topic_that_works_what_a_person_must_mend_is_said_in_the_run_that_meets_it(
    steps: list[tuple[int, Ending]],
) -> None:
    owner, minutes, last_said = Owner(), 0, dict[str, int]()
    for later, ending_ in steps:
        minutes += later
        owner.after(minutes, ending_)
        for when, what in owner.told:
            last_said[what] = int(when)
        if isinstance(ending_, TokenRejectedError | SessionRejectedError | ConfigError):
            age = minutes - last_said[f"critical {ending_.reason}"]
            assert age * MINUTE < REMIND_EVERY
