"""Fifty services whose requests are refused all day, and which all have the function run, at once.

A simulation: the clock, AWS and Qwen's hosts are fakes.
"""

import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

import handler
from qwen_token import (
    QwenTokenError,
    SessionRejectedError,
    Token,
    TokenRejectedError,
    UpstreamBlockedError,
)
from qwen_token.grants import Granted, Login
from qwen_token.session import Grant
from tests.fake_lambda_context import FakeLambdaContext
from tests.fake_secrets_manager import SecretsManagerCall
from tests.minting import ACCOUNT, NOW, token
from tests.unit.refresh_fakes import SECRET, RefreshUnderTest

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
# Rarer than by default, for the sake of the test's time.
SCHEDULE = 4 * MINUTE
SERVICES = 50
# Each service has the function run when it is refused, and not again before this time is over.
ASKS_EVERY = 4 * HOUR
# A token of 15 minutes is due with a third of it and half a minute left.
SHORTEST_GAP = 9.5 * MINUTE


@dataclass
class Hosts:
    """Both hosts: what is wrong with them, and what they issued."""

    function: RefreshUnderTest
    # The login is dead, and all of its tokens.
    is_dead: bool = False
    refuses_new_tokens: bool = False
    # The age at which a token is refused, although it was accepted before.
    dies_after: timedelta | None = None
    is_blocked: bool = False
    issued: set[Token] = field(default_factory=set)
    issued_at: dict[Token, datetime] = field(default_factory=dict)

    def answer(self, grant: Grant) -> Token:
        if self.is_blocked:
            raise UpstreamBlockedError("a block page")
        if self.is_dead and grant is Grant.REFRESH_TOKEN:
            raise SessionRejectedError("dead")
        if self.is_dead:
            raise TokenRejectedError("dead")
        issued = self.mint(grant, number=len(self.issued))
        self.issued.add(issued)
        self.issued_at[issued] = self.function.now
        return issued

    def mint(self, grant: Grant, *, number: int = -1) -> Token:
        now = self.function.now
        if grant is Grant.EXCHANGE:
            return token(left=7 * DAY, now=now, jti=number)
        iat = int(now.timestamp())
        return token(left=15 * MINUTE, now=now, jti=number, type="access_token", iat=iat)

    def verify(self, shown: Token, *, within: timedelta) -> str:
        assert within > timedelta()
        if self.is_blocked:
            raise UpstreamBlockedError("a block page")
        if self.is_dead or (self.refuses_new_tokens and shown in self.issued):
            raise TokenRejectedError("dead")
        age = self.function.now - self.issued_at.get(shown, self.function.now)
        if self.dies_after is not None and age >= self.dies_after:
            raise TokenRejectedError("dead")
        return ACCOUNT

    def source(self, grant: Grant) -> "Source":
        return Source(self, grant)


@dataclass
class Source:
    """A grant of these hosts."""

    hosts: Hosts
    grant: Grant

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        assert within > timedelta()
        assert login is not None
        return Granted(self.hosts.answer(self.grant))


