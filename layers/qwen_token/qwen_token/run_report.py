"""What a run of the keeper did, and what is current after it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from .stored_token import StoredToken

if TYPE_CHECKING:
    from .session import Grant, Session


class Outcome(StrEnum):
    """The result of a run that did not fail."""

    FRESH = "fresh"
    REFRESHED = "refreshed"
    SUPERSEDED = "superseded"
    WOULD_REFRESH = "would_refresh"
    AWAITING_TOKEN = "awaiting_token"  # noqa: S105 - no password
    CHECKED = "checked"
    LEASED = "leased"


# After these, readers get a token that is alive.
SUCCEEDED: Final = frozenset(
    {Outcome.FRESH, Outcome.REFRESHED, Outcome.SUPERSEDED, Outcome.CHECKED}
)


@dataclass(frozen=True, slots=True)
class Report:
    """An outcome and the version that is current after it (None while awaiting the first token).

    ``grant`` is the one that got the token, if one did. ``session`` is the session beside the
    token, None if the run had no need to read it. ``replaced`` is the version that this run
    replaced. ``session_holds_more``: the session secret holds more than a login, or may.
    """

    outcome: Outcome
    held: StoredToken | None
    grant: "Grant | None" = None
    session: "Session | None" = None
    replaced: str | None = None
    session_holds_more: bool = field(default=True, compare=False)

    @property
    def expires_at(self) -> datetime | None:
        """The expiry of the token that readers have after the run."""
        return None if self.held is None else self.held.token.expires_at

    @property
    def session_expires_at(self) -> datetime | None:
        """The expiry of the refresh credential, if known."""
        return None if self.session is None else self.session.expires_at
