"""Tokens for tests, signed with a key that only the tests know."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from qwen_token import Token, decode_token

# Long enough for HS256.
KEY = "a key that only the tests know, nobody else"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ACCOUNT = "4f2f4f5e-0000-4000-8000-00000000a11c"


def mint(claims: dict[str, Any]) -> str:
    """Sign ``claims`` as they are."""
    return jwt.encode(claims, KEY, algorithm="HS256")


def token(
    *, left: timedelta, account: str = ACCOUNT, now: datetime = NOW, **claims: object
) -> Token:
    """Return an account's token with so much time left at ``now``; more claims make it another."""
    return decode_token(mint({"id": account, "exp": int((now + left).timestamp()), **claims}))


def pieces(raw: str) -> set[str]:
    """Return every piece of twelve characters: so much of a token is never shown."""
    return {raw[start : start + 12] for start in range(len(raw) - 11)}


def found_in(text: str, parts: set[str]) -> set[str]:
    """Return which of these pieces are in a text. Of a long one, most is the same over again."""
    alphabet = re.escape("".join(set().union(*parts)))
    # A piece lies within a run of what pieces consist of.
    runs = set(re.findall(f"[{alphabet}]{{12,}}", text))
    return parts & set().union(*map(pieces, runs))


def all_said(error: BaseException) -> str:
    """Return everything that an exception says, and those that it hangs on to, to the last."""
    said, queue, seen = [], [error], set[int]()
    while queue:
        each = queue.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        said += [str(each), repr(each), repr(each.args), repr(getattr(each, "__notes__", []))]
        # What was decoded in vain, JSON's decoder keeps here, and that of text as its object.
        said += [str(getattr(each, name, "")) for name in ("doc", "object")]
        queue += [other for other in (each.__cause__, each.__context__) if other is not None]
    return "\n".join(said)
