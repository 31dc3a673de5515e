"""The token on the requests of a ``requests`` session, or of a single call."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar
from requests.exceptions import UnrewindableBodyError
from requests.utils import get_environ_proxies, rewind_body, select_proxy
from urllib3.exceptions import HTTPError

from .errors import ConfigError
from .origin import authorization, token_in
from .replies import ENVELOPE_LIMIT, body_refuses, head_refuses
from .source_auth import SourceAuth

_CHUNK: Final = 16 * 1024


class QwenAuth(SourceAuth, AuthBase):
    """Puts the token of ``source`` on requests to one origin, and renews it when it is refused.

    ::

        requests.get("https://chat.qwen.ai/api/v2/chats/", auth=QwenAuth.from_secret("qwen/token"))

    A request to any other origin goes without the token, and that is no error: a session may talk
    to several. Where the API refuses the token (401, or 200 with its envelope ``unauthorized``; a
    page or a 403 does not refuse it), the source renews it and the request is sent once more, if
    its body can be: text, bytes, or a file that can be rewound. Otherwise the refusal is returned,
    and the next request has the new token. What the source raises is raised to the caller, also
    when there is no other token than the refused one (TokenRejectedError).

    Plain http (to this machine only) is not sent through a proxy, which would see the token: where
    the environment names one, ConfigError is raised in place of the request. A proxy that the
    session or the call itself names for http is not seen before the answer comes, which then is
    ConfigError as well.

    A streamed answer stays a stream: only JSON is looked at, and at most 64 KiB of it.
    """

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token on, if the request goes to our origin."""
        if self._origin.holds(request.url or ""):
            self._require_no_proxy(request, get_environ_proxies(request.url or ""))
            request.headers["Authorization"] = authorization(self._source.current())
            request.register_hook("response", self._renew_and_resend)  # type: ignore[no-untyped-call]
        return request

    def _require_no_proxy(
        self, request: requests.PreparedRequest, proxies: Mapping[str, str]
    ) -> None:
        if not self._origin.is_encrypted and select_proxy(request.url or "", proxies):
            raise self._through_a_proxy()

    def _renew_and_resend(self, response: requests.Response, **how: Any) -> requests.Response:
        """Return ``response``, or the second attempt's if it refuses the token."""
        request = response.request
        rejected = token_in(str(request.headers.get("Authorization", "")))
        # Hooks stay on over redirects: this may be another server's answer, to a request without
        # the token. Only our origin's answer counts.
        if rejected is None or not self._origin.holds(request.url or ""):
            return response
        try:
            self._require_no_proxy(request, how.get("proxies") or {})
        except ConfigError:
            response.close()
            raise
        if not _is_refusal(response, streams=bool(how.get("stream"))):
            return response
        try:
            raw = self._source.renew(rejected=rejected)
        except BaseException:
            # The caller never sees the response, so only we can release its connection.
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
    """Return the body, or the beginning of a long one, and put it back to be read as before."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > ENVELOPE_LIMIT:
        return b""
    rest = response.raw.stream(_CHUNK, decode_content=True)
    head = bytearray()
    error: HTTPError | None = None
    try:
        while len(head) <= ENVELOPE_LIMIT and (chunk := next(rest, None)) is not None:
            head += chunk
    except HTTPError as broken:
        # Raised again to whoever reads the body, where requests translates it.
        error = broken
    response.raw = _Replayed(response.raw, _replay(bytes(head), error, rest))
    return bytes(head)


def _replay(head: bytes, error: HTTPError | None, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    if error is not None:
        raise error
    yield from rest


class _Replayed:
    """A body of which the beginning was read and put back; it is decoded already."""

    def __init__(self, raw: Any, chunks: Iterator[bytes]) -> None:
        self._raw = raw
        self._chunks = chunks
        self._kept = b""

    def stream(self, _size: int | None = None, **_options: bool) -> Iterator[bytes]:
        if self._kept:
            kept, self._kept = self._kept, b""
            yield kept
        yield from self._chunks

    def read(self, size: int | None = None, **_options: bool) -> bytes:
        while size is None or len(self._kept) < size:
            if (chunk := next(self._chunks, None)) is None:
                break
            self._kept += chunk
        end = len(self._kept) if size is None else size
        wanted, self._kept = self._kept[:end], self._kept[end:]
        return wanted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _rewind(request: requests.PreparedRequest) -> bool:
    """Prepare the body for being sent again; return whether that is possible."""
    if request.body is None or isinstance(request.body, str | bytes):
        return True
    try:
        rewind_body(request)
    except (UnrewindableBodyError, ValueError):
        # A stream that cannot be rewound, or a file that is closed by now.
        return False
    return True


def _resend(response: requests.Response, raw: str, how: dict[str, Any]) -> requests.Response:
    """Send the request once more, with another token, as requests' own digest auth does."""
    if not how.get("stream"):
        # Read to its end, the connection serves the second attempt as well.
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
