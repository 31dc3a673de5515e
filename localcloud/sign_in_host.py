"""A stand-in of Qwen's sign-in host: it issues access tokens for refresh credentials and passwords.

Everything unknown about the real host is a switch of ``SessionPolicy``. Any other behaviour of the
host, or of something in front of it, is a named ``Scenario``; ``SCENARIOS`` lists them all,
including those of ``qwen`` that fit either host.

    with QwenStandIn() as qwen, SignInHostStandIn(qwen, SessionPolicy(rotation=OLD_DIES)) as host:
        credential = host.log_in()
        host.answer_with(ANSWER_LOST, ANSWERS)  # the first call, and every one after it
"""

import hashlib
import json
import re
import secrets
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from enum import Enum, auto
from typing import Any, Final, Literal

import jwt

from .qwen import (
    ACCOUNT,
    ANOTHER_ACCOUNT,
    BAD_GATEWAY_PAGE,
    BLOCK_JSON,
    BLOCK_PAGE,
    BLOCK_REDIRECT,
    BREAKS_OFF,
    EMPTY_ANSWER,
    FORBIDDEN_PAGE,
    GUEST_ACCOUNT,
    HANGS,
    NOT_ALLOWED_PAGE,
    RATE_LIMITED,
    RATE_LIMITED_ENVELOPE,
    RATE_LIMITED_RETRY_AFTER,
    REDIRECT_ELSEWHERE,
    SERVER_ERROR,
    STRANGE_JSON,
    UNAUTHORIZED_PAGE,
    UNAVAILABLE_PAGE,
    WEB_APP_PAGE,
    QwenStandIn,
)
from .serving import (
    Received,
    Reply,
    Scenario,
    StandIn,
    always,
    envelope,
    failure,
    json_reply,
    page,
    success,
)

_REFRESH_PATH: Final = "/api/v2/auths/refresh"
_SIGN_IN_PATH: Final = "/api/v2/auths/signin"
_SIGN_OUT_PATH: Final = "/api/v2/auths/signout"
_COOKIE: Final = "refresh_token"
_COOKIE_ATTRIBUTES: Final = "Domain=.qwen.ai; Path=/; HttpOnly; Secure; SameSite=Lax"
_SHORT_LIFE: Final = timedelta(minutes=5)
_FLOOD: Final = 300
_HUGE: Final = 60_000

# The form of the required headers, except the version.
_DEMANDED: Final[Mapping[str, str]] = {
    "accept": r"application/json.*",
    "content-type": r"application/json.*",
    "source": r"web",
    "origin": r"https?://[^/]+",
    "referer": r"https?://.+/",
    "x-request-origin": r"https?://[^/]+",
    "x-request-id": r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}",
    # As JavaScript's Date prints it; a browser may add the zone's name in parentheses.
    "timezone": r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d{2} \d{4} \d{2}:\d{2}:\d{2} GMT[+-]\d{4}( .*)?",
}


class Rotation(Enum):
    """What happens to a refresh credential when it is used."""

    NEVER = auto()  # Nothing: it is valid until it expires.
    OLD_STAYS = auto()  # A new one is issued, and both are valid.
    OLD_DIES = auto()  # A new one is issued, and the old one is refused from then on.
    REUSE_ENDS_LOGIN = auto()  # The same, and using the old one ends the login for good.


class Delivery(Enum):
    """Where a refresh returns the credential. After a sign-in, it is in a cookie as well."""

    BODY = auto()
    COOKIE = auto()
    BOTH = auto()
    NONE = auto()  # Nowhere. Such a host cannot rotate credentials.


class CredentialForm(Enum):
    """What a refresh credential looks like."""

    JWT = auto()
    OPAQUE = auto()


class ExpiresAt(Enum):
    """The form of the access token's expiry in the body."""

    SECONDS = auto()
    MILLISECONDS = auto()
    ABSENT = auto()


class CookieExpiry(Enum):
    """The form of the credential's expiry in the cookie."""

    MAX_AGE = auto()
    EXPIRES = auto()
    BOTH = auto()
    ABSENT = auto()


