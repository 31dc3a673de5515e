"""The queue between dispatch and the workers: one job for each secret that needs a run."""

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import batched
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.exceptions import ClientError

from qwen_token.fleet import obstacle_in_words
from qwen_token.secret_store import translated

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

# SQS delays no message for longer (in seconds), and takes no more of them in one call.
LONGEST_DELAY: Final = 900
_BATCH: Final = 10
# How often a job is put off by trouble with the API before that is reported.
POSTPONEMENTS: Final = 3

# A job has about 200 characters, and the longest name of a secret 512.
_LONGEST_BODY: Final = 1024
_STEP: Final = "queue the jobs"
# A secret's name in an ARN, with the six characters that AWS adds.
_NAME: Final = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}-[A-Za-z0-9]{6}")


class NotAJobError(Exception):
    """A message of the queue that is none of ours."""

    def __init__(self) -> None:
        super().__init__("a message of the queue is not a job")


@dataclass(frozen=True, slots=True)
class Job:
    """A secret that needs a run.

    ``obstacle`` is why the run can only fail, where that is known (see ``qwen_token.fleet``).
    ``postponed`` counts how often the run was put off because the API could not be asked.
    """

    secret_id: str
    obstacle: str | None = None
    postponed: int = 0

    @classmethod
    def from_body(cls, body: str, *, secrets: str) -> Self:
        """Read a message; ``secrets`` is what all ARNs of this account's secrets here begin with.

        Whoever may send to the queue decides what is in it, and what is in it may reach the owner.

        Raises:
            NotAJobError: it is not one that dispatch or a worker sent. Nothing of it is quoted.
        """
        try:
            if len(body) > _LONGEST_BODY:
                raise NotAJobError
            members = json.loads(body, object_pairs_hook=_members)
            job = cls(**members)
            if job.is_valid(secrets):
                return job
        except (TypeError, ValueError, RecursionError):
            # Not JSON, no object, a member too many or too few: without the text, which may say
            # anything.
            raise NotAJobError from None
        raise NotAJobError

    def is_valid(self, secrets: str) -> bool:
        """Return whether each member is what dispatch or a worker would have written."""
        return (
            isinstance(self.secret_id, str)
            and self.secret_id.startswith(secrets)
            and _NAME.fullmatch(self.secret_id.removeprefix(secrets)) is not None
            and isinstance(self.obstacle, str | None)
            and (self.obstacle is None or obstacle_in_words(self.obstacle, self.secret_id) != "")
            # True is an int, too.
            and type(self.postponed) is int
            and 0 <= self.postponed <= POSTPONEMENTS
        )

    def body(self) -> str:
        """Return the message."""
        return json.dumps(asdict(self))


def send(jobs: Iterable[tuple[Job, int]], *, client: "SQSClient", queue_url: str) -> None:
    """Queue each job with its delay in seconds.

    Whatever the queue refuses, the others are queued.

    Raises:
        StoreError: the queue failed, or refused at least one.
    """
    failure: ClientError | None = None
    for batch in batched(jobs, _BATCH, strict=False):
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(number), "MessageBody": job.body(), "DelaySeconds": seconds}
            for number, (job, seconds) in enumerate(batch)
        ]
        # The call as a whole succeeds even where it refuses messages, and boto3 repeats calls only.
        with translated(_STEP, by="SQS"):
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
        with translated(_STEP, by="SQS"):
            raise failure


def secrets_of(function_arn: str) -> str:
    """Return what the ARNs of the secrets beside a function begin with."""
    arn, partition, _, region, account, *_ = function_arn.split(":")
    return f"{arn}:{partition}:secretsmanager:{region}:{account}:secret:"


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _send_batch(
    entries: "Sequence[SendMessageBatchRequestEntryTypeDef]", client: "SQSClient", queue_url: str
) -> "Sequence[BatchResultErrorEntryTypeDef]":
    return client.send_message_batch(QueueUrl=queue_url, Entries=entries).get("Failed", ())


def delay(least: float, most: float) -> int:
    """Return a delay in whole seconds, at random in between, as far as SQS delays."""
    return min(LONGEST_DELAY, round(random.uniform(least, most)))  # noqa: S311 - no secret
