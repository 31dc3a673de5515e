"""HTTP with a deadline: send one request and return the reply, whatever the server does.

``replies`` decides what a reply means.
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

# Any answer may set a new token as a cookie, which these libraries log.
guard_library_logs()

# The API's own answers have about 5 kB.
_MAX_BODY: Final = 1024 * 1024
_CHUNK: Final = 64 * 1024

_CONNECT_TIMEOUT: Final = 3.0
_READ_TIMEOUT: Final = 10.0
# No attempt is started with less time than this.
_SHORTEST_ATTEMPT: Final = 1.0
# A thread whose socket was cut ends at once, unless it is looking up a name or still parsing
# what it had read before.
_CUT_OFF_TIME: Final = 0.5

_RETRIES: Final = 3
_BACKOFF_FACTOR: Final = 0.5
_BACKOFF_JITTER: Final = 0.5
# The longest pause between two attempts of a call. If ``Retry-After`` names a longer one, there is
# no second attempt.
_LONGEST_WAIT: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send. Its headers and body may hold secrets; its URL, which is shown, must not.

    ``json`` is sent as the body, unless it is None. Cookies go into ``headers``, as ``Cookie``;
    there is no cookie jar. ``repeatable`` is false if the request spends something that may be
    valid for one use only.
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
    read. A GET is repeated after a broken connection or a status that may pass (see ``replies``). A
    POST, and a request that is not ``repeatable``, is repeated only if no connection was made,
    because the server may have acted on it.

    Raises:
        UpstreamUnavailableError: no complete reply came in time.
        UpstreamUnexpectedError: the reply's body is too long.
        NetworkConfigError: the environment names a proxy or a CA bundle that cannot be used.
        ConfigError: no secret may be sent to the address.
    """
    # A socket's timeout bounds the wait for the next byte only, and nothing bounds a name look-up.
    # So a thread does the work, and its socket is shut down when time is up. Without that, the
    # thread would live on for as long as a server keeps dripping bytes.
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
    # Without the cause, which quotes the server's bytes and so perhaps a token.
    raise _translated(failures[0], request.url)


def _translated(error: BaseException, url: str) -> BaseException:
    """Translate an exception of requests, or of the code that it calls."""
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
        # The URL itself was checked, so an invalid or unknown one is the proxy's.
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
        # The last reply is returned even after a status that may pass.
        raise_on_status=False,
        deadline=deadline,
    )
    seconds = deadline - time.monotonic()
    with _Redirectless() as session:
        # Plain http goes to this machine only, and a proxy would see the token. For https, a proxy
        # is only a tunnel.
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
    """Leave the headers alone. Without an ``auth``, requests would add the one from ~/.netrc."""
    return request


class _Redirectless(requests.Session):
    """A session that sees no redirect in any reply. Otherwise requests would read a redirect's
    body to its end and parse its target, even without following it.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - requests' own signature
        return None


class _RetryUntil(Retry):
    """Exponential backoff with jitter that gives up if its next wait would be too long or pass the
    deadline.
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
            # If there was a reply, urllib3 returns that instead.
            raise MaxRetryError(kwargs["_pool"], args[1], kwargs.get("error"))
        if response is not None:
            # urllib3 would read the reply to its end, however long, to reuse the connection.
            response.close()
        return successor


class _Lifeline:
    """The socket of a sending thread, for another thread to shut down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def hold(self, connected: socket.socket) -> socket.socket:
        """Take the sender's next socket, which replaces the one before."""
        with self._lock:
            self._release()
            if self._cut:
                # Time was up before the connection was made.
                connected.close()
                raise TimeoutError
            # A duplicate, because TLS detaches the socket object that it wraps.
            self._socket = connected.dup()
        return connected

    def cut(self) -> None:
        """End all reading and writing, and prevent any more."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with suppress(OSError):  # the server may have closed it
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._release()

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Adapter(HTTPAdapter):
    """Hands each socket to the lifeline before the first byte goes to a proxy or into TLS."""

    def __init__(self, lifeline: _Lifeline, *, max_retries: Retry) -> None:
        self._lifeline = lifeline
        super().__init__(max_retries=max_retries)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        lifeline, kind = self._lifeline, pool.ConnectionCls

        class Connection(kind):  # type: ignore[misc,valid-type] # plain or TLS
            # Otherwise http.client would print headers and bodies in a program that debugs it.
            debuglevel = 0

            def _new_conn(self) -> socket.socket:
                return lifeline.hold(super()._new_conn())

        pool.ConnectionCls = Connection
        return pool
