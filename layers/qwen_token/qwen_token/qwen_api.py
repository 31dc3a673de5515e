"""Qwen's API over requests: a session's endpoint, its neighbours, and what each answer means.

Two things are never mixed up here: *dead* (the API itself refused the token) and *unknown* (no
answer, or one that did not come from the API).
"""

import logging
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final, Self

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError

from .errors import (
    RateLimitedError,
    TokenMalformedError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from .replies import (
    STATUS_HEADER,
    UNAUTHORIZED,
    actual_status,
    failure_code,
    json_object,
    media_type,
)
from .tokens import Token, decode_token

# Their warnings quote what a server sent where it could not be parsed, and every answer of this API
# has a new token in its cookie.
for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# With the trailing slash: without it the site answers 200 with the web app's page.
_AUTHS_PATH: Final = "/api/v1/auths/"

# A real answer has about 5 kB.
_MAX_BODY: Final = 1024 * 1024
_CHUNK: Final = 64 * 1024

_CONNECT_TIMEOUT: Final = 3.0
_READ_TIMEOUT: Final = 10.0
# An attempt that has less than this is not worth starting.
_SHORTEST_ATTEMPT: Final = 1.0
# What is cut off ends at once, but for a name look-up and the parsing of what was already read.
_CUT_OFF_TIME: Final = 0.5

_RETRIES: Final = 3
_RETRIED_STATUS: Final = (429, 500, 502, 503, 504)
_BACKOFF_FACTOR: Final = 0.5
_BACKOFF_JITTER: Final = 0.5
_RETRY_AFTER_MAX: Final = 10
_LONGEST_ASKED_PAUSE: Final = 86_400

# What these mean depends on who says them: the API itself, or something in front of it.
_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_TURNED_AWAY: Final = (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED)

# RFC 9457's own, beside a "detail" that the API has as well.
_PROBLEM_KEYS: Final = frozenset({"type", "title", "status"})

# Alibaba Cloud's firewall, by its pages (and where they redirect to) and by its JSON answers.
_CHALLENGE_PAGE_MARKS: Final = ("aliyun_waf_aa", "_____tmd_____")
_CHALLENGE_CODES: Final = ("FAIL_SYS_USER_VALIDATE", "RGV587_ERROR")


class QwenApi:
    """Asks ``GET {base_url}/api/v1/auths/``, and the newer paths, with a token as bearer.

    No redirect is followed, a body over 1 MiB is refused, and a call ends within the time that it
    is given, whatever the other side does.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        """Trade ``token`` for its successor, which is not yet to be trusted.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        try:
            return decode_token(self._session(token, within)[1])
        except TokenMalformedError as error:
            raise UpstreamUnexpectedError(f"the token in the API's answer: {error}") from error

    def verify(self, token: Token, *, within: timedelta) -> None:
        """Check that the API knows ``token`` as its own account's.

        Raises: as ``refresh`` does.
        """
        self._session(token, within)

    def session(self, token: Token, *, within: timedelta) -> dict[str, object]:
        """Return what the API says of the account behind ``token``, without the new token.

        At least ``id``, the account; ``email``, ``name``, ``role``, ``expires_at`` and others where
        the API has them.

        Raises: as ``refresh`` does.
        """
        answer, _ = self._session(token, within)
        return {name: value for name, value in answer.items() if name != "token"}

    def data(self, path: str, token: Token, *, within: timedelta) -> object:
        """Return the ``data`` of the newer API's envelope that ``GET {base_url}{path}`` answers.

        Raises: as ``refresh`` does, but for WrongAccountError: no envelope says whose it is.
        """
        answer = self._answer(path, token, within)
        if answer.get("success") is not True or "data" not in answer:
            raise UpstreamUnexpectedError(
                "the API's answer is no envelope: it has no 'success' or no 'data'"
            )
        return answer["data"]

    def _answer(self, path: str, token: Token, within: timedelta) -> Mapping[str, object]:
        url = self._base_url + path
        return _read_answer(_exchange(url, token, seconds=within.total_seconds()))

    def _session(self, token: Token, within: timedelta) -> tuple[Mapping[str, object], str]:
        """Return the account's own session that the API sees behind ``token``, and its token."""
        answer = self._answer(_AUTHS_PATH, token, within)
        email = answer.get("email")
        if answer.get("role") == "guest" or (
            isinstance(email, str) and email.endswith("@guest.com")
        ):
            raise WrongAccountError("the API sees a guest behind this token: it is not signed in")
        account, raw = answer.get("id"), answer.get("token")
        if not (isinstance(account, str) and account and isinstance(raw, str)):
            # Other things have an id, too: only a session says whose the token is.
            raise UpstreamUnexpectedError(
                "the API's answer is no session: it has no 'id' or no 'token'"
            )
        if account != token.account:
            raise WrongAccountError("the API sees another account behind this token")
        return answer, raw


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came back over the wire, read in full."""

    status: int
    media_type: str
    location: str
    # It may hold a token.
    body: bytes = field(repr=False)
    retry_after: str = ""


class _Bearer(AuthBase):
    """Sends the token itself: given an ``auth``, requests does not go looking into ~/.netrc."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.raw}"
        return request

    def __repr__(self) -> str:
        return "_Bearer([redacted])"


class _Session(requests.Session):
    """Sees no redirect in any reply: where there is one, requests reads the body to its end and
    parses the target, followed or not.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - requests' own signature
        return None


class _RetryUntil(Retry):
    """Exponential backoff with jitter that gives up where its next wait would pass a deadline."""

    def __init__(self, *, deadline: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._deadline = deadline

    def new(self, **kwargs: Any) -> Self:
        return super().new(deadline=self._deadline, **kwargs)

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        try:
            return super().get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError):
            return None

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        successor = super().increment(*args, **kwargs)
        response: BaseHTTPResponse | None = kwargs.get("response")
        asked = self.get_retry_after(response) if response is not None else None
        wait = asked if asked is not None else successor.get_backoff_time() + _BACKOFF_JITTER
        if time.monotonic() + wait + _SHORTEST_ATTEMPT > self._deadline:
            # Where there was a reply, urllib3 returns that instead.
            raise MaxRetryError(kwargs["_pool"], args[1], kwargs.get("error"))
        if response is not None:
            # urllib3 would read the refused reply to its end, however long, to save a connection.
            response.close()
        return successor


class _Line:
    """The socket in use, one after another, to be cut off by a thread that waits no longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def hold(self, connected: socket.socket) -> socket.socket:
        with self._lock:
            self._release()
            if self._cut:
                # The time was over before the connection stood, and nobody waits for it.
                connected.close()
                raise TimeoutError
            # A handle of its own: TLS takes the socket itself away from whoever has it.
            self._socket = connected.dup()
        return connected

    def cut(self) -> None:
        """End what is being read and written, and let nothing begin again."""
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
    """Puts every connection on the line, before the first byte goes to a proxy or into TLS."""

    def __init__(self, line: _Line, *, max_retries: Retry) -> None:
        self._line = line
        super().__init__(max_retries=max_retries)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        line, kind = self._line, pool.ConnectionCls

        class Connection(kind):  # type: ignore[misc,valid-type] # plain or TLS
            def _new_conn(self) -> socket.socket:
                return line.hold(super()._new_conn())

        pool.ConnectionCls = Connection
        return pool


def _exchange(url: str, token: Token, *, seconds: float) -> _Reply:
    """Send one request, with its retries, and return the reply, in at most ``seconds``.

    A socket's timeout bounds the wait for the next byte only, and nothing bounds a name look-up.
    So a thread does it, which is cut off when time is up: it would live, and work, for as long as
    a server goes on dripping, run after run.
    """
    if seconds < _SHORTEST_ATTEMPT:
        raise UpstreamUnavailableError("no time was left to call the API")
    deadline = time.monotonic() + seconds
    line = _Line()
    replies: list[_Reply] = []
    failures: list[BaseException] = []

    def send() -> None:
        try:
            replies.append(_send(url, token, deadline, line))
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failures.append(error)
        finally:
            line.cut()

    sender = threading.Thread(target=send, name="qwen-token-exchange", daemon=True)
    sender.start()
    sender.join(seconds)
    if sender.is_alive():
        line.cut()
        sender.join(_CUT_OFF_TIME)
        raise UpstreamUnavailableError(f"the API gave no complete answer within {seconds:.0f} s")
    if replies:
        return replies[0]
    error = failures[0]
    # Translated without its cause: that one quotes what the server sent, and so perhaps a token.
    if isinstance(error, requests.Timeout):
        raise UpstreamUnavailableError("the API did not answer in time")
    if isinstance(error, requests.RequestException | HTTPError):
        raise UpstreamUnavailableError(
            f"the API could not be reached, or broke off: {type(error).__name__}"
        )
    raise error


def _send(url: str, token: Token, deadline: float, line: _Line) -> _Reply:
    retry = _RetryUntil(
        total=_RETRIES,
        status_forcelist=_RETRIED_STATUS,
        backoff_factor=_BACKOFF_FACTOR,
        backoff_jitter=_BACKOFF_JITTER,
        retry_after_max=_RETRY_AFTER_MAX,
        # The last answer is classified like any other.
        raise_on_status=False,
        deadline=deadline,
    )
    seconds = deadline - time.monotonic()
    with _Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Adapter(line, max_retries=retry))
        with session.get(
            url,
            auth=_Bearer(token),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            # Of plain http there is only this machine's own, and a proxy would see the token. To
            # https, a proxy of the environment is a tunnel.
            proxies={"http": ""},
            timeout=(min(_CONNECT_TIMEOUT, seconds), min(_READ_TIMEOUT, seconds)),
            allow_redirects=False,
            stream=True,
        ) as response:
            return _Reply(
                status=actual_status(response.status_code, response.headers.get(STATUS_HEADER, "")),
                media_type=media_type(response.headers.get("Content-Type", "")),
                location=response.headers.get("Location", ""),
                retry_after=response.headers.get("Retry-After", ""),
                body=_read_body(response),
            )


