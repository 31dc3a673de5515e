"""The queue between dispatch and the workers: one job for each secret that needs a run."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import batched
from typing import TYPE_CHECKING, Final, Self

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

# SQS delays no message for longer (in seconds), and takes no more of them in one call.
LONGEST_DELAY: Final = 900
_BATCH: Final = 10


@dataclass(frozen=True, slots=True)
class Job:
    """A secret that needs a run.

    ``obstacle`` says why the run can only fail, where that is known. ``postponed`` counts how often
    the run was put off because the API could not be asked.
    """

    secret_id: str
    obstacle: str | None = None
    postponed: int = 0

    @classmethod
    def from_body(cls, body: str) -> Self:
        """Read a message. Raises ValueError or TypeError where it is none of ours."""
        job = cls(**json.loads(body))
        if not (
            isinstance(job.secret_id, str)
            and isinstance(job.obstacle, str | None)
            and type(job.postponed) is int
        ):
            raise TypeError("a message of the queue is no job: a value is of a wrong type")
        return job

    def body(self) -> str:
        """Return the message."""
        return json.dumps(asdict(self))


def send(jobs: Iterable[tuple[Job, int]], *, client: "SQSClient", queue_url: str) -> None:
    """Queue each job with its delay in seconds.

    Whatever the queue refuses, the others are queued. Raises whatever boto3 raises, and ClientError
    for the first that the queue refused.
    """
    failure: ClientError | None = None
    for batch in batched(jobs, _BATCH, strict=False):
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(number), "MessageBody": job.body(), "DelaySeconds": seconds}
            for number, (job, seconds) in enumerate(batch)
        ]
        # The call as a whole succeeds even where it refuses messages, and boto3 repeats calls only.
        refused = _send_batch(entries, client, queue_url)
        again = {each["Id"] for each in refused if not each["SenderFault"]}
        if again:
            repeated = [entry for entry in entries if entry["Id"] in again]
            refused = [
                *(each for each in refused if each["SenderFault"]),
                *_send_batch(repeated, client, queue_url),
            ]
        for each in refused:
            failure = failure or ClientError(
                {"Error": {"Code": each["Code"], "Message": each.get("Message", "")}},
                "SendMessageBatch",
            )
    if failure is not None:
        raise failure


def _send_batch(
    entries: "Sequence[SendMessageBatchRequestEntryTypeDef]", client: "SQSClient", queue_url: str
) -> "Sequence[BatchResultErrorEntryTypeDef]":
    return client.send_message_batch(QueueUrl=queue_url, Entries=entries).get("Failed", ())


def delay(least: float, most: float) -> int:
    """Return a delay in whole seconds, at random in between, as far as SQS delays."""
    return min(LONGEST_DELAY, round(random.uniform(least, most)))  # noqa: S311 - no secret
