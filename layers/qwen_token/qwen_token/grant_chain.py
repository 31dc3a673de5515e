"""The grants of a login, tried in order. Refusals and changed credentials are recorded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from .errors import (
    NetworkConfigError,
    QwenTokenError,
    RateLimitedError,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
    StoreError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    error_of,
)
from .grants import Granted, Login, TokenSource
from .ledger import Ledger
from .policy import grants_for, require_better
from .ports import Sessions, at_once
from .run_memory import DEAD_FOR, Refusal, SignIn
from .session import Grant, Session
from .stored_session import NO_SESSION, StoredSession
from .stored_token import StoredToken
from .tokens import Token, date

# Attempts to write a changed credential, which exists nowhere else.
_KEEP_ATTEMPTS: Final = 3

# After these failures, the sign-in host may not have seen the password.
_NO_ANSWER: Final = (
    RateLimitedError,
    UpstreamUnavailableError,
    UpstreamBlockedError,
    NetworkConfigError,
)


@dataclass(frozen=True, slots=True)
class Obtained:
    """A grant's successor: better than the token before it, and not verified yet."""

    token: Token
    grant: Grant
    stored: StoredSession


@dataclass(frozen=True, slots=True)
class Refused:
    """No grant got a token. ``was_asked`` is false if every refusal was known without a call.

    ``waits_for_sign_in``: a sign-in would help, but is not allowed yet.
    """

    error: QwenTokenError
    was_asked: bool
    waits_for_sign_in: bool = False


class SupersededError(Exception):
    """A person put in another session while this one was being spent; theirs counts."""


