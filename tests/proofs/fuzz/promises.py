"""What holds for any input: no error outside the tree, no token shown, nothing dead by hearsay."""

import json
from datetime import UTC, datetime, timedelta

from qwen_token import QwenTokenError, TokenMalformedError, TokenRejectedError, decode_token
from qwen_token.qwen_api import QwenApi
from qwen_token.replies import Reply, read_answer
from tests.minting import all_said, pieces, token
from tests.wire import BRIEF

# In what a server says, as well as in what it was asked.
HELD = token(left=timedelta(days=2), now=datetime.now(UTC))


def hold_for_text(text: str) -> None:
    """Check what is promised of ``decode_token``: a token with a life, or its own error."""
    try:
        read = decode_token(text)
    except TokenMalformedError as error:
        shows_nothing_of(text, error)
    else:
        assert 2000 <= read.expires_at.year <= 9999
        assert read.issued_at is None or 2000 <= read.issued_at.year <= 9999
        assert read.account
        assert read.raw in text
        assert decode_token(read.raw) == read
        assert not any(piece in repr(read) for piece in pieces(read.raw) - pieces(read.account))


def hold_for_reply(status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
    """Check what is promised of a reply: a document, or an error of the tree."""
    try:
        answer = read_answer(Reply(status, headers, body, datetime.now(UTC)))
    except QwenTokenError as error:
        shows_nothing_of(HELD.raw, error)
        if isinstance(error, TokenRejectedError):
            said = json.loads(body)
            assert said.get("success") is False or isinstance(said.get("detail"), str)
        return
    assert status == 200
    assert answer
    if isinstance(successor := answer.get("token"), str):
        hold_for_text(successor)


def hold_for_server(base_url: str) -> None:
    """Check what is promised of a call: a token, or an error of the tree."""
    try:
        QwenApi(base_url).refresh(HELD, within=BRIEF)
    except QwenTokenError as error:
        shows_nothing_of(HELD.raw, error)


def shows_nothing_of(raw: str, error: QwenTokenError) -> None:
    said = all_said(error)
    assert not any(piece in said for piece in pieces(raw)), type(error)
    assert error.reason
