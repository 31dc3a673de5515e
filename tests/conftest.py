"""What several kinds of tests share: one embedded AWS a test process, started when first needed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from qwen_token.store import AWS_CONFIG
from tests.localcloud.aws import Cloud, build, local_cloud
from tests.localcloud.qwen import FakeQwen

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


# Powertools reads its own environment when the handler is imported: it has to be there by then.
os.environ["POWERTOOLS_SERVICE_NAME"] = "my-stack"
os.environ["POWERTOOLS_METRICS_NAMESPACE"] = "QwenTokenRefresh"

_TESTS: Final = Path(__file__).parent
# What the tests of each of these share, they use one after the other: a stack, a set of secrets, or
# a scan that takes long.
_ON_ONE_WORKER: Final = frozenset({"e2e", "fleet", "gates", "trust"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep such a folder's tests on one worker, and in their order, where there are several."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        if folder in _ON_ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(folder))


@pytest.fixture(name="qwen")
def _qwen() -> Iterator[FakeQwen]:
    with FakeQwen() as qwen:
        yield qwen


@pytest.fixture(scope="session", name="cloud")
def _cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


@pytest.fixture(scope="session", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session", name="secrets")
def _secrets(cloud: Cloud) -> "SecretsManagerClient":
    """Return a client with the timeouts and retries that the function's has."""
    return cloud.session.client("secretsmanager", endpoint_url=cloud.endpoint, config=AWS_CONFIG)
