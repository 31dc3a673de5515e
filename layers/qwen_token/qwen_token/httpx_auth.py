"""The token on the requests of an ``httpx`` client, with or without an event loop; needs httpx."""

import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import httpx

from . import async_source
from .errors import forget_locals, forgets_locals
from .origin import authorization, token_in
from .replies import ENVELOPE_LIMIT, body_refuses, head_refuses
from .source_auth import SourceAuth

# The events that httpx's transport reports to the extension ``trace``.
_SENDS_HEADERS: Final = ".send_request_headers.started"
_BEGINS_SOCKS: Final = "socks.setup_socks5_connection.started"


@dataclass(frozen=True, slots=True)
class _Renewal:
    """A step of the flow: ask the source for another token than this one."""

    rejected: str = field(repr=False)


# The next step: send a request, read an answer's body, or ask the source for a token (None) or for
# another one.
_Step: TypeAlias = httpx.Request | httpx.Response | _Renewal | None

_UNCODED: Final = ("", "identity")


class QwenHttpxAuth(SourceAuth, httpx.Auth):
    """Puts the token of ``source`` on requests to one origin, and renews it when it is refused.

    ::

        auth = QwenHttpxAuth.from_secret("qwen/token")
        httpx.get("https://chat.qwen.ai/api/v2/chats/", auth=auth)

    It works like ``QwenAuth``, but sends only a body in memory (``content=b"…"``,
    ``data``, ``json``) again; after a streamed or multipart body it returns the refusal.
    If plain http would go through a proxy, wherever that is configured, ConfigError is raised.

    An ``AsyncClient``'s event loop (asyncio or trio) is never blocked. A token in memory
    is used at once. To read another one, the source has one thread of its own, and all requests
    wait for its result.

    httpx calls the client's hooks before its auth. If a hook raises ``HTTPStatusError`` for a
    refusal, the request is not sent again, and the next one renews the token first.
    """

    # The refused token, if a hook raised its refusal.
    _refused: str | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Send the request with the token, and once more with another one if it is refused."""
        before = request.extensions.get("trace")

        def trace(event: str, info: Mapping[str, Any]) -> None:
            self._require_no_proxy(event, info)
            if before is not None:
                before(event, info)

        self._watch(request, trace)
        steps = self._steps(request)
        # The last step's result may be a token, and this frame is in the traceback of what the
        # next step raises.
        done: list[Any] = [None]
        while True:
            try:
                step = steps.send(done.pop())
            except StopIteration:
                return
            if isinstance(step, httpx.Request):
                try:
                    done.append((yield step))
                except GeneratorExit as end:
                    self._note_refusal(end.__context__)
                    raise
            elif isinstance(step, httpx.Response):
                done.append(_peek(step))
            elif step is None:
                done.append(forgets_locals(self._source.current)())
            else:
                done.append(forgets_locals(self._source.renew)(rejected=step.rejected))

    def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the request with the token, and once more with another one if it is refused."""
        return _Flow(self._async_flow(request), self._note_refusal)

    async def _async_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        before = request.extensions.get("trace")

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            self._require_no_proxy(event, info)
            if before is not None:
                await before(event, info)

        self._watch(request, trace)
        steps = self._steps(request)
        done: list[Any] = [None]
        while True:
            try:
                step = steps.send(done.pop())
            except StopIteration:
                return
            if isinstance(step, httpx.Request):
                done.append((yield step))
            elif isinstance(step, httpx.Response):
                done.append(await _apeek(step))
            else:
                try:
                    done.append(await self._asked(step))
                except BaseException as error:
                    forget_locals(error)
                    raise

    async def _asked(self, step: _Renewal | None) -> str:
        if step is None:
            return await async_source.current(self._source)
        return await async_source.renew(self._source, rejected=step.rejected)

    def _watch(
        self, request: httpx.Request, trace: Callable[[str, Mapping[str, Any]], Any]
    ) -> None:
        """Have ``trace`` called before each thing that httpx sends for ``request``, if needed."""
        if not self._origin.is_encrypted and self._origin.holds(str(request.url)):
            request.extensions = {**request.extensions, "trace": trace}

    def _require_no_proxy(self, event: str, info: Mapping[str, Any]) -> None:
        """Raise ConfigError if a request to our origin is about to be sent to a proxy.

        An auth cannot see which proxy its client uses. Only the request that the transport sends
        shows it: its host is the proxy's, and its target is a whole URL.
        """
        if event == _BEGINS_SOCKS:
            # Our origin, or another one after a redirect.
            place, target = (info["host"], info["port"]), ""
        elif event.endswith(_SENDS_HEADERS):
            url = info["request"].url
            place, target = None, url.target.decode("ascii", "replace")
        else:
            return
        if place == (self._origin.host, self._origin.port) or self._origin.holds(target):
            raise self._through_a_proxy()

    def _steps(self, request: httpx.Request) -> Generator[_Step, Any]:
        url = request.url
        if not self._origin.holds(str(url)):
            yield request
            return
        raw = yield None
        if raw == self._refused:
            self._refused = None
            raw = yield _Renewal(raw)
        sent = request.headers["Authorization"] = authorization(raw)
        response = yield request
        # After a redirect this may be another server's answer. Only our origin's answer counts.
        is_the_same = response.request is request and request.url is url
        if not (is_the_same or self._origin.holds(str(response.url))):
            return
        if response.request.headers.get("Authorization") != sent:
            return
        refused = head_refuses(response.status_code, response.headers)
        if refused is None:
            body = b"" if _length(response) > ENVELOPE_LIMIT else (yield response)
            refused = body_refuses(body)
        elif refused and not 0 <= _length(response) <= ENVELOPE_LIMIT:
            # Otherwise httpx would read the refused answer to its end, however long.
            response.stream = _Replayed(response.stream, b"", None)
        if not refused:
            return
        raw = yield _Renewal(raw)
        if isinstance(request.stream, httpx.ByteStream):
            request.headers["Authorization"] = authorization(raw)
            yield request

    def _note_refusal(self, error: BaseException | None) -> None:
        """Remember the refused token, if a hook raised ``error`` for our origin's refusal."""
        if not isinstance(error, httpx.HTTPStatusError):
            return
        response = error.response
        if self._origin.holds(str(response.url)) and head_refuses(
            response.status_code, response.headers
        ):
            self._refused = token_in(response.request.headers.get("Authorization", ""))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_refused"}


