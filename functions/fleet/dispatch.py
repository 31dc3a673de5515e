"""The fleet's scheduled function: sweeps all members, and queues those that are due."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools import Logger, Metrics

from fleet_settings import STACK_NAME, DispatchSettings
from jobs import LONGEST_DELAY, Job, delay, send
from keeper_runtime.clients import Clients
from keeper_runtime.json_lines import log_all_as_json
from keeper_runtime.opened_ledger import give_back
from keeper_runtime.reporting import AT_ONCE, Reporter
from keeper_runtime.run_location import location_of, time_left_of
from keeper_runtime.state_table import Items, ledger_of
from marks import Marks
from plan import Plan, is_checked_now, is_urgent, plan_for
from qwen_token.errors import ConfigError, QwenTokenError, StoreError, forgets_locals
from qwen_token.fleet import WRITES_PER_SECOND, Fleet, Member
from qwen_token.policy import Severity
from qwen_token.ports import STORE_CALL_LIMIT
from qwen_token.run_report import Outcome, Report
from qwen_token.secret_store import translated
from qwen_token.stored_token import StoredToken

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
log_all_as_json(logger)
metrics = Metrics()

# With less time than this left, another invocation takes over: some of a part's calls may be slow.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
# Members that are read and queued before the next ones are read.
_PART: Final = 100
# Marks written at the same time.
_THREADS: Final = 8
# A refresh stages and promotes a token: two writes. A session's credential may take two more.
_WRITES_OF_A_TOKEN: Final = 2
# The state table's item for alerts about sweeps.
_KEY: Final = "fleet:sweep"

# Limits for what an event may say about a sweep.
_PLACE: Final = re.compile(r"[!-~]{1,4096}")
_MOST: Final = 10**10
_LONGEST_SWEEP: Final = 86_400
_CLOCKS_DIFFER: Final = 300

_clients = cache(Clients.real)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The progress of a sweep, as numbers of members.

    Of the ``seen`` members, ``queued`` got a job. The others were ``skipped``: they are fresh, or
    already have a job in the queue. ``queued`` includes the ``unreadable`` ones. ``begun_at`` is in
    seconds since 1970.
    """

    begun_at: int
    seen: int = 0
    queued: int = 0
    skipped: int = 0
    unreadable: int = 0


@forgets_locals
@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: object, context: "LambdaContext") -> dict[str, object]:
    """Sweep the fleet, or the rest of it; return the sweep's progress."""
    return run(event, context, _clients())


def run(event: object, context: "LambdaContext", clients: Clients) -> dict[str, object]:
    """Sweep the fleet with ``clients``. The event is ``{}``, or one that this function sent itself.

    If a part of the sweep fails, the rest goes on. The failure is reported at the end, and raised
    unless it is a notice.

    Raises:
        QwenTokenError: the sweep failed. The failure has been logged, counted and, by this sweep or
            an earlier one, published.
    """
    time_left = time_left_of(context)
    location = location_of(context, stack=clients.environ.get(STACK_NAME, ""), of_fleet=True)
    reporter = Reporter(logger, metrics, clients, location, context.aws_request_id)
    # After a crash, Powertools still writes out the metrics, and complains if there are none.
    reporter.count({"RefreshFailed": 0})
    ledger = ledger_of(clients, time_left, _KEY)
    policy, rest_after = AT_ONCE, None
    result: dict[str, object] = {"completed": False}
    try:
        settings = DispatchSettings.from_environ(clients.environ)
        # A failure is reported if the next sweep fails, too. Nothing else looks after the tokens,
        # so waiting for a third sweep would be too long.
        patience = min(settings.alert_after, settings.interval / 2)
        policy = replace(settings.alert_policy(), alert_after=patience)
        sweeping = _Sweeping(settings, reporter, *_begun(event, clients.clock()))
        rest_after = sweeping.run(time_left)
        is_completed = rest_after is None and sweeping.failure is None
        result = {**asdict(sweeping.sweep), "completed": is_completed}
        del result["begun_at"]
        if rest_after is not None:
            _go_on(sweeping.sweep, rest_after, clients, context.function_name)
        if sweeping.failure is not None:
            raise sweeping.failure
        if is_completed:
            reporter.count({"SweepCompleted": 1})
            ledger.remember(ledger.history())
            reporter.owner.hear_of_success(Report(Outcome.SUPERSEDED, None), None, ledger, policy)
    except QwenTokenError as error:
        reporter.count({"RefreshFailed": 1})
        level = reporter.owner.hear_of_failure(error, secret_id=None, ledger=ledger, policy=policy)
        if level is not Severity.NOTICE:
            raise
    finally:
        give_back(ledger, logger)
    logger.info("sweep ended" if rest_after is None else "sweep goes on", extra=result)
    return result


