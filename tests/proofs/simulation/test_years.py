"""The life of a login, as Hypothesis tells it: it looks for the shortest story that goes wrong."""

import random
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from localcloud.sign_in_host import Rotation

from .qwen import Mode, Outage, start
from .simulated_life import (
    ACCOUNT,
    ANOTHER_ACCOUNT,
    DAY,
    HOUR,
    MINUTE,
    Kind,
    SimulatedLife,
    Trouble,
)
from .walk import HOSTS, LIFETIMES, MOST_CALLS, begun_life, live, most_skew, settle_hosts

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CALLS = st.integers(min_value=1, max_value=MOST_CALLS)


class Story(RuleBasedStateMachine):
    """Each rule is something that happens; the life checks its invariants at each run."""

    kind = Kind.TOKEN

    def __init__(self) -> None:
        super().__init__()
        self.life = self.new_life()

    def new_life(self) -> SimulatedLife:
        """Return the life that this story tells."""
        return begun_life(self.kind)

    @rule(
        part=st.floats(min_value=0.01, max_value=1),
        missed=st.integers(min_value=0, max_value=8),
        doubled=st.integers(min_value=0, max_value=2),
    )
    def time_passes(self, part: float, missed: int, doubled: int) -> None:
        self.life.pass_time(part * self.most_time(), missed=missed, doubled=doubled)

    def most_time(self) -> timedelta:
        """Return how long nothing else happens, at most."""
        return 8 * DAY

    @rule(
        outage=st.sampled_from(Outage),
        hosts=st.sampled_from(HOSTS),
        lasts=st.one_of(
            st.timedeltas(min_value=timedelta(minutes=1), max_value=HOUR),
            st.timedeltas(min_value=HOUR, max_value=21 * DAY),
        ),
    )
    def a_host_breaks_down(self, outage: Outage, hosts: Any, lasts: timedelta) -> None:
        self.life.break_down(outage, lasts=lasts, hosts=hosts)

    @precondition(lambda self: self.life.kind is not Kind.OPEN_WEBUI)
    @rule(mode=st.sampled_from(Mode), lifetime=st.sampled_from(LIFETIMES))
    def the_api_changes(self, mode: Mode, lifetime: timedelta) -> None:
        self.life.change_mode(mode)
        self.life.qwen.lifetime = lifetime

    @rule()
    def the_password_is_changed(self) -> None:
        self.life.change_password()

    @rule()
    def the_token_is_revoked(self) -> None:
        self.life.revoke()

    @rule()
    def the_owner_logs_in(self) -> None:
        self.life.log_in()

    @rule(hours=st.integers(min_value=-24, max_value=80))
    def a_token_of_another_age_is_put_in(self, hours: int) -> None:
        lifetime = timedelta(hours=hours)
        self.life.put_amiss(self.life.qwen.log_in(ACCOUNT, lifetime=lifetime).raw)

    @rule()
    def anothers_token_is_put_in(self) -> None:
        self.life.put_amiss(self.life.qwen.log_in(ANOTHER_ACCOUNT).raw)

    @rule()
    def garbage_is_put_in(self) -> None:
        self.life.put_amiss("hunter2")

    @rule()
    def the_secret_is_rolled_back(self) -> None:
        self.life.roll_back()

    @rule(skew=st.floats(min_value=-1, max_value=1))
    def a_clock_goes_wrong(self, skew: float) -> None:
        self.life.set_skew(skew * most_skew(self.life))

    @rule(trouble=st.sampled_from(Trouble), at=CALLS, is_due=st.booleans())
    def a_run_is_in_trouble(self, trouble: Trouble, at: int, is_due: bool) -> None:  # noqa: FBT001
        self.life.wait_until_due(sometimes=is_due)
        self.life.run_with(trouble, at=at)

    @rule(at=CALLS, is_due=st.booleans())
    def a_person_comes_between(self, at: int, is_due: bool) -> None:  # noqa: FBT001 - drawn
        self.life.wait_until_due(sometimes=is_due)
        self.life.run_beside_a_login(at=at)

    @rule(at=CALLS, is_due=st.booleans(), force=st.booleans())
    def a_run_comes_between(self, at: int, is_due: bool, force: bool) -> None:  # noqa: FBT001
        self.life.wait_until_due(sometimes=is_due)
        self.life.run_beside_a_run(at=at, force=force)

    @rule(
        runs=st.integers(min_value=2, max_value=20),
        every=st.timedeltas(min_value=timedelta(seconds=1), max_value=2 * MINUTE),
    )
    def services_force_runs(self, runs: int, every: timedelta) -> None:
        self.life.storm(runs, every=every)

    @precondition(lambda self: self.life.needs_a_person)
    @rule(after=st.timedeltas(min_value=timedelta(0), max_value=5 * DAY))
    def who_was_called_comes(self, after: timedelta) -> None:
        self.life.will_log_in(after)

    def teardown(self) -> None:
        self.life.end_well()


