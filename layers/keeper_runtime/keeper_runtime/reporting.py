"""Reporting: what became of a run, for the log, the metrics, the alert topic and the event bus."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aws_lambda_powertools.metrics import MetricUnit

from qwen_token.errors import QwenTokenError, TokenMissingError, TokenShortLivedError
from qwen_token.keeper import SUCCEEDED, Outcome, Report
from qwen_token.policy import Severity, severity
from qwen_token.tokens import in_days

from .alerts import Alert, Failure, RunLocation, publish
from .change_events import REFRESH_FAILED, REFRESHED, ChangeEvent, announce
from .clients import Clients
from .settings import ALERT_TOPIC_ARN, EVENT_BUS_ARN

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger, Metrics
    from aws_lambda_powertools.utilities.typing import LambdaContext


def location_of(
    context: "LambdaContext", *, stack: str, function: str | None = None, of_fleet: bool = False
) -> RunLocation:
    """Return where a run happens; ``function`` starts such runs, where that is another one."""
    return RunLocation(
        stack=stack,
        function=context.function_name if function is None else function,
        region=context.invoked_function_arn.split(":")[3],
        of_fleet=of_fleet,
    )


def result_of(report: Report, *, secret_id: str, now: datetime) -> dict[str, object]:
    """Return what a run that did not fail did: the function's result, as the contract has it."""
    held, expires_at = report.held, report.expires_at
    return {
        "outcome": report.outcome.value,
        "secret_id": secret_id,
        "version_id": None if held is None else held.version_id,
        "expires_at": None if expires_at is None else expires_at.isoformat(),
        "days_remaining": None if expires_at is None else in_days(expires_at - now),
    }


@dataclass(frozen=True, slots=True)
class GradedFailure:
    """A failure in words, and how bad it is."""

    severity: Severity
    failure: Failure


