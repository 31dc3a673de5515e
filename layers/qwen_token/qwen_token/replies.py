"""What a reply means: the API's answer, or one of its failures. Pure, for any HTTP library.

It never confuses *dead* (the API itself refused the token) with *unknown* (no answer, or one that
did not come from the API).
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import mktime_tz, parsedate_tz
from http import HTTPStatus
from typing import Final

from .errors import (
    ChallengedError,
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    SessionRejectedError,
    SignInRefusedError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)

# Statuses after which the same call is worth another attempt.
PASSING_STATUSES: Final = (429, 500, 502, 503, 504)
# A failure envelope has a few hundred bytes. A longer body is not one, so it is not parsed.
ENVELOPE_LIMIT: Final = 64 * 1024

# The longest pause that is honoured: during a longer one, the token could expire.
_LONGEST_PAUSE: Final = timedelta(days=1)
_SECONDS: Final = re.compile(r"\s*[0-9]+\s*")

# The header with the true status if the site answers 200 to a failure.
_STATUS_HEADER: Final = "x-actual-status-code"
_STATUS_SHAPE: Final = re.compile(r"[1-5][0-9][0-9]", re.ASCII)

# Codes of the API's failure envelope, as ``_folded`` returns them: the API spells them differently.
_UNAUTHORIZED: Final = "unauthorized"
_RATE_LIMITED: Final = "ratelimited"
_CREDENTIAL_REFUSED: Final = frozenset({_UNAUTHORIZED, "forbidden", "invalidtoken", "tokeninvalid"})
# The sign-in host's only sign (a text, no code) that a header is missing or outdated.
_HEADER_REFUSED: Final = "invalid request header"

# The meaning of these depends on the sender: the API itself, or something in front of it.
_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_TURNED_AWAY: Final = (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED)

_JSON: Final = "application/json"
_PAGE: Final = "text/html"
_PROBLEM: Final = "application/problem+json"
# Keys of RFC 9457's problem documents. They have a "detail", as the API's failures do.
_PROBLEM_KEYS: Final = frozenset({"type", "title", "status"})

# Signs of Alibaba Cloud's firewall: in its pages, their redirects, and its JSON answers.
_CHALLENGE_PAGE_MARKS: Final = ("aliyun_waf", "_____tmd_____", "x5secdata")
_CHALLENGE_CODES: Final = ("FAIL_SYS_USER_VALIDATE", "RGV587_ERROR")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply, read in full. Its headers and its body may hold tokens.

    ``received_at`` is the server's own date, if it sent one: the other times in the reply come from
    the same clock, and ours may be wrong.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    received_at: datetime

    def header(self, name: str) -> str:
        """Return a header's value: several values joined by commas, or empty if it is absent."""
        return ", ".join(self.values(name))

    def values(self, name: str) -> tuple[str, ...]:
        """Return each value of a header that cannot be joined, such as ``Set-Cookie``."""
        wanted = name.lower()
        return tuple(value for key, value in self.headers if key.lower() == wanted)


