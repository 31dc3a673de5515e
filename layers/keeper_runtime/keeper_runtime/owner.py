"""Tells the owner how runs ended: alerts go to the topic, events to the bus.

``qwen_token.incidents`` decides what is published and when; this module publishes it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Self

from qwen_token import incidents
from qwen_token.errors import QwenTokenError, RunFacts
from qwen_token.policy import AlertPolicy, Severity
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
    """A failure in words, and its severity."""

    severity: Severity
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Something to publish about one secret.

    ``remembered`` returns the memory to store once it is published. If ``is_announced`` is true, it
    also goes to the bus, for programs.
    """

    event: Event
    told: GradedFailure
    ledger: "Ledger"
    remembered: Callable[[RunMemory], RunMemory]
    since: datetime | None = None
    is_announced: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """Tells the owner how the runs of one invocation ended.

    The topic and the bus are read straight from the environment, so that an environment that is
    otherwise invalid can still be reported. If publishing fails, that is logged and nothing raised.
    """

    logger: "Logger"
    clients: Clients
    location: RunLocation
    request_id: str

    def of_member(self, session_secret_id: str) -> Self:
        """Return an Owner for a member of the fleet, with this session secret (empty if none)."""
        return replace(self, location=replace(self.location, session_secret_id=session_secret_id))

    def hear_of_failure(
        self,
        error: QwenTokenError,
        *,
        secret_id: str | None,
        ledger: "Ledger",
        policy: AlertPolicy,
    ) -> Severity:
        """Log a failed run, and publish the failure if that is due; return its severity."""
        level, due = self.failed(error, secret_id=secret_id, ledger=ledger, policy=policy)
        self.publish_due(due)
        return level

    def hear_that_a_token_is_awaited(self, secret_id: str, ledger: "Ledger") -> None:
        """Publish once, and then daily, that the secret still waits for its first token."""
        self.publish_due(self.awaiting(secret_id, ledger))

    def hear_of_success(
        self, report: Report, secret_id: str | None, ledger: "Ledger", policy: AlertPolicy
    ) -> None:
        """Publish, if due, that an incident is over and that the login will end soon."""
        self.publish_due(self.succeeded(report, secret_id, ledger, policy))

    def failed(
        self,
        error: QwenTokenError,
        *,
        secret_id: str | None,
        ledger: "Ledger",
        policy: AlertPolicy,
    ) -> tuple[Severity, list[Due]]:
        """Log and remember a failed run; return its severity, and what to publish."""
        memory = ledger.history()
        observed = incidents.observe(
            memory.incident,
            error,
            now=self.clients.clock(),
            policy=policy,
            replaced=(error.facts or RunFacts()).replaced,
        )
        told = self._logged(observed.severity, error, secret_id)
        ledger.remember(replace(memory, incident=observed.unpublished))
        if not observed.publish:
            return observed.severity, []
        due = Due(
            event=Event.REFRESH_FAILED,
            told=told,
            ledger=ledger,
            remembered=lambda memory: replace(memory, incident=observed.incident),
            since=observed.incident.since,
            is_announced=True,
        )
        return observed.severity, [due]

    def awaiting(self, secret_id: str, ledger: "Ledger") -> list[Due]:
        """Return what to publish about a secret that still waits for its first token."""
        ledger.remember(ledger.history())
        failure = Failure.awaiting(secret_id=secret_id, location=self.location)
        return self._reminder(
            GradedFailure(Severity.WARNING, failure), Event.REFRESH_FAILED, ledger
        )

    def succeeded(
        self, report: Report, secret_id: str | None, ledger: "Ledger", policy: AlertPolicy
    ) -> list[Due]:
        """Return what to publish after a run without failure: a recovery, a login's coming end."""
        return [
            *self._recovery(report, secret_id, ledger),
            *self._reminder_of_end(report, secret_id, ledger, policy),
        ]

    def publish_due(self, due: Sequence[Due]) -> None:
        """Publish one alert for each kind of event, and remember what was published."""
        for event in Event:
            of_event = [each for each in due if each.event is event]
            if not of_event:
                continue
            begun = [each.since for each in of_event if each.since is not None]
            told = [each.told for each in of_event]
            alert = replace(self.alert(told), event=event, since=min(begun, default=None))
            if self.publish(alert):
                for each in of_event:
                    each.ledger.remember(each.remembered(each.ledger.memory))
            announced = [each.told for each in of_event if each.is_announced]
            if announced:
                self.announce_failed(replace(self.alert(announced), since=alert.since))

    def _recovery(self, report: Report, secret_id: str | None, ledger: "Ledger") -> list[Due]:
        incident = ledger.memory.incident
        if incident is None or not incidents.is_over(
            incident,
            version_id=None if report.held is None else report.held.version_id,
            by_check=report.outcome is Outcome.CHECKED,
        ):
            return []
        if incident.highest is None:
            ledger.remember(replace(ledger.memory, incident=None))
            return []
        failure = Failure.over(
            incident.reason,
            incident.message,
            secret_id=secret_id,
            expires_at=report.expires_at,
            session_expires_at=report.session_expires_at,
            now=self.clients.clock(),
        )
        return [
            Due(
                event=Event.REFRESH_RECOVERED,
                told=GradedFailure(incident.highest, failure),
                ledger=ledger,
                remembered=lambda memory: replace(memory, incident=None),
                since=incident.since,
            )
        ]

    def _reminder_of_end(
        self, report: Report, secret_id: str | None, ledger: "Ledger", policy: AlertPolicy
    ) -> list[Due]:
        session = report.session
        if session is None or session.email is not None or session.expires_at is None:
            return []
        now = self.clients.clock()
        level = incidents.ending(session.expires_at, now=now, policy=policy)
        if level is None:
            return []
        failure = Failure.ending(
            session.expires_at,
            secret_id=secret_id,
            location=self.location,
            token_expires_at=report.expires_at,
            now=now,
            holds_more=report.session_holds_more,
        )
        return self._reminder(GradedFailure(level, failure), Event.SESSION_ENDING, ledger)

    def _reminder(self, told: GradedFailure, event: Event, ledger: "Ledger") -> list[Due]:
        """Return something that is published once and then daily, if it is due."""
        now = self.clients.clock()
        # The key leaves out when the login ends: a host may move that a little with each refresh.
        key = incidents.published_as(told.severity, told.failure.reason)
        if not incidents.is_due(ledger.memory.reminded, key, now=now):
            return []

        def remembered(memory: RunMemory) -> RunMemory:
            kept = {
                each: at
                for each, at in memory.reminded.items()
                if now - at < incidents.REMIND_EVERY
            }
            return replace(memory, reminded={**kept, key: now})

        return [Due(event=event, told=told, ledger=ledger, remembered=remembered)]

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

    def alert(self, failures: Sequence[GradedFailure]) -> Alert:
        """Return an alert about these failures (at least one), the most severe first."""
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
            # boto3 and the code that it runs may raise anything. The reported failure matters more.
            self.logger.exception("the alert could not be published", topic_arn=topic_arn)
            return False
        return True

    def announce_refreshed(self, results: Iterable[Mapping[str, object]]) -> None:
        """Put an event on the bus, if there is one, for each of these results of a refresh."""
        self._announce(
            [ChangeEvent(REFRESHED, each, (str(each["secret_id"]),)) for each in results]
        )

    def announce_failed(self, alert: Alert) -> None:
        """Put an alert's failures, as far as they fit, on the bus (if any) as one event."""
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
            # As with an alert, an event that cannot be sent must not fail the run.
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
