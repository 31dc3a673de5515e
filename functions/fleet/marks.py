"""The marks on the members' items in the state table: what is queued, and what was checked.

Only a member that falls due gets one, so that a member that is fresh for days costs no write. The
mark that a member is queued is of the version that is current: a new one, whoever wrote it, lifts
it. So does a run that takes the lease. Otherwise the mark ends when the token expires, five minutes
after the job was due at the earliest and half an hour at the latest: the next sweep then queues a
job that was lost. A second job is harmless: it waits for the lease, and finds a fresh token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from keeper_runtime.state_table import number, update_if

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# For how long after it was due a job is taken to be still in the queue.
_QUEUED_AT_LEAST: Final = timedelta(minutes=5)
_QUEUED_AT_MOST: Final = timedelta(minutes=30)
# A mark that ends later was set by a clock that was wrong.
_LONGEST: Final = timedelta(hours=24)
# Between two checks of one member. Sweeps come a little early, or late.
CHECK_EVERY: Final = timedelta(hours=23)
_FORGET_AFTER: Final = timedelta(days=90)
_MARK: Final = "SET queued_until = :until, queued_for = :version, expires_at = :forget"
_MARKING: Final = "mark what is queued"


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of all members. Every method raises StoreError where DynamoDB refuses or fails."""

    client: Callable[[], "DynamoDBClient"]
    table: str
    clock: Callable[[], datetime]

    def queue(
        self, secret_id: str, version_id: str, *, delay: int, expires_at: datetime | None
    ) -> bool:
        """Mark a member whose job is due in ``delay`` seconds; return False if it was marked.

        ``expires_at`` is when its token expires, if that is known.
        """
        now = self.clock()
        return update_if(
            self.client(),
            self.table,
            secret_id,
            update=_MARK,
            condition=(
                "attribute_not_exists(queued_until) OR queued_until <= :now "
                "OR queued_until > :beyond OR queued_for <> :version"
            ),
            values={
                **_mark(now, version_id, delay, expires_at),
                ":now": number(now),
                ":beyond": number(now + _LONGEST),
            },
            step=_MARKING,
        )

    def postpone(self, secret_id: str, version_id: str, *, delay: int) -> None:
        """Mark a member whose job a worker queued again, for as long as a mark may last."""
        update_if(
            self.client(),
            self.table,
            secret_id,
            update=_MARK,
            values=_mark(self.clock(), version_id, delay, None),
            step=_MARKING,
        )

    def check(self, secret_id: str) -> bool:
        """Mark a member as checked; return False where that was done lately."""
        now = self.clock()
        return update_if(
            self.client(),
            self.table,
            secret_id,
            update="SET check_after = :after, expires_at = :forget",
            condition=(
                "attribute_not_exists(check_after) OR check_after <= :now OR check_after > :beyond"
            ),
            values={
                ":after": number(now + CHECK_EVERY),
                ":forget": number(now + _FORGET_AFTER),
                ":now": number(now),
                ":beyond": number(now + _LONGEST),
            },
            step="mark what is checked",
        )

    def done(self, secret_id: str) -> None:
        """Take the mark of a job away that came to an end without the lease."""
        update_if(
            self.client(),
            self.table,
            secret_id,
            update="REMOVE queued_until, queued_for",
            condition="attribute_exists(queued_until)",
            values={},
            step="take a mark away",
        )


def _mark(
    now: datetime, version_id: str, delay: int, expires_at: datetime | None
) -> dict[str, Any]:
    due_at = now + timedelta(seconds=delay)
    lasts = _QUEUED_AT_MOST if expires_at is None else expires_at - due_at
    return {
        ":until": number(due_at + min(max(lasts, _QUEUED_AT_LEAST), _QUEUED_AT_MOST)),
        ":version": {"S": version_id},
        ":forget": number(now + _FORGET_AFTER),
    }
