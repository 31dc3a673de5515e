"""The promises, against inputs that nobody thought of; the same ones each time."""

import base64
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.minting import ACCOUNT
from tests.proofs.fuzz.promises import HELD, hold_for_reply, hold_for_server, hold_for_text
from tests.wire import wire

EXP = int(HELD.expires_at.timestamp())
# The same examples each time, as many as the profile says.
always_the_same = settings(derandomize=True)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([EXP, EXP * 1000, 946684799, 253402300800, 10**30, ACCOUNT, HELD.raw])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
claims = st.dictionaries(
    st.sampled_from(["id", "sub", "exp", "iat", "nbf", "aud"]), values
) | st.builds(lambda more: {"id": ACCOUNT, "exp": EXP} | more, st.dictionaries(st.text(), values))
headers = st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "zip"]), values)


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


nonsense = st.binary(max_size=40) | st.sampled_from([b"[" * 100_000, b'{"id":' * 50_000])
jwts = st.builds(
    lambda header, payload, signature: f"{part(header)}.{part(payload)}.{signature}",
    st.just({"alg": "HS256"}) | headers | values | nonsense,
    claims | values | nonsense,
    st.sampled_from(["", "c2ln", "=", "a.b"]) | st.text(max_size=8),
)
pasted = st.builds(
    lambda before, text, after: f"{before}{text}{after}",
    st.sampled_from(["", " ", '"', "Bearer ", "Authorization: bearer ", "token=", "a=b; token="]),
    jwts | st.text(),
    st.sampled_from(["", "\r\n", '"', "; path=/", "\x00", "\ud800"]),
)

documents = st.builds(
    lambda session, more: session | more,
    st.sampled_from([{}, {"id": ACCOUNT, "token": HELD.raw}]),
    st.dictionaries(
        st.sampled_from(
            ["id", "token", "email", "role", "success", "data", "code", "detail", "ret", "type"]
        ),
        values
        | jwts
        | st.just(False)
        | st.sampled_from(["guest", "x@guest.com", ["FAIL_SYS_USER_VALIDATE::x"], [HELD.raw]])
        | st.builds(
            lambda code: {"code": code},
            st.sampled_from(["unauthorized", "RateLimited", HELD.raw]) | values,
        ),
    ),
).map(lambda document: json.dumps(document).encode())
bodies = (
    documents
    | st.builds(lambda value: json.dumps({"detail": value}).encode(), values)
    | st.binary(max_size=200)
    | values.map(lambda value: json.dumps(value).encode())
    | st.builds(lambda body, end: body[:end], documents, st.integers(0, 300))
    | st.builds(lambda text: f"<html>{HELD.raw}{text}_____tmd_____".encode(), st.just("x"))
)
statuses = st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 405, 429, 500, 503, 999])


@always_the_same
@given(pasted)
def test_any_text_is_a_token_or_refused_without_being_quoted(text: str) -> None:
    hold_for_text(text)


@always_the_same
@given(
    statuses,
    st.sampled_from(["", "application/json", "application/problem+json", HELD.raw]) | st.text(),
    st.sampled_from(["", "/", f"https://elsewhere.example/{HELD.raw}"]) | st.text(),
    st.sampled_from(["", "0", "x", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"]) | st.text(),
    bodies,
)
def test_any_reply_has_its_meaning_in_the_tree(
    status: int, media_type: str, location: str, asked: str, body: bytes
) -> None:
    headers = (("Content-Type", media_type), ("Location", location), ("Retry-After", asked))
    hold_for_reply(status, headers, body)


@dataclass
class Talker:
    """A server that says whatever it was given last."""

    base_url: str = ""
    says: bytes = b""

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(self.says)


@pytest.fixture(name="talker", scope="module")
def _talker() -> Iterator[Talker]:
    talker = Talker()
    with wire(talker) as server:
        talker.base_url = server.base_url
        yield talker


header_lines = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 10",
            b"Transfer-Encoding: chunked",
            b"Content-Encoding: gzip",
            b"Content-Encoding: deflate, gzip",
            b"Content-Type: application/json",
            b"Retry-After: 0",
            b"Retry-After: x",
            b"x-actual-status-code: 401",
            b"x-actual-status-code: 99999",
            b"Location: http://[",
            f"Set-Cookie: token={HELD.raw}".encode(),
        ]
    )
    | st.binary(max_size=30),
    max_size=5,
)


@always_the_same
@given(statuses, header_lines, bodies)
def test_any_answer_over_the_wire_ends_in_the_tree(
    talker: Talker, status: int, lines: list[bytes], body: bytes
) -> None:
    head = b"\r\n".join([b"HTTP/1.1 %d Status" % status, *lines])
    talker.says = head + b"\r\n\r\n" + body
    hold_for_server(talker.base_url)


@always_the_same
@given(st.binary(max_size=300))
def test_any_bytes_over_the_wire_end_in_the_tree(talker: Talker, said: bytes) -> None:
    talker.says = said
    hold_for_server(talker.base_url)