class FailureStyle(Enum):
    """The status with which the host refuses."""

    OWN_STATUS = auto()  # 401; a wrong password is 400.
    FORBIDDEN = auto()  # 403
    IN_200 = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """How the host treats sessions. Each field is unknown about the real host."""

    access_lifetime: timedelta = timedelta(seconds=900)
    credential_lifetime: timedelta = timedelta(days=30)
    rotation: Rotation = Rotation.NEVER
    # For this long after its use, an old credential still gets the same answer.
    grace: timedelta = timedelta(0)
    delivery: Delivery = Delivery.BOTH
    credential_form: CredentialForm = CredentialForm.JWT
    expires_at: ExpiresAt = ExpiresAt.SECONDS
    cookie_expiry: CookieExpiry = CookieExpiry.BOTH
    failure_style: FailureStyle = FailureStyle.OWN_STATUS
    # The claims of the access token.
    names_account: bool = True
    has_iat: bool = True
    demands_headers: bool = True
    web_version: str = "0.3.12"
    # After this many sign-ins, a challenge answers instead of the host.
    sign_ins_before_challenge: int = 12


@dataclass(frozen=True, slots=True)
class SignInRequest:
    """A received request. It has the credential's number (``serial_of``), never the credential."""

    method: str
    path: str
    grant: Literal["refresh_token", "password"] | None
    serial: int | None
    # By lower-case name.
    header_names: frozenset[str]
    # The required headers that are missing or wrong.
    invalid_headers: frozenset[str]
    headers: Mapping[str, str] = field(repr=False)
    credential: str | None = field(repr=False)
    form: Mapping[str, Any] = field(repr=False)


@dataclass(slots=True, eq=False)
class _Login:
    account: str
    issued_under: int
    ended: bool = False
    current: "_Credential | None" = None


@dataclass(slots=True, eq=False)
class _Credential:
    raw: str = field(repr=False)
    serial: int
    login: _Login
    expires_at: datetime
    superseded_at: datetime | None = None


