"""The marks on the members' items in the state table: which are queued, and which were checked.

A member is marked as queued only when it falls due, so a member that is fresh for days costs no
write. The mark names the secret's current version: a new version, whoever wrote it, makes the mark
void. A run that takes the lease removes the mark. Otherwise the mark ends when the token expires,
but at least five minutes and at most half an hour after the job was due. If the job was lost, the
next sweep then queues another one. A second job is harmless: it waits for the lease, and finds a
fresh token.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from keeper_runtime.state_table import FORGET_AFTER, Items, number

# How long after its due time a job is assumed to be still in the queue.
_QUEUED_AT_LEAST: Final = timedelta(minutes=5)
_QUEUED_AT_MOST: Final = timedelta(minutes=30)
# A mark that ends later than this was set by a wrong clock, and is ignored.
_LONGEST: Final = timedelta(hours=24)
# The least time between two checks of a member: under a day, because a sweep may come a bit early.
CHECK_EVERY: Final = timedelta(hours=23)
_MARK: Final = "SET queued_until = :until, queued_for = :version, expires_at = :forget"
_MARKING: Final = "mark what is queued"


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of all members. Every method raises StoreError if DynamoDB refuses or fails."""

    items: Items

    def queue(
        self, secret_id: str, version_id: str, *, delay: int, expires_at: datetime | None
    ) -> bool:
        """Mark a member whose job is due in ``delay`` seconds; return False if a mark still holds.

        ``expires_at`` is when the member's token expires, if known.
        """
        now = self.items.clock()
        return self.items.update_if(
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
        """Mark a member whose job a worker queued again; the mark lasts as long as any may."""
        self.items.update_if(
            secret_id,
            update=_MARK,
            values=_mark(self.items.clock(), version_id, delay, None),
            step=_MARKING,
        )

    def check(self, secret_id: str) -> bool:
        """Mark a member as checked; return False if it was checked less than 23 hours ago."""
        now = self.items.clock()
        return self.items.update_if(
            secret_id,
            update="SET check_after = :after, expires_at = :forget",
            condition=(
                "attribute_not_exists(check_after) OR check_after <= :now OR check_after > :beyond"
            ),
            values={
                ":after": number(now + CHECK_EVERY),
                ":forget": number(now + FORGET_AFTER),
                ":now": number(now),
                ":beyond": number(now + _LONGEST),
            },
            step="mark what is checked",
        )

    def done(self, secret_id: str) -> None:
        """Remove the mark of a job that ended without taking the lease."""
        self.items.update_if(
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
        ":forget": number(now + FORGET_AFTER),
    }
