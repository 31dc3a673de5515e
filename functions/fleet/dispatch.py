"""The fleet's scheduled function: looks at every secret of it, and queues those that are due."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from jobs import Job, delay, send
from keeper_runtime.alerts import Alert, Failure, RunLocation, publish
from keeper_runtime.clients import Clients
from keeper_runtime.settings import ALERT_TOPIC_ARN, STACK_NAME, DispatchSettings
from qwen_token.errors import ConfigError, QwenTokenError
from qwen_token.fleet import WRITES_PER_SECOND, Fleet, Member
from qwen_token.keeper import STORE_CALL_LIMIT
from qwen_token.policy import TokenState, assess, severity
from qwen_token.stored_token import StoredToken

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
metrics = Metrics()

# With less than this left, the rest is another invocation's: some calls of a page may take long.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
# A refresh stages and promotes.
_WRITES_OF_A_REFRESH: Final = 2

_edges = cache(Clients.real)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One look through the whole fleet, as far as it got: how many secrets …

    ``seen`` were members; of them, ``skipped`` were fresh, ``queued`` got a job, among these
    the ``unreadable``. ``begun_at`` is in seconds since the epoch.
    """

    begun_at: int
    seen: int = 0
    queued: int = 0
    skipped: int = 0
    unreadable: int = 0


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: object, context: "LambdaContext") -> dict[str, object]:
    """Look through the fleet, or the rest of it; return what was seen so far."""
    return run(event, context, _edges())


def run(event: object, context: "LambdaContext", edges: Clients) -> dict[str, object]:
    """Look through the fleet against ``edges``. The event is ``{}``, or this function's own.

    Raises:
        QwenTokenError: after it was logged, counted and published.
    """
    # Also a crash writes out what was counted, and complains where that is nothing.
    metrics.add_metric("RefreshFailed", MetricUnit.Count, 0)
    critical_before = timedelta()
    try:
        settings = DispatchSettings.from_environ(edges.environ)
        critical_before = settings.critical_before
        sweep, after = _begun(event, edges.clock())
        fleet = Fleet(edges.secrets(), settings.tag)
        page = fleet.page(after)
        sweep = _look_at(page.members, sweep, fleet, settings, edges)
        while page.next_token is not None and _time_left(context) > _RESERVE:
            page = fleet.page(page.next_token)
            sweep = _look_at(page.members, sweep, fleet, settings, edges)
    except QwenTokenError as error:
        _report_failure(error, context, edges, critical_before)
        raise
    if page.next_token is not None:
        # Not waited for. That it could not be started is an error of this function.
        edges.functions().invoke(
            FunctionName=context.function_name,
            InvocationType="Event",
            Payload=json.dumps({"continue": {"after": page.next_token, **asdict(sweep)}}),
        )
    else:
        metrics.add_metric("SweepCompleted", MetricUnit.Count, 1)
    result = {**asdict(sweep), "completed": page.next_token is None}
    del result["begun_at"]
    logger.info("sweep ended" if page.next_token is None else "sweep goes on", extra=result)
    return result


def _look_at(
    members: Sequence[Member],
    sweep: Sweep,
    fleet: Fleet,
    settings: DispatchSettings,
    edges: Clients,
) -> Sweep:
    """Queue those of a page that are due, and count them all."""
    now = edges.clock()
    fresh: list[datetime] = []
    due: list[Job] = []
    unreadable = 0
    try:
        for member, found in fleet.read(members):
            if isinstance(found, StoredToken):
                state = assess(found.token, now=now, refresh_before=settings.refresh_before)
                if state is TokenState.FRESH:
                    fresh.append(found.token.expires_at)
                    continue
            else:
                unreadable += 1
                logger.warning(
                    "unreadable", secret_id=member.secret_id, reason=found.reason, detail=str(found)
                )
            due.append(Job(member.secret_id, member.obstacle))
    finally:
        # Also where reading the others failed, and ends the sweep: these were found to be due.
        send(_spread(due, sweep, now), client=edges.sqs(), queue_url=settings.queue_url)
    if fresh:
        # For a job's token, its worker says what is left after the run.
        days = (min(fresh) - now) / timedelta(days=1)
        metrics.add_metric("TokenDaysRemaining", MetricUnit.NoUnit, days)
        metrics.add_metric("RunSucceeded", MetricUnit.Count, len(fresh))
    return replace(
        sweep,
        seen=sweep.seen + len(members),
        queued=sweep.queued + len(due),
        skipped=sweep.skipped + len(fresh),
        unreadable=sweep.unreadable + unreadable,
    )


def _spread(due: Sequence[Job], sweep: Sweep, now: datetime) -> Iterator[tuple[Job, int]]:
    """Yield jobs with delays: at random, over the time that AWS lets them be written in.

    Of that time, so much is over as the sweep has taken so far.
    """
    taken = now.timestamp() - sweep.begun_at
    for number, job in enumerate(due, start=sweep.queued):
        yield job, delay(0, max(0, number * _WRITES_OF_A_REFRESH / WRITES_PER_SECOND - taken))


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
        if isinstance(after, str) and all(type(value) is int for value in values.values()):
            return Sweep(**values), after
    raise ConfigError(
        "the event should be an empty JSON object: {} (one with 'continue' is this function's own)"
    )


def _report_failure(
    error: QwenTokenError, context: "LambdaContext", edges: Clients, critical_before: timedelta
) -> None:
    now = edges.clock()
    level = severity(error, now=now, critical_before=critical_before)
    metrics.add_metric("RefreshFailed", MetricUnit.Count, 1)
    logger.error("sweep failed", reason=error.reason, severity=level.value, detail=str(error))
    topic_arn = edges.environ.get(ALERT_TOPIC_ARN)
    if not topic_arn:
        logger.error("no alert could be published: the environment names no topic")
        return
    origin = RunLocation(
        stack=edges.environ.get(STACK_NAME, ""),
        function=context.function_name,
        region=context.invoked_function_arn.split(":")[3],
        of_fleet=True,
    )
    failure = Failure.of(error, secret_id=None, origin=origin, now=now)
    alert = Alert(level, context.aws_request_id, now, (failure,))
    try:
        publish(alert, client=edges.sns(), topic_arn=topic_arn)
    except Exception:
        # Of whatever kind: the news is the failure that it should have told.
        logger.exception("the alert could not be published", topic_arn=topic_arn)


def _time_left(context: "LambdaContext") -> timedelta:
    return timedelta(milliseconds=context.get_remaining_time_in_millis())
