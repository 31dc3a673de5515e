"""The scheduled function: wires the keeper, runs it once for one secret, and reports."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from keeper_runtime.alerts import Alert, Failure, RunLocation, publish
from keeper_runtime.change_events import REFRESH_FAILED, REFRESHED, ChangeEvent, announce, result
from keeper_runtime.clients import Clients
from keeper_runtime.settings import (
    ALERT_TOPIC_ARN,
    EVENT_BUS_ARN,
    SECRET_ID,
    RunOptions,
    Settings,
)
from qwen_token.errors import QwenTokenError, TokenMissingError, TokenShortLivedError
from qwen_token.keeper import SUCCEEDED, Keeper, Outcome, Report
from qwen_token.policy import Severity, severity
from qwen_token.secret_store import SecretStore

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
metrics = Metrics()

_edges = cache(Clients.real)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: object, context: "LambdaContext") -> dict[str, object]:
    """Run once; return the outcome as the contract has it, or raise the failure just reported."""
    return run(event, context, _edges())


def run(event: object, context: "LambdaContext", edges: Clients) -> dict[str, object]:
    """Run once against ``edges``. The event is ``{}``, or has ``force`` or ``dry_run`` true.

    Raises:
        QwenTokenError: after it was logged, counted and published.
    """
    critical_before = timedelta()
    try:
        settings = Settings.from_environ(edges.environ)
        critical_before = settings.critical_before
        options = RunOptions.from_event(event)
        report = Keeper(
            store=SecretStore(edges.secrets(), settings.secret_id),
            client=lambda: edges.qwen(settings.api_base_url),
            clock=edges.clock,
            time_left=lambda: timedelta(milliseconds=context.get_remaining_time_in_millis()),
            refresh_before=settings.refresh_before,
            critical_before=settings.critical_before,
        ).run(force=options.force, dry_run=options.dry_run)
    except QwenTokenError as error:
        _report_failure(error, context, edges, critical_before)
        raise
    if report.outcome is Outcome.AWAITING_TOKEN and not options.dry_run:
        awaited = TokenMissingError("the secret has no token yet: nothing can be kept alive")
        _publish(_alert(awaited, Severity.WARNING, context, edges), edges)
    return _report_success(report, settings.secret_id, edges, dry_run=options.dry_run)


def _report_success(
    report: Report, secret_id: str, edges: Clients, *, dry_run: bool
) -> dict[str, object]:
    now = edges.clock()
    done = result(report, secret_id=secret_id, now=now)
    expires_at = None if report.held is None else report.held.token.expires_at
    counted = {
        "RunSucceeded": report.outcome in SUCCEEDED and not dry_run,
        "TokenRefreshed": report.outcome is Outcome.REFRESHED,
    }
    _count(expires_at, now, secret_id=secret_id, failed=False, counted=counted)
    logger.info("run ended", extra=done)
    if report.outcome is Outcome.REFRESHED:
        _announce(REFRESHED, done, edges)
    return done


def _report_failure(
    error: QwenTokenError, context: "LambdaContext", edges: Clients, critical_before: timedelta
) -> None:
    now = edges.clock()
    level = severity(error, now=now, critical_before=critical_before)
    # A short-lived token was stored all the same: it is the best there is.
    counted = {"TokenRefreshed": isinstance(error, TokenShortLivedError)}
    secret_id = edges.environ.get(SECRET_ID)
    _count(error.expires_at, now, secret_id=secret_id, failed=True, counted=counted)
    logger.error("run failed", reason=error.reason, severity=level.value, detail=str(error))
    alert = _alert(error, level, context, edges)
    _publish(alert, edges)
    _announce(REFRESH_FAILED, alert.document(), edges)


def _alert(
    error: QwenTokenError, level: Severity, context: "LambdaContext", edges: Clients
) -> Alert:
    now = edges.clock()
    failure = Failure.of(
        error,
        secret_id=edges.environ.get(SECRET_ID),
        origin=RunLocation(
            # Powertools' service is the stack's name.
            stack=logger.service,
            function=context.function_name,
            region=context.invoked_function_arn.split(":")[3],
        ),
        now=now,
    )
    return Alert(level, context.aws_request_id, now, (failure,))


def _publish(alert: Alert, edges: Clients) -> None:
    """Publish an alert; a failing publish is logged, and never hides what it should have told."""
    topic_arn = edges.environ.get(ALERT_TOPIC_ARN)
    if not topic_arn:
        logger.error("no alert could be published: the environment names no topic")
        return
    try:
        publish(alert, client=edges.sns(), topic_arn=topic_arn)
    except Exception:
        # Of whatever kind, botocore's own or not: the news is the failure that it should have told.
        logger.exception("the alert could not be published", topic_arn=topic_arn)


def _announce(detail_type: str, detail: Mapping[str, object], edges: Clients) -> None:
    """Put a change event on the bus, if there is one; that it fails makes no other run of this."""
    bus_arn = edges.environ.get(EVENT_BUS_ARN, "").strip()
    if not bus_arn:
        return
    secret_id = edges.environ.get(SECRET_ID)
    change = ChangeEvent(detail_type, detail, () if secret_id is None else (secret_id,))
    try:
        announce([change], client=edges.events(), bus_arn=bus_arn)
    except Exception:
        # As with an alert: the token is what it is, whoever heard of it.
        logger.exception("the change event could not be sent", event_bus_arn=bus_arn)


def _count(
    expires_at: datetime | None,
    now: datetime,
    *,
    secret_id: str | None,
    failed: bool,
    counted: Mapping[str, bool],
) -> None:
    if expires_at is not None:
        days = (expires_at - now) / timedelta(days=1)
        metrics.add_metric("TokenDaysRemaining", MetricUnit.NoUnit, days)
    for name in (name for name, happened in counted.items() if happened):
        metrics.add_metric(name, MetricUnit.Count, 1)
    metrics.add_metric("RefreshFailed", MetricUnit.Count, int(failed))
    # A dimension would make one more metric to pay for of each secret.
    metrics.add_metadata("secret_id", secret_id)