class SignInHostStandIn(StandIn):
    """The host. Inside a ``with`` block it listens on a free port of 127.0.0.1."""

    def __init__(self, qwen: QwenStandIn, policy: SessionPolicy | None = None) -> None:
        """Create a host whose access tokens ``qwen`` accepts. ``policy`` may change at any time."""
        super().__init__()
        self.qwen = qwen
        self.policy = policy or SessionPolicy()
        self.requests: list[SignInRequest] = []
        # How often each credential was used, by its number.
        self.spent: Counter[int] = Counter()
        self._credentials: dict[str, _Credential] = {}
        self._logins: list[_Login] = []
        # Per e-mail address, the SHA-256 of the password and the account.
        self._passwords: dict[str, tuple[str, str]] = {}
        self._key = secrets.token_bytes(32)
        self._script: list[Scenario] = [ANSWERS]
        self._sign_in_script: list[Scenario] | None = None
        # One decision at a time: one of two uses of a credential is the first.
        self._lock = threading.Lock()

    def log_in(self, account: str = ACCOUNT, lifetime: timedelta | None = None) -> str:
        """Log in as a browser does, and return the refresh credential.

        With a negative lifetime, it has expired.
        """
        with self._lock:
            return self._log_in(account, lifetime).raw

    def set_password(self, email: str, password: str, account: str = ACCOUNT) -> None:
        """Let ``account`` sign in with these."""
        digest = hashlib.sha256(password.encode()).hexdigest()
        self._passwords[email.lower()] = (digest, account)

    def end_login(self, credential: str) -> None:
        """End the login of this credential; its access tokens stay valid until they expire."""
        with self._lock:
            self._credentials[credential].login.ended = True

    def revoke(self, account: str = ACCOUNT) -> None:
        """Change the account's password: all its logins and tokens are dead.

        The password for signing in is still that of the last ``set_password``.
        """
        self.qwen.password_change(account)
        self.qwen.revoke(account)

    def current(self, account: str = ACCOUNT) -> str:
        """Return the credential of the account's newest login that a refresh would accept now.

        Raises:
            LookupError: there is none.
        """
        with self._lock:
            for login in reversed(self._logins):
                credential = login.current
                if login.account == account and credential and self._is_good(credential):
                    return credential.raw
        raise LookupError("the account has no login that is alive")

    def accepts(self, credential: str) -> bool:
        """Return whether a refresh would accept the credential now."""
        with self._lock:
            known = self._credentials.get(credential)
            return known is not None and self._is_good(known)

    def serial_of(self, credential: str) -> int:
        """Return the credential's number, under which ``spent`` counts its uses."""
        return self._credentials[credential].serial

    @property
    def sign_in_attempts(self) -> int:
        """The number of attempts to sign in, whatever the answer was."""
        return sum(request.grant == "password" for request in self.requests)

    @property
    def sign_outs(self) -> int:
        """The number of sign-outs, each of which ends the login for good."""
        return sum(request.path == _SIGN_OUT_PATH for request in self.requests)

    def answer_with(self, *script: Scenario) -> None:
        """Answer with these, one after another; the last one stays."""
        self._script = list(script)

    def answer_sign_ins_with(self, *script: Scenario) -> None:
        """Give sign-ins their own script; by default, they share that of the refreshes."""
        self._sign_in_script = list(script)

    def respond(self, received: Received) -> Reply | None:
        """Answer refreshes and sign-ins by their scripts."""
        request = self._understand(received)
        self.requests.append(request)
        if not request.path.startswith("/api/"):
            # The load balancer knows no other paths.
            title = "502 Bad Gateway"
            body = f"<center><h1>{title}</h1></center><hr><center>alb</center>"
            return page(502, f"<title>{title}</title>", body=body)
        if request.path == _SIGN_OUT_PATH:
            return self._sign_out(request)
        if request.grant is None:
            return failure(404, "Not Found")
        script = self._script
        if request.grant == "password":
            if self.sign_in_attempts > self.policy.sign_ins_before_challenge:
                return _SLIDER_PAGE
            script = self._sign_in_script or script
        reply: Reply | None = self._next(script).answer(self, request)
        return reply

    def answer(
        self,
        request: SignInRequest,
        *,
        account: str | None = None,
        access_lifetime: timedelta | None = None,
    ) -> Reply:
        """Answer as the policy says.

        In a good answer, the access token may be another account's, or have another lifetime.
        """
        policy = self.policy
        if policy.demands_headers and request.invalid_headers:
            return envelope(400, "Bad_Request", "Invalid request header")
        with self._lock:
            by_password = request.grant == "password"
            got = self._sign_in(request) if by_password else self._refresh(request)
        if isinstance(got, Reply):
            return got
        lifetime = policy.access_lifetime if access_lifetime is None else access_lifetime
        data: dict[str, object] = {
            "access_token": self.qwen.issue_access_token(
                got.login.account if account is None else account,
                lifetime=lifetime,
                names_account=policy.names_account,
                has_iat=policy.has_iat,
            )
        }
        if policy.delivery in (Delivery.BODY, Delivery.BOTH):
            data["refresh_token"] = got.raw
        if policy.expires_at is not ExpiresAt.ABSENT:
            factor = 1000 if policy.expires_at is ExpiresAt.MILLISECONDS else 1
            data["expires_at"] = int((self.clock() + lifetime).timestamp()) * factor
        in_cookie = by_password or policy.delivery in (Delivery.COOKIE, Delivery.BOTH)
        return success(data, [self._cookie(got)] if in_cookie else [])

    def refuse(self) -> Reply:
        """Call the credential dead, in the policy's form."""
        details = "Your session has expired. Please sign in again."
        match self.policy.failure_style:
            case FailureStyle.OWN_STATUS:
                return envelope(401, "Unauthorized", details, status=401)
            case FailureStyle.FORBIDDEN:
                return envelope(403, "forbidden", details, status=403)
            case FailureStyle.IN_200:
                return envelope(401, "unauthorized", details)

    def _refuse_password(self) -> Reply:
        code, details = "invalid_credentials", "The email or password provided is incorrect."
        match self.policy.failure_style:
            case FailureStyle.OWN_STATUS:
                return envelope(400, code, details, status=400)
            case FailureStyle.FORBIDDEN:
                return envelope(403, code, details, status=403)
            case FailureStyle.IN_200:
                return envelope(400, code, details)

    def _understand(self, received: Received) -> SignInRequest:
        path = received.path.partition("?")[0]
        grant: Literal["refresh_token", "password"] | None = None
        if (received.method, path) == ("GET", _REFRESH_PATH):
            grant = "refresh_token"
        elif (received.method, path) == ("POST", _SIGN_IN_PATH):
            grant = "password"
        credential = _cookie_in(received.headers.get("cookie", ""))
        known = None if credential is None else self._credentials.get(credential)
        return SignInRequest(
            method=received.method,
            path=path,
            grant=grant,
            serial=None if known is None else known.serial,
            header_names=frozenset(received.headers),
            invalid_headers=frozenset(self._invalid(received.headers)),
            headers=received.headers,
            credential=credential,
            form=received.json(),
        )

    def _invalid(self, headers: Mapping[str, str]) -> set[str]:
        wrong = {
            name
            for name, pattern in _DEMANDED.items()
            if not re.fullmatch(pattern, headers.get(name, ""))
        }
        if headers.get("version") != self.policy.web_version:
            wrong.add("version")
        # Neither a refresh nor a sign-in carries a token.
        return wrong | ({"authorization"} & headers.keys())

    def _refresh(self, request: SignInRequest) -> _Credential | Reply:
        used = self._credentials.get(request.credential or "")
        if used is None:
            return self.refuse()
        self.spent[used.serial] += 1
        if not self._is_alive(used):
            return self.refuse()
        if not self._is_good(used):
            current = used.login.current
            if current is not None and self._is_in_grace(used):
                return current
            if self.policy.rotation is Rotation.REUSE_ENDS_LOGIN:
                used.login.ended = True
            return self.refuse()
        if self.policy.rotation is Rotation.NEVER or self.policy.delivery is Delivery.NONE:
            return used
        used.superseded_at = used.superseded_at or self.clock()
        return self._issue(used.login)

    def _sign_in(self, request: SignInRequest) -> _Credential | Reply:
        email, digest = request.form.get("email"), request.form.get("password")
        known, account = self._passwords.get(str(email).lower(), (None, ""))
        if known is None or known != digest:
            return self._refuse_password()
        return self._log_in(account)

    def _sign_out(self, request: SignInRequest) -> Reply:
        if request.serial is not None and request.credential is not None:
            self.end_login(request.credential)
        return success(data=True, cookies=[_DELETION])

    def _is_alive(self, credential: _Credential) -> bool:
        """Whether it has not expired and its login has not ended."""
        login = credential.login
        return (
            not login.ended
            and login.issued_under == self.qwen.password_change(login.account)
            and credential.expires_at > self.clock()
        )

    def _is_good(self, credential: _Credential) -> bool:
        """Whether it is alive and was not replaced."""
        stays = self.policy.rotation in (Rotation.NEVER, Rotation.OLD_STAYS)
        return self._is_alive(credential) and (credential.superseded_at is None or stays)

    def _is_in_grace(self, credential: _Credential) -> bool:
        since = credential.superseded_at
        return since is not None and self.clock() < since + self.policy.grace

    def _log_in(self, account: str, lifetime: timedelta | None = None) -> _Credential:
        login = _Login(account, self.qwen.password_change(account))
        self._logins.append(login)
        return self._issue(login, lifetime)

    def _issue(self, login: _Login, lifetime: timedelta | None = None) -> _Credential:
        lives = self.policy.credential_lifetime if lifetime is None else lifetime
        expiry = self.clock() + lives
        raw = secrets.token_urlsafe(48)
        if self.policy.credential_form is CredentialForm.JWT:
            claims = {
                "type": "refresh_token",
                "id": login.account,
                "exp": int(expiry.timestamp()),
                "jti": raw,
            }
            raw = jwt.encode(claims, self._key, algorithm="HS256")
        credential = _Credential(raw, len(self._credentials) + 1, login, expiry)
        self._credentials[raw] = login.current = credential
        return credential

    def _cookie(self, credential: _Credential) -> str:
        style = self.policy.cookie_expiry
        left = credential.expires_at - self.clock()
        parts = [f"{_COOKIE}={credential.raw}"]
        if style in (CookieExpiry.MAX_AGE, CookieExpiry.BOTH):
            parts.append(f"Max-Age={round(left.total_seconds())}")
        if style in (CookieExpiry.EXPIRES, CookieExpiry.BOTH):
            parts.append(f"Expires={format_datetime(credential.expires_at, usegmt=True)}")
        return "; ".join([*parts, _COOKIE_ATTRIBUTES])


