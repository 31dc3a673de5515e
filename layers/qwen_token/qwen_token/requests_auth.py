"""The token on the requests of a ``requests`` session, or of a single call."""

import io
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from typing import Any, Final

import requests
import urllib3
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar
from requests.exceptions import UnrewindableBodyError
from requests.utils import get_environ_proxies, get_netrc_auth, rewind_body, select_proxy

from .errors import ConfigError, forgets_locals
from .origin import Origin, authorization, token_in
from .replies import ENVELOPE_LIMIT, body_refuses, head_refuses
from .source_auth import SourceAuth

_CHUNK: Final = 16 * 1024


class QwenAuth(SourceAuth, AuthBase):
    """Puts the token of ``source`` on requests to one origin, and renews it when it is refused.

    ::

        requests.get("https://chat.qwen.ai/api/v2/chats/", auth=QwenAuth.from_secret("qwen/token"))

    A request to any other origin goes without the token; this is not an error, because a session
    may talk to several. If the API refuses the token (401, or 200 with its envelope
    ``unauthorized``; a page or a 403 is not a refusal), the source renews it. The request is then
    sent once more if its body can be: text, bytes, or a file that can be rewound. Otherwise
    the refusal is returned, and the next request has the new token. The source's errors are raised
    to the caller; if there is no other token than the refused one, that is TokenRejectedError.

    Plain http (to this machine only) must not go through a proxy, which would see the token. If
    the environment names one, ConfigError is raised and nothing is sent. A proxy for http that the
    session or the call itself names is noticed only afterwards; ConfigError is then raised instead
    of returning the answer.

    A streamed answer stays a stream: only JSON is looked at, at most 64 KiB of it, and the reader
    still gets all of it.
    """

    @forgets_locals
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token on the request, if that goes to our origin."""
        if self._origin.holds(request.url or ""):
            # Reading the proxies of the environment is slow, and only plain http needs it.
            self._require_no_proxy(request, lambda: get_environ_proxies(request.url or ""))
            request.headers["Authorization"] = authorization(self._source.current())
            _keep_token(request, self._origin)
            request.register_hook("response", self._renew_and_resend)  # type: ignore[no-untyped-call]
        return request

    def _require_no_proxy(
        self, request: requests.PreparedRequest, proxies: Callable[[], Mapping[str, str]]
    ) -> None:
        if not self._origin.is_encrypted and select_proxy(request.url or "", proxies()):
            raise self._through_a_proxy()

    @forgets_locals
    def _renew_and_resend(self, response: requests.Response, **how: Any) -> requests.Response:
        """Return ``response``, or the second attempt's if it refuses the token."""
        request = response.request
        rejected = token_in(str(request.headers.get("Authorization", "")))
        # Hooks stay on over redirects, so this may be another server's answer to a request without
        # the token. Only our origin's answer counts.
        if rejected is None or not self._origin.holds(request.url or ""):
            return response
        try:
            self._require_no_proxy(request, lambda: how.get("proxies") or {})
        except ConfigError:
            response.close()
            raise
        if not _is_refusal(response, streams=bool(how.get("stream"))):
            return response
        try:
            raw = self._source.renew(rejected=rejected)
        except BaseException:
            # The caller never gets this response, so its connection must be released here.
            response.close()
            raise
        if not _rewind(request):
            return response
        return _resend(response, raw, how)


def _is_refusal(response: requests.Response, *, streams: bool) -> bool:
    by_head = head_refuses(response.status_code, response.headers)
    if by_head is not None:
        return by_head
    # Without streaming, requests reads the whole body next anyway.
    return body_refuses(_peek(response) if streams else response.content)


