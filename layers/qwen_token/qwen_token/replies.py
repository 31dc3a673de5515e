"""What an answer of the API says, read from its parts: no HTTP library is named here."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

# What the site puts the status into that it means, where it says 200.
STATUS_HEADER: Final = "x-actual-status-code"
# The code of the API's failure envelope for a token that it refuses.
UNAUTHORIZED: Final = "unauthorized"

_STATUS_SHAPE: Final = re.compile(r"[1-5][0-9][0-9]", re.ASCII)


def media_type(content_type: str) -> str:
    """Return the media type alone, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def actual_status(status: int, said: str) -> int:
    """Return the status that is meant; ``said`` is the site's own header for it, or empty."""
    if status == HTTPStatus.OK and _STATUS_SHAPE.fullmatch(said):
        return int(said)
    return status


def json_object(body: bytes) -> Mapping[str, object]:
    """Return the JSON object in ``body``, an empty one where there is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def failure_code(document: Mapping[str, object]) -> str | None:
    """Return the code of the API's failure envelope: empty if it has none, None if it is none."""
    if document.get("success") is not False:
        return None
    data = document.get("data")
    code = data.get("code") if isinstance(data, dict) else None
    return code if isinstance(code, str) else ""
