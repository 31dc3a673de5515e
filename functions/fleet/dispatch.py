"""The fleet's scheduled function: looks at every secret of it, and queues those that are due."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aws_lambda_powertools import Logger, Metrics

from fleet_settings import STACK_NAME, DispatchSettings
from jobs import Job, delay, send
from keeper_runtime.clients import Clients
from keeper_runtime.json_lines import log_all_as_json
from keeper_runtime.reporting import Reporter
from keeper_runtime.run_location import location_of, time_left_of
from qwen_token.errors import ConfigError, QwenTokenError, forgets_locals
from qwen_token.fleet import WRITES_PER_SECOND, Fleet, Member
from qwen_token.policy import TokenState, state_of
from qwen_token.ports import STORE_CALL_LIMIT
from qwen_token.secret_store import translated
from qwen_token.stored_token import StoredToken

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
log_all_as_json(logger)
metrics = Metrics()

# With less than this left, the rest is another invocation's: some calls of a page may take long.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
# A refresh stages and promotes.
_WRITES_OF_A_REFRESH: Final = 2

# What an event may say of a sweep. AWS's places in a list have at most 4096 characters.
_PLACE: Final = re.compile(r"[!-~]{1,4096}")
_MOST: Final = 10**10
_LONGEST_SWEEP: Final = 86_400
_CLOCKS_DIFFER: Final = 300

_clients = cache(Clients.real)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One look through the whole fleet, as far as it got, in numbers of secrets.

    Of the ``seen`` members, ``skipped`` were fresh and ``queued`` got a job; the ``unreadable``
    are among the queued. ``begun_at`` is in seconds since 1970.
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

    Raises:
        QwenTokenError: after it was logged, counted and published.
    """
    time_left = time_left_of(context)
    location = location_of(context, stack=clients.environ.get(STACK_NAME, ""), of_fleet=True)
    reporter = Reporter(logger, metrics, clients, location, context.aws_request_id)
    # Also a crash writes out what was counted, and complains where that is nothing.
    reporter.count({"RefreshFailed": 0})
    critical_before = timedelta()
    try:
        settings = DispatchSettings.from_environ(clients.environ)
        critical_before = settings.critical_before
        sweep, after = _begun(event, clients.clock())
        fleet = Fleet(clients.secrets(), settings.tag)
        page = fleet.page(after)
        sweep = _look_at(page.members, sweep, fleet, settings, reporter)
        while page.next_token is not None and time_left() > _RESERVE:
            page = fleet.page(page.next_token)
            sweep = _look_at(page.members, sweep, fleet, settings, reporter)
        if page.next_token is not None:
            _go_on(sweep, page.next_token, clients, context.function_name)
    except QwenTokenError as error:
        reporter.count({"RefreshFailed": 1})
        failed = reporter.owner.log_failure(
            error, secret_id=None, critical_before=critical_before, message="sweep failed"
        )
        reporter.owner.publish(reporter.owner.alert([failed]))
        raise
    if page.next_token is None:
        reporter.count({"SweepCompleted": 1})
    result = {**asdict(sweep), "completed": page.next_token is None}
    del result["begun_at"]
    logger.info("sweep ended" if page.next_token is None else "sweep goes on", extra=result)
    return result


def _go_on(sweep: Sweep, after: str, clients: Clients, function: str) -> None:
    """Start another invocation for the rest, and do not wait for it."""
    functions = clients.functions()
    event = json.dumps({"continue": {"after": after, **asdict(sweep)}})
    with translated("go on with the sweep", by="Lambda"):
        functions.invoke(FunctionName=function, InvocationType="Event", Payload=event)


def _look_at(
    members: Sequence[Member],
    sweep: Sweep,
    fleet: Fleet,
    settings: DispatchSettings,
    reporter: Reporter,
) -> Sweep:
    """Queue those of a page that are due, and count them all."""
    clients = reporter.clients
    now = clients.clock()
    fresh: list[datetime] = []
    due: list[Job] = []
    unreadable = 0
    try:
        for member, found in fleet.read(members):
            if isinstance(found, StoredToken):
                state = state_of(found, now=now, refresh_before=settings.refresh_before)
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
        send(_spread(due, sweep, now), client=clients.sqs(), queue_url=settings.queue_url)
    if fresh:
        # For a job's token, its worker says what is left after the run.
        reporter.count({"RunSucceeded": len(fresh)}, expiries=fresh, are_logins=True)
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
