"""A stand-in of Qwen's API: a real HTTP server on loopback that mints, checks and refuses tokens.

By default it behaves as a server that mints. What else a server, or something in front of one, may
do is a named ``Scenario`` of this module; ``SCENARIOS`` lists them all.

    with QwenStandIn() as qwen:
        token = qwen.mint(lifetime=timedelta(days=2))
        qwen.answer_with(MINTS, BLOCK_PAGE)  # the first call, and every one after it
"""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import jwt

from .serving import Server

ACCOUNT: Final = "0d1c8a4e-7a52-4b0e-9f7e-5a1e00000001"
ANOTHER_ACCOUNT: Final = "0d1c8a4e-7a52-4b0e-9f7e-5a1e00000002"

_AUTHS_PATH: Final = "/api/v1/auths/"
_USER_STATUS_PATH: Final = "/api/v2/users/status"
_CHATS_PATH: Final = "/api/v2/chats/"
_PAGE_OF_CHATS: Final = 50
_ALGORITHM: Final = "HS256"
_SHORT_LIFE: Final = timedelta(seconds=900)

Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that came in. It names the token by what is in it, never by itself.

    ``account`` and ``expires_at`` are None where no token came, or none that this server signed.
    """

    method: str
    path: str
    account: str | None
    expires_at: datetime | None
    raw: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send; no reply at all breaks the connection off."""

    status: int
    body: bytes = field(repr=False, default=b"")
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to answer a session request."""

    name: str
    description: str
    answer: "Callable[[QwenStandIn, Request], Reply | None]" = field(repr=False, compare=False)


class QwenStandIn:
    """The server. Inside a ``with`` block it listens on a free port of 127.0.0.1."""

    def __init__(self, *, lifetime: timedelta = timedelta(days=7)) -> None:
        """Make a server whose tokens live so long."""
        self.lifetime = lifetime
        self.requests: list[Request] = []
        # The titles of each account's chats, newest first.
        self.chats: dict[str, list[str]] = {}
        self.base_url = ""
        self._key = secrets.token_bytes(32)
        # Per account, the second of its last change of password. A token carries the one it was
        # issued under, and is dead as soon as the two differ.
        self._password_changes: dict[str, int] = {}
        self._dead: set[str] = set()
        self._script: list[Scenario] = [MINTS]
        self._lock = threading.Lock()
        # Frees the requests that are left hanging.
        self.stopped = threading.Event()

    def __enter__(self) -> Self:
        handler = type("_Handler", (_Handler,), {"qwen": self})
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

    def mint(
        self,
        *,
        account: str = ACCOUNT,
        lifetime: timedelta | None = None,
        **claims: object,
    ) -> str:
        """Log ``account`` in, and return a token that lives so long (as the server's, by default).

        A negative lifetime has passed already; ``exp=None`` makes a token without an expiry, and
        any other claim is added as it is.
        """
        if account not in self._password_changes:
            self._password_changes[account] = int(datetime.now(UTC).timestamp())
        return self._issue(account, self.lifetime if lifetime is None else lifetime, **claims)

    def accepts(self, raw: str) -> bool:
        """Say whether ``raw`` is a live token of a known account."""
        return not isinstance(self._authenticate(raw), Reply)

    def revoke(self, account: str = ACCOUNT) -> None:
        """Change the account's password: every token that was issued for it is dead."""
        self._password_changes[account] = self._password_changes.get(account, 0) + 1

    def retire(self, raw: str) -> None:
        """End one session: this token is dead, whatever its expiry says."""
        self._dead.add(raw)

    def forget(self, account: str = ACCOUNT) -> None:
        """Delete the account: its tokens are signed well, but belong to nobody."""
        del self._password_changes[account]

    def answer_with(self, *script: Scenario) -> None:
        """Answer session requests with these, one after another; the last one stays."""
        with self._lock:
            self._script = list(script)

    def read(self, raw: str) -> Claims:
        """Return the claims of a token that this server signed, expired or not; else none."""
        try:
            claims: Claims = jwt.decode(
                raw, self._key, algorithms=[_ALGORITHM], options={"verify_exp": False}
            )
        except jwt.PyJWTError:
            return {}
        return claims

    def next_scenario(self) -> Scenario:
        """Take the script's next scenario."""
        with self._lock:
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def _issue(self, account: str, lifetime: timedelta, **claims: object) -> str:
        issued: Claims = {
            "id": account,
            "last_password_change": self._password_changes[account],
            "exp": int((datetime.now(UTC) + lifetime).timestamp()),
            **claims,
        }
        issued = {name: value for name, value in issued.items() if value is not None}
        return jwt.encode(issued, self._key, algorithm=_ALGORITHM)

    def _authenticate(self, raw: str) -> Claims | Reply:
        """Return the claims of a live token, or what the API says to any other."""
        try:
            claims: Claims = jwt.decode(raw, self._key, algorithms=[_ALGORITHM])
        except jwt.PyJWTError:
            return _failure(401, "401 Unauthorized")
        changed = self._password_changes.get(claims["id"])
        if changed is None or changed != claims["last_password_change"] or raw in self._dead:
            return _failure(
                401, "Your session has expired or the token is invalid. Please sign in again."
            )
        return claims

    def recognise(self, request: Request, **answer: object) -> Reply:
        """Answer as the API does to a live token; ``answer`` replaces some of what it says."""
        if request.raw is None:
            return _failure(403, "Not authenticated")
        claims = self._authenticate(request.raw)
        if isinstance(claims, Reply):
            return claims
        document = {
            "id": claims["id"],
            "email": "owner@example.com",
            "name": "Owner",
            "role": "user",
            "profile_image_url": "/user.png",
            "token": request.raw,
            "token_type": "Bearer",
            "expires_at": claims.get("exp"),
            "permissions": {"chat": {"file_upload": True, "delete": True}},
            **answer,
        }
        cookie = f"token={document['token']}; HttpOnly; Path=/; SameSite=lax"
        return _json(200, document, {"set-cookie": cookie})

    def list_chats(self, request: Request) -> Reply:
        """Answer with the page of the account's chats that the query names."""
        if request.raw is None or isinstance(claims := self._authenticate(request.raw), Reply):
            return _envelope(401, "unauthorized", "Please sign in again.")
        [page] = parse_qs(urlsplit(request.path).query).get("page", ["1"])
        begin = (int(page) - 1) * _PAGE_OF_CHATS
        now = int(datetime.now(UTC).timestamp())
        chats = [
            {
                "id": f"chat-{number}",
                "title": title,
                "updated_at": now - number,
                "created_at": now - number,
            }
            for number, title in enumerate(self.chats.get(claims["id"], []))
        ]
        return _success(chats[begin : begin + _PAGE_OF_CHATS])

    def renew(self, request: Request, lifetime: timedelta, **claims: object) -> Reply:
        """Answer with a new token, if a live one asks for it."""
        if request.account is None or request.account not in self._password_changes:
            return self.recognise(request)
        raw = self._issue(request.account, lifetime, **claims)
        expiry = jwt.decode(raw, options={"verify_signature": False}).get("exp")
        return self.recognise(request, token=raw, expires_at=expiry)


class _Handler(BaseHTTPRequestHandler):
    qwen: QwenStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a session request by the script, any unknown path with the web app's page."""
        request = self._read()
        self.qwen.requests.append(request)
        path = request.path.partition("?")[0]
        reply: Reply | None
        if path == _AUTHS_PATH:
            reply = self.qwen.next_scenario().answer(self.qwen, request)
        elif path == _CHATS_PATH:
            reply = self.qwen.list_chats(request)
        elif path == _USER_STATUS_PATH:
            reply = _success(data=True)
        else:
            reply = _page(200, "<title>Qwen</title>")
        self.close_connection = True
        if reply is None:
            return
        try:
            self._send(reply)
        except ConnectionError:
            return  # The client had enough, which is its right.

    def _read(self) -> Request:
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        raw = credentials if scheme == "Bearer" and credentials else None
        claims = {} if raw is None else self.qwen.read(raw)
        expiry = claims.get("exp")
        expires_at = None if expiry is None else datetime.fromtimestamp(expiry, UTC)
        return Request(self.command, self.path, claims.get("id"), expires_at, raw)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent: requests are remembered, not printed."""


def _json(status: int, document: object, headers: Mapping[str, str] | None = None) -> Reply:
    head = {"content-type": "application/json", **(headers or {})}
    return Reply(status, json.dumps(document).encode(), head)


def _failure(status: int, detail: str) -> Reply:
    return _json(status, {"detail": detail})


def _envelope(actual_status: int, code: str, details: str, **data: object) -> Reply:
    """Fail as the newer API does: with status 200, and what is meant in body and header."""
    document = {
        "success": False,
        "request_id": secrets.token_hex(8),
        "data": {"code": code, "details": details, **data},
    }
    return _json(200, document, {"x-actual-status-code": str(actual_status)})


def _success(data: object) -> Reply:
    return _json(200, {"success": True, "request_id": secrets.token_hex(8), "data": data})


def _page(status: int, head: str, headers: Mapping[str, str] | None = None) -> Reply:
    page = f"<!doctype html><html><head>{head}</head><body></body></html>"
    return Reply(status, page.encode(), {"content-type": "text/html", **(headers or {})})


def _always(reply: Reply) -> Callable[[QwenStandIn, Request], Reply]:
    return lambda _qwen, _request: reply


def _mint_without_expiry(qwen: QwenStandIn, request: Request) -> Reply:
    return qwen.renew(request, qwen.lifetime, exp=None)


def _mint_newer_claims(qwen: QwenStandIn, request: Request) -> Reply:
    now = int(datetime.now(UTC).timestamp())
    return qwen.renew(
        request,
        qwen.lifetime,
        typ="access",
        auth_method="password",
        auth_time=now,
        session_stamp=secrets.token_hex(8),
        mfa_verified=False,
        jti=secrets.token_hex(16),
        iat=now,
    )


def _retire_old(qwen: QwenStandIn, request: Request) -> Reply:
    reply = _mint_newer_claims(qwen, request)
    if reply.status == 200 and request.raw is not None:
        qwen.retire(request.raw)
    return reply


def _issue_then_refuse(qwen: QwenStandIn, request: Request) -> Reply:
    reply = _mint_newer_claims(qwen, request)
    if reply.status == 200:
        qwen.retire(json.loads(reply.body)["token"])
    return reply


def _mint_for_another(qwen: QwenStandIn, request: Request) -> Reply:
    token = qwen.mint(account=ANOTHER_ACCOUNT)
    return qwen.recognise(request, id=ANOTHER_ACCOUNT, token=token)


def _hang(qwen: QwenStandIn, _request: Request) -> None:
    qwen.stopped.wait()


MINTS = Scenario(
    "mints",
    "trades a live token for a new one with the full lifetime",
    lambda qwen, request: qwen.renew(request, qwen.lifetime),
)
MINTS_NEWER_CLAIMS = Scenario(
    "mints newer claims", "mints tokens with iat, jti and the like", _mint_newer_claims
)
MINTS_SHORT_LIVED = Scenario(
    "mints short-lived",
    "mints tokens of 900 s, as for sessions of the newest web client",
    lambda qwen, request: qwen.renew(request, _SHORT_LIFE),
)
MINTS_WITHOUT_EXPIRY = Scenario(
    "mints without expiry", "is configured to let tokens never expire", _mint_without_expiry
)
ECHOES = Scenario(
    "echoes",
    "gives back the same token, as Open WebUI does since 0.6.6",
    lambda qwen, request: qwen.recognise(request),
)
RETIRES_OLD = Scenario(
    "retires the old", "kills the old token as it issues the new one", _retire_old
)
ISSUES_THEN_REFUSES = Scenario(
    "issues, then refuses", "issues a token and then does not know it", _issue_then_refuse
)
MINTS_FOR_ANOTHER_ACCOUNT = Scenario(
    "mints for another account", "answers for somebody else", _mint_for_another
)
NAMES_ANOTHER_ACCOUNT = Scenario(
    "names another account",
    "sees somebody else behind the token, and gives it back",
    lambda qwen, request: qwen.recognise(request, id=ANOTHER_ACCOUNT),
)
SEES_A_GUEST = Scenario(
    "sees a guest",
    "does not see the token's owner, and answers as to a visitor",
    lambda qwen, request: qwen.recognise(request, role="guest", email="0@guest.com"),
)
TOKEN_DEAD = Scenario(
    "token dead",
    "refuses every token, whatever its expiry says",
    _always(
        _failure(
            401,
            "Your session has expired, or the token is no longer valid. "
            "Please sign in again to proceed.",
        )
    ),
)
TOKEN_DEAD_ENVELOPE = Scenario(
    "token dead, in an envelope",
    "refuses the token with status 200",
    _always(_envelope(401, "unauthorized", "Please sign in again.")),
)
RATE_LIMITED = Scenario(
    "rate-limited", "answers 429 without Retry-After", _always(_failure(429, "Too Many Requests"))
)
RATE_LIMITED_RETRY_AFTER = Scenario(
    "rate-limited with Retry-After",
    "answers 429 and wants one second of peace",
    _always(_json(429, {"detail": "Too Many Requests"}, {"retry-after": "1"})),
)
RATE_LIMITED_ENVELOPE = Scenario(
    "rate-limited, in an envelope",
    "asks for peace for hours, with status 200",
    _always(_envelope(429, "RateLimited", "You have reached the daily usage limit.", num=3)),
)
BLOCK_PAGE = Scenario(
    "block page",
    "lets a firewall's challenge page answer, with status 200",
    _always(_page(200, '<meta name="aliyun_waf_aa" content="0"><script></script>')),
)
BLOCK_REDIRECT = Scenario(
    "block redirect",
    "lets a firewall redirect to its challenge",
    _always(_page(302, "", {"location": "/api/v1/auths/_____tmd_____/punish?x5secdata=0"})),
)
BLOCK_JSON = Scenario(
    "block JSON",
    "lets a firewall answer in JSON, with status 200",
    _always(
        _json(200, {"ret": ["FAIL_SYS_USER_VALIDATE", "RGV587_ERROR::SM::try later"], "data": {}})
    ),
)
FORBIDDEN_PAGE = Scenario(
    "plain 403", "refuses the caller's address, not the token", _always(_page(403, ""))
)
NOT_ALLOWED_PAGE = Scenario("plain 405", "refuses the caller's address", _always(_page(405, "")))
UNAVAILABLE_PAGE = Scenario("plain 503", "is closed for maintenance", _always(_page(503, "")))
BAD_GATEWAY_PAGE = Scenario("plain 502", "has a gateway that finds nobody", _always(_page(502, "")))
SERVER_ERROR = Scenario(
    "server error", "fails with 500", _always(_failure(500, "Internal Server Error"))
)
UNAUTHORIZED_PAGE = Scenario(
    "401 page", "has a gateway that answers 401 by itself", _always(_page(401, ""))
)
WEB_APP_PAGE = Scenario(
    "web app's page",
    "answers with the web app, as it does without the trailing slash",
    _always(_page(200, "<title>Qwen</title>")),
)
REDIRECT_ELSEWHERE = Scenario(
    "redirect elsewhere",
    "sends the caller to another place",
    _always(_page(302, "", {"location": "/auth"})),
)
STRANGE_JSON = Scenario(
    "strange JSON", "answers 200 with something else", _always(_json(200, {"status": True}))
)
STRANGE_TOKEN = Scenario(
    "strange token",
    "answers with a token that is no JWT",
    lambda qwen, request: qwen.recognise(request, token="none-of-your-business"),
)
EMPTY_ANSWER = Scenario("empty answer", "answers 200 with nothing", _always(Reply(200)))
HANGS = Scenario("hangs", "takes the request and never answers", _hang)
BREAKS_OFF = Scenario(
    "breaks off", "closes the connection without an answer", lambda _qwen, _request: None
)

SCENARIOS: Final[Mapping[str, Scenario]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Scenario)
}
