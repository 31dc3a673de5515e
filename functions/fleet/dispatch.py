"""The fleet's scheduled function: looks at every secret of it, and queues those that are due."""

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
from keeper_runtime.reporting import Reporter
from keeper_runtime.run_location import location_of, time_left_of
from keeper_runtime.state_table import ledger_of
from marks import Marks
from plan import Plan, is_checked_now, is_urgent, plan_for
from qwen_token.errors import ConfigError, QwenTokenError, StoreError, forgets_locals
from qwen_token.fleet import WRITES_PER_SECOND, Fleet, Member
from qwen_token.policy import AlertPolicy, Severity
from qwen_token.ports import STORE_CALL_LIMIT
from qwen_token.run_report import Outcome, Report
from qwen_token.secret_store import translated
from qwen_token.stored_token import StoredToken

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
log_all_as_json(logger)
metrics = Metrics()

# With less than this left, the rest is another invocation's: some calls of a part may take long.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
# So many members are looked at, and those of them queued that are due, before the next ones.
_PART: Final = 100
# Marks that are written at once.
_THREADS: Final = 8
# A refresh stages and promotes a token, and where there is a session, its credential as well.
_WRITES_OF_A_TOKEN: Final = 2
# Where the state table keeps what was alerted of sweeps.
_KEY: Final = "fleet:sweep"
_AT_ONCE: Final = AlertPolicy(timedelta(), timedelta())

# What an event may say of a sweep. AWS's places in a list have at most 4096 characters.
_PLACE: Final = re.compile(r"[!-~]{1,4096}")
_MOST: Final = 10**10
_LONGEST_SWEEP: Final = 86_400
_CLOCKS_DIFFER: Final = 300

_clients = cache(Clients.real)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One look through the whole fleet, as far as it got, in numbers of secrets.

    Of the ``seen`` members, ``queued`` got a job. The others were ``skipped``: they are fresh, or a
    job is in the queue for them already. The ``unreadable`` are among the queued. ``begun_at`` is
    in seconds since 1970.
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
    """Look through the fleet, or the rest of it; return what was seen so far."""
    return run(event, context, _clients())


def run(event: object, context: "LambdaContext", clients: Clients) -> dict[str, object]:
    """Look through the fleet against ``clients``. The event is ``{}``, or this function's own.

    A failure of a part of it, which may pass, ends nothing: the rest is looked at. It is reported
    at the end, and raised unless it is a notice.

    Raises:
        QwenTokenError: after it was logged, counted and, by this sweep or an earlier one,
            published.
    """
    time_left = time_left_of(context)
    location = location_of(context, stack=clients.environ.get(STACK_NAME, ""), of_fleet=True)
    reporter = Reporter(logger, metrics, clients, location, context.aws_request_id)
    # Also a crash writes out what was counted, and complains where that is nothing.
    reporter.count({"RefreshFailed": 0})
    ledger = ledger_of(clients, time_left, _KEY)
    policy, rest_after = _AT_ONCE, None
    result: dict[str, object] = {"completed": False}
    try:
        settings = DispatchSettings.from_environ(clients.environ)
        # The next sweep is the second try. A third would be late: nobody else looks at the tokens.
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
    """Start another invocation for the rest, and do not wait for it."""
    functions = clients.functions()
    event = json.dumps({"continue": {"after": after, **asdict(sweep)}})
    with translated("go on with the sweep", by="Lambda"):
        functions.invoke(FunctionName=function, InvocationType="Event", Payload=event)


