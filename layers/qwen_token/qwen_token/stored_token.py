"""A stored value: the bare token, or a JSON object around it; the shape found is the shape kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import TokenMalformedError, TokenMissingError
from .tokens import Token, decode_token


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A version of what is stored: its token, and the value that it was read from."""

    token: Token
    version_id: str
    text: str = field(repr=False)


def parse(text: str, version_id: str) -> StoredToken:
    """Read a value: a JSON object with the token under ``token``, or the bare token.

    Raises:
        TokenMissingError: it is empty, or an object without a token.
        TokenMalformedError: what it holds is none.
    """
    document = _json_object(text)
    if document is None:
        if not text.strip():
            raise TokenMissingError("the stored value is empty")
        return StoredToken(decode_token(text), version_id, text)
    token = document.get("token")
    if token is not None and not isinstance(token, str):
        raise TokenMalformedError("the key 'token' of the stored JSON object is no string")
    if not token or not token.strip():
        raise TokenMissingError("the stored JSON object has no key 'token', or an empty one")
    return StoredToken(decode_token(token), version_id, text)


def rendered(token: Token, *, over: str) -> str:
    """Return the value that puts ``token`` in the place of the value ``over``, in its shape."""
    document = _json_object(over)
    if document is None:
        return token.raw
    expires_at = int(token.expires_at.timestamp())
    return json.dumps(
        {**document, "token": token.raw, "expires_at": expires_at}, ensure_ascii=False
    )


def _json_object(text: str) -> Mapping[str, object] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
