"""The store against answers of AWS that the emulator does not give."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from qwen_token import StoreError, TokenMalformedError, TokenMissingError
from qwen_token.errors import TokenDocumentError
from qwen_token.ports import STORE_CALL_LIMIT
from qwen_token.secret_store import AWS_CONFIG, SecretStore
from qwen_token.stored_token import StoredToken
from tests.minting import token
from tests.wire import Script, raw, reply, wire

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"
# boto3 lets no shorter id out.
V0, V1, V2 = "0" * 32, "1" * 32, "2" * 32
JSON = "Content-Type: application/x-amz-json-1.1"
NO_VALUE = reply(
    "400 Bad Request",
    json.dumps(
        {
            "__type": "ResourceNotFoundException",
            "Message": "Secrets Manager can't find the specified secret value for staging label: "
            "AWSCURRENT",
        }
    ).encode(),
    JSON,
)
BROKEN = reply("500 Internal Server Error", b'{"__type": "InternalServiceError"}', JSON)
FIRST = token(left=timedelta(days=7), now=datetime.now(UTC))
HELD = StoredToken(FIRST, V0, FIRST.raw)


def done(**answer: object) -> Script:
    return reply("200 OK", json.dumps({"ARN": ARN, "Name": "qwen/token", **answer}).encode(), JSON)


def refused(code: str, status: int = 400) -> Script:
    return reply(f"{status} No", json.dumps({"__type": code, "Message": "…"}).encode(), JSON)


def described(*versions: str) -> Script:
    """Describe a secret; AWS leaves out the versions if there are none."""
    if not versions:
        return done()
    return done(VersionIdsToStages={version: ["AWSPREVIOUS"] for version in versions})


def store(endpoint: str) -> SecretStore:
    client: SecretsManagerClient = boto3.client(
        "secretsmanager",
        endpoint_url=endpoint,
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=AWS_CONFIG,
    )
    return SecretStore(client, ARN)


def test_a_new_secret_has_no_version_and_reads_as_none() -> None:
    with wire(NO_VALUE, described()) as aws:
        assert store(aws.base_url).read() is None


@pytest.mark.parametrize("value", [{}, {"SecretString": ""}], ids=["no value", "an empty value"])
def test_a_secret_with_a_single_empty_version_is_as_good_as_new(value: dict[str, str]) -> None:
    with wire(done(VersionId=V1, **value), described(V1)) as aws:
        assert store(aws.base_url).read() is None


def test_a_secret_whose_value_went_away_is_missing_not_awaited() -> None:
    with wire(NO_VALUE, described(V1, V2)) as aws, pytest.raises(TokenMissingError) as caught:
        store(aws.base_url).read()
    assert str(caught.value) == "the secret has no current value"


def test_a_binary_value_is_malformed_and_a_person_may_replace_it() -> None:
    binary = done(VersionId=V1, SecretBinary=base64.b64encode(FIRST.raw.encode()).decode())
    with wire(binary) as aws, pytest.raises(TokenMalformedError) as caught:
        store(aws.base_url).read()
    assert str(caught.value) == "the secret's value is binary: store it as a string"

    with wire(binary) as aws, pytest.raises(TokenDocumentError, match="binary"):
        store(aws.base_url).put(FIRST)
    with wire(done(VersionId=V2)) as aws:
        assert store(aws.base_url).put(FIRST, replace=True) == StoredToken(FIRST, V2, FIRST.raw)


def test_a_binary_or_unlisted_version_is_not_an_alternative() -> None:
    binary = done(VersionId=V1, SecretBinary=base64.b64encode(FIRST.raw.encode()).decode())
    with wire(described(V0, V1), binary) as aws:
        assert store(aws.base_url).alternatives(to=HELD) == []
    # Secrets Manager is consistent in the end only.
    with wire(described()) as aws:
        assert store(aws.base_url).alternatives(to=HELD) == []


def test_a_version_without_a_value_holds_no_token() -> None:
    with (
        wire(done(VersionId=V1), described(V0, V1)) as aws,
        pytest.raises(TokenMissingError, match="the stored value is empty"),
    ):
        store(aws.base_url).read()


def test_a_first_token_is_put_into_a_secret_without_a_version() -> None:
    with wire(NO_VALUE, done(VersionId=V1)) as aws:
        assert store(aws.base_url).put(FIRST).version_id == V1
    assert b"secretsmanager.PutSecretValue" in aws.requests[1]


def test_the_keepers_first_token_is_current_as_soon_as_it_is_staged() -> None:
    with wire(NO_VALUE, done(VersionId=V1, VersionStages=["QWEN_PENDING", "AWSCURRENT"])) as aws:
        assert store(aws.base_url).put_first(FIRST) == StoredToken(FIRST, V1, FIRST.raw)
    assert b'["QWEN_PENDING"]' in aws.requests[1]


def test_where_staging_made_it_not_current_the_label_is_moved_from_no_version() -> None:
    with wire(NO_VALUE, done(VersionId=V1, VersionStages=["QWEN_PENDING"]), done()) as aws:
        assert store(aws.base_url).put_first(FIRST).version_id == V1
    assert b"secretsmanager.UpdateSecretVersionStage" in aws.requests[2]
    assert b"RemoveFromVersionId" not in aws.requests[2]


def test_a_person_who_came_before_the_first_token_became_current_wins() -> None:
    staged = done(VersionId=V1, VersionStages=["QWEN_PENDING"])
    persons = done(VersionId=V2, SecretString=FIRST.raw, VersionStages=["AWSCURRENT"])
    with wire(NO_VALUE, staged, refused("InvalidParameterException"), persons) as aws:
        assert store(aws.base_url).put_first(FIRST).version_id == V2


def test_a_refused_first_token_is_a_failure() -> None:
    staged = done(VersionId=V1, VersionStages=["QWEN_PENDING"])
    pending = done(VersionIdsToStages={V1: ["QWEN_PENDING"]})
    with (
        wire(NO_VALUE, staged, refused("AccessDeniedException"), NO_VALUE, pending) as aws,
        pytest.raises(StoreError) as caught,
    ):
        store(aws.base_url).put_first(FIRST)
    assert str(caught.value) == (
        "Secrets Manager could not make the first token current: AccessDeniedException"
    )


@pytest.mark.parametrize("empty", [{}, {V0: ["AWSCURRENT"]}], ids=["no version", "an empty one"])
def test_a_token_that_was_only_staged_was_never_the_secrets_value(
    empty: dict[str, list[str]],
) -> None:
    stages = done(VersionIdsToStages={**empty, V1: ["QWEN_PENDING"]})
    current = done(VersionId=V0) if empty else NO_VALUE
    with wire(current, stages) as aws:
        assert store(aws.base_url).read() is None


@pytest.mark.parametrize(
    ("answer", "written_at"),
    [
        pytest.param(
            {"CreatedDate": 1764000000.5, "VersionStages": ["AWSCURRENT", "QWEN_PENDING"]},
            datetime.fromtimestamp(1764000000.5, UTC),
            id="staged and promoted",
        ),
        pytest.param(
            {"CreatedDate": 1764000000.5, "VersionStages": ["AWSCURRENT"]}, None, id="put in"
        ),
        pytest.param({"VersionStages": ["AWSCURRENT", "QWEN_PENDING"]}, None, id="no date"),
        pytest.param({"CreatedDate": 1764000000.5}, None, id="no labels"),
    ],
)
def test_only_a_version_with_the_keepers_label_says_when_the_keeper_wrote_it(
    answer: dict[str, object], written_at: datetime | None
) -> None:
    with wire(done(VersionId=V1, SecretString=FIRST.raw, **answer)) as aws:
        held = store(aws.base_url).read()
    assert held is not None
    assert held.written_at == written_at


@pytest.mark.parametrize(
    ("step", "said"),
    [
        pytest.param(lambda aws: aws.read(), f"read the secret {ARN}", id="read"),
        pytest.param(lambda aws: aws.stage(FIRST, over=HELD), "stage the new token", id="stage"),
        pytest.param(lambda aws: aws.put(FIRST, replace=True), "put the token in", id="put"),
        pytest.param(
            lambda aws: aws.put_first(FIRST), "store the first token", id="the first token"
        ),
        pytest.param(
            lambda aws: aws.read_version(V1), "read a version of the secret", id="a version"
        ),
        pytest.param(
            lambda aws: aws.alternatives(to=HELD), "look for other versions", id="alternatives"
        ),
    ],
)
def test_a_refusal_is_named_with_the_step_and_awss_code(
    step: Callable[[SecretStore], object], said: str
) -> None:
    with wire(refused("AccessDeniedException")) as aws, pytest.raises(StoreError) as caught:
        step(store(aws.base_url))
    assert str(caught.value) == f"Secrets Manager could not {said}: AccessDeniedException"


def test_a_refused_promotion_is_named_so_while_the_old_token_is_current() -> None:
    as_before = done(VersionId=V0, SecretString=FIRST.raw)
    with (
        wire(refused("AccessDeniedException"), as_before) as aws,
        pytest.raises(StoreError) as caught,
    ):
        store(aws.base_url).promote(HELD, over=HELD)
    assert str(caught.value) == (
        "Secrets Manager could not promote the new token: AccessDeniedException"
    )


@pytest.mark.parametrize(
    ("answer", "may_pass"),
    [
        pytest.param(answer, may_pass, id=name)
        for name, answer, may_pass in [
            ("a server's failure", refused("InternalServiceError", 500), True),
            ("a failure with a code of its own", refused("SomethingElse", 503), True),
            ("throttled", refused("ThrottlingException"), True),
            ("throttled, in another word", refused("Throttling"), True),
            ("too many requests", refused("TooManyRequestsException"), True),
            ("no answer", raw(b""), True),
            ("no permission", refused("AccessDeniedException"), False),
            ("a status below a server's failure", refused("SomethingElse", 499), False),
        ]
    ],
)
def test_what_may_pass_by_itself_is_told_from_what_stays(answer: Script, may_pass: bool) -> None:  # noqa: FBT001 - a table's column
    with wire(answer) as aws, pytest.raises(StoreError) as caught:
        store(aws.base_url).read()
    assert caught.value.may_pass is may_pass


def test_a_failure_of_aws_is_tried_twice_and_no_more() -> None:
    with wire(BROKEN) as aws, pytest.raises(StoreError, match="InternalServiceError"):
        store(aws.base_url).read()
    assert len(aws.requests) == 2


def test_what_one_call_may_take_is_what_the_keeper_reckons_with() -> None:
    config: Any = AWS_CONFIG  # its options are not in botocore's types
    attempts = config.retries["total_max_attempts"]
    each = config.connect_timeout + config.read_timeout
    # botocore's standard mode waits at most 1 s before the second attempt.
    assert attempts * each + (attempts - 1) * 1 <= STORE_CALL_LIMIT.total_seconds()


def test_an_error_of_a_client_of_the_readers_own_says_as_much_as_it_does() -> None:
    # A service may hand its own client in, and its tests one that botocore has not made.
    class Client:
        exceptions = boto3.client("secretsmanager", region_name="eu-west-1").exceptions

        def get_secret_value(self, **_: str) -> None:
            raise ClientError({}, "GetSecretValue")

    client: Any = Client()
    with pytest.raises(StoreError, match=r"could not read the secret \S+: unknown$") as caught:
        SecretStore(client, ARN).read()
    assert caught.value.may_pass is False
