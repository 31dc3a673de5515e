"""The use case: one run for one secret, from reading its token to promoting a better one."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from .errors import (
    QwenTokenError,
    StoreError,
    TokenMalformedError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from .policy import TokenState, assess, require_better, require_long_lived
from .stored_token import StoredToken
from .tokens import Token

# What one call to the store takes at most.
STORE_CALL_LIMIT: Final = timedelta(seconds=15)
# Time for what a run does after its calls to Qwen: stage, promote, read what is current, and alert.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
# The second turn is for another writer's token that is due itself.
_TURNS: Final = 2
# The most that one call to Qwen may take, its retries included.
_API_CALL_LIMIT: Final = timedelta(seconds=25)


class Outcome(StrEnum):
    """What a run that did not fail did."""

    FRESH = "fresh"
    REFRESHED = "refreshed"
    SUPERSEDED = "superseded"
    WOULD_REFRESH = "would_refresh"
    AWAITING_TOKEN = "awaiting_token"  # noqa: S105 - no password


# After these, readers get a token that lives.
SUCCEEDED: Final = frozenset({Outcome.FRESH, Outcome.REFRESHED, Outcome.SUPERSEDED})


@dataclass(frozen=True, slots=True)
class Report:
    """An outcome and the version that is current after it (None while awaiting the first token)."""

    outcome: Outcome
    held: StoredToken | None

    @property
    def expires_at(self) -> datetime | None:
        """When the token expires that readers have after the run."""
        return None if self.held is None else self.held.token.expires_at


class Store(Protocol):
    """The secret; ``SecretStore`` says what each step promises."""

    def read(self) -> StoredToken | None: ...
    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken: ...
    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken: ...
    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken: ...
    def alternatives(self, *, to: StoredToken) -> list[StoredToken]: ...


class Client(Protocol):
    """The API; ``QwenApi`` says what each call promises."""

    def refresh(self, token: Token, *, within: timedelta) -> Token: ...
    def verify(self, token: Token, *, within: timedelta) -> None: ...


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps the token of one secret alive.

    ``client`` is called for the API's client when it is first needed: a run on a fresh token needs
    none. ``clock`` returns the aware time, ``time_left`` what is left until the run is killed.
    """

    store: Store
    client: Callable[[], Client]
    clock: Callable[[], datetime]
    time_left: Callable[[], timedelta]
    refresh_before: timedelta
    critical_before: timedelta

    def run(self, *, force: bool = False, dry_run: bool = False) -> Report:
        """Do one run: read, assess, and where the token is due, refresh, stage, verify, promote.

        Raises:
            QwenTokenError: what failed, with the expiry of the token that was current.
        """
        held = self.store.read()
        if held is None:
            return Report(Outcome.AWAITING_TOKEN, None)
        if self._state(held) is TokenState.FRESH and not force:
            return Report(Outcome.FRESH, held)
        if dry_run:
            return Report(Outcome.WOULD_REFRESH, held)
        for _ in range(_TURNS):
            outcome, held = self._turn(held)
            if outcome is Outcome.REFRESHED or self._state(held) is TokenState.FRESH:
                return Report(outcome, held)
        raise StoreError(
            "another writer keeps replacing the token by one that is due itself",
            expires_at=held.token.expires_at,
        )

    def _turn(self, held: StoredToken) -> tuple[Outcome, StoredToken]:
        """Replace ``held``, and return what is current then: ours, or another writer's."""
        try:
            return self._refresh_or_recover(held)
        except (TokenShortLivedError, TokenMissingError, TokenMalformedError):
            # These speak of a version that is current by now, no longer of the one that was read.
            raise
        except QwenTokenError as error:
            try:
                current = self.store.read()
            except StoreError:
                # The owner is alerted to the first failure.
                current = None
            if current is None or current.version_id == held.version_id:
                raise error.with_expiry(held.token.expires_at) from error.__cause__
            # Whatever became of the old token: somebody put in another one meanwhile.
            return Outcome.SUPERSEDED, current

    def _refresh_or_recover(self, held: StoredToken) -> tuple[Outcome, StoredToken]:
        try:
            staged = self._successor(held, over=held)
        except TokenRejectedError as rejection:
            return self._recover(held, rejection)
        return self._promote(staged, over=held)

    def _successor(self, source: StoredToken, *, over: StoredToken) -> StoredToken:
        """Trade ``source``'s token for a better one, staged to take the place of ``over``."""
        successor = self.client().refresh(source.token, within=self._api_time(calls=2))
        require_better(successor, than=source.token)
        # Staged before it is verified: should the API retire the old token as it issues the new
        # one, the new one is already safe.
        staged = self.store.stage(successor, over=over)
        verify_new(successor, by=self.client(), within=self._api_time(calls=1))
        return staged

    def _promote(self, staged: StoredToken, *, over: StoredToken) -> tuple[Outcome, StoredToken]:
        current = self.store.promote(staged, over=over)
        if current.version_id != staged.version_id:
            return Outcome.SUPERSEDED, current
        require_long_lived(staged.token, now=self.clock(), critical_before=self.critical_before)
        return Outcome.REFRESHED, staged

    def _recover(
        self, held: StoredToken, rejection: TokenRejectedError
    ) -> tuple[Outcome, StoredToken]:
        """Look for a staged or previous token that still lives, before a person is called.

        Such a token is there when a run died between staging and promoting, or when something
        wrong was put in by hand.
        """
        obstacle: QwenTokenError | None = None
        try:
            for candidate in self.store.alternatives(to=held):
                if self._state(candidate) is TokenState.EXPIRED:
                    # So are those after it: the one that lives longest comes first.
                    break
                try:
                    staged = self._revive(candidate, over=held)
                except (TokenRejectedError, TokenNotExtendedError, WrongAccountError):
                    continue
                except UpstreamError as error:
                    obstacle = error
                    continue
                return self._promote(staged, over=held)
        except StoreError as error:
            obstacle = error
        if obstacle is None:
            raise rejection
        raise TokenRejectedError(
            f"{rejection}; an earlier or staged token could not be tried: {obstacle}"
        ) from obstacle

    def _revive(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        if self._state(candidate) is not TokenState.FRESH:
            return self._successor(candidate, over=over)
        self.client().verify(candidate.token, within=self._api_time(calls=1))
        return self.store.adopt(candidate, over=over)

    def _state(self, held: StoredToken) -> TokenState:
        return assess(held.token, now=self.clock(), refresh_before=self.refresh_before)

    def _api_time(self, *, calls: int) -> timedelta:
        """Return the time for the next of ``calls`` calls to Qwen, keeping time for the alert."""
        return min(_API_CALL_LIMIT, (self.time_left() - _RESERVE) / calls)


def verify_new(successor: Token, *, by: Client, within: timedelta) -> None:
    """Check that the API knows the token that it has just issued.

    Raises:
        UpstreamUnexpectedError: the API refuses it: that does not make the token before it dead.
        WrongAccountError: the API answered for another account, or for a guest.
        UpstreamError: one of its kinds; whether ``successor`` is alive is unknown.
    """
    try:
        by.verify(successor, within=within)
    except TokenRejectedError as error:
        raise UpstreamUnexpectedError(
            "the API refused the token that it had just issued"
        ) from error
