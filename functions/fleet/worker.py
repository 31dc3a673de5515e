"""The fleet's worker: runs the keeper for each job of a batch, and tells all that failed."""

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)

from jobs import LONGEST_DELAY, Job, delay, send
from keeper_runtime.alerts import Alert, Failure, RunLocation, publish
from keeper_runtime.change_events import REFRESH_FAILED, REFRESHED, ChangeEvent, announce, result
from keeper_runtime.clients import Clients
from keeper_runtime.settings import EVENT_BUS_ARN, WorkerSettings
from qwen_token.errors import (
    QwenTokenError,
    RateLimitedError,
    StoreError,
    TokenMissingError,
    TokenShortLivedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
)
from qwen_token.fleet import WRITES_PER_SECOND
from qwen_token.keeper import STORE_CALL_LIMIT, SUCCEEDED, Client, Keeper, Outcome, Report
from qwen_token.policy import Severity, severity
from qwen_token.secret_store import SecretStore
from qwen_token.tokens import Token

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
metrics = Metrics()

# Jobs at once: nearly all of a run is waiting, for Qwen and for AWS.
_THREADS: Final = 4
# Trouble that says nothing about a token, but much about whether the next one is worth sending.
_TROUBLE: Final = (RateLimitedError, UpstreamUnavailableError, UpstreamBlockedError)
# So many accounts in a row have to meet it before it is held to be the API's: Qwen limits single
# accounts, too, and one account's limit must not hold up all that share a batch with it.
_ACCOUNTS_IN_TROUBLE: Final = 2
# So often a job is put off by such trouble before that is told: at first for about so many
# seconds, then for twice as long each time.
_POSTPONEMENTS: Final = 3
_POSTPONEMENT: Final = 60
# With less than this left, no job is begun: the batch has to be reported.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
_WRITES: Final = ("PutSecretValue", "UpdateSecretVersionStage")

_edges = cache(Clients.real)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Do the jobs of a batch; return which messages the queue is to deliver again."""
    return run(event, context, _edges())


def run(
    event: dict[str, Any], context: "LambdaContext", edges: Clients
) -> "PartialItemFailureResponse":
    """Do the jobs of a batch against ``edges``.

    A token that fails is told, and its message is done with. What is delivered again is a job
    whose run crashed, or whose failure could not be told.

    Raises:
        ConfigError: the environment is off. The refresh function and dispatch tell that.
    """
    settings = WorkerSettings.from_environ(edges.environ)
    secrets = edges.secrets()
    # Before each attempt on the wire, botocore's own retries included.
    for operation in _WRITES:
        secrets.meta.events.register(
            f"before-send.secrets-manager.{operation}",
            _pace(settings.workers),
            unique_id=f"fleet-pace-{operation}",
        )
    batch = _Batch(settings, edges, context, _Breaker(lambda: edges.qwen(settings.api_base_url)))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="job") as threads:

        async def do(record: "SQSRecord") -> None:
            await asyncio.get_running_loop().run_in_executor(threads, batch.do, record)

        response = async_process_partial_response(
            event=event,
            record_handler=do,
            processor=AsyncBatchProcessor(
                EventType.SQS,
                # A batch of which nothing is left is reported like any other.
                raise_on_entire_batch_failure=False,
                logger=logger,  # type: ignore[arg-type] # it has a logger's methods
            ),
            context=context,
        )
    again = batch.report()
    response["batchItemFailures"] += [{"itemIdentifier": message_id} for message_id in again]
    return response


class Pace:
    """Lets callers through one by one, so many a second, whatever thread they come from.

    After a rest, the first one waits as well, for a part of the interval that ``phase`` draws (0 to
    1): workers that begin together would else all write in the same moment.
    """

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        phase: Callable[[], float] = random.random,
    ) -> None:
        self._interval = 1 / per_second
        self._clock = clock
        self._sleep = sleep
        self._phase = phase
        self._lock = threading.Lock()
        self._next_turn = -math.inf

    def __call__(self, **_: object) -> None:
        """Wait for this caller's turn. (botocore's hooks are called with what they may look at.)"""
        with self._lock:
            now = self._clock()
            turn = self._next_turn
            if turn < now:
                turn = now + self._interval * self._phase()
            self._next_turn = turn + self._interval
        self._sleep(turn - now)


@cache
def _pace(workers: int) -> Pace:
    """Return this process's share of the writes that the workers may make together."""
    return Pace(WRITES_PER_SECOND / workers)


