"""What a run of the keeper did, and what is current after it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from .stored_token import StoredToken

if TYPE_CHECKING:
    from .session import Grant, Session


class Outcome(StrEnum):
    """What a run that did not fail did."""

    FRESH = "fresh"
    REFRESHED = "refreshed"
    SUPERSEDED = "superseded"
    WOULD_REFRESH = "would_refresh"
    AWAITING_TOKEN = "awaiting_token"  # noqa: S105 - no password
    CHECKED = "checked"
    LEASED = "leased"


# After these, readers get a token that lives.
SUCCEEDED: Final = frozenset(
    {Outcome.FRESH, Outcome.REFRESHED, Outcome.SUPERSEDED, Outcome.CHECKED}
)


@dataclass(frozen=True, slots=True)
class Report:
    """An outcome and the version that is current after it (None while awaiting the first token).

    ``grant`` is the one that gave the token, if one did. ``session`` is the session beside the
    token, None where the run had no need to read it. ``replaced`` is the version that ours took the
    place of. ``session_holds_more`` says that the session secret holds more than a login, or may.
    """

    outcome: Outcome
    held: StoredToken | None
    grant: "Grant | None" = None
    session: "Session | None" = None
    replaced: str | None = None
    session_holds_more: bool = field(default=True, compare=False)

    @property
    def expires_at(self) -> datetime | None:
        """When the token expires that readers have after the run."""
        return None if self.held is None else self.held.token.expires_at

    @property
    def session_expires_at(self) -> datetime | None:
        """When the refresh credential expires, as far as that is known."""
        return None if self.session is None else self.session.expires_at
