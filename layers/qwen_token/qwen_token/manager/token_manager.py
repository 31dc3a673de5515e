"""A token that a long-running process keeps alive by itself, in whatever store it has."""

import copy
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, overload

from qwen_token.errors import (
    ConfigError,
    QwenTokenError,
    StoreError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    WrongAccountError,
)
from qwen_token.fork_safety import renew_after_fork
from qwen_token.keeper import Keeper
from qwen_token.origin import BASE_URL, Origin
from qwen_token.policy import Severity, TokenState, assess, expires_later, pause_after, severity
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import Token, TokenInfo, decode_token

from . import refresh_thread
from .events import Events, place
from .local_store import MemoryStore
from .refresh_thread import RefreshThread
from .write_behind import WritableStore, WriteBehind

# requests, and all that comes with it, is imported by the first refresh and not before.
if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from qwen_token.qwen_api import QwenApi
    from qwen_token.secret_store import SecretStore

_NOTHING: Final = timedelta(0)
# How often a token that is due is looked for in the store, for one that somebody else put there.
_LOOK: Final = timedelta(seconds=5)
# A token that was refused just now is not offered to the API again.
_REFUSED: Final = timedelta(minutes=1)
# Between two checks that succeed, however short a token lives.
_SHORTEST_PAUSE: Final = timedelta(seconds=10)
_MOST_HOURS: Final = 876_000

_log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _KnownToken:
    """The token as the store was last seen to hold it."""

    token: Token
    read_at: datetime
    # Until then the store is not asked whether there is another one.
    good_until: datetime
    # How long it lives at most in all; None where it may be of any age.
    lifetime: timedelta | None


@dataclass(frozen=True, slots=True)
class _FailedAttempt:
    """What a refresh ended with, of which token and when."""

    error: QwenTokenError
    token: Token | None
    at: datetime


