"""The token secret's value: what is kept stays as it was written, and what cannot be is refused."""

import json

import pytest

from qwen_token import MemoryStore
from qwen_token.errors import TokenDocumentError
from qwen_token.secret_store import SecretStore
from qwen_token.stored_token import holds_more, parse, rendered
from tests.fake_secrets_manager import FakeSecretsManager
from tests.minting import all_said, token
from tests.unit.keeper_fakes import DAY

OLD = token(left=DAY)
NEW = token(left=2 * DAY)
EXPIRES_AT = int(NEW.expires_at.timestamp())
MEMBERS = f'"token": "{NEW.raw}", "expires_at": {EXPIRES_AT}'


@pytest.mark.parametrize(
    "over",
    [
        "",
        " \r\n",
        "hunter2",
        OLD.raw,
        OLD.raw[:40],
        f"{OLD.raw}\r\n",
        f'"{OLD.raw}"',
        f"\ufeff{OLD.raw}",
        f"Authorization: Bearer {OLD.raw}",
        f"bearer\n{OLD.raw}",
        f"token={OLD.raw}",
        f"Cookie: theme=dark; token={OLD.raw}; n=",
        f"Set-Cookie: token={OLD.raw}; Path=/; Expires=Wed, 09 Jun 2027 10:18:14 GMT; HttpOnly",
    ],
)
def test_a_token_takes_the_place_of_a_value_that_is_at_most_one(over: str) -> None:
    assert not holds_more(over)
    assert rendered(NEW, over=over) == NEW.raw


BESIDE = f'"token": "{OLD.raw}", "note": "hunter2"'
OTHER_VALUES = {
    "half an object": f"{{{BESIDE}",
    "a comma too many": f"{{{BESIDE},}}",
    "two marks": f"\ufeff\ufeff{{{BESIDE}}}",
    "blanks before the mark": f" \ufeff{{{BESIDE}}}",
    "single quotes": f"{{{BESIDE}}}".replace('"', "'"),
    "an object in quotes": f"'{{{BESIDE}}}'",
    "an object in a JSON string": json.dumps(f"{{{BESIDE}}}"),
    "a comment": f"// ours\n{{{BESIDE}}}",
    "a comment inside": f"{{{BESIDE} /* ours */}}",
    "text before it": f"secret = {{{BESIDE}}}",
    "text after it": f"{{{BESIDE}}} ours",
    "two objects": f"{{{BESIDE}}}\n{{{BESIDE}}}",
    "a number that is too long": f'{{{BESIDE}, "n": {"9" * 5000}}}',
    "nesting that is too deep": f'{{{BESIDE}, "n": {"[" * 100_000}{"]" * 100_000}}}',
    "a line break in a string": f'{{{BESIDE}, "n": "a\nb"}}',
    "a list": f'["{OLD.raw}", "hunter2"]',
    "a list of one": f'["{OLD.raw}"]',
    "a list of objects": f"[{{{BESIDE}}}]",
    "lines of another format": f"DB_PASSWORD=hunter2\ntoken={OLD.raw}\n",
    "one such line": f"password=hunter2 token={OLD.raw}",
    "another name": "API_KEY=hunter2",
    "YAML": f"note: hunter2\ntoken: {OLD.raw}\n",
    "two tokens": f"{OLD.raw}\n{NEW.raw}",
    "an address": "https://user:hunter2@example.com",
    "mark-up": f"<secret>{OLD.raw}</secret>",
    "an object under its key": f'{{"token": {{{BESIDE}}}}}',
    "a list under its key": f'{{"token": ["{OLD.raw}", "hunter2"]}}',
    "an object in its string": json.dumps({"token": f"{{{BESIDE}}}"}),
    "lines in its string": json.dumps({"token": f"DB_PASSWORD=hunter2\ntoken={OLD.raw}"}),
    "an object under the expiry's key": f'{{"token": "{OLD.raw}", "expires_at": {{"a": 1}}}}',
}


@pytest.mark.parametrize("over", OTHER_VALUES.values(), ids=OTHER_VALUES)
def test_what_holds_anything_else_and_cannot_be_kept_is_refused_and_stays(over: str) -> None:
    assert holds_more(over)
    client = FakeSecretsManager()
    secret_id = client.add("s", over)
    store, memory = SecretStore(client, secret_id), MemoryStore(over)  # type: ignore[arg-type]

    for put in (lambda: rendered(NEW, over=over), lambda: store.put(NEW), lambda: memory.put(NEW)):
        with pytest.raises(TokenDocumentError) as caught:
            put()
        assert "hunter2" not in all_said(caught.value)
        assert "Retrieve secret value" in caught.value.advice

    assert client.secret("s").value == memory.load() == over


def test_a_binary_value_stays() -> None:
    client = FakeSecretsManager()
    secret_id = client.add("s", f"{{{BESIDE}}}".encode())
    with pytest.raises(TokenDocumentError, match="binary"):
        SecretStore(client, secret_id).put(NEW)  # type: ignore[arg-type]
    assert client.secret("s").value == f"{{{BESIDE}}}".encode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"Token": "hunter2"', '"Token": "hunter2", {}'),
        ('"a": {"token": "hunter2"}', '"a": {"token": "hunter2"}, {}'),
        ('"n": [1.10, 1e400, NaN], "token": null', '"n": [1.10, 1e400, NaN], {}'),
        ('"a": 1, "a": 2, "token": 12', '"a": 1, "a": 2, {}'),
        ('"s": "\\ud83d \\u00fc ü", "token": "x"', '"s": "\\ud83d \\u00fc ü", {}'),
        (f'"token": "{OLD.raw}", "expires_at": "2027-01-01T00:00:00Z"', "{}"),
        (f'"n": {"9" * 400}', f'"n": {"9" * 400}, {{}}'),
        ('"a": 1,\r\n"token": "x"\r\n', '"a": 1,\r\n{}\r\n'),
    ],
    ids=["case", "further in", "null", "twice", "escapes", "a date", "a long number", "lines"],
)
def test_other_keys_stay_as_they_were_written(before: str, after: str) -> None:
    written = rendered(NEW, over=f"{{{before}}}")

    assert written == f"{{{after}}}".replace("{}", MEMBERS)
    assert parse(written, "v1").token == NEW
    assert rendered(NEW, over=written) == written