_DELETION: Final = (
    f"{_COOKIE}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; {_COOKIE_ATTRIBUTES}"
)
_SLIDER_PAGE: Final = page(
    200,
    '<title>Verification</title><script>var _config_ = {"action": "captcha", "url": '
    '"/api/v2/auths/_____tmd_____/punish?x5secdata=0"};</script>',
    body='<div id="nocaptcha">Please slide to verify</div>',
)


def _cookie_in(header: str) -> str | None:
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    return next((value for name, _, value in pairs if name == _COOKIE and value), None)


def _changed(reply: Reply, **data: object) -> Reply:
    """Replace members of a good answer; None removes one. A failure stays as it is."""
    document = json.loads(reply.body)
    if not document["success"]:
        return reply
    changed = {**document["data"], **data}
    document["data"] = {name: value for name, value in changed.items() if value is not None}
    return json_reply(reply.status, document, cookies=reply.cookies)


def _issue_then_refuse(host: SignInHostStandIn, request: SignInRequest) -> Reply:
    reply = host.answer(request)
    data = json.loads(reply.body)["data"]
    if "access_token" in data:
        host.qwen.retire(data["access_token"])
    return reply


def _lose_the_answer(host: SignInHostStandIn, request: SignInRequest) -> None:
    host.answer(request)


