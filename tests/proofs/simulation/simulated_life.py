"""One login's life: the function's clock and schedule, both secrets, the hosts, and people.

Everything that happens is a method; after each, the invariants are looked at. The function is the
real one: the handler with its settings, the keeper, the stores and the state table.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

import handler
from keeper_runtime.clients import Clients
from keeper_runtime.state_table import StateTable
from qwen_token import QwenTokenError, Token, TokenMalformedError
from qwen_token.errors import SessionMalformedError, StoreError, UpstreamError
from qwen_token.policy import TokenState, due_before, state_of
from qwen_token.run_memory import RunMemory
from qwen_token.secret_store import CURRENT, PREVIOUS, SecretStore
from qwen_token.session import Session
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import StoredSession
from qwen_token.stored_token import StoredToken
from tests.fake_dynamodb import FakeDynamoDB
from tests.fake_lambda_context import FakeLambdaContext

from .qwen import BOTH, EMAIL, Host, Mode, Outage, SimulatedGrant, SimulatedQwen, read_token, start

ACCOUNT: Final = "owner"
ANOTHER_ACCOUNT: Final = "somebody-else"
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
# The schedules, and the function's timeout.
TICK: Final = 2 * MINUTE
CHECK: Final = DAY
TIMEOUT: Final = timedelta(seconds=120)
REFRESH_BEFORE: Final = 3 * DAY
CRITICAL_BEFORE: Final = DAY
ALERT_AFTER: Final = HOUR
# In the long run, a secret gets one version in ten minutes; a run may come half a minute early.
VERSION_EVERY: Final = timedelta(minutes=9.5)
SIGN_IN_EVERY: Final = DAY
# No alert of one kind comes again before this.
REMIND_EVERY: Final = DAY
# A lease that nobody gives back, and the pause after whatever was not answered.
_RECOVERS_IN: Final = 16 * MINUTE
# What the API refused is not asked again for an hour.
_REFUSED_FOR: Final = HOUR + 2 * TICK
# So long after the token died, somebody knows: a check a day, and a run that does not get through.
_NOTICED_IN: Final = CHECK + _RECOVERS_IN
# While the same failure goes on, this many runs follow at the schedule's pace, then fewer.
_AT_FULL_PACE: Final = 15
_TABLE: Final = "state"
# The call that spends a password, as a run's calls are named.
_SIGN_IN: Final = "obtain password"
_NEVER: Final = 10_000 * DAY


class Kind(Enum):
    """How the owner logs in."""

    TOKEN = "with a token that is exchanged"
    SESSION = "with a session"
    SIGN_IN = "with e-mail and password, at Qwen's sign-in host"
    OPEN_WEBUI = "with e-mail and password, at an Open WebUI that echoes"


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
            return self._life.call(name, lambda: call(*args, **kwargs), request=kwargs)

        return watched


@dataclass
class _Run:
    """One run under way: how many calls it has made, and what goes wrong at which."""

    trouble: dict[int, "Trouble | Callable[[], None]"]
    calls: int = 0
    died: bool = False
    names: list[str] = field(default_factory=list)
    # The calls that went wrong.
    struck: list[tuple[Trouble, str]] = field(default_factory=list)

    def has_company(self) -> bool:
        """Say whether somebody else acts in the middle of it."""
        return any(not isinstance(each, Trouble) for each in self.trouble.values())


class SimulatedLife:
    """One token secret, its session secret, and all who have to do with them.

    ``client`` is boto3's for Secrets Manager or what simulates it, ``arn`` and ``session_arn`` are
    the secrets there, both without a value.
    """

    def __init__(self, client: Any, arn: str, session_arn: str, kind: Kind = Kind.TOKEN) -> None:
        """Begin with a login of this kind."""
        self.now = start()
        self.skew = timedelta()
        self.kind = kind
        self.qwen = SimulatedQwen(self.now, is_open_webui=kind is Kind.OPEN_WEBUI)
        self.qwen.mode = self._good_mode()
        self.table = FakeDynamoDB()
        self.tally = Tally()
        # How much of its history a broken invariant shows.
        self.shown = 40
        self.history: list[str] = []
        self.alerts: list[dict[str, Any]] = []
        # Somebody was called, and has not come yet.
        self.needs_a_person = False
        self._client = client
        self._arn = arn
        self._session_arn = session_arn
        self.outage_ends = self.now
        self._next_check = self.now + CHECK
        # Versions of the token that a person made current, with what stood there.
        self._persons: dict[str, Token | None] = {}
        # A person on their way to log in.
        self._login_at = self.now + _NEVER
        self._runs: list[_Run] = []
        self._is_spending = False
        # What follows is known of the past, to hold the next run against.
        self._failures = 0
        self._served_from = self.now
        self._noticed_from = self.now
        self._told: dict[tuple[str, ...], datetime] = {}
        self._heard: dict[tuple[str, str], datetime] = {}
        self._incident_since: datetime | None = None
        self._incident_of: str | None = None
        self._last_version_at: datetime | None = None
        self._last_sign_in_at: datetime | None = None
        self._sign_in_from = self.now
        self._answer_lost = False
        self._is_heard_of = False
        # A dead run's lease goes on for so long at most.
        self._leased_until = self.now
        self._broken: InvariantError | None = None
        self._clients = self._wired()
        self.log_in()

    def _wired(self) -> Clients:
        secret_calls = (
            "get_secret_value",
            "describe_secret",
            "put_secret_value",
            "update_secret_version_stage",
        )
        secrets: Any = _Edge(self._client, self, secret_calls)
        table: Any = _Edge(self.table, self, ("get_item", "update_item"))
        qwen: Any = _Edge(self.qwen, self, ("refresh", "verify"))
        environ = {
            "SECRET_ID": self._arn,
            "SESSION_SECRET_ID": self._session_arn,
            "API_BASE_URL": "https://chat.qwen.ai",
            "AUTH_BASE_URL": "https://auth.qwen.ai",
            "WEB_VERSION": "0.3.12",
            "USER_AGENT": "simulation",
            "REFRESH_BEFORE_DAYS": str(REFRESH_BEFORE / DAY),
            "CRITICAL_DAYS": str(CRITICAL_BEFORE / DAY),
            "ALERT_AFTER_MINUTES": str(ALERT_AFTER // MINUTE),
            "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
            "STATE_TABLE": _TABLE,
        }
        return Clients(
            environ=environ,
            clock=self.clock,
            secrets=lambda: secrets,
            sns=lambda: self,  # type: ignore[arg-type,return-value]
            events=lambda: pytest.fail("there is no bus"),
            sqs=lambda: pytest.fail("there is no queue"),
            functions=lambda: pytest.fail("it runs no other function"),
            dynamodb=lambda: table,
            qwen=lambda _url, _agent: qwen,
            grant=lambda grant, _settings: SimulatedGrant(self.qwen, grant, self.call),
        )

    def clock(self) -> datetime:
        """Return the time as Lambda sees it."""
        return self.now + self.skew

    # --- what happens -----------------------------------------------------------------------------

    def pass_time(self, duration: timedelta, *, missed: int = 0, doubled: int = 0) -> None:
        """Let the schedules run; of the runs that matter, some are missed, and some come twice."""
        self._note(f"{duration} go by, {missed} runs missed, {doubled} doubled")
        end = self.now + duration
        number = 0
        while self.now < end:
            to = min(self._next_run(), end)
            if not self._can_be_kept(self.current()):
                # So found the run just before, which is left out where the same goes on.
                self._excuse(to - TICK - self.now + self._recovers_in())
            self._advance(to)
            if self.now == end:
                break
            is_check = self.now >= self._next_check
            if is_check:
                self._next_check = self.now + CHECK
            number += 1
            if number <= missed:
                self._excuse(TICK)
                self._noticed_from = max(self._noticed_from, self.now + 2 * HOUR)
                if is_check:
                    self._died()
                continue
            for _ in range(2 if number <= missed + doubled else 1):
                self.run({"check": True} if is_check else {})

    def _next_run(self) -> datetime:
        """Return when the schedule's next run comes that may do anything, or its next check."""
        held = self._held()
        pace = TICK
        if held is not None and self._state(held) is TokenState.FRESH:
            at = self._due_at(held)
        else:
            if self._failures > _AT_FULL_PACE:
                # The same goes on: fewer runs show that, too.
                pace = 5 * TICK if self._failures < 3 * _AT_FULL_PACE else HOUR
            at = self._tick(self.now + pace - TICK)
            if held is not None and held.token.expires_at - self.skew > self.now:
                at = min(at, self._tick(held.token.expires_at - self.skew))
        if self.qwen.outage is not None:
            at = min(at, self._tick(self.outage_ends))
        return max(self.now, min(at, self._next_check, self._login_at))

    def _due_at(self, held: StoredToken) -> datetime:
        """Return when the first run comes that finds a token due."""
        due = held.token.expires_at - due_before(
            held.token, refresh_before=REFRESH_BEFORE, written_at=held.written_at
        )
        return self._tick(due - self.skew)

    def _tick(self, at: datetime) -> datetime:
        """Return the schedule's first run at ``at`` or later, but not the one that is now."""
        number = -((start() - at) // TICK)
        return max(start() + number * TICK, start() + ((self.now - start()) // TICK + 1) * TICK)

    def break_down(
        self, outage: Outage, *, lasts: timedelta, hosts: frozenset[Host] = BOTH
    ) -> None:
        """Let nobody through for a while."""
        self._note(f"{outage.value} for {lasts} at {', '.join(sorted(h.value for h in hosts))}")
        self._stir()
        self.tally.counts["outages"] += 1
        self.qwen.outage, self.qwen.unreachable = outage, hosts
        self.outage_ends = self.now + lasts

    def change_mode(self, mode: Mode) -> None:
        """Let the API answer in another way from now on."""
        self._note(f"the API {mode.value}")
        self._stir()
        self._excuse(_REFUSED_FOR)
        self.qwen.mode = mode

    def change_password(self) -> None:
        """End every session of the owner's."""
        self._note("password changed")
        self._stir()
        self.tally.counts["password changes"] += 1
        self.qwen.change_password(ACCOUNT)
        self._died()

    def revoke(self) -> None:
        """End the session of the current token, and the credential's where there is one."""
        token = self.current()
        if token is None:
            return
        self._note("the token is revoked")
        self._stir()
        self.qwen.retired.add(token.raw)
        self._died()

    def set_skew(self, skew: timedelta) -> None:
        """Let Lambda's clock go before or after the API's."""
        self._note(f"skew of {skew}")
        self._stir()
        self._excuse(_RECOVERS_IN + abs(skew) + abs(self.skew))
        self.skew = skew

    def put(self, text: str) -> None:
        """Put a token in, as a person does with the command line, or at the console."""
        self._note("a person puts something in")
        self._person_came()
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

    def put_session(self, session: Session) -> None:
        """Put in a session or a sign-in, as a person does."""
        self._note("a person puts a session in")
        self._person_came()
        self._answer_lost = False
        self._last_sign_in_at = None
        self._sign_in_from = self.now
        # Another login: nothing of the old one is kept.
        self._client.put_secret_value(
            SecretId=self._session_arn,
            SecretString=json.dumps(
                {
                    name: value
                    for name in ("refresh_token", "email", "password")
                    if (value := getattr(session, name)) is not None
                }
            ),
        )

    def put_amiss(self, text: str) -> None:
        """Put into the token secret what does not belong there."""
        self.put(text)
        self._died()

    def will_mend(self, after: timedelta) -> None:
        """Let a person mend it after a while, called or not."""
        self.will_log_in(after)

    def wait_until_due(self, *, sometimes: bool) -> None:
        """Let time pass until the token is due, or not."""
        held = self._held()
        if sometimes and held is not None and self._state(held) is TokenState.FRESH:
            self.pass_time(self._due_at(held) - self.now)

    def end_well(self) -> None:
        """Let everything be well again, and a token's life go by: no incident is open then."""
        self._note("everything is well again")
        self._advance(max(self.now, self.outage_ends))
        self.skew = timedelta()
        self.qwen.mode = self._good_mode()
        self._login_at = self.now
        self._advance(self.now)
        self.pass_time(_NOTICED_IN if self.kind in {Kind.SESSION, Kind.SIGN_IN} else 31 * DAY)
        self._check(self.memory().incident is None, "no incident stays open when all is well")

    def log_in(self) -> None:
        """Log in as the life's kind has it, and put that in."""
        if self.kind is Kind.TOKEN:
            # They copied it out of a browser a minute ago.
            self.put(self.qwen.log_in(ACCOUNT, lifetime=self.qwen.lifetime - MINUTE).raw)
            return
        held = self._held()
        if CURRENT in self._labels() and (held is None or not self._may_follow(held.token)):
            # What is no token, or somebody else's, is not replaced by itself.
            self.put(self.qwen.log_in(ACCOUNT, lifetime=HOUR).raw)
        if self.kind is Kind.SESSION:
            self.put_session(Session(refresh_token=self.qwen.open_session(ACCOUNT)))
        else:
            password = self.qwen.password(ACCOUNT)
            self.put_session(Session(email=EMAIL, password=password))

    def _person_came(self) -> None:
        self._stir()
        self.tally.counts["people's puts"] += 1
        self._last_version_at = None
        self._incident_since = None
        self._excuse(TICK)
        self._noticed_from = max(self._noticed_from, self.now + _NOTICED_IN)

    def roll_back(self) -> None:
        """Make the previous version of the token current again, as a person may."""
        labels = self._labels()
        if PREVIOUS not in labels:
            return
        self._note("rolled back")
        self._person_came()
        self.tally.counts["rollbacks"] += 1
        version = labels[PREVIOUS]
        self._client.update_secret_version_stage(
            SecretId=self._arn,
            VersionStage=CURRENT,
            MoveToVersionId=version,
            RemoveFromVersionId=labels[CURRENT],
        )
        self._persons[version] = self._token_of(version)
        self._excuse(_REFUSED_FOR)
        self._died()

    def run_with(self, trouble: Trouble, *, at: int, event: dict[str, Any] | None = None) -> None:
        """Run once, and let something go wrong at the call with this number."""
        self._note(f"a run, at whose call {at}: {trouble.value}")
        self.run(event, trouble={at: trouble})

    def run_beside_a_login(self, *, at: int) -> None:
        """Run once, and let a person log in anew just before the call with this number."""
        self._note(f"a run, and before its call {at} a login")
        alerts = len(self.alerts)
        readable = self._held() is not None and self._is_session_readable()
        read_after: list[str] = []

        def log_in() -> None:
            self._runs[-1].names = read_after
            self.log_in()

        self.run(trouble={at: log_in})
        read = "get_secret_value" + (" of the session" if self.kind is not Kind.TOKEN else "")
        before_sign_in = read_after[: (*read_after, _SIGN_IN).index(_SIGN_IN)]
        sees_token = _SIGN_IN not in read_after or "get_secret_value" in before_sign_in
        if readable and self.qwen.outage is None and read in read_after and sees_token:
            # It could see it, and had not signed in for the login before.
            grave = [each for each in self.alerts[alerts:] if each["severity"] == "critical"]
            failed = [each for each in grave if each["event"] == "refresh_failed"]
            self._check(not failed, "a login during a run alarms nobody")

    def run_beside_a_run(self, *, at: int, force: bool) -> None:
        """Run once, and let another run begin and end just before the call with this number."""
        self._note(f"a run, and before its call {at} another one (forced: {force})")
        self.run(trouble={at: lambda: self.run({"force": True} if force else {}, is_beside=True)})

    def storm(self, runs: int, *, every: timedelta) -> None:
        """Let services whose requests were refused force runs without end."""
        self._note(f"{runs} forced runs, one in {every}")
        for _ in range(runs):
            self.run({"force": True})
            self._advance(self.now + every)

    # --- a run ------------------------------------------------------------------------------------

    def run(
        self,
        event: dict[str, Any] | None = None,
        *,
        trouble: "dict[int, Trouble | Callable[[], None]] | None" = None,
        is_beside: bool = False,
    ) -> None:
        """Run the function once, and hold what it did against the invariants."""
        undisturbed = not trouble and not is_beside
        if undisturbed:
            self._check_readers()
        before = self._held()
        expected = self._expectation(before, event or {}) if undisturbed else None
        alerts = len(self.alerts)
        own = _Run(trouble or {})
        self._runs.append(own)
        self.tally.counts["runs"] += 1
        error: QwenTokenError | None = None
        result: dict[str, Any] = {}
        context: Any = FakeLambdaContext(TIMEOUT // timedelta(milliseconds=1))
        try:
            result = handler.run(event or {}, context, self._clients)
        except QwenTokenError as caught:
            error = caught
        except _DeathError:
            own.died = True
        finally:
            self._runs.pop()
            handler.metrics.clear_metrics()
        if self._broken is not None:
            raise self._broken
        outcome = str(result.get("outcome", "died" if own.died else "failed"))
        self.tally.counts[f"outcome {outcome}"] += 1
        is_failure = outcome in {"failed", "retrying", "died"}
        self._failures = self._failures + 1 if is_failure else 0
        if is_failure and before is not None and self._state(before) is TokenState.FRESH:
            # Whatever a check could not mend, the next one tries again.
            self._died()
        if own.struck:
            self._was_disturbed(own)
        self._check_login(own, outcome)
        if not own.died and not own.struck:
            self._check_alerts(before, error, outcome)
        if outcome == "refreshed":
            self._incident_since = None
        if expected is not None and not own.struck:
            expected(outcome, self.alerts[alerts:])

    def _was_disturbed(self, run: _Run) -> None:
        """Take note of what a run cannot have done, as something went wrong in it."""
        self._excuse(_RECOVERS_IN)
        # Who died, or could not write, has forgotten what was told.
        self._told.clear()
        self._incident_since = None
        self._last_version_at = None
        if run.died or (Trouble.LOST_ANSWER, "update_item") in run.struck:
            # The lease may have been taken, and nobody gives it back.
            self._leased_until = self.now + TIMEOUT + TICK
        if run.died:
            # It may have announced a sign-in that it did not come to make.
            self._sign_in_from = self.now + SIGN_IN_EVERY
        for trouble, name in run.struck:
            is_lost = name == "obtain refresh_token" and trouble in {
                Trouble.LATE_DEATH,
                Trouble.LOST_ANSWER,
            }
            is_lost |= name == "put_secret_value of the session" and trouble is Trouble.DEATH
            # Nobody can tell whether a sign-in whose answer was lost was answered.
            is_lost |= name == _SIGN_IN
            self._answer_lost |= is_lost
            if name in {"verify", "get_secret_value", "obtain exchange", "refresh"} or run.died:
                # A check that did not get through is made again a day later.
                self._noticed_from = max(self._noticed_from, self.now + _NOTICED_IN)
            if name == "put_secret_value" and self.qwen.mode is Mode.RETIRES_THE_OLD:
                # The old token has ended, and the new one was not kept: a later run finds that.
                self._noticed_from = max(self._noticed_from, self.now + _RECOVERS_IN)
            if is_lost or "exchange" in name or name == "refresh":
                self._died()

    def call(
        self, name: str, carry_out: Callable[[], Any], *, request: dict[str, Any] | None = None
    ) -> Any:
        """Carry out one call of a run, or let go wrong what is to go wrong there."""
        run = self._runs[-1]
        if run.died:
            # Nothing that a dead process still tries arrives.
            raise _DeathError
        secret_id = (request or {}).get("SecretId")
        if secret_id == self._session_arn:
            name = f"{name} of the session"
        run.calls += 1
        run.names.append(name)
        trouble = run.trouble.get(run.calls)
        if name.startswith("obtain"):
            return self._spend(run, name, trouble, carry_out)
        return self._pass(run, name, trouble, carry_out)

    def _spend(
        self,
        run: _Run,
        name: str,
        trouble: "Trouble | Callable[[], None] | None",
        carry_out: Callable[[], Any],
    ) -> Any:
        self._check(not self._is_spending, "a login is never spent by two runs at once")
        self._is_spending = True
        try:
            return self._pass(run, name, trouble, carry_out)
        finally:
            self._is_spending = False

    def _pass(
        self,
        run: _Run,
        name: str,
        trouble: "Trouble | Callable[[], None] | None",
        carry_out: Callable[[], Any],
    ) -> Any:
        if trouble is None:
            return self._watch(name, carry_out)
        if not isinstance(trouble, Trouble):
            trouble()
            return self._watch(name, carry_out)
        run.struck.append((trouble, name))
        run.died = trouble in {Trouble.DEATH, Trouble.LATE_DEATH}
        if trouble in {Trouble.LATE_DEATH, Trouble.LOST_ANSWER}:
            self._watch(name, carry_out)
        if run.died:
            raise _DeathError
        if name in {"refresh", "verify"} or name.startswith("obtain"):
            raise Outage.DOWN.error()
        failed: Any = {
            "Error": {"Code": "InternalServiceError"},
            "ResponseMetadata": {"HTTPStatusCode": 500},
        }
        raise ClientError(failed, name)

    # --- the owner's inbox ------------------------------------------------------------------------

    def publish(self, **message: Any) -> None:
        """Take an alert, as SNS does."""
        self.call("publish", lambda: self._hear(message))

    def _hear(self, message: dict[str, Any]) -> None:
        alert = json.loads(json.loads(message["Message"])["default"])
        self.alerts.append(alert)
        event, severity, failure = alert["event"], alert["severity"], alert["failures"][0]
        reason = failure["reason"]
        self.needs_a_person |= severity == "critical" or event == "session_ending"
        self.tally.counts[f"{event} {severity} {reason}"] += 1
        self._note(f"alert: {event} {severity} {reason}: {failure['message']}")
        if event == "refresh_recovered":
            self._check(self._is_heard_of, "what nobody heard of is not over, and only once")
            # Who dies now has not written down that this was told.
            self._is_heard_of = bool(self._runs[-1].trouble)
            self._incident_since = None
            self._told = {key: at for key, at in self._told.items() if key[0] == "session_ending"}
            return
        # A new secret is awaited, and that is no incident; it is one if the login gave no token.
        is_awaited = (severity, reason) == ("warning", "token_missing")
        self._is_heard_of |= event == "refresh_failed" and not is_awaited
        # By the function's clock, as it remembers that itself: somebody may set it.
        now = self.clock()
        self._heard[severity, reason] = now
        # An incident is one token's: notices may come again with each of them.
        version = self._labels().get(CURRENT, "") if severity == "notice" else ""
        end = str(failure["session_expires_at"]) if event == "session_ending" else ""
        key = (event, severity, reason, version, end)
        last = self._told.get(key)
        # A run that waits in vain for another one's lease, be it a dead one's, tells it once more.
        is_alone = len(self._runs) == 1 and not self._runs[-1].has_company()
        is_alone &= self.now >= self._leased_until
        self._check(
            last is None or now - last >= REMIND_EVERY or not is_alone,
            "nobody is alerted twice to the same thing within a day",
        )
        self._told[key] = now

    def will_log_in(self, after: timedelta) -> None:
        """Let a person who was called log in a while later."""
        self._login_at = min(self._login_at, self.now + after)

    # --- what is where ----------------------------------------------------------------------------

    def current(self) -> Token | None:
        """Return what readers get, or None where that is no token."""
        return self._token_of(self._labels().get(CURRENT, ""))

    def memory(self) -> RunMemory:
        """Return what the runs remember."""
        table: Any = self.table
        return StateTable(table, _TABLE, self._arn, clock=self.clock).read()

    def _held(self) -> StoredToken | None:
        """Return what a run would find, None also where that is no token."""
        try:
            return SecretStore(self._client, self._arn).read()
        except QwenTokenError:
            return None

    def _session(self) -> StoredSession | None:
        try:
            return SessionStore(self._client, self._session_arn).read()
        except SessionMalformedError:
            return None

    def _session_in(self) -> Session:
        stored = self._session()
        return Session() if stored is None else stored.session

    def _is_session_readable(self) -> bool:
        try:
            SessionStore(self._client, self._session_arn).read()
        except SessionMalformedError:
            return False
        return True

    def _state(self, held: StoredToken) -> TokenState:
        return state_of(held, now=self.clock(), refresh_before=REFRESH_BEFORE)

    def _labels(self) -> dict[str, str]:
        return self._labels_of(self._arn)

    def _labels_of(self, arn: str) -> dict[str, str]:
        described = self._client.describe_secret(SecretId=arn)
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

    def _advance(self, to: datetime) -> None:
        self.tally.time += to - self.now
        self.now = to
        self.qwen.now = self.now
        if self.qwen.outage is not None:
            self._noticed_from = max(self._noticed_from, self.now + _NOTICED_IN)
            if self.now >= self.outage_ends:
                self._note("the outage is over")
                self._stir()
                # A first token, or a sign-in, that was not answered is tried ten minutes later.
                waits = self._held() is None or self._session_in().email is not None
                self._excuse(_RECOVERS_IN if waits else TICK)
                self.qwen.outage = None
        if self.now >= self._login_at:
            self._login_at = self.now + _NEVER
            self.qwen.mode = self._good_mode()
            self.needs_a_person = False
            self.log_in()
            self.run({"force": True})

    def _good_mode(self) -> Mode:
        return Mode.ECHOES if self.kind is Kind.OPEN_WEBUI else Mode.MINTS

    def _note(self, event: str) -> None:
        self.history.append(f"{self.now:%Y-%m-%d %H:%M:%S} {event}")

    # --- the invariants ---------------------------------------------------------------------------

    def _check(self, holds: bool, invariant: str) -> None:  # noqa: FBT001 - reads like assert
        if not holds:
            history = "\n".join(self.history[-self.shown :])
            # The first one is kept: what is raised in the middle of a run looks like trouble with
            # AWS to that run.
            self._broken = self._broken or InvariantError(f"{invariant}\n{history}")
            raise self._broken

    def _stir(self) -> None:
        """Something happens: what is told from now on is news."""
        self._failures = 0
        self._told = {key: at for key, at in self._told.items() if key[0] == "session_ending"}

    def _excuse(self, duration: timedelta) -> None:
        """Allow readers to be without a token for this long."""
        self._served_from = max(self._served_from, self.now + duration)

    def _died(self) -> None:
        """Something may have died: a check notices that, within a day, and the next token may come
        at once.
        """
        self._last_version_at = None
        self._excuse(_NOTICED_IN)
        self._noticed_from = max(self._noticed_from, self.now + _NOTICED_IN)

    def _recovers_in(self) -> timedelta:
        """Return how long it takes to have a token again, once that is possible."""
        return _RECOVERS_IN if self.kind in {Kind.SIGN_IN, Kind.OPEN_WEBUI} else TICK

    def _is_settled(self) -> bool:
        return self.now > self._served_from

    def _check_readers(self) -> None:
        """Look at what readers have had until now, just before a run."""
        held = self._held()
        token = None if held is None else held.token
        is_served = token is not None and self.qwen.accepts(token)
        if not is_served and self.now >= self._noticed_from:
            within = [at for (grade, _), at in self._heard.items() if grade != "notice"]
            self._check(
                any(self.now - at <= REMIND_EVERY + 2 * HOUR for at in within),
                "within a day after the token died, somebody is alerted",
            )
        if self.qwen.outage is not None and not is_served:
            # No check gets through.
            self._died()
        if self.qwen.outage is not None or not self._can_be_kept(token):
            self._excuse(self._recovers_in())
        self._check(is_served or not self._is_settled(), "no avoidable minute without a token")

    def _check_login(self, run: _Run, outcome: str) -> None:
        """Look at what a run has done to the login."""
        if self.qwen.violations and not self._answer_lost:
            self._check(False, self.qwen.violations[0])
        self.qwen.violations.clear()
        if run.has_company():
            # With the person's session that came meanwhile, it begins anew.
            self._last_sign_in_at = None
            self.qwen.sign_ins.clear()
        for at in self.qwen.sign_ins:
            last = self._last_sign_in_at
            self._check(
                last is None or at - last >= SIGN_IN_EVERY - 2 * abs(self.skew),
                "at most one sign-in in 24 hours",
            )
            self._last_sign_in_at = at
            self._sign_in_from = at + SIGN_IN_EVERY
        self.qwen.sign_ins.clear()
        if any(name == _SIGN_IN and trouble is not Trouble.DEATH for trouble, name in run.struck):
            # An attempt whose answer did not arrive counts for ten minutes.
            self._last_sign_in_at = None
        if run.struck or self._answer_lost or self._runs or outcome in {"fresh", "leased"}:
            return
        stored = self._session()
        if stored is not None and stored.session.refresh_token is not None:
            found = self.qwen.credentials.get(stored.session.refresh_token)
            self._check(
                found is None or not self.qwen._is_spent(found),
                "the credential that lives is in the session secret",
            )

    def _check_alerts(
        self, before: StoredToken | None, error: QwenTokenError | None, outcome: str
    ) -> None:
        """Look at whether a failure was told as the contract has it."""
        version = None if before is None else before.version_id
        if outcome not in {"failed", "retrying"}:
            return
        if self._incident_since is None or (version and version != self._incident_of):
            self._incident_since, self._incident_of = self.clock(), version
        age = self.clock() - self._incident_since
        if error is None:
            self._check(age < ALERT_AFTER, "trouble that goes on is told after an hour")
            held = self._held()
            expired = held is not None and self._state(held) is TokenState.EXPIRED
            self._check(not expired, "a token that has expired calls somebody")
            return
        # A sign-in that is allowed again before the token expires ends it by itself.
        waits = error.facts is not None and error.facts.next_sign_in_at is not None
        passes = isinstance(error, UpstreamError | StoreError) or waits
        grades = ("warning", "critical") if passes else ("critical",)
        self._check(
            any(
                self.clock() - at < REMIND_EVERY
                for grade in grades
                if (at := self._heard.get((grade, error.reason)))
            ),
            "what is raised was published, and is critical where only a person can help",
        )

    def _expectation(
        self, before: StoredToken | None, event: dict[str, Any]
    ) -> "Callable[[str, list[dict[str, Any]]], None] | None":
        """Say, of a run that nothing disturbs, what is to come of it."""
        if before is None:
            return None
        is_fresh = self._state(before) is TokenState.FRESH
        if is_fresh and not event:
            return lambda outcome, told: self._check(
                outcome == "fresh" and not told, "a fresh token is nobody's concern"
            )
        if self.qwen.outage is not None or not self._is_settled():
            return None
        token = before.token
        if self._can_be_kept(token):

            def kept(outcome: str, told: list[dict[str, Any]]) -> None:
                failed = [each for each in told if each["event"] == "refresh_failed"]
                self._check(
                    not failed and outcome in {"refreshed", "checked", "fresh", "superseded"},
                    "no alert is sent when all is well",
                )
                after = self._held()
                self._check(
                    after is not None
                    and self.qwen.accepts(after.token)
                    and self._state(after) is TokenState.FRESH,
                    "a token never expires where a refresh was possible in time",
                )

            return kept
        return None

    def _can_be_kept(self, token: Token | None) -> bool:
        """Say whether a run could end with a fresh token: refreshed, signed in, or brought back."""
        renews = self.qwen.mode in {Mode.MINTS, Mode.RETIRES_THE_OLD}
        session = self._session_in()
        if token is None and CURRENT in self._labels():
            return False
        if token is not None and not self._may_follow(token):
            return False
        if self.qwen.takes(session.refresh_token):
            return True
        is_own_login = token is not None and not token.is_access_token
        echoes = self.qwen.mode is Mode.ECHOES
        if token is not None and is_own_login and not echoes and self.qwen.accepts(token):
            # An answer for somebody else is no refusal: nobody signs in while the token lives.
            return renews
        if session.email and session.password == self.qwen.password(ACCOUNT):
            return self.now > self._sign_in_from + TICK
        return False

    def _may_follow(self, token: Token) -> bool:
        """Say whether the owner's next token may take the place of this one."""
        return self.qwen.account_of(token) == ACCOUNT

    def _watch(self, name: str, carry_out: Callable[[], Any]) -> Any:
        """Carry a call out, and look at what it did to what readers get."""
        if name == "put_secret_value":
            self._count_version()
        elif name == "put_secret_value of the session":
            self.tally.counts["versions of the session"] += 1
        if name != "update_secret_version_stage":
            return carry_out()
        replaced = self._labels().get(CURRENT, "")
        answer = carry_out()
        promoted = self._labels().get(CURRENT, "")
        if promoted != replaced:
            self._check_promotion(replaced, promoted)
        return answer

    def _count_version(self) -> None:
        # By the function's clock, which somebody may have set since: it knows no other.
        now = self.clock()
        last, self._last_version_at = self._last_version_at, now
        self.tally.counts["versions"] += 1
        if self._runs[-1].has_company():
            # What a person put in meanwhile has its own successor.
            self._last_version_at = None
        if self.qwen.mode is Mode.MINTS_SHORT_LIVED or self._runs[-1].has_company():
            return
        self._check(
            # By a clock that is before the API's, a token falls due that much sooner.
            last is None or now - last >= VERSION_EVERY - abs(self.skew),
            "at most one version in ten minutes",
        )

    def _check_promotion(self, replaced: str, promoted: str) -> None:
        old, new = self._token_of(replaced), self._token_of(promoted)
        self.tally.counts["refreshes"] += 1
        self._check(
            old is not None and new is not None, "what is no token takes no part in a promotion"
        )
        assert old is not None
        assert new is not None
        is_verified = new.raw in self.qwen.verified
        nothing_to_lose = old.expires_at <= self.clock()
        self._check(is_verified or nothing_to_lose, "never is an unverified token current")
        self._check(
            self.qwen.account_of(new) == self.qwen.account_of(old),
            "never is another account's token current",
        )
        # A dead token is no better than any that lives; a session's is the owner's newer word.
        if self.qwen.accepts(old) and not (new.is_access_token and not old.is_access_token):
            self._check(new.expires_at > old.expires_at, "never is a worse token current")
            if replaced in self._persons and not self._is_by_session(new):
                self._check(
                    self.qwen.descends(new, of=old), "what a person put in is never overwritten"
                )

    def _is_by_session(self, token: Token) -> bool:
        return token.is_access_token or self.kind is Kind.OPEN_WEBUI
