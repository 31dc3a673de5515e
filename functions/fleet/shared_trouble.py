"""Trouble with Qwen's hosts: one incident for all members, with the number of those affected.

A blocked address, a limit or an outage affects every member. The incident has an item of its own in
the state table; a member's item only records that the member is affected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from qwen_token.errors import QwenTokenError, RunFacts, StoreError
from qwen_token.run_report import Outcome, Report

if TYPE_CHECKING:
    from keeper_runtime.owner import Due, Owner
    from qwen_token.ledger import Ledger
    from qwen_token.policy import AlertPolicy
    from qwen_token.run_memory import RunMemory

# Cannot collide with a member's key, which is an ARN.
KEY: Final = "fleet:upstream"
# The incident ends when a host answers a member and no member has met trouble for this long. The
# wait matters when Qwen limits single accounts and goes on serving the others.
_OVER_AFTER: Final = timedelta(minutes=20)


@dataclass(frozen=True, slots=True)
class SharedTrouble:
    """The shared incident; ``ledger`` opens its item, ``peek`` reads the item without the lease."""

    owner: "Owner"
    ledger: "Ledger"
    peek: Callable[[], "RunMemory"]
    policy: "AlertPolicy"

    def met(self, failures: Sequence[tuple[str, QwenTokenError, "Ledger"]]) -> "list[Due]":
        """Record the failures of members that met the trouble; return what to publish."""
        now, memory = self.ledger.now(), self.ledger.history()
        known = memory.affected if memory.incident is not None else 0
        for secret_id, error, own in failures:
            before = own.history().incident
            begun = (
                memory.incident is None or before is None or before.since < memory.incident.since
            )
            known += begun
            # Log the failure, and record it in the member's item, but publish nothing for it.
            self.owner.failed(error, secret_id=secret_id, ledger=own, policy=self.policy)
        self.ledger.remember(replace(memory, affected=known, troubled_at=now))
        secret_id, worst = _worst(failures)
        many = "" if known == 1 else f"; {known} members of the fleet have met this so far"
        # Without the version: the incident must not end when this one member's version changes.
        facts = replace(worst.facts or RunFacts(), version_id=None)
        shared = type(worst)(f"{worst}{many}").of_run(facts, expires_at=worst.expires_at)
        return self.owner.failed(
            shared, secret_id=secret_id, ledger=self.ledger, policy=self.policy
        )[1]

    def is_over_by(self, endings: Sequence[Report | QwenTokenError]) -> "list[Due]":
        """End the incident if it is over, after runs without trouble; return what to publish."""
        if not any(
            isinstance(each, Report) and each.outcome in {Outcome.REFRESHED, Outcome.CHECKED}
            for each in endings
        ):
            return []
        try:
            # There is usually no incident, and reading the item takes no lease.
            if not self._is_over(self.peek()):
                return []
        except StoreError:
            # A later batch can end the incident.
            return []
        memory = self.ledger.history()
        if not self._is_over(memory):
            return []
        self.ledger.remember(memory)
        over = Report(Outcome.SUPERSEDED, None)
        return self.owner.succeeded(over, None, self.ledger, self.policy)

    def _is_over(self, memory: "RunMemory") -> bool:
        last = memory.troubled_at
        is_quiet = last is None or self.ledger.now() - last >= _OVER_AFTER
        return memory.incident is not None and is_quiet


def _worst(failures: Sequence[tuple[str, QwenTokenError, "Ledger"]]) -> tuple[str, QwenTokenError]:
    """Return the failure of the member whose token expires first."""

    def ends(failure: tuple[str, QwenTokenError, "Ledger"]) -> float:
        expires_at = failure[1].expires_at
        return float("inf") if expires_at is None else expires_at.timestamp()

    secret_id, error, _ = min(failures, key=ends)
    return secret_id, error
