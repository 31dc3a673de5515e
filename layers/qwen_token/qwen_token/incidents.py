"""Who is alerted, and when: what to publish, from the history of runs and the latest one. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from .errors import (
    QwenTokenError,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
    TokenNotExtendedError,
    TokenShortLivedError,
)
from .policy import AlertPolicy, Severity, severity
from .run_memory import Incident

# A reminder is published after this time, while the incident lasts.
REMIND_EVERY: Final = timedelta(hours=24)

# These stop the next token. A live current token does not show that they are over, so no check
# ends them.
_OUTLAST_A_CHECK: Final = frozenset(
    kind.reason
    for kind in (
        TokenNotExtendedError,
        TokenShortLivedError,
        SessionMalformedError,
        SessionRejectedError,
        SignInRefusedError,
    )
)


@dataclass(frozen=True, slots=True)
class Observed:
    """What to do about a failure: the updated incident, and whether to publish it.

    ``incident`` counts the failure as published. ``unpublished`` does not; it is kept if
    publishing fails.
    """

    incident: Incident
    unpublished: Incident
    severity: Severity
    publish: bool


def observe(
    before: Incident | None,
    error: QwenTokenError,
    *,
    now: datetime,
    policy: AlertPolicy,
    replaced: str | None = None,
) -> Observed:
    """Add a failed run to the history ``before``.

    An incident belongs to the token's current version. A version that could not be read counts as
    the same, and so does one that replaced ``replaced`` in the failing run itself.
    """
    version_id = error.facts.version_id if error.facts else None
    goes_on = before is not None and (
        None in {version_id, before.version_id} or before.version_id in {version_id, replaced}
    )
    incident = before if before is not None and goes_on else Incident(version_id, now)
    if version_id is not None:
        incident = replace(incident, version_id=version_id)
    level = severity(error, now=now, since=incident.since, policy=policy)
    key = published_as(level, error.reason)
    publish = is_due(incident.published, key, now=now)
    published = incident
    if publish:
        published = replace(incident, published={**incident.published, key: now})
        if incident.highest is None or level.grade >= incident.highest.grade:
            published = replace(published, highest=level, reason=error.reason, message=str(error))
    return Observed(published, incident, level, publish)


def published_as(level: Severity, reason: str) -> str:
    """Return the key under which a reason at a severity is recorded as published."""
    return f"{level.value} {reason}"


def is_due(published: Mapping[str, datetime], key: str, *, now: datetime) -> bool:
    """Return whether ``key`` was never published, or is due for a reminder."""
    last = published.get(key)
    return last is None or now - last >= REMIND_EVERY


def is_over(incident: Incident, *, version_id: str | None, by_check: bool) -> bool:
    """Return whether a run that succeeded ends the incident; ``version_id`` is current after it.

    A check of the version that the incident belongs to does not end what stops the next token.
    """
    if not by_check or version_id != incident.version_id:
        return True
    reasons = {key.split()[1] for key in incident.published}
    return not reasons & _OUTLAST_A_CHECK


def ending(ends_at: datetime, *, now: datetime, policy: AlertPolicy) -> Severity | None:
    """Return the severity of the coming end of a login; None if it is not near yet.

    With exactly ``refresh_before`` left it is a WARNING, with less than ``critical_before``
    CRITICAL.
    """
    left = ends_at - now
    if left < policy.critical_before:
        return Severity.CRITICAL
    return Severity.WARNING if left <= policy.refresh_before else None
