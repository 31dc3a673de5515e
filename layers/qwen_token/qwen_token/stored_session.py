"""The session secret's value and pasted logins: read as a session, written as a JSON object."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from .document import json_object, replace_members
from .errors import SessionDocumentError, SessionMalformedError, TokenMalformedError, forgets_locals
from .pasted import Cookie, holds_login, is_command, read
from .session import Session, is_credential
from .stored_token import MOST_BYTES, StoredToken, size_of
from .tokens import (
    SURROUNDINGS,
    Token,
    account_of,
    decode_token,
    instant,
    is_access_token,
    stands_alone,
    unverified_claims,
    unwrapped,
)

# A string without a name must look random: not like an address or mark-up.
_OPAQUE: Final = re.compile(r"(?!.*://)[\w.~+/=%:|!*$-]{20,16384}", re.ASCII)
# The number of parts of an encrypted JWT, which only its issuer can read.
_JWE_PARTS: Final = 5
_QWEN: Final = re.compile(r"(?:.*\.)?qwen\.ai", re.IGNORECASE)

_COOKIE: Final = "refresh_token"
_OWN_KEYS: Final = frozenset({"refresh_token", "expires_at", "email", "password", "account"})
_BROWSER_STATE: Final = ("cookies", "origins")
# The longest object that leaves room for a longer credential.
LONGEST: Final = MOST_BYTES - 4096
_WHERE_IT_IS: Final = (
    "the credential is the cookie 'refresh_token', which is HttpOnly, so that document.cookie does "
    "not have it: copy it from the developer tools (Application, Cookies)"
)
_IS_ACCESS_TOKEN: Final = (
    f"this is an access token, which lives for 15 minutes and renews nothing: {_WHERE_IT_IS}"
)
_IS_CUT_OFF: Final = (
    "the value is a JWT that is cut off: copy the whole of it, three parts joined by dots"
)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A version of the session secret: its session, and the value from which it was read.

    ``created_at`` is when it was written (None: unknown). ``by_keeper``: the keeper wrote it. Only
    a person's version is a new login.
    """

    session: Session
    version_id: str
    text: str = field(repr=False)
    created_at: datetime | None = None
    by_keeper: bool = False

    def is_known_newer(self, *, than: StoredToken) -> bool:
        """Return whether it was certainly written after a version of the token secret."""
        if self.created_at is None or than.created_at is None:
            return False
        return self.created_at > than.created_at

    @property
    def holds_more(self) -> bool:
        """Whether overwriting the value with a bare login would lose more than a login."""
        return holds_more(self.text)


# For a secret without a session: the token is its own login.
NO_SESSION: Final = StoredSession(Session(), "", "")


def expiry_of_credential(raw: str) -> datetime | None:
    """Return the expiry of a credential that is a JWT, or None if it names none."""
    claims = _claims(raw)
    return None if claims is None else instant(claims.get("exp"))


@forgets_locals
def parse_session(text: str, version_id: str) -> StoredSession:
    """Read the session secret's value: the JSON object, or a form that people paste.

    Raises:
        SessionMalformedError: it has no login, or one that cannot be used as it is.
        SessionDocumentError: it is so long that the next credential may not fit.
    """
    session = _session_in(read(text))
    if (size := size_of(text)) > LONGEST and _object_in(text) is not None:
        # Checked before the credential is spent, because its successor must be stored.
        raise SessionDocumentError(
            f"the stored value is {size} bytes long, which leaves no room for the next credential: "
            "move other keys of it to another secret"
        )
    return StoredSession(session, version_id, text)


def holds_more(text: str) -> bool:
    """Return whether overwriting this value with a bare login would lose more than a login."""
    document = json_object(_object_in(text) or "")
    return not _is_alone(text) if document is None else not document.keys() <= _OWN_KEYS


@forgets_locals
def rendered_session(session: Session, *, over: str) -> str:
    """Return the value that replaces the value ``over`` and holds ``session``.

    An object keeps its other keys as they were written. Any other pasted form is replaced by a
    plain object.

    Raises:
        SessionDocumentError: ``over`` holds something else that would be lost, or the new value
        would be unreadable or too long for Secrets Manager.
    """
    expires_at = None if session.refresh_token is None else session.expires_at
    members: dict[str, str | int | None] = {
        "refresh_token": session.refresh_token,
        "expires_at": None if expires_at is None else int(expires_at.timestamp()),
        "email": session.email,
        "password": session.password,
        "account": session.account,
    }
    around = _object_in(over)
    if around is None:
        if not _is_alone(over):
            raise SessionDocumentError(
                "the stored value holds something else than a login, and cannot be read as a JSON "
                "object, so it cannot be kept: correct it first"
            )
        return replace_members("{}", members)
    _require_keys_of_their_own(json_object(around) or {})
    if isinstance(read(around), list):
        # A browser's state, as Playwright exports it, is a pasted form of a login.
        members |= dict.fromkeys(_BROWSER_STATE)
    return _require_readable(replace_members(around, members))


