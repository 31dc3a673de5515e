"""The life of a token, as Hypothesis tells it: it looks for the shortest story that goes wrong."""

import random
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.fake_secrets_manager import FakeSecretsManager

from .qwen import Mode, Outage
from .simulated_life import ACCOUNT, ANOTHER_ACCOUNT, DAY, SimulatedLife, Trouble
from .walk import LIFETIMES, MOST_CALLS, MOST_SKEW, live

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CALLS = st.integers(min_value=1, max_value=MOST_CALLS)


def begun_life() -> SimulatedLife:
    secrets = FakeSecretsManager()
    return SimulatedLife(secrets, secrets.add("qwen/token"))


class Story(RuleBasedStateMachine):
    """Each rule is something that happens; the life checks its invariants at each run."""

    def __init__(self) -> None:
        super().__init__()
        self.life = self.new_life()

    def new_life(self) -> SimulatedLife:
        """Return the life that this story tells."""
        return begun_life()

    @rule(
        ticks=st.integers(min_value=1, max_value=30),
        missed=st.integers(min_value=0, max_value=8),
        doubled=st.integers(min_value=0, max_value=2),
    )
    def time_passes(self, ticks: int, missed: int, doubled: int) -> None:
        self.life.pass_time(ticks, missed=missed, doubled=doubled)

    @rule(
        outage=st.sampled_from(Outage),
        lasts=st.timedeltas(min_value=timedelta(minutes=5), max_value=21 * DAY),
    )
    def the_api_breaks_down(self, outage: Outage, lasts: timedelta) -> None:
        self.life.break_down(outage, lasts=lasts)

    @rule(mode=st.sampled_from(Mode), lifetime=st.sampled_from(LIFETIMES))
    def the_api_changes(self, mode: Mode, lifetime: timedelta) -> None:
        self.life.change_mode(mode)
        self.life.qwen.lifetime = lifetime

    @rule()
    def the_password_is_changed(self) -> None:
        self.life.change_password()

    @rule()
    def the_owner_logs_in(self) -> None:
        self.life.put(self.life.qwen.log_in(ACCOUNT).raw)

    @rule(hours=st.integers(min_value=-24, max_value=80))
    def a_token_of_another_age_is_put_in(self, hours: int) -> None:
        lifetime = timedelta(hours=hours)
        self.life.put(self.life.qwen.log_in(ACCOUNT, lifetime=lifetime).raw)

    @rule()
    def anothers_token_is_put_in(self) -> None:
        self.life.put(self.life.qwen.log_in(ANOTHER_ACCOUNT).raw)

    @rule()
    def garbage_is_put_in(self) -> None:
        self.life.put("hunter2")

    @rule()
    def the_secret_is_rolled_back(self) -> None:
        self.life.roll_back()

    @rule(skew=st.timedeltas(min_value=-MOST_SKEW, max_value=MOST_SKEW))
    def a_clock_goes_wrong(self, skew: timedelta) -> None:
        self.life.set_skew(skew)

    @rule(trouble=st.sampled_from(Trouble), at=CALLS)
    def a_run_is_in_trouble(self, trouble: Trouble, at: int) -> None:
        self.life.run_with(trouble, at=at)

    @rule(at=CALLS)
    def a_person_comes_between(self, at: int) -> None:
        self.life.run_beside_a_login(at=at)

    @precondition(lambda self: self.life.needs_a_person)
    @rule(after=st.timedeltas(min_value=timedelta(0), max_value=5 * DAY))
    def who_was_called_comes(self, after: timedelta) -> None:
        self.life.will_log_in(after)


def test_no_story_breaks_an_invariant() -> None:
    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None
        ),
    )


@pytest.mark.parametrize("seed", range(2))
def test_no_life_drawn_at_random_breaks_an_invariant(seed: int) -> None:
    life = begun_life()
    live(life, random.Random(seed), years=5)  # noqa: S311 - no secret
    assert life.tally.counts["refreshes"] > 100, "hardly a life"


def test_no_story_breaks_an_invariant_on_the_embedded_aws_either(
    secrets: "SecretsManagerClient",
) -> None:
    class EmulatedStory(Story):
        def new_life(self) -> SimulatedLife:
            client: Any = secrets
            return SimulatedLife(client, client.create_secret(Name=f"life/{uuid.uuid4()}")["ARN"])

    run_state_machine_as_test(
        EmulatedStory,
        settings=settings(
            max_examples=8,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            database=None,
            # What is slow is not worth shrinking: the simulated secret does that.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
