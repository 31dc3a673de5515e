"""One token's life: the function's clock and schedule, the secret, the API, and people.

Everything that happens is a method; after each, the invariants are looked at. The function is the
real one: the handler with its settings, the keeper and the store.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

import handler
from keeper_runtime.clients import Clients
from qwen_token import QwenTokenError, Token, TokenMalformedError
from qwen_token.policy import TokenState, assess
from qwen_token.secret_store import CURRENT, PENDING, PREVIOUS, SecretStore
from tests.fake_lambda_context import FakeLambdaContext

from .qwen import Mode, Outage, SimulatedQwen, read_token, start

ACCOUNT: Final = "owner"
ANOTHER_ACCOUNT: Final = "somebody-else"
TICK: Final = timedelta(hours=6)
REFRESH_BEFORE: Final = timedelta(days=3)
CRITICAL_BEFORE: Final = timedelta(days=1)
DAY: Final = timedelta(days=1)
# While a token is fresh, a run is one read that changes nothing: of those, one in so many is made.
_IDLE: Final = 8


class Trouble(Enum):
    """What may go wrong at one call of a run."""

    DEATH = "the process dies before it"
    LATE_DEATH = "the process dies after it"
    REFUSAL = "it fails"
    LOST_ANSWER = "it is carried out, and fails"


class _DeathError(BaseException):
    """The end of the process: nothing may catch it."""


class InvariantError(AssertionError):
    """What must never happen has happened."""


@dataclass
class Tally:
    """What has happened so far."""

    time: timedelta = timedelta()
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add what happened elsewhere."""
        self.time += other.time
        self.counts += other.counts


