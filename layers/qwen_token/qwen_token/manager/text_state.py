"""The lease and the runs' memory beside a local token: in a text that holds no secret."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from qwen_token.document import json_object
from qwen_token.errors import StoreError
from qwen_token.ledger import Leased
from qwen_token.run_memory import RunMemory

from .owner_file import TextPlace

# Of a lease that lasts longer, the clock was set back since: it is not waited for.
_LONGEST_LEASE: Final = timedelta(minutes=20)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Who has the lease, until when, and what is remembered."""

    memory: RunMemory
    owner: str | None = None
    until: datetime | None = None


class TextState:
    """A ledger's ``State`` in a place for one text. Every method raises StoreError on a failure."""

    def __init__(self, place: TextPlace) -> None:
        self._place = place

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        """Take the lease, if no other run has it (None); one whose time is over is taken over."""
        leased: Leased | None = None

        def take(found: _Entry) -> _Entry | None:
            nonlocal leased
            left = timedelta(0) if found.until is None else found.until - now
            if timedelta(0) < left <= _LONGEST_LEASE:
                return None
            leased = Leased(found.memory, taken_over=found.owner is not None)
            return _Entry(found.memory, owner, until)

        return leased if self._change(take) else None

    def read(self) -> RunMemory:
        """Return what is remembered, without the lease."""
        return _entry(self._place.load()).memory

    def write(self, owner: str, memory: RunMemory) -> None:
        """Write the memory, and keep the lease. Raises StoreError also where the lease was lost."""
        if not self._change(lambda found: _of_owner(found, owner, memory, found.until)):
            raise StoreError("another process took the lease over, as this run took too long")

    def release(self, owner: str, memory: RunMemory) -> None:
        """Write the memory, and give the lease back. A lease that was lost changes nothing."""
        self._change(lambda found: _of_owner(found, owner, memory, None))

    def _change(self, changed: Callable[[_Entry], _Entry | None]) -> bool:
        """Write what ``changed`` makes of the entry; return False where it makes nothing of it."""
        while True:
            text = self._place.load()
            entry = changed(_entry(text))
            if entry is None:
                return False
            if self._place.save(_text(entry), over=text):
                return True


def _of_owner(
    found: _Entry, owner: str, memory: RunMemory, until: datetime | None
) -> _Entry | None:
    if found.owner != owner:
        return None
    return _Entry(memory) if until is None else _Entry(memory, owner, until)


def _text(entry: _Entry) -> str:
    document: dict[str, object] = {"memory": json.loads(entry.memory.to_json())}
    if entry.owner is not None and entry.until is not None:
        document |= {"lease_owner": entry.owner, "lease_until": entry.until.timestamp()}
    return json.dumps(document)


def _entry(text: str | None) -> _Entry:
    if text is None or not text.strip():
        return _Entry(RunMemory())
    try:
        document = json_object(text) or {}
        memory = RunMemory.from_json(json.dumps(document["memory"]))
        owner, until = document.get("lease_owner"), document.get("lease_until")
        if owner is None:
            return _Entry(memory)
        return _Entry(memory, str(owner), datetime.fromtimestamp(float(str(until)), UTC))
    except (KeyError, ValueError, OverflowError):
        raise StoreError(
            "the state beside the token is not one that this release wrote: delete it (a "
            "FileStore's is the file '<name>.state'), and the next run begins a new one"
        ) from None