class _Flow(AsyncGenerator[httpx.Request, httpx.Response]):
    """A flow that learns which error ends it; an asynchronous generator itself does not."""

    def __init__(
        self,
        flow: AsyncGenerator[httpx.Request, httpx.Response],
        note: Callable[[BaseException | None], None],
    ) -> None:
        self._flow = flow
        self._note = note

    def __anext__(self) -> Coroutine[Any, Any, httpx.Request]:
        return self._flow.__anext__()

    def asend(self, value: httpx.Response) -> Coroutine[Any, Any, httpx.Request]:
        return self._flow.asend(value)

    def athrow(self, *error: Any) -> Coroutine[Any, Any, httpx.Request]:
        return self._flow.athrow(*error)

    async def aclose(self) -> None:
        self._note(sys.exception())
        await self._flow.aclose()


class _Replayed(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An answer's stream whose beginning was read and put back."""

    def __init__(
        self,
        original: httpx.SyncByteStream | httpx.AsyncByteStream,
        head: bytes,
        rest: Iterator[bytes] | AsyncIterator[bytes] | None,
    ) -> None:
        self._original = original
        self._head = head
        self._rest = rest

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        if isinstance(self._rest, Iterator):
            yield from self._rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        if isinstance(self._rest, AsyncIterator):
            async for chunk in self._rest:
                yield chunk

    def close(self) -> None:
        if isinstance(self._original, httpx.SyncByteStream):
            self._original.close()

    async def aclose(self) -> None:
        if isinstance(self._original, httpx.AsyncByteStream):
            await self._original.aclose()


def _peek(response: httpx.Response) -> bytes:
    """Return the body (empty if it is long), and put back what was read."""
    original = response.stream
    if _is_gone(response) or not isinstance(original, httpx.SyncByteStream):
        return _content(response)
    rest = iter(original)
    head = bytearray()
    while len(head) <= ENVELOPE_LIMIT and (chunk := next(rest, None)) is not None:
        head += chunk
    response.stream = _Replayed(original, bytes(head), rest)
    return _decoded(response, bytes(head))


async def _apeek(response: httpx.Response) -> bytes:
    original = response.stream
    if _is_gone(response) or not isinstance(original, httpx.AsyncByteStream):
        return _content(response)
    rest = aiter(original)
    head = bytearray()
    while len(head) <= ENVELOPE_LIMIT and (chunk := await anext(rest, None)) is not None:
        head += chunk
    response.stream = _Replayed(original, bytes(head), rest)
    return _decoded(response, bytes(head))


def _is_gone(response: httpx.Response) -> bool:
    """Return whether the stream was read already: by a hook, or by a mock transport."""
    return response.is_stream_consumed or response.is_closed


def _content(response: httpx.Response) -> bytes:
    """Return the body if it was read and kept before, otherwise an empty one."""
    try:
        return response.content
    except httpx.ResponseNotRead:
        return b""


def _decoded(response: httpx.Response, head: bytes) -> bytes:
    if len(head) > ENVELOPE_LIMIT:
        return b""
    encoding = response.headers.get("Content-Encoding", "")
    if encoding in _UNCODED:
        return head
    coded = {"Content-Encoding": encoding}
    try:
        return httpx.Response(response.status_code, headers=coded, content=head).content
    except httpx.DecodingError:
        # Raised again to the reader of the body.
        return b""


def _length(response: httpx.Response) -> int:
    """Return the declared length of the body, or -1 if none is declared."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else -1