class _Breaker:
    """The API, until it cannot be asked; from then on, nothing of this batch is sent to it."""

    def __init__(self, api: Callable[[], Client]) -> None:
        self._api = cache(api)
        self._lock = threading.Lock()
        # The accounts that met trouble since the API last answered one of them, and the trouble.
        self._accounts: set[str] = set()
        self._trouble: QwenTokenError | None = None

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        return self._ask(token, lambda: self._api().refresh(token, within=within))

    def verify(self, token: Token, *, within: timedelta) -> None:
        self._ask(token, lambda: self._api().verify(token, within=within))

    def _ask[Answer](self, token: Token, question: Callable[[], Answer]) -> Answer:
        if self._trouble is not None:
            # The expiry in it is another token's.
            raise self._trouble.with_expiry(None) from self._trouble
        try:
            answer = question()
        except _TROUBLE as error:
            with self._lock:
                self._accounts.add(token.account)
                if len(self._accounts) >= _ACCOUNTS_IN_TROUBLE:
                    self._trouble = error
            raise
        with self._lock:
            self._accounts.clear()
        return answer


@dataclass(frozen=True, slots=True)
class _Batch:
    """The jobs of one batch, and what came of them; ``do`` is called by several threads."""

    settings: WorkerSettings
    edges: Clients
    context: "LambdaContext"
    api: _Breaker
    # With the messages' ids.
    done: list[tuple[str, Job, Report]] = field(default_factory=list)
    failed: list[tuple[str, Job, QwenTokenError]] = field(default_factory=list)
    postponed: list[tuple[str, Job, QwenTokenError]] = field(default_factory=list)

    def do(self, record: "SQSRecord") -> None:
        """Run the keeper for one job. What it raises is no QwenTokenError, but a crash."""
        job = Job.from_body(record.body)
        try:
            report = self._keep(job)
        except QwenTokenError as error:
            if isinstance(error, _TROUBLE) and job.postponed < _POSTPONEMENTS:
                self.postponed.append((record.message_id, job, error))
            else:
                self.failed.append((record.message_id, job, error))
        else:
            self.done.append((record.message_id, job, report))

    def _keep(self, job: Job) -> Report:
        if job.obstacle is not None:
            raise StoreError(job.obstacle)
        if self._time_left() < _RESERVE:
            # Also a run that comes to nothing reads, and a worker that is killed tells nothing.
            raise UpstreamUnavailableError("no time was left to call the API")
        return Keeper(
            store=SecretStore(self.edges.secrets(), job.secret_id),
            client=lambda: self.api,
            clock=self.edges.clock,
            time_left=self._time_left,
            refresh_before=self.settings.refresh_before,
            critical_before=self.settings.critical_before,
        ).run()

    def _time_left(self) -> timedelta:
        return timedelta(milliseconds=self.context.get_remaining_time_in_millis())

    def report(self) -> set[str]:
        """Log, count and tell what came of the batch; return the messages to deliver again."""
        again = self._postpone()
        now = self.edges.clock()
        results = [
            (report, result(report, secret_id=job.secret_id, now=now))
            for _, job, report in self.done
        ]
        for _, outcome in results:
            logger.info("run ended", extra=outcome)
        self._count(now)
        self._announce(
            ChangeEvent(REFRESHED, outcome, (str(outcome["secret_id"]),))
            for report, outcome in results
            if report.outcome is Outcome.REFRESHED
        )
        alert = self._alert(now)
        if alert is None:
            return again
        try:
            publish(alert, client=self.edges.sns(), topic_arn=self.settings.alert_topic_arn)
        except Exception:
            # Of whatever kind. Done again, these jobs fail, and are told, again.
            logger.exception(
                "the alert could not be published", topic_arn=self.settings.alert_topic_arn
            )
            return again | {message_id for message_id, _, _ in (*self.failed, *self._awaiting())}
        told = alert.fitted()
        secret_ids = tuple(failure.secret_id or "" for failure in told.failures)
        self._announce([ChangeEvent(REFRESH_FAILED, told.document(), secret_ids)])
        return again

    def _postpone(self) -> set[str]:
        """Queue what is to be tried later, and return the messages for which that failed."""
        if not self.postponed:
            return set()
        later: list[tuple[Job, int]] = []
        for _, job, error in self.postponed:
            wait = float(_POSTPONEMENT * 2**job.postponed)
            asked = error.retry_after if isinstance(error, RateLimitedError) else None
            least = wait / 2 if asked is None else asked.total_seconds()
            # However long: what came back as one batch would be stopped as one batch again, by an
            # account that is limited for itself alone.
            least = min(least, LONGEST_DELAY - wait)
            put_off = replace(job, postponed=job.postponed + 1)
            later.append((put_off, delay(least, least + wait)))
        try:
            send(later, client=self.edges.sqs(), queue_url=self.settings.queue_url)
        except Exception:
            logger.exception("jobs could not be postponed", queue_url=self.settings.queue_url)
            return {message_id for message_id, _, _ in self.postponed}
        logger.warning("postponed", secret_ids=[job.secret_id for job, _ in later])
        return set()

    def _alert(self, now: datetime) -> Alert | None:
        """Return the alert, the gravest first; None where there is nothing to tell."""
        told: list[tuple[Severity, Failure]] = []
        for _, job, error in self.failed:
            level = severity(error, now=now, critical_before=self.settings.critical_before)
            told.append((level, self._failure(job, error, now)))
            logger.error(
                "run failed",
                secret_id=job.secret_id,
                reason=error.reason,
                severity=level.value,
                detail=str(error),
            )
        for _, job, _ in self._awaiting():
            error = TokenMissingError("the secret has no token yet: nothing can be kept alive")
            told.append((Severity.WARNING, self._failure(job, error, now)))
        if not told:
            return None
        told.sort(key=lambda each: each[0] is not Severity.CRITICAL)
        return Alert(
            told[0][0],
            self.context.aws_request_id,
            now,
            tuple(failure for _, failure in told),
        )

    def _awaiting(self) -> list[tuple[str, Job, Report]]:
        return [each for each in self.done if each[2].outcome is Outcome.AWAITING_TOKEN]

    def _failure(self, job: Job, error: QwenTokenError, now: datetime) -> Failure:
        origin = RunLocation(
            stack=self.settings.stack,
            function=self.settings.dispatch_function,
            region=self.context.invoked_function_arn.split(":")[3],
            of_fleet=True,
        )
        return Failure.of(error, secret_id=job.secret_id, origin=origin, now=now)

    def _count(self, now: datetime) -> None:
        expiries = [
            *(each.held.token.expires_at for _, _, each in self.done if each.held is not None),
            *(error.expires_at for _, _, error in self.failed if error.expires_at is not None),
        ]
        if expiries:
            days = (min(expiries) - now) / timedelta(days=1)
            metrics.add_metric("TokenDaysRemaining", MetricUnit.NoUnit, days)
        outcomes = [report.outcome for _, _, report in self.done]
        counted = {
            "RunSucceeded": sum(outcome in SUCCEEDED for outcome in outcomes),
            # A short-lived token was stored all the same: it is the best there is.
            "TokenRefreshed": outcomes.count(Outcome.REFRESHED)
            + sum(isinstance(error, TokenShortLivedError) for _, _, error in self.failed),
            "RefreshFailed": len(self.failed),
        }
        for name, count in counted.items():
            metrics.add_metric(name, MetricUnit.Count, count)

    def _announce(self, changes: Iterable[ChangeEvent]) -> None:
        """Put change events on the bus, if there is one; that it fails changes nothing else."""
        bus_arn = self.edges.environ.get(EVENT_BUS_ARN, "").strip()
        if not bus_arn:
            return
        try:
            announce(changes, client=self.edges.events(), bus_arn=bus_arn)
        except Exception:
            logger.exception("the change events could not be sent", event_bus_arn=bus_arn)
