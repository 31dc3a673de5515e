"""The queue between dispatch and the workers: one errand for each secret that needs a run."""

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import batched
from typing import TYPE_CHECKING, Final, Self

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# SQS delays no message for longer (in seconds), and takes no more of them in one call.
LONGEST_DELAY: Final = 900
_BATCH: Final = 10


@dataclass(frozen=True, slots=True)
class Errand:
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
        errand = cls(**json.loads(body))
        if not (
            isinstance(errand.secret_id, str)
            and isinstance(errand.obstacle, str | None)
            and type(errand.postponed) is int
        ):
            raise TypeError("a message of the queue is no errand: a value is of a wrong type")
        return errand

    def body(self) -> str:
        """Return the message."""
        return json.dumps(asdict(self))


def send(errands: Iterable[tuple[Errand, int]], *, client: "SQSClient", queue_url: str) -> None:
    """Queue each errand with its delay in seconds. Raises whatever boto3 raises."""
    for batch in batched(errands, _BATCH, strict=False):
        answer = client.send_message_batch(
            QueueUrl=queue_url,
            Entries=[
                {"Id": str(number), "MessageBody": errand.body(), "DelaySeconds": seconds}
                for number, (errand, seconds) in enumerate(batch)
            ],
        )
        # The call as a whole succeeds even where a message was refused.
        for refused in answer.get("Failed", ()):
            raise ClientError(
                {"Error": {"Code": refused["Code"], "Message": refused.get("Message", "")}},
                "SendMessageBatch",
            )


def delay(least: float, most: float) -> int:
    """Return a delay in whole seconds, at random in between, as far as SQS delays."""
    return min(LONGEST_DELAY, round(random.uniform(least, most)))  # noqa: S311 - no secret
