"""What the owner is told: alerts to the topic, events to the bus.

Who is told, and when, is decided in ``qwen_token.incidents``; here that is carried out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from qwen_token import incidents
from qwen_token.errors import QwenTokenError, RunFacts
from qwen_token.policy import AlertPolicy, Severity, severity
from qwen_token.run_memory import RunMemory
from qwen_token.run_report import Outcome, Report

from .alerts import Alert, Event, Failure, publish
from .change_events import REFRESH_FAILED, REFRESHED, ChangeEvent, announce
from .clients import Clients
from .run_location import RunLocation
from .settings import ALERT_TOPIC_ARN, EVENT_BUS_ARN

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

    from qwen_token.ledger import Ledger


@dataclass(frozen=True, slots=True)
class GradedFailure:
    """A failure in words, and how bad it is."""

    severity: Severity
    failure: Failure


@dataclass(frozen=True, slots=True)
class Owner:
    """Tells the owner what came of the runs of one invocation.

    The topic and the bus are read from the environment as it is: also an environment that is
    invalid in other ways is reported. What fails to be told is logged, and hides nothing else.
    """

    logger: "Logger"
    clients: Clients
    location: RunLocation
    request_id: str

    def hear_of_failure(
        self,
        error: QwenTokenError,
        *,
        secret_id: str | None,
        ledger: "Ledger",
        policy: AlertPolicy,
    ) -> Severity:
        """Log a failed run, and publish it where it is time to; return how bad it is."""
        memory = ledger.history()
        observed = incidents.observe(
            memory.incident,
            error,
            now=self.clients.clock(),
            policy=policy,
            replaced=(error.facts or RunFacts()).replaced,
        )
        failed = self._logged(observed.severity, error, secret_id)
        incident = observed.unpublished
        if observed.publish:
            alert = replace(self.alert([failed]), since=incident.since)
            if self.publish(alert):
                incident = observed.incident
            self.announce_failed(alert)
        ledger.remember(replace(memory, incident=incident))
        return observed.severity

    def hear_that_a_token_is_awaited(self, secret_id: str, ledger: "Ledger") -> None:
        """Publish, once and daily, that the secret still waits for its first token."""
        memory = ledger.history()
        failed = self.awaiting_token(secret_id)
        ledger.remember(self._reminded(memory, failed, Event.REFRESH_FAILED))

    def hear_of_success(
        self, report: Report, secret_id: str, ledger: "Ledger", policy: AlertPolicy
    ) -> None:
        """Publish that an incident is over, and that the login ends, where it is time to."""
        memory = self._recovered(ledger.memory, report, secret_id)
        ledger.remember(self._reminded_of_end(memory, report, secret_id, policy))

    def _recovered(self, memory: RunMemory, report: Report, secret_id: str) -> RunMemory:
        incident = memory.incident
        if incident is None or not incidents.is_over(
            incident,
            version_id=None if report.held is None else report.held.version_id,
            by_check=report.outcome is Outcome.CHECKED,
        ):
            return memory
        if incident.highest is not None:
            failure = Failure.over(
                incident.reason,
                incident.message,
                secret_id=secret_id,
                expires_at=report.expires_at,
                session_expires_at=report.session_expires_at,
                now=self.clients.clock(),
            )
            alert = self.alert([GradedFailure(incident.highest, failure)])
            if not self.publish(
                replace(alert, event=Event.REFRESH_RECOVERED, since=incident.since)
            ):
                return memory
        return replace(memory, incident=None)

    def _reminded_of_end(
        self, memory: RunMemory, report: Report, secret_id: str, policy: AlertPolicy
    ) -> RunMemory:
        session = report.session
        if session is None or session.email is not None or session.expires_at is None:
            return memory
        now = self.clients.clock()
        level = incidents.ending(session.expires_at, now=now, policy=policy)
        if level is None:
            return memory
        failure = Failure.ending(
            session.expires_at,
            secret_id=secret_id,
            location=self.location,
            token_expires_at=report.expires_at,
            now=now,
            holds_more=report.session_holds_more,
        )
        return self._reminded(memory, GradedFailure(level, failure), Event.SESSION_ENDING)

    def _reminded(self, memory: RunMemory, told: GradedFailure, event: Event) -> RunMemory:
        """Publish what is told once and daily, if it is due; return the memory with that."""
        now = self.clients.clock()
        # Without the login's end: a host may move that a little with each refresh.
        key = incidents.published_as(told.severity, told.failure.reason)
        if not incidents.is_due(memory.reminded, key, now=now):
            return memory
        if not self.publish(replace(self.alert([told]), event=event)):
            return memory
        kept = {
            each: at for each, at in memory.reminded.items() if now - at < incidents.REMIND_EVERY
        }
        return replace(memory, reminded={**kept, key: now})

    def log_failure(
        self,
        error: QwenTokenError,
        *,
        secret_id: str | None,
        critical_before: timedelta,
        message: str = "run failed",
    ) -> GradedFailure:
        """Log a failure; return it as an alert has it."""
        now = self.clients.clock()
        level = severity(
            error, now=now, since=now, policy=AlertPolicy(timedelta(), critical_before)
        )
        return self._logged(level, error, secret_id, message=message)

    def _logged(
        self,
        level: Severity,
        error: QwenTokenError,
        secret_id: str | None,
        *,
        message: str = "run failed",
    ) -> GradedFailure:
        log = self.logger.warning if level is Severity.NOTICE else self.logger.error
        log(
            message,
            secret_id=secret_id,
            reason=error.reason,
            severity=level.value,
            detail=str(error),
        )
        return self._graded(level, error, secret_id)

    def awaiting_token(self, secret_id: str) -> GradedFailure:
        """Return what an alert has of a secret that still waits for its first token."""
        failure = Failure.awaiting(secret_id=secret_id, location=self.location)
        return GradedFailure(Severity.WARNING, failure)

    def alert(self, failures: Sequence[GradedFailure]) -> Alert:
        """Return the alert of at least one failure, the gravest first."""
        gravest_first = sorted(failures, key=lambda each: -each.severity.grade)
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
            Failure.of(
                error, secret_id=secret_id, location=self.location, now=self.clients.clock()
            ),
        )
