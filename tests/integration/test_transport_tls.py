"""Over TLS, the token goes to the server that the URL names, and to no other."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from warnings import catch_warnings

import pytest
import trustme
from urllib3.exceptions import InsecureRequestWarning

from qwen_token import UpstreamError, UpstreamUnavailableError
from qwen_token.qwen_api import QwenApi
from tests.minting import pieces, token
from tests.wire import Script, drip, flood, raw, reply, wire

HELD = token(left=timedelta(days=2), now=datetime.now(UTC))
# Too short for many attempts.
BRIEF = timedelta(seconds=2)
DAY = timedelta(days=1)


@contextmanager
def server(certificate: trustme.LeafCert) -> Iterator[tuple[str, list[str]]]:
    """Serve with this certificate; yield the address, and what tokens came."""
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers["Authorization"])
            self.send_error(503)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Stay silent."""

    class Quiet(HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Expect that the client breaks off."""

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"https://localhost:{listening.server_port}", tokens
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(name="authority")
def _authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return an authority that this process trusts."""
    authority = trustme.CA()
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return authority


def test_a_server_with_a_certificate_of_its_own_gets_the_token(authority: trustme.CA) -> None:
    with server(authority.issue_cert("localhost")) as (url, tokens), pytest.raises(UpstreamError):
        QwenApi(url).refresh(HELD, within=BRIEF)

    assert set(tokens) == {f"Bearer {HELD.raw}"}
    # It failed, and was asked again.
    assert len(tokens) == 2


@pytest.mark.usefixtures("authority")
def test_a_server_without_a_trusted_certificate_gets_no_token() -> None:
    refuse_to_talk_to(trustme.CA().issue_cert("localhost"))


def test_a_server_with_another_hosts_certificate_gets_no_token(authority: trustme.CA) -> None:
    refuse_to_talk_to(authority.issue_cert("elsewhere.example"))


def test_a_server_with_an_expired_certificate_gets_no_token(authority: trustme.CA) -> None:
    now = datetime.now(UTC)
    refuse_to_talk_to(
        authority.issue_cert("localhost", not_before=now - 2 * DAY, not_after=now - DAY)
    )


def refuse_to_talk_to(certificate: trustme.LeafCert) -> None:
    with (
        server(certificate) as (url, tokens),
        # An error here, it would keep the token back where nobody looks at the certificate.
        catch_warnings(action="ignore", category=InsecureRequestWarning),
        pytest.raises(UpstreamUnavailableError),
    ):
        QwenApi(url).refresh(HELD, within=BRIEF)

    assert tokens == []


@pytest.fixture(name="via")
def _via(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what makes this process send https through a proxy, loopback addresses included."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    return lambda proxy: monkeypatch.setenv("HTTPS_PROXY", proxy.replace("//", "//me:secret@"))


def test_a_proxy_carries_the_token_and_does_not_see_it(
    authority: trustme.CA, via: Callable[[str], None]
) -> None:
    carried = bytearray()
    with server(authority.issue_cert("localhost")) as (url, tokens):

        def tunnel(client: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as there:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for end in iter(lambda: select.select([client, there], [], [])[0][0], None):
                    data = end.recv(65_536)
                    if not data:
                        return
                    carried.extend(data)
                    (there if end is client else client).sendall(data)

        with wire(tunnel) as proxy:
            via(proxy.base_url)
            with pytest.raises(UpstreamError):
                QwenApi(url).refresh(HELD, within=BRIEF)

    assert set(tokens) == {f"Bearer {HELD.raw}"}
    assert proxy.requests[0].startswith(b"CONNECT localhost:")
    seen = b"".join(proxy.requests) + carried
    assert not any(piece.encode() in seen for piece in pieces(HELD.raw))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(reply("407 Who are you"), id="refuses"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n\r\nno TLS"), id="speaks for itself"),
        pytest.param(raw(b""), id="hangs up"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"), id="drips"),
        pytest.param(flood(b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x03\x00\x04" * 999), id="floods"),
    ],
)
@pytest.mark.usefixtures("authority")
def test_a_misbehaving_proxy_is_not_an_answer_and_gets_no_token(
    script: Script, via: Callable[[str], None]
) -> None:
    with wire(script) as proxy:
        via(proxy.base_url)
        started = time.monotonic()
        with pytest.raises(UpstreamUnavailableError):
            QwenApi("https://localhost").refresh(HELD, within=BRIEF)

    assert time.monotonic() - started < BRIEF.total_seconds() + 3
    assert not any(piece.encode() in b"".join(proxy.requests) for piece in pieces(HELD.raw))
