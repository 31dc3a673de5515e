"""The kinds of login and their ends, for scripts and in words."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from qwen_token.session import Session
from qwen_token.tokens import Token, date

# By whether there is a refresh credential, and a sign-in.
_KINDS: Final[Mapping[tuple[bool, bool], tuple[str, str]]] = {
    (True, False): ("session", "session (a refresh credential)"),
    (False, True): ("sign_in", "sign-in (e-mail and password)"),
    (True, True): ("session_and_sign_in", "session (a refresh credential), and a sign-in"),
}


def kind_of(session: Session, *, beside: Token | None = None) -> tuple[str, str]:
    """Return the kind of the login ``session``, and that in words.

    Where the session is empty, the token ``beside`` it may be its own login.
    """
    has = session.refresh_token is not None, session.email is not None
    if has in _KINDS:
        return _KINDS[has]
    if beside is None:
        return "none", "none: there is nothing to get a token with"
    if beside.is_access_token:
        return "none", "none: an access token cannot be renewed by itself"
    return "token", "token (its own login)"


def expiry_text(expires_at: datetime | None) -> str:
    """Say when a refresh credential expires."""
    if expires_at is None:
        return "not known; as a rule 30 days after the log-in"
    return date(expires_at)
