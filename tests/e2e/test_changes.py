"""The change events, as a rule on the account's bus gets them."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from localcloud import qwen as scenarios
from localcloud.waiting import wait_until
from tests.e2e.conftest import ARRIVAL, Deployed

DAY = timedelta(days=1)
RULE = "test-token-changes"


@pytest.fixture(name="next_event")
def _next_event(deployed: Deployed) -> Iterator[Callable[[], dict[str, Any]]]:
    """Return what takes the next event that a rule on this project's source lets through."""
    cloud = deployed.stack.cloud
    url = cloud.sqs.create_queue(QueueName=RULE)["QueueUrl"]
    attributes = cloud.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    pattern = {"source": ["qwen-token-refresh"], "resources": [deployed.stack.secret_arn]}
    cloud.events.put_rule(Name=RULE, EventPattern=json.dumps(pattern))
    cloud.events.put_targets(
        Rule=RULE, Targets=[{"Id": "queue", "Arn": attributes["Attributes"]["QueueArn"]}]
    )

    def take() -> dict[str, Any] | None:
        messages = cloud.sqs.receive_message(QueueUrl=url).get("Messages")
        if not messages:
            return None
        cloud.sqs.delete_message(QueueUrl=url, ReceiptHandle=messages[0]["ReceiptHandle"])
        event: dict[str, Any] = json.loads(messages[0]["Body"])
        return event

    yield lambda: wait_until(
        take,
        within=ARRIVAL,
        expected="a change event",
        seen=lambda: "\n".join(deployed.stack.log()[-10:]),
    )

    cloud.events.remove_targets(Rule=RULE, Ids=["queue"])
    cloud.events.delete_rule(Name=RULE)
    cloud.sqs.delete_queue(QueueUrl=url)


def test_a_refresh_and_a_failure_are_announced_without_the_token(
    deployed: Deployed, next_event: Callable[[], dict[str, Any]]
) -> None:
    held = deployed.hold(2 * DAY)
    result = deployed.stack.invoke().result

    refreshed = next_event()
    assert refreshed["detail-type"] == "Token Refreshed"
    assert refreshed["detail"] == result
    assert refreshed["detail"]["grant"] == "exchange"

    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)
    deployed.stack.invoke({"force": True})

    failed = next_event()
    assert failed["detail-type"] == "Token Refresh Failed"
    assert failed["detail"]["failures"][0]["reason"] == "token_rejected"

    shown = json.dumps([refreshed, failed])
    for raw in (held, deployed.stack.current().text):
        assert not any(piece in shown for piece in raw.split("."))
