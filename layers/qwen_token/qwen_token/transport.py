"""HTTP with a deadline: send one request, and return the reply, whatever the other side does.

What a reply means is not decided here: see ``replies``.
"""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import MaxRetryError

from .environment_faults import (
    HTTPS_PROXIES,
    REQUESTS_CA_BUNDLES,
    first_set,
    unusable_ca_bundle,
)
from .errors import (
    ConfigError,
    NetworkConfigError,
    QwenTokenError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    forgets_locals,
)
from .library_logs import guard_library_logs
from .origin import SAFE_URL, is_safe_url
from .replies import PASSING_STATUSES, Reply, http_date, retry_after

# Every answer of this API has a new token in its cookie.
guard_library_logs()

# A real answer has about 5 kB.
_MAX_BODY: Final = 1024 * 1024
_CHUNK: Final = 64 * 1024

_CONNECT_TIMEOUT: Final = 3.0
_READ_TIMEOUT: Final = 10.0
# An attempt that has less than this is not worth starting.
_SHORTEST_ATTEMPT: Final = 1.0
# A thread that was cut off ends at once, unless it is looking up a name, or still parsing what it
# had read before.
_CUT_OFF_TIME: Final = 0.5

_RETRIES: Final = 3
_BACKOFF_FACTOR: Final = 0.5
_BACKOFF_JITTER: Final = 0.5
# Between two attempts of one call. Where a ``Retry-After`` asks for more, there is no second one.
_LONGEST_WAIT: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send. Its headers and its body may hold secrets; its URL is shown, so may not.

    ``json`` is sent as the body, unless it is None. A cookie goes into ``headers``, as ``Cookie``:
    nothing is kept from one request to the next. ``repeatable`` is false where the request spends
    something that may be good for one use only.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    json: object = field(default=None, repr=False)
    repeatable: bool = True


@forgets_locals
def send(request: Request, *, within: timedelta) -> Reply:
    """Send ``request``, with its retries, and return the last reply, in at most ``within``.

    No redirect is followed, no proxy is used for plain http, and no more than 1 MiB of a body is
    read. A GET is repeated after a broken connection or a status that may pass (see ``replies``); a
    POST, and what is not ``repeatable``, only where no connection was made: the server may have
    acted on it.

    Raises:
        UpstreamUnavailableError: no complete reply came in time, for whatever reason.
        UpstreamUnexpectedError: the reply's body is too long.
        NetworkConfigError: the environment names a proxy or a CA bundle that cannot be used.
        ConfigError: the address is not one that a secret may be sent to.
    """
    # A socket's timeout bounds the wait for the next byte only, and nothing bounds a name look-up.
    # So a thread does the work, and its socket is shut down when time is up. Otherwise that thread
    # would go on, run after run, for as long as a server keeps dripping.
    if not is_safe_url(request.url.partition("?")[0]):
        raise ConfigError(f"nothing was sent: the address should be {SAFE_URL}")
    seconds = within.total_seconds()
    if seconds < _SHORTEST_ATTEMPT:
        raise UpstreamUnavailableError("no time was left to call the API")
    deadline = time.monotonic() + seconds
    lifeline = _Lifeline()
    replies: list[Reply] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            replies.append(_send(request, deadline, lifeline))
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failures.append(error)
        finally:
            lifeline.cut()

    sender = threading.Thread(target=run, name="qwen-token-sender", daemon=True)
    try:
        sender.start()
    except RuntimeError:
        raise UpstreamUnavailableError("this process can start no thread to call the API") from None
    sender.join(seconds)
    if sender.is_alive():
        lifeline.cut()
        sender.join(_CUT_OFF_TIME)
        raise UpstreamUnavailableError(f"the API gave no complete answer within {seconds:.0f} s")
    if replies:
        return replies[0]
    # Without the cause: it quotes what the server sent, and so perhaps a token.
    raise _translated(failures[0], request.url)


def _translated(error: BaseException, url: str) -> BaseException:
    """Return what is raised for whatever requests, and what it calls, raised."""
    kind = type(error).__name__
    if isinstance(error, QwenTokenError) or not isinstance(error, Exception):
        return error
    if isinstance(error, requests.Timeout):
        return UpstreamUnavailableError("the API did not answer in time")
    if url.startswith("https:"):
        is_about_files = isinstance(error, requests.exceptions.SSLError) or (
            isinstance(error, OSError) and not isinstance(error, requests.RequestException)
        )
        if is_about_files and (variable := unusable_ca_bundle(REQUESTS_CA_BUNDLES)):
            return NetworkConfigError(f"the CA bundle that {variable} names cannot be used")
        # The URL itself was checked: what cannot be read, or is not known, is the proxy's.
        if isinstance(error, ValueError) and (variable := first_set(HTTPS_PROXIES)):
            return NetworkConfigError(f"the proxy that {variable} names cannot be used: {kind}")
    return UpstreamUnavailableError(f"the API could not be reached, or broke off: {kind}")


