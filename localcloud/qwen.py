"""A stand-in of Qwen's API: a real HTTP server on loopback that mints, checks and refuses tokens.

By default it behaves like a server that mints. Any other behaviour of a server, or of something in
front of one, is a named ``Scenario`` of this module; ``SCENARIOS`` lists them all. It signs people
in as Open WebUI does, and accepts the access tokens that the stand-in of the sign-in host
(``sign_in_host``) has it issue.

    with QwenStandIn() as qwen:
        token = qwen.mint(lifetime=timedelta(days=2))
        qwen.answer_with(MINTS, BLOCK_PAGE)  # the first call, and every one after it
"""

import json
import math
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import jwt

from .serving import (
    Received,
    StandIn,
    always,
    envelope,
    failure,
    json_reply,
    page,
    success,
)
from .serving import Reply as Reply  # noqa: PLC0414 - part of what this module offers
from .serving import Scenario as Scenario  # noqa: PLC0414 - the same

ACCOUNT: Final = "0d1c8a4e-7a52-4b0e-9f7e-5a1e00000001"
ANOTHER_ACCOUNT: Final = "0d1c8a4e-7a52-4b0e-9f7e-5a1e00000002"
GUEST_ACCOUNT: Final = "0d1c8a4e-7a52-4b0e-9f7e-5a1e00000003"

_AUTHS_PATH: Final = "/api/v1/auths/"
_SIGN_IN_PATH: Final = "/api/v1/auths/signin"
_SIGN_OUT_PATH: Final = "/api/v1/auths/signout"
_USER_STATUS_PATH: Final = "/api/v2/users/status"
_CHATS_PATH: Final = "/api/v2/chats/"
_PAGE_OF_CHATS: Final = 50
_ALGORITHM: Final = "HS256"
_SHORT_LIFE: Final = timedelta(seconds=900)
_ACCESS_TOKEN: Final = "access_token"

