"""Reading tokens: what is accepted, what is refused, and that nothing of one is shown."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_token import QwenTokenError, TokenMalformedError, decode_token
from tests.minting import ACCOUNT, NOW, mint

EXP = int(NOW.timestamp())


def part(value: object) -> str:
    """Encode one part of a JWT, of any value at all."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def unsigned(payload: object, header: object = None) -> str:
    return f"{part(header or {'alg': 'HS256', 'typ': 'JWT'})}.{part(payload)}.c2ln"


def test_a_token_tells_its_account_and_its_life() -> None:
    token = decode_token(mint({"id": ACCOUNT, "exp": EXP, "iat": EXP - 60}))

    assert token.account == ACCOUNT
    assert token.expires_at == NOW
    assert token.issued_at == NOW - timedelta(minutes=1)
    assert token.remaining(NOW - timedelta(days=2)) == timedelta(days=2)
    assert token.remaining(NOW + timedelta(days=1)) == timedelta(days=-1)


def test_the_account_is_the_subject_if_there_is_no_id() -> None:
    assert decode_token(mint({"sub": "alice", "exp": EXP})).account == "alice"
    assert decode_token(mint({"id": "bob", "sub": "alice", "exp": EXP})).account == "bob"


def test_only_the_claim_type_makes_an_access_token() -> None:
    claims = {"id": ACCOUNT, "exp": EXP}

    assert decode_token(mint(claims | {"type": "access_token"})).is_access_token
    assert not decode_token(mint(claims | {"type": "refresh_token"})).is_access_token
    assert not decode_token(mint(claims | {"type": ["access_token"]})).is_access_token
    assert not decode_token(mint(claims | {"typ": "access_token"})).is_access_token
    assert not decode_token(mint(claims)).is_access_token


@pytest.mark.parametrize("nobody", [{}, {"id": ""}, {"id": 7, "sub": None}])
def test_only_an_access_token_may_name_no_account(nobody: dict[str, Any]) -> None:
    access = decode_token(mint({"type": "access_token", "exp": EXP} | nobody))

    assert access.account is None
    assert access.is_access_token
    assert repr(access).startswith("Token(raw=[redacted], account=None")
    with pytest.raises(TokenMalformedError, match="no account"):
        decode_token(mint({"exp": EXP} | nobody))


def test_an_access_token_names_its_account_where_it_has_one() -> None:
    claims = {"type": "access_token", "exp": EXP}

    assert decode_token(mint(claims | {"id": ACCOUNT})).account == ACCOUNT
    assert decode_token(mint(claims | {"sub": "alice"})).account == "alice"


@pytest.mark.parametrize(
    "paste",
    [
        pytest.param("{}", id="as it is"),
        pytest.param("  {}\r\n", id="surrounded by white space"),
        pytest.param('"{}"', id="in quotes, as localStorage shows it"),
        pytest.param("'{}'\n", id="in single quotes"),
        pytest.param("Bearer {}", id="with Bearer"),
        pytest.param("bearer   {}", id="with a small bearer"),
        pytest.param('"Bearer {}"', id="with Bearer inside quotes"),
        pytest.param("Bearer '{}'", id="in quotes after Bearer"),
        pytest.param("Authorization: Bearer {}", id="as the whole header"),
        pytest.param("token={}", id="as a cookie"),
        pytest.param("cna=abc; token={}; ssxmod_itna=1-x", id="as one cookie of several"),
        pytest.param('token="{}"', id="as a quoted cookie"),
        pytest.param("\ufeff{}", id="after a byte order mark"),
    ],
)
def test_what_people_paste_is_accepted(paste: str) -> None:
    raw = mint({"id": ACCOUNT, "exp": EXP})
    assert decode_token(paste.format(raw)).raw == raw


@pytest.mark.parametrize(
    "exp",
    [
        pytest.param(None, id="none"),
        pytest.param("1790000000", id="a string"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param(float("inf"), id="infinity"),
        pytest.param(True, id="a boolean"),
        pytest.param([EXP], id="a list"),
        pytest.param(-1, id="before 1970"),
        pytest.param(946684799, id="the last second of 1999"),
        pytest.param(253402300800, id="the first second of 10000"),
        pytest.param(946684799.999, id="a moment before 2000"),
        pytest.param(253402300799.001, id="a moment into the last second of 9999"),
        pytest.param(EXP * 1000, id="milliseconds"),
        pytest.param(EXP * 1_000_000_000, id="nanoseconds"),
        pytest.param(2**63, id="beyond any clock"),
        pytest.param(1e308, id="the most that a float holds"),
        pytest.param(-1e308, id="the least that a float holds"),
        pytest.param(10**400, id="beyond any float"),
    ],
)
def test_an_unusable_expiry_is_refused(exp: object) -> None:
    with pytest.raises(TokenMalformedError, match="expiry"):
        decode_token(unsigned({"id": ACCOUNT, "exp": exp}))


def test_a_token_without_an_expiry_is_refused() -> None:
    with pytest.raises(TokenMalformedError, match="no expiry"):
        decode_token(unsigned({"id": ACCOUNT}))


@pytest.mark.parametrize(
    ("exp", "expires_at"),
    [
        pytest.param(EXP + 0.999, NOW, id="a fraction is rounded down"),
        pytest.param(946684800, datetime(2000, 1, 1, tzinfo=UTC), id="the first second of 2000"),
        pytest.param(
            253402300799, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), id="the last of 9999"
        ),
    ],
)
def test_an_expiry_is_read_to_the_second(exp: float, expires_at: datetime) -> None:
    assert decode_token(unsigned({"id": ACCOUNT, "exp": exp})).expires_at == expires_at


