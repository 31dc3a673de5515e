"""What the tests of the auths share: a server that knows one live token, and a source of tokens."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

from tests.minting import token

OLD = token(left=timedelta(days=2)).raw
NEW = token(left=timedelta(days=7)).raw
SOON = 10.0
# The event loops that httpx runs on.
BACKENDS = ["asyncio", "trio"] if find_spec("trio") else ["asyncio"]

JSON = {"Content-Type": "application/json"}
ENVELOPE = json.dumps({"success": False, "data": {"code": "unauthorized", "details": "…"}}).encode()
WELCOME = b'{"success": true, "data": true}'


@dataclass(frozen=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    authorization: str | None
    body: bytes
    cookie: str | None
    port: int

    @property
    def raw(self) -> str | None:
        return None if self.authorization is None else self.authorization.removeprefix("Bearer ")


class Reply:
    """An answer, whole or in chunks."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        chunks: Iterator[bytes] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.body = body
        self.chunks = chunks


@dataclass
class Api:
    """A server that knows one live token; what it says to others is up to the test."""

    base_url: str = ""
    live: str | None = NEW
    refusal: Callable[[], Reply] = lambda: Reply(401, JSON, b'{"detail": "401 Unauthorized"}')
    welcome: Callable[[Seen], Reply] = lambda _seen: Reply(200, JSON, WELCOME)
    requests: list[Seen] = field(default_factory=list)

    def answer(self, seen: Seen) -> Reply:
        self.requests.append(seen)
        return self.welcome(seen) if seen.raw == self.live else self.refusal()

    @property
    def tokens(self) -> list[str | None]:
        return [seen.raw for seen in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def serve(self) -> None:
        reply = self.api.answer(
            Seen(
                self.command,
                self.path,
                self.headers["Authorization"],
                self._read(),
                self.headers["Cookie"],
                self.client_address[1],
            )
        )
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.chunks is None:
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            return
        # With neither a length nor chunks, the body ends with the connection.
        is_chunked = not {"Content-Length", "Connection"} & reply.headers.keys()
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for chunk in reply.chunks:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if is_chunked else chunk)
            if is_chunked:
                self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True  # the client had enough, which is its right

    do_GET = do_POST = do_PUT = serve  # noqa: N815 - named by http.server

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent: requests are remembered, not printed."""


@contextmanager
def serving() -> Iterator[Api]:
    api = Api()
    handler = type("_Handler", (Handler,), {"api": api})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # A thread waits for the next request on each connection that was left open.
        server.daemon_threads = True
        api.base_url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Tokens:
    """A source with one token, and another one for when that is refused."""

    now: str = OLD
    then: str | Exception = NEW
    rejected: list[str] = field(default_factory=list)

    def current(self) -> str:
        return self.now

    def renew(self, *, rejected: str) -> str:
        self.rejected.append(rejected)
        if isinstance(self.then, Exception):
            raise self.then
        self.now = self.then
        return self.now
