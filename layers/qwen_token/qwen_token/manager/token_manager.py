"""The manager of one account's token in a long-running process, with any store."""

import logging
import math
import threading
from collections.abc import Callable
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
)
from qwen_token.fork_safety import renew_after_fork
from qwen_token.keeper import Keeper
from qwen_token.origin import BASE_URL, Origin
from qwen_token.policy import Severity, TokenState, assess, expires_later, severity
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import Token, TokenInfo, decode_token

from . import refresh_thread
from .events import Events
from .failed_attempt import FailedAttempt
from .known_token import KnownToken
from .local_store import MemoryStore
from .refresh_thread import AutoRefresh, CheckResult
from .write_behind import WritableStore, WriteBehind

# requests, and all that comes with it, is imported by the first refresh and not before.
if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from qwen_token.qwen_api import QwenApi
    from qwen_token.secret_store import SecretStore

_NOTHING: Final = timedelta(0)
_MOST_HOURS: Final = 876_000

_log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


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
        _open_store: Callable[[], WritableStore] | None = None,
    ) -> None:
        """Prepare the manager, without using the store or the API yet.

        ``clock`` (the wall clock), ``elapsed`` (the clock that times the checks) and ``wait`` are
        for tests.

        Raises:
            TokenMalformedError: ``auth_token`` is not a JWT with an account and an expiry.
            ConfigError: names the invalid argument, and what it should be.
        """
        if not (isinstance(refresh_before, timedelta) and refresh_before > _NOTHING):
            raise ConfigError("refresh_before should be a timedelta greater than 0")
        self._origin = Origin(base_url)
        self._base_url = base_url
        self._refresh_before = refresh_before
        self._clock = clock
        first = None if auth_token is None else decode_token(auth_token)
        held_in = MemoryStore() if store is None else store
        # ``from_secret`` opens its store on first use: boto3 is slow to import.
        self._store = WriteBehind(_open_store or (lambda: held_in), first=first)
        self._auto_refresh = AutoRefresh(self._check, clock=elapsed, wait=wait)
        # Events are noted under the lock. Callbacks are called without it.
        self._events = Events("refresh", "expired", "error")
        # Only the holder of the lock changes the attributes below.
        self._lock = threading.Lock()
        self._known: KnownToken | None = None
        self._attempts = 0
        self._failure: FailedAttempt | None = None
        self._announced: Token | None = None
        # Reasons already announced for this token.
        self._announced_reasons: set[str] = set()
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
        return cls(
            auth_token,
            base_url=base_url,
            refresh_before=refresh_before,
            _open_store=partial(_open_secret, secret_id, client),
        )

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
            self._events.tell()

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
            self._store.put(token)
            self._failure = None
            # It may be of any age, and whoever brought it need not be told.
            self._known = None
            self._announced = token
            self._take(token)
        self._auto_refresh.wake()

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
        self._auto_refresh.resume()
        attempts = self._attempts
        try:
            with self._lock:
                return self._shared_attempt(since=attempts).raw
        finally:
            self._events.tell()

    def renew(self, *, rejected: str) -> str:
        """Return another token than ``rejected``, which the API has refused.

        The store is read again. If it still holds that one, a refresh is tried, at most once a
        minute for one token.

        Raises:
            TokenRejectedError: there is no other token, or it has expired.
            QwenTokenError: as ``refresh`` does.
        """
        self._auto_refresh.resume()
        attempts = self._attempts
        try:
            with self._lock:
                token = self._read().token
                if token.raw == rejected:
                    if (failure := self._failure) and failure.answers(token, now=self._clock()):
                        raise failure.again()
                    token = self._shared_attempt(since=attempts)
                return self._living(token).raw
        finally:
            self._events.tell()

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
        self._auto_refresh.start(timedelta(hours=check_interval_hours))

    def stop_auto_refresh(self) -> None:
        """Stop the thread, and wait for a check under way (or the first) to come to its end.

        In a callback of that very check, it ends after the callback.
        """
        self._auto_refresh.stop()

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
        return self._events.subscribe(event, callback)

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
        self._auto_refresh.resume()
        held, now = self._known, self._clock()
        if held is not None and now < held.good_until:
            return held.token
        bridge = held if held is not None and held.token.remaining(now) > _NOTHING else None
        if not self._lock.acquire(blocking=bridge is None):
            # Somebody reads or refreshes just now: no reason to wait, while this one lives.
            assert bridge is not None  # noqa: S101 - as typed, acquiring may always fail
            return bridge.token
        try:
            if self._known is not held and self._known is not None:
                return self._known.token
            return self._read().token
        except StoreError as error:
            if bridge is None:
                raise
            _log.warning("the token in memory is used, because the store fails: %s", error)
            self._known = bridge.without_the_store(now=now)
            return bridge.token
        finally:
            self._lock.release()
            self._events.tell()

    def _shared_attempt(self, *, since: int) -> Token:
        """Refresh, unless somebody has done so while this thread waited: then share what came."""
        if self._attempts == since or self._known is None:
            return self._attempt(force=True)
        if self._failure is not None:
            raise self._failure.again()
        return self._known.token

    def _attempt(self, *, force: bool) -> Token:
        """Refresh the token if it is due or ``force`` says so, and return what is current then."""
        tried = force
        known = self._known
        try:
            held = self._read()
            if force or self._is_due(held.token, self._window()):
                tried = True
                held = self._refreshed(held, known=known)
                self._take(held.token)
            if self._store.failure is not None:
                raise self._store.failure
        except QwenTokenError as error:
            failed = error
            if error.expires_at is None and self._known is not None:
                failed = error.with_expiry(self._known.token.expires_at)
            token = None if self._known is None else self._known.token
            self._failure = FailedAttempt(failed, token, self._clock())
            self._attempts += tried
            self._tell_a_person(failed)
            raise failed from error.__cause__
        self._failure = None
        self._attempts += tried
        return held.token

    def _refreshed(self, held: StoredToken, *, known: KnownToken | None) -> StoredToken:
        """Have the keeper do a run, and return what is current after it.

        ``known`` is what the store held when it was last seen, before ``held``.
        """
        keeper = Keeper(
            store=self._store,
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
        self, error: QwenTokenError, held: StoredToken, known: KnownToken | None
    ) -> StoredToken | None:
        """Return what another process stored, if it makes this failure none."""
        try:
            current = self._store.read()
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
        held = self._store.read()
        if held is None:
            raise TokenMissingError("no token is stored yet")
        self._take(held.token)
        return held

    def _take(self, token: Token) -> None:
        """Note what the store holds; the lock is held."""
        before, now = self._known, self._clock()
        if before is None or before.token != token:
            self._announced_reasons.clear()
        self._known = KnownToken.read(
            token, now=now, before=before, refresh_before=self._refresh_before
        )
        if token != self._announced and self._store.failure is None:
            if self._announced is not None:
                self._events.leave("refresh", TokenInfo.of(token, now=now))
            self._announced = token

    def _window(self) -> timedelta:
        """Return how long before its expiry the token is due for an automatic refresh."""
        if self._known is None:
            return self._refresh_before
        return self._known.window(self._refresh_before)

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

    def _tell_a_person(self, error: QwenTokenError) -> None:
        """Leave the news that only a person can help, once; the lock is held."""
        if error.reason in self._announced_reasons:
            return
        if severity(error, now=self._clock(), critical_before=_NOTHING) is Severity.CRITICAL:
            self._announced_reasons.add(error.reason)
            self._events.leave("expired", error)

    def _check(self) -> CheckResult:
        """Refresh the token if it is due."""
        error = self._checked()
        self._events.tell()
        # Read after the callbacks: one may have set another token.
        held = self._known
        remaining = _NOTHING if held is None else held.token.remaining(self._clock())
        return CheckResult(error, remaining, due_in=remaining - self._window())

    def _checked(self) -> Exception | None:
        try:
            with self._lock:
                self._attempt(force=False)
        except Exception as error:  # noqa: BLE001 - a store of the program's may raise anything
            self._events.leave("error", error)
            return error
        return None

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._events.after_fork()
        self._auto_refresh.after_fork()
        self._store.after_fork()

    def __repr__(self) -> str:
        return f"TokenManager({self._origin}, token=[redacted])"


def _open_secret(secret_id: str, client: "SecretsManagerClient | None") -> "SecretStore":
    from qwen_token.secret_store import SecretStore  # noqa: PLC0415 - boto3 is slow to import

    return SecretStore.open(secret_id, client)