def _peek(response: requests.Response) -> bytes:
    """Return the body or the beginning of a long one, and leave it readable as before."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > ENVELOPE_LIMIT:
        return b""
    wire = getattr(response.raw, "_original_response", None)
    if not isinstance(wire, HTTPResponse):
        # Not a raw socket, into which nothing can be put back.
        return b""
    if wire.fp is None:
        return _content(response)
    if response.raw.tell():
        # A hook has started to read it.
        return b""
    taken = _Taken(wire.fp)
    twin = _twin(wire, taken)
    answer = urllib3.HTTPResponse(
        twin, response.raw.headers, response.raw.status, preload_content=False
    )
    chunks = answer.stream(_CHUNK, decode_content=True)
    body = bytearray()
    try:
        while len(body) <= ENVELOPE_LIMIT and (chunk := next(chunks, None)) is not None:
            body += chunk
    except urllib3.exceptions.HTTPError:
        # Raised again to the reader of the body.
        body.clear()
    finally:
        chunks.close()
        twin.close()
    wire.fp = io.BufferedReader(_PutBack(taken, wire.fp))
    return bytes(body)


def _content(response: requests.Response) -> bytes:
    """Return the body if a hook has read and kept it, otherwise an empty one."""
    try:
        return response.content
    except RuntimeError:
        return b""


def _twin(wire: HTTPResponse, taken: "_Taken") -> HTTPResponse:
    """Return a copy of the answer that reads from ``taken`` and leaves ``wire`` alone."""
    twin = HTTPResponse(taken)  # type: ignore[arg-type]
    for name in ("headers", "msg", "status", "chunked", "chunk_left", "length", "will_close"):
        setattr(twin, name, getattr(wire, name))
    return twin


class _Taken(io.RawIOBase):
    """Reads from a file and keeps what it read, to put it back. Replaces a socket."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.kept = bytearray()
        self.error: OSError | None = None

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = self._file.readinto1(buffer)
        except OSError as error:
            self.error = error
            raise
        self.kept += buffer[:count]
        return count


class _PutBack(io.RawIOBase):
    """A file that first returns what was taken from it, then the rest."""

    def __init__(self, taken: _Taken, file: io.BufferedIOBase) -> None:
        self._head = io.BytesIO(taken.kept)
        self._error = taken.error
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if count := self._head.readinto(buffer):
            return count
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._file.readinto1(buffer)

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()
        super().close()


class _Bearing(requests.PreparedRequest):
    """A request that keeps its token over redirects to the token's origin.

    Otherwise requests would replace it by the credentials of a ``.netrc``.
    """

    origin: Origin

    def copy(self) -> requests.PreparedRequest:
        copied = super().copy()
        _keep_token(copied, self.origin)
        return copied

    def prepare_auth(self, auth: Any, url: str = "") -> None:
        has_token = token_in(str(self.headers.get("Authorization", ""))) is not None
        if not (
            has_token
            and self.origin.holds(self.url or "")
            and auth == get_netrc_auth(self.url or "")
        ):
            super().prepare_auth(auth, url)


def _keep_token(request: requests.PreparedRequest, origin: Origin) -> None:
    """Make ``request`` keep its token if a redirect stays in ``origin``."""
    # requests copies the request for each redirect, and calls no auth before it sends the copy.
    if type(request) is requests.PreparedRequest:
        request.__class__ = _Bearing
        request.origin = origin  # type: ignore[attr-defined]


def _rewind(request: requests.PreparedRequest) -> bool:
    """Rewind the body so that it can be sent again; return whether that is possible."""
    if request.body is None or isinstance(request.body, str | bytes):
        return True
    try:
        rewind_body(request)
    except (UnrewindableBodyError, ValueError):
        # A stream that cannot be rewound, or a closed file.
        return False
    return True


def _resend(response: requests.Response, raw: str, how: dict[str, Any]) -> requests.Response:
    """Send the request once more, with another token, as requests' own digest auth does."""
    if not how.get("stream"):
        # After reading to the end, the second attempt can use the same connection.
        _ = response.content
    response.close()
    again = response.request.copy()
    cookies = again._cookies  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way
    extract_cookies_to_jar(cookies, response.request, response.raw)  # type: ignore[no-untyped-call]
    again.prepare_cookies(cookies)
    again.headers["Authorization"] = authorization(raw)
    second: requests.Response = response.connection.send(again, **how)
    second.history.append(response)
    second.request = again
    return second