def _object_in(text: str) -> str | None:
    """Return the value's JSON object, without quotes around it, or None if it is not an object."""
    forms = (text, text.strip(SURROUNDINGS))
    return next((form for form in forms if json_object(form) is not None), None)


def _is_alone(text: str) -> bool:
    """Return whether a value that is not an object is a pasted login or a single word."""
    if stands_alone(text) or is_command(text):
        return True
    try:
        _session_in(read(text))
    except SessionMalformedError:
        return False
    return True


def _require_keys_of_their_own(document: Mapping[str, object]) -> None:
    """Require that the values to be replaced hold nothing but a login."""
    for key in _OWN_KEYS:
        value = document.get(key)
        if isinstance(value, dict | list) or (key == _COOKIE and not _may_go(value)):
            raise SessionDocumentError(
                f"the key '{key}' of the stored JSON object holds other values, which cannot be "
                "kept: correct it first"
            )


def _may_go(credential: object) -> bool:
    text = credential if isinstance(credential, str) else ""
    return is_credential(text) or _is_alone(text)


def _require_readable(text: str) -> str:
    if (size := size_of(text)) > MOST_BYTES:
        raise SessionDocumentError(
            f"with the new login, the stored value would be {size} bytes long, more than the "
            f"{MOST_BYTES} that Secrets Manager stores: move other keys of it to another secret"
        )
    try:
        _session_in(read(text))
    except SessionMalformedError as error:
        raise SessionDocumentError(
            f"beside the other keys of the stored value, the login could not be read: {error}"
        ) from error
    return text


@forgets_locals
def recognise(text: str) -> Token | Session:
    """Return the login that a person pasted: a token that is its own login, or a session.

    If the text has both, return the session, which is what the site issues today.

    Raises:
        TokenMalformedError: a token that was cut off or has no valid expiry.
        SessionMalformedError: anything else that is not a login; also an access token.
    """
    pasted = read(text)
    if isinstance(pasted, str):
        return _recognised(unwrapped(pasted))
    if isinstance(pasted, list):
        tokens = [cookie.value for cookie in pasted if cookie.name == "token"]
        if tokens and not any(cookie.name == _COOKIE for cookie in pasted):
            return _own_login(tokens[0])
    elif not holds_login(pasted):
        _require_no_other_kind(pasted)
        if isinstance(token := pasted.get("token"), str):
            return _own_login(token)
    return _session_in(pasted)


def _recognised(raw: str) -> Token | Session:
    claims = _claims(raw)
    if claims is None:
        if _is_cut_off(raw):
            raise TokenMalformedError(_IS_CUT_OFF)
        return _of_credential(_bare(raw))
    # Both kinds may be JWTs. The claim of its kind decides. Without that claim, a JWT without an
    # account is a credential, because it could not serve as a token.
    # A credential with an account but without the claim is taken for a token: the API refuses it
    # before it is stored. Under its own name (refresh_token=…) it is always a credential.
    if is_access_token(claims) or _says_refresh(claims) or account_of(claims) is None:
        return _of_credential(raw)
    return decode_token(raw)


def _own_login(text: str) -> Token:
    token = decode_token(text)
    if token.is_access_token:
        raise SessionMalformedError(_IS_ACCESS_TOKEN)
    return token


def _session_in(pasted: dict[str, object] | list[Cookie] | str) -> Session:
    if isinstance(pasted, str):
        return _of_credential(_bare(unwrapped(pasted)))
    if isinstance(pasted, list):
        return _of_cookies(pasted)
    return _of_object(pasted)


def _of_object(document: Mapping[str, object]) -> Session:
    _require_no_other_kind(document)
    if not holds_login(document):
        raise SessionMalformedError(
            "the JSON object has no login: it should have the key 'refresh_token', or the keys "
            "'email' and 'password'"
        )
    credential = _string(document, "refresh_token")
    found = Session() if credential is None else _of_named(credential)
    email = _string(document, "email")
    expires_at = _expiry(document.get("expires_at"))
    return Session(
        refresh_token=found.refresh_token,
        expires_at=None if credential is None else expires_at or found.expires_at,
        email=None if email is None else email.strip(),
        password=_string(document, "password"),
        account=_string(document, "account"),
    )


