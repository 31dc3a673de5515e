"""Every crash point: each external call of a run, and each thing that may go wrong there.

The calls are found by recording a run that nothing disturbs. Then the same run is made again, in a
sandbox of its own, once for every call and every fault. After it, the clock is put forward and runs
are made that nothing disturbs, until readers have a new token, and the login gave the one after it.
"""

import json
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from http import HTTPStatus
from itertools import pairwise
from typing import Any, Final

from localcloud import qwen as scenarios
from localcloud.qwen import QwenStandIn, Reply, Request, Scenario
from localcloud.recording_proxy import Answer, AwsRefusal, Call, refuse
from localcloud.sign_in_host import Rotation, SessionPolicy, SignInHostStandIn, SignInRequest
from localcloud.stack import CURRENT, Version
from qwen_token.secret_store import PENDING
from qwen_token.tokens import decode_token

from .sandbox import (
    DAY,
    LINE,
    PERSON,
    RENEWS,
    ROTATES,
    SIGN_IN,
    WEEK,
    YOUNG,
    Sandbox,
    Sandboxes,
    keeps_notes,
    token_in,
)
from .worker import End

_ASK: Final = "GET auths/"
_REFRESH: Final = "GET refresh"
_SIGN_IN: Final = "POST signin"
_OF_SESSION: Final = "(session)"
_KEEP: Final = f"PutSecretValue {_OF_SESSION}"
_PUBLISH: Final = "Publish"
_LEASE: Final = "UpdateItem (lease)"
_NOTE: Final = "UpdateItem (memory)"
_RELEASE: Final = "UpdateItem (release)"

_DOWN: Final = AwsRefusal("InternalServiceError", 500)
_THROTTLED: Final = AwsRefusal("ThrottlingException", 400)

# Most of the time goes by in waits between retries, and costs no processor.
_SIDE_BY_SIDE: Final = 16

MINUTE: Final = timedelta(minutes=1)
# What an access token has left that is due.
_DUE: Final = 5 * MINUTE
# When the runs after the disturbed one are made: the first while the lease of one that died goes
# on, the others as the schedule does.
_SOON: Final = (MINUTE, *(2 * number * MINUTE for number in range(2, 7)))
# What is dead is asked again after an hour, and after a day a sign-in is allowed again.
_LATER: Final = (64 * MINUTE, DAY + 2 * MINUTE, DAY + 4 * MINUTE)
_ALERT_AFTER: Final = 60 * MINUTE
# By then, the next access token is due, too.
_NEXT_ONE: Final = 10 * MINUTE
# At most one sign-in that was answered in this time, and one that was not.
_SIGN_IN_EVERY: Final = DAY
_UNANSWERED_FOR: Final = 10 * MINUTE


class Fault(Enum):
    """What goes wrong at a call. All but the singular ones also happen to its retries."""

    DIES_BEFORE = "killed before"
    DIES_AFTER = "killed after"
    FAILS_ONCE = "fails once"
    FAILS_ALWAYS = "fails always"
    THROTTLED = "told to wait"
    LOST_ONCE = "answer lost once"
    LOST_ALWAYS = "answer lost always"
    PUT_BEFORE = "put before"
    PUT_AFTER = "put after"


_DEATHS: Final = frozenset({Fault.DIES_BEFORE, Fault.DIES_AFTER})
_PUTS: Final = frozenset({Fault.PUT_BEFORE, Fault.PUT_AFTER})
_LOSSES: Final = frozenset({Fault.LOST_ONCE, Fault.LOST_ALWAYS})
_SINGULAR: Final = frozenset({*_DEATHS, *_PUTS, Fault.FAILS_ONCE, Fault.LOST_ONCE})
_REFUSALS: Final = frozenset({Fault.FAILS_ONCE, Fault.FAILS_ALWAYS, Fault.THROTTLED})
# Nobody hears an alert that is not carried out.
_SILENCING: Final = frozenset({Fault.FAILS_ONCE, Fault.FAILS_ALWAYS, Fault.THROTTLED})


class Verdict(Enum):
    """What became of a case. All but the last two are survived."""

    WELL = "✓"
    TOLD = "!"
    MENDED = "†"
    SIGNED_IN = "↻"
    BEYOND = "○"
    BROKEN = "✗"


SURVIVED: Final = frozenset({Verdict.WELL, Verdict.TOLD, Verdict.MENDED, Verdict.SIGNED_IN})