class _Sweeping:
    """One invocation's part of a sweep; ``failure`` is the first that some of it met."""

    def __init__(
        self, settings: DispatchSettings, reporter: Reporter, sweep: Sweep, after: str | None
    ) -> None:
        clients = reporter.clients
        self._settings = settings
        self._reporter = reporter
        self._clients = clients
        self._fleet = Fleet(clients.secrets(), settings.tag)
        self._marks = Marks(clients.dynamodb, settings.state_table, clients.clock)
        self._after = after
        self.sweep = sweep
        self.failure: StoreError | None = None

    def run(self, time_left: Callable[[], timedelta]) -> str | None:
        """Look at the members; return the last that there was time for, None where it was all."""
        roster = self._fleet.roster(now=self._clients.clock())
        self._note(roster.failure)
        members = [each for each in roster.members if each.secret_id > (self._after or "")]
        unread: list[Member] = []
        rest_after: str | None = None
        for start in range(0, len(members), _PART):
            # One is looked at in any case, so that a sweep comes to its end.
            if start and time_left() <= _RESERVE:
                rest_after = members[start - 1].secret_id
                break
            part = members[start : start + _PART]
            unread += self._look_at(part)[0]
            self.sweep = replace(self.sweep, seen=self.sweep.seen + len(part))
        if unread:
            # Trouble with one batch may be over, and was not to hold up those behind it.
            unread, failure = self._look_at(unread)
            for member in unread:
                logger.warning("unread", secret_id=member.secret_id)
            self._note(failure)
        return rest_after

    def _note(self, failure: StoreError | None) -> None:
        self.failure = self.failure or failure

    def _look_at(self, members: Sequence[Member]) -> tuple[list[Member], StoreError | None]:
        """Queue those that are due, and count all; return those that could not be read, and why."""
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
                if plan is None or plan != Plan():
                    fresh.append((member, found))
                if plan is not None:
                    urgent = is_urgent(found, now=now, interval=self._settings.interval)
                    due.append(_due(member, found, plan, urgent=urgent))
        except StoreError as error:
            failure = error
        finally:
            # Also where reading others crashed: these were found to be due.
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
        # At any time before the next sweep: all of this one at once would be too many.
        longest = min(settings.interval.total_seconds(), LONGEST_DELAY)
        return Plan(delay(0, longest), check=True) if is_to_be_checked else None

    def _queue(self, due: Sequence["_Due"], now: datetime) -> None:
        """Queue the jobs, the most urgent first, but for those that are in the queue already."""
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
                # It is to be queued by the next sweep.
                self._unmark(job.secret_id)
        self.sweep = replace(
            self.sweep,
            queued=self.sweep.queued + len(new) - len(lost),
            skipped=self.sweep.skipped + len(due) - len(new),
            unreadable=self.sweep.unreadable + sum(each.version_id == "" for each in new),
        )

    def _mark(self, each: "_Due") -> bool:
        """Return whether a job is to be queued: also where that cannot be known.

        A worker that finds nothing to do has done no harm.
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
        """Yield jobs with delays: at random, over the time that AWS lets them be written in.

        Of that time, so much is over as the sweep has taken so far.
        """
        taken = now.timestamp() - self.sweep.begun_at
        writes = self.sweep.queued * _WRITES_OF_A_TOKEN
        for each in due:
            within = max(0, writes / WRITES_PER_SECOND - taken)
            # What is due later is spread as it falls due.
            yield each.job, each.delay or delay(0, within)
            writes += _WRITES_OF_A_TOKEN * (1 if each.job.session_id is None else 2)

    def _count_fresh(self, fresh: Sequence[tuple[Member, StoredToken]]) -> None:
        if not fresh:
            return
        # For a job's token, its worker says what is left after the run.
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
    """A job, its delay, and the version that it is for (empty: none could be read)."""

    job: Job
    delay: int = 0
    version_id: str = ""
    expires_at: datetime | None = None

    def order(self) -> tuple[int, float]:
        """Return what sorts the most urgent first."""
        return self.delay, 0.0 if self.expires_at is None else self.expires_at.timestamp()


def _due(member: Member, held: StoredToken, plan: Plan, *, urgent: bool) -> _Due:
    job = Job(
        member.secret_id, member.session_id, force=plan.force, check=plan.check, urgent=urgent
    )
    return _Due(job, plan.delay, held.version_id, held.token.expires_at)


def _is_place(value: object) -> bool:
    """Return whether this may be what Secrets Manager calls a place in its list."""
    return isinstance(value, str) and _PLACE.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    # True is an int, too.
    return type(value) is int and 0 <= value <= _MOST


def _begun(event: Any, now: datetime) -> tuple[Sweep, str | None]:
    """Read the event: an empty object begins a sweep, this function's own goes on with one.

    Raises:
        ConfigError: it is neither.
    """
    if event == {}:
        return Sweep(int(now.timestamp())), None
    numbers = [field.name for field in fields(Sweep)]
    marker = event.get("continue") if isinstance(event, Mapping) else None
    if isinstance(marker, Mapping) and marker.keys() == {"after", *numbers} and len(event) == 1:
        after, values = marker["after"], {name: marker[name] for name in numbers}
        if _is_place(after) and all(map(_is_count, values.values())):
            sweep = Sweep(**values)
            # Clocks differ a little.
            if -_CLOCKS_DIFFER <= now.timestamp() - sweep.begun_at <= _LONGEST_SWEEP:
                return sweep, after
    raise ConfigError(
        "the event should be an empty JSON object: {} (one with 'continue' is this function's own)"
    )
