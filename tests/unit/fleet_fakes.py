"""A region's secrets and queue in memory, for the tests of the fleet's functions."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from keeper_runtime.clients import Clients
from qwen_token import QwenTokenError
from tests.fake_secrets_manager import FakeSecretsManager
from tests.fakes import FakeBus, FakeQwen, FakeTopic, Recorder
from tests.minting import NOW

QUEUE: Final = "https://sqs.eu-west-1.amazonaws.com/111122223333/jobs"
TAG: Final = "qwen-token"


@dataclass
class FakeQueue:
    """SQS, which takes every message but those of ``refuses``, as often as that says."""

    refuses: dict[str, int] = field(default_factory=dict)
    sender_at_fault: bool = False
    fails_with: Exception | None = None
    sent: list[tuple[dict[str, Any], int]] = field(default_factory=list)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 - boto3's
        assert QueueUrl == QUEUE
        assert 1 <= len(Entries) <= 10
        if self.fails_with is not None:
            raise self.fails_with
        failed = []
        for entry in Entries:
            body = json.loads(entry["MessageBody"])
            if left := self.refuses.get(body["secret_id"], 0):
                self.refuses[body["secret_id"]] = left - 1
                failed.append(
                    {"Id": entry["Id"], "Code": "Refused", "SenderFault": self.sender_at_fault}
                )
            else:
                self.sent.append((body, entry["DelaySeconds"]))
        return {"Failed": failed} if failed else {}

    @property
    def secret_ids(self) -> list[str]:
        """The secrets that were queued, in their order."""
        return [body["secret_id"] for body, _ in self.sent]


@dataclass
class FakeLambda:
    """Lambda, which keeps what it is asked to run."""

    invoked: list[dict[str, Any]] = field(default_factory=list)
    fails_with: Exception | None = None

    def invoke(self, **request: Any) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        self.invoked.append(request)


@dataclass
class FleetUnderTest:
    """Everything around a function of the fleet."""

    environ: Recorder
    secrets: FakeSecretsManager = field(default_factory=lambda: FakeSecretsManager(tags={TAG: ""}))
    queue: FakeQueue = field(default_factory=FakeQueue)
    functions: FakeLambda = field(default_factory=FakeLambda)
    topic: FakeTopic = field(default_factory=FakeTopic)
    bus: FakeBus = field(default_factory=FakeBus)
    qwen: FakeQwen = field(default_factory=lambda: FakeQwen(lambda _: QwenTokenError("never")))

    def clients(self) -> Clients:
        """Return what a function is to reach."""
        parts: dict[str, Any] = {
            "secrets": lambda: self.secrets,
            "sns": lambda: self.topic,
            "events": lambda: self.bus,
            "sqs": lambda: self.queue,
            "functions": lambda: self.functions,
            "dynamodb": lambda: pytest.fail("the fleet has no state table"),
            "qwen": lambda _url, _user_agent: self.qwen,
            "grant": lambda _grant, _settings: pytest.fail("the worker makes its own"),
        }
        return Clients(environ=self.environ, clock=lambda: NOW, **parts)


def read_output(text: str) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
    """Return the metrics and the log lines in what a function wrote."""
    lines = [json.loads(line) for line in text.splitlines()]
    counted: dict[str, list[float]] = {}
    for line in lines:
        for declared in line.get("_aws", {}).get("CloudWatchMetrics", ()):
            assert (declared["Namespace"], declared["Dimensions"]) == (
                "QwenTokenRefresh",
                [["service"]],
            )
            for metric in declared["Metrics"]:
                counted[metric["Name"]] = line[metric["Name"]]
    return counted, [line for line in lines if "_aws" not in line]
