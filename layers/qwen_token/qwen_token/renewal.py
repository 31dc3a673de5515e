"""A renewal: what a run does while it holds the lease, to replace a token by a better one."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from .errors import (
    QwenTokenError,
    RunFacts,
    SessionError,
    SessionMalformedError,
    SessionRejectedError,
    StoreError,
    TokenDocumentError,
    TokenError,
    TokenMalformedError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamError,
    UpstreamUnexpectedError,
    WrongAccountError,
    error_of,
)
from .grant_chain import GrantChain, Obtained, Refused, SupersededError
from .grants import TokenSource
from .ledger import Ledger
from .policy import (
    BRAKE,
    TokenState,
    expires_later,
    is_braked,
    login_ends_at,
    require_better,
    require_long_lived,
    state_of,
)
from .ports import STORE_CALL_LIMIT, Client, Sessions, Store, at_once
from .run_memory import Refusal
from .run_report import Outcome, Report
from .session import Grant, Session
from .stored_session import NO_SESSION, StoredSession
from .stored_token import StoredToken, holds_more, rendered
from .tokens import Token

# Time kept for the calls after those to Qwen: stage, promote, read the current version, alert.
_RESERVE: Final = 4 * STORE_CALL_LIMIT
# One turn, one more if another writer's token is due itself, and one for another writer's session.
_TURNS: Final = 3
# A single token that the API refuses soon after accepting it means that the login ended. Two within
# an hour mean that the API works this way, or that somebody else refreshes the same login: then
# the next version has to wait.
_EARLY_DEATHS: Final = 2
_EARLY_DEATHS_WITHIN: Final = timedelta(hours=1)
# The most that one call to Qwen may take, its retries included.
_API_CALL_LIMIT: Final = timedelta(seconds=25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """Replaces the token of one secret, or checks it; its fields are the keeper's."""

    store: Store
    sessions: Sessions | None
    ledger: Ledger
    client: Callable[[], Client]
    sources: Callable[[Grant], TokenSource]
    clock: Callable[[], datetime]
    time_left: Callable[[], timedelta]
    refresh_before: timedelta
    sign_in_turn: Callable[[], datetime | None] = at_once

    def run(self, held: StoredToken | None, *, check_first: bool) -> Report:
        """Take the lease and replace ``held``; with ``check_first``, only if it is dead.

        Raises:
            QwenTokenError: with what the run knew about the token and its login.
        """
        try:
            is_ours = self.ledger.open()
        except StoreError as error:
            raise self._failed(error, held, None) from error.__cause__
        if not is_ours:
            return Report(Outcome.LEASED, held)
        if held is not None and check_first:
            report = self._checked(held)
            if report is not None:
                return report
        if held is not None and (check_first or held.is_rejected):
            self._require_patience(held)
        return self._refreshed(held)

    def _checked(self, held: StoredToken) -> Report | None:
        """Ask the API about the current token. Return None if it is dead, or was lately."""
        chain = self._chain()
        if chain.is_dead(held):
            return None
        try:
            account = self.client().verify(held.token, within=self._api_time(1))
        except TokenRejectedError as error:
            chain.note_refusal(Grant.EXCHANGE, held.version_id, error)
            if self._is_braked(held):
                self._note_early_death()
            return None
        except UpstreamError:
            # Without an answer, nothing changes.
            return Report(Outcome.FRESH, held)
        except QwenTokenError as error:
            return self._superseded_or_raise(error, held, None)
        self._confirm(held, account, None)
        try:
            # Read so that the owner is warned before the login ends, however long this token lives.
            stored = chain.session()
        except (SessionMalformedError, StoreError, SupersededError):
            # The session is not needed yet: the run that needs it reports this.
            return Report(Outcome.CHECKED, held)
        return Report(
            Outcome.CHECKED,
            held,
            session=stored.session,
            session_holds_more=stored.holds_more,
        )

    def _require_patience(self, held: StoredToken) -> None:
        """Raise TokenShortLivedError if the next token would probably die as the last ones did."""
        if (
            self._is_braked(held)
            and held.written_at is not None
            and self._die_young()
            and not self._has_new_login()
        ):
            self._leave_due(held)
            raise self._failed(
                TokenShortLivedError(
                    f"the API refused the last {self.ledger.memory.died_young} tokens within "
                    f"{BRAKE} of accepting them; the next one is asked for at "
                    f"{held.written_at + BRAKE:%H:%M} UTC"
                ),
                held,
                None,
            )

    def _has_new_login(self) -> bool:
        chain = self._chain()
        try:
            return chain.is_new_login(chain.session())
        except SupersededError:
            return True
        except (SessionMalformedError, StoreError):
            # The owner is alerted to the short-lived tokens first.
            return False

    def _note_early_death(self) -> None:
        memory, now = self.ledger.memory, self.clock()
        last = memory.died_young_at
        before = 0 if last is None or now - last >= _EARLY_DEATHS_WITHIN else memory.died_young
        self.ledger.memory = replace(memory, died_young=before + 1, died_young_at=now)

    def _die_young(self) -> bool:
        """Return whether the API has lately refused tokens soon after accepting them."""
        memory = self.ledger.memory
        return (
            memory.died_young >= _EARLY_DEATHS
            and memory.died_young_at is not None
            and self.clock() - memory.died_young_at < _EARLY_DEATHS_WITHIN
        )

    def _refreshed(self, held: StoredToken | None) -> Report:
        """Replace ``held``, while holding the lease."""
        memory = self.ledger.memory
        if held is None or held.version_id in {memory.replaced, memory.superseded}:
            # This run may have read it before another run spent it and released the lease.
            current = self.store.read()
            if current is not None and (held is None or current.version_id != held.version_id):
                held = current
                if self._state(held) is TokenState.FRESH:
                    return Report(Outcome.SUPERSEDED, held)
        for _ in range(_TURNS):
            self._require_place(held)
            try:
                report = self._turn(held)
            except QwenTokenError:
                self._leave_due(held)
                raise
            if report.outcome is Outcome.SUPERSEDED and held and report.held != held:
                # A run that has read the old token, too, must not spend it when it gets the lease.
                superseded = held.version_id
                self.ledger.memory = replace(self.ledger.memory, superseded=superseded)
            held = report.held
            if report.outcome is not Outcome.SUPERSEDED or (held and self._serves(held)):
                return report
        raise self._failed(
            StoreError("another writer keeps replacing the token, or the session, by one to renew"),
            held,
            None,
        )

    def _leave_due(self, held: StoredToken | None) -> None:
        """Mark a token that is dead but not due, so that the next run treats it as due.

        That run reads only the secret, and would take the token for fresh.
        """
        if (
            held is None
            or held.is_rejected
            or held.version_id == self.ledger.memory.replaced
            or self._state(held) is not TokenState.FRESH
            or not self._chain().is_dead(held)
        ):
            return
        # The owner has to hear of the run's own failure. Without the mark, the next check goes on.
        with suppress(StoreError):
            self.store.note_rejected(held)

    def _require_place(self, held: StoredToken | None) -> None:
        """Require that a new token can be written, before the login is spent."""
        if held is None:
            return
        try:
            rendered(held.token, over=held.text)
        except TokenDocumentError as error:
            raise self._failed(error, held, None) from None

    def _turn(self, held: StoredToken | None) -> Report:
        """Replace ``held`` once; SUPERSEDED if another writer was faster or put in a session."""
        chain = self._chain()
        stored: StoredSession | None = None
        malformed: SessionMalformedError | None = None
        try:
            try:
                stored = chain.session()
            except SessionMalformedError as error:
                if held is None or held.token.is_access_token:
                    raise
                # The token may be its own login.
                stored, malformed = NO_SESSION, error
            if chain.is_new_login(stored):
                # The tokens that died young came from the login before it.
                self.ledger.memory = replace(self.ledger.memory, died_young=0, died_young_at=None)
            report = replace(
                self._replaced(held, stored, chain), session_holds_more=stored.holds_more
            )
        except SupersededError:
            return Report(Outcome.SUPERSEDED, held)
        except (TokenShortLivedError, TokenMissingError, TokenMalformedError):
            # These are about the version that is current by now, not the one that was read.
            raise
        except QwenTokenError as error:
            return self._superseded_or_raise(error, held, stored)
        if malformed is not None and report.outcome is not Outcome.SUPERSEDED:
            raise self._failed(malformed, report.held, None, replaced=report.replaced)
        return report

    def _superseded_or_raise(
        self, error: QwenTokenError, held: StoredToken | None, stored: StoredSession | None
    ) -> Report:
        """Return the token that somebody put in while the run failed.

        If somebody put in another session, return the old token, so that the session is tried.

        Raises:
            QwenTokenError: ``error``, if nobody put anything in.
        """
        try:
            current = self.store.read()
        except StoreError:
            # The owner is alerted to the first failure.
            current = None
        if current is None or (held is not None and current.version_id == held.version_id):
            is_login = isinstance(error, TokenError | SessionError)
            if is_login and stored is not None and self._chain().is_replaced(stored):
                return Report(Outcome.SUPERSEDED, held)
            raise self._failed(error, held, stored) from error.__cause__
        return Report(Outcome.SUPERSEDED, current)

    def _replaced(
        self, held: StoredToken | None, stored: StoredSession, chain: GrantChain
    ) -> Report:
        if held is None:
            self._require_another_first_try()
        else:
            waiting = self._waiting(held, stored, chain)
            if waiting is not None:
                if self._lives_after_all(held, waiting.token, chain):
                    return Report(Outcome.FRESH, held, session=stored.session)
                if self._is_good(waiting, held, stored, None):
                    return self._promoted(waiting, held, stored, None)
        obtained = self._obtained(held, stored, chain)
        if isinstance(obtained, Report):
            return obtained
        if held is None:
            return self._first_stored(obtained)
        stored = obtained.stored
        try:
            if self._lives_after_all(held, obtained.token, chain):
                return Report(Outcome.FRESH, held, session=stored.session)
        except UpstreamError:
            # A login was spent on it: the next run must find it, and asks again.
            self._staged(obtained.token, over=held, beside=stored)
            raise
        # Staged before it is verified: the API may retire the old token when it issues the new
        # one.
        staged = self._staged(obtained.token, over=held, beside=stored)
        if not self._is_good(staged, held, stored, obtained.grant):
            raise _refused_at_once()
        return self._promoted(staged, held, stored, obtained.grant)

    def _staged(self, successor: Token, *, over: StoredToken, beside: StoredSession) -> StoredToken:
        """Stage a successor, and record it so that the next run finds it if this one fails.

        Raises:
            StoreError: it was not staged, or the answer is unknown.
        """
        self.ledger.memory = replace(self.ledger.memory, staged_beside=beside.version_id)
        try:
            staged = self.store.stage(successor, over=over)
        except StoreError:
            # The call may have been carried out, and its answer lost.
            self.ledger.memory = replace(self.ledger.memory, token_left_behind=True)
            raise
        self.ledger.memory = replace(
            self.ledger.memory,
            pending=staged.version_id,
            pending_over=over.version_id,
            pending_is_refused=False,
        )
        return staged

    def _require_another_first_try(self) -> None:
        """Require ten minutes since the last first token that could not be stored."""
        tried = self.ledger.memory.first_try
        if tried is not None and self.clock() - tried.at < BRAKE:
            raise error_of(
                tried.reason,
                f"{tried.message}; the next first token is asked for at "
                f"{tried.at + BRAKE:%H:%M} UTC",
            )

    def _first_stored(self, obtained: Obtained) -> Report:
        """Verify the first token, then store it: a secret's first version is current at once.

        If it cannot be verified, the next one is requested in ten minutes, not in each run.
        """
        try:
            account = verify_new(obtained.token, by=self.client(), within=self._api_time(1))
            _require_account(account, obtained.stored, None)
            current = self.store.put_first(obtained.token)
        except QwenTokenError as error:
            tried = Refusal(obtained.stored.version_id, error.reason, str(error), self.clock())
            self.ledger.memory = replace(self.ledger.memory, first_try=tried)
            raise
        self.ledger.memory = replace(
            self.ledger.memory, first_try=None, staged_beside=obtained.stored.version_id
        )
        if current.token.raw != obtained.token.raw:
            return Report(Outcome.SUPERSEDED, current, session=obtained.stored.session)
        self._confirm(current, account, obtained.stored)
        return self._reported(current, obtained.stored, obtained.grant, replaced=None)

    def _obtained(
        self, held: StoredToken | None, stored: StoredSession, chain: GrantChain
    ) -> Obtained | Report:
        """Obtain the next token, or find an earlier one that is alive."""
        outcome = chain.without_sign_in(held, stored)
        if (
            isinstance(outcome, Refused)
            and held is not None
            and (outcome.was_asked or self.ledger.memory.untried == held.version_id)
        ):
            revived = self._revived(held, stored, chain, outcome.error)
            if revived is not None:
                return revived
        if isinstance(outcome, Refused):
            if held is not None and chain.may_sign_in(stored):
                # A sign-in would be wasted if its token does not fit the one that is now current.
                current = self.store.read()
                if current is not None and current.version_id != held.version_id:
                    return Report(Outcome.SUPERSEDED, current, session=stored.session)
            outcome = chain.sign_in(held, stored, after=outcome)
        if isinstance(outcome, Obtained):
            return outcome
        lives = held is not None and self._state(held) is TokenState.FRESH
        if outcome.waits_for_sign_in and lives and held and not chain.is_dead(held):
            # Only a forced run gets here, so there is time to wait.
            return Report(Outcome.FRESH, held, session=stored.session)
        raise outcome.error

    def _waiting(
        self, held: StoredToken, stored: StoredSession, chain: GrantChain
    ) -> StoredToken | None:
        """Return the usable successor that an earlier run staged but could not promote, if any."""
        memory = self.ledger.memory
        found: list[StoredToken] = []
        left_behind = memory.token_left_behind
        if left_behind:
            # A run that died may have staged one without recording it. A version that the keeper
            # did not write does not count: a person may have rolled back from it. Nor does one
            # that is older than the token that a person has put in since.
            found = [
                each
                for each in self.store.alternatives(to=held)
                if each.written_at and each.is_newer(than=held)
            ]
        if not found and memory.pending is not None and memory.pending_over == held.version_id:
            candidate = self.store.read_version(memory.pending)
            found = [] if candidate is None else [candidate]
        waiting = None
        for candidate in found:
            if self._state(candidate) is not TokenState.EXPIRED and (
                candidate.version_id != held.version_id
                and _is_better(candidate.token, held, is_dead=chain.is_dead(held))
            ):
                waiting = self.store.adopt(candidate, over=held)
                if left_behind:
                    # The session that it was staged beside was not recorded: it may be this one.
                    is_newer = stored.is_known_newer(than=candidate)
                    before = (memory.staged_beside or "") if is_newer else stored.version_id
                    memory = replace(memory, staged_beside=before)
                break
        is_known = waiting is not None and waiting.version_id == memory.pending
        self.ledger.memory = replace(
            memory,
            pending=None if waiting is None else waiting.version_id,
            pending_over=None if waiting is None else held.version_id,
            pending_is_refused=is_known and memory.pending_is_refused,
            token_left_behind=False,
        )
        return waiting

    def _is_good(
        self,
        staged: StoredToken,
        over: StoredToken,
        stored: StoredSession,
        grant: Grant | None,
    ) -> bool:
        """Return whether the API accepts a staged token.

        False if it is refused and another one may follow: ten minutes after it was issued, or if a
        person has put in another login. ``grant`` is the one that got it, if known.

        Raises:
            UpstreamUnexpectedError: it is refused, and no other one may follow yet.
            WrongAccountError: it is another account's, and no other one may follow yet.
            UpstreamError: no usable answer; it stays staged, for a later run to verify.
        """
        may_be_followed = not self._is_braked(staged) or self._chain().is_new_login(stored)
        try:
            account = self.client().verify(staged.token, within=self._api_time(1))
            _require_account(account, stored, over)
        except (TokenRejectedError, WrongAccountError) as error:
            self.ledger.memory = replace(self.ledger.memory, pending_is_refused=True)
            if may_be_followed:
                return False
            if isinstance(error, TokenRejectedError):
                raise _refused_at_once() from error
            raise
        except UpstreamError:
            if (
                self._state(over) is TokenState.EXPIRED
                and not self.ledger.memory.pending_is_refused
                and len(_accounts(staged.token, over.token, stored.session)) <= 1
            ):
                # Readers have no valid token, so they have nothing to lose.
                return True
            raise
        # An exchanged token says nothing about the session beside it.
        is_of_session = grant in {Grant.REFRESH_TOKEN, Grant.PASSWORD}
        self._confirm(staged, account, stored if is_of_session else None)
        return True

    def _promoted(
        self,
        staged: StoredToken,
        over: StoredToken,
        stored: StoredSession,
        grant: Grant | None,
    ) -> Report:
        current = self.store.promote(staged, over=over)
        self.ledger.memory = replace(
            self.ledger.memory, pending=None, pending_over=None, pending_is_refused=False
        )
        if current.version_id != staged.version_id:
            return Report(Outcome.SUPERSEDED, current, session=stored.session)
        self.ledger.memory = replace(self.ledger.memory, replaced=over.version_id)
        return self._reported(staged, stored, grant, replaced=over.version_id)

    def _reported(
        self,
        current: StoredToken,
        stored: StoredSession,
        grant: Grant | None,
        *,
        replaced: str | None,
    ) -> Report:
        if grant is not None:
            # Only if it is new: one that had waited may have little time left for that reason.
            try:
                require_long_lived(current.token, now=self.clock())
            except TokenShortLivedError as error:
                raise self._failed(error, current, stored, replaced=replaced) from None
        if self._die_young():
            # The incident goes on: this token will probably not last either.
            dying = TokenShortLivedError(
                f"the new token was stored, but the API refused the last "
                f"{self.ledger.memory.died_young} within {BRAKE} of accepting them"
            )
            raise self._failed(dying, current, stored, replaced=replaced)
        return Report(Outcome.REFRESHED, current, grant, stored.session, replaced)

    def _revived(
        self,
        held: StoredToken,
        stored: StoredSession,
        chain: GrantChain,
        refusal: QwenTokenError,
    ) -> Report | None:
        """Look for a staged or previous token that is still alive, before a person is called.

        There is one if a run died between staging and promoting, or if somebody put in something
        wrong by hand.
        """
        obstacle: QwenTokenError | None = None
        try:
            for candidate in self.store.alternatives(to=held):
                if self._state(candidate) is TokenState.EXPIRED:
                    # So are those after it: the latest expiry comes first.
                    break
                if not self._may_take_over(candidate, held, chain):
                    continue
                try:
                    staged = self._revive(candidate, held, stored, chain)
                except (TokenRejectedError, TokenNotExtendedError, WrongAccountError):
                    continue
                except UpstreamError as error:
                    obstacle = error
                    continue
                if staged is None:
                    return Report(Outcome.FRESH, held, session=stored.session)
                return self._promoted(staged, held, stored, None)
        except StoreError as error:
            obstacle = error
        # Recorded so that the next run tries it, not only the run that asks about the refused one.
        untried = None if obstacle is None else held.version_id
        self.ledger.memory = replace(self.ledger.memory, untried=untried)
        if obstacle is None:
            return None
        if stored.session.email is not None:
            raise obstacle
        raise type(refusal)(
            f"{refusal}; an earlier or staged token could not be tried: {obstacle}"
        ) from obstacle

    def _may_take_over(self, candidate: StoredToken, held: StoredToken, chain: GrantChain) -> bool:
        """Return whether another version is better, and no person replaced it by a live one."""
        is_dead = chain.is_dead(held)
        lives = not is_dead and self._state(held) is not TokenState.EXPIRED
        if lives and held.written_at is None and not candidate.is_newer(than=held):
            return False
        return _is_better(candidate.token, held, is_dead=is_dead)

    def _revive(
        self,
        candidate: StoredToken,
        over: StoredToken,
        stored: StoredSession,
        chain: GrantChain,
    ) -> StoredToken | None:
        """Return ``candidate`` or its successor, staged; None if ``over`` is alive after all."""
        if self._state(candidate) is TokenState.FRESH or candidate.token.is_access_token:
            account = self.client().verify(candidate.token, within=self._api_time(1))
            _require_account(account, stored, over)
            if self._lives_after_all(over, candidate.token, chain, since=candidate):
                return None
            return self.store.adopt(candidate, over=over)
        successor = chain.exchanged(candidate.token)
        if self._lives_after_all(over, successor, chain, since=candidate):
            return None
        staged = self._staged(successor, over=over, beside=stored)
        verify_new(successor, by=self.client(), within=self._api_time(1))
        return staged

    def _lives_after_all(
        self,
        held: StoredToken,
        successor: Token,
        chain: GrantChain,
        *,
        since: StoredToken | None = None,
    ) -> bool:
        """Ask once more about a dead token before an older one replaces it.

        A token is older if it expires no later, or if it comes from a version (``since``) that is
        not known to be newer than the dead token: a person may have replaced that version.

        Raises:
            UpstreamError: no usable answer. A single refusal must not undo what a person put in.
        """
        is_newer = since is None or since.is_known_newer(than=held)
        if not chain.is_dead(held) or (is_newer and expires_later(successor, than=held.token)):
            return False
        if self._state(held) is TokenState.EXPIRED:
            # Readers have no valid token, so they have nothing to lose.
            return False
        try:
            self.client().verify(held.token, within=self._api_time(1))
        except (TokenRejectedError, WrongAccountError):
            return False
        self.ledger.memory = self.ledger.memory.without_refusal(Grant.EXCHANGE)
        if held.is_rejected:
            self.store.note_accepted(held)
        return True

    # ── What the run knows ────────────────────────────────────────────────────────────────────────

    def _confirm(self, held: StoredToken, account: str, stored: StoredSession | None) -> None:
        """Record that the API accepted a token, and the account of the session."""
        memory = replace(
            self.ledger.memory, confirmed_version_id=held.version_id, confirmed_at=self.clock()
        )
        if stored is not None and stored.version_id:
            is_known = memory.session_version_id == stored.version_id
            memory = replace(
                memory,
                session_version_id=stored.version_id,
                session_expires_at=memory.session_expires_at if is_known else None,
                account=account,
            )
        self.ledger.memory = memory

    def _failed(
        self,
        error: QwenTokenError,
        held: StoredToken | None,
        stored: StoredSession | None,
        *,
        replaced: str | None = None,
    ) -> QwenTokenError:
        session = Session() if stored is None else stored.session
        token = None if held is None else held.token
        is_own_login = token is not None and not token.is_access_token
        facts = RunFacts(
            version_id=None if held is None else held.version_id,
            is_dead=held is not None and self._chain().is_dead(held),
            replaced=replaced,
            login_ends_at=login_ends_at(token, session),
            session_expires_at=session.expires_at,
            is_exchanged=is_own_login and session.refresh_token is None,
            is_login_known=stored is not None or self.sessions is None or is_own_login,
            next_sign_in_at=self._next_sign_in_at(error, held, session),
            token_holds_more=held is not None and holds_more(held.text),
            session_holds_more=stored is None or stored.holds_more,
        )
        return error.of_run(facts, expires_at=None if token is None else token.expires_at)

    def _next_sign_in_at(
        self, error: QwenTokenError, held: StoredToken | None, session: Session
    ) -> datetime | None:
        """Return when a sign-in that ends the failure is allowed, or None if none does.

        If readers have a dead token, no sign-in comes in time.
        """
        # If there is a sign-in, these two mean that it has to wait.
        waits = isinstance(error, TokenNotExtendedError | SessionRejectedError)
        last = self.ledger.memory.sign_in
        if not waits or session.email is None or last is None:
            return None
        return None if held is None or self._chain().is_dead(held) else last.next_at()

    def _chain(self) -> GrantChain:
        return GrantChain(
            self.sessions, self.sources, self.ledger, self._api_time, self.sign_in_turn
        )

    def _state(self, held: StoredToken) -> TokenState:
        return state_of(held, now=self.clock(), refresh_before=self.refresh_before)

    def _is_braked(self, held: StoredToken) -> bool:
        return is_braked(held, now=self.clock())

    def _serves(self, held: StoredToken) -> bool:
        """Return whether readers can use a token: it is neither due nor known to be dead."""
        return self._state(held) is TokenState.FRESH and not self._chain().is_dead(held)

    def _api_time(self, calls: int) -> timedelta:
        """Return the time for the next of ``calls`` calls to Qwen, keeping time for the alert."""
        return min(_API_CALL_LIMIT, (self.time_left() - _RESERVE) / calls)


