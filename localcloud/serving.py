"""HTTP servers on loopback: what the stand-ins of Qwen's two hosts and the proxy share."""

import json
import secrets
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class Server(ThreadingHTTPServer):
    """Serves each connection in a thread. A client that breaks off is not an error."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the error, unless the client has closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@dataclass(frozen=True, slots=True)
class Received:
    """A received request. Its repr shows only method and path, because the rest may be secret."""

    method: str
    path: str
    # By lower-case name.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False, default=b"")

    def json(self) -> dict[str, Any]:
        """Return the JSON object in the body, or an empty one if there is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to send. None instead of a reply breaks the connection off."""

    status: int
    body: bytes = field(repr=False, default=b"")
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    # Each is sent in its own Set-Cookie header.
    cookies: Sequence[str] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to answer a request.

    ``answer`` gets the stand-in and its own kind of request.
    """

    name: str
    description: str
    # Any: a firewall's page may answer for either host, and ignores the request.
    answer: Callable[[Any, Any], Reply | None] = field(repr=False, compare=False)


class StandIn(ABC):
    """A server of scenarios. Inside a ``with`` block it listens on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        """Create a server that does not listen yet."""
        self.base_url = ""
        # Returns the aware time. A test may speed it up.
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        # Ends the requests that are left hanging.
        self.stopped = threading.Event()
        self._script_lock = threading.Lock()

    def __enter__(self) -> Self:
        handler = type("_Handler", (_Handler,), {"stand_in": self})
        self._server = Server(("127.0.0.1", 0), handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @abstractmethod
    def respond(self, received: Received) -> Reply | None:
        """Return the answer, or None to break the connection off."""

    def _next(self, script: list[Scenario]) -> Scenario:
        """Take the script's next scenario; the last one stays."""
        with self._script_lock:
            return script.pop(0) if len(script) > 1 else script[0]


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the stand-in's answer, and close the connection."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.stand_in.respond(Received(self.command, self.path, headers, body))
        self.close_connection = True
        if reply is None:
            return
        try:
            self._send(reply)
        except ConnectionError:
            return  # The client closed the connection, which is its right.

    def do_POST(self) -> None:
        """Answer as to a GET."""
        self.do_GET()

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        for cookie in reply.cookies:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Print nothing: requests are recorded."""


def json_reply(
    status: int,
    document: object,
    headers: Mapping[str, str] | None = None,
    cookies: Sequence[str] = (),
) -> Reply:
    """Answer with a JSON document."""
    head = {"content-type": "application/json", **(headers or {})}
    return Reply(status, json.dumps(document).encode(), head, cookies)


def failure(status: int, detail: str) -> Reply:
    """Fail as Open WebUI does."""
    return json_reply(status, {"detail": detail})


def envelope(
    actual_status: int, code: str, details: str, *, status: int = 200, **data: object
) -> Reply:
    """Fail as the newer API does: with status 200, and the true status in body and header."""
    document = {
        "success": False,
        "request_id": secrets.token_hex(8),
        "data": {"code": code, "details": details, **data},
    }
    return json_reply(status, document, {"x-actual-status-code": str(actual_status)})


def success(data: object, cookies: Sequence[str] = ()) -> Reply:
    """Answer as the newer API does."""
    document = {"success": True, "request_id": secrets.token_hex(8), "data": data}
    return json_reply(200, document, cookies=cookies)


def page(status: int, head: str, headers: Mapping[str, str] | None = None, body: str = "") -> Reply:
    """Answer with a web page."""
    document = f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"
    return Reply(status, document.encode(), {"content-type": "text/html", **(headers or {})})


def always(reply: Reply) -> Callable[[object, object], Reply]:
    """Answer with this, whatever is asked."""
    return lambda _stand_in, _request: reply
