"""A stored value: the bare token, or a JSON object around it. Its shape is kept."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from .document import begins_like_object, json_object, replace_members
from .errors import TokenDocumentError, TokenMalformedError, TokenMissingError, forgets_locals
from .tokens import Token, decode_token, stands_alone

# Secrets Manager's limit for a value.
MOST_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A version of the token secret: its token, and the value from which it was read.

    ``written_at`` (aware, UTC) is when the keeper wrote this version; None if somebody
    else did, or if that is unknown. ``created_at`` is when anybody wrote it, if known.
    ``is_rejected``: the API called the token dead, and it could not be replaced yet. These do not
    identify a version, so they are not compared.
    """

    token: Token
    version_id: str
    text: str = field(repr=False)
    written_at: datetime | None = field(default=None, compare=False)
    created_at: datetime | None = field(default=None, compare=False)
    is_rejected: bool = field(default=False, compare=False)

    def is_newer(self, *, than: "StoredToken") -> bool:
        """Return whether it was written after another version, as far as is known."""
        if self.created_at is None or than.created_at is None:
            return True
        return self.created_at > than.created_at

    def is_known_newer(self, *, than: "StoredToken") -> bool:
        """Return whether it was certainly written after another version: not in the same second."""
        is_dated = self.created_at is not None and than.created_at is not None
        return is_dated and self.is_newer(than=than)


@forgets_locals
def parse(text: str, version_id: str, *, written_at: datetime | None = None) -> StoredToken:
    """Read a value: a JSON object with the token under ``token``, or the bare token.

    Raises:
        TokenMissingError: it is empty, or an object without a token.
        TokenMalformedError: its content is not a token.
        TokenDocumentError: it begins like an object, but cannot be parsed as one.
    """
    if not text.strip():
        raise TokenMissingError("the stored value is empty")
    if not begins_like_object(text):
        return StoredToken(decode_token(text), version_id, text, written_at)
    document = json_object(text)
    if document is None:
        raise TokenDocumentError(
            "the stored value begins like a JSON object, but cannot be read as one: correct it "
            "first"
        )
    token = document.get("token")
    if token is not None and not isinstance(token, str):
        raise TokenMalformedError("the key 'token' of the stored JSON object is not a string")
    if not token or not token.strip():
        raise TokenMissingError("the stored JSON object has no key 'token', or an empty one")
    return StoredToken(decode_token(token), version_id, text, written_at)


def holds_more(text: str) -> bool:
    """Return whether overwriting this value with a bare token would lose its shape or keys."""
    return begins_like_object(text) or not stands_alone(text)


@forgets_locals
def rendered(token: Token, *, over: str) -> str:
    """Return the value that replaces the value ``over`` and holds ``token``, in the same shape.

    Every other key of a JSON object stays as it was written.

    Raises:
        TokenDocumentError: ``over`` holds more than a token, and that cannot be kept: it is not a
        JSON object, or the new value would be too long for Secrets Manager.
    """
    text = _around(token, over) if holds_more(over) else token.raw
    size = size_of(text)
    if size > MOST_BYTES:
        raise TokenDocumentError(
            f"with the new token, the stored value would be {size} bytes long, more than the "
            f"{MOST_BYTES} that Secrets Manager stores: move other keys of it to another secret"
        )
    return text


def size_of(text: str) -> int:
    """Return the size of a value in bytes."""
    # With surrogatepass, because half a surrogate pair cannot be encoded otherwise.
    return len(text.encode(errors="surrogatepass"))


def _around(token: Token, over: str) -> str:
    if not begins_like_object(over):
        raise TokenDocumentError(
            "the stored value holds more than a token, and is not a JSON object, so the rest of it "
            "cannot be kept: correct it first"
        )
    document = json_object(over)
    if document is None:
        raise TokenDocumentError(
            "the stored value begins like a JSON object, but cannot be read as one, so its other "
            "keys cannot be kept: correct it first"
        )
    before = document.get("token")
    if isinstance(before, str) and not stands_alone(before):
        raise TokenDocumentError(
            "the key 'token' of the stored JSON object holds more than a token: correct it first"
        )
    for key in ("token", "expires_at"):
        if isinstance(document.get(key), dict | list):
            raise TokenDocumentError(
                f"the key '{key}' of the stored JSON object holds other values, which cannot be "
                "kept: correct it first"
            )
    expires_at = int(token.expires_at.timestamp())
    return replace_members(over, {"token": token.raw, "expires_at": expires_at})
