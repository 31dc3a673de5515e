"""The store on the embedded AWS and on the fake: what is written, and under which label.

That the store finds no difference is what ``tests/proofs/simulation`` rests on.
"""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from localcloud.aws import Cloud
from localcloud.recording_proxy import Answer, Call, CarryOut
from qwen_token import StoreError, TokenMalformedError, TokenMissingError
from qwen_token.secret_store import AWS_CONFIG, SecretStore
from qwen_token.stored_token import StoredToken
from tests.fake_secrets_manager import FakeSecretsManager
from tests.minting import all_said, token

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
OLD = token(left=2 * DAY, now=NOW)
NEW = token(left=7 * DAY, now=NOW)
NEWER = token(left=8 * DAY, now=NOW)


class SecretUnderTest:
    """A new secret, and what a reader and an auditor see of it."""

    def __init__(self, client: "SecretsManagerClient", arn: str) -> None:
        self.client = client
        self.arn = arn
        self.store = SecretStore(client, arn)

    def labels(self) -> dict[str, set[str]]:
        described = self.client.describe_secret(SecretId=self.arn)
        return {version: set(stages) for version, stages in described["VersionIdsToStages"].items()}

    def value(self, label: str = "AWSCURRENT") -> str:
        return self.client.get_secret_value(SecretId=self.arn, VersionStage=label)["SecretString"]

    def read(self) -> StoredToken:
        held = self.store.read()
        assert held is not None
        return held


def faked(_request: pytest.FixtureRequest, value: str | None) -> SecretUnderTest:
    client: Any = FakeSecretsManager()
    return SecretUnderTest(client, client.add("qwen/token", value))


def emulated(request: pytest.FixtureRequest, value: str | None) -> SecretUnderTest:
    client: SecretsManagerClient = request.getfixturevalue("secrets")
    given: Any = {} if value is None else {"SecretString": value}
    return SecretUnderTest(
        client, client.create_secret(Name=f"test/{uuid.uuid4()}", **given)["ARN"]
    )


@pytest.fixture(name="new_secret", params=[faked, emulated], ids=["faked", "emulated"])
def _new_secret(request: pytest.FixtureRequest) -> Any:
    return lambda value=None: request.param(request, value)


