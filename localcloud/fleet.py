"""A deployed stack with the fleet, as its owner and its tests see it."""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .qwen import QwenStandIn
from .waiting import wait_until

if TYPE_CHECKING:
    from .aws import Cloud
    from .sign_in_host import SignInHostStandIn
    from .stack import DeployedStack, Notification

DAY: Final = timedelta(days=1)
# A worker starts, reads, asks, and writes at its pace.
SOON: Final = timedelta(seconds=45)
TAG: Final = "qwen-token"


@dataclass(frozen=True)
class DeployedFleet:
    """The deployed stack, the API that its workers talk to, and the secrets of the fleet."""

    stack: "DeployedStack"
    qwen: QwenStandIn
    sign_in_host: "SignInHostStandIn"

    @property
    def cloud(self) -> "Cloud":
        """Where it is deployed."""
        return self.stack.cloud

    def add(
        self, name: str, *, left: timedelta | None = None, value: str | None = None, tag: str = ""
    ) -> str:
        """Make a member with a token of its own account that lives so long, or with this value.

        Returns its ARN.
        """
        text = value if left is None else self.qwen.mint(account=name, lifetime=left)
        client = self.cloud.secretsmanager
        arn = client.create_secret(Name=name, Tags=[{"Key": TAG, "Value": tag}])["ARN"]
        if text is not None:
            client.put_secret_value(SecretId=arn, SecretString=text)
        return arn

    def add_session(
        self,
        name: str,
        *,
        left: timedelta | None = None,
        value: str | None = None,
        has_iat: bool = False,
    ) -> str:
        """Make a member with a session secret beside it, and return its ARN.

        It has a login of its own account, or this value. With ``left``, its token is an access
        token that lives so long; without, it has none yet.
        """
        arn = self.add(name, tag="on")
        client = self.cloud.secretsmanager
        if left is not None:
            token = self.qwen.issue_access_token(account=name, lifetime=left, has_iat=has_iat)
            client.put_secret_value(SecretId=arn, SecretString=token)
        client.create_secret(
            Name=f"{name}/session",
            Tags=[{"Key": TAG, "Value": "session"}],
            SecretString=self.sign_in_host.log_in(name) if value is None else value,
        )
        return arn

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Afterwards, no job waits, and what secrets were made in the block are gone for good.

        What other stacks of this cloud hold is theirs.
        """
        before = self._secrets()
        yield
        self.cloud.sqs.purge_queue(QueueUrl=self.stack.outputs["FleetQueueUrl"])
        for secret_id in self._secrets() - before:
            self.cloud.secretsmanager.delete_secret(
                SecretId=secret_id, ForceDeleteWithoutRecovery=True
            )

    def _secrets(self) -> set[str]:
        paginator = self.cloud.secretsmanager.get_paginator("list_secrets")
        pages = paginator.paginate(IncludePlannedDeletion=True)
        return {secret["ARN"] for page in pages for secret in page["SecretList"]}

    def hold_lease(self, key: str, *, seconds: int) -> None:
        """Hold the lease of this item for so long, as a run of somebody else does."""
        client: Any = self.cloud.session.client("dynamodb", endpoint_url=self.cloud.endpoint)
        client.update_item(
            TableName=self.stack.outputs["StateTableName"],
            Key={"secret_id": {"S": key}},
            UpdateExpression="SET lease_owner = :owner, lease_until = :until",
            ExpressionAttributeValues={
                ":owner": {"S": "somebody else"},
                ":until": {"N": str(int(time.time()) + seconds)},
            },
        )

    def forbid(self, secret_id: str) -> None:
        """Let nobody do anything with this secret, by a policy of its own."""
        deny = {"Effect": "Deny", "Principal": "*", "Action": "secretsmanager:*", "Resource": "*"}
        self.cloud.secretsmanager.put_resource_policy(
            SecretId=secret_id,
            ResourcePolicy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}),
        )

    def current(self, name: str) -> str:
        """Return the value that readers get."""
        return self.cloud.secretsmanager.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")[
            "SecretString"
        ]

    def days_left(self, name: str) -> float:
        """Return the days that the current token lives, to one decimal."""
        seconds: float = self.qwen.read(self.current(name))["exp"] - time.time()
        return round(seconds / DAY.total_seconds(), 1)

    def has_value(self, name: str) -> bool:
        """Return whether readers get anything."""
        # The emulator gives a new secret an empty version.
        client = self.cloud.secretsmanager
        return bool(client.get_secret_value(SecretId=name).get("SecretString"))

    def forget(self, key: str) -> None:
        """Take an item out of the state table."""
        client: Any = self.cloud.session.client("dynamodb", endpoint_url=self.cloud.endpoint)
        client.delete_item(
            TableName=self.stack.outputs["StateTableName"], Key={"secret_id": {"S": key}}
        )

    def send_jobs(self, names: Sequence[str], **more: object) -> None:
        """Queue jobs of these members, as dispatch does."""
        for name in names:
            arn = self.cloud.secretsmanager.describe_secret(SecretId=name)["ARN"]
            self.cloud.sqs.send_message(
                QueueUrl=self.stack.outputs["FleetQueueUrl"],
                MessageBody=json.dumps({"secret_id": arn, **more}),
            )

    def minutes_left(self, name: str) -> int:
        """Return the minutes that the current token lives, in whole ones."""
        seconds: float = self.qwen.read(self.current(name))["exp"] - time.time()
        return round(seconds / 60)

    def sweep(self) -> dict[str, Any]:
        """Run dispatch, as the schedule does, and return its result."""
        response = self.cloud.functions.invoke(
            FunctionName=self.stack.outputs["DispatchFunctionName"], Payload=b"{}"
        )
        result = json.loads(response["Payload"].read())
        assert "FunctionError" not in response, result
        return dict(result)

    def drain(self, *, within: timedelta = SOON) -> None:
        """Wait until every job is done with."""
        wait_until(
            lambda: not any(self.queued().values()),
            within=within,
            expected="the fleet's queue to be empty",
            seen=lambda: str(self.queued()),
        )

    def queued(self, output: str = "FleetQueueUrl") -> Mapping[str, int]:
        """Return how many messages wait, are being worked on, and are delayed."""
        names = ["", "NotVisible", "Delayed"]
        found = self.cloud.sqs.get_queue_attributes(
            QueueUrl=self.stack.outputs[output],
            AttributeNames=[f"ApproximateNumberOfMessages{name}" for name in names],  # type: ignore[misc]
        )["Attributes"]
        return {
            name or "Visible": int(found[f"ApproximateNumberOfMessages{name}"])  # type: ignore[index]
            for name in names
        }

    def alerts(self) -> "list[Notification]":
        """Take the functions' alerts that arrived; those of alarms are thrown away."""
        return [each for each in self.stack.notifications() if not each.is_alarm]

    def told(self) -> list[tuple[str, str]]:
        """Take the alerts, and return the name and the reason of each failure in them."""
        return [
            (failure["secret_id"].split(":secret:")[1][:-7], failure["reason"])
            for alert in self.alerts()
            for failure in alert.document["failures"]
        ]

    def wait_for_refresh(self, name: str) -> None:
        """Wait until the secret of this name holds a new token."""
        wait_until(
            lambda: self.days_left(name) == self.qwen.lifetime / DAY,
            within=SOON,
            expected=f"{name} to be refreshed",
            seen=lambda: str([self.queued(), self.stack.log("dispatch")[-5:]]),
        )

    def wait_for_postponed(self, count: int) -> None:
        """Wait until all jobs in the queue are so many that were put off."""
        wait_until(
            lambda: self.queued() == {"Visible": 0, "NotVisible": 0, "Delayed": count},
            within=SOON,
            expected="every job to be put off",
            seen=lambda: str(self.queued()),
        )

    def measure(self, metric: str, *, queue: str, value: float) -> None:
        """Put a metric of a queue, as SQS does and the emulator's does not."""
        self.cloud.cloudwatch.put_metric_data(
            Namespace="AWS/SQS",
            MetricData=[
                {
                    "MetricName": metric,
                    "Dimensions": [{"Name": "QueueName", "Value": queue}],
                    "Value": value,
                }
            ],
        )

    @contextmanager
    def one_page_an_invocation(self) -> Iterator[None]:
        """Give dispatch a timeout that leaves no time for a second page."""
        function = self.stack.outputs["DispatchFunctionName"]
        self.cloud.functions.update_function_configuration(FunctionName=function, Timeout=50)
        try:
            yield
        finally:
            self.cloud.functions.update_function_configuration(FunctionName=function, Timeout=300)

    @contextmanager
    def redelivering_after(self, seconds: int) -> Iterator[None]:
        """Let what a worker did not finish come back so soon; AWS takes twelve minutes."""
        url = self.stack.outputs["FleetQueueUrl"]
        before = self.cloud.sqs.get_queue_attributes(
            QueueUrl=url, AttributeNames=["VisibilityTimeout"]
        )["Attributes"]["VisibilityTimeout"]
        self.cloud.sqs.set_queue_attributes(
            QueueUrl=url, Attributes={"VisibilityTimeout": str(seconds)}
        )
        try:
            yield
        finally:
            self.cloud.sqs.set_queue_attributes(
                QueueUrl=url, Attributes={"VisibilityTimeout": before}
            )

    @contextmanager
    def workers_resting(self) -> Iterator[None]:
        """Let no worker take a job meanwhile; afterwards, they find full batches."""
        queue = self.stack.outputs["FleetQueueUrl"].rpartition("/")[2]
        [trigger] = [
            each["UUID"]
            for each in self.cloud.functions.list_event_source_mappings()["EventSourceMappings"]
            if each["EventSourceArn"].endswith(f":{queue}")
        ]
        self.cloud.functions.update_event_source_mapping(UUID=trigger, Enabled=False)
        try:
            yield
        finally:
            self.cloud.functions.update_event_source_mapping(UUID=trigger, Enabled=True)

    def kill_workers(self, *, most: int = 100) -> int:
        """Kill processes that run the worker function, as they are; return how many."""
        function = self.stack.resources()["WorkerFunction"]
        killed = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
                if function in command and killed < most:
                    os.kill(int(process.name), signal.SIGKILL)
                    killed += 1
            except (FileNotFoundError, ProcessLookupError):
                continue
        return killed
