"""The deployed stack, as its owner, its readers and its tests see it."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from qwen_token.run_memory import RunMemory

from . import command_line
from .waiting import wait_until

if TYPE_CHECKING:
    import subprocess

    import boto3
    from mypy_boto3_cloudwatch.type_defs import MetricDatumTypeDef
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from .aws import Cloud

CURRENT: Final = "AWSCURRENT"
PREVIOUS: Final = "AWSPREVIOUS"
PENDING: Final = "QWEN_PENDING"


@dataclass(frozen=True, slots=True)
class Run:
    """The result of an invocation of the function, or its error's message."""

    result: Mapping[str, Any] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the secret."""

    version_id: str
    labels: frozenset[str]
    created_at: datetime
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Notification:
    """A message in a queue that is subscribed to the alert topic."""

    subject: str
    document: Mapping[str, Any]
    attributes: Mapping[str, str]

    @property
    def is_alarm(self) -> bool:
        """Return whether CloudWatch sent it, and not the function."""
        return "AlarmName" in self.document


@dataclass(frozen=True)
class DeployedStack:
    """One deployed stack, by its outputs and parameters."""

    cloud: "Cloud"
    name: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    _queue_url: str
    _counted: set[tuple[str, int, str]] = field(default_factory=set, repr=False)
    # Notifications that came together with the one that was waited for.
    _left: list[Notification] = field(default_factory=list, repr=False)

    @classmethod
    def find(cls, cloud: "Cloud", name: str) -> "DeployedStack":
        """Find the stack, and subscribe a queue to its alert topic."""
        described = cloud.cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        outputs = {item["OutputKey"]: item["OutputValue"] for item in described["Outputs"]}
        parameters = {
            item["ParameterKey"]: item["ParameterValue"] for item in described["Parameters"]
        }
        return cls(cloud, name, outputs, parameters, subscribe(cloud, outputs["AlertTopicArn"]))

    @property
    def secret_arn(self) -> str:
        """The ARN of the token secret."""
        return self.outputs["SecretArn"]

    @property
    def session_secret_arn(self) -> str:
        """The ARN of the session secret, of a stack that has one."""
        return self.outputs["SessionSecretArn"]

    def resources(self) -> Mapping[str, str]:
        """Return the physical ids of the stack's resources, by logical id."""
        pages = self.cloud.cloudformation.get_paginator("list_stack_resources")
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for page in pages.paginate(StackName=self.name)
            for resource in page["StackResourceSummaries"]
        }

    # --- the secrets ------------------------------------------------------------------------------

    def put(self, text: str) -> str:
        """Make ``text`` the secret's current value, and return the version's id."""
        return self.cloud.secretsmanager.put_secret_value(
            SecretId=self.secret_arn, SecretString=text
        )["VersionId"]

    def put_session(self, text: str) -> str:
        """Make ``text`` the session secret's current value, and return the version's id."""
        return self.cloud.secretsmanager.put_secret_value(
            SecretId=self.session_secret_arn, SecretString=text
        )["VersionId"]

    def stage_session(self, text: str) -> None:
        """Write a version as the keeper does before it makes a credential current."""
        self.cloud.secretsmanager.put_secret_value(
            SecretId=self.session_secret_arn, SecretString=text, VersionStages=[PENDING]
        )

    def unstage(self) -> None:
        """Remove the keeper's label from every version; unlike AWS, the emulator keeps it."""
        client = self.cloud.secretsmanager
        for name in ("SecretArn", "SessionSecretArn"):
            if name not in self.outputs:
                continue
            labels = client.describe_secret(SecretId=self.outputs[name])["VersionIdsToStages"]
            for version_id in [each for each, stages in labels.items() if PENDING in stages]:
                client.update_secret_version_stage(
                    SecretId=self.outputs[name],
                    VersionStage=PENDING,
                    RemoveFromVersionId=version_id,
                )

    def session_versions(self) -> list[Version]:
        """Return all versions of the session secret, the oldest first."""
        return versions_of(self.session_secret_arn, self.cloud.secretsmanager)

    def current_session(self) -> Version:
        """Return the current version of the session secret."""
        return next(version for version in self.session_versions() if CURRENT in version.labels)

    def current(self) -> Version:
        """Return the current version."""
        return next(version for version in self.versions() if CURRENT in version.labels)

    def versions(self) -> list[Version]:
        """Return all versions of the secret, the oldest first."""
        return versions_of(self.secret_arn, self.cloud.secretsmanager)

    def labels(self) -> Mapping[str, list[str]]:
        """Return the labels of each version that has any, by the version's id."""
        described = self.cloud.secretsmanager.describe_secret(SecretId=self.secret_arn)
        return described["VersionIdsToStages"]

    def reader(self) -> "SecretsManagerClient":
        """Return a client that may do what the stack's reader policy allows, and nothing else."""
        return self.cloud.reader_of(self.outputs["ReaderPolicyArn"])

    # --- what the runs share ----------------------------------------------------------------------

    def state(self) -> Mapping[str, Any]:
        """Return the state table's item of the token secret, or an empty one."""
        return self.cloud.dynamodb.get_item(**self._state_item, ConsistentRead=True).get("Item", {})

    def memory(self) -> RunMemory:
        """Return the runs' memory of the token secret."""
        item = self.state()
        return RunMemory.from_json(item["memory"]["S"]) if "memory" in item else RunMemory()

    def remember(self, memory: RunMemory) -> None:
        """Replace the runs' memory."""
        self._update_state("SET memory = :memory", {":memory": {"S": memory.to_json()}})

    def forget(self) -> None:
        """Clear the runs' memory."""
        self.cloud.dynamodb.delete_item(**self._state_item)

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Hold the lease, as another run would, during the block."""
        self._lease(timedelta(minutes=2))
        try:
            yield
        finally:
            self._update_state("REMOVE lease_owner, lease_until")

    def abandon_lease(self) -> None:
        """Leave an expired lease, as a killed run does."""
        self._lease(timedelta(seconds=-1))

    def _lease(self, how_long: timedelta) -> None:
        until = int((datetime.now(UTC) + how_long).timestamp())
        self._update_state(
            "SET lease_owner = :owner, lease_until = :until",
            {":owner": {"S": "another run"}, ":until": {"N": str(until)}},
        )

    def _update_state(self, expression: str, values: Mapping[str, Any] | None = None) -> None:
        named: Any = {} if values is None else {"ExpressionAttributeValues": values}
        self.cloud.dynamodb.update_item(**self._state_item, UpdateExpression=expression, **named)

    @property
    def _state_item(self) -> Any:
        return {
            "TableName": self.outputs["StateTableName"],
            "Key": {"secret_id": {"S": self.secret_arn}},
        }

    # --- the function -----------------------------------------------------------------------------

    def invoke(self, event: object = None) -> Run:
        """Run the function and wait for its end; the default event is the schedule's."""
        response = self.cloud.functions.invoke(
            FunctionName=self.outputs["RefreshFunctionName"],
            Payload=json.dumps({} if event is None else event),
        )
        payload = json.loads(response["Payload"].read())
        if "FunctionError" in response:
            return Run(None, payload["errorMessage"])
        return Run(payload, None)

    def log(self, function: str = "refresh") -> list[str]:
        """Return the lines of a function's log: ``refresh``, ``dispatch`` or ``worker``."""
        return [line for _, _, line in self._log_events(f"/aws/lambda/{self.name}/{function}")]

    def log_documents(self, function: str = "refresh") -> list[dict[str, Any]]:
        """Return the lines of a function's log that are JSON, read."""
        return _json_objects(self.log(function))

    def runs(self) -> list[Mapping[str, Any]]:
        """Return the function's log documents of its runs, the oldest first."""
        documents = self.log_documents()
        return [document for document in documents if "outcome" in document or "reason" in document]

    def _log_events(self, group: str) -> list[tuple[str, int, str]]:
        pages = self.cloud.logs.get_paginator("filter_log_events")
        return [
            (event["logStreamName"], event["timestamp"], event["message"])
            for page in pages.paginate(logGroupName=group)
            for event in page["events"]
        ]

    def _log_groups(self) -> list[str]:
        return [
            physical_id
            for logical_id, physical_id in self.resources().items()
            if logical_id.endswith("LogGroup")
        ]

    # --- what the owner is told -------------------------------------------------------------------

    def notifications(self) -> list[Notification]:
        """Take all messages from the subscribed queue."""
        left = [*self._left, *iter(self._next_notification, None)]
        self._left.clear()
        return left

    def wait_for_notification(
        self, wanted: Callable[[Notification], bool], *, within: timedelta, expected: str
    ) -> Notification:
        """Take notifications until the wanted one comes, and return that; later ones stay.

        Raises:
        TimeoutError: it did not come; the message names those that did.
        """
        others: list[Notification] = []

        def look() -> Notification | None:
            arrived = self.notifications()
            for number, notification in enumerate(arrived, start=1):
                if wanted(notification):
                    self._left.extend(arrived[number:])
                    return notification
                others.append(notification)
            return None

        return wait_until(
            look, within=within, expected=expected, seen=lambda: str(others or "nothing")
        )

    def alarms(self) -> dict[str, str]:
        """Return the alarms' states, by the alarms' names without the stack's.

        First, it does what MiniStack's CloudWatch does not: it puts the metrics in the function's
        log, which also makes MiniStack evaluate its alarms.
        """
        self._put_logged_metrics()
        pages = self.cloud.cloudwatch.get_paginator("describe_alarms")
        own = set(self.resources().values())
        return {
            alarm["AlarmName"].removeprefix(self.name)[1:]: alarm["StateValue"]
            for page in pages.paginate(AlarmNamePrefix=self.name)
            for alarm in page["MetricAlarms"]
            if alarm["AlarmName"] in own
        }

    def _put_logged_metrics(self) -> None:
        events = [event for group in self._log_groups() for event in self._log_events(group)]
        new = [event for event in events if event not in self._counted]
        for document in _json_objects(line for _, _, line in new):
            for namespace, data in _embedded_metrics(document):
                self.cloud.cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)
        self._counted.update(new)
        # MiniStack evaluates alarms on its own metrics only when some metric is put.
        self.cloud.cloudwatch.put_metric_data(
            Namespace="LocalCloud", MetricData=[{"MetricName": "Looked", "Value": 1}]
        )

    def _next_notification(self) -> Notification | None:
        sqs = self.cloud.sqs
        received = sqs.receive_message(QueueUrl=self._queue_url).get("Messages")
        if not received:
            return None
        sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=received[0]["ReceiptHandle"])
        envelope = json.loads(received[0]["Body"])
        return Notification(
            subject=envelope.get("Subject", ""),
            document=json.loads(envelope["Message"]),
            attributes={
                name: attribute["Value"]
                for name, attribute in envelope.get("MessageAttributes", {}).items()
            },
        )

    # --- the project's own command line -----------------------------------------------------------

    def command_line(
        self,
        *arguments: str,
        typed: str = "",
        encoding: str = "utf-8",
        session: "boto3.Session | None" = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``python -m qwen_token``, with ``typed`` on its standard input.

        It has the root user's credentials, or those of ``session``.
        """
        return command_line.run(
            [*arguments, "--stack", self.name],
            environ={**self.cloud.environ(), **({} if session is None else credentials(session))},
            typed=typed,
            encoding=encoding,
        )


def credentials(session: "boto3.Session") -> dict[str, str]:
    """Return the variables that give a program a session's credentials."""
    found = session.get_credentials()
    assert found is not None
    keys = found.get_frozen_credentials()
    assert keys.access_key is not None
    assert keys.secret_key is not None
    return {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token or "",
    }


def versions_of(secret_id: str, client: "SecretsManagerClient") -> list[Version]:
    """Return all versions of a secret, the oldest first."""
    listed = client.list_secret_version_ids(SecretId=secret_id, IncludeDeprecated=True)
    return [
        Version(
            version_id=entry["VersionId"],
            labels=frozenset(entry.get("VersionStages", ())),
            created_at=entry["CreatedDate"].astimezone(UTC),
            text=client.get_secret_value(SecretId=secret_id, VersionId=entry["VersionId"]).get(
                "SecretString", ""
            ),
        )
        for entry in sorted(listed["Versions"], key=lambda entry: entry["CreatedDate"])
    ]


def subscribe(
    cloud: "Cloud", topic_arn: str, *, queue: str = "inbox", filter_policy: str | None = None
) -> str:
    """Subscribe a queue, unless it is subscribed already, and return the queue's address."""
    name = f"{topic_arn.rpartition(':')[2]}-{queue}"
    url = cloud.sqs.create_queue(QueueName=name)["QueueUrl"]
    attributes = cloud.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    arn = attributes["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    cloud.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    cloud.sns.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=arn,
        Attributes={} if filter_policy is None else {"FilterPolicy": filter_policy},
    )
    return url


def _json_objects(lines: "Iterator[str] | list[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if line.startswith("{")]


def _embedded_metrics(
    document: Mapping[str, Any],
) -> "Iterator[tuple[str, list[MetricDatumTypeDef]]]":
    """Yield the metrics in a line of the embedded metric format, by namespace."""
    metadata = document.get("_aws", {})
    for directive in metadata.get("CloudWatchMetrics", ()):
        data: list[MetricDatumTypeDef] = []
        for metric in directive["Metrics"]:
            values = document[metric["Name"]]
            data += [
                {
                    "MetricName": metric["Name"],
                    "Dimensions": [
                        {"Name": dimension, "Value": document[dimension]}
                        for dimension in dimensions
                    ],
                    "Timestamp": datetime.fromtimestamp(metadata["Timestamp"] / 1000, UTC),
                    "Unit": metric.get("Unit", "None"),
                    "Values": values if isinstance(values, list) else [values],
                }
                for dimensions in directive["Dimensions"]
            ]
        yield directive["Namespace"], data
