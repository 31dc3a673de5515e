"""The session secret: what is read, what is kept, and whose word is the newer one."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from qwen_token import Session, SessionMalformedError, StoreError
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import StoredSession
from tests.fake_secrets_manager import FakeSecretsManager, SecretsManagerCall
from tests.minting import NOW, all_said, pieces

DAY = timedelta(days=1)
NAME = "qwen/session"
FIRST, NEXT, PERSONS = (f"{each}-credential-that-is-opaque" for each in ("1st", "2nd", "own"))
EXPIRES_AT = datetime(2026, 12, 24, 12, 0, tzinfo=UTC)


def session(credential: str = NEXT, **more: Any) -> Session:
    return Session(refresh_token=credential, **more)


def document(credential: str, **more: object) -> str:
    return json.dumps({"refresh_token": credential, **more})


class SecretUnderTest:
    """A session secret in memory; each of its versions is a minute younger than the one before."""

    def __init__(self, value: str | bytes | None = None, **more: Any) -> None:
        self.minutes = 0
        client: Any = FakeSecretsManager(clock=self._now)
        self.client = client
        self.arn = self.client.add(NAME, value, **more)
        self.store = SessionStore(self.client, self.arn)

    def _now(self) -> datetime:
        self.minutes += 1
        return NOW + timedelta(minutes=self.minutes)

    @property
    def value(self) -> Any:
        return self.client.secret(self.arn).value

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.client.secret(self.arn).labels
        return labels

    def read(self) -> StoredSession:
        stored = self.store.read()
        assert stored is not None
        return stored

    def at(self, operation: str, happens: Callable[[], None]) -> None:
        """Have something happen, once, before a call is carried out."""
        left = [happens]

        def before(call: SecretsManagerCall) -> None:
            if call.operation == operation and left:
                left.pop()()

        self.client.before = before

    def after_carrying_out(self, operation: str, error: Exception) -> None:
        """Carry a call out, once, but let its answer be lost."""
        real, left = self.client.update_secret_version_stage, [error]
        assert operation == "UpdateSecretVersionStage"

        def lossy(**request: Any) -> Any:
            answer = real(**request)
            if left:
                raise left.pop()
            return answer

        self.client.update_secret_version_stage = lossy


def fail(error: Exception) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def refusal(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "…"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "UpdateSecretVersionStage",
    )


# --- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_secret_without_a_value_has_no_session(value: str | None) -> None:
    assert SecretUnderTest(value).store.read() is None


def test_a_session_is_read_with_its_version_and_origin() -> None:
    text = document(FIRST, expires_at=int(EXPIRES_AT.timestamp()), account="a1", note=7)
    secret = SecretUnderTest(text)

    assert secret.read() == StoredSession(
        Session(refresh_token=FIRST, expires_at=EXPIRES_AT, account="a1"),
        "v1",
        text,
        created_at=NOW + timedelta(minutes=1),
        by_keeper=False,
    )


@pytest.mark.parametrize(
    "value",
    [
        FIRST,
        f"refresh_token={FIRST}; lang=en",
        json.dumps([{"name": "refresh_token", "value": FIRST}]),
    ],
    ids=["the credential alone", "a Cookie header", "a list of cookies"],
)
def test_the_forms_that_people_paste_are_read(value: str) -> None:
    assert SecretUnderTest(value).read().session.refresh_token == FIRST


@pytest.mark.parametrize(
    "value", ["something else", "{", '{"note": 1}', '{"refresh_token": 7}', '{"email": "a@b.c"}']
)
def test_what_holds_no_login_is_malformed(value: str) -> None:
    with pytest.raises(SessionMalformedError):
        SecretUnderTest(value).store.read()


def test_a_binary_value_is_malformed() -> None:
    with pytest.raises(SessionMalformedError, match="binary"):
        SecretUnderTest(FIRST.encode()).store.read()


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"deleted_at": NOW}, "InvalidRequestException"),
        ({"refuses": "AccessDeniedException"}, "AccessDeniedException"),
    ],
)
def test_what_secrets_manager_refuses_is_a_failure_of_the_store(
    more: dict[str, Any], code: str
) -> None:
    with pytest.raises(StoreError, match=f"could not read the session secret .*: {code}"):
        SecretUnderTest(document(FIRST), **more).store.read()


def test_a_secret_that_is_absent_is_a_failure_of_the_store() -> None:
    client: Any = FakeSecretsManager()
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        SessionStore(client, "no/such/secret").read()


# --- keep -----------------------------------------------------------------------------------------


def test_a_credential_that_is_kept_is_current_at_once_and_other_keys_stay() -> None:
    secret = SecretUnderTest(document(FIRST, note="as it was", email="a@b.c", password="pass word"))
    over = secret.read()
    changed = session(
        NEXT, expires_at=EXPIRES_AT, email="a@b.c", password="pass word", account="a1"
    )

    kept = secret.store.keep(changed, over=over)

    assert json.loads(secret.value) == {
        "refresh_token": NEXT,
        "note": "as it was",
        "email": "a@b.c",
        "password": "pass word",
        "expires_at": int(EXPIRES_AT.timestamp()),
        "account": "a1",
    }
    assert kept is not None
    read = secret.read()
    assert (kept.session, kept.version_id, kept.text) == (changed, read.version_id, read.text)
    assert kept.by_keeper
    assert read.by_keeper
    assert secret.labels == {"AWSCURRENT": "v2", "AWSPREVIOUS": "v1", "QWEN_PENDING": "v2"}


def test_it_is_staged_before_it_is_made_current() -> None:
    secret = SecretUnderTest(document(FIRST))
    over = secret.read()
    del secret.client.recorded[:]

    secret.store.keep(session(), over=over)

    staged, promoted = secret.client.recorded
    assert (staged.operation, staged.request["VersionStages"]) == (
        "PutSecretValue",
        ["QWEN_PENDING"],
    )
    assert promoted.operation == "UpdateSecretVersionStage"
    assert promoted.request["RemoveFromVersionId"] == over.version_id


@pytest.mark.parametrize("moment", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_session_that_a_person_puts_in_meanwhile_stays(moment: str) -> None:
    secret = SecretUnderTest(document(FIRST))
    over = secret.read()
    secret.at(moment, lambda: secret.client.hold(secret.arn, document(PERSONS)))

    assert secret.store.keep(session(), over=over) is None

    current = secret.read()
    assert current.session.refresh_token == PERSONS
    assert not current.by_keeper
    assert secret.store.left_behind(over=current) is None, "what lost is not to be found later"


def test_a_label_that_cannot_be_removed_hides_nothing() -> None:
    secret = SecretUnderTest(document(FIRST))
    over = secret.read()
    secret.client.hold(secret.arn, document(PERSONS))
    real, calls = secret.client.update_secret_version_stage, []

    def second_fails(**request: Any) -> Any:
        calls.append(request["VersionStage"])
        if len(calls) > 1:
            raise refusal("InternalServiceError", 500)
        return real(**request)

    secret.client.update_secret_version_stage = second_fails

    assert secret.store.keep(session(), over=over) is None
    assert calls == ["AWSCURRENT", "QWEN_PENDING"]
    assert secret.read().session.refresh_token == PERSONS


@pytest.mark.parametrize(
    "error", [ReadTimeoutError(endpoint_url="x"), refusal("InternalServiceError", 500)]
)
def test_a_promotion_whose_answer_was_lost_is_done(error: Exception) -> None:
    secret = SecretUnderTest(document(FIRST))
    secret.after_carrying_out("UpdateSecretVersionStage", error)

    kept = secret.store.keep(session(), over=secret.read())

    assert kept is not None
    assert secret.read().session.refresh_token == NEXT
    assert kept.version_id == secret.labels["AWSCURRENT"]


@pytest.mark.parametrize(
    ("operation", "step"),
    [
        ("PutSecretValue", "stage the session's new credential"),
        ("UpdateSecretVersionStage", "make the session's new credential current"),
    ],
)
@pytest.mark.parametrize(
    ("code", "status", "may_pass"),
    [("AccessDeniedException", 400, False), ("InternalServiceError", 500, True)],
)
def test_a_write_that_fails_names_its_step_and_whether_it_may_pass(
    operation: str, step: str, code: str, status: int, *, may_pass: bool
) -> None:
    secret = SecretUnderTest(document(FIRST))
    over = secret.read()
    secret.at(operation, fail(refusal(code, status)))

    with pytest.raises(StoreError, match=f"could not {step}: {code}") as caught:
        secret.store.keep(session(), over=over)

    assert caught.value.may_pass is may_pass
    assert secret.read() == over
    assert not any(piece in all_said(caught.value) for piece in pieces(FIRST) | pieces(NEXT))


def test_what_is_kept_twice_is_current_once() -> None:
    secret = SecretUnderTest(document(FIRST))
    over = secret.read()
    secret.at("UpdateSecretVersionStage", fail(refusal("InternalServiceError", 500)))
    with pytest.raises(StoreError):
        secret.store.keep(session(), over=over)

    kept = secret.store.keep(session(), over=over)

    assert kept is not None
    assert secret.labels == {
        "AWSCURRENT": kept.version_id,
        "AWSPREVIOUS": over.version_id,
        "QWEN_PENDING": kept.version_id,
    }


# --- left behind ----------------------------------------------------------------------------------


def stage(secret: SecretUnderTest, credential: str = NEXT) -> str:
    """Stage as a run does that dies before it can promote."""
    version: str = secret.client.put_secret_value(
        SecretId=secret.arn, SecretString=document(credential), VersionStages=["QWEN_PENDING"]
    )["VersionId"]
    return version


def test_what_a_run_staged_and_could_not_promote_is_found() -> None:
    secret = SecretUnderTest(document(FIRST))
    version = stage(secret)

    found = secret.store.left_behind(over=secret.read())

    assert found is not None
    assert (found.session.refresh_token, found.version_id) == (NEXT, version)
    assert found.by_keeper


def test_what_was_found_can_be_kept() -> None:
    secret = SecretUnderTest(document(FIRST))
    stage(secret)
    over = secret.read()
    found = secret.store.left_behind(over=over)
    assert found is not None

    secret.store.keep(found.session, over=over)

    current = secret.read()
    assert current.session.refresh_token == NEXT
    assert secret.store.left_behind(over=current) is None


def test_a_session_that_a_person_put_in_later_counts() -> None:
    secret = SecretUnderTest(document(FIRST))
    stage(secret)
    secret.client.hold(secret.arn, document(PERSONS))

    assert secret.store.left_behind(over=secret.read()) is None


def test_where_nothing_is_staged_nothing_is_found() -> None:
    secret = SecretUnderTest(document(FIRST))
    assert secret.store.left_behind(over=secret.read()) is None

    secret.client.hold(secret.arn, document(PERSONS))
    assert secret.store.left_behind(over=secret.read()) is None, "the previous one is not staged"


def test_the_current_and_the_previous_version_are_not_left_behind() -> None:
    secret = SecretUnderTest(document(FIRST))
    kept = secret.store.keep(session(), over=secret.read())
    assert kept is not None
    assert secret.store.left_behind(over=secret.read()) is None

    secret.client.hold(secret.arn, document(PERSONS))
    # It keeps its label, and was current until now.
    assert secret.labels["QWEN_PENDING"] == secret.labels["AWSPREVIOUS"] == kept.version_id
    assert secret.store.left_behind(over=secret.read()) is None


@pytest.mark.parametrize("value", ["something else", " ", '{"note": 1}'])
def test_what_is_staged_and_no_session_is_passed_over(value: str) -> None:
    secret = SecretUnderTest(document(FIRST))
    secret.client.put_secret_value(
        SecretId=secret.arn, SecretString=value, VersionStages=["QWEN_PENDING"]
    )
    assert secret.store.left_behind(over=secret.read()) is None


def test_looking_for_it_may_fail() -> None:
    secret = SecretUnderTest(document(FIRST))
    over = secret.read()
    secret.at("DescribeSecret", fail(refusal("AccessDeniedException")))
    with pytest.raises(StoreError, match="could not look for a staged session: AccessDenied"):
        secret.store.left_behind(over=over)


# --- put ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(None, {"refresh_token": PERSONS}, id="into a secret without a value"),
        pytest.param("", {"refresh_token": PERSONS}, id="over nothing"),
        pytest.param("hunter2", {"refresh_token": PERSONS}, id="over garbage"),
        pytest.param(FIRST, {"refresh_token": PERSONS}, id="over a bare credential"),
        pytest.param(
            document(FIRST, note=1, account="before", expires_at=1799999999),
            {"refresh_token": PERSONS, "note": 1},
            id="over an object, whose other keys stay, and whose account goes",
        ),
    ],
)
def test_a_person_can_put_a_session_in(before: str | None, after: dict[str, object]) -> None:
    secret = SecretUnderTest(before)

    put = secret.store.put(session(PERSONS))

    assert json.loads(secret.value) == after
    read = secret.read()
    assert (put.session, put.version_id, put.text) == (read.session, read.version_id, read.text)
    assert not put.by_keeper
    assert not read.by_keeper


def test_a_put_over_what_the_keeper_wrote_is_a_persons() -> None:
    secret = SecretUnderTest(document(FIRST))
    secret.store.keep(session(), over=secret.read())

    secret.store.put(session(PERSONS))

    assert not secret.read().by_keeper


def test_a_put_into_a_secret_that_is_absent_is_a_failure_of_the_store() -> None:
    client: Any = FakeSecretsManager()
    with pytest.raises(StoreError, match="could not put the session in: ResourceNotFound"):
        SessionStore(client, "no/such/secret").put(session())
    secret = SecretUnderTest(document(FIRST), deleted_at=NOW)
    with pytest.raises(StoreError, match="InvalidRequestException"):
        secret.store.put(session())


def test_nothing_of_a_login_is_shown() -> None:
    secret = SecretUnderTest(document(FIRST, email="owner@example.com", password="a long password"))
    shown = repr(secret.read()) + repr(secret.store)
    for each in (FIRST, "owner@example.com", "a long password"):
        assert not any(piece in shown for piece in pieces(each))
