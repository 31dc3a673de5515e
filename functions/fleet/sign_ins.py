"""Turns to sign in: one in 45 seconds for the whole stack, and none for an hour after trouble."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from keeper_runtime.state_table import Items, number

# About twelve sign-ins in six minutes from one address bring a challenge.
SIGN_IN_EVERY: Final = timedelta(seconds=45)
REST: Final = timedelta(hours=1)
# Cannot collide with a member's key, which is an ARN.
KEY: Final = "fleet:sign-in"

_UPDATE: Final = "SET next_turn = :next"


@dataclass(frozen=True, slots=True)
class SignIns:
    """The stack's turns. Every method raises StoreError if DynamoDB refuses or fails."""

    items: Items

    def take_turn(self) -> datetime | None:
        """Take the turn and return None, or return the time of the next turn if it is not free."""
        now = self.items.clock()
        taken = self.items.update_if(
            KEY,
            update=_UPDATE,
            # A turn later than the end of any rest was set by a wrong clock.
            condition=(
                "attribute_not_exists(next_turn) OR next_turn <= :now OR next_turn > :beyond"
            ),
            values={
                # Stored as whole seconds; one more, so that no turn comes too early.
                ":next": number(now + SIGN_IN_EVERY + timedelta(seconds=1)),
                ":now": number(now),
                ":beyond": number(now + REST + timedelta(minutes=1)),
            },
            step="take a turn to sign in",
        )
        return None if taken else self.next_turn()

    def next_turn(self) -> datetime:
        """Return the time of the next turn, which is now if the turn is free."""
        now = self.items.clock()
        item = self.items.get(KEY, step="see whose turn it is to sign in")
        at = int(item.get("next_turn", {}).get("N", 0))
        return max(now, datetime.fromtimestamp(at, UTC))

    def rest(self) -> None:
        """Block all sign-ins for an hour."""
        now = self.items.clock()
        self.items.update_if(
            KEY,
            update=_UPDATE,
            values={":next": number(now + REST)},
            step="have sign-ins rest",
        )


@dataclass(slots=True)
class Turn:
    """One job's turn, taken before the keeper signs in; ``next_at`` is set if it has to wait."""

    sign_ins: SignIns
    is_blocked: Callable[[], bool]
    next_at: datetime | None = field(default=None)

    def __call__(self) -> datetime | None:
        """Take the turn and return None, or return when to try again if it is not free."""
        if self.is_blocked():
            self.next_at = self.sign_ins.items.clock() + SIGN_IN_EVERY
        else:
            self.next_at = self.sign_ins.take_turn()
        return self.next_at
