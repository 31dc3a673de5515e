"""The fleet's worker: runs the keeper for each job of a batch, and reports all that failed."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)

from breaker import TROUBLE, Breaker
from fleet_settings import WorkerSettings
from jobs import LONGEST_DELAY, POSTPONEMENTS, Job, NotAJobError, delay, secrets_of, send
from keeper_runtime.clients import Clients
from keeper_runtime.json_lines import log_all_as_json
from keeper_runtime.reporting import Reporter, counts_of, expiries_of
from keeper_runtime.run_location import location_of, time_left_of
from pace import pace_writes
from qwen_token.errors import (
    QwenTokenError,
    RateLimitedError,
    StoreError,
    UpstreamUnavailableError,
    forgets_locals,
)
from qwen_token.fleet import obstacle_in_words
from qwen_token.grants.exchange import Exchange
from qwen_token.keeper import Keeper
from qwen_token.ledger import Ledger, UnsharedState
from qwen_token.origin import USER_AGENT
from qwen_token.ports import STORE_CALL_LIMIT
from qwen_token.run_report import Outcome, Report
from qwen_token.secret_store import SecretStore

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
log_all_as_json(logger)
metrics = Metrics()

# Jobs at once: nearly all of a run is waiting, for Qwen and for AWS.
_THREADS: Final = 4
# For about how many seconds a job is put off by trouble with the API the first time; each further
# time takes twice as long.
_POSTPONEMENT: Final = 60
# With less than this left, no job is begun: the batch has to be reported.
_RESERVE: Final = 4 * STORE_CALL_LIMIT

_clients = cache(Clients.real)


@forgets_locals
@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Do the jobs of a batch; return which messages the queue is to deliver again."""
    return run(event, context, _clients())


def run(
    event: dict[str, Any], context: "LambdaContext", clients: Clients
) -> "PartialItemFailureResponse":
    """Do the jobs of a batch against ``clients``.

    A token that fails is reported, and its message is done with. What is delivered again is a job
    whose run crashed, or whose failure could not be reported.

    Raises:
        ConfigError: the environment is off. The refresh function and dispatch report that.
    """
    settings = WorkerSettings.from_environ(clients.environ)
    pace_writes(clients.secrets(), workers=settings.workers)
    location = location_of(
        context, stack=settings.stack, function=settings.dispatch_function, of_fleet=True
    )
    batch = _Batch(
        settings,
        clients,
        context,
        Breaker(lambda: clients.qwen(settings.api_base_url, USER_AGENT)),
        Reporter(logger, metrics, clients, location, context.aws_request_id),
    )
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


@dataclass(frozen=True, slots=True)
class _Ended[Ending: (Report, QwenTokenError)]:
    """A message's job, and how its run ended."""

    message_id: str
    job: Job
    ending: Ending


