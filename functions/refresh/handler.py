"""The scheduled function: wires the keeper, runs it once for one secret, and reports."""

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger, Metrics

from keeper_runtime.clients import Clients
from keeper_runtime.reporting import Reporter, location_of
from keeper_runtime.settings import SECRET_ID, RefreshSettings, RunOptions
from qwen_token.errors import QwenTokenError
from qwen_token.keeper import Keeper
from qwen_token.secret_store import SecretStore

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
metrics = Metrics()

_clients = cache(Clients.real)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: object, context: "LambdaContext") -> dict[str, object]:
    """Run once; return the outcome as the contract has it, or raise the failure just reported."""
    return run(event, context, _clients())


def run(event: object, context: "LambdaContext", clients: Clients) -> dict[str, object]:
    """Run once against ``clients``. The event is ``{}``, or has ``force`` or ``dry_run`` true.

    Raises:
        QwenTokenError: after it was logged, counted and published.
    """
    # Powertools' service is the stack's name.
    location = location_of(context, stack=logger.service)
    reporter = Reporter(logger, metrics, clients, location, context.aws_request_id)
    critical_before = timedelta()
    try:
        settings = RefreshSettings.from_environ(clients.environ)
        critical_before = settings.critical_before
        options = RunOptions.from_event(event)
        report = Keeper(
            store=SecretStore(clients.secrets(), settings.secret_id),
            client=lambda: clients.qwen(settings.api_base_url),
            clock=clients.clock,
            time_left=lambda: timedelta(milliseconds=context.get_remaining_time_in_millis()),
            refresh_before=settings.refresh_before,
            critical_before=settings.critical_before,
        ).run(force=options.force, dry_run=options.dry_run)
    except QwenTokenError as error:
        reporter.report_failure(
            error, secret_id=clients.environ.get(SECRET_ID), critical_before=critical_before
        )
        raise
    return reporter.report_run(report, secret_id=settings.secret_id, dry_run=options.dry_run)
