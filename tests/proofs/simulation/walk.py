"""A life of one token, drawn at random: what happens to it, how often and how badly."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from .qwen import Mode, Outage
from .simulated_life import ACCOUNT, ANOTHER_ACCOUNT, DAY, SimulatedLife, Trouble

# Of a run: a refresh makes five calls, a recovery up to eight.
MOST_CALLS: Final = 9
MOST_SKEW: Final = timedelta(minutes=10)
LIFETIMES: Final = (7 * DAY, 7 * DAY, 7 * DAY, 30 * DAY, 4 * DAY)


def pass_time(life: SimulatedLife, rng: random.Random) -> None:
    """Let up to two weeks go by, in which the schedule is not always exact."""
    ticks = rng.randint(1, 56)
    missed = rng.choice((0, 0, 0, rng.randint(0, min(ticks, 8))))
    life.pass_time(ticks, missed=missed, doubled=rng.choice((0, 0, 1, 3)))


def break_down(life: SimulatedLife, rng: random.Random) -> None:
    """Let the API be out of reach for hours to weeks."""
    hours = rng.choice((rng.uniform(0.1, 12), rng.uniform(12, 96), rng.uniform(96, 500)))
    life.break_down(rng.choice(list(Outage)), lasts=timedelta(hours=hours))


def change_mode(life: SimulatedLife, rng: random.Random) -> None:
    """Let the API answer in another way; in the end it mints again."""
    life.change_mode(rng.choice([*Mode, Mode.MINTS, Mode.MINTS]))
    life.qwen.lifetime = rng.choice(LIFETIMES)


def change_password(life: SimulatedLife, rng: random.Random) -> None:
    """End the owner's sessions; the owner logs in again at once, in days, or when called."""
    life.change_password()
    if rng.random() < 0.5:
        life.will_log_in(timedelta(hours=rng.uniform(0, 100)))


def log_in(life: SimulatedLife, _rng: random.Random) -> None:
    """Put a token of a new login in, without need."""
    life.put(life.qwen.log_in(ACCOUNT).raw)


def paste(life: SimulatedLife, rng: random.Random) -> None:
    """Put in what should not be put in; after a while, somebody mends it."""
    spoilt = rng.choice(
        (
            "hunter2",
            "a.b.c",
            life.qwen.log_in(ACCOUNT, lifetime=-DAY).raw,
            life.qwen.log_in(ACCOUNT, lifetime=timedelta(hours=rng.uniform(1, 80))).raw,
            life.qwen.log_in(ANOTHER_ACCOUNT).raw,
        )
    )
    life.put(spoilt)
    life.will_log_in(timedelta(hours=rng.uniform(1, 200)))


def roll_back(life: SimulatedLife, _rng: random.Random) -> None:
    """Go back to the version before."""
    life.roll_back()


def skew(life: SimulatedLife, rng: random.Random) -> None:
    """Set Lambda's clock before or after the API's."""
    life.set_skew(MOST_SKEW * rng.choice((-1, -rng.random(), 0, rng.random(), 1)))


def run_in_trouble(life: SimulatedLife, rng: random.Random) -> None:
    """Run, and let the process die or a call fail."""
    life.run_with(rng.choice(list(Trouble)), at=rng.randint(1, MOST_CALLS))


def run_beside_a_person(life: SimulatedLife, rng: random.Random) -> None:
    """Run, and let a person put a token in meanwhile."""
    life.run_beside_a_login(at=rng.randint(1, MOST_CALLS))


# How often each happens, beside the passing of time.
HAPPENINGS: Final[dict[Callable[[SimulatedLife, random.Random], None], int]] = {
    pass_time: 30,
    break_down: 8,
    run_in_trouble: 10,
    run_beside_a_person: 5,
    change_mode: 3,
    change_password: 3,
    log_in: 2,
    paste: 2,
    roll_back: 3,
    skew: 3,
}


def live(life: SimulatedLife, rng: random.Random, *, years: float) -> None:
    """Let so many years go by."""
    happenings, weights = list(HAPPENINGS), list(HAPPENINGS.values())
    while life.tally.time < timedelta(days=365) * years:
        (happening,) = rng.choices(happenings, weights)
        happening(life, rng)
        if life.needs_a_person:
            # They were told what to do, and do it: some at once, some days later.
            life.will_log_in(timedelta(hours=rng.choice((0.1, rng.uniform(1, 24), 120))))
        life.qwen.forget()