@dataclass(frozen=True, slots=True)
class _Batch:
    """The jobs of one batch, and what came of them; ``do`` is called by several threads."""

    settings: WorkerSettings
    clients: Clients
    context: "LambdaContext"
    api: Breaker
    reporter: Reporter
    done: list[_Ended[Report]] = field(default_factory=list)
    failed: list[_Ended[QwenTokenError]] = field(default_factory=list)
    postponed: list[_Ended[QwenTokenError]] = field(default_factory=list)

    def do(self, record: "SQSRecord") -> None:
        """Run the keeper for one job. What it raises is no QwenTokenError, but a crash.

        What is no job is delivered twice more, and is a dead letter then: there it can be looked
        at, and an alarm says so.
        """
        try:
            job = Job.from_body(record.body, secrets=secrets_of(self.context.invoked_function_arn))
        except NotAJobError as error:
            logger.error(str(error), message_id=record.message_id)  # noqa: TRY400 - it says it all
            raise
        try:
            report = self._keep(job)
        except QwenTokenError as error:
            may_pass = isinstance(error, TROUBLE) and job.postponed < POSTPONEMENTS
            ended = self.postponed if may_pass else self.failed
            ended.append(_Ended(record.message_id, job, error))
        else:
            self.done.append(_Ended(record.message_id, job, report))

    def _keep(self, job: Job) -> Report:
        if job.obstacle is not None:
            raise StoreError(obstacle_in_words(job.obstacle, job.secret_id))
        time_left = time_left_of(self.context)
        if time_left() < _RESERVE:
            # Also a run that comes to nothing reads, and a worker that is killed reports nothing.
            raise UpstreamUnavailableError("no time was left to call the API")
        clock = self.clients.clock
        return Keeper(
            store=SecretStore(self.clients.secrets(), job.secret_id, clock=clock),
            sessions=None,
            # The queue hands a secret to one worker at a time, and an exchange spends nothing.
            ledger=lambda: Ledger(UnsharedState, clock=clock, time_left=time_left),
            client=lambda: self.api,
            sources=lambda _: Exchange(self.api),
            clock=clock,
            time_left=time_left,
            refresh_before=self.settings.refresh_before,
        ).run()

    def report(self) -> set[str]:
        """Report what came of the batch; return the messages to deliver again."""
        again = self._postpone()
        results = [
            self.reporter.log_run(each.ending, secret_id=each.job.secret_id) for each in self.done
        ]
        endings: list[Report | QwenTokenError] = [each.ending for each in self.done]
        endings += [each.ending for each in self.failed]
        nothing = {"RunSucceeded": 0, "TokenRefreshed": 0}
        self.reporter.count(
            {**nothing, **counts_of(endings)}, expiries=expiries_of(endings), are_logins=True
        )
        self.reporter.owner.announce_refreshed(
            result for result in results if result["outcome"] == Outcome.REFRESHED
        )
        return again | self._alert()

    def _postpone(self) -> set[str]:
        """Queue what is to be tried later, and return the messages for which that failed."""
        if not self.postponed:
            return set()
        later = [
            (replace(each.job, postponed=each.job.postponed + 1), _wait(each))
            for each in self.postponed
        ]
        try:
            send(later, client=self.clients.sqs(), queue_url=self.settings.queue_url)
        except Exception:
            logger.exception("jobs could not be postponed", queue_url=self.settings.queue_url)
            return _messages(self.postponed)
        logger.warning("postponed", secret_ids=[job.secret_id for job, _ in later])
        return set()

    def _alert(self) -> set[str]:
        """Publish what failed, if anything; return the messages whose alert could not be."""
        awaiting = [each for each in self.done if each.ending.outcome is Outcome.AWAITING_TOKEN]
        failures = [
            self.reporter.owner.log_failure(
                each.ending,
                secret_id=each.job.secret_id,
                critical_before=self.settings.critical_before,
            )
            for each in self.failed
        ]
        failures += [self.reporter.owner.awaiting_token(each.job.secret_id) for each in awaiting]
        if not failures:
            return set()
        alert = self.reporter.owner.alert(failures)
        if not self.reporter.owner.publish(alert):
            # Done again, these jobs fail, and are reported, again.
            return _messages(self.failed) | _messages(awaiting)
        self.reporter.owner.announce_failed(alert)
        return set()


def _messages(ended: Sequence[_Ended[Report] | _Ended[QwenTokenError]]) -> set[str]:
    return {each.message_id for each in ended}


def _wait(postponed: _Ended[QwenTokenError]) -> int:
    """Return the delay in seconds until a postponed job is tried again."""
    error = postponed.ending
    wait = float(_POSTPONEMENT * 2**postponed.job.postponed)
    asked = error.retry_after if isinstance(error, RateLimitedError) else None
    least = wait / 2 if asked is None else asked.total_seconds()
    # However long the API asks for, a part of the delay stays random. Jobs that all waited for the
    # longest one would come back as one batch, and be put off as one batch again, although the API
    # limits only some of their accounts.
    least = min(least, LONGEST_DELAY - wait)
    return delay(least, least + wait)
