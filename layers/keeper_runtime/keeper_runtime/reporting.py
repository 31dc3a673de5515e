"""Reports how a run ended to the log, the metrics and the caller.

Alerts and events for the owner are in ``owner``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from aws_lambda_powertools.metrics import MetricUnit

from qwen_token.errors import (
    QwenTokenError,
    RunFacts,
    TokenShortLivedError,
)
from qwen_token.policy import AlertPolicy, Severity, login_ends_at
from qwen_token.run_report import SUCCEEDED, Outcome, Report
from qwen_token.session import Session
from qwen_token.tokens import in_days, iso

from .clients import Clients
from .run_location import RunLocation
from .settings import RefreshSettings

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger, Metrics

    from qwen_token.ledger import Ledger

    from .owner import Owner

# For invalid settings, whose own policy is unknown. Their ConfigError is critical from the start.
AT_ONCE: Final = AlertPolicy(timedelta(), timedelta())

# The value of SessionDaysRemaining if the login has no known end, as with a sign-in.
_NO_END_DAYS = 365.0
# Only after these may an incident be over, and is it known whose session it is.
ENDS_AN_INCIDENT = frozenset({Outcome.REFRESHED, Outcome.SUPERSEDED, Outcome.CHECKED})


def _result_of_run(report: Report, *, secret_id: str, now: datetime) -> dict[str, object]:
    """Return the function's result after a run that did not fail."""
    return _result(
        report.outcome,
        secret_id=secret_id,
        version_id=None if report.held is None else report.held.version_id,
        expires_at=report.expires_at,
        session_expires_at=report.session_expires_at,
        grant=report.grant,
        now=now,
    )


def _result_of_failure(
    error: QwenTokenError, outcome: str, *, secret_id: str | None, now: datetime
) -> dict[str, object]:
    """Return the result of a failed run that is retried, or that had already replaced the token."""
    facts = error.facts or RunFacts()
    return _result(
        outcome,
        secret_id=secret_id,
        version_id=facts.version_id,
        expires_at=error.expires_at,
        session_expires_at=facts.session_expires_at,
        now=now,
    )


def _result(  # noqa: PLR0913 - the result's members, by name
    outcome: str,
    *,
    secret_id: str | None,
    version_id: str | None,
    expires_at: datetime | None,
    session_expires_at: datetime | None,
    now: datetime,
    grant: str | None = None,
) -> dict[str, object]:
    return {
        "outcome": str(outcome),
        "secret_id": secret_id,
        "version_id": version_id,
        "expires_at": iso(expires_at),
        "days_remaining": None if expires_at is None else in_days(expires_at - now),
        "grant": None if grant is None else str(grant),
        "session_expires_at": iso(session_expires_at),
    }


