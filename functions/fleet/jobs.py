"""The queue between dispatch and the workers: one job for each secret that needs a run."""

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import batched
from typing import TYPE_CHECKING, Any, Final, Self

from qwen_token.errors import StoreError
from qwen_token.fleet import obstacle_in_words, session_name
from qwen_token.secret_store import code_in, translated

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

# SQS's limits: a message's longest delay in seconds, and the most messages in one call.
LONGEST_DELAY: Final = 900
_BATCH: Final = 10
# How often trouble with the API postpones a job before the trouble is reported. After that, an
# urgent job is still postponed; any other is left to the next sweep.
POSTPONEMENTS: Final = 3

# A job has about 200 characters plus up to two secret names of at most 512 each.
_LONGEST_BODY: Final = 2048
_STEP: Final = "queue the jobs"
_HIDE: Final = "set when the jobs are delivered again"
# A secret's name in an ARN, with the six characters that AWS adds.
_NAME: Final = re.compile(r"([A-Za-z0-9/_+=.@-]{1,512})-[A-Za-z0-9]{6}")


class NotAJobError(Exception):
    """A message in the queue that neither dispatch nor a worker sent."""

    def __init__(self) -> None:
        super().__init__("a message of the queue is not a job")


@dataclass(frozen=True, slots=True)
class Job:
    """A secret that needs a run.

    ``session_id`` is the ARN of its session secret, if it has one. ``obstacle`` is the reason for
    which the run is bound to fail, if one is known (see ``qwen_token.fleet``). ``force`` replaces
    the token even if it is not due; ``check`` tests a token that is not due with the API. An
    ``urgent`` job's token expires too soon for a later sweep to help. ``postponed`` counts, up to
    ``POSTPONEMENTS``, how often trouble with the API postponed the run. A job that ``waits`` was
    postponed until its turn to sign in.
    """

    secret_id: str
    session_id: str | None = None
    obstacle: str | None = None
    force: bool = False
    check: bool = False
    urgent: bool = False
    postponed: int = 0
    waits: bool = False

    @classmethod
    def from_body(cls, body: str, *, secrets: str) -> Self:
        """Read a message; ``secrets`` is the ARN prefix of this account's secrets in this region.

        Anybody who may send to the queue can write anything into a message, and parts of a job
        appear in alerts, so the message is checked strictly.

        Raises:
            NotAJobError: neither dispatch nor a worker sent the message. The error quotes none of
                it.
        """
        try:
            if len(body) > _LONGEST_BODY:
                raise NotAJobError
            members = json.loads(body, object_pairs_hook=_members)
            job = cls(**members)
            if job.is_valid(secrets):
                return job
        except (TypeError, ValueError, RecursionError):
            # Not JSON, not an object, or wrong members. The original error may quote the message.
            raise NotAJobError from None
        raise NotAJobError

    def is_valid(self, secrets: str) -> bool:
        """Return whether dispatch or a worker could have written each of these values."""
        name = _name_in(self.secret_id, secrets)
        return (
            name is not None
            and (
                self.session_id is None or _name_in(self.session_id, secrets) == session_name(name)
            )
            and all(
                type(flag) is bool for flag in (self.force, self.check, self.urgent, self.waits)
            )
            and isinstance(self.obstacle, str | None)
            and (self.obstacle is None or obstacle_in_words(self.obstacle, self.secret_id) != "")
            # Not isinstance, which would accept True.
            and type(self.postponed) is int
            and 0 <= self.postponed <= POSTPONEMENTS
        )

    def body(self) -> str:
        """Return the job as the body of a message."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Unsent:
    """Jobs that could not be queued, and the error of the first one."""

    jobs: tuple[Job, ...]
    error: StoreError


def send(jobs: Iterable[tuple[Job, int]], *, client: "SQSClient", queue_url: str) -> Unsent | None:
    """Queue each job with its delay in seconds; return those that could not be queued, if any.

    If the queue refuses some jobs, the others are still queued. If a call fails, no more are made.
    """
    unsent: list[Job] = []
    failure: StoreError | None = None
    batches = batched(jobs, _BATCH, strict=False)
    for batch in batches:
        try:
            refused = _send(batch, client, queue_url)
        except StoreError as error:
            unsent += [job for each in (batch, *batches) for job, _ in each]
            failure = failure or error
            break
        for each in refused:
            unsent.append(batch[int(each["Id"])][0])
            failure = failure or _refusal(each)
    return None if failure is None else Unsent(tuple(unsent), failure)


def hide(
    receipts: Sequence[str], seconds: int, *, client: "Callable[[], SQSClient]", queue_url: str
) -> None:
    """Make received messages visible again in ``seconds``, unless they are deleted before that.

    Raises:
        StoreError: the queue refused or failed. The messages keep their old visibility timeout.
    """
    for batch in batched(receipts, _BATCH, strict=False):
        with translated(_HIDE, by="SQS"):
            refused = (
                client()
                .change_message_visibility_batch(
                    QueueUrl=queue_url,
                    Entries=[
                        {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                        for number, receipt in enumerate(batch)
                    ],
                )
                .get("Failed", ())
            )
        if refused:
            raise StoreError(f"SQS could not {_HIDE}: {code_in(refused[0]['Code'])}")


def _send(
    batch: Sequence[tuple[Job, int]], client: "SQSClient", queue_url: str
) -> "list[BatchResultErrorEntryTypeDef]":
    """Queue a batch; return the entries that the queue refused for good, or twice."""
    entries: list[SendMessageBatchRequestEntryTypeDef] = [
        {"Id": str(number), "MessageBody": job.body(), "DelaySeconds": seconds}
        for number, (job, seconds) in enumerate(batch)
    ]
    # boto3 does not retry single messages: a call that refuses some of them still succeeds.
    with translated(_STEP, by="SQS"):
        refused = _send_batch(entries, client, queue_url)
        again = {each["Id"] for each in refused if not each["SenderFault"]}
        if not again:
            return list(refused)
        repeated = [entry for entry in entries if entry["Id"] in again]
        return [
            *(each for each in refused if each["SenderFault"]),
            *_send_batch(repeated, client, queue_url),
        ]


def _refusal(refused: "BatchResultErrorEntryTypeDef") -> StoreError:
    return StoreError(f"SQS could not {_STEP}: {code_in(refused['Code'])}")


def secrets_of(function_arn: str) -> str:
    """Return the ARN prefix of all secrets in a function's account and region."""
    arn, partition, _, region, account, *_ = function_arn.split(":")
    return f"{arn}:{partition}:secretsmanager:{region}:{account}:secret:"


def _name_in(secret_id: object, secrets: str) -> str | None:
    """Return the secret's name if this is the ARN of a secret with that prefix, else None."""
    if not isinstance(secret_id, str) or not secret_id.startswith(secrets):
        return None
    found = _NAME.fullmatch(secret_id.removeprefix(secrets))
    return None if found is None else found[1]


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
    """Return a random delay between the two, in whole seconds, within SQS's limit."""
    return max(0, min(LONGEST_DELAY, round(random.uniform(least, most))))  # noqa: S311 - no secret