def read_answer(
    reply: Reply, *, refusal: type[QwenTokenError] = TokenRejectedError
) -> Mapping[str, object]:
    """Return the document of the API's answer.

    ``refusal`` says what was sent, by the error to raise if the API refuses it:
    TokenRejectedError, SessionRejectedError or SignInRefusedError.

    Raises:
        refusal: the API says that what was sent is dead, or (for a sign-in) wrong.
        UpstreamError: anything else; whether what was sent is alive is unknown.
        ConfigError: the sign-in host refuses the request's headers.
    """
    status = actual_status(reply.status, reply.header(_STATUS_HEADER))
    document = json_object(reply.body)
    seen = f"HTTP {status} with {_describe(reply.body, document)}"
    if _is_challenge(reply, document):
        if refusal is SignInRefusedError:
            # A repeated attempt would make it worse, and only a person can solve a challenge.
            raise ChallengedError(f"the sign-in was answered with a challenge page: {seen}")
        raise UpstreamBlockedError(f"a firewall's challenge came in place of the API: {seen}")
    code = failure_code(document)
    has_detail = _has_detail(reply, document)
    if _folded(code) == _RATE_LIMITED or status == HTTPStatus.TOO_MANY_REQUESTS:
        raise RateLimitedError(
            f"the API asks to be called less often: {seen}",
            retry_after=_asked_pause(reply, document),
        )
    if _refuses_headers(document):
        raise ConfigError(
            "the sign-in host refuses the request's headers: it probably wants another Version "
            "(parameter WebVersion, which a browser's requests to the host show)"
        )
    what, refuses = _REFUSALS[refusal]
    if refuses(code, status, has_detail):
        raise refusal(f"the API refused {what}: {seen}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise UpstreamUnavailableError(f"the API failed: {seen}")
    if status in _TURNED_AWAY and code is None and not has_detail:
        raise UpstreamBlockedError(f"something in front of the API refused the request: {seen}")
    if status != HTTPStatus.OK or code is not None or not document:
        raise UpstreamUnexpectedError(f"unknown answer of the API: {seen}")
    return document


def require_member(document: Mapping[str, object]) -> None:
    """Check that the API does not describe a guest.

    Raises:
        WrongAccountError: it does, so nobody is signed in.
    """
    email = document.get("email")
    if document.get("role") == "guest" or (
        isinstance(email, str) and email.casefold().endswith("@guest.com")
    ):
        raise WrongAccountError("the API sees a guest behind this login: it is not signed in")


def _refuses_token(code: str | None, status: int, has_detail: bool) -> bool:  # noqa: FBT001 - a table's
    # A 403 with a code means what the code says; one with only a text is about the token.
    return (
        _folded(code) == _UNAUTHORIZED
        or (code is not None and status == HTTPStatus.UNAUTHORIZED)
        or (has_detail and status in _REFUSED)
    )


def _refuses_credential(code: str | None, status: int, has_detail: bool) -> bool:  # noqa: FBT001 - a table's
    return _folded(code) in _CREDENTIAL_REFUSED or _refuses_token(code, status, has_detail)


def _refuses_sign_in(code: str | None, status: int, has_detail: bool) -> bool:  # noqa: FBT001 - a table's
    # The answer to a wrong password is not known, so any failure that the API itself states counts.
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and (
        code is not None or (has_detail and status in {HTTPStatus.BAD_REQUEST, *_REFUSED})
    )


_Refuses = Callable[[str | None, int, bool], bool]

# For each refusal's error: what was sent, and how its refusal is recognised.
_REFUSALS: Final[Mapping[type[QwenTokenError], tuple[str, _Refuses]]] = {
    TokenRejectedError: ("the token", _refuses_token),
    SessionRejectedError: ("the refresh credential", _refuses_credential),
    SignInRefusedError: ("the sign-in", _refuses_sign_in),
}


def head_refuses(status: int, headers: Mapping[str, str]) -> bool | None:
    """Return whether an answer refuses the token, or None if only its body can tell.

    ``headers`` ignores the case of names. A page is never the API's own answer, whatever its
    status, and a 403 is not about the token.
    """
    kind = media_type(headers.get("Content-Type", ""))
    if kind == _PAGE:
        return False
    if actual_status(status, headers.get(_STATUS_HEADER, "")) == HTTPStatus.UNAUTHORIZED:
        return True
    return None if status == HTTPStatus.OK and kind == _JSON else False


def body_refuses(body: bytes) -> bool:
    """Return whether a body is the API's failure envelope with the code ``unauthorized``."""
    # Rarely true, so most bodies are not parsed twice.
    return (
        len(body) <= ENVELOPE_LIMIT
        and _UNAUTHORIZED.encode() in body.lower()
        and _folded(failure_code(json_object(body))) == _UNAUTHORIZED
    )


def retry_after(value: str, *, now: datetime) -> timedelta | None:
    """Return the pause that a ``Retry-After`` names, in seconds or as a date; None for neither.

    It is zero for a date in the past, and a day at most.
    """
    seconds: float | None = None
    with suppress(ValueError, OverflowError):
        if _SECONDS.fullmatch(value):
            seconds = int(value)
        elif date := parsedate_tz(value):
            seconds = mktime_tz(date) - now.timestamp()
    return None if seconds is None else _pause(seconds)


def http_date(value: str) -> datetime | None:
    """Return the time of a header ``Date``, or None if it is not a date."""
    with suppress(ValueError, OverflowError, OSError):
        if date := parsedate_tz(value):
            return datetime.fromtimestamp(mktime_tz(date), UTC)
    return None


def _asked_pause(reply: Reply, document: Mapping[str, object]) -> timedelta | None:
    """Return the pause that the API names: in the header, or in hours in its envelope."""
    pause = retry_after(reply.header("Retry-After"), now=reply.received_at)
    if pause is None:
        data = document.get("data")
        hours = data.get("num") if isinstance(data, dict) else None
        if isinstance(hours, int) and not isinstance(hours, bool):
            pause = _pause(hours * 3600)
    return pause or None


def _pause(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0), _LONGEST_PAUSE.total_seconds()))


