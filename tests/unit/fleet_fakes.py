"""A region's secrets and queue in memory, for the tests of the fleet's functions."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

from keeper_runtime.clients import Clients
from qwen_token import QwenTokenError, Token
from tests.minting import NOW

REGION: Final = "eu-west-1"
QUEUE: Final = "https://sqs.eu-west-1.amazonaws.com/111122223333/jobs"
TAG: Final = "qwen-token"


def arn(name: str) -> str:
    """Return the ARN of the secret of this name."""
    return f"arn:aws:secretsmanager:{REGION}:111122223333:secret:{name}-a1b2c3"


@dataclass
class Secret:
    """A secret with at most one value; ``refuses`` is the code with which reading it fails."""

    name: str
    value: str | None
    tags: Mapping[str, str]
    listed: Mapping[str, Any] = field(default_factory=dict)
    refuses: str | None = None
    version: str = "v1"
    staged: dict[str, str] = field(default_factory=dict)


class FakeSecrets:
    """Secrets Manager; ``calls`` are the operations, ``page_size`` how many it lists at once."""

    class exceptions:  # noqa: N801 - boto3's name
        class ResourceNotFoundException(ClientError):  # noqa: N818 - the same
            pass

    def __init__(self, *, page_size: int = 100) -> None:
        self.page_size = page_size
        self.secrets: dict[str, Secret] = {}
        self.calls: list[str] = []
        self.batches: list[int] = []
        self.hooks: dict[str, Callable[..., None]] = {}
        self.meta = SimpleNamespace(events=self)

    def add(
        self,
        name: str,
        value: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        **more: Any,
    ) -> str:
        """Add a secret, of the fleet if nothing else is said, and return its ARN."""
        chosen = {TAG: ""} if tags is None else tags
        self.secrets[arn(name)] = Secret(name, value, chosen, **more)
        return arn(name)

    def register(self, event: str, hook: Callable[..., None], *, unique_id: str) -> None:
        assert unique_id
        self.hooks[event] = hook

    def list_secrets(self, **request: Any) -> dict[str, Any]:
        self.calls.append("ListSecrets")
        [wanted] = request["Filters"]
        assert wanted["Key"] == "tag-key"
        [prefix] = wanted["Values"]
        found = [
            each
            for each in self.secrets.values()
            # AWS finds what begins with it.
            if any(key.startswith(prefix) for key in each.tags)
            if "DeletedDate" not in each.listed or request["IncludePlannedDeletion"]
        ]
        start = int(request.get("NextToken", 0))
        end = start + min(self.page_size, request["MaxResults"])
        listed = [
            {
                "ARN": arn(each.name),
                "Name": each.name,
                "Tags": [{"Key": key, "Value": value} for key, value in each.tags.items()],
                **each.listed,
            }
            for each in found[start:end]
        ]
        return {"SecretList": listed, **({"NextToken": str(end)} if end < len(found) else {})}

    def batch_get_secret_value(self, *, SecretIdList: list[str]) -> dict[str, Any]:  # noqa: N803 - boto3's
        self.calls.append("BatchGetSecretValue")
        self.batches.append(len(SecretIdList))
        values, errors = [], []
        for secret_id in SecretIdList:
            secret = self.secrets[secret_id]
            if secret.refuses == "":
                continue
            if secret.refuses or secret.value is None:
                code = secret.refuses or "ResourceNotFoundException"
                errors.append({"SecretId": secret_id, "ErrorCode": code, "Message": "…"})
            else:
                values.append(
                    {
                        "ARN": secret_id,
                        "Name": secret.name,
                        "SecretString": secret.value,
                        "VersionId": secret.version,
                    }
                )
        return {"SecretValues": values, "Errors": errors}

    def get_secret_value(self, **request: str) -> dict[str, str]:
        self.calls.append("GetSecretValue")
        secret = self.secrets[request["SecretId"]]
        if secret.refuses:
            raise ClientError({"Error": {"Code": secret.refuses}}, "GetSecretValue")
        if secret.value is None:
            raise self.exceptions.ResourceNotFoundException({"Error": {}}, "GetSecretValue")
        return {"SecretString": secret.value, "VersionId": secret.version}

    def describe_secret(self, **request: str) -> dict[str, Any]:
        self.calls.append("DescribeSecret")
        secret = self.secrets[request["SecretId"]]
        stages = {} if secret.value is None else {secret.version: ["AWSCURRENT"]}
        return {"VersionIdsToStages": stages}

    def put_secret_value(self, **request: Any) -> dict[str, str]:
        self._write("PutSecretValue")
        version = str(uuid.uuid4())
        self.secrets[request["SecretId"]].staged[version] = request["SecretString"]
        return {"VersionId": version}

    def update_secret_version_stage(self, **request: str) -> None:
        self._write("UpdateSecretVersionStage")
        secret = self.secrets[request["SecretId"]]
        secret.version = request["MoveToVersionId"]
        secret.value = secret.staged[secret.version]

    def _write(self, operation: str) -> None:
        self.calls.append(operation)
        if hook := self.hooks.get(f"before-send.secrets-manager.{operation}"):
            hook(request=None)


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

    def invoke(self, **request: Any) -> None:
        self.invoked.append(request)


@dataclass
class FakeTopic:
    """SNS, which keeps the documents that it is told to publish, or fails to publish them."""

    fails_with: Exception | None = None
    documents: list[dict[str, Any]] = field(default_factory=list)

    def publish(self, **message: Any) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        self.documents.append(json.loads(json.loads(message["Message"])["default"]))


@dataclass
class FakeBus:
    """EventBridge, which keeps the events that it is told to put."""

    fails_with: Exception | None = None
    put: list[dict[str, Any]] = field(default_factory=list)

    def put_events(self, *, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 - boto3's
        assert 1 <= len(Entries) <= 10
        if self.fails_with is not None:
            raise self.fails_with
        self.put += Entries
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "e"} for _ in Entries]}


class FakeQwen:
    """The API: ``answers`` says what becomes of each account's token."""

    def __init__(self, answers: Callable[[Token], Token | Exception]) -> None:
        self.answers = answers
        self.asked: list[Token] = []

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        assert within > timedelta(0)
        self.asked.append(token)
        answer = self.answers(token)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def verify(self, token: Token, *, within: timedelta) -> None:
        pass


