"""Tokens for tests, signed with a key that only the tests know."""

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