def _delete_the_credential(host: SignInHostStandIn, request: SignInRequest) -> Reply:
    reply = host.answer(request)
    if request.serial is not None and request.credential is not None:
        host.end_login(request.credential)
    return replace(_changed(reply, refresh_token=None), cookies=[_DELETION])


def _refuse_and_delete(host: SignInHostStandIn, _request: SignInRequest) -> Reply:
    return replace(host.refuse(), cookies=[_DELETION])


def _flood_with_cookies(host: SignInHostStandIn, request: SignInRequest) -> Reply:
    reply = host.answer(request)
    flood = [f"crumb{number}={secrets.token_hex(8)}; Path=/" for number in range(_FLOOD)]
    return replace(reply, cookies=[*flood, *reply.cookies])


def _add_a_huge_cookie(host: SignInHostStandIn, request: SignInRequest) -> Reply:
    reply = host.answer(request)
    return replace(reply, cookies=[f"crumb={'x' * _HUGE}; Path=/", *reply.cookies])


ANSWERS = Scenario(
    "answers",
    "does what its policy says",
    lambda host, request: host.answer(request),
)
REFUSES = Scenario("refuses", "calls every credential dead", lambda host, _request: host.refuse())
REFUSES_AND_DELETES = Scenario(
    "refuses and deletes",
    "calls every credential dead, and deletes the cookie",
    _refuse_and_delete,
)
SHORT_LIVED = Scenario(
    "short-lived",
    "issues access tokens of five minutes",
    lambda host, request: host.answer(request, access_lifetime=_SHORT_LIFE),
)
ISSUES_THEN_REFUSES = Scenario(
    "issues, then refuses",
    "issues an access token that the API does not know",
    _issue_then_refuse,
)
ANSWERS_FOR_ANOTHER_ACCOUNT = Scenario(
    "answers for another account",
    "issues somebody else's access token",
    lambda host, request: host.answer(request, account=ANOTHER_ACCOUNT),
)
ANSWERS_FOR_A_GUEST = Scenario(
    "answers for a guest",
    "issues a visitor's access token",
    lambda host, request: host.answer(request, account=GUEST_ACCOUNT),
)
ANSWER_LOST = Scenario(
    "answer lost",
    "spends the credential, and closes the connection without an answer",
    _lose_the_answer,
)
DELETES_CREDENTIAL = Scenario(
    "deletes the credential",
    "answers with an access token, ends the login and deletes the cookie",
    _delete_the_credential,
)
COOKIE_FLOOD = Scenario(
    "cookie flood", f"sets {_FLOOD} cookies, its own behind them", _flood_with_cookies
)
COOKIE_HUGE = Scenario("huge cookie", "sets a cookie of 60 kB before its own", _add_a_huge_cookie)
WITHOUT_TOKEN = Scenario(
    "without a token",
    "answers well, but without an access token",
    lambda host, request: _changed(host.answer(request), access_token=None),
)
STRANGE_TOKEN = Scenario(
    "strange token",
    "answers with an access token that is not a JWT",
    lambda host, request: _changed(host.answer(request), access_token="none-of-your-business"),
)
BLOCK_SLIDER = Scenario(
    "slider page", "lets a firewall answer with a slider, with status 200", always(_SLIDER_PAGE)
)

SCENARIOS: Final[Mapping[str, Scenario]] = {
    each.name: each
    for each in (
        ANSWERS,
        REFUSES,
        REFUSES_AND_DELETES,
        SHORT_LIVED,
        ISSUES_THEN_REFUSES,
        ANSWERS_FOR_ANOTHER_ACCOUNT,
        ANSWERS_FOR_A_GUEST,
        ANSWER_LOST,
        DELETES_CREDENTIAL,
        COOKIE_FLOOD,
        COOKIE_HUGE,
        WITHOUT_TOKEN,
        STRANGE_TOKEN,
        BLOCK_SLIDER,
        # Those of either host.
        BLOCK_PAGE,
        BLOCK_REDIRECT,
        BLOCK_JSON,
        FORBIDDEN_PAGE,
        NOT_ALLOWED_PAGE,
        UNAVAILABLE_PAGE,
        BAD_GATEWAY_PAGE,
        SERVER_ERROR,
        UNAUTHORIZED_PAGE,
        WEB_APP_PAGE,
        REDIRECT_ELSEWHERE,
        RATE_LIMITED,
        RATE_LIMITED_RETRY_AFTER,
        RATE_LIMITED_ENVELOPE,
        STRANGE_JSON,
        EMPTY_ANSWER,
        HANGS,
        BREAKS_OFF,
    )
}