def _go_on(sweep: Sweep, after: str, clients: Clients, function: str) -> None:
    """Start another invocation for the rest of the sweep, without waiting for it."""
    functions = clients.functions()
    event = json.dumps({"continue": {"after": after, **asdict(sweep)}})
    with translated("go on with the sweep", by="Lambda"):
        functions.invoke(FunctionName=function, InvocationType="Event", Payload=event)


class _Sweeping:
    """One invocation's part of a sweep; ``failure`` is the first one that it met."""

    def __init__(
        self, settings: DispatchSettings, reporter: Reporter, sweep: Sweep, after: str | None
    ) -> None:
        clients = reporter.clients
        self._settings = settings
        self._reporter = reporter
        self._clients = clients
        self._fleet = Fleet(clients.secrets(), settings.tag)
        self._marks = Marks(Items(clients.dynamodb, settings.state_table, clients.clock))
        self._after = after
        self.sweep = sweep
        self.failure: StoreError | None = None

    def run(self, time_left: Callable[[], timedelta]) -> str | None:
        """Sweep until time runs out; return the last member's ARN, or None if all are done."""
        roster = self._fleet.roster(now=self._clients.clock())
        self._note(roster.failure)
        members = [each for each in roster.members if each.secret_id > (self._after or "")]
        unread: list[Member] = []
        rest_after: str | None = None
        for start in range(0, len(members), _PART):
            # Each invocation does at least one part, so that the sweep always ends.
            if start and time_left() <= _RESERVE:
                rest_after = members[start - 1].secret_id
                break
            part = members[start : start + _PART]
            unread += self._look_at(part)[0]
            self.sweep = replace(self.sweep, seen=self.sweep.seen + len(part))
        if unread:
            # These reads failed earlier. The trouble may be over by now, so try them once more.
            unread, failure = self._look_at(unread)
            for member in unread:
                logger.warning("unread", secret_id=member.secret_id)
            self._note(failure)
        return rest_after

    def _note(self, failure: StoreError | None) -> None:
        self.failure = self.failure or failure

    def _look_at(self, members: Sequence[Member]) -> tuple[list[Member], StoreError | None]:
        """Queue the members that are due; return those that could not be read, and the reason."""
        unread = {member.secret_id: member for member in members}
        failure: StoreError | None = None
        due: list[_Due] = []
        fresh: list[tuple[Member, StoredToken]] = []
        now = self._clients.clock()
        try:
            for member, found in self._fleet.read(members):
                del unread[member.secret_id]
                if not isinstance(found, StoredToken):
                    self._log_unreadable(member, found)
                    due.append(_Due(Job(member.secret_id, member.session_id, member.obstacle)))
                    continue
                plan = self._plan(member, found, now)
                if plan != Plan():
                    fresh.append((member, found))
                if plan is not None:
                    urgent = is_urgent(found, now=now, interval=self._settings.interval)
                    due.append(_due(member, found, plan, urgent=urgent))
        except StoreError as error:
            failure = error
        finally:
            # Even if reading the others crashed, these are known to be due.
            self._queue(due, now)
        self._count_fresh(fresh)
        read = len(members) - len(unread)
        self.sweep = replace(self.sweep, skipped=self.sweep.skipped + read - len(due))
        return list(unread.values()), failure

    def _plan(self, member: Member, held: StoredToken, now: datetime) -> Plan | None:
        settings = self._settings
        plan = plan_for(
            held, now=now, refresh_before=settings.refresh_before, interval=settings.interval
        )
        if plan is not None or not settings.checks:
            return plan
        if not is_checked_now(member.secret_id, held, now=now, interval=settings.interval):
            return None
        try:
            is_to_be_checked = self._marks.check(member.secret_id)
        except StoreError as error:
            self._note(error)
            return None
        # Spread until the next sweep, so that this sweep's checks do not all run at once.
        longest = min(settings.interval.total_seconds(), LONGEST_DELAY)
        return Plan(delay(0, longest), check=True) if is_to_be_checked else None

    def _queue(self, due: Sequence["_Due"], now: datetime) -> None:
        """Queue the jobs that are not in the queue yet, the most urgent first."""
        in_order = sorted(due, key=_Due.order)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="mark") as threads:
            is_new = list(threads.map(self._mark, in_order))
        new = [each for each, is_marked in zip(in_order, is_new, strict=True) if is_marked]
        unsent = send(
            self._spread(new, now),
            client=self._clients.sqs(),
            queue_url=self._settings.queue_url,
        )
        lost = () if unsent is None else unsent.jobs
        if unsent is not None:
            self._note(unsent.error)
            for job in lost:
                # Without the mark, the next sweep queues it.
                self._unmark(job.secret_id)
        self.sweep = replace(
            self.sweep,
            queued=self.sweep.queued + len(new) - len(lost),
            skipped=self.sweep.skipped + len(due) - len(new),
            unreadable=self.sweep.unreadable + sum(each.version_id == "" for each in new),
        )

    def _mark(self, each: "_Due") -> bool:
        """Mark a member as queued; return whether to queue its job.

        If the mark cannot be written, the job is queued: a second one does no harm.
        """
        try:
            return self._marks.queue(
                each.job.secret_id,
                each.version_id,
                delay=each.delay,
                expires_at=each.expires_at,
            )
        except StoreError as error:
            self._note(error)
            return True

    def _unmark(self, secret_id: str) -> None:
        try:
            self._marks.done(secret_id)
        except StoreError as error:
            self._note(error)

    def _spread(self, due: Sequence["_Due"], now: datetime) -> Iterator[tuple[Job, int]]:
        """Yield jobs with random delays, spread over the time that their writes take at AWS's rate.

        The time that the sweep has already taken is subtracted.
        """
        taken = now.timestamp() - self.sweep.begun_at
        writes = self.sweep.queued * _WRITES_OF_A_TOKEN
        for each in due:
            within = max(0, writes / WRITES_PER_SECOND - taken)
            # A job that is due later has its own delay already.
            yield each.job, each.delay or delay(0, within)
            writes += _WRITES_OF_A_TOKEN * (1 if each.job.session_id is None else 2)

    def _count_fresh(self, fresh: Sequence[tuple[Member, StoredToken]]) -> None:
        if not fresh:
            return
        # Only fresh members are counted here: the worker counts the others after their runs.
        self._reporter.count(
            {"RunSucceeded": len(fresh)},
            expiries=[held.token.expires_at for _, held in fresh],
            logins=[
                held.token.expires_at
                for member, held in fresh
                if member.session_id is None and not held.token.is_access_token
            ],
        )

    def _log_unreadable(self, member: Member, error: QwenTokenError) -> None:
        logger.warning(
            "unreadable", secret_id=member.secret_id, reason=error.reason, detail=str(error)
        )


