"""What the libraries below log at DEBUG, of a program that turned all of its logs on."""

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest

from qwen_token.library_logs import guard_library_logs
from tests.minting import pieces, token
from tests.programs import run_program
from tests.wire import Script, raw, reply, wire

NOW = datetime.now(UTC)
HELD = token(left=timedelta(days=2), now=NOW).raw
NEW = token(left=timedelta(days=7), now=NOW).raw
CREDENTIAL = "an-opaque-credential-of-a-login-that-lives-for-a-month"
SESSION = json.dumps({"id": "a", "email": "a@example.com", "token": NEW}).encode()
JSON = "Content-Type: application/json"
COOKIES = (f"Set-Cookie: token={NEW}; Path=/", f"Set-Cookie: refresh_token={CREDENTIAL}; Path=/")
HEAD = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"

# The token comes with stdin, as arguments and programs are seen by others.
ALL_LOGS = """
import json, logging, sys, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
url, held = json.loads(sys.stdin.read())
class Source:
    def current(self):
        return held
    def renew(self, *, rejected):
        return held
"""
REQUESTS = """
import requests
from qwen_token import QwenAuth
from requests.adapters import HTTPAdapter
session = requests.Session()
session.mount("http://", HTTPAdapter(max_retries=1))
for _ in range(2):
    session.get(url, auth=QwenAuth(Source(), base_url=url), timeout=9)
"""
HTTPX = """
import httpx
from qwen_token.httpx_auth import QwenHttpxAuth
with httpx.Client(auth=QwenHttpxAuth(Source(), base_url=url)) as client:
    try:
        client.get(url)
    except httpx.RemoteProtocolError:
        pass
"""
ASYNC_HTTPX = """
import asyncio, httpx
from qwen_token.httpx_auth import QwenHttpxAuth
async def main():
    async with httpx.AsyncClient(auth=QwenHttpxAuth(Source(), base_url=url)) as client:
        try:
            await client.get(url)
        except httpx.RemoteProtocolError:
            pass
asyncio.run(main())
"""
CLIENT = """
import http.client
http.client.HTTPConnection.debuglevel = 9
from qwen_token import QwenClient, QwenTokenError
try:
    QwenClient(held, base_url=url).get_token_info()
except QwenTokenError:
    pass
"""
SECRET = """
import boto3
from qwen_token import SharedToken, QwenTokenError
client = boto3.client("secretsmanager", region_name="eu-west-1", endpoint_url=url)
SharedToken("qwen/token", client=client).current()
"""
MANAGER = """
import boto3
from qwen_token import TokenManager
client = boto3.client("secretsmanager", region_name="eu-west-1", endpoint_url=url)
manager = TokenManager.from_secret("qwen/token", client=client)
manager.set_token(held)
"""
AWS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
}

VALUE = json.dumps({"ARN": "a", "Name": "n", "VersionId": "v" * 36, "SecretString": HELD}).encode()
# One that comes in the middle of a header, and takes what follows with it.
# Another case of what the others show.
at_night = pytest.mark.nightly
GRANTED = reply("200 OK", SESSION, JSON, *COOKIES)
MALFORMED = raw(
    f"{HEAD}{COOKIES[1]}\r\n{COOKIES[0][:60]}\r\n{COOKIES[0][60:]}\r\n{COOKIES[1]}\r\n\r\n{{}}".encode()
)
# What is left of it is taken for the next reply's status.
TOO_LONG = raw(f"HTTP/1.1 200 OK\r\n{JSON}\r\nContent-Length: 2\r\n\r\n{{}}".encode() + SESSION)
STATUS = raw(NEW.encode() + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("program", "script", "seen"),
    [
        pytest.param(REQUESTS, GRANTED, "GET / HTTP", id="requests"),
        pytest.param(
            *(REQUESTS, MALFORMED, "Failed to parse headers"),
            id="a malformed header",
            marks=at_night,
        ),
        pytest.param(HTTPX, GRANTED, "receive_response", id="httpx"),
        pytest.param(
            *(HTTPX, MALFORMED, "RemoteProtocolError"),
            id="httpx, a malformed header",
            marks=at_night,
        ),
        pytest.param(HTTPX, STATUS, "RemoteProtocolError", id="httpx, a malformed status"),
        pytest.param(ASYNC_HTTPX, GRANTED, "receive_response", id="async httpx", marks=at_night),
        pytest.param(CLIENT, GRANTED, "GET /api", id="the client", marks=at_night),
        pytest.param(CLIENT, MALFORMED, "Failed to parse headers", id="the client, a bad header"),
        pytest.param(SECRET, reply("200 OK", VALUE), "Response body", id="a secret that is read"),
        pytest.param(MANAGER, reply("200 OK", VALUE), "PutSecretValue", id="one that is written"),
    ],
)
def test_a_program_with_all_logs_on_logs_no_token(program: str, script: Script, seen: str) -> None:
    with wire(script) as server:
        typed = json.dumps([server.base_url, HELD])
        said = run_program(ALL_LOGS + program, typed=typed, **AWS)
    assert seen in said, "the library must have logged something"
    secrets = pieces(HELD.partition(".")[2]) | pieces(NEW.partition(".")[2]) | pieces(CREDENTIAL)
    assert not secrets & pieces(said)


