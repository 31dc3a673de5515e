"""Measure a fleet on the embedded AWS: calls and time of a sweep, and what trouble does to it."""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from localcloud.aws import Cloud, CommandFailedError, build, local_cloud
from localcloud.fleet import DAY, TAG, Fleet
from localcloud.qwen import (
    MINTS_NEWER_CLAIMS,
    UNAVAILABLE_PAGE,
    QwenStandIn,
    Reply,
    Request,
    Scenario,
)
from localcloud.recording_proxy import Answer, Call, CarryOut
from localcloud.sign_in_host import SignInHost

_RIVAL: Final = Path(__file__).with_name("loop_over_all.py")
# For what is refreshed, put off and delivered again, all of it.
_LIMIT: Final = timedelta(minutes=15)
_REDELIVERED_AFTER: Final = 40
_OUTAGE: Final = 10.0
_PROMOTE: Final = "secretsmanager:UpdateSecretVersionStage"
_WRITES: Final = (_PROMOTE, "secretsmanager:PutSecretValue")


@dataclass(frozen=True, slots=True)
class Cost:
    """What keeping the fleet once cost: seconds, calls to AWS, and the most writes in a second."""

    seconds: float
    calls: Counter[str]
    busiest_second: int


class Bench:
    """A fleet of ``secrets`` secrets, of which ``due`` are due.

    ``aws_latency`` is added to what the emulator takes for each call, in seconds.
    """

    def __init__(
        self, fleet: Fleet, console: Console, *, secrets: int, due: int, aws_latency: float
    ) -> None:
        self.fleet = fleet
        self.aws_latency = aws_latency
        self.console = console
        self.names = [f"pool/{number:05}" for number in range(secrets)]
        step = secrets / due
        self.due = [self.names[int(number * step)] for number in range(due)]
        self._promoted_at: list[float] = []
        self._writes_at: list[float] = []
        fleet.cloud.relay.gate = self._gate

    def _gate(self, call: Call, carry_out: CarryOut) -> Answer | None:
        time.sleep(self.aws_latency)
        if call.operation in _WRITES:
            self._writes_at.append(time.monotonic())
        answer = carry_out()
        if call.operation == _PROMOTE:
            self._promoted_at.append(time.monotonic())
        return answer

    def fill(self) -> None:
        """Make the secrets."""
        due = set(self.due)
        for name in track(self.names, "making secrets", console=self.console, transient=True):
            self.fleet.add(name, left=(2 if name in due else 5) * DAY)

    def age(self) -> None:
        """Make those due that are meant to be, again."""
        for name in self.due:
            raw = self.fleet.qwen.mint(account=name, lifetime=2 * DAY)
            self.fleet.cloud.secretsmanager.put_secret_value(SecretId=name, SecretString=raw)

    def fresh(self) -> set[str]:
        """Return those of the due ones that were refreshed."""
        return {name for name in self.due if self.fleet.days_left(name) > 6}

    def by_fleet(self) -> Cost:
        """Run a sweep, and wait until the workers are through."""
        with self._counting() as calls:
            begun = time.monotonic()
            self.fleet.sweep()
            swept = time.monotonic()
            self.fleet.drain(within=_LIMIT)
        last = max(self._promoted_at, default=swept)
        return Cost(max(last, swept) - begun, Counter(calls), self._busiest_second())

    def by_rival(self, *options: str) -> Cost:
        """Run a rival to its end."""
        cloud = self.fleet.cloud
        command = [sys.executable, str(_RIVAL), TAG, self.fleet.qwen.base_url, *options]
        environ = {**cloud.environ(), "AWS_ENDPOINT_URL": cloud.relay.url}
        with self._counting() as calls:
            begun = time.monotonic()
            subprocess.run(command, env=environ, check=True)  # noqa: S603 - our own
            seconds = time.monotonic() - begun
        return Cost(seconds, Counter(calls), self._busiest_second())

    @contextmanager
    def _counting(self) -> Iterator[list[str]]:
        self._promoted_at.clear()
        self._writes_at.clear()
        calls: list[str] = []
        seen = len(self.fleet.cloud.relay.calls)
        yield calls
        calls += self.fleet.cloud.relay.calls[seen:]

    def _busiest_second(self) -> int:
        at = sorted(self._writes_at)
        # Of the second that begins with each write: how many there are in it.
        return max(
            (bisect_left(at, start + 1) - first for first, start in enumerate(at)), default=0
        )