@dataclass(frozen=True)
class Kind:
    """A kind of run: what it finds, and how the API answers during it and ever after.

    ``session`` is how the sign-in host treats the session beside the token, if there is one.
    """

    title: str
    prepare: Callable[[Sandbox], None] = field(repr=False)
    during: Scenario = RENEWS
    after: Scenario = RENEWS
    session: SessionPolicy | None = None
    has_sign_in: bool = False
    # The run that nothing disturbs signs in.
    signs_in: bool = False
    is_new: bool = False
    is_open_webui: bool = False
    # Unless it is so already, or the API retires it, the current token stays alive all the time.
    starts_alive: bool = True
    # How the run ends that nothing disturbs.
    ends: str = "refreshed"

    @property
    def retires(self) -> bool:
        """Say whether the API ends a token as it issues the next one."""
        return self.during is ROTATES


def _as_it_is(_sandbox: Sandbox) -> None:
    """Leave the stale token where it is."""


def _kill_current(sandbox: Sandbox) -> None:
    """End the current token. What is staged then is newer for sure: AWS dates by the second."""
    sandbox.age_current(MINUTE)
    sandbox.qwen.retire(token_in(sandbox.current()))


def _dead_beside_fresh(sandbox: Sandbox) -> None:
    _kill_current(sandbox)
    sandbox.stage(sandbox.mint(left=WEEK))


def _dead_beside_stale(sandbox: Sandbox) -> None:
    _kill_current(sandbox)
    issued_at = int((sandbox.clock() - WEEK).timestamp())
    sandbox.stage(sandbox.qwen.mint(lifetime=2 * DAY, iat=issued_at))


def _with_sign_in(sandbox: Sandbox) -> None:
    credential = sandbox.credential()
    assert credential is not None
    sandbox.put_login(refresh_token=credential, **SIGN_IN)


def _with_sign_in_beside_dead(sandbox: Sandbox) -> None:
    credential = sandbox.credential()
    assert credential is not None
    sandbox.host.end_login(credential)
    sandbox.put_login(refresh_token=credential, **SIGN_IN)


def _with_sign_in_only(sandbox: Sandbox) -> None:
    sandbox.put_login(**SIGN_IN)


_OLD_STAYS: Final = SessionPolicy(rotation=Rotation.OLD_STAYS)
_OLD_DIES: Final = SessionPolicy(rotation=Rotation.OLD_DIES)
_REUSE_ENDS_LOGIN: Final = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)

REFRESH: Final = Kind("exchange", _as_it_is)
RETIRED: Final = Kind("exchange, where the API retires the old token", _as_it_is, ROTATES, ROTATES)
OLD_DIES: Final = Kind("refresh_token, where the old credential dies", _as_it_is, session=_OLD_DIES)
REUSE_ENDS_LOGIN: Final = Kind(
    "refresh_token, where the use of an old credential ends the login",
    _as_it_is,
    session=_REUSE_ENDS_LOGIN,
)
REUSE_ENDS_LOGIN_BESIDE_SIGN_IN: Final = Kind(
    "refresh_token beside a sign-in, where the use of an old credential ends the login",
    _with_sign_in,
    session=_REUSE_ENDS_LOGIN,
    has_sign_in=True,
)
FIRST: Final = Kind(
    "refresh_token, the first token of a new secret", _as_it_is, session=_OLD_DIES, is_new=True
)
PASSWORD: Final = Kind(
    "password, at Qwen's sign-in host",
    _with_sign_in_only,
    session=_REUSE_ENDS_LOGIN,
    has_sign_in=True,
    signs_in=True,
)
OPEN_WEBUI: Final = Kind(
    "password, at an Open WebUI server that echoes",
    _with_sign_in_only,
    scenarios.ECHOES,
    scenarios.ECHOES,
    has_sign_in=True,
    signs_in=True,
    is_open_webui=True,
)

