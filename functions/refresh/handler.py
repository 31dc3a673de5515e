"""The scheduled function: wires the keeper, runs it once for one secret, and reports."""

from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger, Metrics

from keeper_runtime.clients import Clients
from keeper_runtime.json_lines import log_all_as_json
from keeper_runtime.opened_ledger import opened_ledger
from keeper_runtime.reporting import Reporter
from keeper_runtime.run_location import location_of, time_left_of
from keeper_runtime.settings import SECRET_ID, SESSION_SECRET_ID, RefreshSettings, RunOptions
from qwen_token.errors import QwenTokenError, forgets_locals
from qwen_token.keeper import Keeper
from qwen_token.secret_store import SecretStore

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger()
log_all_as_json(logger)
metrics = Metrics()

_clients = cache(Clients.real)


@forgets_locals
@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: object, context: "LambdaContext") -> dict[str, object]:
    """Run once; return the function's result, or raise the failure that was just reported."""
    return run(event, context, _clients())


def run(event: object, context: "LambdaContext", clients: Clients) -> dict[str, object]:
    """Run once with ``clients``. The event is ``{}``, or sets one of the run's options to true.

    Raises:
        QwenTokenError: the run failed. The failure has been logged, counted and, by this run or an
            earlier one, published.
    """
    environ, time_left = clients.environ, time_left_of(context)
    # Powertools' service name is the stack's name.
    location = location_of(
        context, stack=logger.service, session_secret_id=environ.get(SESSION_SECRET_ID, "")
    )
    reporter = Reporter(logger, metrics, clients, location, context.aws_request_id)
    settings: RefreshSettings | None = None
    of_secret = environ.get(SECRET_ID, "").strip()
    with opened_ledger(clients, time_left, logger, of_secret) as ledger:
        try:
            settings = RefreshSettings.from_environ(environ)
            options = RunOptions.from_event(event)
            sessions = settings.session_secret_id
            report = Keeper(
                store=SecretStore(clients.secrets(), settings.secret_id, clock=clients.clock),
                sessions=(lambda: clients.sessions(sessions)) if sessions else None,
                ledger=ledger,
                client=lambda: clients.qwen(settings.api_base_url, settings.user_agent),
                sources=lambda grant: clients.grant(grant, settings),
                clock=clients.clock,
                time_left=time_left,
                refresh_before=settings.refresh_before,
            ).run(**asdict(options))
            return reporter.report_run(report, settings, dry_run=options.dry_run, ledger=ledger)
        except QwenTokenError as error:
            secret_id = environ.get(SECRET_ID)
            retrying = reporter.report_failure(error, settings, secret_id=secret_id, ledger=ledger)
            if retrying is None:
                raise
            return retrying