def test_what_a_reply_left_behind_is_not_quoted_as_the_next_ones_status() -> None:
    program = REQUESTS.replace("session.get(", "fails(session.get, ")
    fails = """
def fails(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except OSError:
        pass
"""
    with wire(STATUS) as server:
        typed = json.dumps([server.base_url, HELD])
        said = run_program(ALL_LOGS + fails + program, typed=typed)
    assert "BadStatusLine[redacted]" in said
    assert not pieces(NEW) & pieces(said)


@pytest.fixture(name="library")
def _library() -> logging.Logger:
    guard_library_logs()
    guard_library_logs()
    return logging.getLogger("urllib3.connectionpool")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ('%s://%s:%s "%s %s %s" %s %s', ("https", "a.com", 443, "GET", "/", "HTTP/1.1", 200, 5)),
        ("Retrying (%r) after connection broken by '%r': %s", (1, OSError("refused"), "/eyeglass")),
        ("Connection pool is full, discarding connection: %s. Cookies: 3", ("a.com",)),
        ("receive_response_headers.complete return_value=%s", ([(b"Server", b"nginx")],)),
        ("SecretStrings of %s", ("nobody",)),
    ],
)
def test_what_holds_no_secret_is_logged_as_it_was(
    library: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    message: str,
    arguments: tuple[object, ...],
) -> None:
    library.warning(message, *arguments, exc_info=OSError("refused"))
    [record] = caplog.records
    assert (record.msg, record.args) == (message, arguments)
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (f"a {NEW} b", "a [redacted] b"),
        (f"cut: {NEW[:30]}", "cut: [redacted]"),
        (
            "{'Authorization': 'Bearer opaque', 'A': 'b'}",
            "{'Authorization': 'Bearer [redacted]', 'A': 'b'}",
        ),
        (
            "[(b'Set-Cookie', b'a=\\'b'), (b'A', b'c')]",
            "[(b'Set-Cookie', b[redacted]), (b'A', b'c')]",
        ),
        ("Cookie: a=b; c=d\nAccept: e", "Cookie: [redacted]\nAccept: e"),
        (
            "params {'body': b'{\"SecretString\": \"x\"}'}",
            "params {'body': b'{\"SecretString[redacted]",
        ),
        ("BadStatusLine('x')", "BadStatusLine[redacted]"),
        ("illegal header line: bytearray(b'x')", "illegal header line: bytearray(b[redacted]"),
    ],
)
def test_what_could_be_a_secret_is_taken_out(
    library: logging.Logger, caplog: pytest.LogCaptureFixture, said: str, left: str
) -> None:
    library.warning("%s", said, exc_info=ValueError(said))
    [record] = caplog.records
    assert record.getMessage() == left
    assert record.exc_info is None
    assert record.exc_text is not None
    assert record.exc_text.endswith(left)
