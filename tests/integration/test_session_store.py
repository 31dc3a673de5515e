"""The session secret on the embedded AWS: what is written, under which label, and what wins."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from localcloud.aws import Cloud
from localcloud.recording_proxy import Answer, AwsRefusal, Call, CarryOut, Loss
from qwen_token import Session, SessionMalformedError, StoreError
from qwen_token.secret_store import AWS_CONFIG
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import StoredSession

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

FIRST, NEXT, THIRD, PERSONS = (
    f"{each}-credential-that-is-opaque" for each in ("1st", "2nd", "3rd", "own")
)
CURRENT, PREVIOUS, PENDING = "AWSCURRENT", "AWSPREVIOUS", "QWEN_PENDING"


def document(credential: str, **more: object) -> str:
    return json.dumps({"refresh_token": credential, **more})


class SecretUnderTest:
    """A new session secret, and what an auditor sees of it."""

    def __init__(self, client: "SecretsManagerClient", value: str | bytes | None) -> None:
        given: Any = {} if value is None else {"SecretString": value}
        if isinstance(value, bytes):
            given = {"SecretBinary": value}
        self.client = client
        self.arn = client.create_secret(Name=f"test/{uuid.uuid4()}", **given)["ARN"]
        self.store = SessionStore(client, self.arn)

    def read(self) -> StoredSession:
        stored = self.store.read()
        assert stored is not None
        return stored

    def labels(self) -> dict[str, set[str]]:
        described = self.client.describe_secret(SecretId=self.arn)["VersionIdsToStages"]
        return {version: set(stages) for version, stages in described.items()}

    def later(self) -> None:
        """Let the clock go on: the emulator dates versions to the second, AWS more finely."""
        time.sleep(1.01)

    def puts(self, credential: str) -> str:
        """Put in a session, as a person does with the AWS CLI."""
        return self.client.put_secret_value(SecretId=self.arn, SecretString=document(credential))[
            "VersionId"
        ]

    def stage(self, credential: str) -> str:
        """Stage a session as a run does that dies before it can promote."""
        return self.client.put_secret_value(
            SecretId=self.arn, SecretString=document(credential), VersionStages=[PENDING]
        )["VersionId"]


@pytest.fixture(name="new_secret")
def _new_secret(secrets: "SecretsManagerClient") -> Any:
    return lambda value=None: SecretUnderTest(secrets, value)


@pytest.fixture(name="behind_the_relay")
def _behind_the_relay(cloud: Cloud) -> SecretUnderTest:
    """Return a secret that is reached through the proxy, where answers can be lost."""
    client: SecretsManagerClient = cloud.session.client(
        "secretsmanager", endpoint_url=cloud.relay.url, config=AWS_CONFIG
    )
    return SecretUnderTest(client, document(FIRST))


# --- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, " \n"])
def test_a_secret_without_a_value_has_no_session(new_secret: Any, value: str | None) -> None:
    secret = new_secret()
    if value is not None:
        secret.client.put_secret_value(SecretId=secret.arn, SecretString=value)
    assert secret.store.read() is None


def test_a_session_is_read_with_its_version_and_when_that_was_written(new_secret: Any) -> None:
    secret = new_secret(document(FIRST))
    stored = secret.read()

    assert stored.session == Session(refresh_token=FIRST)
    assert secret.labels() == {stored.version_id: {CURRENT}}
    assert stored.text == document(FIRST)
    assert abs(stored.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert not stored.by_keeper


@pytest.mark.parametrize("value", ["something else", '{"note": 1}', FIRST.encode()])
def test_what_holds_no_login_is_malformed(new_secret: Any, value: str | bytes) -> None:
    with pytest.raises(SessionMalformedError):
        new_secret(value).store.read()


def test_a_secret_that_does_not_exist_is_a_failure_of_the_store(
    secrets: "SecretsManagerClient",
) -> None:
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        SessionStore(secrets, "no/such/secret").read()
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        SessionStore(secrets, "no/such/secret").put(Session(refresh_token=FIRST))


def test_a_secret_that_is_being_deleted_is_a_failure_of_the_store(new_secret: Any) -> None:
    secret = new_secret(document(FIRST))
    secret.client.delete_secret(SecretId=secret.arn)
    with pytest.raises(StoreError, match="InvalidRequestException"):
        secret.store.read()


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
        SessionStore(client, "qwen/session").read()


# --- keep -----------------------------------------------------------------------------------------


def test_a_stored_credential_is_current_and_the_old_one_previous(
    new_secret: Any,
) -> None:
    secret = new_secret(document(FIRST, note="as it was"))
    over = secret.read()

    kept = secret.store.keep(Session(refresh_token=NEXT, account="a1"), over=over)

    current = secret.read()
    assert json.loads(current.text) == {
        "refresh_token": NEXT,
        "note": "as it was",
        "account": "a1",
    }
    assert (kept.session, kept.version_id, kept.text) == (
        current.session,
        current.version_id,
        current.text,
    )
    assert kept.by_keeper
    assert current.by_keeper
    assert secret.labels() == {
        over.version_id: {PREVIOUS},
        current.version_id: {CURRENT, PENDING},
    }


def test_credentials_are_kept_one_after_another(new_secret: Any) -> None:
    secret = new_secret(document(FIRST))
    for credential in (NEXT, THIRD):
        secret.store.keep(Session(refresh_token=credential), over=secret.read())
        assert secret.read().session.refresh_token == credential
        assert secret.read().by_keeper


def test_a_session_that_a_person_put_in_meanwhile_stays(new_secret: Any) -> None:
    secret = new_secret(document(FIRST))
    over = secret.read()
    persons = secret.puts(PERSONS)

    assert secret.store.keep(Session(refresh_token=NEXT), over=over) is None

    current = secret.read()
    assert current.version_id == persons
    assert not current.by_keeper
    labels = secret.labels()
    assert labels[persons] == {CURRENT}
    assert not any(PENDING in stages for stages in labels.values()), "what lost is not found later"
    assert secret.store.left_behind(over=current) is None


@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_write_whose_answer_was_lost_is_repeated_and_done_once(
    cloud: Cloud,
    behind_the_relay: SecretUnderTest,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Call] = []

    def lose_the_first_answer(call: Call, carry_out: CarryOut) -> Answer | None:
        answer = carry_out()
        if call.operation == f"secretsmanager:{operation}":
            seen.append(call)
            return None if len(seen) == 1 else answer
        return answer

    over = behind_the_relay.read()
    monkeypatch.setattr(cloud.relay, "gate", lose_the_first_answer)

    kept = behind_the_relay.store.keep(Session(refresh_token=NEXT), over=over)

    assert kept is not None
    assert len(seen) == 2
    assert behind_the_relay.labels() == {
        over.version_id: {PREVIOUS},
        kept.version_id: {CURRENT, PENDING},
    }


def test_a_promotion_of_which_no_answer_ever_comes_is_known_by_the_label(
    cloud: Cloud, behind_the_relay: SecretUnderTest
) -> None:
    over = behind_the_relay.read()
    with cloud.relay.interfering("secretsmanager:UpdateSecretVersionStage", Loss.OF_THE_ANSWER):
        kept = behind_the_relay.store.keep(Session(refresh_token=NEXT), over=over)

    assert kept is not None
    assert behind_the_relay.read().version_id == kept.version_id


def test_a_promotion_that_fails_says_so_and_leaves_the_session_to_be_found(
    cloud: Cloud, behind_the_relay: SecretUnderTest
) -> None:
    over = behind_the_relay.read()
    with (
        cloud.relay.interfering(
            "secretsmanager:UpdateSecretVersionStage", AwsRefusal("InternalServiceError", 500)
        ),
        pytest.raises(StoreError, match="could not make the session's new credential current"),
    ):
        behind_the_relay.store.keep(Session(refresh_token=NEXT), over=over)

    assert behind_the_relay.read() == over
    found = behind_the_relay.store.left_behind(over=over)
    assert found is not None
    assert found.session.refresh_token == NEXT


# --- left behind ----------------------------------------------------------------------------------


def test_what_a_run_staged_and_could_not_promote_is_found_and_can_be_kept(new_secret: Any) -> None:
    secret = new_secret(document(FIRST))
    staged = secret.stage(NEXT)
    over = secret.read()

    found = secret.store.left_behind(over=over)
    assert (found.session.refresh_token, found.version_id) == (NEXT, staged)

    secret.later()
    secret.store.keep(found.session, over=over)
    current = secret.read()
    assert current.session.refresh_token == NEXT
    assert secret.store.left_behind(over=current) is None


def test_of_two_that_were_staged_the_later_one_is_found(new_secret: Any) -> None:
    """AWS moves the label, MiniStack leaves it on the earlier one as well."""
    secret = new_secret(document(FIRST))
    secret.stage(NEXT)
    secret.later()
    later = secret.stage(THIRD)

    assert secret.store.left_behind(over=secret.read()).version_id == later


def test_a_session_that_a_person_put_in_later_counts(new_secret: Any) -> None:
    secret = new_secret(document(FIRST))
    secret.stage(NEXT)
    secret.later()
    secret.puts(PERSONS)

    assert secret.store.left_behind(over=secret.read()) is None


def test_the_labels_that_the_emulator_leaves_on_old_versions_bring_none_of_them_back(
    new_secret: Any,
) -> None:
    secret = new_secret(document(FIRST))
    for credential in (NEXT, THIRD, "4th-credential-that-is-opaque"):
        secret.later()
        secret.store.keep(Session(refresh_token=credential), over=secret.read())
        assert secret.store.left_behind(over=secret.read()) is None
    secret.later()
    secret.puts(PERSONS)

    assert secret.store.left_behind(over=secret.read()) is None


# --- put ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(None, {"refresh_token": PERSONS}, id="into a secret without a value"),
        pytest.param("hunter2", {"refresh_token": PERSONS}, id="over a word"),
        pytest.param(
            document(FIRST, note=1, account="before"),
            {"refresh_token": PERSONS, "note": 1},
            id="over an object, whose other keys stay",
        ),
    ],
)
def test_a_person_can_put_a_session_in(
    new_secret: Any, before: str | None, after: dict[str, object]
) -> None:
    secret = new_secret(before)
    put = secret.store.put(Session(refresh_token=PERSONS))

    current = secret.read()
    assert json.loads(current.text) == after
    assert put.version_id == current.version_id
    assert not current.by_keeper


def test_a_put_over_what_the_keeper_wrote_is_a_persons(new_secret: Any) -> None:
    secret = new_secret(document(FIRST))
    secret.store.keep(Session(refresh_token=NEXT), over=secret.read())
    secret.store.put(Session(refresh_token=PERSONS))

    current = secret.read()
    assert not current.by_keeper
    assert secret.store.left_behind(over=current) is None