class SessionStory(Story):
    kind = Kind.SESSION

    @rule(
        rotation=st.sampled_from(Rotation),
        says_end=st.booleans(),
        names_account=st.booleans(),
        has_iat=st.booleans(),
    )
    def the_host_changes(
        self,
        rotation: Rotation,
        says_end: bool,  # noqa: FBT001 - drawn
        names_account: bool,  # noqa: FBT001
        has_iat: bool,  # noqa: FBT001
    ) -> None:
        qwen = self.life.qwen
        qwen.rotation, qwen.says_end = rotation, says_end
        qwen.names_account, qwen.has_iat = names_account, has_iat

    def most_time(self) -> timedelta:
        return 4 * HOUR


class SignInStory(SessionStory):
    kind = Kind.SIGN_IN


class OpenWebUIStory(Story):
    kind = Kind.OPEN_WEBUI


STORIES = [Story, SessionStory, SignInStory, OpenWebUIStory]


@pytest.mark.parametrize("story", STORIES)
def test_no_story_breaks_an_invariant(story: type[Story]) -> None:
    tell(story, how_many=2)


@pytest.mark.nightly
@pytest.mark.parametrize("story", STORIES)
def test_none_of_many_stories_breaks_an_invariant(story: type[Story]) -> None:
    tell(story, how_many=60)


def tell(story: type[Story], *, how_many: int) -> None:
    run_state_machine_as_test(
        story,
        settings=settings(
            max_examples=how_many,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
        ),
    )


@pytest.mark.parametrize("kind", Kind)
def test_no_life_drawn_at_random_breaks_an_invariant(kind: Kind) -> None:
    rng = random.Random(kind.name)  # noqa: S311 - no secret
    life = begun_life(kind)
    settle_hosts(life, rng, 6 * HOUR)
    # Of tokens of six hours, a fortnight has as many as years have of the others.
    live(life, rng, time=(15 if kind in {Kind.SESSION, Kind.SIGN_IN} else 90) * DAY)
    assert life.tally.counts["refreshes"] > 8, "hardly a life"


@pytest.mark.parametrize("mode", Mode)
def test_however_the_api_answers_no_invariant_breaks(mode: Mode) -> None:
    """No life drawn at random need meet each of them with a token that is due and alive."""
    life = begun_life(Kind.TOKEN)
    life.pass_time(3 * DAY)
    life.change_mode(mode)
    life.pass_time(8 * DAY)
    life.end_well()


def test_no_life_of_tokens_of_a_quarter_of_an_hour_breaks_an_invariant() -> None:
    rng = random.Random(15)  # noqa: S311 - no secret
    life = begun_life(Kind.SESSION)
    settle_hosts(life, rng, 15 * MINUTE)
    live(life, rng, time=DAY)
    assert life.tally.counts["refreshes"] > 50, "hardly a life"


def test_a_quiet_day_of_a_session_makes_at_most_150_versions() -> None:
    life = begun_life(Kind.SESSION)

    life.pass_time(DAY)

    assert 140 < life.tally.counts["versions"] <= 150
    assert life.tally.counts["versions of the session"] == 0
    assert not life.alerts


