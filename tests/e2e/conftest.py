"""The deployed stacks, one of them with a fleet: built and deployed once, by the real ``sam``."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from localcloud.aws import Cloud
from localcloud.fleet import Fleet
from localcloud.qwen import MINTS_NEWER_CLAIMS, QwenStandIn
from localcloud.stack import Notification, Run, Stack

ARRIVAL = timedelta(seconds=10)


@dataclass(frozen=True)
class Deployed:
    """The stack, and the API that its function talks to."""

    stack: Stack
    qwen: QwenStandIn

    def hold(self, lifetime: timedelta) -> str:
        """Put a token that lives so long into the secret, the only live one, and return it."""
        # What other tests left in the secret would be a way to recover.
        self.qwen.mint()
        self.qwen.revoke()
        raw = self.qwen.mint(lifetime=lifetime)
        self.stack.put(raw)
        return raw

    def alert(self) -> Notification:
        """Return the alert of the function that arrived."""
        return self.stack.wait_for_notification(
            lambda notification: not notification.is_alarm,
            within=ARRIVAL,
            expected="the function's alert",
        )

    def calls(self, event: object = None) -> tuple[Run, list[str], int]:
        """Run the function; return what came of it, its calls to AWS, and how many to Qwen."""
        aws, qwen = self.stack.cloud.relay.calls, self.qwen.requests
        seen_by_aws, seen_by_qwen = len(aws), len(qwen)
        run = self.stack.invoke(event)
        return run, aws[seen_by_aws:], len(qwen) - seen_by_qwen

    def silence(self) -> None:
        """Forget what was said so far, and let the API behave again."""
        self.qwen.answer_with(MINTS_NEWER_CLAIMS)
        self.stack.notifications()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those tests be the last that look back at what all others made the functions do."""
    items.sort(key=lambda item: item.path.name.endswith("permissions.py"))


@pytest.fixture(scope="session", name="session_stack")
def _session_stack(cloud: Cloud, built: Path) -> Iterator[Deployed]:
    with QwenStandIn() as qwen:
        yield Deployed(cloud.deploy(built, parameters={"ApiBaseUrl": qwen.base_url}), qwen)


@pytest.fixture(name="deployed")
def _deployed(session_stack: Deployed) -> Deployed:
    session_stack.silence()
    return session_stack


@pytest.fixture(scope="session", name="session_fleet")
def _session_fleet(cloud: Cloud, built: Path) -> Iterator[Fleet]:
    with QwenStandIn() as qwen:
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
