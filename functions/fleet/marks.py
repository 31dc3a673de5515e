"""The marks on the members' items in the state table: what is queued, and what was checked.

Only a member that falls due gets one, so that a member that is fresh for days costs no write. The
mark that a member is queued is of the version that is current: a new one, whoever wrote it, lifts
it. So does a run that takes the lease, and else half an hour.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from keeper_runtime.state_table import number, update_if

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# For so long after it was to be done, a job is taken to be still in the queue.
_QUEUED_FOR: Final = timedelta(minutes=30)
# A mark that ends later was set by a clock that was wrong.
_LONGEST: Final = timedelta(hours=24)
# Between two checks of one member. Sweeps come a little early, or late.
CHECK_EVERY: Final = timedelta(hours=23)
_FORGET_AFTER: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of all members. Every method raises StoreError where DynamoDB refuses or fails."""

    client: Callable[[], "DynamoDBClient"]
    table: str
    clock: Callable[[], datetime]

    def queue(self, secret_id: str, version_id: str, *, delay: int) -> bool:
        """Mark a member as queued for so many seconds; return False where it was queued before."""
        now = self.clock()
        return update_if(
            self.client(),
            self.table,
            secret_id,
            update="SET queued_until = :until, queued_for = :version, expires_at = :forget",
            condition=(
                "attribute_not_exists(queued_until) OR queued_until <= :now "
                "OR queued_until > :beyond OR queued_for <> :version"
            ),
            values={
                ":until": number(now + timedelta(seconds=delay) + _QUEUED_FOR),
                ":version": {"S": version_id},
                ":forget": number(now + _FORGET_AFTER),
                ":now": number(now),
                ":beyond": number(now + _LONGEST),
            },
            step="mark what is queued",
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