def test_a_bare_token_is_read_with_its_version(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    assert held.token == OLD
    assert secret.labels()[held.version_id] == {"AWSCURRENT"}


def test_a_secret_without_a_value_reads_as_none(new_secret: Any) -> None:
    assert new_secret().store.read() is None


EMPTY = "the stored value is empty"
NO_KEY = "the stored JSON object has no key 'token', or an empty one"
NO_STRING = "the key 'token' of the stored JSON object is not a string"
HALF_AN_OBJECT = "the stored value begins like a JSON object, but cannot be read as one: .*"
NO_JWT = "the value is not a JWT: .*"


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        pytest.param(" ", TokenMissingError, EMPTY, id="a blank"),
        pytest.param('{"note": 1}', TokenMissingError, NO_KEY, id="an object without a token"),
        pytest.param(
            '{"token": ""}', TokenMissingError, NO_KEY, id="an object with an empty token"
        ),
        pytest.param(
            '{"token": " "}', TokenMissingError, NO_KEY, id="an object with a blank token"
        ),
        pytest.param(
            '{"token": null}', TokenMissingError, NO_KEY, id="an object with a null token"
        ),
        pytest.param('{"token": 7}', TokenMalformedError, NO_STRING, id="a token that is a number"),
        pytest.param('{"token": "abc"}', TokenMalformedError, NO_JWT, id="a token that is no JWT"),
        pytest.param('{"token": ', TokenMalformedError, HALF_AN_OBJECT, id="half an object"),
        pytest.param(
            '{"token": ' + "[" * 20_000, TokenMalformedError, HALF_AN_OBJECT, id="a deep object"
        ),
        pytest.param("hunter2", TokenMalformedError, NO_JWT, id="something else entirely"),
        pytest.param("[" * 20_000, TokenMalformedError, NO_JWT, id="deep nesting"),
    ],
)
def test_a_value_without_a_token_has_an_error_of_its_own(
    new_secret: Any, value: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        new_secret(value).store.read()
    assert re.fullmatch(said, str(caught.value))


def test_a_binary_value_is_malformed(secrets: "SecretsManagerClient") -> None:
    arn = secrets.create_secret(Name=f"test/{uuid.uuid4()}", SecretBinary=OLD.raw.encode())["ARN"]
    with pytest.raises(TokenMalformedError, match="binary"):
        SecretStore(secrets, arn).read()


def test_a_value_taken_away_is_missing_not_awaited(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    secret.client.put_secret_value(SecretId=secret.arn, SecretString=" ")
    with pytest.raises(TokenMissingError):
        secret.store.read()


def test_readers_do_not_see_a_staged_token(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    staged = secret.store.stage(NEW, over=secret.read())

    assert secret.value() == OLD.raw
    assert secret.value("QWEN_PENDING") == NEW.raw
    assert secret.labels()[staged.version_id] == {"QWEN_PENDING"}


def test_a_promoted_token_is_current_and_the_old_one_previous(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    staged = secret.store.stage(NEW, over=held)

    assert secret.store.promote(staged, over=held) == staged

    assert secret.value() == NEW.raw
    assert secret.value("AWSPREVIOUS") == OLD.raw
    assert secret.read().version_id == staged.version_id


def test_a_json_object_keeps_its_other_keys_and_gets_the_expiry(new_secret: Any) -> None:
    around = '{{\n "note": "für f\\u00fcr",\n "n": [1.0, 1e5], "n": 12345678901234567890,{}}}\n'
    secret = new_secret(around.format(f'\n "token": "Bearer {OLD.raw}"'))
    held = secret.read()
    assert held.token == OLD

    secret.store.promote(secret.store.stage(NEW, over=held), over=held)

    # As it was written, not as JSON could write it, too.
    assert secret.value() == around.format(
        f'\n "token": "{NEW.raw}",\n "expires_at": {NEW.expires_at.timestamp():.0f}'
    )


HALF = '{"note": "hunter2", "token": '


@pytest.mark.parametrize("value", [HALF, f"\n\ufeff{HALF}", f"'{HALF}\"\"}}'"])
def test_half_an_object_is_not_replaced_by_a_bare_token(new_secret: Any, value: str) -> None:
    secret = new_secret(value)
    with pytest.raises(TokenMalformedError, match="cannot be kept: correct it first") as caught:
        secret.store.put(NEW)
    assert "hunter2" not in all_said(caught.value)
    assert secret.value() == value


def test_a_byte_order_mark_before_an_object_is_read_over_and_not_written(new_secret: Any) -> None:
    secret = new_secret(f'\ufeff{{"note": 1.0, "token": "{OLD.raw}", "expires_at": 0}}')
    assert secret.read().token == OLD
    secret.store.put(NEW)
    assert secret.value() == (
        f'{{"note": 1.0, "token": "{NEW.raw}", "expires_at": {NEW.expires_at.timestamp():.0f}}}'
    )


def test_an_object_that_the_token_would_make_too_long_is_refused(new_secret: Any) -> None:
    """Up to 65,536 bytes in UTF-8, and not one more."""

    def document(size: int) -> str:
        text = f'{{"token": "{OLD.raw}", "expires_at": 1234567890, "note": "é{{}}"}}'
        return text.replace("{}", "x" * (size - len(text.encode()) + 2))

    longest, too_long = document(65_536), document(65_537)
    assert len(longest.encode()) == 65_536 > len(longest)
    secret = new_secret(longest)
    held = secret.read()
    assert len(secret.store.stage(NEW, over=held).text.encode()) == 65_536

    over = StoredToken(OLD, held.version_id, too_long)
    with pytest.raises(
        TokenMalformedError, match="65537 bytes long, more than the 65536"
    ) as caught:
        secret.store.stage(NEW, over=over)
    assert "to another secret" in str(caught.value)
    assert secret.value() == longest


def test_what_the_keeper_staged_says_when_and_what_a_person_put_does_not(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    before = datetime.now(UTC) - timedelta(seconds=1)  # an emulator may round it down

    staged = secret.store.stage(NEW, over=held)
    secret.store.promote(staged, over=held)
    current = secret.read()
    [person] = secret.store.alternatives(to=current)

    assert person.written_at is None
    for keepers in (staged, current, secret.store.read_version(staged.version_id)):
        assert keepers.written_at.tzinfo is UTC
        assert before <= keepers.written_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert secret.store.put(NEWER).written_at is secret.read().written_at is None


def test_a_staged_token_is_dated_by_the_stores_clock(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    store = SecretStore(secret.client, secret.arn, clock=lambda: NOW - DAY)
    assert store.stage(NEW, over=secret.read()).written_at == NOW - DAY


def test_a_version_is_read_by_its_id(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    first = secret.read()
    staged = secret.store.stage(NEW, over=first)
    assert secret.store.read_version(staged.version_id) == staged
    assert secret.store.read_version(first.version_id) == first


def test_a_version_that_is_gone_or_holds_no_token_is_none(new_secret: Any) -> None:
    secret = new_secret("hunter2")
    [version] = secret.labels()
    assert secret.store.read_version(version) is None
    assert secret.store.read_version(str(uuid.uuid4())) is None


def test_that_a_token_is_dead_is_read_with_it_until_it_is_taken_back(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    assert not held.is_rejected

    secret.store.note_rejected(held)
    secret.store.note_rejected(held)

    assert secret.read().is_rejected
    assert secret.value() == OLD.raw
    secret.store.note_accepted(held)
    assert not secret.read().is_rejected


def test_of_two_dead_tokens_the_later_one_is_noted(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    old = secret.read()
    secret.store.note_rejected(old)
    secret.store.promote(secret.store.stage(NEW, over=old), over=old)
    assert not secret.read().is_rejected

    secret.store.note_rejected(secret.read())

    assert secret.read().is_rejected
    assert secret.labels()[old.version_id] == {"AWSPREVIOUS"}


def test_the_keepers_own_first_token_becomes_current(new_secret: Any) -> None:
    secret = new_secret()
    first = secret.store.put_first(NEW)
    assert secret.value() == NEW.raw
    assert secret.read() == first
    assert first.written_at is not None
    assert secret.labels()[first.version_id] == {"AWSCURRENT", "QWEN_PENDING"}


def test_the_first_token_does_not_replace_somebody_elses(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    assert secret.store.put_first(NEW) == secret.read()
    assert secret.value() == OLD.raw


def test_garbage_that_came_before_the_first_token_stays_and_is_named(new_secret: Any) -> None:
    secret = new_secret("hunter2")
    with pytest.raises(TokenMalformedError):
        secret.store.put_first(NEW)
    assert secret.value() == "hunter2"


def test_a_pasted_form_becomes_the_plain_token_at_the_first_write(new_secret: Any) -> None:
    secret = new_secret(f'"Bearer {OLD.raw}"\n')
    held = secret.read()
    secret.store.promote(secret.store.stage(NEW, over=held), over=held)
    assert secret.value() == NEW.raw


def test_another_writer_wins_a_race_and_nothing_of_theirs_is_lost(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    staged = secret.store.stage(NEW, over=held)
    secret.client.put_secret_value(SecretId=secret.arn, SecretString=NEWER.raw)

    current = secret.store.promote(staged, over=held)

    assert current.token == NEWER
    assert secret.value() == NEWER.raw
    assert secret.value("AWSPREVIOUS") == OLD.raw


def test_garbage_that_won_the_race_stays_and_is_named(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    staged = secret.store.stage(NEW, over=held)
    secret.client.put_secret_value(SecretId=secret.arn, SecretString="hunter2")

    with pytest.raises(TokenMalformedError):
        secret.store.promote(staged, over=held)

    assert secret.value() == "hunter2"


def test_a_promote_that_was_carried_out_already_is_not_a_failure(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    staged = secret.store.stage(NEW, over=held)
    secret.store.promote(staged, over=held)

    assert secret.store.promote(staged, over=held) == staged
    assert secret.value("AWSPREVIOUS") == OLD.raw


def test_a_promote_that_is_refused_while_nothing_moved_is_a_failure(new_secret: Any) -> None:
    secret = new_secret(OLD.raw)
    held = secret.read()
    unknown = StoredToken(NEW, str(uuid.uuid4()), NEW.raw)

    with pytest.raises(StoreError, match="promote"):
        secret.store.promote(unknown, over=held)

    assert secret.value() == OLD.raw


def test_the_alternatives_are_the_staged_and_the_previous_token_of_the_same_account(
    new_secret: Any,
) -> None:
    secret = new_secret(OLD.raw)
    first = secret.read()
    secret.store.put(NEW)
    current = secret.read()
    staged = secret.store.stage(NEWER, over=current)

    found = secret.store.alternatives(to=current)

    assert [held.version_id for held in found] == [staged.version_id, first.version_id]
    assert [held.token for held in found] == [NEWER, OLD]


def test_the_current_version_and_foreign_labels_are_not_alternatives(
    new_secret: Any,
) -> None:
    secret = new_secret(OLD.raw)
    first = secret.read()
    secret.client.put_secret_value(
        SecretId=secret.arn, SecretString=NEWER.raw, VersionStages=["MINE"]
    )
    # It keeps the label that it was staged under.
    current = secret.store.promote(secret.store.stage(NEW, over=first), over=first)

    assert secret.store.alternatives(to=current) == [first]


def test_an_alternative_with_the_same_value_is_adopted_as_it_is(
    new_secret: Any,
) -> None:
    secret = new_secret(json.dumps({"note": 1, "token": OLD.raw}))
    held = secret.read()
    staged = secret.store.stage(NEW, over=held)

    [found] = secret.store.alternatives(to=held)

    assert secret.store.adopt(found, over=held) == staged


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        pytest.param({"note": "as it was"}, {"note": "as it is"}, id="other keys"),
        pytest.param(None, {"note": "as it is"}, id="another shape"),
        pytest.param({"note": "as it was"}, None, id="the other shape"),
    ],
)
def test_an_alternative_with_older_keys_is_staged_anew(
    new_secret: Any, earlier: dict[str, str] | None, now: dict[str, str] | None
) -> None:
    def value(raw: str, document: dict[str, str] | None) -> str:
        return raw if document is None else json.dumps({**document, "token": raw})

    secret = new_secret(value(NEW.raw, earlier))
    secret.client.put_secret_value(SecretId=secret.arn, SecretString=value(OLD.raw, now))
    held = secret.read()
    [found] = secret.store.alternatives(to=held)

    adopted = secret.store.adopt(found, over=held)
    secret.store.promote(adopted, over=held)

    assert adopted.version_id != found.version_id
    expiry = {"expires_at": int(NEW.expires_at.timestamp())}
    shown = secret.value()
    assert (shown if now is None else json.loads(shown)) == (
        NEW.raw if now is None else {**now, "token": NEW.raw, **expiry}
    )


def test_a_token_as_it_was_pasted_is_staged_anew_when_it_is_adopted(new_secret: Any) -> None:
    secret = new_secret(f"Bearer {NEW.raw}")
    secret.store.put(OLD)
    held = secret.read()
    [found] = secret.store.alternatives(to=held)
    assert secret.store.adopt(found, over=held).text == NEW.raw


@pytest.mark.parametrize(
    "value", [token(left=DAY, account="mallory", now=NOW).raw, "hunter2", '{"note": 1}']
)
def test_what_is_no_token_of_the_account_is_no_alternative(new_secret: Any, value: str) -> None:
    secret = new_secret(value)
    secret.store.put(NEW)
    assert secret.store.alternatives(to=secret.read()) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(None, NEW.raw, id="into a secret without a value"),
        pytest.param("hunter2", NEW.raw, id="over garbage"),
        pytest.param(
            '{"note": 1, "token": "hunter2"}',
            json.dumps(
                {"note": 1, "token": NEW.raw, "expires_at": int(NEW.expires_at.timestamp())}
            ),
            id="into an object, beside its other keys",
        ),
    ],
)
def test_a_person_can_put_a_token_in(new_secret: Any, before: str | None, after: str) -> None:
    secret = new_secret(before)
    held = secret.store.put(NEW)
    assert secret.value() == after
    assert secret.read() == held


def test_a_put_whose_answer_was_lost_is_sent_again_and_adds_one_version(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts: list[Call] = []

    def lose_the_first_answer(call: Call, carry_out: CarryOut) -> Answer | None:
        answer = carry_out()
        if call.operation == "secretsmanager:PutSecretValue":
            puts.append(call)
        return None if len(puts) == 1 else answer

    client = cloud.session.client("secretsmanager", endpoint_url=cloud.relay.url, config=AWS_CONFIG)
    arn = client.create_secret(Name=f"test/{uuid.uuid4()}", SecretString=OLD.raw)["ARN"]
    secret = SecretUnderTest(client, arn)
    held = secret.read()
    monkeypatch.setattr(cloud.relay, "gate", lose_the_first_answer)

    staged = secret.store.stage(NEW, over=held)

    assert len(puts) == 2
    assert secret.labels() == {
        held.version_id: {"AWSCURRENT"},
        staged.version_id: {"QWEN_PENDING"},
    }


def test_a_secret_that_does_not_exist_is_a_failure_of_the_store(
    secrets: "SecretsManagerClient",
) -> None:
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        SecretStore(secrets, "no/such/secret").read()


def test_a_secret_that_is_being_deleted_is_a_failure_of_the_store(
    secrets: "SecretsManagerClient",
) -> None:
    arn = secrets.create_secret(Name=f"test/{uuid.uuid4()}", SecretString=OLD.raw)["ARN"]
    secrets.delete_secret(SecretId=arn)
    with pytest.raises(StoreError, match="InvalidRequestException"):
        SecretStore(secrets, arn).read()


def test_an_unreachable_aws_is_a_store_error() -> None:
    client = boto3.client(
        "secretsmanager",
        endpoint_url="http://127.0.0.1:1",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=AWS_CONFIG,
    )
    with pytest.raises(StoreError, match="EndpointConnectionError"):
        SecretStore(client, "qwen/token").read()


def test_what_holds_a_token_does_not_show_it(new_secret: Any) -> None:
    secret = new_secret(json.dumps({"token": OLD.raw, "password": "hunter2"}))
    shown = repr(secret.read())
    assert "[redacted]" in shown
    assert "hunter2" not in shown
    assert not any(piece in shown for piece in OLD.raw.split("."))
