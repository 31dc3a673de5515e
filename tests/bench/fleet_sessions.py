"""The part of the fleet's bench with sessions: their hour, and what trouble does to them."""

import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from rich.console import Console

from localcloud.fleet import TAG, DeployedFleet
from localcloud.qwen import MINTS_NEWER_CLAIMS, UNAVAILABLE_PAGE, QwenStandIn
from localcloud.recording_proxy import Call
from localcloud.serving import Reply, Scenario
from localcloud.sign_in_host import ANSWERS, Rotation, SessionPolicy, SignInHostStandIn
from localcloud.stack import Notification
from tests.bench.meter import Cost, Lapse, Meter, name_of

LIFE: Final = timedelta(minutes=15)
# A third of it, and half a minute: with so much left, a token is due.
DUE: Final = LIFE / 3 + timedelta(seconds=30)
SWEEP_EVERY: Final = timedelta(minutes=10)
_RIVAL: Final = Path(__file__).with_name("loop_over_all.py")
_LOOK_EVERY: Final = 0.5
# For how many seconds longer than it would take, an alert is waited for.
_PATIENCE: Final = 300
# Each use of a credential gives the next one, and the old one stays good: so a refresh takes the
# most calls that it can, and a worker that is killed costs no login.
_POLICY: Final = SessionPolicy(rotation=Rotation.OLD_STAYS)