class Recorder(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        pytest.fail(f"{name} is read without a word for its absence")


class Context:
    """What Lambda gives a handler; with each look, so much of its time has gone."""

    function_name = "dispatch"
    memory_limit_in_mb = 256
    invoked_function_arn = f"arn:aws:lambda:{REGION}:111122223333:function:dispatch"
    aws_request_id = "request-1"

    def __init__(self, milliseconds_left: int = 300_000, *, each_look: int = 0) -> None:
        self._left = milliseconds_left
        self._each_look = each_look

    def get_remaining_time_in_millis(self) -> int:
        self._left -= self._each_look
        return self._left


@dataclass
class World:
    """Everything around a function of the fleet."""

    environ: Recorder
    secrets: FakeSecrets = field(default_factory=FakeSecrets)
    queue: FakeQueue = field(default_factory=FakeQueue)
    functions: FakeLambda = field(default_factory=FakeLambda)
    topic: FakeTopic = field(default_factory=FakeTopic)
    bus: FakeBus = field(default_factory=FakeBus)
    qwen: FakeQwen = field(default_factory=lambda: FakeQwen(lambda _: QwenTokenError("never")))

    def edges(self) -> Clients:
        """Return what a function is to reach."""
        parts: dict[str, Any] = {
            "secrets": lambda: self.secrets,
            "sns": lambda: self.topic,
            "events": lambda: self.bus,
            "sqs": lambda: self.queue,
            "functions": lambda: self.functions,
            "qwen": lambda _: self.qwen,
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