class TokenManager:
    """Holds the token of one account, keeps it alive, and says when only a person can.

    ::

        with TokenManager(store=FileStore("~/.qwen-token")) as manager:
            manager.on("expired", lambda error: page_somebody(error.advice))
            manager.start_auto_refresh()
            requests.get(url, auth=QwenAuth(manager), timeout=10)

    ``store`` is a ``MemoryStore`` (the default), a ``FileStore``, a ``SecretStore``, or a
    ``TokenStore`` of your own; ``from_secret`` takes a secret by its name. ``auth_token`` is the
    first token: it is put in where the store has none, or one that expires sooner.

    A refresh is the stack's: the new token has to be the same account's and to expire later, the
    API is asked about it, and only then it takes the old one's place in the store; what another
    process has put there meanwhile is kept, unless it expires sooner. A new token that the store
    does not take stays in memory, is used, and is written as soon as the store can.

    Any number of threads may share a manager. It is a source for ``QwenAuth``. A child process
    after a fork has the token, but not the thread: where that was running, the child's first use
    of the manager starts one of its own.
    """

    def __init__(  # noqa: PLR0913 - each is an option of its own, by name
        self,
        auth_token: str | None = None,
        *,
        store: WritableStore | None = None,
        base_url: str = BASE_URL,
        refresh_before: timedelta = timedelta(days=3),
        clock: Callable[[], datetime] = _utc_now,
        elapsed: Callable[[], float] = refresh_thread.elapsed,
        wait: Callable[[threading.Event, float], None] = refresh_thread.wait,
    ) -> None:
        """Prepare; the store and the API are not asked yet.

        The wall clock, the clock that checks are timed by, and the waiting are given for tests.

        Raises:
            TokenMalformedError: ``auth_token`` is no JWT with an account and an expiry.
            ConfigError: names the argument that is off, and what it should be.
        """
        if not (isinstance(refresh_before, timedelta) and refresh_before > _NOTHING):
            raise ConfigError("refresh_before should be a timedelta greater than 0")
        self._origin = Origin(base_url)
        self._base_url = base_url
        self._first = None if auth_token is None else decode_token(auth_token)
        self._refresh_before = refresh_before
        self._clock = clock
        self._elapsed = elapsed
        self._wait = wait
        held_in = MemoryStore() if store is None else store
        self._shelf = WriteBehind(lambda: held_in)
        self._copy: _KnownToken | None = None
        # What follows is changed by the holder of the lock only.
        self._lock = threading.Lock()
        self._attempts = 0
        self._failure: _FailedAttempt | None = None
        self._announced: Token | None = None
        # The reasons why only a person can help that were told of this token.
        self._told: set[str] = set()
        # Left by the holder of the lock, and told without it.
        self._news = Events("refresh", "expired", "error")
        # What follows is changed by the holder of this one only.
        self._switch = threading.Lock()
        self._thread: RefreshThread | None = None
        # Of the thread that the parent process had, until this one has its own.
        self._interrupted: timedelta | None = None
        # The refreshing thread's own.
        self._failures = 0
        renew_after_fork(self)

    @classmethod
    def from_secret(
        cls,
        secret_id: str,
        auth_token: str | None = None,
        *,
        client: "SecretsManagerClient | None" = None,
        base_url: str = BASE_URL,
        refresh_before: timedelta = timedelta(days=3),
    ) -> Self:
        """Keep the token of a secret alive: where the stack does not, as it does.

        ``client`` is boto3's for Secrets Manager; without one it is made when it is first needed,
        in the region that ``secret_id`` names if it is an ARN. Needs the permissions
        ``secretsmanager:GetSecretValue``, ``DescribeSecret``, ``PutSecretValue`` and
        ``UpdateSecretVersionStage`` on the secret.
        """
        manager = cls(auth_token, base_url=base_url, refresh_before=refresh_before)
        manager._shelf = WriteBehind(partial(_open_secret, secret_id, client))
        return manager

    @property
    def token(self) -> str:
        """A token that lives; see ``current``."""
        return self.current()

    @property
    def info(self) -> TokenInfo:
        """Whose the token is, and its life; also of one that has expired.

        Raises:
            TokenMissingError: there is none.
            QwenTokenError: as ``current`` does.
        """
        return TokenInfo.of(self._latest(), now=self._clock())

    def current(self) -> str:
        """Return a token that lives, without asking the API.

        The store is read once, and again when the token is due, every five seconds then: another
        process may have refreshed it. A token that lives bridges a store that fails.

        Raises:
            TokenMissingError: there is none.
            TokenMalformedError: what the store holds is none.
            TokenRejectedError: the token has expired.
            StoreError: the store cannot be read.
        """
        token = self._latest()
        if token.remaining(self._clock()) > _NOTHING:
            return token.raw
        try:
            with self._lock:
                return self._living(token).raw
        finally:
            self._news.tell()

    def needs_refresh(self) -> bool:
        """Say whether the token is due: with ``refresh_before`` left, or less.

        Raises: as ``info`` does.
        """
        return self._is_due(self._latest(), self._refresh_before)

    def set_token(self, text: str) -> None:
        """WritableStore a token that a person brought, whatever was there; the API is not asked.

        Raises:
            TokenMalformedError: ``text`` is no JWT with an account and an expiry.
            StoreError: it could not be stored; nothing has changed then.
        """
        token = decode_token(text)
        with self._lock:
            self._shelf.put(token)
            self._first = None
            self._failure = None
            # It may be of any age, and whoever brought it need not be told.
            self._copy = None
            self._announced = token
            self._take(token)
        if (running := self._thread) is not None:
            running.wake()

    def refresh(self) -> str:
        """Trade the token for a new one, due or not, store that, and return it.

        Threads that refresh at once share one refresh, and its failure.

        Raises:
            TokenNotExtendedError: the new token expires no later than the old one.
            TokenRejectedError: the API says that the token is dead.
            StoreError: the store failed. If it was the writing that did, the new token is
                ``token`` all the same, and stored later.
            QwenTokenError: its other kinds; the token is still the one that it was.
        """
        self._resume()
        attempts = self._attempts
        try:
            with self._lock:
                return self._shared_attempt(since=attempts).raw
        finally:
            self._news.tell()

    def renew(self, *, rejected: str) -> str:
        """Return another token than ``rejected``, which the API has refused.

        The store is read again. If it still holds that one, a refresh is tried, at most once a
        minute for one token.

        Raises:
            TokenRejectedError: there is no other token, or it has expired.
            QwenTokenError: as ``refresh`` does.
        """
        self._resume()
        attempts = self._attempts
        try:
            with self._lock:
                token = self._read().token
                if token.raw == rejected:
                    self._raise_again(token)
                    token = self._shared_attempt(since=attempts)
                return self._living(token).raw
        finally:
            self._news.tell()

    def start_auto_refresh(self, check_interval_hours: float = 24) -> None:
        """Check now, and every so many hours, in a daemon thread; refresh the token when it is due.

        Checks are at multiples of the interval since the start, however long one takes. One more
        comes in between when the token is due before the next: with ``refresh_before`` left, or,
        for one that lives less than twice as long, at half of its life. After a check that
        failed the next comes in a minute, then two, four, up to an hour, but halfway to the
        expiry at the latest; after one that only a person can mend, in an hour; and where the API
        asks for fewer calls, when it says, or in a quarter of an hour.

        Where the thread is running already, nothing changes.

        Raises:
            ConfigError: ``check_interval_hours`` is no number of hours greater than 0.
        """
        if (
            isinstance(check_interval_hours, bool)
            or not isinstance(check_interval_hours, int | float)
            or not (math.isfinite(check_interval_hours) and 0 < check_interval_hours <= _MOST_HOURS)
        ):
            raise ConfigError(
                "check_interval_hours should be a number of hours greater than 0, at most "
                f"{_MOST_HOURS}"
            )
        with self._switch:
            self._interrupted = None
            if self._thread is None:
                self._start(timedelta(hours=check_interval_hours))

    def stop_auto_refresh(self) -> None:
        """Stop the thread, and wait for a check under way (or the first) to come to its end.

        In a callback of that very check, it ends after the callback.
        """
        with self._switch:
            running, self._thread = self._thread, None
            self._interrupted = None
        # Without the switch: the check's callbacks may want it.
        if running is not None:
            running.stop()

    @overload
    def on(
        self, event: Literal["refresh"], callback: Callable[[TokenInfo], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["expired"], callback: Callable[[QwenTokenError], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["error"], callback: Callable[[Exception], object]
    ) -> Callable[[], None]: ...
    def on(self, event: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Have ``callback`` called at each ``event``; what is returned ends that when called.

        - ``refresh``: there is a new token, and it is stored: a refresh brought it, here or in
          another process. With the ``TokenInfo``; ``token`` is the token itself.
        - ``expired``: only a person can help, because of the token or because its time is up. With
          the error, whose ``reason`` and ``advice`` say what to do. Once for a token and a cause.
        - ``error``: an automatic check failed, for whatever reason. With the exception.

        Callbacks are called one after another, in the thread that found out, without any lock. One
        that raises is logged, without what it says, and disturbs nobody.

        Raises:
            ConfigError: there is no such event.
        """
        return self._news.subscribe(event, callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_auto_refresh()

    def _latest(self) -> Token:
        """Return the token as it is known here, read anew where that may have become old."""
        self._resume()
        held, now = self._copy, self._clock()
        if held is not None and now < held.good_until:
            return held.token
        bridge = held if held is not None and held.token.remaining(now) > _NOTHING else None
        if not self._lock.acquire(blocking=bridge is None):
            # Somebody reads or refreshes just now: no reason to wait, while this one lives.
            assert bridge is not None  # noqa: S101 - as typed, acquiring may always fail
            return bridge.token
        try:
            if self._copy is not held and self._copy is not None:
                return self._copy.token
            return self._read().token
        except StoreError as error:
            if bridge is None:
                raise
            _log.warning("the token in memory is used, because the store fails: %s", error)
            self._copy = replace(bridge, good_until=now + _LOOK)
            return bridge.token
        finally:
            self._lock.release()
            self._news.tell()

    def _shared_attempt(self, *, since: int) -> Token:
        """Refresh, unless somebody has done so while this thread waited: then share what came."""
        if self._attempts == since or self._copy is None:
            return self._attempt(force=True)
        if self._failure is not None:
            raise _again(self._failure.error)
        return self._copy.token

    def _attempt(self, *, force: bool) -> Token:
        """Refresh the token if it is due or ``force`` says so, and return what is current then."""
        tried = force
        known = self._copy
        try:
            held = self._read()
            if force or self._is_due(held.token, self._window()):
                tried = True
                held = self._refreshed(held, known=known)
                self._take(held.token)
            if self._shelf.failure is not None:
                raise self._shelf.failure
        except QwenTokenError as error:
            failed = error
            if error.expires_at is None and self._copy is not None:
                failed = error.with_expiry(self._copy.token.expires_at)
            token = None if self._copy is None else self._copy.token
            self._failure = _FailedAttempt(failed, token, self._clock())
            self._attempts += tried
            self._tell_a_person(failed)
            raise failed from error.__cause__
        self._failure = None
        self._attempts += tried
        return held.token

    def _refreshed(self, held: StoredToken, *, known: _KnownToken | None) -> StoredToken:
        """Have the keeper do a run, and return what is current after it.

        ``known`` is what the store held when it was last seen, before ``held``.
        """
        keeper = Keeper(
            store=self._shelf,
            client=self._api,
            clock=self._clock,
            # Nothing ends this process at a certain time: each call has its own limit.
            time_left=lambda: timedelta.max,
            refresh_before=self._window(),
            critical_before=_NOTHING,
        )
        try:
            current = keeper.run(force=True).held
        except QwenTokenError as error:
            current = self._work_of_another(error, held, known)
            if current is None:
                raise
        if current is None:
            raise TokenMissingError("the stored token was taken away during the refresh")
        return current

    def _work_of_another(
        self, error: QwenTokenError, held: StoredToken, known: _KnownToken | None
    ) -> StoredToken | None:
        """Return what another process stored, if it makes this failure none."""
        try:
            current = self._shelf.read()
        except QwenTokenError:
            # What failed first is what is told.
            return None
        if current is not None and expires_later(current.token, than=held.token):
            return current
        if isinstance(error, TokenNotExtendedError) and known is not None:
            # In the second in which a token was issued, the API gives the same one out again. It
            # has just answered to it: so it lives.
            return held if expires_later(held.token, than=known.token) else None
        return None

    def _api(self) -> "QwenApi":
        from qwen_token.qwen_api import QwenApi  # noqa: PLC0415

        return QwenApi(self._base_url)

    def _read(self) -> StoredToken:
        """Read the store, after the first token was put in; the lock is held."""
        held = self._shelf.read() if self._first is None else self._put_first(self._first)
        if held is None:
            raise TokenMissingError("no token is stored yet")
        self._take(held.token)
        return held

    def _put_first(self, first: Token) -> StoredToken:
        try:
            held = self._shelf.read()
        except TokenMissingError:
            held = None
        if held is not None and held.token.account != first.account:
            raise WrongAccountError(
                "the store holds the token of another account than auth_token's: "
                "set_token replaces it"
            )
        if held is None or expires_later(first, than=held.token):
            held = self._shelf.put(first)
        self._first = None
        return held

    def _take(self, token: Token) -> None:
        """Note what the store holds; the lock is held."""
        held, now = self._copy, self._clock()
        lifetime = None if held is None else held.lifetime
        if held is None or held.token != token:
            self._told.clear()
        if held is not None and held.token != token:
            # It is no older than the last look.
            lifetime = token.remaining(now) + max(now - held.read_at, _NOTHING)
        good_until = max(now + _LOOK, token.expires_at - self._refresh_before)
        self._copy = _KnownToken(token, now, good_until, lifetime)
        if token != self._announced and self._shelf.failure is None:
            if self._announced is not None:
                self._news.leave("refresh", TokenInfo.of(token, now=now))
            self._announced = token

    def _window(self) -> timedelta:
        """Return how long before its expiry the token is due for an automatic refresh."""
        lifetime = None if self._copy is None else self._copy.lifetime
        if lifetime is None:
            return self._refresh_before
        return min(self._refresh_before, lifetime / 2)

    def _is_due(self, token: Token, window: timedelta) -> bool:
        return assess(token, now=self._clock(), refresh_before=window) is not TokenState.FRESH

    def _living(self, token: Token) -> Token:
        """Return ``token`` if it lives; the lock is held."""
        if token.remaining(self._clock()) > _NOTHING:
            return token
        error = TokenRejectedError(
            f"the token expired at {token.expires_at.isoformat()}: nothing refreshed it in time",
            expires_at=token.expires_at,
        )
        self._tell_a_person(error)
        raise error

    def _raise_again(self, rejected: Token) -> None:
        """Raise what came of the refresh of a token that was refused a moment ago."""
        failure = self._failure
        if failure is None or failure.token != rejected:
            return
        if failure.at <= self._clock() < failure.at + _REFUSED:
            raise _again(failure.error)

    def _tell_a_person(self, error: QwenTokenError) -> None:
        """Leave the news that only a person can help, once; the lock is held."""
        if error.reason in self._told:
            return
        if severity(error, now=self._clock(), critical_before=_NOTHING) is Severity.CRITICAL:
            self._told.add(error.reason)
            self._news.leave("expired", error)

    def _start(self, interval: timedelta) -> None:
        """Start the thread; the switch is held."""
        self._failures = 0
        running = RefreshThread(
            self._check, interval=interval, clock=self._elapsed, wait=self._wait
        )
        running.start()
        self._thread = running

    def _resume(self) -> None:
        """Start the thread that was running when this process was forked."""
        if self._interrupted is None:
            return
        with self._switch:
            interval, self._interrupted = self._interrupted, None
            if interval is not None and self._thread is None:
                self._start(interval)

    def _check(self, running: RefreshThread) -> timedelta:
        """Refresh the token if it is due, and return the pause to the next check."""
        error = self._checked()
        self._news.tell()
        held = self._copy
        remaining = _NOTHING if held is None else held.token.remaining(self._clock())
        if error is None:
            self._failures = 0
            due_in = remaining - self._window()
            return min(running.until_next_turn(), max(due_in, _SHORTEST_PAUSE))
        self._failures += 1
        pause = pause_after(error, failures=self._failures, remaining=remaining)
        said = error if isinstance(error, QwenTokenError) else place(error)
        _log.warning("the token was not refreshed (next try in %s): %s", pause, said)
        return pause

    def _checked(self) -> Exception | None:
        try:
            with self._lock:
                self._attempt(force=False)
        except Exception as error:  # noqa: BLE001 - the thread outlives a store's own as well
            self._news.leave("error", error)
            return error
        return None

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._switch = threading.Lock()
        self._news.after_fork()
        if self._thread is not None:
            self._interrupted = self._thread.interval
            self._thread = None
        self._shelf.after_fork()

    def __repr__(self) -> str:
        return f"TokenManager({self._origin}, token=[redacted])"


def _again(error: QwenTokenError) -> QwenTokenError:
    """Return it for one more thread: the same exception's traceback would grow with each."""
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    return again


def _open_secret(secret_id: str, client: "SecretsManagerClient | None") -> "SecretStore":
    from qwen_token.secret_store import SecretStore  # noqa: PLC0415 - boto3 is slow to import

    return SecretStore.open(secret_id, client)
