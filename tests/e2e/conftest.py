"""The deployed stack: built and deployed once, by the real ``sam``, on the embedded AWS."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.localcloud.aws import Cloud
from tests.localcloud.qwen import MINTS_NEWER_CLAIMS, FakeQwen
from tests.localcloud.stack import Notification, Run, Stack

ARRIVAL = timedelta(seconds=10)


@dataclass(frozen=True)
class Deployed:
    """The stack, and the API that its function talks to."""

    stack: Stack
    qwen: FakeQwen

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
    """Let those tests be the last that look back at what all others made the function do."""
    items.sort(key=lambda item: item.path.name == "test_permissions.py")


@pytest.fixture(scope="session", name="session_stack")
def _session_stack(cloud: Cloud, built: Path) -> Iterator[Deployed]:
    with FakeQwen() as qwen:
        yield Deployed(cloud.deploy(built, parameters={"ApiBaseUrl": qwen.base_url}), qwen)


@pytest.fixture(name="deployed")
def _deployed(session_stack: Deployed) -> Deployed:
    session_stack.silence()
    return session_stack
