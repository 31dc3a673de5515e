"""The fleet's worker: runs the keeper for each job of a batch, and reports the results."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)

from breaker import TROUBLE
from claims import ClaimedSessions, Claims
from fleet_settings import WorkerSettings
from jobs import (
    LONGEST_DELAY,
    POSTPONEMENTS,
    Job,
    NotAJobError,
    delay,
    hide,
    secrets_of,
    send,
)
from keeper_runtime.clients import Clients
from keeper_runtime.json_lines import log_all_as_json
from keeper_runtime.opened_ledger import give_back
from keeper_runtime.reporting import ENDS_AN_INCIDENT, Reporter, counts_of, expiries_of, logins_of
from keeper_runtime.run_location import location_of, time_left_of
from keeper_runtime.state_table import Items, StateTable, ledger_of
from marks import Marks
from member_hosts import MemberHosts
from pace import pace_writes
from qwen_token.errors import (
    QwenTokenError,
    RateLimitedError,
    StoreError,
    UpstreamUnavailableError,
    forgets_locals,
)
from qwen_token.fleet import obstacle_error
from qwen_token.keeper import Keeper
from qwen_token.ledger import Ledger
from qwen_token.ports import STORE_CALL_LIMIT
from qwen_token.run_memory import RunMemory
from qwen_token.run_report import Outcome, Report
from qwen_token.secret_store import SecretStore
from shared_trouble import KEY as SHARED_TROUBLE
from shared_trouble import SharedTrouble
from sign_ins import SignIns, Turn

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from keeper_runtime.owner import Due

logger = Logger()
log_all_as_json(logger)
metrics = Metrics()

# Jobs that run at once. A run spends nearly all of its time waiting for Qwen and AWS.
_THREADS: Final = 4
# Roughly how many seconds trouble with the API postpones a job the first time. The delay doubles
# each time, unless the job is urgent.
_POSTPONEMENT: Final = 60
# Jobs that wait for their turn to sign in are spread over at least this many seconds.
_SOONEST_SPREAD: Final = 120
# With less time than this left, no job is started, so that the batch can still be reported.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
# Urgent messages stay hidden this many seconds beyond this worker's timeout: Lambda needs a moment
# to delete those that are done.
_CLEARING: Final = 10

_clients = cache(Clients.real)
# The claims that this process has written, kept across batches.
_claimed: dict[tuple[str, str], datetime] = {}


@forgets_locals
@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Run the jobs of a batch; return the messages that the queue should deliver again."""
    return run(event, context, _clients())


def run(
    event: dict[str, Any], context: "LambdaContext", clients: Clients
) -> "PartialItemFailureResponse":
    """Run the jobs of a batch with ``clients``.

    A failed refresh is reported, and its message is deleted. Only a job whose run crashed is
    delivered again.

    Raises:
        ConfigError: invalid environment. The refresh function and dispatch report it.
    """
    settings = WorkerSettings.from_environ(clients.environ)
    pace_writes(clients.secrets(), workers=settings.workers)
    location = location_of(
        context, stack=settings.stack, function=settings.dispatch_function, of_fleet=True
    )
    items = Items(clients.dynamodb, settings.state_table, clients.clock)
    batch = _Batch(
        settings,
        clients,
        context,
        Reporter(logger, metrics, clients, location, context.aws_request_id),
        MemberHosts(settings, clients),
        SignIns(items),
        Marks(items),
        Claims(items, clients.sessions, _claimed),
        ledger_of(clients, time_left_of(context), SHARED_TROUBLE),
    )
    batch.hide_urgent(event["Records"])
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="job") as threads:

        async def do(record: "SQSRecord") -> None:
            await asyncio.get_running_loop().run_in_executor(threads, batch.do, record)

        response = async_process_partial_response(
            event=event,
            record_handler=do,
            processor=AsyncBatchProcessor(
                EventType.SQS,
                # If all messages failed, still return, so that the batch is reported as usual.
                raise_on_entire_batch_failure=False,
                logger=logger,  # type: ignore[arg-type] # it has a logger's methods
            ),
            context=context,
        )
    batch.report()
    return response