def _of_named(text: str) -> Session:
    """Read the value under the credential's name: the credential, or a form that contains it."""
    if is_credential(text) and not text.startswith(f"{_COOKIE}="):
        # Unchanged: the keeper itself stores it in this form.
        return _of_credential(text)
    pasted = read(text)
    if isinstance(pasted, dict):
        raise SessionMalformedError("'refresh_token' should be the credential, not an object")
    return _of_cookies(pasted) if isinstance(pasted, list) else _of_credential(unwrapped(pasted))


def _of_cookies(cookies: list[Cookie]) -> Session:
    candidates = [cookie for cookie in cookies if cookie.name == _COOKIE]
    if not candidates:
        raise SessionMalformedError(f"there is no cookie 'refresh_token' in it: {_WHERE_IT_IS}")
    # A browser may hold several: the sign-in host's, the domain's, and other sites'.
    best = max(candidates, key=lambda cookie: (_is_qwens(cookie), _life(cookie)))
    return _of_credential(best.value, best.expires_at)


def _of_credential(raw: str, expires_at: datetime | None = None) -> Session:
    claims = _claims(raw)
    if claims is None:
        if _is_cut_off(raw):
            raise SessionMalformedError(_IS_CUT_OFF)
    elif is_access_token(claims):
        raise SessionMalformedError(_IS_ACCESS_TOKEN)
    return Session(refresh_token=raw, expires_at=expires_at or expiry_of_credential(raw))


def _bare(raw: str) -> str:
    """Return a value without a name, if it looks like a credential."""
    if _claims(raw) is None:
        # Only with a name may a credential have a single dot.
        if _is_cut_off(raw) or re.fullmatch(r"[\w-]+\.[\w-]+", raw, re.ASCII):
            raise SessionMalformedError(_IS_CUT_OFF)
        if not raw:
            raise SessionMalformedError("the value is empty")
        if not _OPAQUE.fullmatch(raw):
            raise SessionMalformedError(
                f"the value is not a login in a known form ({len(raw)} characters)"
            )
    return raw


def _is_cut_off(raw: str) -> bool:
    """Return whether an undecodable value has a part that begins like a JWT's."""
    parts = raw.split(".")
    return len(parts) != _JWE_PARTS and any(part.startswith("eyJ") for part in parts)


def _require_no_other_kind(document: Mapping[str, object]) -> None:
    if "resource_url" in document or {"access_token", "token_type"} <= document.keys():
        raise SessionMalformedError(
            "these are the OAuth credentials of Qwen Code (~/.qwen/oauth_creds.json), which are "
            f"another thing and do not work here: {_WHERE_IT_IS}"
        )
    token = document.get("token")
    if not holds_login(document) and isinstance(token, str):
        claims = _claims(unwrapped(token))
        if "expiresAt" in document or (claims is not None and is_access_token(claims)):
            raise SessionMalformedError(_IS_ACCESS_TOKEN)


def _string(document: Mapping[str, object], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise SessionMalformedError(f"'{key}' should be a string")
    return value


def _expiry(seconds: object) -> datetime | None:
    expires_at = instant(seconds)
    if seconds is None or expires_at is not None:
        return expires_at
    if isinstance(seconds, int | float) and instant(seconds // 1000) is not None:
        raise SessionMalformedError("'expires_at' is in milliseconds: divide it by 1000")
    raise SessionMalformedError(
        "'expires_at' should be a number of seconds since 1970, in the years 2000 to 9999"
    )


def _claims(raw: str) -> Mapping[str, object] | None:
    try:
        return unverified_claims(raw)
    except TokenMalformedError:
        return None


def _says_refresh(claims: Mapping[str, object]) -> bool:
    kinds = [claims.get(name) for name in ("type", "typ", "token_type")]
    return any(isinstance(kind, str) and kind.lower().startswith("refresh") for kind in kinds)


def _is_qwens(cookie: Cookie) -> bool:
    return _QWEN.fullmatch(cookie.domain) is not None


def _life(cookie: Cookie) -> datetime:
    return (
        cookie.expires_at or expiry_of_credential(cookie.value) or datetime.min.replace(tzinfo=UTC)
    )
