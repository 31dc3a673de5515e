"""A region's secrets and queue in memory, for the tests of the fleet's functions."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import pytest

from keeper_runtime.clients import Clients
from qwen_token import QwenTokenError
from qwen_token.grants import Granted, Login, TokenSource
from qwen_token.ledger import UnsharedState
from qwen_token.run_memory import RunMemory
from qwen_token.session import Grant
from tests.fake_dynamodb import FakeDynamoDB
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
    # When received messages are delivered again, by their receipts.
    hidden: dict[str, int] = field(default_factory=dict)
    no_receipts: frozenset[str] = frozenset()

    def change_message_visibility_batch(
        self,
        *,
        QueueUrl: str,  # noqa: N803 - boto3's
        Entries: list[dict[str, Any]],  # noqa: N803 - boto3's
    ) -> dict[str, Any]:
        assert QueueUrl == QUEUE
        assert 1 <= len(Entries) <= 10
        if self.fails_with is not None:
            raise self.fails_with
        failed = []
        for entry in Entries:
            if entry["ReceiptHandle"] in self.no_receipts:
                failed.append({"Id": entry["Id"], "Code": "ReceiptHandleIsInvalid"})
            else:
                self.hidden[entry["ReceiptHandle"]] = entry["VisibilityTimeout"]
        return {"Failed": failed} if failed else {}

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
class FakeSignInHost:
    """The host of sessions: ``answers`` says what each grant gives for a login."""

    answers: Callable[[Grant, Login], Granted | Exception] = lambda grant, _login: pytest.fail(
        f"nobody was to ask for {grant}"
    )
    spent: list[tuple[Grant, Login]] = field(default_factory=list)

    def source(self, grant: Grant) -> TokenSource:
        return _Source(self, grant)


@dataclass
class _Source:
    host: FakeSignInHost
    grant: Grant

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        assert within > timedelta(0)
        self.host.spent.append((self.grant, login))
        answer = self.host.answers(self.grant, login)
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class FleetUnderTest:
    """Everything around a function of the fleet, which remembers from run to run."""

    environ: Recorder
    secrets: FakeSecretsManager = field(default_factory=lambda: FakeSecretsManager(tags={TAG: ""}))
    in_process: Callable[[str], UnsharedState] = field(
        default_factory=lambda: cache(lambda _secret_id: UnsharedState())
    )
    queue: FakeQueue = field(default_factory=FakeQueue)
    functions: FakeLambda = field(default_factory=FakeLambda)
    topic: FakeTopic = field(default_factory=FakeTopic)
    bus: FakeBus = field(default_factory=FakeBus)
    qwen: FakeQwen = field(default_factory=lambda: FakeQwen(lambda _: QwenTokenError("never")))
    sign_in_host: FakeSignInHost = field(default_factory=FakeSignInHost)
    dynamodb: FakeDynamoDB = field(default_factory=FakeDynamoDB)
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.secrets.clock = lambda: self.now

    def clients(self) -> Clients:
        """Return what a function is to reach."""
        parts: dict[str, Any] = {
            "secrets": lambda: self.secrets,
            "sns": lambda: self.topic,
            "events": lambda: self.bus,
            "sqs": lambda: self.queue,
            "functions": lambda: self.functions,
            "dynamodb": lambda: self.dynamodb,
            "qwen": lambda _url, _user_agent: self.qwen,
            "grant": lambda grant, _settings: self.sign_in_host.source(grant),
            "in_process": self.in_process,
        }
        return Clients(environ=self.environ, clock=lambda: self.now, **parts)

    def item(self, key: str) -> dict[str, Any]:
        """Return an item of the state table, an empty one where there is none."""
        return self.dynamodb.item("state", secret_id=key) or {}

    def memory(self, key: str) -> RunMemory:
        """Return what the runs of a secret remember."""
        return RunMemory.from_json(self.item(key)["memory"]["S"])


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
