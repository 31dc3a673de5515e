"""A TCP server on loopback that answers with exactly the bytes it is told to, at any pace."""

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

Script = Callable[[socket.socket], None]

# Enough for one attempt of the API's client, and for no second one: retries have their own tests.
BRIEF: Final = timedelta(seconds=1.4)
# For clients of httpx that speak plain http: each that is given no context reads all certificates.
NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Wire:
    """The server's address, and every request that it got."""

    base_url: str
    requests: list[bytes] = field(default_factory=list)


@contextmanager
def wire(*scripts: Script) -> Iterator[Wire]:
    """Serve each connection with the next script, and with the last one from then on.

    A script gets the socket after the request was read; the connection is closed after it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}")
        stopped = threading.Event()

        def serve(connection: socket.socket, script: Script) -> None:
            with connection:
                request = b""
                try:
                    while not _is_whole(request) and (chunk := connection.recv(65536)):
                        request += chunk
                    seen.requests.append(request)
                    script(connection)
                except OSError:
                    # The other side had enough: many of these tests are about just that.
                    return

        def accept() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                script = scripts[min(len(threads), len(scripts) - 1)]
                threads.append(threading.Thread(target=serve, args=(connection, script)))
                connections.append(connection)
                threads[-1].start()

        threads: list[threading.Thread] = []
        connections: list[socket.socket] = []
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield seen
        finally:
            stopped.set()
            # Wakes the accept call, which closing alone does not.
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # closed already
            for thread in threads:
                thread.join()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    return bool(end) and (length is None or len(body) >= int(length[1]))


def reply(status: str, body: bytes = b"", *headers: str) -> Script:
    """Answer with a whole, well-formed reply."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def raw(data: bytes) -> Script:
    """Answer with these bytes, and close."""
    return lambda connection: connection.sendall(data)


def flood(head: bytes, piece: bytes) -> Script:
    """Send the same piece for ever, as fast as it is read."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return send


def drip(head: bytes, piece: bytes) -> Script:
    """Send the same piece for ever, a byte at a time: no wait for the next is long."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            for byte in piece:
                connection.sendall(bytes([byte]))
                time.sleep(0.01)

    return send
