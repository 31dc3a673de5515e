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

# SQS delays no message for longer (in seconds), and takes no more of them in one call.
LONGEST_DELAY: Final = 900
_BATCH: Final = 10
# How often a job is put off by trouble with the API before that is reported. An urgent one is still
# put off then; any other is left to the next sweep.
POSTPONEMENTS: Final = 3

# A job has about 200 characters, and the longest name of a secret 512. It may name two.
_LONGEST_BODY: Final = 2048
_STEP: Final = "queue the jobs"
_HIDE: Final = "set when the jobs are delivered again"
# A secret's name in an ARN, with the six characters that AWS adds.
_NAME: Final = re.compile(r"([A-Za-z0-9/_+=.@-]{1,512})-[A-Za-z0-9]{6}")


class NotAJobError(Exception):
    """A message of the queue that is none of ours."""

    def __init__(self) -> None:
        super().__init__("a message of the queue is not a job")


@dataclass(frozen=True, slots=True)
class Job:
    """A secret that needs a run.

    ``session_id`` is the ARN of its session secret, if it has one. ``obstacle`` is why the run can
    only fail, where that is known (see ``qwen_token.fleet``). ``force`` has the token replaced
    before it is due, and ``check`` has one that is not due tried with the API. ``urgent`` says that
    the token expires too soon for a later sweep to help. ``postponed`` counts, up to
    ``POSTPONEMENTS``, how often the run was put off because the API could not be asked; ``waits``
    says that it waits for its turn to sign in.
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
            # True is an int, too.
            and type(self.postponed) is int
            and 0 <= self.postponed <= POSTPONEMENTS
        )

    def body(self) -> str:
        """Return the message."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Unsent:
    """Jobs that are not in the queue, and why the first of them is not."""

    jobs: tuple[Job, ...]
    error: StoreError


def send(jobs: Iterable[tuple[Job, int]], *, client: "SQSClient", queue_url: str) -> Unsent | None:
    """Queue each job with its delay in seconds; return those that could not be queued, if any.

    Whatever the queue refuses, the others are queued. Where it fails, it is not asked again.
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
    """Have messages that were received delivered again in ``seconds``, unless they are deleted.

    Raises:
        StoreError: the queue refused or failed. The messages keep the timeout that they had.
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
    """Queue a batch; return what the queue refused, for good or twice."""
    entries: list[SendMessageBatchRequestEntryTypeDef] = [
        {"Id": str(number), "MessageBody": job.body(), "DelaySeconds": seconds}
        for number, (job, seconds) in enumerate(batch)
    ]
    # The call as a whole succeeds even where it refuses messages, and boto3 repeats calls only.
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
    """Return what the ARNs of the secrets beside a function begin with."""
    arn, partition, _, region, account, *_ = function_arn.split(":")
    return f"{arn}:{partition}:secretsmanager:{region}:{account}:secret:"


def _name_in(secret_id: object, secrets: str) -> str | None:
    """Return the name in the ARN of a secret of this account here, None for anything else."""
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
    """Return a delay in whole seconds, at random in between, as far as SQS delays."""
    return max(0, min(LONGEST_DELAY, round(random.uniform(least, most))))  # noqa: S311 - no secret