def _read_body(response: requests.Response) -> bytes:
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > _MAX_BODY:
            raise UpstreamUnexpectedError(f"the API's answer is longer than {_MAX_BODY} bytes")
    return bytes(body)


def _read_answer(reply: _Reply) -> Mapping[str, object]:
    """Return the API's document, or raise what the reply means.

    Whatever is not recognisably the API's own word is unknown, never a dead token.
    """
    document = json_object(reply.body)
    seen = f"HTTP {reply.status} with {_describe(reply.body, document)}"
    if _is_challenge(reply, document):
        raise UpstreamBlockedError(f"a firewall's challenge came in place of the API: {seen}")
    code = failure_code(document)
    has_detail = _has_detail(reply, document)
    if code == "RateLimited" or reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise RateLimitedError(
            f"the API asks to be called less often: {seen}",
            retry_after=_asked_pause(reply, document),
        )
    # A 403 with a code is about what the code says; with a mere text it is about the token.
    if (
        code == UNAUTHORIZED
        or (code is not None and reply.status == HTTPStatus.UNAUTHORIZED)
        or (has_detail and reply.status in _REFUSED)
    ):
        raise TokenRejectedError(f"the API refused the token: {seen}")
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise UpstreamUnavailableError(f"the API failed: {seen}")
    if reply.status in _TURNED_AWAY and code is None and not has_detail:
        raise UpstreamBlockedError(f"something in front of the API refused the request: {seen}")
    if reply.status != HTTPStatus.OK or code is not None or not document:
        raise UpstreamUnexpectedError(f"not an answer of the API as it is known: {seen}")
    return document