def verify_new(successor: Token, *, by: Client, within: timedelta) -> str:
    """Check that the API accepts the token that it has just issued; return its account.

    Raises:
        UpstreamUnexpectedError: the API refuses it, which does not make the old token dead.
        WrongAccountError: the API answered for another account, or for a guest.
        UpstreamError: no usable answer; whether ``successor`` is alive is unknown.
    """
    try:
        return by.verify(successor, within=within)
    except TokenRejectedError as error:
        raise _refused_at_once() from error


def _require_account(account: str, stored: StoredSession, held: StoredToken | None) -> None:
    """Require the account of the session and of the old token: a new token may not name its own."""
    if _accounts(stored.session, None if held is None else held.token) - {account}:
        raise WrongAccountError(
            "the API sees another account behind the new token than the login belongs to"
        )


def _accounts(*logins: Token | Session | None) -> set[str]:
    """Return the accounts that these name, if they do."""
    return {each.account for each in logins if each is not None and each.account is not None}


def _is_better(token: Token, held: StoredToken, *, is_dead: bool) -> bool:
    try:
        require_better(token, than=held.token, is_dead=is_dead)
    except (TokenNotExtendedError, WrongAccountError):
        return False
    return True


def _refused_at_once() -> UpstreamUnexpectedError:
    return UpstreamUnexpectedError("the API refused the token that it had just issued")
