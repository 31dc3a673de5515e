"""What ``put --replace`` gives up: it is named, if the name is not a secret, and never shown."""

import re
from collections.abc import Mapping
from typing import Final

from qwen_token import stored_session, stored_token
from qwen_token.document import json_object
from qwen_token.names import may_be_login

# Keys that the project itself writes, and the form of other keys that may be shown.
_OWN_KEYS: Final = {"token", "refresh_token", "expires_at", "email", "password", "account"}
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][\w.-]{0,39}", re.ASCII)


def what_is_given_up(value: str | bytes, *, of_token: bool) -> str | None:
    """Describe what a secret's value holds besides a login, or return None if that is nothing."""
    if isinstance(value, bytes):
        return f"a binary value of {len(value)} bytes"
    holds_more = stored_token.holds_more if of_token else stored_session.holds_more
    if not holds_more(value):
        return None
    document = json_object(value)
    if document is None:
        size = stored_token.size_of(value)
        return f"a text of {size} bytes, which is neither a login nor a JSON object"
    others = [key for key in document if key not in _OWN_KEYS]
    if not others:
        return "the shape: it was a JSON object"
    shown = [key for key in others if _PLAIN_KEY.fullmatch(key) and not may_be_login(key)]
    if hidden := len(others) - len(shown):
        shown.append(f"{hidden} more that cannot be shown")
    return f"the keys {', '.join(shown)}"


def given_up_row(given_up: str | None) -> Mapping[str, object]:
    """Return the line about it for people, or none if nothing is given up."""
    if given_up is None:
        return {}
    return {
        "Given up": f"{given_up}; until the next refresh, the secret's version AWSPREVIOUS has it"
    }