def _send(request: Request, deadline: float, lifeline: "_Lifeline") -> Reply:
    retry = _RetryUntil(
        total=_RETRIES,
        read=None if request.repeatable else False,
        other=None if request.repeatable else False,
        status_forcelist=PASSING_STATUSES if request.repeatable else (),
        # Otherwise a ``Retry-After`` alone would make urllib3 repeat a GET.
        respect_retry_after_header=request.repeatable,
        backoff_factor=_BACKOFF_FACTOR,
        backoff_jitter=_BACKOFF_JITTER,
        # The last reply is returned like any other.
        raise_on_status=False,
        deadline=deadline,
    )
    seconds = deadline - time.monotonic()
    with _Redirectless() as session:
        # Plain http goes to this machine only, and a proxy would see the token. For https, a proxy
        # of the environment is a tunnel.
        session.trust_env = request.url.startswith("https:")
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Adapter(lifeline, max_retries=retry))
        with session.request(
            request.method,
            request.url,
            headers={"Accept-Encoding": "identity", **request.headers},
            json=request.json,
            auth=_as_it_is,
            timeout=(min(_CONNECT_TIMEOUT, seconds), min(_READ_TIMEOUT, seconds)),
            allow_redirects=False,
            stream=True,
        ) as response:
            return Reply(
                status=response.status_code,
                headers=tuple(response.raw.headers.iteritems()),
                body=_read_body(response),
                received_at=_date_of(response.headers),
            )


def _read_body(response: requests.Response) -> bytes:
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > _MAX_BODY:
            raise UpstreamUnexpectedError(f"the API's answer is longer than {_MAX_BODY} bytes")
    return bytes(body)


def _date_of(headers: Mapping[str, str]) -> datetime:
    return http_date(headers.get("Date", "")) or datetime.now(UTC)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave the headers alone: without an ``auth``, requests puts in what ~/.netrc says."""
    return request


class _Redirectless(requests.Session):
    """A session that sees no redirect in any reply: where it sees one, requests reads the body to
    its end and parses the target, followed or not.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - requests' own signature
        return None


class _RetryUntil(Retry):
    """Exponential backoff with jitter that gives up where its next wait would be too long, or would
    pass a deadline.
    """

    def __init__(self, *, deadline: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._deadline = deadline

    def new(self, **kwargs: Any) -> Self:
        return super().new(deadline=self._deadline, **kwargs)

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        headers = response.headers
        asked = retry_after(headers.get("Retry-After", ""), now=_date_of(headers))
        return None if asked is None else asked.total_seconds()

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        successor = super().increment(*args, **kwargs)
        response: BaseHTTPResponse | None = kwargs.get("response")
        asked = self.get_retry_after(response) if response is not None else None
        wait = asked if asked is not None else successor.get_backoff_time() + _BACKOFF_JITTER
        is_too_long = wait > _LONGEST_WAIT.total_seconds()
        if is_too_long or time.monotonic() + wait + _SHORTEST_ATTEMPT > self._deadline:
            # Where there was a reply, urllib3 returns that instead.
            raise MaxRetryError(kwargs["_pool"], args[1], kwargs.get("error"))
        if response is not None:
            # urllib3 would read the refused reply to its end, however long, to save a connection.
            response.close()
        return successor


class _Lifeline:
    """The socket that a sender is using, so that another thread can shut it down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def hold(self, connected: socket.socket) -> socket.socket:
        """Take the next socket in use, in place of the one before."""
        with self._lock:
            self._release()
            if self._cut:
                # Time was up before the connection was made, and nobody waits for it.
                connected.close()
                raise TimeoutError
            # A handle of its own: TLS takes the socket itself away from whoever has it.
            self._socket = connected.dup()
        return connected

    def cut(self) -> None:
        """End all reading and writing, and let none begin again."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with suppress(OSError):  # the other side may have closed it
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._release()

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Adapter(HTTPAdapter):
    """Hands every socket to the lifeline, before the first byte goes to a proxy or into TLS."""

    def __init__(self, lifeline: _Lifeline, *, max_retries: Retry) -> None:
        self._lifeline = lifeline
        super().__init__(max_retries=max_retries)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        lifeline, kind = self._lifeline, pool.ConnectionCls

        class Connection(kind):  # type: ignore[misc,valid-type] # plain or TLS
            # A program that turns http.client's on would have headers and bodies printed.
            debuglevel = 0

            def _new_conn(self) -> socket.socket:
                return lifeline.hold(super()._new_conn())

        pool.ConnectionCls = Connection
        return pool
