"""A stack with the fleet, deployed once by the real ``sam`` on the embedded AWS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.localcloud.aws import Cloud
from tests.localcloud.fleet import Fleet
from tests.localcloud.qwen import MINTS_NEWER_CLAIMS, FakeQwen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those tests be the last that look back at what all others made the functions do."""
    items.sort(key=lambda item: "fleet/test_permissions.py" in item.path.as_posix())


@pytest.fixture(scope="session", name="session_fleet")
def _session_fleet(cloud: Cloud, built: Path) -> Iterator[Fleet]:
    with FakeQwen() as qwen:
        stack = cloud.deploy(
            built,
            name="pool",
            parameters={"Fleet": "true", "ApiBaseUrl": qwen.base_url, "SecretName": "pool/own"},
        )
        yield Fleet(stack, qwen)


@pytest.fixture(name="fleet")
def _fleet(session_fleet: Fleet) -> Iterator[Fleet]:
    """Return the fleet without members, and with nothing said or queued."""
    session_fleet.qwen.answer_with(MINTS_NEWER_CLAIMS)
    session_fleet.stack.notifications()
    yield session_fleet
    session_fleet.cloud.sqs.purge_queue(QueueUrl=session_fleet.stack.outputs["FleetQueueUrl"])
    client = session_fleet.cloud.secretsmanager
    pages = client.get_paginator("list_secrets").paginate(IncludePlannedDeletion=True)
    for secret in [each for page in pages for each in page["SecretList"]]:
        if secret["Name"] != "pool/own":
            client.delete_secret(SecretId=secret["ARN"], ForceDeleteWithoutRecovery=True)
