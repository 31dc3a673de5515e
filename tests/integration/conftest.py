"""The state table on the embedded AWS, as the template declares it."""

import uuid
from typing import TYPE_CHECKING

import pytest

from localcloud.aws import Cloud
from qwen_token.secret_store import AWS_CONFIG

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


@pytest.fixture(scope="session", name="dynamodb")
def _dynamodb(cloud: Cloud) -> "DynamoDBClient":
    """Return a client with the timeouts and retries that the function's has."""
    return cloud.session.client("dynamodb", endpoint_url=cloud.endpoint, config=AWS_CONFIG)


@pytest.fixture(scope="session", name="state_table")
def _state_table(dynamodb: "DynamoDBClient") -> str:
    """Return the name of a new table. Each secret has an item of its own in it."""
    name = f"state-{uuid.uuid4()}"
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "secret_id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "secret_id", "KeyType": "HASH"}],
    )
    return name