@pytest.mark.parametrize("iat", [None, "yesterday", float("nan"), -5, True])
def test_an_unusable_issue_time_is_only_unknown(iat: object) -> None:
    assert decode_token(unsigned({"id": ACCOUNT, "exp": EXP, "iat": iat})).issued_at is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="nothing"),
        pytest.param("password123", id="no JWT"),
        pytest.param("a.b", id="two parts"),
        pytest.param("a.b.c", id="parts that are no base64 of JSON"),
        pytest.param(f"{part({'alg': 'HS256'})}.{part([1, 2])}.x", id="a payload that is a list"),
        pytest.param(f"{part({'alg': 'HS256'})}.{part(b'{' * 50)}.x", id="a truncated payload"),
        pytest.param(f"{part({})}.{part(b'[' * 100_000)}.x", id="a deeply nested payload"),
        pytest.param(f"{part({})}.{part(bytes([255, 254]))}.x", id="a payload that is no UTF-8"),
        pytest.param(unsigned({"exp": EXP}), id="no account"),
        pytest.param(unsigned({"id": 7, "exp": EXP}), id="an account that is a number"),
        pytest.param(unsigned({"id": "", "exp": EXP}), id="an empty account"),
        pytest.param(
            mint({"id": ACCOUNT, "exp": EXP}) + "\r\nX-Injected: 1", id="a second header line"
        ),
    ],
)
def test_what_is_no_token_is_refused_without_quoting_it(value: str) -> None:
    with pytest.raises(TokenMalformedError) as caught:
        decode_token(value)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    for fragment in value.split("."):
        if len(fragment) >= 8:
            assert fragment not in str(caught.value)


EXPIRY_RULE = (
    "expiry: the claim 'exp' must be a number of seconds since 1970, in the years 2000 to 9999"
)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a.b", "the value is not a JWT: 3 characters in 2 dot-separated part(s)"),
        ("password", "the value is not a JWT: 8 characters in 1 dot-separated part(s)"),
        ("a.b.c", "the value looks like a JWT, but its parts cannot be decoded"),
        (unsigned({"id": ACCOUNT}), f"the token has no {EXPIRY_RULE}"),
        (unsigned({"id": ACCOUNT, "exp": None}), f"the token has no {EXPIRY_RULE}"),
        (unsigned({"id": ACCOUNT, "exp": "soon"}), f"the token has an unusable {EXPIRY_RULE}"),
        (
            unsigned({"exp": EXP}),
            "the token names no account: neither the claim 'id' nor 'sub'",
        ),
    ],
    ids=["two parts", "one part", "no base64", "no exp", "a null exp", "a text exp", "no account"],
)
def test_a_refusal_says_what_is_wrong_with_the_value(value: str, message: str) -> None:
    with pytest.raises(TokenMalformedError) as caught:
        decode_token(value)
    assert str(caught.value) == message


def test_a_second_prefix_is_not_a_pasted_form() -> None:
    with pytest.raises(TokenMalformedError):
        decode_token(f"Bearer Bearer {mint({'id': ACCOUNT, 'exp': EXP})}")


@given(st.text() | st.builds(unsigned, st.recursive(st.none() | st.floats() | st.text(), st.lists)))
def test_whatever_is_pasted_no_other_error_escapes(text: str) -> None:
    with suppress(QwenTokenError):
        decode_token(text)


@given(
    st.dictionaries(
        st.sampled_from(["id", "sub", "exp", "iat"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    )
)
def test_whatever_the_claims_are_no_other_error_escapes(claims: dict[str, Any]) -> None:
    try:
        token = decode_token(unsigned(claims))
    except TokenMalformedError:
        return
    assert 2000 <= token.expires_at.year <= 9999


def test_a_token_does_not_show_itself() -> None:
    token = decode_token(mint({"id": ACCOUNT, "exp": EXP}))

    for shown in (repr(token), str(token), f"{token}", f"{[token]}"):
        assert "[redacted]" in shown
        assert not any(piece in shown for piece in token.raw.split("."))