WRONG_PASSWORD: Final = (
    "The email or password provided is incorrect. Please check for typos and try logging in again."
)

Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A received request. It has the token's claims, never the token.

    ``account`` and ``expires_at`` are None if it had no token that this server signed.
    """

    method: str
    path: str
    account: str | None
    expires_at: datetime | None
    raw: str | None = field(repr=False)
    # The e-mail and the password of a sign-in.
    form: Mapping[str, Any] = field(repr=False, default_factory=dict, compare=False)


class QwenStandIn(StandIn):
    """The server. Inside a ``with`` block it listens on a free port of 127.0.0.1."""

    def __init__(
        self, *, lifetime: timedelta = timedelta(days=7), answers_token: bool = True
    ) -> None:
        """Create a server whose tokens have this lifetime.

        ``answers_token``: the answer to an access token has a ``token``, the same one.
        """
        super().__init__()
        self.lifetime = lifetime
        self.answers_token = answers_token
        self.requests: list[Request] = []
        # The titles of each account's chats, newest first.
        self.chats: dict[str, list[str]] = {}
        # Per account, unusual members of the session's document.
        self.profiles: dict[str, dict[str, object]] = {
            GUEST_ACCOUNT: {"role": "guest", "email": "0@guest.com"}
        }
        # The number of sign-ins, right or wrong, per e-mail address before a 429.
        self.sign_ins_allowed = 15
        self._sign_ins: Counter[str] = Counter()
        # Per e-mail address, the password and the account.
        self._passwords: dict[str, tuple[str, str]] = {}
        self._key = secrets.token_bytes(32)
        # Per account, the time of its last change of password. A token carries the time at its
        # issue, and is dead as soon as the two differ.
        self._password_changes: dict[str, int] = {}
        # Per access token, its account, and the last change of password at its issue. (The token
        # may name neither.)
        self._access_tokens: dict[str, tuple[str, int]] = {}
        self._dead: set[str] = set()
        self._script: list[Scenario] = [MINTS]
        self._sign_in_script: list[Scenario] = [SIGNS_IN]

    def mint(
        self,
        *,
        account: str = ACCOUNT,
        lifetime: timedelta | None = None,
        **claims: object,
    ) -> str:
        """Log in ``account``, and return a token with this lifetime (default: the server's).

        A negative lifetime makes an expired token; ``exp=None`` makes one without an expiry. Other
        claims are added as they are.
        """
        self.password_change(account)
        return self._issue(account, self.lifetime if lifetime is None else lifetime, **claims)

    def issue_access_token(
        self,
        account: str = ACCOUNT,
        *,
        lifetime: timedelta = _SHORT_LIFE,
        names_account: bool = True,
        has_iat: bool = True,
    ) -> str:
        """Return an access token for the account, as the sign-in host issues it.

        It need not name its account or its time of issue, because this server knows them.
        """
        now = self.clock()
        claims = {
            "type": _ACCESS_TOKEN,
            "id": account if names_account else None,
            "iat": int(now.timestamp()) if has_iat else None,
            "exp": int((now + lifetime).timestamp()),
            # Two tokens of the same second differ, even if they name no account.
            "jti": secrets.token_hex(16),
        }
        raw = self._sign(claims)
        self._access_tokens[raw] = (account, self.password_change(account))
        return raw

    def set_password(self, email: str, password: str, account: str = ACCOUNT) -> None:
        """Let ``account`` sign in with these."""
        self._passwords[email.lower()] = (password, account)

    def password_change(self, account: str) -> int:
        """Return the time of the account's last change of password; create an unknown account."""
        return self._password_changes.setdefault(account, int(self.clock().timestamp()))

    def accepts(self, raw: str) -> bool:
        """Return whether ``raw`` is a live token of a known account."""
        return not isinstance(self._authenticate(raw), Reply)

    def revoke(self, account: str = ACCOUNT) -> None:
        """Change the account's password: every token that was issued for it is dead.

        The password for signing in is still that of the last ``set_password``.
        """
        self._password_changes[account] = self._password_changes.get(account, 0) + 1

    def retire(self, raw: str) -> None:
        """End one session: this token is dead, whatever its expiry is."""
        self._dead.add(raw)

    def forget(self, account: str = ACCOUNT) -> None:
        """Delete the account: its tokens have a valid signature, but belong to nobody."""
        del self._password_changes[account]

    def answer_with(self, *script: Scenario) -> None:
        """Answer session requests with these, one after another; the last one stays."""
        self._script = list(script)

    def answer_sign_ins_with(self, *script: Scenario) -> None:
        """Answer sign-ins with these: any scenario, not only those in ``SIGN_INS``."""
        self._sign_in_script = list(script)

    @property
    def sign_outs(self) -> int:
        """The number of sign-outs, each of which ends the session for good."""
        return sum(request.path == _SIGN_OUT_PATH for request in self.requests)

    def respond(self, received: Received) -> Reply | None:
        """Answer a session request by the script, and an unknown path with the web app's page."""
        request = self._understand(received)
        self.requests.append(request)
        path = request.path.partition("?")[0]
        reply: Reply | None
        if path == _SIGN_OUT_PATH:
            reply = self._sign_out(request)
        elif request.method == "POST":
            if path != _SIGN_IN_PATH:
                return failure(405, "Method Not Allowed")
            reply = self._next(self._sign_in_script).answer(self, request)
        elif path == _AUTHS_PATH:
            reply = self._next(self._script).answer(self, request)
        elif path == _CHATS_PATH:
            reply = self.list_chats(request)
        elif path == _USER_STATUS_PATH:
            reply = success(data=True)
        else:
            reply = page(200, "<title>Qwen</title>")
        return reply

    def _understand(self, received: Received) -> Request:
        scheme, _, credentials = received.headers.get("authorization", "").partition(" ")
        raw = credentials if scheme == "Bearer" and credentials else None
        claims = {} if raw is None else self.read(raw)
        expiry = claims.get("exp")
        return Request(
            received.method,
            received.path,
            None if raw is None else self._access_tokens.get(raw, (claims.get("id"),))[0],
            None if expiry is None else datetime.fromtimestamp(expiry, UTC),
            raw,
            received.json(),
        )

    def read(self, raw: str) -> Claims:
        """Return the claims of a token that this server signed, expired or not; otherwise none."""
        try:
            claims: Claims = jwt.decode(
                raw,
                self._key,
                algorithms=[_ALGORITHM],
                # The stand-in's own clock decides what has expired and what is not valid yet.
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.PyJWTError:
            return {}
        return claims

    def _issue(self, account: str, lifetime: timedelta, **claims: object) -> str:
        issued: Claims = {
            "id": account,
            "last_password_change": self._password_changes[account],
            "exp": int((self.clock() + lifetime).timestamp()),
            **claims,
        }
        return self._sign(issued)

    def _sign(self, claims: Claims) -> str:
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(given, self._key, algorithm=_ALGORITHM)

    def _authenticate(self, raw: str) -> Claims | Reply:
        """Return the claims and the account of a live token, or the API's answer to any other."""
        claims = self.read(raw)
        if not claims or claims.get("exp", math.inf) <= self.clock().timestamp():
            return failure(401, "401 Unauthorized")
        account, issued_under = self._access_tokens.get(raw) or (
            claims["id"],
            claims["last_password_change"],
        )
        changed = self._password_changes.get(account)
        if changed is None or changed != issued_under or raw in self._dead:
            return failure(
                401, "Your session has expired or the token is invalid. Please sign in again."
            )
        return {**claims, "id": account}

    def recognise(self, request: Request, **answer: object) -> Reply:
        """Answer as the API answers a live token; ``answer`` replaces some members."""
        if request.raw is None:
            return failure(403, "Not authenticated")
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
            **self.profiles.get(claims["id"], {}),
            **answer,
        }
        if request.raw in self._access_tokens and not self.answers_token:
            del document["token"], document["expires_at"]
            return json_reply(200, document)
        cookie = f"token={document['token']}; HttpOnly; Path=/; SameSite=lax"
        return json_reply(200, document, {"set-cookie": cookie})

    def list_chats(self, request: Request) -> Reply:
        """Answer with the page of the account's chats that the query asks for."""
        if request.raw is None or isinstance(claims := self._authenticate(request.raw), Reply):
            return envelope(401, "unauthorized", "Please sign in again.")
        [page] = parse_qs(urlsplit(request.path).query).get("page", ["1"])
        begin = (int(page) - 1) * _PAGE_OF_CHATS
        now = int(self.clock().timestamp())
        chats = [
            {
                "id": f"chat-{number}",
                "title": title,
                "updated_at": now - number,
                "created_at": now - number,
            }
            for number, title in enumerate(self.chats.get(claims["id"], []))
        ]
        return success(chats[begin : begin + _PAGE_OF_CHATS])

    def renew(self, request: Request, lifetime: timedelta, **claims: object) -> Reply:
        """Answer a live token with a new one; an access token is not renewed."""
        if request.account not in self._password_changes or request.raw in self._access_tokens:
            return self.recognise(request)
        raw = self._issue(request.account, lifetime, **claims)
        return self.recognise(request, token=raw, expires_at=self.read(raw).get("exp"))

    def sign_in(self, request: Request) -> Reply:
        """Answer a sign-in as Open WebUI does, with the document of a new session."""
        email = str(request.form.get("email", "")).lower()
        self._sign_ins[email] += 1
        if self._sign_ins[email] > self.sign_ins_allowed:
            return failure(429, "API rate limit exceeded")
        password, account = self._passwords.get(email, (None, ""))
        if password is None or password != request.form.get("password"):
            return failure(400, WRONG_PASSWORD)
        raw = self.mint(account=account, **_newer_claims(self.clock()))
        session = Request(request.method, request.path, account, None, raw)
        return self.recognise(session, email=email)

    def _sign_out(self, request: Request) -> Reply:
        if request.raw is not None:
            self.retire(request.raw)
        return json_reply(200, {"status": True})


def _mint_without_expiry(qwen: QwenStandIn, request: Request) -> Reply:
    return qwen.renew(request, qwen.lifetime, exp=None)


def _newer_claims(now: datetime) -> Claims:
    issued_at = int(now.timestamp())
    return {
        "typ": "access",
        "auth_method": "password",
        "auth_time": issued_at,
        "session_stamp": secrets.token_hex(8),
        "mfa_verified": False,
        "jti": secrets.token_hex(16),
        "iat": issued_at,
    }


def _mint_newer_claims(qwen: QwenStandIn, request: Request) -> Reply:
    return qwen.renew(request, qwen.lifetime, **_newer_claims(qwen.clock()))


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


def _hang(stand_in: StandIn, _request: object) -> None:
    stand_in.stopped.wait()


def sees_a_guest(*, email: str = "0@guest.com", role: str = "guest") -> Scenario:
    """Return the scenario of a server that sees this visitor instead of the token's owner."""
    return Scenario(
        "sees a guest",
        "does not see the token's owner, and answers as to a visitor",
        lambda qwen, request: qwen.recognise(request, role=role, email=email),
    )


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
SEES_A_GUEST = sees_a_guest()
TOKEN_DEAD = Scenario(
    "token dead",
    "refuses every token, whatever its expiry says",
    always(
        failure(
            401,
            "Your session has expired, or the token is no longer valid. "
            "Please sign in again to proceed.",
        )
    ),
)
TOKEN_DEAD_ENVELOPE = Scenario(
    "token dead, in an envelope",
    "refuses the token with status 200",
    always(envelope(401, "unauthorized", "Please sign in again.")),
)
RATE_LIMITED = Scenario(
    "rate-limited", "answers 429 without Retry-After", always(failure(429, "Too Many Requests"))
)
RATE_LIMITED_RETRY_AFTER = Scenario(
    "rate-limited with Retry-After",
    "answers 429 and wants one second of peace",
    always(json_reply(429, {"detail": "Too Many Requests"}, {"retry-after": "1"})),
)
RATE_LIMITED_ENVELOPE = Scenario(
    "rate-limited, in an envelope",
    "asks for peace for hours, with status 200",
    always(envelope(429, "RateLimited", "You have reached the daily usage limit.", num=3)),
)
BLOCK_PAGE = Scenario(
    "block page",
    "lets a firewall's challenge page answer, with status 200",
    always(page(200, '<meta name="aliyun_waf_aa" content="0"><script></script>')),
)
BLOCK_REDIRECT = Scenario(
    "block redirect",
    "lets a firewall redirect to its challenge",
    always(page(302, "", {"location": "/api/v1/auths/_____tmd_____/punish?x5secdata=0"})),
)
BLOCK_JSON = Scenario(
    "block JSON",
    "lets a firewall answer in JSON, with status 200",
    always(
        json_reply(
            200, {"ret": ["FAIL_SYS_USER_VALIDATE", "RGV587_ERROR::SM::try later"], "data": {}}
        )
    ),
)
FORBIDDEN_PAGE = Scenario(
    "plain 403", "refuses the caller's address, not the token", always(page(403, ""))
)
NOT_ALLOWED_PAGE = Scenario("plain 405", "refuses the caller's address", always(page(405, "")))
UNAVAILABLE_PAGE = Scenario("plain 503", "is closed for maintenance", always(page(503, "")))
BAD_GATEWAY_PAGE = Scenario("plain 502", "has a gateway that finds nobody", always(page(502, "")))
SERVER_ERROR = Scenario(
    "server error", "fails with 500", always(failure(500, "Internal Server Error"))
)
UNAUTHORIZED_PAGE = Scenario(
    "401 page", "has a gateway that answers 401 by itself", always(page(401, ""))
)
WEB_APP_PAGE = Scenario(
    "web app's page",
    "answers with the web app, as it does without the trailing slash",
    always(page(200, "<title>Qwen</title>")),
)
REDIRECT_ELSEWHERE = Scenario(
    "redirect elsewhere",
    "sends the caller to another place",
    always(page(302, "", {"location": "/auth"})),
)
STRANGE_JSON = Scenario(
    "strange JSON", "answers 200 with something else", always(json_reply(200, {"status": True}))
)
STRANGE_TOKEN = Scenario(
    "strange token",
    "answers with a token that is no JWT",
    lambda qwen, request: qwen.recognise(request, token="none-of-your-business"),
)
EMPTY_ANSWER = Scenario("empty answer", "answers 200 with nothing", always(Reply(200)))
HANGS = Scenario("hangs", "takes the request and never answers", _hang)
BREAKS_OFF = Scenario(
    "breaks off", "closes the connection without an answer", lambda _qwen, _request: None
)

SCENARIOS: Final[Mapping[str, Scenario]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Scenario)
}

# The answers to a sign-in, beside those to any request.
SIGNS_IN = Scenario(
    "signs in",
    "answers the right password with the document of a new session",
    lambda qwen, request: qwen.sign_in(request),
)
SIGN_IN_OFF = Scenario(
    "sign-in is off",
    "is configured to let nobody in by a password",
    always(failure(403, "The requested action has been restricted as a security measure.")),
)
SIGN_INS: Final[Mapping[str, Scenario]] = {each.name: each for each in (SIGNS_IN, SIGN_IN_OFF)}