def slow(seconds: float) -> Scenario:
    """Return an API that mints after so many seconds."""

    def answer(qwen: QwenStandIn, request: Request) -> Reply | None:
        time.sleep(seconds)
        return MINTS_NEWER_CLAIMS.answer(qwen, request)

    return Scenario("slow", "mints, after a while", answer)


def measure(bench: Bench, rounds: int) -> None:
    """Time the fleet and its rivals in turns, and print what they took."""
    console = bench.console
    bench.fleet.sweep()
    bench.fleet.drain(within=_LIMIT)
    with console.status("nothing is due"):
        idle = (bench.by_rival("--only-due"), bench.by_fleet())
    pairs: list[tuple[Cost, Cost]] = []
    for number in range(rounds):
        with console.status(f"round {number + 1} of {rounds}: the fleet"):
            bench.age()
            ours = bench.by_fleet()
            check(bench, "the fleet")
        with console.status(f"round {number + 1} of {rounds}: the loop that refreshes what is due"):
            bench.age()
            theirs = bench.by_rival("--only-due")
            check(bench, "the loop")
        pairs.append((theirs, ours))
    with console.status("the loop that refreshes all, whatever is due"):
        bench.age()
        every = bench.by_rival()
        check(bench, "the loop")

    secrets, due = len(bench.names), len(bench.due)
    table = Table(
        title=f"{secrets} secrets: a loop over all, a loop over what is due, the fleet",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in ("all", "due", "fleet", "all/fleet", "due/fleet"):
        table.add_column(heading, justify="right", no_wrap=True)

    def add(label: str, shape: str, *values: float) -> None:
        ratios = [f"{value / values[-1]:.1f}" for value in values[:-1]]
        table.add_row(label, *(f"{value:{shape}}" for value in values), *ratios)

    def add_all(label: str, theirs: Cost, ours: Cost) -> None:
        costs = (every, theirs, ours)
        add(f"{label}: seconds", ".1f", *(cost.seconds for cost in costs))
        add("  calls to AWS", ".0f", *(cost.calls.total() for cost in costs))
        add("  most writes in a second", ".0f", *(cost.busiest_second for cost in costs))

    add("nothing due: seconds", ".1f", every.seconds, *(cost.seconds for cost in idle))
    add("  calls to AWS", ".0f", every.calls.total(), *(cost.calls.total() for cost in idle))
    for number, pair in enumerate(pairs, start=1):
        add_all(f"{due} due, round {number}", *pair)
    console.print(table)
    console.print("The loop over all does the same whatever is due, and was run once.")
    console.print("Calls of a sweep on which nothing is due: " + counted(idle[1].calls))
    console.print("Calls of the last round's sweep and its workers: " + counted(pairs[-1][1].calls))


def check(bench: Bench, who: str) -> None:
    """Stop where a token that was due is not fresh, or anything was alerted."""
    missing = set(bench.due) - bench.fresh()
    alerts = bench.fleet.told()
    if missing or alerts:
        sys.exit(f"{who} left {len(missing)} tokens due, and told of {len(alerts)}")


def counted(calls: Counter[str]) -> str:
    """Return calls as text, the most frequent first."""
    return ", ".join(f"{count} {name.partition(':')[2]}" for name, count in calls.most_common())


def trouble(bench: Bench) -> bool:
    """Let everything go wrong, and print what became of each token; say whether all is well."""
    fleet, console = bench.fleet, bench.console
    bench.age()
    dead, malformed = set(bench.due[::50]), set(bench.due[25::50])
    for name in dead:
        fleet.qwen.revoke(name)
    for name in malformed:
        fleet.cloud.secretsmanager.put_secret_value(SecretId=name, SecretString="no token")
    begun = len(fleet.qwen.requests)
    down_from: list[float] = []
    killed: list[int] = []
    lock = threading.Lock()

    def answer(qwen: QwenStandIn, request: Request) -> Reply | None:
        asked = len(qwen.requests) - begun
        with lock:
            if asked >= len(bench.due) // 2 and not killed:
                killed.append(fleet.kill_workers(most=1))
            if asked >= len(bench.due) * 2 // 3 and not down_from:
                down_from.append(time.monotonic())
        if down_from and time.monotonic() < down_from[0] + _OUTAGE:
            return UNAVAILABLE_PAGE.answer(qwen, request)
        time.sleep(0.1)
        return MINTS_NEWER_CLAIMS.answer(qwen, request)

    fleet.qwen.answer_with(Scenario("trouble", "dies, and comes back", answer))
    with fleet.redelivering_after(_REDELIVERED_AFTER), console.status("trouble"):
        started = time.monotonic()
        fleet.sweep()
        fleet.drain(within=_LIMIT)
        seconds = time.monotonic() - started

    told = Counter(name for name, _ in fleet.told())
    could = set(bench.due) - dead - malformed
    fresh = {name for name in could if fleet.days_left(name) > 6}
    dead_letters = fleet.queued("FleetDeadLetterQueueUrl")["Visible"]
    console.print(
        "\n1 in 50 dead, 1 in 50 malformed, the API down for ten seconds, a worker killed:"
    )
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in (
        ("could be refreshed", len(could)),
        ("fresh at the end", len(fresh)),
        ("could not", len(dead | malformed)),
        ("of these in exactly one alert", sum(told[name] == 1 for name in dead | malformed)),
        ("told twice", sum(count > 1 for count in told.values())),
        ("told, though refreshed", len(told.keys() & fresh)),
        ("lost (neither fresh nor told)", len(set(bench.due) - fresh - told.keys())),
        ("workers killed", sum(killed)),
        ("put off", postponed(fleet)),
        ("dead letters", dead_letters),
        ("seconds", round(seconds)),
    ):
        table.add_row(label, str(value))
    console.print(table)
    return fresh == could and told == Counter(dead | malformed) and not dead_letters


def postponed(fleet: Fleet) -> int:
    """Return how often a job was put off, by the workers' log."""
    return sum(
        len(line["secret_ids"])
        for line in fleet.stack.log_documents("worker")
        if line.get("message") == "postponed"
    )


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make bench-fleet", description=__doc__)
    parser.add_argument("--secrets", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--due", type=int, default=300, help="of them due (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of both in turn (default: 2)")
    parser.add_argument("--latency", type=float, default=0.1, help="of the API (default: 0.1 s)")
    parser.add_argument(
        "--aws-latency", type=float, default=0.0, help="of AWS, beside the emulator's (default: 0)"
    )
    options = parser.parse_args()
    console = Console(highlight=False)
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            QwenStandIn() as qwen,
            local_cloud() as cloud,
        ):
            with console.status("building and deploying"):
                fleet = deploy(cloud, qwen, Path(directory))
            qwen.answer_with(slow(options.latency))
            bench = Bench(
                fleet,
                console,
                secrets=options.secrets,
                due=options.due,
                aws_latency=options.aws_latency,
            )
            bench.fill()
            measure(bench, options.rounds)
            return 0 if trouble(bench) else 1
    except CommandFailedError as error:
        sys.exit(str(error))


def deploy(cloud: Cloud, qwen: QwenStandIn, directory: Path) -> Fleet:
    """Deploy the stack with the fleet, as its defaults are."""
    parameters = {"Fleet": "true", "ApiBaseUrl": qwen.base_url}
    return Fleet(cloud.deploy(build(directory), parameters=parameters), qwen, SignInHost(qwen))


if __name__ == "__main__":
    sys.exit(main())
