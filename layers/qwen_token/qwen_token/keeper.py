"""The use case: one run for one secret. Most runs find a fresh token and end after one read."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from .errors import forgets_locals
from .policy import TokenState, is_braked, state_of
from .ports import Client, Sessions, Store, at_once
from .run_report import Outcome, Report

if TYPE_CHECKING:
    from .grants import TokenSource
    from .ledger import Ledger
    from .renewal import Renewal
    from .session import Grant


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps the token of one secret alive.

    ``sessions`` (None: there is no session secret), ``ledger``, ``client`` and ``sources`` create
    the session secret, the ledger, the API's client and a grant when these are first needed: a run
    on a fresh token needs none. ``clock`` returns the aware time, ``time_left`` the time until the
    run is killed. ``sign_in_turn`` takes this run's turn to sign in, or returns the time of the
    next turn.
    """

    store: Store
    sessions: Callable[[], Sessions] | None
    ledger: Callable[[], "Ledger"]
    client: Callable[[], Client]
    sources: Callable[["Grant"], "TokenSource"]
    clock: Callable[[], datetime]
    time_left: Callable[[], timedelta]
    refresh_before: timedelta
    sign_in_turn: Callable[[], datetime | None] = at_once

    @forgets_locals
    def run(self, *, force: bool = False, dry_run: bool = False, check: bool = False) -> Report:
        """Do one run: read, assess, and if the token is due, obtain, stage, verify, promote.

        If the ledger was needed, it stays open: the caller closes it after reporting.

        Raises:
            QwenTokenError: with what the run knew about the token and its login.
        """
        held = self.store.read()
        if held is None:
            return self._first(dry_run=dry_run)
        state = state_of(held, now=self.clock(), refresh_before=self.refresh_before)
        is_fresh, may_force = state is TokenState.FRESH, not is_braked(held, now=self.clock())
        if dry_run:
            is_due = not is_fresh or (force and may_force)
            return Report(Outcome.WOULD_REFRESH if is_due else Outcome.FRESH, held)
        if is_fresh and not force and not check:
            return Report(Outcome.FRESH, held)
        return self._renewal().run(held, check_first=is_fresh and not (force and may_force))

    def _first(self, *, dry_run: bool) -> Report:
        """Get the first token, if there is a session to get it with."""
        if self.sessions is None or self.sessions().read() is None:
            return Report(Outcome.AWAITING_TOKEN, None)
        if dry_run:
            return Report(Outcome.WOULD_REFRESH, None)
        return self._renewal().run(None, check_first=False)

    def _renewal(self) -> "Renewal":
        # Most runs need neither this nor its imports, which cost start-up time.
        from .renewal import Renewal  # noqa: PLC0415

        return Renewal(
            store=self.store,
            sessions=None if self.sessions is None else self.sessions(),
            ledger=self.ledger(),
            client=self.client,
            sources=self.sources,
            clock=self.clock,
            time_left=self.time_left,
            refresh_before=self.refresh_before,
            sign_in_turn=self.sign_in_turn,
        )
