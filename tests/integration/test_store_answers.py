"""The store against answers of AWS that the emulator does not give."""

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from qwen_token import StoreError, TokenMissingError
from qwen_token.keeper import STORE_CALL_LIMIT
from qwen_token.store import AWS_CONFIG, SecretStore
from tests.minting import token
from tests.wire import Script, reply, wire

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"
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


def described(*versions: str) -> Script:
    """Describe a secret; AWS leaves the versions out where there are none."""
    document: dict[str, object] = {"ARN": ARN, "Name": "qwen/token"}
    if versions:
        document["VersionIdsToStages"] = {version: ["AWSPREVIOUS"] for version in versions}
    return reply("200 OK", json.dumps(document).encode(), JSON)


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


def test_a_new_secret_has_no_version_at_all_and_reads_as_none() -> None:
    with wire(NO_VALUE, described()) as aws:
        assert store(aws.base_url).read() is None


def test_a_secret_whose_value_went_away_is_missing_not_awaited() -> None:
    with wire(NO_VALUE, described("v1", "v2")) as aws, pytest.raises(TokenMissingError):
        store(aws.base_url).read()


def test_a_first_token_is_put_into_a_secret_without_a_version() -> None:
    put = reply("200 OK", json.dumps({"ARN": ARN, "VersionId": "v1"}).encode(), JSON)
    first = token(left=timedelta(days=7), now=datetime.now(UTC))
    with wire(NO_VALUE, put) as aws:
        assert store(aws.base_url).put(first).version_id == "v1"
    assert b"secretsmanager.PutSecretValue" in aws.requests[1]


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
