"""Every crash point: each external call of a run, and each thing that may go wrong there.

The calls are found by recording a run that nothing disturbs. Then the same run is made again, in a
sandbox of its own, once for every call and every fault; and after it a run that nothing disturbs.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from localcloud import qwen as scenarios
from localcloud.qwen import QwenStandIn, Reply, Request, Scenario
from localcloud.recording_proxy import Answer, Call, Refusal, refuse
from localcloud.stack import CURRENT, Version
from qwen_token.secret_store import PENDING
from qwen_token.tokens import decode_token

from .sandbox import (
    DAY,
    LINE,
    PERSON,
    RENEWS,
    ROTATES,
    WEEK,
    YOUNG,
    Sandbox,
    Sandboxes,
    keeps_notes,
    token_in,
)
from .worker import End

_ASK: Final = "GET auths/"
_PUBLISH: Final = "Publish"

_DOWN: Final = Refusal("InternalServiceError", 500)
_THROTTLED: Final = Refusal("ThrottlingException", 400)

# Most of the time goes by in waits between retries, and costs no processor.
_SIDE_BY_SIDE: Final = 16


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
_SILENCING: Final = frozenset({Fault.FAILS_ALWAYS, Fault.THROTTLED})


class Verdict(Enum):
    """What became of a case. The first three are survived."""

    WELL = "✓"
    TOLD = "!"
    MENDED = "†"
    BEYOND = "○"
    BROKEN = "✗"


SURVIVED: Final = frozenset({Verdict.WELL, Verdict.TOLD, Verdict.MENDED})


@dataclass(frozen=True)
class Kind:
    """A kind of run: what it finds, and how the API answers during it and ever after."""

    title: str
    prepare: Callable[[Sandbox], None] = field(repr=False)
    during: Scenario = RENEWS
    after: Scenario = RENEWS
    # Unless it is so already, or the API retires it, the current token stays alive all the time.
    starts_alive: bool = True
    # How the run ends that nothing disturbs.
    ends: str = "refreshed"


def _as_it_is(_sandbox: Sandbox) -> None:
    """Leave the stale token where it is."""


def _dead_beside_fresh(sandbox: Sandbox) -> None:
    sandbox.qwen.retire(token_in(sandbox.current()))
    sandbox.stage(sandbox.mint(left=WEEK))


def _dead_beside_stale(sandbox: Sandbox) -> None:
    sandbox.qwen.retire(token_in(sandbox.current()))
    sandbox.stage(sandbox.mint(left=2 * DAY))


KINDS: Final = (
    Kind("Refresh", _as_it_is),
    Kind("Refresh, where the API retires the old token", _as_it_is, ROTATES, ROTATES),
    Kind("Recovery with a fresh staged token", _dead_beside_fresh, starts_alive=False),
    Kind("Recovery with a stale staged token", _dead_beside_stale, starts_alive=False),
    Kind(
        "Failure: the API refuses every token",
        _as_it_is,
        scenarios.TOKEN_DEAD,
        ends="token_rejected",
    ),
)


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


class Line:
    """The way out of one process: every call to AWS and to Qwen comes past here."""

    def __init__(self, sandbox: Sandbox, versions: list[Version]) -> None:
        """Stand between ``sandbox``'s process and its relay and API, with these versions."""
        self.calls: list[str] = []
        self.struck = False
        self.before = versions
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
            return self._pass(
                f"{_ASK} ({whose})",
                request.raw,
                lambda: scenario.answer(qwen, request),
                lambda kind: kind.answer(qwen, request),
                (scenarios.UNAVAILABLE_PAGE, scenarios.RATE_LIMITED),
            )

        return Scenario(scenario.name, scenario.description, answer)

    def _to_aws(self, call: Call, carry_out: Callable[[], Answer | None]) -> Answer | None:
        return self._pass(
            call.operation.partition(":")[2],
            # A retry is the same call again, to the byte.
            (call.operation, call.body),
            carry_out,
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
        self._sandbox.put(self._sandbox.mint(left=WEEK, line=PERSON))


def _name(version: Version) -> str:
    return "staged" if PENDING in version.labels else "current"


def record(sandboxes: Sandboxes, kind: Kind) -> list[str]:
    """Make a run that nothing disturbs, and return its calls in their order."""
    with _prepared(sandboxes, kind) as (sandbox, line):
        end = sandbox.run()
        if end.word != kind.ends:
            raise AssertionError(f"{kind.title}: ended with {end.word}, not with {kind.ends}")
        return line.calls


def endure(sandboxes: Sandboxes, case: Case) -> Result:
    """Make the run with its fault, then one that nothing disturbs, and judge what they left."""
    with _prepared(sandboxes, case.kind) as (sandbox, line):
        line.strike(case.point, case.fault)
        end = sandbox.run()
        line.leave_alone()
        after = sandbox.versions()
        problems = _judge(case, end, line, sandbox, after)
        savable = any(sandbox.qwen.accepts(token_in(version.text)) for version in after)
        heard = sandbox.alerts

        sandbox.qwen.answer_with(case.kind.after)
        following = sandbox.run()

        told = sandbox.alerts - heard
        if not savable:
            # Whatever the function does: only the API knows the token that lives.
            if (following.reason, told) != ("token_rejected", 1):
                problems.append(f"nobody was told that the token is gone: {following.word}")
            return _result(case, Verdict.BEYOND, problems)
        problems += _judge_next(case, following, told, sandbox)
        if end.killed:
            return _result(case, Verdict.MENDED, problems)
        return _result(case, Verdict.WELL if end.well else Verdict.TOLD, problems)


def _result(case: Case, verdict: Verdict, problems: list[str]) -> Result:
    return Result(case, Verdict.BROKEN if problems else verdict, tuple(problems))


@contextmanager
def _prepared(sandboxes: Sandboxes, kind: Kind) -> Iterator[tuple[Sandbox, Line]]:
    with sandboxes.sandbox(left=2 * DAY) as sandbox:
        kind.prepare(sandbox)
        line = Line(sandbox, sandbox.versions())
        sandbox.qwen.answer_with(line.behind(kind.during))
        yield sandbox, line


def _judge(case: Case, end: End, line: Line, sandbox: Sandbox, after: list[Version]) -> list[str]:
    """Say what is wrong after the disturbed run."""
    [current] = [token_in(version.text) for version in after if CURRENT in version.labels]
    problems = []
    if not line.struck:
        problems.append("the run never came to this point")
    if end.killed != (case.fault in _DEATHS):
        problems.append(f"the run ended with {end.word}")
    alive = case.kind.starts_alive and case.kind.after is not ROTATES
    if (alive or end.well or case.fault in _PUTS) and not sandbox.qwen.accepts(current):
        problems.append("readers get a dead token")
    if case.fault in _PUTS and sandbox.qwen.read(current).get(LINE) != PERSON:
        problems.append("what a person put in was overwritten")
    texts = {version.version_id: version.text for version in line.before}
    # MiniStack drops versions without a label at once.
    if any(texts.get(version.version_id, version.text) != version.text for version in after):
        problems.append("a version that was there before has changed")
    if not all(keeps_notes(version.text) for version in after):
        problems.append("what stood beside the token is gone")
    silenced = case.call == _PUBLISH and case.fault in _SILENCING
    if not end.killed and not silenced and (sandbox.alerts > 0) == end.well:
        problems.append(f"the run ended with {end.word}, and with {sandbox.alerts} alerts")
    # SNS delivers at least once: an alert whose answer was lost is sent again.
    if sandbox.alerts > 1 and not (case.call == _PUBLISH and case.fault in _LOSSES):
        problems.append(f"{sandbox.alerts} alerts of one run")
    return problems


def _judge_next(case: Case, end: End, told: int, sandbox: Sandbox) -> list[str]:
    """Say what is wrong after the run that followed."""
    current = sandbox.current()
    problems = []
    if not end.well or told:
        problems.append(f"the next run ended with {end.word} and {told} alerts")
    raw = token_in(current)
    if not sandbox.qwen.accepts(raw) or decode_token(raw).remaining(datetime.now(UTC)) < YOUNG:
        problems.append("after the next run, readers get no fresh token")
    if case.fault in _PUTS and sandbox.qwen.read(raw).get(LINE) != PERSON:
        problems.append("the next run overwrote what a person had put in")
    if not keeps_notes(current):
        problems.append("after the next run, what stood beside the token is gone")
    return problems


def cases(sandboxes: Sandboxes) -> list[Case]:
    """Record all kinds of runs, and return every fault at each of their calls."""
    return [
        Case(kind, point, call, fault)
        for kind in KINDS
        for point, call in enumerate(record(sandboxes, kind))
        for fault in Fault
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