@dataclass(slots=True, eq=False)
class _Run:
    """The run of one job, and how it ended.

    ``next_turn`` is when the job may sign in, if it has to wait for its turn. ``is_queued`` is true
    if the job was queued again.
    """

    job: Job
    ledger: Ledger
    ending: Report | QwenTokenError
    next_turn: datetime | None = None
    is_queued: bool = False

    @property
    def reason(self) -> str:
        """The reason of the failure, or the outcome."""
        return self.ending.outcome if isinstance(self.ending, Report) else self.ending.reason

    @property
    def version_id(self) -> str:
        """The token's current version, or empty if unknown."""
        if isinstance(self.ending, Report):
            return "" if self.ending.held is None else self.ending.held.version_id
        facts = self.ending.facts
        return "" if facts is None or facts.version_id is None else facts.version_id

    @property
    def has_expired(self) -> bool:
        """Whether the token that readers have is known to have expired."""
        at = self.ending.expires_at
        return at is not None and at <= self.ledger.now()

    @property
    def is_to_be_told(self) -> bool:
        """Whether to report the failure although the job is retried soon."""
        was_patient = self.next_turn is None and self.job.postponed >= POSTPONEMENTS
        return was_patient or self.has_expired


@dataclass(frozen=True, slots=True)
class _Batch:
    """The jobs of one batch, and how they ended; several threads call ``do``."""

    settings: WorkerSettings
    clients: Clients
    context: "LambdaContext"
    reporter: Reporter
    hosts: MemberHosts
    sign_ins: SignIns
    marks: Marks
    claims: Claims
    shared_ledger: Ledger
    runs: list[_Run] = field(default_factory=list)

    def hide_urgent(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Make urgent jobs return to the queue soon after this worker's timeout, if it is killed.

        The queue's visibility timeout also allows for the time until a worker starts, so it is too
        long for urgent jobs: their tokens would have expired by then.
        """
        secrets = secrets_of(self.context.invoked_function_arn)
        urgent = [each["receiptHandle"] for each in records if _is_urgent(each["body"], secrets)]
        seconds = math.ceil(time_left_of(self.context)().total_seconds()) + _CLEARING
        try:
            hide(
                urgent,
                seconds,
                client=self.clients.sqs,
                queue_url=self.settings.queue_url,
            )
        except StoreError as error:
            logger.warning(
                "a job comes back late if this worker is killed",
                reason=error.reason,
                detail=str(error),
            )

    def do(self, record: "SQSRecord") -> None:
        """Run the keeper for one job. Record a QwenTokenError; raise anything else, a crash.

        A message that is not a job is delivered twice more, and then becomes a dead letter, which
        sets off an alarm and can be examined.
        """
        try:
            job = Job.from_body(record.body, secrets=secrets_of(self.context.invoked_function_arn))
        except NotAJobError as error:
            logger.error(str(error), message_id=record.message_id)  # noqa: TRY400 - it says it all
            raise
        time_left = time_left_of(self.context)
        ledger = ledger_of(self.clients, time_left, job.secret_id)
        turn = Turn(self.sign_ins, self.hosts.may_not_sign_in)
        ending: Report | QwenTokenError
        try:
            ending = self._keep(job, ledger, turn)
        except QwenTokenError as error:
            ending = error
        except BaseException:
            # After a crash, the job is delivered again: its own lease must not make it wait.
            give_back(ledger, logger)
            raise
        waits_until = turn.next_at if isinstance(ending, QwenTokenError) else None
        self.runs.append(_Run(job, ledger, ending, waits_until))

    def _keep(self, job: Job, ledger: Ledger, turn: Turn) -> Report:
        if job.obstacle is not None:
            raise obstacle_error(job.obstacle, job.secret_id)
        time_left = time_left_of(self.context)
        if time_left() < _RESERVE:
            # Even a run that only reads takes time, and a worker that is killed reports nothing.
            raise UpstreamUnavailableError("no time was left to call the API")
        clients = self.clients
        return Keeper(
            store=SecretStore(clients.secrets(), job.secret_id, clock=clients.clock),
            sessions=self._sessions(job),
            ledger=lambda: ledger,
            client=lambda: self.hosts.api(job.secret_id),
            sources=lambda grant: self.hosts.source(grant, job.secret_id, self.sign_ins),
            clock=clients.clock,
            time_left=time_left,
            refresh_before=self.settings.refresh_before,
            sign_in_turn=turn,
        ).run(force=job.force, check=job.check)

    def _sessions(self, job: Job) -> Callable[[], ClaimedSessions] | None:
        session_id = job.session_id
        if session_id is None:
            return None
        return lambda: ClaimedSessions(
            self.clients.sessions(session_id), self.claims, job.secret_id
        )

    def report(self) -> None:
        """Report how the batch's runs ended, and give the leases back."""
        try:
            later = [run for run in self.runs if _is_for_later(run)]
            self._postpone(later)
            # A run that is retried soon counts as a failure only if it lasts or readers notice.
            ended = [run for run in self.runs if run not in later or run.is_to_be_told]
            self._count(ended)
            self._tell(ended)
        finally:
            give_back(self.shared_ledger, logger)
            for run in self.runs:
                self._close(run)

    def _count(self, ended: Sequence[_Run]) -> None:
        done = [
            self.reporter.log_run(run.ending, secret_id=run.job.secret_id)
            for run in ended
            if isinstance(run.ending, Report)
        ]
        endings = [run.ending for run in self.runs]
        nothing = {"RunSucceeded": 0, "TokenRefreshed": 0}
        self.reporter.count(
            {**nothing, **counts_of(run.ending for run in ended)},
            expiries=expiries_of(endings),
            logins=[
                end
                for run in self.runs
                for end in logins_of(run.ending, has_session=run.job.session_id is not None)
            ],
        )
        self.reporter.owner.announce_refreshed(
            result for result in done if result["outcome"] == Outcome.REFRESHED
        )

    def _postpone(self, later: Sequence[_Run]) -> None:
        """Queue these jobs again; the next sweep queues those for which this fails."""
        if not later:
            return
        jobs = [(_postponed(run), _wait(run)) for run in later]
        unsent = send(jobs, client=self.clients.sqs(), queue_url=self.settings.queue_url)
        if unsent is not None:
            logger.error(
                "jobs could not be postponed",
                secret_ids=[job.secret_id for job in unsent.jobs],
                detail=str(unsent.error),
            )
        for run, (job, seconds) in zip(later, jobs, strict=True):
            if unsent is not None and job in unsent.jobs:
                continue
            logger.warning(
                "postponed: waits for its turn to sign in" if job.waits else "postponed",
                secret_id=job.secret_id,
                reason=run.reason,
                seconds=seconds,
            )
            run.is_queued = True
            try:
                self.marks.postpone(job.secret_id, run.version_id, delay=seconds)
            except StoreError as error:
                _log_mark(run, error)

    def _tell(self, ended: Sequence[_Run]) -> None:
        """Publish what is due for these runs, in one message for each kind of event."""
        policy = self.settings.alert_policy()
        shared = SharedTrouble(self.reporter.owner, self.shared_ledger, self._peek, policy)
        in_trouble = [run for run in ended if isinstance(run.ending, TROUBLE)]
        due: list[Due] = []
        if in_trouble:
            due += shared.met([(run.job.secret_id, run.ending, run.ledger) for run in in_trouble])  # type: ignore[misc] # as asked above
        elif not any(isinstance(run.ending, TROUBLE) for run in self.runs):
            due += shared.is_over_by([run.ending for run in ended])
        for run in ended:
            if isinstance(run.ending, TROUBLE):
                continue
            owner = self.reporter.owner.of_member(run.job.session_id or "")
            secret_id, ledger, ending = run.job.secret_id, run.ledger, run.ending
            if isinstance(ending, QwenTokenError):
                due += owner.failed(ending, secret_id=secret_id, ledger=ledger, policy=policy)[1]
            elif ending.outcome is Outcome.AWAITING_TOKEN:
                due += owner.awaiting(secret_id, ledger)
            elif ending.outcome in ENDS_AN_INCIDENT:
                due += owner.succeeded(ending, secret_id, ledger, policy)
        self.reporter.owner.publish_due(due)

    def _peek(self) -> RunMemory:
        clients = self.clients
        return StateTable(
            clients.dynamodb(), self.settings.state_table, SHARED_TROUBLE, clock=clients.clock
        ).read()

    def _close(self, run: _Run) -> None:
        is_marked = not run.ledger.is_open
        give_back(run.ledger, logger)
        try:
            if is_marked and not run.is_queued:
                # Taking the lease would have removed the mark, but this run did not take it.
                self.marks.done(run.job.secret_id)
        except StoreError as error:
            _log_mark(run, error)


def _is_urgent(body: str, secrets: str) -> bool:
    try:
        return Job.from_body(body, secrets=secrets).urgent
    except NotAJobError:
        return False


def _is_for_later(run: _Run) -> bool:
    """Return whether a run is tried again soon, before the next sweep."""
    may_pass = run.job.postponed < POSTPONEMENTS
    if isinstance(run.ending, Report):
        # The other run, which holds the lease, may have died.
        return run.ending.outcome is Outcome.LEASED and may_pass
    is_tried_again = may_pass or run.job.urgent
    return run.next_turn is not None or (isinstance(run.ending, TROUBLE) and is_tried_again)


def _postponed(run: _Run) -> Job:
    """Return the job to queue again after this run."""
    if run.next_turn is not None:
        return replace(run.job, waits=True)
    return replace(run.job, postponed=min(run.job.postponed + 1, POSTPONEMENTS))


def _wait(run: _Run) -> int:
    """Return the delay in seconds until a postponed job is tried again."""
    if run.next_turn is not None:
        return _wait_for_turn(run, run.next_turn)
    wait = float(_POSTPONEMENT * (1 if run.job.urgent else 2**run.job.postponed))
    error = run.ending
    asked = error.retry_after if isinstance(error, RateLimitedError) else None
    least = wait / 2 if asked is None else asked.total_seconds()
    # Whatever pause the API asks for, part of the delay stays random. If all jobs waited for the
    # longest delay, they would come back as one batch and be postponed as one batch again, although
    # the API limits only some of their accounts.
    least = min(least, LONGEST_DELAY - wait)
    return delay(least, least + wait)


def _wait_for_turn(run: _Run, turn: datetime) -> int:
    """Return the delay in seconds until a job asks for its turn to sign in again.

    The queue keeps no order, so more urgent jobs ask sooner and more often. A job whose token has
    expired, or that has no token yet, asks within two minutes of the turn.
    """
    now, expires_at = run.ledger.now(), run.ending.expires_at
    left = 0.0 if expires_at is None else (expires_at - now).total_seconds()
    spread = min(max(left / 20, _SOONEST_SPREAD), LONGEST_DELAY - _SOONEST_SPREAD)
    least = min((turn - now).total_seconds(), LONGEST_DELAY - spread)
    return delay(least, least + spread)


def _log_mark(run: _Run, error: StoreError) -> None:
    logger.warning(
        "a mark could not be changed: the next sweep may queue the secret twice, or not yet",
        secret_id=run.job.secret_id,
        reason=error.reason,
        detail=str(error),
    )