KINDS: Final = (
    REFRESH,
    RETIRED,
    Kind(
        "exchange beside a sign-in, where the API retires the old token",
        _with_sign_in_only,
        ROTATES,
        ROTATES,
        has_sign_in=True,
    ),
    Kind("exchange: recovery with a fresh staged token", _dead_beside_fresh, starts_alive=False),
    Kind("exchange: recovery with a stale staged token", _dead_beside_stale, starts_alive=False),
    Kind(
        "exchange: the API refuses every token",
        _as_it_is,
        scenarios.TOKEN_DEAD,
        ends="token_rejected",
    ),
    Kind("refresh_token, where the credential never changes", _as_it_is, session=SessionPolicy()),
    Kind("refresh_token, where the old credential stays good", _as_it_is, session=_OLD_STAYS),
    OLD_DIES,
    REUSE_ENDS_LOGIN,
    Kind(
        "refresh_token beside a sign-in, where the old credential dies",
        _with_sign_in,
        session=_OLD_DIES,
        has_sign_in=True,
    ),
    REUSE_ENDS_LOGIN_BESIDE_SIGN_IN,
    FIRST,
    PASSWORD,
    Kind(
        "password, where the login is dead",
        _with_sign_in_beside_dead,
        session=_REUSE_ENDS_LOGIN,
        has_sign_in=True,
        signs_in=True,
    ),
    OPEN_WEBUI,
)

