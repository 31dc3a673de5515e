"""What several kinds of tests share: one embedded AWS a test process, started when first needed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from qwen_token.store import AWS_CONFIG
from tests.localcloud.aws import Cloud, local_cloud

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


@pytest.fixture(scope="session", name="cloud")
def _cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


@pytest.fixture(scope="session", name="secrets")
def _secrets(cloud: Cloud) -> "SecretsManagerClient":
    """Return a client with the timeouts and retries that the function's has."""
    return cloud.session.client("secretsmanager", endpoint_url=cloud.endpoint, config=AWS_CONFIG)
