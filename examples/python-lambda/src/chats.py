"""Returns the titles of the newest chats, with the token that qwen-token-refresh keeps."""

import os
from functools import cache
from typing import Any

import requests

from qwen_token import QwenAuth


def handler(_event: object, _context: object) -> list[str]:
    """Read the first page of the chats."""
    return [chat["title"] for chat in _get("/api/v2/chats/?page=1")]


def _get(path: str) -> Any:
    response = _session().get(os.environ["API_BASE_URL"] + path, timeout=20)
    # A firewall's page is no answer of the API, whatever its status.
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    document = response.json() if is_json else {}
    if document.get("success") is not True:
        said = document.get("data", {}).get("code", "no answer of the API's own")
        raise RuntimeError(f"{path}: {said} (status {response.status_code})")
    return document["data"]


@cache
def _session() -> requests.Session:
    """Return one session for all requests: it keeps the connection, and the copy of the token."""
    session = requests.Session()
    session.auth = QwenAuth.from_secret(
        os.environ["SECRET_ID"], base_url=os.environ["API_BASE_URL"]
    )
    return session