@dataclass(frozen=True, slots=True)
class Reporter:
    """Reports how the runs of one invocation ended."""

    logger: "Logger"
    metrics: "Metrics"
    clients: Clients
    location: RunLocation
    request_id: str

    def report_run(
        self,
        report: Report,
        settings: RefreshSettings,
        *,
        dry_run: bool,
        ledger: Callable[[], "Ledger"],
    ) -> dict[str, object]:
        """Report an invocation's only run, which did not fail; return its result."""
        secret_id = settings.secret_id
        counts = counts_of([report])
        if dry_run:
            # A dry run changes nothing, so it does not show that the token is kept alive.
            counts.pop("RunSucceeded", None)
        else:
            self._tell_owner(report, settings, ledger)
        self.count({"RunCompleted": 1, **counts}, expiries=expiries_of([report]))
        self._count_login(_login_end(report), is_known=_is_login_known(report))
        self._name_secret(secret_id)
        done = self.log_run(report, secret_id=secret_id)
        if report.outcome is Outcome.REFRESHED:
            self.owner.announce_refreshed([done])
        return done

    def report_failure(
        self,
        error: QwenTokenError,
        settings: RefreshSettings | None,
        *,
        secret_id: str | None,
        ledger: Callable[[], "Ledger"],
    ) -> dict[str, object] | None:
        """Report that an invocation's only run failed; ``settings`` are None if invalid.

        Return the result if the failure is only a notice, or None if the caller should raise it.
        """
        self.count({"RunCompleted": 1, **counts_of([error])}, expiries=expiries_of([error]))
        facts = error.facts or RunFacts(is_login_known=False)
        self._count_login(facts.login_ends_at, is_known=facts.is_login_known)
        self._name_secret(secret_id)
        severity = self.owner.hear_of_failure(
            error,
            secret_id=secret_id,
            ledger=ledger(),
            policy=AT_ONCE if settings is None else settings.alert_policy(),
        )
        result = partial(_result_of_failure, error, secret_id=secret_id, now=self.clients.clock())
        if facts.replaced is not None:
            # The run failed after it had replaced the token, so readers have a new one.
            self.owner.announce_refreshed([result(Outcome.REFRESHED)])
        return result("retrying") if severity is Severity.NOTICE else None

    def _tell_owner(
        self, report: Report, settings: RefreshSettings, ledger: Callable[[], "Ledger"]
    ) -> None:
        """Tell the owner about a run that did not fail, if there is anything to tell."""
        secret_id = settings.secret_id
        if report.outcome is Outcome.AWAITING_TOKEN:
            self.owner.hear_that_a_token_is_awaited(secret_id, ledger())
        elif report.outcome in ENDS_AN_INCIDENT:
            self.owner.hear_of_success(report, secret_id, ledger(), settings.alert_policy())

    @property
    def owner(self) -> "Owner":
        """The Owner, imported only when needed: most runs have nothing to tell the owner."""
        from .owner import Owner  # noqa: PLC0415

        return Owner(self.logger, self.clients, self.location, self.request_id)

    def log_run(self, report: Report, *, secret_id: str) -> dict[str, object]:
        """Log a run that did not fail; return its result."""
        done = _result_of_run(report, secret_id=secret_id, now=self.clients.clock())
        self.logger.info("run ended", extra=done)
        return done

    def count(
        self,
        counts: Mapping[str, int],
        *,
        expiries: Iterable[datetime] = (),
        logins: Iterable[datetime | None] = (),
    ) -> None:
        """Write the metrics.

        ``TokenDaysRemaining`` is for the first of ``expiries``, and ``SessionDaysRemaining`` for
        the first of ``logins`` to end (None stands for a login without a known end).
        """
        first = min(expiries, default=None)
        if first is not None:
            days = (first - self.clients.clock()) / timedelta(days=1)
            self.metrics.add_metric("TokenDaysRemaining", MetricUnit.NoUnit, days)
        ends = list(logins)
        if ends:
            known = [each for each in ends if each is not None]
            self._count_login(min(known, default=None), is_known=True)
        for name, count in counts.items():
            self.metrics.add_metric(name, MetricUnit.Count, count)

    def _count_login(self, ends_at: datetime | None, *, is_known: bool) -> None:
        """Write for how many days the keeper can go on without a person."""
        if is_known:
            days = _NO_END_DAYS
            if ends_at is not None:
                days = (ends_at - self.clients.clock()) / timedelta(days=1)
            self.metrics.add_metric("SessionDaysRemaining", MetricUnit.NoUnit, days)

    def _name_secret(self, secret_id: str | None) -> None:
        # Not a dimension: CloudWatch would charge for one more metric for each secret.
        self.metrics.add_metadata("secret_id", secret_id)


def expiries_of(ended: Iterable[Report | QwenTokenError]) -> list[datetime]:
    """Return the known expiries of the tokens that readers have after these runs."""
    return [each.expires_at for each in ended if each.expires_at is not None]


def logins_of(ended: Report | QwenTokenError, *, has_session: bool) -> list[datetime | None]:
    """Return when the login of a run's secret ends, in a list that is empty if the run read none.

    None stands for a login without a known end. ``has_session`` says that there is a session
    secret, so that the token alone is not the whole login.
    """
    if isinstance(ended, QwenTokenError):
        facts = ended.facts
        return [facts.login_ends_at] if facts is not None and facts.is_login_known else []
    if not _is_login_known(ended) or (has_session and ended.session is None):
        return []
    return [_login_end(ended)]


def _is_login_known(report: Report) -> bool:
    """Return whether the run knew the login: a run with a fresh token reads no session."""
    if report.session is not None:
        return True
    return report.held is not None and not report.held.token.is_access_token


def _login_end(report: Report) -> datetime | None:
    token = None if report.held is None else report.held.token
    return login_ends_at(token, report.session or Session())


def counts_of(ended: Iterable[Report | QwenTokenError]) -> dict[str, int]:
    """Return the metrics' counts of these runs. Zeros are left out, except for failures."""
    counts: Counter[str] = Counter()
    for each in ended:
        if isinstance(each, QwenTokenError):
            counts["RefreshFailed"] += 1
            # The run may have failed after it had stored the token.
            replaced = each.facts is not None and each.facts.replaced is not None
            counts["TokenRefreshed"] += replaced or isinstance(each, TokenShortLivedError)
        else:
            counts["RunSucceeded"] += each.outcome in SUCCEEDED
            counts["TokenRefreshed"] += each.outcome is Outcome.REFRESHED
    return {"RefreshFailed": 0, **+counts}