@pytest.mark.nightly
def test_a_revoked_token_is_noticed_within_a_day_and_blocks_alarm_nobody() -> None:
    """A thousand lives; a check that a block page answers is made up for by the next one."""
    rng = random.Random(24)  # noqa: S311 - no secret
    noticed_after: list[timedelta] = []
    for _ in range(1000):
        life = begun_life(Kind.TOKEN)
        life.qwen.lifetime = rng.choice(LIFETIMES)
        life.pass_time(rng.uniform(0, 6) * DAY)
        hours = rng.choice((0.0, rng.uniform(0, 20)))
        life.break_down(Outage.BLOCKED, lasts=timedelta(hours=hours))
        life.pass_time(rng.uniform(0, 1) * HOUR)
        assert not [each for each in life.alerts if each["severity"] == "critical"]

        life.change_password()
        blocked_until, revoked_at = life.outage_ends, life.now
        while not (told := [each for each in life.alerts if each["severity"] == "critical"]):
            life.pass_time(HOUR)

        assert told[0]["failures"][0]["reason"] == "token_rejected"
        at = datetime.fromisoformat(told[0]["occurred_at"])
        noticed_after.append(at - max(revoked_at, blocked_until))

    assert max(noticed_after) <= DAY
    assert sum(noticed_after, timedelta()) / 1000 > 6 * HOUR, "hardly anything was left to notice"


@pytest.mark.nightly
def test_services_that_force_runs_all_day_cause_one_alert_and_few_versions() -> None:
    """Fifty services whose requests are refused, each of which forces a run every quarter."""
    life = begun_life(Kind.TOKEN)
    life.pass_time(DAY + HOUR)
    life.change_password()
    before = life.tally.counts["versions"]

    life.storm(50 * 96, every=DAY / (50 * 96))

    assert [each["severity"] for each in life.alerts] == ["critical"]
    assert life.tally.counts["versions"] == before


@pytest.mark.nightly
def test_services_that_force_runs_on_a_live_token_cause_a_version_in_ten_minutes() -> None:
    life = begun_life(Kind.SESSION)
    life.pass_time(DAY + HOUR)
    before = life.tally.counts["versions"]

    life.storm(50 * 96, every=DAY / (50 * 96))

    assert not life.alerts
    # A token of a quarter of an hour is due half a minute before ten minutes are over.
    assert life.tally.counts["versions"] - before <= DAY / timedelta(minutes=9.5)


class _Dated:
    """The emulator's client, whose versions are dated by the life's clock, not by its own."""

    def __init__(self, client: Any, clock: list[SimulatedLife]) -> None:
        self._client = client
        self._life = clock
        self._created: dict[str, datetime] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_secret_value(self, **request: Any) -> Any:
        answer = self._client.put_secret_value(**request)
        now = self._life[0].clock() if self._life else start()
        self._created.setdefault(answer["VersionId"], now)
        return answer

    def get_secret_value(self, **request: Any) -> Any:
        answer = self._client.get_secret_value(**request)
        return {**answer, "CreatedDate": self._created.get(answer["VersionId"], start())}


@pytest.mark.nightly
@pytest.mark.parametrize("kind", [Kind.TOKEN, Kind.SESSION])
def test_no_story_breaks_an_invariant_on_the_embedded_aws_either(
    secrets: "SecretsManagerClient", kind: Kind
) -> None:
    class EmulatedStory(Story):
        def new_life(self) -> SimulatedLife:
            lives: list[SimulatedLife] = []
            client: Any = _Dated(secrets, lives)
            arn, session_arn = (
                secrets.create_secret(Name=f"life/{uuid.uuid4()}")["ARN"] for _ in range(2)
            )
            lives.append(SimulatedLife(client, arn, session_arn, kind))
            return lives[0]

        def most_time(self) -> timedelta:
            return 8 * DAY if kind is Kind.TOKEN else 2 * HOUR

    run_state_machine_as_test(
        EmulatedStory,
        settings=settings(
            max_examples=5,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            database=None,
            # What is slow is not worth shrinking: the simulated secret does that.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
