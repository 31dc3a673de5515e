"""A deployed stack in memory, behind the calls of boto3's session: for the command line's tests."""

# ruff: noqa: N803 - the arguments are named as boto3 names them

import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

from qwen_token.cli import main
from qwen_token.run_memory import RunMemory
from tests.fake_secrets_manager import FakeSecretsManager, arn
from tests.minting import pieces

TOKEN_SECRET: Final = "qwen/token"
SESSION_SECRET: Final = "qwen/session"
FUNCTION: Final = "the-function"
TABLE: Final = "the-table"
QUEUE: Final = "https://sqs.eu-west-1.amazonaws.com/111122223333/the-queue"
TAG: Final = "qwen-token"

Answer = Mapping[str, Any]


def shown_by(
    capsys: pytest.CaptureFixture[str], *arguments: str, hiding: Collection[str]
) -> tuple[int, str]:
    """Run a command; return its exit code and all that it shows, which is no secret."""
    code = main(arguments)
    shown = "".join(capsys.readouterr())
    assert not any(piece in shown for secret in hiding for piece in pieces(secret))
    assert "eyJ" not in shown
    return code, shown


def denied(operation: str) -> ClientError:
    return ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, operation)


@dataclass
class FakeStack:
    """The stack, and all that it is made of; it stands in for ``boto3.Session``.

    ``answer`` is what the function does with an event: its result, or ``Failure``. ``denies`` are
    the services that may not be used.
    """

    secrets: FakeSecretsManager = field(default_factory=FakeSecretsManager)
    memory: RunMemory | None = None
    # What the runs remember of the fleet's members and of the whole fleet, by their names.
    memories: dict[str, RunMemory] = field(default_factory=dict)
    # What was sent to the fleet's queue.
    queued: list[Answer] = field(default_factory=list)
    answer: Callable[[Answer], Answer] = field(default=lambda _event: {"outcome": "fresh"})
    events: list[Answer] = field(default_factory=list)
    denies: set[str] = field(default_factory=set)
    outputs: dict[str, str] = field(
        default_factory=lambda: {
            "SecretArn": arn(TOKEN_SECRET),
            "SessionSecretArn": arn(SESSION_SECRET),
            "RefreshFunctionName": FUNCTION,
            "StateTableName": TABLE,
        }
    )
    region_name: str = "eu-west-1"
    alarm: str = "OK"
    parameters: dict[str, str] = field(
        default_factory=lambda: {
            "ApiBaseUrl": "https://chat.qwen.ai",
            "RefreshBeforeDays": "3",
            "CriticalDays": "1",
        }
    )

    def __post_init__(self) -> None:
        self.secrets.add(TOKEN_SECRET)
        self.secrets.add(SESSION_SECRET)

    def has_fleet(self) -> None:
        """Be a stack that was deployed with a fleet."""
        self.outputs |= {"DispatchFunctionName": "dispatch", "FleetQueueUrl": QUEUE}
        self.parameters |= {"FleetTag": TAG, "FleetSchedule": "rate(10 minutes)"}

    def __call__(self, region_name: str | None = None) -> "FakeStack":
        return self

    def client(self, service: str, **_options: Any) -> Any:
        return self.secrets if service == "secretsmanager" else _Client(self, service)


@dataclass
class FailedRun(Exception):  # noqa: N818 - what the function's run ended with
    """Raised by ``answer``: the function's run fails with an error of this class."""

    kind: str
    message: str


@dataclass(frozen=True)
class _Client:
    """Every other service; each has only a few calls that are needed."""

    stack: FakeStack
    service: str

    def describe_stacks(self, *, StackName: str) -> Answer:
        outputs = [
            {"OutputKey": key, "OutputValue": value} for key, value in self.stack.outputs.items()
        ]
        parameters = [
            {"ParameterKey": key, "ParameterValue": value}
            for key, value in self.stack.parameters.items()
        ]
        return {"Stacks": [{"Outputs": outputs, "Parameters": parameters}]}

    def get_paginator(self, operation: str) -> "_Client":
        assert operation == "list_stack_resources"
        return self

    def paginate(self, *, StackName: str) -> Iterator[Answer]:
        kinds = {"RefreshFunctionTimer": "Scheduler::Schedule", "AnAlarm": "CloudWatch::Alarm"}
        yield {
            "StackResourceSummaries": [
                {
                    "ResourceType": f"AWS::{kind}",
                    "LogicalResourceId": name,
                    "PhysicalResourceId": name,
                }
                for name, kind in kinds.items()
            ]
        }

    def get_schedule(self, *, Name: str) -> Answer:
        made = datetime.now(UTC) - timedelta(seconds=30)
        return {
            "State": "ENABLED",
            "ScheduleExpression": "rate(2 minutes)",
            "CreationDate": made,
        }

    def describe_alarms(self, *, AlarmNames: list[str]) -> Answer:
        alarms = [{"AlarmName": name, "StateValue": self.stack.alarm} for name in AlarmNames]
        return {"MetricAlarms": alarms}

    def get_item(self, *, TableName: str, Key: Answer, ConsistentRead: bool) -> Answer:
        assert (TableName, ConsistentRead) == (TABLE, True)
        assert Key == {"secret_id": {"S": arn(TOKEN_SECRET)}}
        if self.service in self.stack.denies:
            raise denied("GetItem")
        memory = self.stack.memory
        return {} if memory is None else {"Item": {"memory": {"S": memory.to_json()}}}

    def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> Answer:
        if self.service in self.stack.denies:
            raise denied("BatchGetItem")
        keys = [each["secret_id"] for each in RequestItems[TABLE]["Keys"]]
        assert len(keys) <= 100, "DynamoDB refuses it"
        known = {
            name if name.startswith("fleet:") else arn(name): memory.to_json()
            for name, memory in self.stack.memories.items()
        }
        items = [
            {"secret_id": key, "memory": {"S": known[key["S"]]}}
            for key in keys
            if key["S"] in known
        ]
        # As under load: what is left out of one answer is in the next one.
        left = [{"secret_id": each["secret_id"]} for each in items[1:]]
        rest = {TABLE: {**RequestItems[TABLE], "Keys": left}} if left else {}
        return {"Responses": {TABLE: items[:1]}, "UnprocessedKeys": rest}

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> None:
        assert QueueUrl == QUEUE
        if self.service in self.stack.denies:
            raise denied("SendMessage")
        self.stack.queued.append(json.loads(MessageBody))

    def invoke(self, *, FunctionName: str, Payload: str) -> Answer:
        assert FunctionName == FUNCTION
        if self.service in self.stack.denies:
            raise denied("Invoke")
        event = json.loads(Payload)
        self.stack.events.append(event)
        try:
            result: Answer = self.stack.answer(event)
        except FailedRun as failed:
            body = {"errorType": failed.kind, "errorMessage": failed.message}
            payload = io.BytesIO(json.dumps(body).encode())
            return {"Payload": payload, "FunctionError": "Unhandled"}
        return {"Payload": io.BytesIO(json.dumps(result).encode())}
