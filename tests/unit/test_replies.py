"""What an answer's parts say, whoever brought them."""

import json

import pytest

from qwen_token.replies import actual_status, failure_code, json_object, media_type


@pytest.mark.parametrize(
    ("content_type", "alone"),
    [
        ("application/json", "application/json"),
        ("Application/Problem+JSON ; charset=utf-8; a=b", "application/problem+json"),
        ("; charset=utf-8", ""),
        ("", ""),
    ],
)
def test_a_media_type_is_taken_without_its_parameters_and_case(
    content_type: str, alone: str
) -> None:
    assert media_type(content_type) == alone


@pytest.mark.parametrize(
    ("status", "said", "meant"),
    [
        (200, "401", 401),
        (200, "100", 100),
        (200, "599", 599),
        (200, "", 200),
        (200, "600", 200),
        (200, "099", 200),
        (200, "4010", 200),
        (200, " 401", 200),
        (200, "٤٠١", 200),
        (201, "401", 201),
        (500, "200", 500),
    ],
)
def test_only_where_it_answers_200_may_the_site_say_another_status(
    status: int, said: str, meant: int
) -> None:
    assert actual_status(status, said) == meant


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1]", {}),
        (b"null", {}),
        (b"", {}),
        (b"<html>", {}),
        (b"\xff\xfe\xc3", {}),
        (b"[" * 100_000, {}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_json_object_is_an_empty_one(
    body: bytes, document: dict[str, object]
) -> None:
    assert json_object(body) == document


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"success": False, "data": {"code": "RateLimited"}}, "RateLimited"),
        ({"success": False, "data": {"code": 7}}, ""),
        ({"success": False, "data": {}}, ""),
        ({"success": False, "data": ["code"]}, ""),
        ({"success": False, "data": None}, ""),
        ({"success": False}, ""),
        ({"success": True, "data": {"code": "RateLimited"}}, None),
        ({"success": None, "data": {"code": "RateLimited"}}, None),
        ({"success": 0, "data": {"code": "RateLimited"}}, None),
        ({"data": {"code": "RateLimited"}}, None),
        ({}, None),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_failure_is_told_by_its_envelope_and_may_lack_a_code(
    document: dict[str, object], code: str | None
) -> None:
    assert failure_code(document) == code