class Stack:
    """A deployed function, by its schedule and by services that have it run when refused."""

    def __init__(self, function: RefreshUnderTest, grant: Grant) -> None:
        self.function = function
        self.hosts = Hosts(function)
        # The fake's own are not asked.
        hosts: Any = self.hosts
        function.hosts = hosts
        if grant is Grant.EXCHANGE:
            function.holds(token(left=2 * DAY))
        else:
            # Nobody knows how long it lived, so that it is due.
            first = token(left=10 * MINUTE, type="access_token")
            function.holds(first, {"refresh_token": "a-credential"})
        function.secrets.before = self._note_version
        self.written: list[datetime] = []
        self.ended: Counter[str] = Counter()
        self._dice = random.Random(2026)  # noqa: S311 - no secret

    def lives(self, *, topic_is_down_for: timedelta = timedelta()) -> None:
        """Let a day pass, and a little more, so that what is due after a day comes."""
        began = self.function.now
        end = began + DAY + 2 * SCHEDULE
        for at, event in self._moments(began, end):
            self.function.now = at
            is_down = at - began < topic_is_down_for
            self.function.topic.fails_with = RuntimeError("SNS is down") if is_down else None
            self.ended[self._run(event)] += 1

    def _moments(
        self, began: datetime, end: datetime
    ) -> Iterator[tuple[datetime, dict[str, bool]]]:
        """Yield when the function runs, and with which event."""
        moments = [
            (began + number * SCHEDULE, False) for number in range((end - began) // SCHEDULE)
        ]
        at = began
        while at < end:
            # Some come at once, as when a page of theirs fails; the others one by one.
            for service in range(SERVICES):
                later = self._dice.randrange(ASKS_EVERY // SECOND) if service % 2 else 0
                moments.append((at + later * SECOND, True))
            at += ASKS_EVERY
        for moment, is_forced in sorted(each for each in moments if each[0] < end):
            yield moment, {"force": True} if is_forced else {}

    def _run(self, event: dict[str, bool]) -> str:
        context: Any = FakeLambdaContext()
        try:
            return str(handler.run(event, context, self.function.clients())["outcome"])
        except QwenTokenError as error:
            return error.reason
        finally:
            handler.metrics.clear_metrics()

    def _note_version(self, call: SecretsManagerCall) -> None:
        if call.operation == "PutSecretValue" and call.request["SecretId"] == SECRET:
            self.written.append(self.function.now)

    @property
    def gaps(self) -> list[timedelta]:
        """How long it took from each version of the token secret to the next one."""
        return [after - before for before, after in pairwise(self.written)]

    def told(self, *, notices: bool = False) -> list[tuple[str, str, timedelta]]:
        """Return what was published: its event, its severity, and how long after the beginning."""
        return [
            (each["event"], each["severity"], datetime.fromisoformat(each["occurred_at"]) - NOW)
            for each in self.function.topic.documents
            if notices or each["severity"] != "notice"
        ]


GRANTS = [Grant.EXCHANGE, Grant.REFRESH_TOKEN]


@pytest.fixture(
    name="stack",
    params=[
        pytest.param(GRANTS[0], id="a token", marks=pytest.mark.nightly),
        pytest.param(GRANTS[1], id="a session"),
    ],
)
def _stack(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Stack:
    # The logger took hold of standard output when it was made; pytest replaces that since.
    monkeypatch.setattr(logging.getLogger("my-stack"), "disabled", True)
    return Stack(RefreshUnderTest(capsys, monkeypatch), request.param)


def test_where_the_api_accepts_the_token_nobody_is_alerted(stack: Stack) -> None:
    """The services' own requests are refused for another reason."""
    stack.lives()

    assert stack.told(notices=True) == []
    assert 50 < len(stack.written) <= 150
    assert min(stack.gaps) >= SHORTEST_GAP


def test_a_dead_login_is_one_alert_and_one_reminder_a_day(stack: Stack) -> None:
    stack.hosts.is_dead = True

    stack.lives()

    failed = ("refresh_failed", "critical")
    assert [each[:2] for each in stack.told(notices=True)] == [failed, failed]
    assert stack.told()[1][2] - stack.told()[0][2] >= DAY
    assert stack.written == []


def test_an_alert_that_could_not_be_published_is_published_once(stack: Stack) -> None:
    stack.hosts.is_dead = True

    stack.lives(topic_is_down_for=6 * HOUR)

    [(event, severity, at)] = stack.told(notices=True)
    assert (event, severity) == ("refresh_failed", "critical")
    assert 6 * HOUR <= at < 6 * HOUR + SCHEDULE
    assert stack.written == []


@pytest.mark.parametrize(
    "down",
    [
        pytest.param(timedelta(), id="told", marks=pytest.mark.nightly),
        pytest.param(6 * HOUR, id="not told for six hours"),
    ],
)
def test_tokens_that_the_api_refuses_at_once_are_asked_for_every_ten_minutes(
    stack: Stack, down: timedelta
) -> None:
    stack.hosts.refuses_new_tokens = True

    stack.lives(topic_is_down_for=down)

    check_each_severity_is_published_once_a_day(stack)
    assert 50 < len(stack.written) <= 145
    assert min(stack.gaps) >= 10 * MINUTE


def test_tokens_that_die_young_cause_no_storm_of_versions(
    stack: Stack,
) -> None:
    stack.hosts.dies_after = 5 * SECOND

    stack.lives()

    # One that dies early may be a login that ended: after an hour without, it is replaced at once.
    early = [gap for gap in stack.gaps if gap < SHORTEST_GAP]
    assert len(early) <= DAY // HOUR
    assert len(stack.written) <= 150
    # The owner is called. (An hour without an early death ends the incident; the next begins anew.)
    assert "critical" in {severity for _, severity, _ in stack.told()}


def test_a_firewall_in_front_of_the_hosts_is_one_alert_for_each_severity(stack: Stack) -> None:
    stack.hosts.is_blocked = True

    stack.lives()

    check_each_severity_is_published_once_a_day(stack)
    assert stack.written == []


def check_each_severity_is_published_once_a_day(stack: Stack) -> None:
    """Check that the owner is called, and that only what became worse is told within a day."""
    told = stack.told(notices=True)
    first = {severity: at for _, severity, at in reversed(told)}
    assert {event for event, _, _ in told} == {"refresh_failed"}
    assert "critical" in first
    for severity, began in first.items():
        times = [at for _, each, at in told if each == severity]
        assert all(after - before >= DAY for before, after in pairwise(times)), (severity, times)
        assert times[0] == began