def _asked_pause(reply: _Reply, document: Mapping[str, object]) -> timedelta | None:
    """Return the pause that the API asks for: in the header, or in hours in its envelope."""
    seconds: float | None = None
    data = document.get("data")
    hours = data.get("num") if isinstance(data, dict) else None
    if isinstance(hours, int) and not isinstance(hours, bool):
        seconds = hours * 3600
    if reply.retry_after:
        with suppress(InvalidHeader, ValueError, OverflowError):
            seconds = Retry(retry_after_max=_LONGEST_ASKED_PAUSE).parse_retry_after(
                reply.retry_after
            )
    if seconds is None or seconds <= 0:
        return None
    # No pause is worth a token: whoever asks for more is asked again after a day.
    return timedelta(seconds=min(seconds, _LONGEST_ASKED_PAUSE))


def _has_detail(reply: _Reply, document: Mapping[str, object]) -> bool:
    """Say whether this is the API's older way to fail; gateways have a standard one like it."""
    return (
        isinstance(document.get("detail"), str)
        and not _PROBLEM_KEYS & document.keys()
        and reply.media_type != "application/problem+json"
    )


def _is_challenge(reply: _Reply, document: Mapping[str, object]) -> bool:
    if any(mark in reply.location for mark in _CHALLENGE_PAGE_MARKS):
        return True
    if document:
        codes = document.get("ret")
        return isinstance(codes, list) and any(
            isinstance(code, str) and code.startswith(_CHALLENGE_CODES) for code in codes
        )
    return any(mark.encode() in reply.body for mark in _CHALLENGE_PAGE_MARKS)


def _describe(body: bytes, document: Mapping[str, object]) -> str:
    """Name the kind of body, in words of our own: a body may hold anything, tokens included."""
    if document:
        kind = "a JSON object"
    elif not body.strip():
        kind = "an empty body"
    elif body.lstrip()[:1] == b"<":
        kind = "a page"
    else:
        kind = "a text that is no JSON object"
    return f"{kind} ({len(body)} bytes)"
