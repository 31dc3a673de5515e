"""What several kinds of tests share: one embedded AWS a test process, started when first needed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from qwen_token.store import AWS_CONFIG
from tests.localcloud.aws import Cloud, local_cloud

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


# Powertools reads its own environment when the handler is imported: it has to be there by then.
os.environ["POWERTOOLS_SERVICE_NAME"] = "my-stack"
os.environ["POWERTOOLS_METRICS_NAMESPACE"] = "QwenTokenRefresh"

_TESTS: Final = Path(__file__).parent
# What the tests of one group share, they use one after the other: a stack, or a result that took
# long to get. A group is a folder, or a file of one.
_ON_ONE_WORKER: Final = ("e2e", "trust", "gates/*")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep such a group's tests on one worker, and in their order, where there are several."""
    for item in items:
        file = item.path.relative_to(_TESTS)
        for group in (file.parts[0], f"{file.parts[0]}/*"):
            if group in _ON_ONE_WORKER:
                name = group.replace("*", file.stem)
                item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session", name="cloud")
def _cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


@pytest.fixture(scope="session", name="secrets")
def _secrets(cloud: Cloud) -> "SecretsManagerClient":
    """Return a client with the timeouts and retries that the function's has."""
    return cloud.session.client("secretsmanager", endpoint_url=cloud.endpoint, config=AWS_CONFIG)
