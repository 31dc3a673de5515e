"""Where a token and its login stand: both lives, the kind of login, what the runs met."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from qwen_token.errors import TokenRejectedError
from qwen_token.policy import Severity, TokenState, login_ends_at, state_of
from qwen_token.run_memory import Incident
from qwen_token.session import Grant, Session
from qwen_token.tokens import date, in_days, iso

from .login_kinds import kind_of
from .readings import MemoryReading, SecretReading, SessionReading


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A token, its login and what the runs remember, as they were at ``now``."""

    now: datetime
    refresh_before: timedelta
    critical_before: timedelta
    secret: SecretReading
    login: SessionReading
    runs: MemoryReading

    @property
    def session(self) -> Session | None:
        """The session beside the token, an empty one where there is none; None: not known."""
        stored = self.login.stored
        if stored is None:
            return None if self.login.problem else Session()
        return stored.session

    @property
    def session_expires_at(self) -> datetime | None:
        """When the refresh credential expires: a run may have learnt it since it was stored."""
        stored, memory = self.login.stored, self.runs.memory
        if stored is None or stored.session.refresh_token is None:
            return None
        if memory.session_version_id == stored.version_id and memory.session_expires_at:
            return memory.session_expires_at
        return stored.session.expires_at

    @property
    def login_ends_at(self) -> datetime | None:
        """When a person is needed at the latest; None: no end is known."""
        token, session = self.secret.token, self.session
        if session is None:
            if self.login.exists:
                return None
            # What cannot be read may well be a session: an access token has one as a rule.
            return None if token is None or token.is_access_token else token.expires_at
        if session.email is None and session.refresh_token is not None:
            return self.session_expires_at
        return login_ends_at(token, session)

    @property
    def kind(self) -> tuple[str | None, str]:
        """The kind of login, and that in words; the kind is None where it is not known."""
        session = self.session
        if session is not None:
            return kind_of(session, beside=self.secret.token)
        unread = "not known: the session secret "
        unread += "may not be read from here" if self.login.forbidden else "cannot be read"
        return None, f"{unread} ({self.login.problem})"

    @property
    def account(self) -> str | None:
        """The account of the token, as it says itself or as the API said to a run."""
        held, memory = self.secret.held, self.runs.memory
        if held is not None and held.token.account is not None:
            return held.token.account
        if held is not None and memory.confirmed_version_id == held.version_id:
            return memory.account
        return None

    @property
    def confirmed_at(self) -> datetime | None:
        """When the API last accepted this very token."""
        held, memory = self.secret.held, self.runs.memory
        is_this = held is not None and memory.confirmed_version_id == held.version_id
        return memory.confirmed_at if is_this else None

    @property
    def refused_at(self) -> datetime | None:
        """When the API refused this very token, if it has not accepted it since."""
        held, refusal = self.secret.held, self.runs.memory.refusals.get(Grant.EXCHANGE)
        if held is None or refusal is None or refusal.version_id != held.version_id:
            return None
        if refusal.reason != TokenRejectedError.reason:
            return None
        confirmed_at = self.confirmed_at
        return refusal.at if confirmed_at is None or confirmed_at < refusal.at else None

    @property
    def state(self) -> TokenState | None:
        """The token's place on its timeline."""
        held = self.secret.held
        if held is None:
            return None
        return state_of(held, now=self.now, refresh_before=self.refresh_before)

    @property
    def needs_a_person(self) -> bool:
        """Whether nothing else helps: there is no usable token, or soon there will be none."""
        incident = self.runs.memory.incident
        if not self.secret.unread:
            # The next run gets a first token where there is a login to get it with.
            has_login = self.login.stored is not None or (self.login.unread and self.login.exists)
            waits = self.secret.awaits_first and has_login
            if self.secret.token is None and not waits:
                return True
            if self.state is TokenState.EXPIRED or self.refused_at or self.is_ending:
                return True
        if self.login.problem and not self.login.unread:
            return True
        return incident is not None and is_grave(incident)

    @property
    def has_gaps(self) -> bool:
        """Whether something of it could not be read that should be: a login may be closed."""
        return (
            self.secret.unread
            or self.runs.problem is not None
            or (self.login.unread and not self.login.forbidden)
        )

    @property
    def is_ending(self) -> bool:
        """Whether the login ends so soon that a person is needed now."""
        ends_at = self.login_ends_at
        return ends_at is not None and ends_at - self.now < self.critical_before


def is_grave(incident: Incident) -> bool:
    """Return whether an incident is more than trouble that may pass."""
    return incident.highest in {Severity.WARNING, Severity.CRITICAL}


def incident_text(incident: Incident) -> str:
    since = f"since {date(incident.since)}"
    if incident.highest is None:
        return f"{since}: not published yet, the function's log says what it is (make logs)"
    return f"{since}: {incident.message} ({incident.reason}, {incident.highest.value})"


def described_token(standing: Standing) -> dict[str, object]:
    token, state = standing.secret.token, standing.state
    if token is None or state is None:
        names = ("account", "state", "issued_at", "expires_at", "days_remaining")
        return dict.fromkeys(names)
    return {
        "account": standing.account,
        "state": state.value,
        "issued_at": iso(token.issued_at),
        "expires_at": token.expires_at.isoformat(),
        "days_remaining": in_days(token.remaining(standing.now)),
    }


def described_login(standing: Standing) -> dict[str, object]:
    expires_at, ends_at = standing.session_expires_at, standing.login_ends_at
    return {
        "kind": standing.kind[0],
        "problem": standing.login.problem,
        "session_expires_at": iso(expires_at),
        "session_days_remaining": expires_at and in_days(expires_at - standing.now),
        "ends_at": iso(ends_at),
    }


def described_incident(incident: Incident | None) -> dict[str, object] | None:
    if incident is None:
        return None
    return {
        "since": incident.since.isoformat(timespec="seconds"),
        "severity": incident.highest and incident.highest.value,
        "reason": incident.reason or None,
        "message": incident.message or None,
    }
