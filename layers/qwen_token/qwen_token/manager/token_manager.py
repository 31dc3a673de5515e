"""The manager of one account's token in a long-running process, with any store."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, overload

from qwen_token.errors import (
    ConfigError,
    QwenTokenError,
    StoreError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    forgets_locals,
)
from qwen_token.fork_safety import renew_after_fork
from qwen_token.host_options import HostOptions
from qwen_token.library_logs import guard_library_logs
from qwen_token.names import require_name
from qwen_token.origin import BASE_URL, USER_AGENT, WEB_VERSION, Origin
from qwen_token.policy import AlertPolicy, Severity, TokenState, assess, expires_later, severity
from qwen_token.session import Session
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import Token, TokenInfo, decode_token

from . import refresh_thread
from .events import Events
from .failed_attempt import FailedAttempt
from .known_token import KnownToken
from .local_session import STORED
from .local_store import MemoryStore, TokenStore, memory_is_of_one_process
from .refresh_thread import AutoRefresh, CheckResult, interval_from, utc_now
from .runs import Runs, SharedLogin, no_place_for_session
from .write_behind import WritableStore, WriteBehind

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from qwen_token.secret_store import SecretStore

_NOTHING: Final = timedelta(0)
# Whatever a token's time left, only failures that a person has to fix are announced.
_ALERT_POLICY: Final = AlertPolicy(_NOTHING, _NOTHING)

_log = logging.getLogger(__name__)

# With a store in Secrets Manager, this is the first module that sends or receives tokens.
guard_library_logs()

_Kind = TypeVar("_Kind", bound="TokenManager")


class TokenManager:
    """Holds the token of one account, keeps it alive, and reports when only a person can help.

    ::

        with TokenManager(store=FileStore("~/.qwen-token")) as manager:
            manager.on("expired", lambda error: page_somebody(error.advice))
            manager.start_auto_refresh()
            requests.get(url, auth=QwenAuth(manager), timeout=10)

    ``store`` is a ``MemoryStore`` (the default), a ``FileStore``, a ``SecretStore``, or a
    ``TokenStore`` of your own; ``from_secret`` takes a secret by its name. ``auth_token`` is the
    first token: it is stored if the store has no token, or one that expires sooner.

    ``session`` is a login that gets tokens: a refresh credential, an e-mail and its password, or
    both. It is kept beside the token, in memory or in the ``FileStore``'s second file, and used by
    one process at a time. ``auth_token`` is then not needed: the first use gets a token, and
    ``token`` is never expired while the login is alive. A changed credential is stored at once, so
    you need not update the one that you pass: it counts only if no login is stored, or if it was
    never passed before. Several processes share a session by sharing a ``FileStore``.

    A refresh works as in the stack. The new token must belong to the same account and expire
    later, and the API must accept it. Only then does it replace the old token in the store. A token
    that another process stored meanwhile is kept, unless it expires sooner. A new token that cannot
    be stored is used from memory, and written as soon as the store works again.

    Any number of threads may share a manager. It is a source for ``QwenAuth``. A child process
    after a fork has the token, but not the thread: if the parent's was running, the child's first
    use of the manager starts a thread of its own.

    A pickle holds no token and no login: another process gets a new manager with the same store,
    without callbacks and without a thread.
    """

    @forgets_locals
    def __init__(  # noqa: PLR0913 - each is an option of its own, by name
        self,
        auth_token: str | None = None,
        *,
        session: Session | None = None,
        store: WritableStore | None = None,
        base_url: str = BASE_URL,
        auth_base_url: str | None = None,
        web_version: str = WEB_VERSION,
        user_agent: str = USER_AGENT,
        refresh_before: timedelta = timedelta(days=3),
        clock: Callable[[], datetime] = utc_now,
        elapsed: Callable[[], float] | None = None,
        wait: Callable[[threading.Event, float], None] = refresh_thread.wait,
        _open_store: Callable[[], WritableStore] | None = None,
    ) -> None:
        """Prepare the manager, without using the store or the API yet.

        ``auth_base_url`` is the host at which ``session`` signs in: by default Qwen's, and empty
        if ``base_url`` is an Open WebUI server. ``web_version`` and ``user_agent`` are headers for
        the hosts.

        ``clock`` (the wall clock), ``elapsed`` (the clock that times checks and runs) and ``wait``
        are for tests.

        Raises:
            TokenMalformedError: ``auth_token`` is not a JWT with an account and an expiry.
            ConfigError: names the invalid argument, and what it should be.
        """
        if not (isinstance(refresh_before, timedelta) and refresh_before > _NOTHING):
            raise ConfigError("refresh_before should be a timedelta greater than 0")
        self._origin = Origin(base_url)
        hosts = HostOptions.of(
            base_url=base_url,
            auth_base_url=auth_base_url,
            web_version=web_version,
            user_agent=user_agent,
            session=session,
        )
        self._refresh_before = refresh_before
        self._clock = clock
        first = None if auth_token is None else decode_token(auth_token)
        held_in = MemoryStore() if store is None else store
        # The arguments for a new manager in another process, without token and login.
        self._arguments: dict[str, Any] = {
            "store": held_in,
            "base_url": base_url,
            "auth_base_url": hosts.auth_base_url,
            "web_version": web_version,
            "user_agent": user_agent,
            "refresh_before": refresh_before,
            "clock": clock,
            "elapsed": elapsed,
            "wait": wait,
        }
        if _open_store is not None:
            self._arguments |= {"store": None, "_open_store": _open_store}
        # ``from_secret`` opens its store on first use: boto3 is slow to import.
        self._store = WriteBehind(_open_store or (lambda: held_in), first=first)
        # The clock of a run, which stops while the machine sleeps, as the run does.
        run_clock = elapsed or time.monotonic
        self._login = None if session is None else SharedLogin(held_in, session, elapsed=run_clock)
        self._runs = Runs(
            store=self._store, hosts=hosts, login=self._login, clock=clock, elapsed=run_clock
        )
        self._auto_refresh = AutoRefresh(
            self._check, now=clock, clock=elapsed or refresh_thread.elapsed, wait=wait
        )
        # Events are queued under the lock. Callbacks are called without it.
        self._events = Events("refresh", "expired", "error")
        # Only the holder of the lock changes the attributes below.
        self._lock = threading.Lock()
        self._known: KnownToken | None = None
        self._attempts = 0
        self._failure: FailedAttempt | None = None
        self._announced: Token | None = None
        # Reasons already announced for this token, and when.
        self._announced_reasons: dict[str, datetime] = {}
        renew_after_fork(self)

    @classmethod
    @forgets_locals
    def from_secret(  # noqa: PLR0913 - each is an option of its own, by name
        cls,
        secret_id: str,
        auth_token: str | None = None,
        *,
        session: Session | None = None,
        client: "SecretsManagerClient | None" = None,
        base_url: str = BASE_URL,
        refresh_before: timedelta = timedelta(days=3),
    ) -> Self:
        """Return a manager for the token of a secret that no stack keeps alive.

        ``client`` is boto3's for Secrets Manager. By default the manager makes one on first use, in
        the region that ``secret_id`` names if it is an ARN. It needs the permissions
        ``secretsmanager:GetSecretValue``, ``DescribeSecret``, ``PutSecretValue`` and
        ``UpdateSecretVersionStage`` on the secret.

        Raises:
            ConfigError: names the invalid argument, and what it should be. A ``session`` is one: a
                secret's session is for the stack to keep.
        """
        if session is not None:
            raise no_place_for_session()
        return cls(
            auth_token,
            base_url=base_url,
            refresh_before=refresh_before,
            _open_store=_OpenSecret(require_name(secret_id, argument="secret_id"), client),
        )

    @property
    def token(self) -> str:
        """A token that has not expired; see ``current``."""
        return self.current()

    @property
    @forgets_locals
    def info(self) -> TokenInfo:
        """The token's account and lifetime, even after it has expired.

        Raises:
            TokenMissingError: there is no token.
            TokenMalformedError: what the store holds is not a token.
            WrongAccountError: the store holds another account's token than ``auth_token``.
            StoreError: the store cannot be read.
        """
        return TokenInfo.of(self._latest(), now=self._clock())

    @forgets_locals
    def current(self) -> str:
        """Return a token that has not expired, without calling the API.

        The store is read once. When the token is due, the store is read again every five seconds:
        another process may have refreshed the token. If the store fails, the token in memory is
        used until it expires.

        Raises:
            TokenMissingError: there is no token.
            TokenMalformedError: what the store holds is not a token.
            WrongAccountError: the store holds another account's token than ``auth_token``.
            TokenRejectedError: the token has expired.
            StoreError: the store cannot be read.
        """
        token = self._latest()
        if token.remaining(self._clock()) > _NOTHING:
            return token.raw
        try:
            with self._lock:
                if self._login is not None:
                    token = self._brought_back(self._read())
                return self._living(token).raw
        finally:
            self._events.tell()

    def current_nowait(self, *, is_reading: bool = False) -> str | None:
        """Return a token that has not expired, or None if ``current`` would read or wait.

        While another thread reads or refreshes (with ``is_reading``, one is about to), a token that
        is due is returned, too.
        """
        self._auto_refresh.resume()
        held, now = self._known, self._clock()
        if held is None or held.token.remaining(now) <= _NOTHING:
            return None
        is_enough = now < held.good_until or is_reading or self._lock.locked()
        return held.token.raw if is_enough else None

    @forgets_locals
    def needs_refresh(self) -> bool:
        """Return whether the token is due: it has ``refresh_before`` left, or less.

        An access token, which may live less than that, is due with a third of its life left.

        Raises:
            TokenMissingError: there is no token.
            TokenMalformedError: what the store holds is not a token.
            WrongAccountError: the store holds another account's token than ``auth_token``.
            StoreError: the store cannot be read.
        """
        token = self._latest()
        return self._is_due(
            token, self._window() if token.is_access_token else self._refresh_before
        )

    @forgets_locals
    def set_token(self, text: str) -> None:
        """Store a token that a person brought, in place of any other, without calling the API.

        Raises:
            TokenMalformedError: ``text`` is not a JWT with an account and an expiry, or the rest of
            the stored value cannot be kept; nothing has changed.
            StoreError: the token could not be stored; nothing has changed.
        """
        token = decode_token(text)
        with self._lock:
            self._store.put(token)
            self._failure = None
            # The token may be of any age. No event announces it, because its owner put it in.
            self._known = None
            self._announced = token
            self._take(token)
        self._auto_refresh.wake()

    @forgets_locals
    def set_session(self, session: Session) -> None:
        """Store a login that a person brought, in place of any other, without calling the API.

        Raises:
            ConfigError: the manager was created without a session.
            SessionMalformedError: the rest of the stored value cannot be kept; nothing has
            changed.
            StoreError: the session could not be stored; nothing has changed.
        """
        if self._login is None:
            raise ConfigError("a manager keeps a session only if it was made with one")
        with self._lock:
            self._login.sessions.put(session)
            self._failure = None
            self._announced_reasons.clear()
        self._auto_refresh.wake()

    @forgets_locals
    def refresh(self) -> str:
        """Get a new token, even if the old one is not due, store it and return it.

        Threads that call this at the same time share one refresh, and its failure. With a
        ``session``, a token that is younger than ten minutes is only checked with the API, and
        replaced if it is dead; what the API has refused is not sent again for an hour.

        Raises:
            TokenNotExtendedError: the new token expires no later than the old one.
            TokenRejectedError: the API says that the token is dead.
            SessionRejectedError: the sign-in host says that the refresh credential is dead.
            SignInRefusedError: the password was refused, or a challenge came.
            TokenShortLivedError: the new token lives less than ten minutes; it is stored.
            StoreError: the store failed. If only writing failed, ``token`` is the new token
                nevertheless, and it is written later.
            QwenTokenError: the refresh failed in another way; the token is unchanged.
        """
        self._auto_refresh.resume()
        attempts = self._attempts
        try:
            with self._lock:
                return self._shared_attempt(since=attempts).raw
        finally:
            self._events.tell()

    @forgets_locals
    def renew(self, *, rejected: str) -> str:
        """Return another token than ``rejected``, which the API has refused.

        The store is read again. If it still holds the rejected token, the manager refreshes that,
        at most once a minute.

        Raises:
            TokenRejectedError: there is no other token, or it has expired.
            StoreError: the store failed.
            QwenTokenError: the refresh failed in another way.
        """
        self._auto_refresh.resume()
        attempts = self._attempts
        try:
            with self._lock:
                token = self._read()
                if token.raw == rejected:
                    self._raise_recent_failure(token)
                    token = self._shared_attempt(since=attempts)
                if token.raw == rejected and self._login is not None:
                    raise self._refused_although_new(token)
                return self._living(token).raw
        finally:
            self._events.tell()

    def start_auto_refresh(self, check_interval_hours: float = 24) -> None:
        """Check the token now and at each interval, in a daemon thread; refresh it when it is due.

        Checks are at multiples of the interval since the start, however long one takes. If the
        token is due before the next check, one more comes at that time: with ``refresh_before``
        left or, for a token that lives less than twice as long, at half of its life.

        After a failed check the next comes in a minute, then in two, four and so on up to an hour,
        but halfway to the expiry at the latest. It comes in an hour if only a person can help. If
        the API limits the rate, it comes when the API says, or in a quarter of an hour.

        If the thread is running already, nothing changes.

        Raises:
            ConfigError: ``check_interval_hours`` is not a number of hours greater than 0.
        """
        self._auto_refresh.start(interval_from(check_interval_hours))

    def stop_auto_refresh(self) -> None:
        """Stop the thread, and wait for the check under way (or the first) to end.

        When a callback of that check calls this, the thread ends after the callback.
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
        """Call ``callback`` at each ``event``, until the returned function is called.

        - ``refresh``: a new token is stored, from a refresh here or in another process. The
          callback gets its ``TokenInfo``; ``token`` is the token itself.
        - ``expired``: only a person can help, because of the token or because it has expired. The
          callback gets the error, whose ``reason`` and ``advice`` say what to do. It is called once
          for each token and reason.
        - ``error``: an automatic check failed. The callback gets the exception.

        Callbacks are called one after another, without a lock, in the thread in which the event
        happened. If one raises, the exception is logged without its text, and the others are
        called.

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
        """Return the known token, after reading the store if there may be a newer one."""
        self._auto_refresh.resume()
        held, now = self._known, self._clock()
        if held is not None and held.is_good(now=now):
            return held.token
        bridge = held if held is not None and held.token.remaining(now) > _NOTHING else None
        if not self._lock.acquire(blocking=bridge is None):
            # Another thread is reading or refreshing. While this token lives, nobody has to wait.
            assert bridge is not None  # noqa: S101 - the types do not say that waiting succeeds
            return bridge.token
        try:
            if self._known is not held and self._known is not None:
                return self._known.token
            return self._read()
        except (StoreError, ConfigError) as error:
            # A client that cannot be created again after a fork is such a failure, too.
            if bridge is None:
                raise
            _log.warning("the token in memory is used, because the store fails: %s", error)
            self._known = bridge.without_the_store(now=now)
            return bridge.token
        finally:
            self._lock.release()
            self._events.tell()

    def _shared_attempt(self, *, since: int) -> Token:
        """Refresh, or share the result of a refresh that ended while this thread waited."""
        if self._attempts == since or self._known is None:
            return self._attempt(force=True)
        if self._failure is not None:
            raise self._failure.error.again()
        return self._known.token

    def _attempt(self, *, force: bool) -> Token:
        """Refresh the token if it is due or if ``force`` is set; return the current token."""
        tried = force
        known = self._known
        try:
            held = self._stored()
            if (
                held is None
                or force
                or held.is_rejected
                or self._is_due(held.token, self._window())
            ):
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

    def _refreshed(self, held: StoredToken | None, *, known: KnownToken | None) -> StoredToken:
        """Have the keeper do a run, and return the token that is current after it.

        ``known`` is what was last read from the store, before ``held``.
        """
        is_new = self._known is not None and self._known.is_new(now=self._clock())
        try:
            current = self._runs.refreshed(
                held,
                refresh_before=self._window(),
                only_check=self._login is not None and held is not None and is_new,
            )
        except QwenTokenError as error:
            current = self._work_of_another(error, held, known)
            if current is None:
                raise
            if self._login is not None and isinstance(error, TokenShortLivedError):
                # Ignoring this failure would spend the session again and again.
                self._take(current.token)
                raise
        if current is None:
            raise TokenMissingError("the stored token was taken away during the refresh")
        return current

    def _work_of_another(
        self, error: QwenTokenError, held: StoredToken | None, known: KnownToken | None
    ) -> StoredToken | None:
        """Return another process's token if it makes up for the failure, or None."""
        try:
            current = self._store.read()
        except QwenTokenError:
            # The first failure is the one to report.
            return None
        if held is None:
            return current
        if current is not None and expires_later(current.token, than=held.token):
            return current
        if isinstance(error, TokenNotExtendedError) and known is not None:
            # Within the second in which it issued a token, the API returns the same one again. The
            # API has just accepted this token, so it is alive.
            return held if expires_later(held.token, than=known.token) else None
        return None

    def _read(self) -> Token:
        """Read the store, and get the first token if there is a session; the lock is held."""
        held = self._stored()
        return self._brought_back(None) if held is None else held.token

    def _stored(self) -> StoredToken | None:
        """Read the store and note its token; return None if a session can get the first one."""
        held = self._store.read()
        if held is None:
            if self._login is None:
                raise TokenMissingError("no token is stored yet")
            return None
        self._take(held.token)
        return held

    def _brought_back(self, token: Token | None) -> Token:
        """Get a token if there is none or it has expired; the lock is held.

        Any number of reads may call this, so after a failure the next attempt is a minute later.
        """
        if token is not None and token.remaining(self._clock()) > _NOTHING:
            return token
        self._raise_recent_failure(token)
        try:
            return self._attempt(force=False)
        except TokenShortLivedError:
            known = self._known
            if known is None or known.token.remaining(self._clock()) <= _NOTHING:
                raise
            return known.token

    def _raise_recent_failure(self, token: Token | None) -> None:
        if (failure := self._failure) and failure.answers(token, now=self._clock()):
            raise failure.error.again()

    def _refused_although_new(self, token: Token) -> TokenRejectedError:
        error = TokenRejectedError(
            "the token was refused, but the API has just accepted it, and it is too new to be "
            "replaced",
            expires_at=token.expires_at,
        )
        self._failure = FailedAttempt(error, token, self._clock())
        return error

    def _take(self, token: Token) -> None:
        """Note the token that the store holds, and announce a new one; the lock is held."""
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
        """Return ``token`` unless it has expired; the lock is held."""
        if token.remaining(self._clock()) > _NOTHING:
            return token
        error = TokenRejectedError(
            f"the token expired at {token.expires_at.isoformat()}: nothing refreshed it in time",
            expires_at=token.expires_at,
        )
        self._tell_a_person(error)
        raise error

    def _tell_a_person(self, error: QwenTokenError) -> None:
        """Announce once that only a person can help; the lock is held."""
        now = self._clock()
        at = self._announced_reasons.get(error.reason)
        # An announcement in the future was made by a clock that was ahead, and may have been wrong:
        # a token that seemed to have expired may be alive.
        if at is not None and at <= now:
            return
        if severity(error, now=now, since=now, policy=_ALERT_POLICY) is Severity.CRITICAL:
            self._announced_reasons[error.reason] = now
            self._events.leave("expired", error)

    def _check(self) -> CheckResult:
        """Refresh the token if it is due, and announce what happened."""
        error = self._try_to_refresh()
        self._events.tell()
        # Read after the callbacks: one may have set another token.
        held = self._known
        return CheckResult(error, None if held is None else held.token.expires_at, self._window())

    def _try_to_refresh(self) -> Exception | None:
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

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _known: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the arguments for another process's manager, without token and login.

        Unwritten tokens and logins are written first, because the other process reads the store.
        """
        store = self._arguments["store"]
        if isinstance(store, MemoryStore):
            raise memory_is_of_one_process()
        if not isinstance(store, TokenStore | None):
            raise _client_of_this_process()
        with self._lock:
            if not self._store.is_settled:
                self._store.read()
            if self._store.failure is not None:
                raise self._store.failure
            if self._login is not None and not self._login.sessions.is_settled:
                self._login.prepare()
        return _anew, (type(self), self._arguments, self._login is not None)

    def __repr__(self) -> str:
        return f"TokenManager({self._origin}, token=[redacted])"


def _anew(kind: type[_Kind], arguments: dict[str, Any], has_login: bool) -> _Kind:  # noqa: FBT001 - as pickled
    """Return a manager for another process; its login is the stored one."""
    return kind(session=STORED if has_login else None, **arguments)


def _client_of_this_process() -> ConfigError:
    return ConfigError(
        "a TokenManager with a client of yours, or a SecretStore, cannot be passed to another "
        "process: make it by TokenManager.from_secret without client"
    )


class _OpenSecret:
    """Opens a secret's store."""

    def __init__(self, secret_id: str, client: "SecretsManagerClient | None") -> None:
        self._secret_id = secret_id
        self._client = client

    def __call__(self) -> "SecretStore":
        from qwen_token.secret_store import SecretStore  # noqa: PLC0415 - boto3 is slow to import

        return SecretStore.open(self._secret_id, self._client)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._client is not None:
            raise _client_of_this_process()
        return _OpenSecret, (self._secret_id, None)
