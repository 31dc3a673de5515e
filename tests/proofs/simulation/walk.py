"""A life of one login, drawn at random: what happens to it, how often and how badly."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from localcloud.sign_in_host import Rotation
from tests.fake_secrets_manager import FakeSecretsManager

from .qwen import BOTH, Host, Mode, Outage, start
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

# Of a run: a refresh makes about a dozen calls, a recovery a few more.
MOST_CALLS: Final = 16
MOST_SKEW: Final = timedelta(minutes=10)
LIFETIMES: Final = (7 * DAY, 7 * DAY, 7 * DAY, 30 * DAY, 4 * DAY)
ACCESS_LIFETIMES: Final = (15 * MINUTE, 20 * MINUTE, 6 * HOUR)
HOSTS: Final = (BOTH, BOTH, frozenset({Host.API}), frozenset({Host.SIGN_IN}))


def begun_life(kind: Kind = Kind.TOKEN) -> SimulatedLife:
    """Return a life with a login of this kind that has just been put in."""
    secrets = FakeSecretsManager(clock=start)
    life = SimulatedLife(secrets, secrets.add("qwen/token"), secrets.add("qwen/session"), kind)
    # AWS has one clock.
    secrets.clock = life.clock
    return life


def settle_hosts(life: SimulatedLife, rng: random.Random, access_lifetime: timedelta) -> None:
    """Draw how the sign-in host treats this life's sessions."""
    qwen = life.qwen
    qwen.access_lifetime = access_lifetime
    qwen.rotation = rng.choice(list(Rotation))
    qwen.returns_credential = qwen.rotation is not Rotation.NEVER or rng.random() < 0.5
    qwen.says_end = rng.random() < 0.7
    qwen.names_account = rng.random() < 0.5
    qwen.has_iat = rng.random() < 0.7


def pass_time(life: SimulatedLife, rng: random.Random) -> None:
    """Let some time go by, in which the schedule is not always exact."""
    missed = rng.choice((0, 0, 0, rng.randint(0, 8)))
    doubled = rng.choice((0, 0, 1, 3))
    life.pass_time(rng.uniform(0, 1) * pace(life), missed=missed, doubled=doubled)


def pace(life: SimulatedLife) -> timedelta:
    """Return how long nothing else happens, at most: some dozen of its tokens' lives."""
    if life.kind in {Kind.TOKEN, Kind.OPEN_WEBUI}:
        return 14 * DAY
    return 60 * life.qwen.access_lifetime


def break_down(life: SimulatedLife, rng: random.Random) -> None:
    """Let one or both hosts be out of reach for minutes to weeks."""
    hours = rng.choice((rng.uniform(0.02, 1), rng.uniform(0.1, 12), rng.uniform(12, 96)))
    if rng.random() < 0.1:
        hours = rng.uniform(96, 500)
    outage, hosts = rng.choice(list(Outage)), rng.choice(HOSTS)
    life.break_down(outage, lasts=timedelta(hours=hours), hosts=hosts)


def change_mode(life: SimulatedLife, rng: random.Random) -> None:
    """Let the API answer in another way; in the end it mints again."""
    if life.kind is Kind.OPEN_WEBUI:
        return
    life.change_mode(rng.choice([*Mode, Mode.MINTS, Mode.MINTS]))
    life.qwen.lifetime = rng.choice(LIFETIMES)


def change_password(life: SimulatedLife, rng: random.Random) -> None:
    """End the owner's sessions; the owner logs in again at once, in days, or when called."""
    life.change_password()
    if rng.random() < 0.5:
        life.will_log_in(timedelta(hours=rng.uniform(0, 100)))


def revoke(life: SimulatedLife, _rng: random.Random) -> None:
    """End the current token alone."""
    life.revoke()


def log_in(life: SimulatedLife, _rng: random.Random) -> None:
    """Put a new login in, without need."""
    life.log_in()


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
    life.put_amiss(spoilt)
    life.will_mend(timedelta(hours=rng.uniform(1, 200)))


def roll_back(life: SimulatedLife, _rng: random.Random) -> None:
    """Go back to the version before."""
    life.roll_back()


def skew(life: SimulatedLife, rng: random.Random) -> None:
    """Set Lambda's clock before or after the API's."""
    life.set_skew(most_skew(life) * rng.choice((-1, -rng.random(), 0, rng.random(), 1)))


def most_skew(life: SimulatedLife) -> timedelta:
    """Return by how much the clocks may differ: a token of minutes bears less."""
    return MOST_SKEW if life.kind is Kind.TOKEN else MINUTE


def run_in_trouble(life: SimulatedLife, rng: random.Random) -> None:
    """Run, and let the process die or a call fail."""
    event = rng.choice(({}, {}, {"force": True}, {"check": True}))
    life.wait_until_due(sometimes=rng.random() < 0.7)
    life.run_with(rng.choice(list(Trouble)), at=rng.randint(1, MOST_CALLS), event=event)


def run_beside_a_person(life: SimulatedLife, rng: random.Random) -> None:
    """Run, and let a person log in meanwhile."""
    life.wait_until_due(sometimes=rng.random() < 0.7)
    life.run_beside_a_login(at=rng.randint(1, MOST_CALLS))


def run_beside_a_run(life: SimulatedLife, rng: random.Random) -> None:
    """Run, and let another run come in between."""
    life.wait_until_due(sometimes=rng.random() < 0.7)
    life.run_beside_a_run(at=rng.randint(1, MOST_CALLS), force=rng.random() < 0.5)


def storm(life: SimulatedLife, rng: random.Random) -> None:
    """Let services force runs."""
    life.storm(rng.randint(5, 40), every=timedelta(seconds=rng.uniform(1, 120)))


# How often each happens, beside the passing of time.
HAPPENINGS: Final[dict[Callable[[SimulatedLife, random.Random], None], int]] = {
    pass_time: 30,
    break_down: 8,
    run_in_trouble: 10,
    run_beside_a_person: 4,
    run_beside_a_run: 5,
    storm: 3,
    change_mode: 3,
    change_password: 3,
    revoke: 2,
    log_in: 2,
    paste: 2,
    roll_back: 2,
    skew: 3,
}


def live(life: SimulatedLife, rng: random.Random, *, time: timedelta) -> None:
    """Let so much time go by, and end well."""
    happenings, weights = list(HAPPENINGS), list(HAPPENINGS.values())
    while life.tally.time < time:
        (happening,) = rng.choices(happenings, weights)
        happening(life, rng)
        if life.needs_a_person:
            # They were told what to do, and do it: some at once, some days later.
            life.will_log_in(timedelta(hours=rng.choice((0.1, rng.uniform(1, 24), 120))))
        life.qwen.forget()
    life.end_well()