@dataclass(frozen=True, slots=True)
class Reporter:
    """Reports what became of the runs of one invocation.

    The topic and the bus are read from the environment as it is: also an environment that is off
    in other ways is reported. What fails to be reported is logged, and never hides anything else.
    """

    logger: "Logger"
    metrics: "Metrics"
    clients: Clients
    location: RunLocation
    request_id: str

    def report_run(self, report: Report, *, secret_id: str, dry_run: bool) -> dict[str, object]:
        """Report an invocation's one run, which did not fail; return its result."""
        if report.outcome is Outcome.AWAITING_TOKEN and not dry_run:
            self.publish(self.alert([self.awaiting_token(secret_id)]))
        counts = counts_of([report])
        if dry_run:
            counts.pop("RunSucceeded", None)
        self.count(counts, expiries=expiries_of([report]))
        self._name_secret(secret_id)
        done = self.log_run(report, secret_id=secret_id)
        if report.outcome is Outcome.REFRESHED:
            self.announce_refreshed([done])
        return done

    def report_failure(
        self, error: QwenTokenError, *, secret_id: str | None, critical_before: timedelta
    ) -> None:
        """Report that an invocation's one run failed."""
        self.count(counts_of([error]), expiries=expiries_of([error]))
        self._name_secret(secret_id)
        failed = self.log_failure(error, secret_id=secret_id, critical_before=critical_before)
        alert = self.alert([failed])
        self.publish(alert)
        self.announce_failed(alert)

    def log_run(self, report: Report, *, secret_id: str) -> dict[str, object]:
        """Log a run that did not fail; return its result."""
        done = result_of(report, secret_id=secret_id, now=self.clients.clock())
        self.logger.info("run ended", extra=done)
        return done

    def log_failure(
        self,
        error: QwenTokenError,
        *,
        secret_id: str | None,
        critical_before: timedelta,
        message: str = "run failed",
    ) -> GradedFailure:
        """Log a failure; return it as an alert has it."""
        level = severity(error, now=self.clients.clock(), critical_before=critical_before)
        self.logger.error(
            message,
            secret_id=secret_id,
            reason=error.reason,
            severity=level.value,
            detail=str(error),
        )
        return self._graded(level, error, secret_id)

    def awaiting_token(self, secret_id: str) -> GradedFailure:
        """Return what an alert has of a secret that still waits for its first token."""
        error = TokenMissingError("the secret has no token yet: nothing can be kept alive")
        return self._graded(Severity.WARNING, error, secret_id)

    def alert(self, failures: Sequence[GradedFailure]) -> Alert:
        """Return the alert of at least one failure, the gravest first."""
        gravest_first = sorted(failures, key=lambda each: each.severity is not Severity.CRITICAL)
        return Alert(
            gravest_first[0].severity,
            self.request_id,
            self.clients.clock(),
            tuple(each.failure for each in gravest_first),
        )

    def publish(self, alert: Alert) -> bool:
        """Publish an alert; return whether that worked, and log if it did not."""
        topic_arn = self.clients.environ.get(ALERT_TOPIC_ARN)
        if not topic_arn:
            self.logger.error("no alert could be published: the environment names no topic")
            return False
        try:
            publish(alert, client=self.clients.sns(), topic_arn=topic_arn)
        except Exception:
            # Whatever boto3 and what it calls raise: the failure that it reports matters more.
            self.logger.exception("the alert could not be published", topic_arn=topic_arn)
            return False
        return True

    def announce_refreshed(self, results: Iterable[Mapping[str, object]]) -> None:
        """Put an event for each result of a run that refreshed on the bus, if there is a bus."""
        self._announce(
            [ChangeEvent(REFRESHED, each, (str(each["secret_id"]),)) for each in results]
        )

    def announce_failed(self, alert: Alert) -> None:
        """Put what an alert says, as far as one message holds it, on the bus, if there is one."""
        published = alert.fitted()
        secret_ids = (failure.secret_id for failure in published.failures)
        change = ChangeEvent(
            REFRESH_FAILED,
            published.document(),
            tuple(secret_id for secret_id in secret_ids if secret_id is not None),
        )
        self._announce([change])

    def count(self, counts: Mapping[str, int], *, expiries: Iterable[datetime] = ()) -> None:
        """Count; of the tokens that expire, the first one says how many days are left."""
        first = min(expiries, default=None)
        if first is not None:
            days = (first - self.clients.clock()) / timedelta(days=1)
            self.metrics.add_metric("TokenDaysRemaining", MetricUnit.NoUnit, days)
        for name, count in counts.items():
            self.metrics.add_metric(name, MetricUnit.Count, count)

    def _announce(self, changes: Sequence[ChangeEvent]) -> None:
        bus_arn = self.clients.environ.get(EVENT_BUS_ARN, "").strip()
        if not bus_arn:
            return
        try:
            announce(changes, client=self.clients.events(), bus_arn=bus_arn)
        except Exception:
            # As with an alert: the token is what it is, whoever heard of it.
            self.logger.exception("the change events could not be sent", event_bus_arn=bus_arn)

    def _graded(
        self, level: Severity, error: QwenTokenError, secret_id: str | None
    ) -> GradedFailure:
        return GradedFailure(
            level,
            Failure.of(error, secret_id=secret_id, origin=self.location, now=self.clients.clock()),
        )

    def _name_secret(self, secret_id: str | None) -> None:
        # A dimension would make one more metric to pay for of each secret.
        self.metrics.add_metadata("secret_id", secret_id)


def expiries_of(ended: Iterable[Report | QwenTokenError]) -> list[datetime]:
    """Return when the tokens expire that readers have after these runs, as far as that is known."""
    return [each.expires_at for each in ended if each.expires_at is not None]


def counts_of(ended: Iterable[Report | QwenTokenError]) -> dict[str, int]:
    """Return what is counted of runs. What did not happen is left out, but for failures."""
    counts: Counter[str] = Counter()
    for each in ended:
        if isinstance(each, QwenTokenError):
            counts["RefreshFailed"] += 1
            # A short-lived token was stored all the same: it is the best there is.
            counts["TokenRefreshed"] += isinstance(each, TokenShortLivedError)
        else:
            counts["RunSucceeded"] += each.outcome in SUCCEEDED
            counts["TokenRefreshed"] += each.outcome is Outcome.REFRESHED
    return {"RefreshFailed": 0, **+counts}
