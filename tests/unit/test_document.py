"""Members of a JSON object change in its text, and nothing else does."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_token.document import (
    NotAnObjectError,
    begins_like_object,
    json_object,
    replace_members,
)
from tests.minting import all_said

NEW: Mapping[str, str | int | None] = {"token": "new", "expires_at": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            '{"token": "old", "expires_at": 0}',
            '{"token": "new", "expires_at": 1}',
            id="both are there",
        ),
        pytest.param(
            '{"z":1.0,"token":"old","a":[1e5, 12345678901234567890]}',
            '{"z":1.0,"token":"new","a":[1e5, 12345678901234567890],"expires_at":1}',
            id="digits and a dense style",
        ),
        pytest.param(
            '{ "note": "f\\u00fcr \\/ für", "token": "old" }\n',
            '{ "note": "f\\u00fcr \\/ für", "token": "new", "expires_at": 1 }\n',
            id="escapes and white space",
        ),
        pytest.param(
            '{\n  "token": "old",\n  "note": {\n    "token": "inner"\n  }\n}\n',
            '{\n  "token": "new",\n  "note": {\n    "token": "inner"\n  },\n  "expires_at": 1\n}\n',
            id="lines, and the same key further in",
        ),
        pytest.param(
            '{\r\n\t"token" : "old"\r\n}',
            '{\r\n\t"token" : "new",\r\n\t"expires_at": 1\r\n}',
            id="lines of another system",
        ),
        pytest.param(
            '{"a": 1, "a": 2, "token": "old", "expires_at": 0}',
            '{"a": 1, "a": 2, "token": "new", "expires_at": 1}',
            id="another key twice",
        ),
        pytest.param(
            '{"token": "older", "a": 1, "token": "old", "expires_at": 0}',
            '{"a": 1, "token": "new", "expires_at": 1}',
            id="the key itself twice",
        ),
        pytest.param(
            '{"\\u0074oken": "old", "expires_at": null}',
            '{"\\u0074oken": "new", "expires_at": 1}',
            id="a key with an escape",
        ),
        pytest.param("{}", '{"token": "new", "expires_at": 1}', id="an empty object"),
        pytest.param(
            "{\n}\n", '{"token": "new", "expires_at": 1\n}\n', id="an empty object of two lines"
        ),
        pytest.param(
            '\n {"token": {"a": "}"}, "expires_at": "\\"}"}',
            '\n {"token": "new", "expires_at": 1}',
            id="values of other types",
        ),
        pytest.param(
            '\ufeff{"token": "old"}',
            '{"token": "new", "expires_at": 1}',
            id="a byte order mark goes",
        ),
    ],
)
def test_only_the_values_of_the_named_members_change(text: str, expected: str) -> None:
    assert replace_members(text, NEW) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"gone": 1}', "{}", id="the only one"),
        pytest.param('{"gone": 1, "a": 1.0}', '{"a": 1.0}', id="the first"),
        pytest.param('{"a": 1.0, "gone": 1}', '{"a": 1.0}', id="the last"),
        pytest.param('{"a": 1.0 , "gone": 1,"b": 2}', '{"a": 1.0,"b": 2}', id="between others"),
        pytest.param('{"gone": 1, "a": 1.0, "gone": 2}', '{"a": 1.0}', id="each of two"),
        pytest.param('{\n  "gone": 1,\n  "a": 2\n}', '{\n  "a": 2\n}', id="with its line"),
        pytest.param('{"a": {"gone": 1}}', '{"a": {"gone": 1}}', id="not further in"),
    ],
)
def test_none_removes_a_member(text: str, expected: str) -> None:
    assert replace_members(text, {"gone": None}) == expected


def test_a_new_member_may_come_in_the_place_of_the_only_one() -> None:
    assert replace_members('{"gone":1}', {"gone": None, "a": "é"}) == '{"a":"\\u00e9"}'


NO_OBJECTS = [
    pytest.param(text, id=name)
    for name, text in {
        "nothing": "",
        "half an object": '{"token": "hunter2"',
        "an object and more": '{"token": "hunter2"} hunter2',
        "a comma too many": '{"token": "hunter2",}',
        "a line break in a text": '{"token": "hunter2\n"}',
        "a list": '["hunter2"]',
        "a text": '"hunter2"',
        "no JSON": "hunter2",
        "deep nesting": '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}",
        "a number of too many digits": '{"hunter2": ' + "9" * 5000 + "}",
    }.items()
]


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_what_is_not_an_object_is_refused_without_a_word_of_it(text: str) -> None:
    assert json_object(text) is None
    with pytest.raises(NotAnObjectError) as caught:
        replace_members(text, NEW)
    assert str(caught.value) == "the text is not a JSON object"
    assert caught.value.__context__ is None
    assert "hunter2" not in all_said(caught.value)


def test_an_object_is_read_as_json_reads_it() -> None:
    assert json_object(' {"a": 1, "a": [2.5], "é": null}\n') == {"a": [2.5], "é": None}
    assert json_object('\ufeff{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"token": ', True),
        (" \n\ufeff{", True),
        ("'{\"token\": 1}'", True),
        ("eyJ.{}", False),
        ('["{"]', False),
        ("", False),
    ],
)
def test_what_begins_like_an_object_is_known_by_its_brace(text: str, *, expected: bool) -> None:
    assert begins_like_object(text) is expected


keys = st.sampled_from(["token", "expires_at", "a", "é", '"', "\\"]) | st.text(max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)
spaces = st.text(alphabet=" \t\n\r", max_size=3)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """Write a value in one of the ways in which JSON can be written."""
    escaped, indent = draw(st.booleans()), draw(st.none() | st.integers(0, 2))
    return json.dumps(draw(values), ensure_ascii=escaped, indent=indent)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]]]:
    """Return an object's text, and its keys with their members' own texts."""
    parts, members = [], []
    for key in draw(st.lists(keys, max_size=6)):
        written = json.dumps(key, ensure_ascii=draw(st.booleans()))
        source = f"{written}{draw(spaces)}:{draw(spaces)}{draw(sources())}"
        members.append((key, source))
        parts.append(f"{draw(spaces)}{source}{draw(spaces)}")
    return f"{draw(spaces)}{{{','.join(parts) or draw(spaces)}}}{draw(spaces)}", members


def comparable(document: object) -> str:
    # Not the objects themselves: NaN is not equal to itself.
    return json.dumps(document, sort_keys=True)


@given(documents(), st.dictionaries(keys, st.none() | st.integers() | st.text()))
def test_json_reads_the_replaced_members_and_every_other_keeps_its_text(
    document: tuple[str, list[tuple[str, str]]], members: Mapping[str, str | int | None]
) -> None:
    text, written = document

    result = replace_members(text, members)

    expected: dict[str, Any] = {**json.loads(text), **members}
    for key in [key for key, value in members.items() if value is None]:
        del expected[key]
    assert comparable(json.loads(result)) == comparable(expected)
    position = 0
    for key, source in written:
        if key not in members:
            position = result.index(source, position) + len(source)
    assert replace_members(result, members) == result


@given(documents())
def test_without_a_member_to_replace_the_text_stays(document: tuple[str, object]) -> None:
    text, _ = document
    assert replace_members(text, {}) == text
