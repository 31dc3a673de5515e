"""The token for services: read from the secret, cached in the process, renewed when refused."""

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
)

from .errors import (
    ConfigError,
    QwenTokenError,
    StoreError,
    TokenMissingError,
    TokenRejectedError,
    forgets_locals,
)
from .fork_safety import renew_after_fork
from .library_logs import guard_library_logs
from .names import require_name

# boto3 and its dependencies are slow to import, so only the first read imports them.
if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from .secret_store import SecretStore

MAX_AGE: Final = 300.0
MAX_STALE: Final = 3600.0

# The jitter: up to this part of max_age is subtracted, so that processes that started together do
# not keep reading together.
_JITTER: Final = 0.1
# The secret is read again this long before the token expires, however young the copy is: requests
# take time, and clocks differ. (A 15-minute token is replaced five minutes before its expiry.)
_EARLY: Final = 60.0
# The first and the longest pause between two reads in that last minute, while the secret still
# holds the same token.
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 15.0
# After a read that failed, or found the refused token again, all callers get the same answer for
# this long.
_PAUSE: Final = 5.0
# Each run may write a version and publish an alert. AWS advises one new version in ten minutes.
_REFRESH_PAUSE: Final = 900.0
# The function's calls to the API take at most 25 s; a second attempt would be a second run.
_REFRESH_TIMEOUT: Final = 30
_CONNECT_TIMEOUT: Final = 2
_FORCE: Final = b'{"force": true}'

_log = logging.getLogger(__name__)

# Every program that reads a token from a secret or puts it on requests imports this module.
guard_library_logs()

_Kind = TypeVar("_Kind", bound="SharedToken")


@dataclass(frozen=True, slots=True)
class _CachedToken:
    """A token that was read from the secret. Instants are in seconds since 1970."""

    raw: str = field(repr=False)
    # Fresh from ``fresh_from`` until just before ``fresh_until``, which is never after the expiry.
    fresh_from: float
    fresh_until: float
    # Until when it may bridge an outage of Secrets Manager.
    usable_until: float
    expires_at: float
    # The pause before the next read, if the token is in its last minute; otherwise 0.
    pause: float = 0.0