class _Edge:
    """What a run calls, one of the client's methods or another: it may go wrong at any call."""

    def __init__(self, inner: Any, life: "SimulatedLife", operations: tuple[str, ...]) -> None:
        self._inner = inner
        self._life = life
        for name in operations:
            setattr(self, name, self._watched(name, getattr(inner, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            return self._life.call(name, lambda: call(*args, **kwargs))

        return watched


class SimulatedLife:
    """One secret and all who have to do with it.

    ``client`` is boto3's for Secrets Manager or what simulates it, ``arn`` the secret there.
    """

    def __init__(self, client: Any, arn: str) -> None:
        """Begin with a fresh token."""
        self.now = start()
        self.skew = timedelta()
        self.qwen = SimulatedQwen(self.now)
        self.tally = Tally()
        self.history: list[str] = []
        self.alerts: list[dict[str, Any]] = []
        # Somebody was called, and has not come yet.
        self.needs_a_person = False
        self._client = client
        self._arn = arn
        self._outage_ends = self.now
        # Versions that a person made current, with what stood there.
        self._persons: dict[str, Token | None] = {}
        # A person on their way to log in.
        self._login_at = self.now + 10_000 * DAY
        self._calls = 0
        self._trouble: dict[int, Trouble | Callable[[], None]] = {}
        secret_calls = (
            "get_secret_value",
            "describe_secret",
            "put_secret_value",
            "update_secret_version_stage",
        )
        edge: Any = _Edge(client, self, secret_calls)
        qwen: Any = _Edge(self.qwen, self, ("refresh", "verify"))
        self._clients = Clients(
            environ={
                "SECRET_ID": arn,
                "API_BASE_URL": "https://chat.qwen.ai",
                "REFRESH_BEFORE_DAYS": "3",
                "CRITICAL_DAYS": "1",
                "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
            },
            clock=lambda: self.now + self.skew,
            secrets=lambda: edge,
            sns=lambda: self,  # type: ignore[arg-type,return-value]
            events=lambda: self,  # type: ignore[arg-type,return-value]
            sqs=lambda: pytest.fail("there is no queue"),
            functions=lambda: pytest.fail("it runs no other function"),
            qwen=lambda _: qwen,
        )
        self.put(self.qwen.log_in(ACCOUNT).raw)

    # --- what happens -----------------------------------------------------------------------------

    def pass_time(self, ticks: int, *, missed: int = 0, doubled: int = 0) -> None:
        """Let the schedule run; of the ticks, some are missed, and some come twice."""
        self._note(f"{ticks} ticks, {missed} missed, {doubled} doubled")
        for tick in range(ticks):
            self._advance(TICK)
            if tick < missed or (tick % _IDLE and self._is_fresh()):
                continue
            for _ in range(2 if tick < missed + doubled else 1):
                self.run()

    def _is_fresh(self) -> bool:
        token = self.current()
        now = self.now + self.skew
        return token is not None and (
            assess(token, now=now, refresh_before=REFRESH_BEFORE) is TokenState.FRESH
        )

    def break_down(self, outage: Outage, *, lasts: timedelta) -> None:
        """Let nobody through to the API for a while."""
        self._note(f"{outage.value} for {lasts}")
        self.tally.counts["outages"] += 1
        self.qwen.outage = outage
        self._outage_ends = self.now + lasts

    def change_mode(self, mode: Mode) -> None:
        """Let the API answer in another way from now on."""
        self._note(f"the API {mode.value}")
        self.qwen.mode = mode

    def change_password(self) -> None:
        """End every session of the owner's."""
        self._note("password changed")
        self.tally.counts["password changes"] += 1
        self.qwen.change_password(ACCOUNT)

    def set_skew(self, skew: timedelta) -> None:
        """Let Lambda's clock go before or after the API's."""
        self._note(f"skew of {skew}")
        self.skew = skew

    def put(self, text: str) -> None:
        """Put something in, as a person does with the command line, or at the console."""
        self._note("a person puts something in")
        self.tally.counts["people's puts"] += 1
        try:
            token = read_token(text)
        except TokenMalformedError:
            token = None
        if token is None:
            answer = self._client.put_secret_value(SecretId=self._arn, SecretString=text)
            self._persons[answer["VersionId"]] = None
        else:
            held = SecretStore(self._client, self._arn).put(token)
            self._persons[held.version_id] = token

    def roll_back(self) -> None:
        """Make the previous version current again, as a person may."""
        labels = self._labels()
        if PREVIOUS not in labels:
            return
        self._note("rolled back")
        self.tally.counts["rollbacks"] += 1
        version = labels[PREVIOUS]
        self._client.update_secret_version_stage(
            SecretId=self._arn,
            VersionStage=CURRENT,
            MoveToVersionId=version,
            RemoveFromVersionId=labels[CURRENT],
        )
        self._persons[version] = self._token_of(version)

    def run_with(self, trouble: Trouble, *, at: int) -> None:
        """Run once, and let something go wrong at the call with this number."""
        self._note(f"a run, at whose call {at}: {trouble.value}")
        self._trouble = {at: trouble}
        try:
            self.run(disturbed=True)
        finally:
            self._trouble = {}

    def run_beside_a_login(self, *, at: int) -> None:
        """Run once, and let a person put a new token in just before the call with this number."""
        self._note(f"a run, and before its call {at} a login")
        alerts, puts = len(self.alerts), self.tally.counts["people's puts"]
        readable = self.current() is not None
        self._trouble = {at: lambda: self.put(self.qwen.log_in(ACCOUNT).raw)}
        try:
            self.run(disturbed=True)
        finally:
            self._trouble = {}
        if readable and self.tally.counts["people's puts"] > puts:
            self._check(len(self.alerts) == alerts, "a login during a run alarms nobody")

    # --- a run ------------------------------------------------------------------------------------

    def run(self, *, disturbed: bool = False) -> None:
        """Run the function once, and hold what it did against the invariants."""
        self._calls = 0
        alerts = len(self.alerts)
        before = self.current()
        expected = None if disturbed else self._expectation(before)
        self.tally.counts["runs"] += 1
        error: QwenTokenError | None = None
        result: dict[str, Any] = {}
        died = False
        try:
            result = handler.run({}, FakeLambdaContext(), self._clients)  # type: ignore[arg-type]
        except QwenTokenError as caught:
            error = caught
        except _DeathError:
            died = True
        finally:
            handler.metrics.clear_metrics()
        self.tally.counts[f"outcome {result.get('outcome')}"] += bool(result)
        told = self.alerts[alerts:]
        for alert in told:
            self._hear(alert)
        if not died:
            must_alert = error is not None or result.get("outcome") == "awaiting_token"
            self._check(len(told) == must_alert, "one alert where a run failed, and none elsewhere")
        if expected is not None:
            expected(told)

    def call(self, name: str, carry_out: Callable[[], Any]) -> Any:
        """Carry out one call of a run, or let go wrong what is to go wrong there."""
        self._calls += 1
        trouble = self._trouble.get(self._calls)
        if trouble is None:
            return self._watch(name, carry_out)
        if not isinstance(trouble, Trouble):
            trouble()
            return self._watch(name, carry_out)
        if trouble is Trouble.DEATH:
            raise _DeathError
        if trouble in {Trouble.LATE_DEATH, Trouble.LOST_ANSWER}:
            self._watch(name, carry_out)
        if trouble is Trouble.LATE_DEATH:
            raise _DeathError
        if name in {"refresh", "verify"}:
            raise Outage.DOWN.error()
        failed: Any = {
            "Error": {"Code": "InternalServiceError"},
            "ResponseMetadata": {"HTTPStatusCode": 500},
        }
        raise ClientError(failed, name)

    # --- the owner's inbox, and the bus -----------------------------------------------------------

    def publish(self, **message: Any) -> None:
        """Take an alert, as SNS does."""
        self.alerts.append(json.loads(json.loads(message["Message"])["default"]))

    def _hear(self, alert: dict[str, Any]) -> None:
        reason = alert["failures"][0]["reason"]
        self.needs_a_person |= alert["severity"] == "critical"
        self.tally.counts[f"alert {alert['severity']} {reason}"] += 1

    def will_log_in(self, after: timedelta) -> None:
        """Let a person who was called log in a while later."""
        self._login_at = min(self._login_at, self.now + after)

    # --- what is where ----------------------------------------------------------------------------

    def current(self) -> Token | None:
        """Return what readers get, or None where that is no token."""
        return self._token_of(self._labels().get(CURRENT, ""))

    def _labels(self) -> dict[str, str]:
        described = self._client.describe_secret(SecretId=self._arn)
        return {
            label: version
            for version, labels in described.get("VersionIdsToStages", {}).items()
            for label in labels
        }

    def _token_of(self, version: str) -> Token | None:
        if not version:
            return None
        found = self._client.get_secret_value(SecretId=self._arn, VersionId=version)
        try:
            return read_token(found.get("SecretString", ""))
        except TokenMalformedError:
            return None

    def _advance(self, duration: timedelta) -> None:
        self.now += duration
        self.tally.time += duration
        self.qwen.now = self.now
        if self.qwen.outage is not None and self.now >= self._outage_ends:
            self.qwen.outage = None
        if self.now >= self._login_at:
            self._login_at = self.now + 10_000 * DAY
            self.qwen.mode = Mode.MINTS
            self.needs_a_person = False
            self.put(self.qwen.log_in(ACCOUNT).raw)

    def _note(self, event: str) -> None:
        self.history.append(f"{self.now:%Y-%m-%d %H:%M} {event}")

    # --- the invariants ---------------------------------------------------------------------------

    def _check(self, holds: bool, invariant: str) -> None:  # noqa: FBT001 - reads like assert
        if not holds:
            raise InvariantError(f"{invariant}\n" + "\n".join(self.history[-40:]))

    def _expectation(self, before: Token | None) -> "Callable[[list[dict[str, Any]]], None] | None":
        """Say, of a run that nothing disturbs, what is to come of it."""
        critical = "whenever only a person can help, a critical alert goes out at once"
        if before is None:
            return lambda told: self._check(
                [alert["severity"] for alert in told] == ["critical"], critical
            )
        if self._is_fresh():
            return lambda told: self._check(not told, "a fresh token is nobody's concern")
        if self.qwen.outage is not None:
            left = before.remaining(self.now + self.skew)
            severity = "critical" if left < CRITICAL_BEFORE else "warning"
            return lambda told: self._check(
                [alert["severity"] for alert in told] == [severity],
                "an outage is a warning while time is left, and critical after that",
            )
        if not self._can_be_kept(before):
            return lambda told: self._check(
                [alert["severity"] for alert in told] == ["critical"], critical
            )

        def kept(told: list[dict[str, Any]]) -> None:
            self._check(not told, "no alert is sent when all is well")
            after = self.current()
            self._check(
                after is not None and self.qwen.accepts(after) and self._is_fresh(),
                "a token never expires where a refresh was possible in time",
            )

        return kept

    def _can_be_kept(self, before: Token) -> bool:
        """Say whether a run could end with a fresh token: refreshed, or brought back."""
        renews = self.qwen.mode in {Mode.MINTS, Mode.RETIRES_THE_OLD}
        if self.qwen.accepts(before):
            return renews
        labels = self._labels()
        now = self.now + self.skew
        for label in (PENDING, PREVIOUS):
            other = self._token_of(labels.get(label, ""))
            if other is None or other.account != before.account or not self.qwen.accepts(other):
                continue
            state = assess(other, now=now, refresh_before=REFRESH_BEFORE)
            if state is TokenState.FRESH or (state is TokenState.STALE and renews):
                return True
        return False

    def _watch(self, name: str, carry_out: Callable[[], Any]) -> Any:
        """Carry a call out, and look at what it did to what readers get."""
        if name != "update_secret_version_stage":
            return carry_out()
        replaced = self._labels().get(CURRENT, "")
        answer = carry_out()
        promoted = self._labels().get(CURRENT, "")
        if promoted != replaced:
            self._check_promotion(replaced, promoted)
        return answer

    def _check_promotion(self, replaced: str, promoted: str) -> None:
        old, new = self._token_of(replaced), self._token_of(promoted)
        self.tally.counts["refreshes"] += 1
        if old is None or new is None:
            raise InvariantError("what is no token takes no part in a promotion")
        self._check(new.raw in self.qwen.verified, "never is an unverified token current")
        self._check(new.account == old.account, "never is another account's token current")
        # A dead token is no better than any that lives.
        if self.qwen.accepts(old):
            self._check(new.expires_at > old.expires_at, "never is a worse token current")
            if replaced in self._persons:
                self._check(
                    self.qwen.descends(new, of=old), "what a person put in is never overwritten"
                )