@dataclass(frozen=True, slots=True)
class GrantChain:
    """Spends the login of one secret, while ``ledger`` holds the lease.

    ``api_time`` returns the budget for the next call to Qwen, given the number still to come.
    ``sign_in_turn`` takes this run's turn to sign in, or returns the time of the next turn: many
    logins may share an address.
    """

    sessions: Sessions | None
    sources: Callable[[Grant], TokenSource]
    ledger: Ledger
    api_time: Callable[[int], timedelta]
    sign_in_turn: Callable[[], datetime | None] = at_once

    def session(self) -> StoredSession:
        """Return the session, or an empty one if there is none.

        Raises:
            SessionMalformedError: the session secret holds no readable login.
            StoreError: it cannot be read, or the credential that a run staged cannot be stored.
            SupersededError: somebody put in another session.
        """
        stored = None if self.sessions is None else self.sessions.read()
        if stored is None or self.sessions is None:
            return NO_SESSION
        if self.ledger.memory.session_left_behind:
            # A run may have spent this credential and staged its successor.
            newer = self.sessions.left_behind(over=stored)
            if newer is not None:
                stored = self._written(newer.session, over=stored)
            self.ledger.memory = replace(self.ledger.memory, session_left_behind=False)
        self._note_version(stored)
        return self._with_memory(stored)

    def is_replaced(self, stored: StoredSession) -> bool:
        """Return whether a person has put in another session since ``stored`` was read."""
        try:
            current = None if self.sessions is None else self.sessions.read()
        except (SessionMalformedError, StoreError):
            return False
        return (
            current is not None
            and current.version_id != stored.version_id
            and not current.by_keeper
        )

    def is_new_login(self, stored: StoredSession) -> bool:
        """Return whether a person has put in the session since the last token was staged.

        If so, that token did not come from this session, and its failures say nothing about it.
        """
        before = self.ledger.memory.staged_beside
        is_known = before is not None and stored.version_id != NO_SESSION.version_id
        return is_known and stored.version_id != before and not stored.by_keeper

    def without_sign_in(
        self, held: StoredToken | None, stored: StoredSession
    ) -> Obtained | Refused:
        """Try all grants except ``password``; return the first refusal if they all fail.

        Raises:
            UpstreamError: no usable answer; nothing is known about the login.
            WrongAccountError: the answer is for another account, or for a guest.
            StoreError: a new credential could not be stored.
            SupersededError: somebody put in another session.
        """
        refused: Refused | None = None
        for grant in grants_for(_token(held), stored.session):
            if grant is Grant.PASSWORD:
                continue
            tried = self._try(grant, held, stored)
            if isinstance(tried, Obtained):
                return tried
            refused = (
                tried
                if refused is None
                else replace(refused, was_asked=refused.was_asked or tried.was_asked)
            )
        if refused is not None:
            return refused
        if held is None:
            return Refused(self._why_there_is_none(), was_asked=False)
        return Refused(
            TokenNotExtendedError(
                "an access token cannot be renewed by itself: the session secret has to hold the "
                "refresh credential, or a sign-in"
            ),
            was_asked=False,
        )

    def _why_there_is_none(self) -> QwenTokenError:
        tried = self.ledger.memory.first_try
        if tried is not None:
            return error_of(tried.reason, tried.message)
        return TokenMissingError("the secret has no token yet")

    def may_sign_in(self, stored: StoredSession) -> bool:
        """Return whether ``sign_in`` would send the password."""
        return stored.session.email is not None and self._barrier(stored) is None

    def sign_in(
        self, held: StoredToken | None, stored: StoredSession, *, after: Refused
    ) -> Obtained | Refused:
        """Sign in, if the session has a sign-in and one is allowed now.

        Raises: as ``without_sign_in``.
        """
        if stored.session.email is None:
            return after
        barrier = self._barrier(stored)
        if isinstance(barrier, Refusal):
            return Refused(
                SignInRefusedError(f"{barrier.message}; tried at {date(barrier.at)}"),
                after.was_asked,
            )
        if barrier is not None:
            # If the sign-in failed before, that failure is the reason why there is no token.
            failure = error_of(barrier.reason, barrier.message) if barrier.reason else after.error
            message = f"{failure}; the next sign-in is allowed at {date(barrier.next_at())}"
            return Refused(type(failure)(message), after.was_asked, waits_for_sign_in=True)
        next_turn = self.sign_in_turn()
        if next_turn is not None:
            message = f"{after.error}; the next turn to sign in is at {date(next_turn)}"
            return Refused(type(after.error)(message), after.was_asked, waits_for_sign_in=True)
        memory, now = self.ledger.memory, self.ledger.now()
        # Recorded before it is sent, as if answered: this run may die before the answer comes.
        self.ledger.memory = replace(memory, sign_in=SignIn(stored.version_id, now, answered=True))
        try:
            self.ledger.save()
        except StoreError:
            # The password is not sent.
            self.ledger.memory = memory
            raise
        try:
            return self._try(Grant.PASSWORD, held, stored)
        except QwenTokenError as error:
            attempt = self.ledger.memory.sign_in
            assert attempt is not None  # noqa: S101 - saved above
            attempt = replace(
                attempt,
                answered=not isinstance(error, _NO_ANSWER),
                reason=error.reason,
                message=str(error),
            )
            self.ledger.memory = replace(self.ledger.memory, sign_in=attempt)
            raise

    def _barrier(self, stored: StoredSession) -> Refusal | SignIn | None:
        """Return what forbids a sign-in: its refusal, or the last one if that is too recent."""
        memory, now = self.ledger.memory, self.ledger.now()
        if known := memory.refusal(Grant.PASSWORD, stored.version_id, now=now):
            return known
        last = memory.sign_in
        return last if last is not None and now < last.next_at() else None

    def exchanged(self, token: Token) -> Token:
        """Exchange a token other than the current one for a better one."""
        login = Login(token, Session())
        granted = self.sources(Grant.EXCHANGE).obtain(login, within=self.api_time(2))
        return require_better(granted.issued(), than=token)

    def _try(
        self, grant: Grant, held: StoredToken | None, stored: StoredSession
    ) -> Obtained | Refused:
        version_id = held.version_id if grant is Grant.EXCHANGE and held else stored.version_id
        now = self.ledger.now()
        if known := self.ledger.memory.refusal(grant, version_id, now=now):
            # This run may have asked itself, when it checked the token.
            return Refused(_known(known), was_asked=known.at >= self.ledger.opened_at)
        login = Login(_token(held), stored.session)
        try:
            granted = self.sources(grant).obtain(login, within=self.api_time(2))
            after = self._keep(granted, stored)
            token = self._better(granted.issued(), grant, held)
        except (
            TokenRejectedError,
            TokenNotExtendedError,
            SessionRejectedError,
            SignInRefusedError,
        ) as error:
            self.note_refusal(grant, version_id, error)
            return Refused(error, was_asked=True)
        return Obtained(token, grant, after)

    def note_refusal(self, grant: Grant, version_id: str, error: QwenTokenError) -> None:
        """Record that the API refused the login of ``version_id``, so as not to ask again soon."""
        refusal = Refusal(version_id, error.reason, str(error), self.ledger.now())
        self.ledger.memory = self.ledger.memory.with_refusal(grant, refusal)

    def is_dead(self, held: StoredToken) -> bool:
        """Return whether the API called the token dead, recently or in its latest answer."""
        if held.is_rejected:
            return True
        known = self.ledger.memory.refusal(Grant.EXCHANGE, held.version_id, now=self.ledger.now())
        return known is not None and known.reason == TokenRejectedError.reason

    def _better(self, successor: Token, grant: Grant, held: StoredToken | None) -> Token:
        if held is None:
            return successor
        try:
            return require_better(successor, than=held.token, is_dead=self.is_dead(held))
        except TokenNotExtendedError as error:
            if grant is Grant.EXCHANGE:
                raise
            # The credential is alive. A host may return the same token until it nearly expires.
            raise UpstreamUnexpectedError(
                "the sign-in host gave a token that expires no later than the one that is there"
            ) from error

    def _keep(self, granted: Granted, stored: StoredSession) -> StoredSession:
        """Store the new credential before anything else can fail."""
        credential, ends_at = granted.refresh_token, granted.refresh_token_expires_at
        memory = self.ledger.memory
        if credential is None or self.sessions is None:
            return stored
        if credential == stored.session.refresh_token:
            if ends_at is None:
                return stored
            # Recorded only here: an unchanged credential makes no version.
            self.ledger.memory = replace(
                memory, session_version_id=stored.version_id, session_expires_at=ends_at
            )
            return self._with_memory(stored)
        session = replace(stored.session, refresh_token=credential, expires_at=ends_at)
        try:
            kept = self._written(session, over=stored)
        except StoreError:
            # It may be staged: then the next run stores it, and does not spend the old one again.
            self.ledger.memory = replace(memory, session_left_behind=True)
            raise
        self.ledger.memory = replace(
            memory.of_session(kept.version_id),
            session_version_id=kept.version_id,
            session_expires_at=ends_at,
            account=session.account,
        )
        return kept

    def _written(self, session: Session, *, over: StoredSession) -> StoredSession:
        assert self.sessions is not None  # noqa: S101 - the callers asked
        attempt = 0
        while True:
            attempt += 1
            try:
                kept = self.sessions.keep(session, over=over)
            except StoreError as error:
                if (
                    not error.may_pass
                    or attempt == _KEEP_ATTEMPTS
                    or self.api_time(1) <= timedelta()
                ):
                    raise
            else:
                if kept is None:
                    raise SupersededError
                return kept

    def _note_version(self, stored: StoredSession) -> None:
        """Tie the record of the last sign-in to this version, or drop it if a person lifted it.

        It is written at once: if this run dies, the next one could not tell the two cases apart.
        This is rare: it follows a person's new session, or the death of a run.
        """
        memory = self.ledger.memory
        noted = (
            memory.of_session(stored.version_id)
            if stored.by_keeper
            else memory.of_new_session(stored.version_id)
        )
        if noted != memory:
            self.ledger.memory = noted
            self.ledger.save()

    def _with_memory(self, stored: StoredSession) -> StoredSession:
        """Return the session, completed by what the memory knows and the secret does not say."""
        memory = self.ledger.memory
        if memory.session_version_id != stored.version_id:
            return stored
        session = stored.session
        return replace(
            stored,
            session=replace(
                session,
                expires_at=memory.session_expires_at or session.expires_at,
                account=session.account or memory.account,
            ),
        )


def _token(held: StoredToken | None) -> Token | None:
    return None if held is None else held.token


def _known(refusal: Refusal) -> QwenTokenError:
    again = refusal.at + DEAD_FOR
    message = f"{refusal.message}; not asked again before {again:%H:%M} UTC"
    return error_of(refusal.reason, message)
