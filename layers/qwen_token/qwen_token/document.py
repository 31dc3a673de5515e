"""JSON objects as text: members change, and everything else stays as it was written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# The text between a key and a value, and between two members.
_BETWEEN: Final = " \t\n\r,:"
# JSON does not allow it, but editors and shells write it.
_BYTE_ORDER_MARK: Final = "\ufeff"
# The text around a pasted object: as around a token, and a shell's quotes.
_SURROUNDINGS: Final = " \t\r\n\"'`\u201c\u201d\u2018\u2019\u00a0\u200b\ufeff"

_DECODER: Final = json.JSONDecoder()


class NotAnObjectError(ValueError):
    """The text is not a JSON object. The message quotes nothing: the text may hold a secret."""

    def __init__(self) -> None:
        super().__init__("the text is not a JSON object")


@dataclass(frozen=True, slots=True)
class _Member:
    """A member's place in the text: from the start of its key to the end of its value."""

    key: str
    start: int
    value: int
    end: int


def begins_like_object(text: str) -> bool:
    """Return whether the text begins like a JSON object, whether or not it is one."""
    return text.lstrip(_SURROUNDINGS).startswith("{")


def json_object(text: str) -> Mapping[str, object] | None:
    """Return the JSON object that the text is, or None. A byte order mark is ignored."""
    try:
        document = json.loads(text.removeprefix(_BYTE_ORDER_MARK))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def replace_members(text: str, members: Mapping[str, str | int | None]) -> str:
    """Return a JSON object's text with the values of ``members``; None removes a member.

    A new member is added at the end. Everything else stays as it was written: order,
    white space, digits, escapes. If a key occurs twice, JSON readers take the last one: that one is
    replaced, and the earlier ones are removed. A byte order mark is removed.

    Raises:
        NotAnObjectError: the text is not a JSON object.
    """
    text = text.removeprefix(_BYTE_ORDER_MARK)
    found = _members(text)
    last = {member.key: member for member in found}
    kept = [
        index
        for index, member in enumerate(found)
        if member.key not in members
        or (members[member.key] is not None and member is last[member.key])
    ]
    # A removed member's separator is removed, too.
    before = ["", *(text[one.end : other.start] for one, other in pairwise(found))]
    written = "".join(
        (before[index] if place else "") + _rewritten(text, found[index], members)
        for place, index in enumerate(kept)
    )
    comma, colon = _separators(text, found)
    for key, value in members.items():
        if value is not None and key not in last:
            written += (comma if written else "") + json.dumps(key) + colon + json.dumps(value)
    opening = text.index("{") + 1
    start, end = (found[0].start, found[-1].end) if found else (opening, opening)
    return text[:start] + written + text[end:]


def _members(text: str) -> list[_Member]:
    try:
        # The standard library has parsed the text, so the scan need not check it.
        if isinstance(json.loads(text), dict):
            return _scanned(text)
    except (ValueError, RecursionError):
        pass
    # Raised outside the except block: the decoder's exception holds the text.
    raise NotAnObjectError


def _scanned(text: str) -> list[_Member]:
    found = []
    start = _skip(text, text.index("{") + 1)
    while text[start] != "}":
        key, after_key = _DECODER.raw_decode(text, start)
        value = _skip(text, after_key)
        _, end = _DECODER.raw_decode(text, value)
        found.append(_Member(key, start, value, end))
        start = _skip(text, end)
    return found


def _skip(text: str, position: int) -> int:
    while text[position] in _BETWEEN:
        position += 1
    return position


def _rewritten(text: str, member: _Member, members: Mapping[str, str | int | None]) -> str:
    if member.key not in members:
        return text[member.start : member.end]
    return text[member.start : member.value] + json.dumps(members[member.key])


def _separators(text: str, found: Sequence[_Member]) -> tuple[str, str]:
    """Return the separators before a new member and after its key, in the style of the text."""
    if not found:
        return ", ", ": "
    first = found[0]
    lead = text[text.index("{") + 1 : first.start]
    space = " " if text[first.value - 1] != ":" else ""
    return "," + (lead if "\n" in lead else space), ":" + space