_NOT_READ: Final = _CachedToken("", 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _ReplayedError:
    """An error replayed to callers from ``since`` until ``until``."""

    error: QwenTokenError
    since: float
    until: float
    # The token that could not be renewed, if that was the failure.
    rejected: str | None = field(default=None, repr=False)


class Source(Protocol):
    """A token source for an auth; ``SharedToken`` documents each method.

    A source may also have ``current_nowait``, which saves an auth under asyncio or trio a thread
    for each request.
    """

    def current(self) -> str: ...
    def renew(self, *, rejected: str) -> str: ...


class SourceOptions(TypedDict, total=False):
    """The options of a ``SharedToken``, for an auth that creates one."""

    client: "SecretsManagerClient | None"
    max_age: float
    max_stale: float
    refresh_function: str | None
    lambda_client: "LambdaClient | None"


class SharedToken:
    """The token of one secret, for all threads of this process.

    A copy is used for ``max_age`` seconds (less a jitter of up to a tenth), and until a minute
    before its token expires. Then the first thread that needs it reads the secret, and the others
    wait for that one read. If the secret still holds the same token, it is used up to its expiry,
    and the secret is read again after 5 s, 10 s, and then every 15 s. No expired token is returned.

    If Secrets Manager is unavailable (no answer, throttled, a server error, or no AWS
    credentials), the copy bridges up to ``max_stale`` seconds more while the token is alive; one
    thread then tries to read every 5 s, and no other waits for it. A refusal (no permission,
    no secret, no token in it) is never bridged. A read that fails, or finds an expired token, takes
    at most 15 s, and its error is replayed to all callers for 5 s.

    ``client`` is boto3's for Secrets Manager. By default, the first read creates one, in the
    region that ``secret_id`` names if it is an ARN. ``refresh_function`` is the name or ARN of the
    stack's function, which ``renew`` may run (with ``lambda_client``, or one that it creates); the
    role needs ``lambda:InvokeFunction`` on it.

    Times come from the wall clock (``clock``, in seconds since 1970), which goes on while Lambda
    freezes the process; a monotonic clock may not. If the clock is set back, the next call reads
    the secret at once, whatever pause was in force.

    After a fork, the child process keeps the copy, and creates its own lock and clients. A client
    that was passed in is used unchanged, so pass each process its own. A pickle holds the arguments
    and no token: in another process, it becomes the instance that ``of`` returns there.
    """

    def __init__(  # noqa: PLR0913 - each is an option of its own, by name
        self,
        secret_id: str,
        *,
        client: "SecretsManagerClient | None" = None,
        max_age: float = MAX_AGE,
        max_stale: float = MAX_STALE,
        refresh_function: str | None = None,
        lambda_client: "LambdaClient | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare to read, without a call to AWS.

        Raises:
            ConfigError: names the invalid argument, and what it should be.
        """
        if not secret_id.strip():
            raise ConfigError("secret_id should be the secret's name or ARN, but is empty")
        if not (math.isfinite(max_age) and max_age > 0):
            raise ConfigError("max_age should be a number of seconds greater than 0")
        if not (math.isfinite(max_stale) and max_stale >= 0):
            raise ConfigError("max_stale should be a number of seconds, 0 or more")
        if refresh_function is not None:
            require_name(refresh_function, argument="refresh_function")
        self._secret_id = require_name(secret_id, argument="secret_id")
        self._client = client
        self._max_age = max_age
        self._max_stale = max_stale
        self._refresh_function = refresh_function
        self._lambda_client = lambda_client
        self._clock = clock
        self._copy = _NOT_READ
        # Only the holder of the lock changes the attributes below.
        self._lock = threading.Lock()
        self._store: SecretStore | None = None
        self._functions: LambdaClient | None = None
        self._failure: _ReplayedError | None = None
        self._rejection: _ReplayedError | None = None
        self._refreshed_at: float | None = None
        renew_after_fork(self)

    @classmethod
    def of(cls, secret_id: str, **options: "Unpack[SourceOptions]") -> Self:
        """Return the process's instance for these arguments, or a new one if they have a client."""
        if options.get("client") is not None or options.get("lambda_client") is not None:
            return cls(secret_id, **options)
        return _of_process(cls, secret_id, dict(options))

    def current(self) -> str:
        """Return a token that has not expired.

        Raises:
            StoreError: the secret cannot be read.
            TokenMissingError: it holds no token.
            TokenMalformedError: its value is not a token.
            TokenRejectedError: its token has expired.
            ConfigError: no region is known, or no client can be created.
        """
        # The fast path of nearly every call: no lock, and the clock is read once.
        held = self._copy
        if held.fresh_from <= self._clock() < held.fresh_until:
            return held.raw
        return self._current_anew()

    def current_nowait(self, *, is_reading: bool = False) -> str | None:
        """Return a token that has not expired, or None if ``current`` would read or wait.

        While another thread reads the secret, this may also return the copy that bridges an outage
        of Secrets Manager; ``is_reading`` says that a thread is about to read.
        """
        held = self._copy
        if held.fresh_from <= self._clock() < held.fresh_until:
            return held.raw
        bridge = self._bridge() if is_reading or self._lock.locked() else None
        return None if bridge is None else bridge.raw

    @forgets_locals
    def renew(self, *, rejected: str) -> str:
        """Return another token than ``rejected``, which the API has refused.

        The secret is read again, unless another thread has found another token meanwhile. If it
        still holds ``rejected``, this runs the refresh function (if there is one) with
        ``{"force": true}``, waits for it for up to 30 s, and reads the secret once more; at most
        once in 15 minutes. Other threads that renew wait for that and share the result.

        Raises:
            TokenRejectedError: the secret holds no other token, or one that has expired; raised
                again, without another read, for 5 s.
            StoreError: the secret cannot be read.
            TokenMissingError: it holds no token.
            TokenMalformedError: its value is not a token.
            ConfigError: no region is known, or no client can be created.
        """
        with self._lock:
            held = self._copy
            if held.raw != rejected and held.fresh_from <= self._clock() < held.fresh_until:
                return held.raw
            self._raise_again(self._failure)
            if self._rejection is not None and self._rejection.rejected == rejected:
                self._raise_again(self._rejection)
            held = self._reread()
            more = ""
            if held.raw == rejected and self._refresh_function is not None:
                more = f"; {self._refresh(self._refresh_function)}"
                held = self._reread()
            if held.raw != rejected or self._clock() >= held.expires_at:
                return self._living(held, more).raw
            error = TokenRejectedError(
                f"the API refused the token that the secret {self._secret_id} holds{more}",
                expires_at=datetime.fromtimestamp(held.expires_at, UTC),
            )
            self._rejection = self._failed(error, rejected=rejected)
            raise error

    @forgets_locals
    def _current_anew(self) -> str:
        """Read the secret, or wait for the thread that does; bridge an outage."""
        bridge = self._bridge()
        if bridge is None:
            self._lock.acquire()
        elif not self._lock.acquire(blocking=False):
            # Another thread is already reading, and its read may fail.
            return bridge.raw
        try:
            held = self._copy
            if held.fresh_from <= self._clock() < held.fresh_until:
                return held.raw
            try:
                self._raise_again(self._failure)
                return self._living(self._reread()).raw
            except (StoreError, ConfigError):
                if (bridge := self._bridge()) is None:
                    raise
                return self._prolong(bridge).raw
        finally:
            self._lock.release()

    def _bridge(self) -> _CachedToken | None:
        """Return the copy if Secrets Manager is unavailable and the copy may bridge that."""
        failure, held = self._failure, self._copy
        if failure is None or not _may_pass(failure.error):
            return None
        now = self._clock()
        if now < held.fresh_from:
            # The clock was set back, so the copy's age is unknown: treat it as read just now.
            usable_until = now + self._max_age + self._max_stale
            held = replace(held, fresh_from=now, usable_until=usable_until)
        return held if now < min(held.usable_until, held.expires_at) else None

    def _prolong(self, held: _CachedToken) -> _CachedToken:
        """Use the copy until the next read is due."""
        now = self._clock()
        until = min(now + _PAUSE, held.usable_until, held.expires_at)
        self._copy = replace(held, fresh_until=until)
        _log.warning(
            "Secrets Manager is unavailable: the token that was read %.0f s ago is used",
            now - held.fresh_from,
        )
        return held

    def _reread(self) -> _CachedToken:
        """Read the secret, and cache its token, expired or not."""
        try:
            if self._store is None:
                from .secret_store import SecretStore  # noqa: PLC0415

                self._store = SecretStore.open(self._secret_id, self._client)
            found = self._store.read()
            if found is None:
                raise TokenMissingError(f"the secret {self._secret_id} has no value yet")
        except QwenTokenError as error:
            self._failure = self._failed(error)
            raise
        now = self._clock()
        expires_at = found.token.expires_at.timestamp()
        age = self._max_age * (1 - _JITTER * random.random())  # noqa: S311 - no secret
        fresh_until, pause = min(now + age, expires_at - _EARLY), 0.0
        if now >= expires_at - _EARLY:
            pause = self._next_pause(found.token.raw)
            fresh_until = min(now + age, now + pause, expires_at)
        self._failure = None
        self._copy = _CachedToken(
            raw=found.token.raw,
            fresh_from=now,
            fresh_until=fresh_until,
            usable_until=now + self._max_age + self._max_stale,
            expires_at=expires_at,
            pause=pause,
        )
        return self._copy

    def _next_pause(self, raw: str) -> float:
        """Return how long to wait before the next read, for a token in its last minute."""
        held = self._copy
        if held.raw != raw or not held.pause:
            return _FIRST_PAUSE
        return min(2 * held.pause, _LONGEST_PAUSE)

    def _living(self, held: _CachedToken, more: str = "") -> _CachedToken:
        """Return the copy unless its token has expired; ``more`` ends the error's message."""
        if self._clock() < held.expires_at:
            return held
        expired_at = datetime.fromtimestamp(held.expires_at, UTC)
        error = TokenRejectedError(
            f"the token in the secret {self._secret_id} expired at {expired_at.isoformat()}: "
            f"nothing refreshed it in time, and the keeper's alerts say why{more}",
            expires_at=expired_at,
        )
        self._failure = self._failed(error)
        raise error

    def _failed(self, error: QwenTokenError, *, rejected: str | None = None) -> _ReplayedError:
        now = self._clock()
        return _ReplayedError(error, now, now + _PAUSE, rejected)

    def _raise_again(self, failure: _ReplayedError | None) -> None:
        """Raise the replayed error to one more caller."""
        if failure is not None and failure.since <= self._clock() < failure.until:
            raise failure.error.again()

    def _refresh(self, function: str) -> str:
        """Run the refresh function, and describe the result for an error's message.

        Only the secret shows whether there is a new token, so read it afterwards in any case.
        """
        now = self._clock()
        if self._refreshed_at is not None and (
            self._refreshed_at <= now < self._refreshed_at + _REFRESH_PAUSE
        ):
            return "the refresh function was asked less than 15 minutes ago"
        self._refreshed_at = now
        from .secret_store import translated  # noqa: PLC0415

        try:
            if self._functions is None:
                self._functions = self._lambda_client or self._new_lambda_client(function)
            with translated("run the refresh function", by="Lambda"):
                response = self._functions.invoke(
                    FunctionName=function, InvocationType="RequestResponse", Payload=_FORCE
                )
                response["Payload"].read()
        except (StoreError, ConfigError) as error:
            return str(error)
        if "FunctionError" in response:
            return "the refresh function failed as well: see its alert"
        return "the refresh function was run, and changed nothing"

    def _new_lambda_client(self, function: str) -> "LambdaClient":
        from botocore.config import Config  # noqa: PLC0415

        from .secret_store import new_client, region_of  # noqa: PLC0415

        config = Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_REFRESH_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": 1},
        )
        arn = function if function.startswith("arn:") else self._secret_id
        client: LambdaClient = new_client("lambda", region=region_of(arn), config=config)
        return client

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._store = None
        self._functions = None

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _known: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the arguments, without the token: another process creates its own instance."""
        if self._client is not None or self._lambda_client is not None:
            raise ConfigError(
                "a SharedToken with a client of yours cannot be passed to another process: leave "
                "client and lambda_client out, so that each process makes its own"
            )
        options: dict[str, object] = {
            "max_age": self._max_age,
            "max_stale": self._max_stale,
            "refresh_function": self._refresh_function,
            "clock": self._clock,
        }
        given = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
        return _of_process, (type(self), self._secret_id, given)

    def __repr__(self) -> str:
        return f"SharedToken({self._secret_id!r}, token=[redacted])"


def _may_pass(error: QwenTokenError) -> bool:
    """Return whether a failed read may pass, because it says nothing about the secret.

    That includes a client that cannot be created, because it could be created before.
    """
    return isinstance(error, ConfigError) or (isinstance(error, StoreError) and error.may_pass)


_by_arguments: dict[tuple[object, ...], SharedToken] = {}
_DEFAULTS: Final[dict[str, object]] = {
    "max_age": MAX_AGE,
    "max_stale": MAX_STALE,
    "refresh_function": None,
    "clock": time.time,
}


def _of_process(kind: type[_Kind], secret_id: str, options: dict[str, Any]) -> _Kind:
    """Return the process's instance of this class for these arguments."""
    key = (kind, secret_id, *sorted(options.items()))
    if (known := _by_arguments.get(key)) is None:
        # If two threads get here at once, both return the first one's instance.
        known = _by_arguments.setdefault(key, kind(secret_id, **options))
    return cast("_Kind", known)