# Where something can be lost for good: the call whose answer is all that there is, and the one that
# writes it.
LOSING: Final = {
    RETIRED: (f"{_ASK} (current)", "PutSecretValue"),
    OLD_DIES: (_REFRESH, _KEEP),
    REUSE_ENDS_LOGIN: (_REFRESH, _KEEP),
    FIRST: (_REFRESH, _KEEP),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One point and one fault. ``point`` counts the calls of the undisturbed run from 0."""

    kind: Kind
    point: int
    call: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case; ``problems`` says what broke."""

    case: Case
    verdict: Verdict
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A sign-in that reached its host; ``arrived`` says that its answer came back."""

    at: datetime
    arrived: bool


class Line:
    """The way out of one process: every call to AWS and to both hosts comes past here."""

    def __init__(self, sandbox: Sandbox, versions: list[Version]) -> None:
        """Stand between ``sandbox``'s process and its relay and hosts, with these versions."""
        self.calls: list[str] = []
        self.struck = False
        self.before = versions
        self.logins_before = {version.version_id for version in sandbox.session_versions()}
        # Tokens that the API knew, and the process heard that.
        self.verified: set[str] = set()
        self.sign_ins: list[_Attempt] = []
        # Credentials that gave a token, and the process heard that; and those that were sent again.
        self.spent: set[str] = set()
        self.spent_again: set[str] = set()
        # The ids of what was written, by the call.
        self.written: dict[str, set[str]] = {}
        self._sandbox = sandbox
        self._point = -1
        self._fault: Fault | None = None
        self._target: Hashable = None
        self._lock = threading.Lock()
        self._held = {token_in(version.text): _name(version) for version in versions}
        sandbox.relay.gate = self._to_aws

    def strike(self, point: int, fault: Fault) -> None:
        """Let ``fault`` happen at the call number ``point``, counted from 0."""
        self._point, self._fault = point, fault

    def leave_alone(self) -> None:
        """Disturb nothing from now on."""
        self._fault = None

    def behind(self, scenario: Scenario) -> Scenario:
        """Return a scenario that does as ``scenario`` does, and whose requests come past here."""

        def answer(qwen: QwenStandIn, request: Request) -> Reply | None:
            whose = self._held.get(request.raw or "", "new")
            is_sign_in = request.method == "POST"
            reply = self._pass(
                _SIGN_IN if is_sign_in else f"{_ASK} ({whose})",
                (request.path, request.raw),
                lambda: scenario.answer(qwen, request),
                lambda kind: kind.answer(qwen, request),
                (scenarios.UNAVAILABLE_PAGE, scenarios.RATE_LIMITED),
            )
            if request.raw is not None and _is_good(reply):
                self.verified.add(request.raw)
            if is_sign_in:
                self._note_sign_in(reply)
            return reply

        return Scenario(scenario.name, scenario.description, answer)

    def before_host(self) -> Scenario:
        """Return the scenario of a sign-in host whose requests come past here."""

        def answer(host: SignInHostStandIn, request: SignInRequest) -> Reply | None:
            is_sign_in = request.grant == "password"
            if request.credential in self.spent:
                self.spent_again.add(request.credential)
            reply = self._pass(
                _SIGN_IN if is_sign_in else _REFRESH,
                (request.path, request.credential),
                lambda: host.answer(request),
                lambda kind: kind.answer(host, request),
                (scenarios.UNAVAILABLE_PAGE, scenarios.RATE_LIMITED),
            )
            if is_sign_in:
                self._note_sign_in(reply)
            elif request.credential is not None and _is_good(reply):
                self.spent.add(request.credential)
            return reply

        return Scenario("past the line", "does what its policy says, unless disturbed", answer)

    def _note_sign_in(self, reply: Reply | None) -> None:
        if reply is None or _is_good(reply):
            self.sign_ins.append(_Attempt(self._sandbox.clock(), reply is not None))

    def _to_aws(self, call: Call, carry_out: Callable[[], Answer | None]) -> Answer | None:
        operation = call.operation.partition(":")[2]
        fields: dict[str, Any] = json.loads(call.body) if "X-Amz-Target" in call.headers else {}
        name = operation
        if fields.get("SecretId") == self._sandbox.session_secret_arn:
            name = f"{operation} {_OF_SESSION}"
        elif operation == "UpdateItem":
            name = _of_item(fields["UpdateExpression"])

        def dated() -> Answer | None:
            answer = carry_out()
            if answer is None or answer.status != HTTPStatus.OK:
                return answer
            if operation == "PutSecretValue":
                version_id = json.loads(answer.body)["VersionId"]
                self.written.setdefault(name, set()).add(version_id)
            return self._sandbox.dated(call, answer)

        return self._pass(
            name,
            # A retry is the same call again, to the byte. What is tried once more by the keeper
            # itself has another token.
            (call.operation, fields.get("SecretString") or call.body),
            dated,
            lambda kind: refuse(call, kind),
            (_DOWN, _THROTTLED),
        )

    def _pass[A, R](
        self,
        name: str,
        identity: Hashable,
        carry_out: Callable[[], A | None],
        refuse_as: Callable[[R], A | None],
        refusals: tuple[R, R],
    ) -> A | None:
        with self._lock:
            is_point = len(self.calls) == self._point
            self.calls.append(name)
            fault = self._fault
            if is_point and fault is not None:
                self.struck, self._target = True, identity
            hit = is_point or (self.struck and identity == self._target and fault not in _SINGULAR)
        if fault is None or not hit:
            return carry_out()
        down, throttled = refusals
        if fault in _REFUSALS:
            return refuse_as(throttled if fault is Fault.THROTTLED else down)
        if fault is Fault.PUT_BEFORE:
            self._put()
        elif fault is Fault.DIES_BEFORE:
            self._sandbox.worker.kill()
            return None
        answer = carry_out()
        if fault is Fault.PUT_AFTER:
            self._put()
        elif fault is Fault.DIES_AFTER:
            self._sandbox.worker.kill()
        return answer if fault in _PUTS else None

    def _put(self) -> None:
        """Put in what a person whose login is of this kind would."""
        sandbox = self._sandbox
        held = [json.loads(version.text) for version in sandbox.session_versions()]
        sign_in = SIGN_IN if any("email" in login for login in held) else {}
        if held and not sandbox.is_open_webui and not self._is_first_kind():
            sandbox.put_login(refresh_token=sandbox.host.log_in(), **sign_in, **{LINE: PERSON})
        else:
            sandbox.put(sandbox.mint(left=WEEK, line=PERSON))

    def _is_first_kind(self) -> bool:
        current = self._sandbox.current()
        return bool(current) and not decode_token(token_in(current)).is_access_token


def _name(version: Version) -> str:
    return "staged" if PENDING in version.labels else "current"


def _of_item(expression: str) -> str:
    if "REMOVE lease_owner" in expression:
        return _RELEASE
    return _LEASE if "SET lease_owner" in expression else _NOTE


def _is_good(reply: Reply | None) -> bool:
    if reply is None or reply.status != HTTPStatus.OK:
        return False
    document = json.loads(reply.body)
    return bool(document.get("success", True))


def record(sandboxes: Sandboxes, kind: Kind) -> list[str]:
    """Make a run that nothing disturbs, and return its calls in their order."""
    with _prepared(sandboxes, kind) as (sandbox, line):
        end = sandbox.run()
        if end.word != kind.ends:
            raise AssertionError(f"{kind.title}: ended with {end.word}, not with {kind.ends}")
        return line.calls


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run of a story was: its end, its calls, and what it published, by the subjects.

    ``since`` is how long after the disturbed one it was made.
    """

    since: timedelta
    end: End
    calls: list[str]
    published: list[str]
    # After it: whether readers have a live token, and whether the login can go on by itself.
    serves: bool
    can_go_on: bool

    @property
    def alarms(self) -> list[str]:
        """What it published that somebody is to act on; trouble that is old is a warning."""
        graver = ("[CRITICAL]",) if self.since >= _ALERT_AFTER else ("[WARNING]", "[CRITICAL]")
        return [each for each in self.published if each.startswith(graver)]


class _Story:
    """The disturbed run of a case, and those after it."""

    def __init__(self, case: Case, sandbox: Sandbox, line: Line) -> None:
        self.case = case
        self.sandbox = sandbox
        self.line = line
        self.runs: list[_Run] = []
        self._begins_at = sandbox.clock.ahead

    def run_at(self, since: timedelta) -> _Run:
        """Make a run this long after the disturbed one."""
        sandbox, line = self.sandbox, self.line
        sandbox.clock.ahead = self._begins_at + since
        calls, emails = len(line.calls), sandbox.alerts
        end = sandbox.run()
        run = _Run(
            since,
            end,
            line.calls[calls:],
            [email.subject for email in sandbox.relay.emails[emails:]],
            sandbox.serves_a_live_token(),
            self._can_go_on(),
        )
        self.runs.append(run)
        return run

    def _can_go_on(self) -> bool:
        """Say whether any version of any secret has what gives the next token."""
        sandbox, kind = self.sandbox, self.case.kind
        if kind.has_sign_in:
            return True
        if kind.session is None:
            return any(
                sandbox.qwen.accepts(token_in(version.text)) for version in sandbox.versions()
            )
        return any(
            sandbox.host.accepts(json.loads(version.text).get("refresh_token", ""))
            for version in sandbox.session_versions()
        )

    def is_settled(self) -> bool:
        """Say whether readers have a live token that is not due."""
        current = self.sandbox.current()
        if not current or not self.sandbox.qwen.accepts(token_in(current)):
            return False
        token = decode_token(token_in(current))
        left = token.remaining(self.sandbox.clock())
        return left > (2 * _DUE if token.is_access_token else YOUNG)


def endure(sandboxes: Sandboxes, case: Case) -> Result:
    """Make the run with its fault, then others that nothing disturbs, and judge what they left."""
    with _prepared(sandboxes, case.kind) as (sandbox, line):
        line.strike(case.point, case.fault)
        story = _Story(case, sandbox, line)
        first = story.run_at(timedelta())
        line.leave_alone()
        problems = _judge(story, first)

        sandbox.qwen.answer_with(line.behind(case.kind.after))
        for since in (*_SOON, *_LATER):
            story.run_at(since)
            if story.is_settled():
                break
            if not first.can_go_on and any(run.alarms for run in story.runs):
                break
        problems += _judge_story(story)
        if not first.can_go_on and not story.is_settled():
            # Whatever the function does: only the API knows the token, or the credential, that
            # lives.
            return _result(case, Verdict.BEYOND, problems + _judge_lost(story))
        problems += _judge_settled(story)
        if _is_mended_by_sign_in(story):
            return _result(case, Verdict.SIGNED_IN, problems)
        if first.end.killed:
            return _result(case, Verdict.MENDED, problems)
        return _result(case, Verdict.WELL if _is_well(case, first) else Verdict.TOLD, problems)


def _is_well(case: Case, run: _Run) -> bool:
    return run.end.well and run.end.word != "retrying" and case.kind.ends == "refreshed"


def _is_mended_by_sign_in(story: _Story) -> bool:
    """Say whether a sign-in took the place of what was lost, an earlier sign-in's answer included.

    One that the undisturbed run makes as well is none.
    """
    later = any(_SIGN_IN in run.calls for run in story.runs[1:])
    return later and (not story.case.kind.signs_in or len(story.line.sign_ins) > 1 or _late(story))


def _late(story: _Story) -> bool:
    return len(story.runs) > 1 + len(_SOON)


def _result(case: Case, verdict: Verdict, problems: list[str]) -> Result:
    return Result(case, Verdict.BROKEN if problems else verdict, tuple(problems))


@contextmanager
def _prepared(sandboxes: Sandboxes, kind: Kind) -> Iterator[tuple[Sandbox, Line]]:
    with sandboxes.sandbox(
        left=2 * DAY if kind.session is None else _DUE,
        session=kind.session,
        is_new=kind.is_new,
        is_open_webui=kind.is_open_webui,
    ) as sandbox:
        kind.prepare(sandbox)
        line = Line(sandbox, sandbox.versions())
        sandbox.qwen.answer_with(line.behind(kind.during))
        sandbox.qwen.answer_sign_ins_with(line.behind(scenarios.SIGNS_IN))
        sandbox.host.answer_with(line.before_host())
        yield sandbox, line


def _judge(story: _Story, run: _Run) -> list[str]:
    """Say what is wrong after the disturbed run."""
    case, sandbox, end = story.case, story.sandbox, run.end
    problems = []
    if not story.line.struck:
        problems.append("the run never came to this point")
    if end.killed != (case.fault in _DEATHS):
        problems.append(f"the run ended with {end.word}")
    alive = case.kind.starts_alive and not case.kind.retires and not case.kind.is_new
    if (alive or end.word in _SUCCESSES) and not run.serves:
        problems.append("readers get a dead token")
    after = sandbox.versions()
    texts = {version.version_id: version.text for version in story.line.before}
    # MiniStack drops versions without a label at once.
    if any(texts.get(version.version_id, version.text) != version.text for version in after):
        problems.append("a version that was there before has changed")
    silenced = case.call == _PUBLISH and case.fault in _SILENCING
    failed = end.word not in _SUCCESSES
    if not end.killed and not silenced and failed != bool(run.published):
        problems.append(f"the run ended with {end.word}, and published {run.published}")
    return problems


_SUCCESSES: Final = frozenset({"fresh", "refreshed", "superseded", "checked", "leased"})


def _judge_story(story: _Story) -> list[str]:
    """Say what no run may do, whatever became of the login."""
    case, sandbox, line, first = story.case, story.sandbox, story.line, story.runs[0]
    problems = []
    # Everything that readers get was there before, or came of a person, or the API knows it.
    known = {token_in(version.text) for version in line.before} | line.verified
    for version in sandbox.versions():
        raw = token_in(version.text)
        is_persons = sandbox.qwen.read(raw).get(LINE) == PERSON
        if CURRENT in version.labels and raw not in known and not is_persons:
            problems.append("readers get a token that was not verified")
        if not case.kind.is_new and not keeps_notes(version.text):
            problems.append("what stood beside the token is gone")
    for version in sandbox.session_versions():
        if version.version_id in line.logins_before:
            continue
        if not keeps_notes(version.text):
            problems.append("what stood beside the credential is gone")
        if case.kind.has_sign_in and not json.loads(version.text).items() >= SIGN_IN.items():
            problems.append("the sign-in is gone")
    if first.end.killed and _LEASE in first.calls and _RELEASE not in first.calls:
        is_taken = (case.call, case.fault) != (_LEASE, Fault.DIES_BEFORE)
        second = story.runs[1]
        if is_taken and {second.end.word} - {"leased", "fresh"}:
            problems.append(f"while the lease went on, a run ended with {second.end.word}")
    problems += _spendings(story) + _versions(story) + _alerts(story)
    return problems


def _spendings(story: _Story) -> list[str]:
    """Say what was spent too often."""
    case, line = story.case, story.line
    problems = []
    # A credential whose successor could not be kept is all that there is.
    changes = case.kind.session is not None and case.kind.session.rotation is not Rotation.NEVER
    if changes and line.spent_again and case.call != _KEEP:
        problems.append("a credential was spent again that had been answered")
    arrived = [attempt.at for attempt in line.sign_ins if attempt.arrived]
    if any(later - earlier < _SIGN_IN_EVERY for earlier, later in pairwise(arrived)):
        problems.append("two sign-ins were answered within a day")
    attempts = [attempt.at for attempt in line.sign_ins]
    if any(later - earlier < _UNANSWERED_FOR for earlier, later in pairwise(attempts)):
        problems.append("two sign-ins were tried within ten minutes")
    return problems


def _versions(story: _Story) -> list[str]:
    """Say where more versions were written than a token and a credential each need."""
    written = {name: len(ids) for name, ids in story.line.written.items()}
    is_disturbed = story.case.call.startswith("PutSecretValue")
    # One for the token, another one where that had come to nothing. A credential that a run left
    # behind is written once more as it is kept; and where the write itself is disturbed, the keeper
    # tries it three times.
    most = {"PutSecretValue": 2, _KEEP: 5 if is_disturbed else 3}
    return [
        f"{count} versions were written by {name}"
        for name, count in written.items()
        if count > most[name]
    ]


def _alerts(story: _Story) -> list[str]:
    """Say which alerts were false, and which were said twice."""
    case = story.case
    problems: list[str] = []
    said: list[str] = []
    # A run that died as it signed in could not say whether that was answered: the next sign-in is
    # allowed after a day, and no access token lives that long.
    waits = case.kind.session is not None and story.runs[0].end.killed and _noted(story)
    for run in story.runs:
        is_true = not run.serves or not run.can_go_on or waits or case.kind.ends != "refreshed"
        if run.alarms and not is_true:
            problems.append(f"a false alert: {run.alarms}")
        if any("RECOVERED" in each for each in run.published) and not said:
            problems.append("the all-clear came, and nothing had been said")
        said += [each.partition(",")[0] for each in run.published]
    # A run that publishes, and cannot remember that, leaves it to the next one; and boto3 repeats
    # what it has no answer to.
    most = 1
    if case.call in {_PUBLISH, _RELEASE, "PutEvents"} and case.fault not in _PUTS:
        most = 3 if case.fault in _LOSSES else 2
    problems += [
        f"said {said.count(each)} times: {each}"
        for each in sorted(set(said))
        if said.count(each) > most
    ]
    return problems


def _noted(story: _Story) -> bool:
    """Say whether the disturbed run noted a sign-in."""
    calls = story.runs[0].calls
    if (story.case.call, story.case.fault) == (_NOTE, Fault.DIES_BEFORE):
        return False
    return _NOTE in calls


def _judge_lost(story: _Story) -> list[str]:
    """Say what is wrong where only a person can help."""
    alarms = [alarm for run in story.runs for alarm in run.alarms]
    reason = "token_rejected" if story.case.kind.session is None else "session_rejected"
    if len(alarms) != 1 or not alarms[0].startswith("[CRITICAL]") or reason not in alarms[0]:
        return [f"a person is needed, and what was said is {alarms}"]
    return []


def _judge_settled(story: _Story) -> list[str]:
    """Say what is wrong after the runs that followed, and let the login give one token more."""
    case, sandbox, last = story.case, story.sandbox, story.runs[-1]
    if not story.is_settled():
        return [f"in the end, readers get no fresh token: {[run.end.word for run in story.runs]}"]
    problems = []
    if _late(story) and not _is_mended_by_sign_in(story) and case.kind.ends == "refreshed":
        problems.append(f"it took long: {[run.end.word for run in story.runs]}")
    if not last.end.well:
        problems.append(f"the last run ended with {last.end.word}")
    if case.fault in _PUTS and not _is_persons(sandbox):
        problems.append("what a person put in was overwritten")
    if decode_token(token_in(sandbox.current())).is_access_token:
        sandbox.clock.advance(_NEXT_ONE)
        end = sandbox.run()
        if end.word != "refreshed" or end.result is None or end.result["grant"] != "refresh_token":
            problems.append(f"the login did not give the next token: {end.word}")
    return problems


def _is_persons(sandbox: Sandbox) -> bool:
    """Say whether what is there comes of what a person put in."""
    current = token_in(sandbox.current())
    logins = [
        json.loads(version.text)
        for version in sandbox.session_versions()
        if CURRENT in version.labels
    ]
    return sandbox.qwen.read(current).get(LINE) == PERSON or any(
        login.get(LINE) == PERSON for login in logins
    )


def cases(
    sandboxes: Sandboxes, kinds: Iterable[Kind] = KINDS, faults: Iterable[Fault] = Fault
) -> list[Case]:
    """Record these kinds of runs, and return these faults at each of their calls."""
    chosen = list(faults)
    return [
        Case(kind, point, call, fault)
        for kind in kinds
        for point, call in enumerate(record(sandboxes, kind))
        for fault in chosen
    ]


def try_all(
    sandboxes: Sandboxes, tried: Iterable[Case], *, on_result: Callable[[Result], None]
) -> list[Result]:
    """Try these cases, many side by side; ``on_result`` hears of each as it ends."""

    def attempt(case: Case) -> Result:
        result = endure(sandboxes, case)
        on_result(result)
        return result

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        return list(pool.map(attempt, tried))