@dataclass(frozen=True, slots=True)
class Hour:
    """What keeping the sessions for some minutes came to."""

    minutes: float
    cost: Cost
    refreshes: int
    lapses: list[Lapse]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What became of the sessions in trouble.

    ``down`` is when the hosts were; ``lapses`` are those of members whose login lived. ``told`` is
    how often each was told as dead, ``messages`` how many alerts came in all.
    """

    seconds: float
    down: tuple[float, float]
    lapses: list[Lapse]
    dead: set[str]
    told: Counter[str]
    messages: int
    killed: int
    fresh: set[str]
    could: set[str]
    dead_letters: int

    def avoidable(self) -> list[Lapse]:
        """Return the lapses, or what of them is not within the time that the hosts were down."""
        begun, ended = self.down
        rest = []
        for lapse in self.lapses:
            if lapse.begun < begun:
                rest.append(Lapse(lapse.name, lapse.begun, min(lapse.ended, begun)))
            if lapse.ended > ended:
                rest.append(Lapse(lapse.name, max(lapse.begun, ended), lapse.ended))
        return rest


class Sessions:
    """Members with sessions of 15 minutes, whose hosts take ``latency`` seconds for an answer."""

    def __init__(
        self, fleet: DeployedFleet, meter: Meter, console: Console, *, members: int, latency: float
    ) -> None:
        self.fleet = fleet
        self.meter = meter
        self.console = console
        self.names = [f"sessions/{number:05}" for number in range(members)]
        self._latency = latency
        fleet.sign_in_host.policy = _POLICY
        self.answer()

    def answer(self) -> None:
        """Have both hosts answer, after a while."""
        qwen, host = slowly(MINTS_NEWER_CLAIMS, self._latency), slowly(ANSWERS, self._latency)
        self.fleet.qwen.answer_with(qwen)
        self.fleet.sign_in_host.answer_with(host)

    def fill(self, *, youngest: timedelta = timedelta(0), oldest: timedelta = LIFE - DUE) -> None:
        """Make the members. Their tokens are of all ages between these, as in the long run."""
        client = self.fleet.cloud.secretsmanager
        step = (oldest - youngest) / len(self.names)
        for number, name in enumerate(self.names):
            credential = self.fleet.sign_in_host.log_in(name)
            client.create_secret(
                Name=f"{name}/session",
                SecretString=credential,
                Tags=[{"Key": TAG, "Value": "session"}],
            )
            raw = _token_of_age(youngest + number * step, name, self.fleet.qwen)
            client.create_secret(Name=name, SecretString=raw, Tags=[{"Key": TAG, "Value": "on"}])
            self.meter.holds(name, self.fleet.qwen.read(raw)["exp"])

    def hour(self, minutes: float) -> Hour:
        """Keep the members for so long, a sweep every ten minutes, and measure it."""
        begun = time.time()
        for number in range(math.ceil(minutes * 60 / SWEEP_EVERY.total_seconds())):
            _sleep_until(begun + number * SWEEP_EVERY.total_seconds())
            self.fleet.sweep()
        _sleep_until(begun + minutes * 60)
        ended = time.time()
        cost = self.meter.cost(begun, ended)
        refreshes = sum(
            begun <= at < ended for name in self.names for at, _ in self.meter.current[name][1:]
        )
        return Hour(minutes, cost, refreshes, self.meter.lapses(self.names, ended))

    def round_of_rival(self, *options: str) -> Cost:
        """Run a rival once over all members."""
        cloud = self.fleet.cloud
        hosts = self.fleet.qwen.base_url, "--auth-base-url", self.fleet.sign_in_host.base_url
        command = [sys.executable, str(_RIVAL), TAG, *hosts, *options]
        environ = {**cloud.environ(), "AWS_ENDPOINT_URL": cloud.relay.url}
        begun = time.time()
        subprocess.run(command, env=environ, check=True)  # noqa: S603 - our own
        return self.meter.cost(begun, time.time())

    def story_of(self, lapse: Lapse) -> list[str]:
        """Return what the workers logged about the member of a lapse."""
        told = []
        for line in self.fleet.stack.log_documents("worker"):
            if f":secret:{lapse.name}-" not in str(line.get("secret_id")):
                continue
            words = [line.get(each) for each in ("timestamp", "message", "outcome", "reason")]
            told.append(" ".join(str(each) for each in words if each is not None))
        return told

    def trouble(
        self, *, begins_after: timedelta, outage: timedelta, after: timedelta, kills: bool
    ) -> Trouble:
        """End 1 login in 50, kill the workers once, and have the hosts down for ``outage``.

        They are killed at the first refresh, and the hosts are down from ``begins_after`` on. What
        becomes of all is looked at when they have been back for ``after``.
        """
        host = self.fleet.sign_in_host
        dead = set(self.names[::50])
        for name in dead:
            host.end_login(host.current(name))
        self.fleet.stack.notifications()
        begun = time.time()
        down_from = begun + begins_after.total_seconds()
        down = down_from, down_from + outage.total_seconds()
        ended = down[1] + after.total_seconds()
        # Without kills, they have been done with.
        killed: list[int] = [] if kills else [0]
        told, messages = Counter[str](), 0
        with self._killing(killed):
            next_sweep = begun
            while time.time() < ended or (
                time.time() < ended + _PATIENCE and not (killed and dead <= told.keys())
            ):
                if time.time() >= next_sweep:
                    self.fleet.sweep()
                    next_sweep += SWEEP_EVERY.total_seconds()
                self._be_down(is_down=down[0] <= time.time() < down[1])
                for alert in self.fleet.alerts():
                    messages += 1
                    told.update(_called_dead(alert))
                time.sleep(_LOOK_EVERY)
        could = set(self.names) - dead
        now = time.time()
        return Trouble(
            seconds=now - begun,
            down=down,
            lapses=self.meter.lapses(sorted(could), now),
            dead=dead,
            told=told,
            messages=messages,
            killed=sum(killed),
            could=could,
            fresh={name for name in could if self.meter.current[name][-1][1] > now},
            dead_letters=self.fleet.queued("FleetDeadLetterQueueUrl")["Visible"],
        )

    def _be_down(self, *, is_down: bool) -> None:
        if is_down:
            self.fleet.qwen.answer_with(UNAVAILABLE_PAGE)
            self.fleet.sign_in_host.answer_with(UNAVAILABLE_PAGE)
        else:
            self.answer()

    @contextmanager
    def _killing(self, killed: list[int]) -> Iterator[None]:
        """Kill every worker once: when one has spent a credential, and is about to store the next.

        That call is not carried out.
        """

        def kill(call: Call) -> bool:
            if killed or call.operation != "secretsmanager:PutSecretValue":
                return True
            if b"/session-" not in call.body:
                return True
            killed.append(0)
            killed[0] = self.fleet.kill_workers()
            return False

        self.meter.before = kill
        try:
            yield
        finally:
            self.meter.before = lambda _call: True


def slowly(scenario: Scenario, seconds: float) -> Scenario:
    """Return a host that answers after so many seconds."""

    def answer(host: QwenStandIn | SignInHostStandIn, request: object) -> Reply | None:
        time.sleep(seconds)
        return scenario.answer(host, request)

    return Scenario(f"{scenario.name}, slowly", scenario.description, answer)


def _called_dead(alert: Notification) -> list[str]:
    """Return the members of an alert whose logins the host refused."""
    failures = alert.document["failures"]
    return [name_of(each["secret_id"]) for each in failures if each["reason"] == "session_rejected"]


def _token_of_age(age: timedelta, account: str, qwen: QwenStandIn) -> str:
    """Return an access token that was issued so long ago."""
    issued_at, clock = datetime.now(UTC) - age, qwen.clock
    qwen.clock = lambda: issued_at
    try:
        return qwen.issue_access_token(account, lifetime=LIFE)
    finally:
        qwen.clock = clock


def _sleep_until(instant: float) -> None:
    time.sleep(max(0.0, instant - time.time()))
