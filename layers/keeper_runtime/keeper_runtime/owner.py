"""What the owner is told: alerts to the topic, events to the bus.

Who is told, and when, is decided in ``qwen_token.incidents``; here that is carried out.
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
    """A failure in words, and how bad it is."""

    severity: Severity
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What it is time to publish of one secret; ``remembered`` is the memory once it was.

    ``is_announced`` says that programs are to hear of it as well, on the bus.
    """

    event: Event
    told: GradedFailure
    ledger: "Ledger"
    remembered: Callable[[RunMemory], RunMemory]
    since: datetime | None = None
    is_announced: bool = False


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

    def of_member(self, session_secret_id: str) -> Self:
        """Return the same, for what is said of another secret, with this session secret."""
        return replace(self, location=replace(self.location, session_secret_id=session_secret_id))

    def hear_of_failure(
        self,
        error: QwenTokenError,
        *,
        secret_id: str | None,
        ledger: "Ledger",
        policy: AlertPolicy,
    ) -> Severity:
        """Log a failed run, and publish it where it is time to; return how bad it is."""
        level, due = self.failed(error, secret_id=secret_id, ledger=ledger, policy=policy)
        self.publish_due(due)
        return level

    def hear_that_a_token_is_awaited(self, secret_id: str, ledger: "Ledger") -> None:
        """Publish, once and daily, that the secret still waits for its first token."""
        self.publish_due(self.awaiting(secret_id, ledger))

    def hear_of_success(
        self, report: Report, secret_id: str | None, ledger: "Ledger", policy: AlertPolicy
    ) -> None:
        """Publish that an incident is over, and that the login ends, where it is time to."""
        self.publish_due(self.succeeded(report, secret_id, ledger, policy))

    def failed(
        self,
        error: QwenTokenError,
        *,
        secret_id: str | None,
        ledger: "Ledger",
        policy: AlertPolicy,
    ) -> tuple[Severity, list[Due]]:
        """Log a failed run, and have it remembered; return how bad it is, and what is due."""
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
        """Return what is due of a secret that still waits for its first token."""
        ledger.remember(ledger.history())
        failure = Failure.awaiting(secret_id=secret_id, location=self.location)
        return self._reminder(
            GradedFailure(Severity.WARNING, failure), Event.REFRESH_FAILED, ledger
        )

    def succeeded(
        self, report: Report, secret_id: str | None, ledger: "Ledger", policy: AlertPolicy
    ) -> list[Due]:
        """Return what is due after a run that did not fail: a recovery, that the login ends."""
        return [
            *self._recovery(report, secret_id, ledger),
            *self._reminder_of_end(report, secret_id, ledger, policy),
        ]

    def publish_due(self, due: Sequence[Due]) -> None:
        """Publish what is due, one alert for each kind of event; what was is remembered."""
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
        """Return what is told once and daily, if it is due."""
        now = self.clients.clock()
        # Without the login's end: a host may move that a little with each refresh.
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