@dataclass(frozen=True, slots=True)
class _Due:
    """A job, its delay, and the token's current version (empty if none could be read)."""

    job: Job
    delay: int = 0
    version_id: str = ""
    expires_at: datetime | None = None

    def order(self) -> tuple[int, float]:
        """Return a sort key that puts the most urgent job first."""
        return self.delay, 0.0 if self.expires_at is None else self.expires_at.timestamp()


def _due(member: Member, held: StoredToken, plan: Plan, *, urgent: bool) -> _Due:
    job = Job(
        member.secret_id, member.session_id, force=plan.force, check=plan.check, urgent=urgent
    )
    return _Due(job, plan.delay, held.version_id, held.token.expires_at)


def _is_place(value: object) -> bool:
    """Return whether this may be the ARN after which a sweep goes on."""
    return isinstance(value, str) and _PLACE.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    # Not isinstance, which would accept True.
    return type(value) is int and 0 <= value <= _MOST


def _begun(event: Any, now: datetime) -> tuple[Sweep, str | None]:
    """Read the event: an empty object begins a sweep, and one from ``_go_on`` continues a sweep.

    Raises:
        ConfigError: the event is neither of the two.
    """
    if event == {}:
        return Sweep(int(now.timestamp())), None
    numbers = [field.name for field in fields(Sweep)]
    marker = event.get("continue") if isinstance(event, Mapping) else None
    if isinstance(marker, Mapping) and marker.keys() == {"after", *numbers} and len(event) == 1:
        after, values = marker["after"], {name: marker[name] for name in numbers}
        if _is_place(after) and all(map(_is_count, values.values())):
            sweep = Sweep(**values)
            # Another machine's clock may have set begun_at.
            if -_CLOCKS_DIFFER <= now.timestamp() - sweep.begun_at <= _LONGEST_SWEEP:
                return sweep, after
    raise ConfigError(
        "the event should be an empty JSON object: {} (one with 'continue' is this function's own)"
    )
