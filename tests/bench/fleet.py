"""Measure a fleet on the embedded AWS: what it costs, beside loops over all, and in trouble."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError
from rich.console import Console
from rich.progress import track
from rich.table import Table

from localcloud.aws import Cloud, CommandFailedError, build, local_cloud
from localcloud.fleet import DAY, TAG, DeployedFleet
from localcloud.qwen import MINTS_NEWER_CLAIMS, QwenStandIn
from localcloud.sign_in_host import SignInHostStandIn
from tests.bench.fleet_sessions import Hour, Sessions, Trouble, slowly
from tests.bench.machine import BUSY, MachineBusyError, load, wait_until_idle
from tests.bench.meter import GET, PUT, Cost, Lapse, Meter, counted

_RIVAL: Final = Path(__file__).with_name("loop_over_all.py")
_LIMIT: Final = timedelta(minutes=15)
# What everybody writes runs every two minutes; the fleet's sweeps come every ten.
_ROUNDS_OF_LOOP: Final = 30
_SWEEPS: Final = 6


class LeftBehindError(Exception):
    """What was to be kept was not."""


class LongLived:
    """Members with tokens of the first kind, ``secrets`` of them, of which ``due`` are due."""

    def __init__(
        self, fleet: DeployedFleet, meter: Meter, console: Console, *, secrets: int, due: int
    ) -> None:
        self.fleet = fleet
        self.meter = meter
        self.console = console
        self.names = [f"tokens/{number:05}" for number in range(secrets)]
        step = secrets / due
        self.due = [self.names[int(number * step)] for number in range(due)]

    def fill(self) -> None:
        """Make the secrets."""
        due = set(self.due)
        for name in track(self.names, "making secrets", console=self.console, transient=True):
            self.fleet.add(name, left=(2 if name in due else 5) * DAY, tag="on")

    def age(self) -> None:
        """Make those due that are meant to be, again."""
        for name in self.due:
            raw = self.fleet.qwen.mint(account=name, lifetime=2 * DAY)
            self.fleet.cloud.secretsmanager.put_secret_value(SecretId=name, SecretString=raw)

    def by_fleet(self) -> Cost:
        """Run a sweep, and wait until the workers are through."""
        begun = time.time()
        self.fleet.sweep()
        swept = time.time()
        self.fleet.drain(within=_LIMIT)
        # What was asked of the queue while it was drained is no call of the fleet's: only the
        # functions' calls go through the relay.
        ended = max(self.meter.last_promotion(swept), swept)
        cost = self.meter.cost(begun, time.time())
        return Cost(ended - begun, cost.calls, cost.busiest_second)

    def by_rival(self, *options: str) -> Cost:
        """Run a rival to its end."""
        cloud = self.fleet.cloud
        command = [sys.executable, str(_RIVAL), TAG, self.fleet.qwen.base_url, *options]
        environ = {**cloud.environ(), "AWS_ENDPOINT_URL": cloud.relay.url}
        begun = time.time()
        subprocess.run(command, env=environ, check=True)  # noqa: S603 - our own
        return self.meter.cost(begun, time.time())

    def check(self, who: str) -> None:
        """Require that every token that was due is fresh, and that nothing was alerted.

        Raises:
            LeftBehindError: one is not, or something was.
        """
        missing = [name for name in self.due if self.fleet.days_left(name) < 6]
        alerts = self.fleet.told()
        if missing or alerts:
            raise LeftBehindError(
                f"{who} left {len(missing)} tokens due, and told of {len(alerts)}"
            )


def measure_tokens(bench: LongLived, rounds: int) -> None:
    """Time the fleet and its rivals in turns, and print what they took."""
    console = bench.console
    bench.by_fleet()
    with console.status("nothing is due"):
        idle = (bench.by_rival("--only-due"), bench.by_fleet())
    pairs: list[tuple[Cost, Cost]] = []
    for number in range(rounds):
        with console.status(f"round {number + 1} of {rounds}: the fleet"):
            bench.age()
            ours = bench.by_fleet()
            bench.check("the fleet")
        with console.status(f"round {number + 1} of {rounds}: the loop that refreshes what is due"):
            bench.age()
            theirs = bench.by_rival("--only-due")
            bench.check("the loop")
        pairs.append((theirs, ours))
    with console.status("the loop that refreshes all, whatever is due"):
        bench.age()
        every = bench.by_rival()
        bench.check("the loop")

    secrets, due = len(bench.names), len(bench.due)
    table = _table(f"{secrets} long-lived tokens: a loop over all, one over what is due, the fleet")

    def add_all(label: str, theirs: Cost, ours: Cost) -> None:
        costs = (every, theirs, ours)
        _add(table, f"{label}: seconds", ".1f", *(cost.seconds for cost in costs))
        _add(table, "  calls to AWS", ".0f", *(cost.calls.total() for cost in costs))
        _add(table, "  most writes in a second", ".0f", *(cost.busiest_second for cost in costs))

    _add(table, "nothing due: seconds", ".1f", every.seconds, *(cost.seconds for cost in idle))
    idle_calls = [every.calls.total(), *(cost.calls.total() for cost in idle)]
    _add(table, "  calls to AWS", ".0f", *idle_calls)
    for number, pair in enumerate(pairs, start=1):
        add_all(f"{due} due, round {number}", *pair)
    theirs, ours = pairs[-1]
    _add(
        table,
        f"an hour with {due} due: calls",
        ".0f",
        _ROUNDS_OF_LOOP * every.calls.total(),
        (_ROUNDS_OF_LOOP - 1) * idle_calls[1] + theirs.calls.total(),
        (_SWEEPS - 1) * idle_calls[2] + ours.calls.total(),
    )
    console.print(table)
    console.print(
        "The loop over all does the same whatever is due, and was run once. The hour is "
        f"calculated: {_ROUNDS_OF_LOOP} rounds of a loop, {_SWEEPS} sweeps."
    )
    pace = due * 2 / 40
    console.print(
        f"At its pace of 40 writes a second, {due} take {pace:.1f} s: the fleet took "
        f"{ours.seconds / pace:.2f} times that."
    )
    console.print("Calls of a sweep on which nothing is due: " + counted(idle[1].calls))
    console.print("Calls of the last round's sweep and its workers: " + counted(ours.calls))


def measure_sessions(bench: Sessions, minutes: float) -> Hour:
    """Keep sessions for some minutes, and print what that took beside the rivals."""
    console = bench.console
    with console.status(f"{len(bench.names)} sessions for {minutes:.0f} minutes"):
        hour = bench.hour(minutes)
    bench.fleet.drain(within=_LIMIT)
    with console.status("the loops over all sessions, once each"):
        every, due = bench.round_of_rival(), bench.round_of_rival("--only-due")
    table = _table(f"{len(bench.names)} sessions of 15 minutes, for an hour")
    scale = 60 / minutes
    # Right after the fleet, nothing is due: what the loop calls for as many refreshes is added.
    refreshes = round(hour.refreshes * scale)
    for_refreshes = Counter({GET: refreshes, PUT: 2 * refreshes})
    of_an_hour = (
        every.times(_ROUNDS_OF_LOOP),
        due.times(_ROUNDS_OF_LOOP, more=for_refreshes),
        hour.cost.times(scale),
    )
    calls = (cost.calls.total() for cost in of_an_hour)
    _add(table, "calls to AWS", ".0f", *calls)
    of_secrets = (_of_secrets_manager(cost) for cost in of_an_hour)
    _add(table, "  of Secrets Manager", ".0f", *of_secrets)
    _add(table, "writes of secrets", ".0f", *(cost.writes for cost in of_an_hour))
    prices = (cost.of_a_month(3600) for cost in of_an_hour)
    _add(table, "USD a month for these calls", ".2f", *prices)
    console.print(table)
    console.print(
        f"The fleet was measured for {minutes:.0f} minutes; each loop for one round of the "
        f"{_ROUNDS_OF_LOOP} (the first took {every.seconds:.0f} s). The fleet's refreshes are "
        "added to what the loop over what is due calls, as it came when nothing was."
    )
    lost = sum(lapse.ended - lapse.begun for lapse in hour.lapses)
    console.print(
        f"{hour.refreshes} refreshes, {hour.cost.writes / (minutes * 60):.1f} writes a second, "
        f"{hour.cost.busiest_second} at most; without a valid token: "
        f"{len(hour.lapses)} members, {lost:.0f} s in all."
    )
    console.print("Calls of the fleet: " + counted(hour.cost.calls))
    _explain(bench, hour.lapses)
    return hour


def _explain(bench: Sessions, lapses: list[Lapse]) -> None:
    """Print when members had no valid token, and what the workers logged about them."""
    for lapse in lapses:
        begun, ended = (
            time.strftime("%H:%M:%S", time.gmtime(at)) for at in (lapse.begun, lapse.ended)
        )
        bench.console.print(f"{lapse.name} had no valid token from {begun} to {ended} UTC:")
        for line in bench.story_of(lapse):
            bench.console.print(f"  {line}")


def _of_secrets_manager(cost: Cost) -> int:
    return sum(count for name, count in cost.calls.items() if name.startswith("secretsmanager:"))


def measure_trouble(
    bench: Sessions,
    outage: timedelta,
    *,
    begins_after: timedelta = timedelta(minutes=5),
    after: timedelta = timedelta(minutes=5),
    kills: bool = True,
) -> bool:
    """Let everything go wrong, and print what became of each session; say whether all is well.

    The outage begins when what the killed workers left has come back, which takes 130 seconds.
    """
    console = bench.console
    with console.status("trouble"):
        came_of = bench.trouble(begins_after=begins_after, outage=outage, after=after, kills=kills)
    console.print(
        f"\n{len(bench.names)} sessions: 1 in 50 logins ended, the hosts down for {outage}, the "
        "workers killed between spending and storing:"
    )
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in _rows(came_of):
        table.add_row(label, str(value))
    console.print(table)
    _explain(bench, came_of.avoidable())
    return (
        came_of.fresh == came_of.could
        and set(came_of.told) == came_of.dead
        and max(came_of.told.values(), default=0) == 1
        and not came_of.dead_letters
    )


def _rows(came_of: Trouble) -> Iterator[tuple[str, object]]:
    avoidable = [lapse.ended - lapse.begun for lapse in came_of.avoidable()]
    yield "logins that live", len(came_of.could)
    yield "of these with a valid token at the end", len(came_of.fresh)
    yield "logins that ended", len(came_of.dead)
    yield "of these told exactly once", sum(came_of.told[name] == 1 for name in came_of.dead)
    yield "told of, though they live", len(came_of.told.keys() & came_of.could)
    yield "alert messages in all", came_of.messages
    yield "workers killed", came_of.killed
    yield "members without a valid token for a while", len({each.name for each in came_of.lapses})
    yield "of these also before or after the outage", len(avoidable)
    yield "  for how many seconds at most", round(max(avoidable, default=0))
    yield "dead letters", came_of.dead_letters
    yield "seconds", round(came_of.seconds)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("all", "due", "fleet", "all/fleet", "due/fleet"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _add(table: Table, label: str, shape: str, *values: float) -> None:
    last = values[-1]
    ratios = [f"{value / last:.1f}" if last else "" for value in values[:-1]]
    table.add_row(label, *(f"{value:{shape}}" for value in values), *ratios)


def main() -> int:
    """Measure, print, and return the exit code."""
    options = _options()
    console = Console(highlight=False)
    try:
        if not options.busy:
            with console.status("waiting until the machine has nothing else to do"):
                wait_until_idle(within=timedelta(minutes=10))
        with _deployed(console, options.latency) as fleet:
            meter = Meter(fleet.cloud, aws_latency=options.aws_latency)
            return 0 if _measured(fleet, meter, console, options) else 1
    except (ReadTimeoutError, ConnectTimeoutError, TimeoutError) as error:
        console.print(f"{type(error).__name__}: the machine is too busy ({load()})")
        return BUSY
    except MachineBusyError as error:
        console.print(str(error))
        return BUSY
    except (CommandFailedError, LeftBehindError) as error:
        console.print(str(error))
        return 1


def _measured(
    fleet: DeployedFleet, meter: Meter, console: Console, options: argparse.Namespace
) -> bool:
    """Measure what was asked for, and say whether nothing was left behind."""
    console.print(f"{load()} at the beginning")
    if options.secrets:
        tokens = LongLived(fleet, meter, console, secrets=options.secrets, due=options.due)
        with fleet.passing():
            tokens.fill()
            measure_tokens(tokens, options.rounds)
    is_well = True
    if options.sessions:
        if options.minutes:
            with _sessions(fleet, meter, console, options) as sessions:
                is_well = not measure_sessions(sessions, options.minutes).lapses
        if options.outage:
            outage = timedelta(seconds=options.outage)
            # Others: the loops leave all tokens equally old, and an outage may come at a good time.
            with _sessions(fleet, meter, console, options) as sessions:
                is_well = measure_trouble(sessions, outage) and is_well
    console.print(f"{load()} at the end")
    return is_well


@contextmanager
def _sessions(
    fleet: DeployedFleet, meter: Meter, console: Console, options: argparse.Namespace
) -> Iterator[Sessions]:
    """Make members with sessions, with tokens of all ages, for the length of the block."""
    sessions = Sessions(fleet, meter, console, members=options.sessions, latency=options.latency)
    with fleet.passing():
        sessions.fill()
        yield sessions


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-fleet", description=__doc__)
    defaults: tuple[tuple[str, float, str], ...] = (
        ("secrets", 2000, "long-lived tokens (0: leave that part out)"),
        ("due", 300, "of them due"),
        ("rounds", 2, "of the fleet and a loop in turn"),
        ("sessions", 500, "sessions of 15 minutes (0: leave that part out)"),
        ("minutes", 60.0, "for how long sessions are kept (0: not)"),
        ("outage", 600.0, "seconds for which the hosts are down in trouble (0: no trouble)"),
        ("latency", 0.1, "of Qwen's hosts, in seconds"),
        ("aws-latency", 0.0, "of AWS, beside the emulator's, in seconds"),
    )
    for name, default, what in defaults:
        parser.add_argument(
            f"--{name}", type=type(default), default=default, help=f"{what}; default: {default}"
        )
    parser.add_argument(
        "--busy", action="store_true", help="measure although others use the machine"
    )
    return parser.parse_args()


@contextmanager
def _deployed(console: Console, latency: float) -> Iterator[DeployedFleet]:
    """Deploy the stack with the fleet, as its defaults are, but that no schedule comes between."""
    with ExitStack() as running:
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        qwen = running.enter_context(QwenStandIn())
        sign_in_host = running.enter_context(SignInHostStandIn(qwen))
        cloud = running.enter_context(local_cloud())
        with console.status("building and deploying"):
            fleet = deploy(cloud, qwen, sign_in_host, directory)
        qwen.answer_with(slowly(MINTS_NEWER_CLAIMS, latency))
        yield fleet


def deploy(
    cloud: Cloud, qwen: QwenStandIn, sign_in_host: SignInHostStandIn, directory: Path
) -> DeployedFleet:
    """Deploy the stack, and stop its schedules: the bench has the sweeps made itself."""
    parameters = {
        "Fleet": "true",
        "ApiBaseUrl": qwen.base_url,
        "AuthBaseUrl": sign_in_host.base_url,
        "CheckSchedule": "",
    }
    stack = cloud.deploy(build(directory), parameters=parameters)
    scheduler = cloud.scheduler
    for summary in scheduler.list_schedules()["Schedules"]:
        found = scheduler.get_schedule(Name=summary["Name"])
        scheduler.update_schedule(
            Name=found["Name"],
            ScheduleExpression=found["ScheduleExpression"],
            FlexibleTimeWindow=found["FlexibleTimeWindow"],
            Target=found["Target"],
            State="DISABLED",
        )
    return DeployedFleet(stack, qwen, sign_in_host)


if __name__ == "__main__":
    sys.exit(main())
