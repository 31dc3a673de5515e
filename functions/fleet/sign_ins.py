"""The turns to sign in: one in so many seconds for the whole stack, and none after a challenge."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from keeper_runtime.state_table import get_item, number, update_if

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# About twelve sign-ins in six minutes from one address bring a challenge.
SIGN_IN_EVERY: Final = timedelta(seconds=45)
REST: Final = timedelta(hours=1)
# No member's item: an ARN has no such beginning.
KEY: Final = "fleet:sign-in"

_UPDATE: Final = "SET next_turn = :next"


@dataclass(frozen=True, slots=True)
class SignIns:
    """The stack's turns. Every method raises StoreError where DynamoDB refuses or fails."""

    client: Callable[[], "DynamoDBClient"]
    table: str
    clock: Callable[[], datetime]

    def take_turn(self) -> datetime | None:
        """Take the turn, if it is free (None); else return when the next one is."""
        now = self.clock()
        taken = update_if(
            self.client(),
            self.table,
            KEY,
            update=_UPDATE,
            # Later than any rest ends: by a clock that was wrong.
            condition=(
                "attribute_not_exists(next_turn) OR next_turn <= :now OR next_turn > :beyond"
            ),
            values={
                # A whole second, and not earlier.
                ":next": number(now + SIGN_IN_EVERY + timedelta(seconds=1)),
                ":now": number(now),
                ":beyond": number(now + REST + timedelta(minutes=1)),
            },
            step="take a turn to sign in",
        )
        return None if taken else self.next_turn()

    def next_turn(self) -> datetime:
        """Return when the next turn is; the present where it is free."""
        now = self.clock()
        item = get_item(self.client(), self.table, KEY, step="see whose turn it is to sign in")
        at = int(item.get("next_turn", {}).get("N", 0))
        return max(now, datetime.fromtimestamp(at, UTC))

    def rest(self) -> None:
        """Have nobody sign in for an hour: the host answered with a challenge."""
        now = self.clock()
        update_if(
            self.client(),
            self.table,
            KEY,
            update=_UPDATE,
            values={":next": number(now + REST)},
            step="have sign-ins rest",
        )


@dataclass(slots=True)
class Turn:
    """One job's turn: a keeper calls it before it signs in. ``next_at``: it has to wait."""

    sign_ins: SignIns
    is_blocked: Callable[[], bool]
    next_at: datetime | None = field(default=None)

    def __call__(self) -> datetime | None:
        """Take the turn, or return when the next one is, also where the host is not asked now."""
        if self.is_blocked():
            self.next_at = self.sign_ins.clock() + SIGN_IN_EVERY
        else:
            self.next_at = self.sign_ins.take_turn()
        return self.next_at