def actual_status(status: int, said: str) -> int:
    """Return the true status; ``said`` is the value of the site's header for it, or empty."""
    if status == HTTPStatus.OK and _STATUS_SHAPE.fullmatch(said):
        return int(said)
    return status


def media_type(content_type: str) -> str:
    """Return the media type alone, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def json_object(body: bytes) -> Mapping[str, object]:
    """Return the JSON object in ``body``, or an empty one if it holds anything else."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def failure_code(document: Mapping[str, object]) -> str | None:
    """Return the code of a failure envelope, empty if it has none; None if it is not one."""
    if document.get("success") is not False:
        return None
    data = document.get("data")
    code = data.get("code") if isinstance(data, dict) else None
    return code if isinstance(code, str) else ""


def _folded(code: str | None) -> str | None:
    """Return a code in lower case, without separators."""
    return None if code is None else re.sub(r"[\s_-]", "", code).casefold()


def _refuses_headers(document: Mapping[str, object]) -> bool:
    data = document.get("data")
    details = data.get("details") if isinstance(data, dict) else None
    return (
        document.get("success") is False
        and isinstance(details, str)
        and _HEADER_REFUSED in details.casefold()
    )


def _has_detail(reply: Reply, document: Mapping[str, object]) -> bool:
    """Return whether a failure has the API's older form, and not the similar one of gateways."""
    return (
        isinstance(document.get("detail"), str)
        and not _PROBLEM_KEYS & document.keys()
        and media_type(reply.header("Content-Type")) != _PROBLEM
    )


def _is_challenge(reply: Reply, document: Mapping[str, object]) -> bool:
    location = reply.header("Location")
    if any(mark in location for mark in _CHALLENGE_PAGE_MARKS):
        return True
    if document:
        # The API's own documents may contain these words elsewhere, so only these members count.
        codes, url = document.get("ret"), document.get("url")
        return (isinstance(url, str) and any(mark in url for mark in _CHALLENGE_PAGE_MARKS)) or (
            isinstance(codes, list)
            and any(isinstance(code, str) and code.startswith(_CHALLENGE_CODES) for code in codes)
        )
    return any(mark.encode() in reply.body for mark in _CHALLENGE_PAGE_MARKS)


def _describe(body: bytes, document: Mapping[str, object]) -> str:
    """Name the kind of body without quoting it: a body may hold anything, tokens included."""
    if document:
        kind = "a JSON object"
    elif not body.strip():
        kind = "an empty body"
    elif body.lstrip()[:1] == b"<":
        kind = "a page"
    else:
        kind = "a text that is not a JSON object"
    return f"{kind} ({len(body)} bytes)"
