"""The lease and the runs' memory beside a local token: in a text that holds no secret."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from qwen_token.document import json_object
from qwen_token.errors import StoreError
from qwen_token.ledger import LONGEST_LEASE, Leased
from qwen_token.run_memory import RunMemory

from .text_place import TextPlace

# A new id after each start of the machine; absent on systems without one.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Lease:
    """Who has the lease, and until when, by two clocks.

    ``ends`` is of a clock that nobody sets and that all processes of the machine share, since
    ``boot``. ``until``, of the wall clock, is for other machines, and for this one after a restart.
    """

    owner: str
    until: datetime
    boot: str | None = None
    ends: float = 0.0

    def holds(self, *, now: datetime, boot: str | None, elapsed: float) -> bool:
        """Return whether its owner may still be running."""
        left = self.until - now
        if boot is not None and boot == self.boot:
            left = timedelta(seconds=self.ends - elapsed)
        return timedelta(0) < left <= LONGEST_LEASE


@dataclass(frozen=True, slots=True)
class _Entry:
    """The memory and the lease."""

    memory: RunMemory
    lease: _Lease | None = None


class TextState:
    """A ledger's ``State`` in a place for one text. Every method raises StoreError on a failure.

    ``elapsed`` is a clock that nobody sets and that all processes of this machine share. Without
    it, only the wall clock decides whether a lease has expired.
    """

    def __init__(self, place: TextPlace, *, elapsed: Callable[[], float] | None = None) -> None:
        self._place = place
        self._elapsed = elapsed

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        """Take the lease, or return None if another run has it. An expired one is taken over."""
        leased: Leased | None = None
        boot, elapsed = (None, 0.0) if self._elapsed is None else (_boot_id(), self._elapsed())
        lease = _Lease(owner, until, boot, elapsed + (until - now).total_seconds())

        def take(found: _Entry) -> _Entry | None:
            nonlocal leased
            if found.lease and found.lease.holds(now=now, boot=boot, elapsed=elapsed):
                return None
            leased = Leased(found.memory, taken_over=found.lease is not None)
            return _Entry(found.memory, lease)

        return leased if self._change(take) else None

    def read(self) -> RunMemory:
        """Return the memory, without taking the lease."""
        return _entry(self._place.load()).memory

    def write(self, owner: str, memory: RunMemory) -> None:
        """Write the memory, and keep the lease. Raises StoreError if the lease was lost, too."""
        if not self._change(lambda found: _of_owner(found, owner, memory, found.lease)):
            raise StoreError("another process took the lease over, as this run took too long")

    def release(self, owner: str, memory: RunMemory) -> None:
        """Write the memory and release the lease. Does nothing if the lease was lost."""
        self._change(lambda found: _of_owner(found, owner, memory, None))

    def _change(self, changed: Callable[[_Entry], _Entry | None]) -> bool:
        """Write the result of ``changed``, called with the entry; return False if that is None."""
        while True:
            text = self._place.load()
            entry = changed(_entry(text))
            if entry is None:
                return False
            if self._place.save(_text(entry), over=text):
                return True


def _of_owner(found: _Entry, owner: str, memory: RunMemory, lease: _Lease | None) -> _Entry | None:
    if found.lease is None or found.lease.owner != owner:
        return None
    return _Entry(memory, lease)


def _boot_id() -> str | None:
    with suppress(OSError):
        return _BOOT_ID.read_text().strip() or None
    return None


def _text(entry: _Entry) -> str:
    document: dict[str, object] = {"memory": json.loads(entry.memory.to_json())}
    if (lease := entry.lease) is not None:
        document |= {"lease_owner": lease.owner, "lease_until": lease.until.timestamp()}
        if lease.boot is not None:
            document |= {"lease_boot": lease.boot, "lease_ends": lease.ends}
    return json.dumps(document)


def _entry(text: str | None) -> _Entry:
    if text is None or not text.strip():
        return _Entry(RunMemory())
    try:
        document = json_object(text) or {}
        memory = RunMemory.from_json(json.dumps(document["memory"]))
        owner, boot = document.get("lease_owner"), document.get("lease_boot")
        if owner is None:
            return _Entry(memory)
        until = datetime.fromtimestamp(float(str(document.get("lease_until"))), UTC)
        if boot is None:
            return _Entry(memory, _Lease(str(owner), until))
        ends = float(str(document.get("lease_ends")))
        return _Entry(memory, _Lease(str(owner), until, str(boot), ends))
    except (KeyError, ValueError, OverflowError):
        raise StoreError(
            "the state beside the token is not one that this release wrote: delete it (a "
            "FileStore's is the file '<name>.state'), and the next run begins a new one"
        ) from None
