"""The keeper's runs for a manager: alone, or with a session that other processes share."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from qwen_token.errors import ConfigError, StoreError
from qwen_token.host_options import HostOptions
from qwen_token.keeper import Keeper
from qwen_token.ledger import Ledger, State, UnsharedState
from qwen_token.run_report import Outcome, Report
from qwen_token.session import Session
from qwen_token.stored_token import StoredToken

from .local_session import STORED, LocalSessions
from .local_store import SESSION, STATE, TokenStore
from .text_place import GuardedPlace, translated_store
from .text_state import TextState
from .write_behind import WritableStore, WriteBehind

# The time limit of a run with a session, so that the lease of a process that died expires soon.
_LONGEST_RUN: Final = timedelta(minutes=3)
# How often and how long a process waits for another one that is refreshing the same token.
_LOOK_EVERY: Final = 0.25
_MOST_LOOKS: Final = 120

_log = logging.getLogger(__name__)


class SharedLogin:
    """A session beside a local store, and the state that its processes share."""

    def __init__(
        self, store: WritableStore, session: Session, *, elapsed: Callable[[], float]
    ) -> None:
        """Take the store's places beside the token; ``elapsed`` is the clock that times runs.

        Raises:
        ConfigError: the store has no place for a session, or the session is empty.
        """
        if session is not STORED and session.refresh_token is None and session.email is None:
            raise ConfigError("session should have a refresh_token, or an email and a password")
        login = state = None
        if isinstance(store, TokenStore):
            with translated_store("asked for a place beside the token"):
                login, state = store.beside(SESSION), store.beside(STATE)
        if not isinstance(store, TokenStore) or login is None or state is None:
            raise no_place_for_session()
        self._store = store
        self.sessions = LocalSessions(GuardedPlace(login), session)
        self.state = TextState(GuardedPlace(state), elapsed=elapsed)

    def prepare(self) -> None:
        """Store the session if it is newer, and name versions as the other processes do."""
        self._store.name_by(self.sessions.prepare())


def no_place_for_session() -> ConfigError:
    """Return the error for a store that has no place for a session."""
    return ConfigError(
        "session needs a MemoryStore, a FileStore, or a TokenStore of your own with 'beside': a "
        "secret's session belongs to the stack, which keeps it in a secret that readers cannot read"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Runs the keeper over ``store``; ``login`` is the session beside it, if there is one.

    ``elapsed`` is a clock that nobody sets: the wall clock must not change a run's time limit.
    """

    store: WriteBehind
    hosts: HostOptions
    login: SharedLogin | None
    clock: Callable[[], datetime]
    elapsed: Callable[[], float]

    def refreshed(
        self, held: StoredToken | None, *, refresh_before: timedelta, only_check: bool
    ) -> StoredToken | None:
        """Replace the token, and return what is then current; None if there is none.

        With ``only_check``, a token that is not due and that the API accepts is not replaced. If
        another process is refreshing the token, its result is waited for.

        Raises:
            QwenTokenError: the run failed.
        """
        if self.login is None:
            # This process has no time limit; each call has its own.
            return self._run(UnsharedState(), refresh_before, time_left=lambda: timedelta.max).held
        self.login.prepare()
        for _ in range(_MOST_LOOKS):
            ends_at = self.elapsed() + _LONGEST_RUN.total_seconds()
            report = self._run(
                self.login.state,
                refresh_before,
                time_left=lambda ends_at=ends_at: timedelta(  # type: ignore[misc]
                    seconds=ends_at - self.elapsed()
                ),
                only_check=only_check,
            )
            if report.outcome is not Outcome.LEASED:
                return report.held
            time.sleep(_LOOK_EVERY)
            current = self.store.read()
            if current is not None and (held is None or current.token != held.token):
                return current
        if held is None or held.token.remaining(self.clock()) <= timedelta(0):
            raise StoreError(
                "another process has been refreshing this token for too long", may_pass=True
            )
        return held

    def _run(
        self,
        state: State,
        refresh_before: timedelta,
        *,
        time_left: Callable[[], timedelta],
        only_check: bool = False,
    ) -> Report:
        login = self.login
        ledger = Ledger(lambda: state, clock=self.clock, time_left=time_left)
        keeper = Keeper(
            store=self.store,
            sessions=None if login is None else lambda: login.sessions,
            ledger=lambda: ledger,
            client=self.hosts.api,
            sources=self.hosts.source,
            clock=self.clock,
            time_left=time_left,
            refresh_before=refresh_before,
        )
        try:
            return keeper.run(force=not only_check, check=only_check)
        finally:
            try:
                ledger.close()
            except StoreError as error:
                # The lease expires by itself.
                _log.warning("what the refresh did could not be noted: %s", error)
