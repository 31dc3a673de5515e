"""The ledger of one secret: the lease, under which one run at a time spends the login, and the
memory that the runs share.
"""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from typing import Final, Protocol

from .errors import StoreError
from .run_memory import Incident, RunMemory, latest

# Added to a run's time limit, because its clock and ours may differ.
_MARGIN: Final = timedelta(seconds=5)
# For runs without a time limit.
_LONGEST: Final = timedelta(minutes=15)
# No run takes a longer lease. One that seems longer comes from a wrong clock, and would keep all
# runs out for that long: it is ignored.
LONGEST_LEASE: Final = timedelta(minutes=20)
# How long, and how often, a run that has to report asks for the lease. Most runs take less.
_PATIENCE: Final = timedelta(seconds=10)
_ASKS_EVERY: Final = timedelta(seconds=0.25)


@dataclass(frozen=True, slots=True)
class Leased:
    """The lease is ours; with the memory. ``taken_over``: from a run that died."""

    memory: RunMemory
    taken_over: bool = False


class State(Protocol):
    """Where a ledger is stored. Every method raises StoreError if that fails."""

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        """Take the lease, or return None if another run has it. An expired one is taken over."""
        ...

    def read(self) -> RunMemory:
        """Return the memory, without taking the lease."""
        ...

    def write(self, owner: str, memory: RunMemory) -> None:
        """Write the memory, and keep the lease."""
        ...

    def release(self, owner: str, memory: RunMemory) -> None:
        """Write the memory and release the lease. Does nothing if the lease was lost."""
        ...


class Ledger:
    """One run's ledger: opened when it is first needed, and closed at the run's end.

    ``state`` is called when the ledger is opened; a run on a fresh token never opens it. ``wait``
    sleeps for a number of seconds; without it, this run does not wait for another one's lease.
    """

    def __init__(
        self,
        state: Callable[[], State],
        *,
        clock: Callable[[], datetime],
        time_left: Callable[[], timedelta],
        in_process: "UnsharedState | None" = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._state = state
        # Used instead of the state if that cannot be reached.
        self._in_process = in_process or UnsharedState()
        self._clock = clock
        self._time_left = time_left
        self._wait = wait
        self._owner = str(uuid.uuid4())
        self._failure: StoreError | None = None
        self.is_open = False
        self.opened_at = clock()
        self.memory = RunMemory()

    def now(self) -> datetime:
        """Return the time by the ledger's clock."""
        return self._clock()

    def open(self) -> bool:
        """Take the lease; return whether this run has it.

        Raises:
            StoreError: it is unknown whether another run has it.
        """
        if self.is_open:
            return True
        if self._failure is not None:
            raise self._failure.again()
        now = self._clock()
        try:
            leased = self._state().acquire(
                self._owner, now=now, until=now + min(self._time_left(), _LONGEST) + _MARGIN
            )
        except StoreError as error:
            self._failure = error
            raise
        if leased is None:
            return False
        self.is_open, self.opened_at = True, now
        self.memory = leased.memory.as_of(now)
        if leased.taken_over:
            # It died without recording what it did. These flags stay until a run has looked.
            self.memory = replace(self.memory, token_left_behind=True, session_left_behind=True)
        self.memory = self._with_unwritten(self.memory)
        return True

    def history(self) -> RunMemory:
        """Return the memory for the report, and take the lease for it if that is soon possible.

        Without the lease, other runs do not learn what this one publishes, and may repeat it. If
        the memory cannot be read, this process's own memory is used: an unknown history counts
        as empty.
        """
        try:
            if self._open_soon():
                return self.memory
            return self._with_unwritten(self._state().read().as_of(self._clock()))
        except StoreError:
            return self._in_process.read().as_of(self._clock())

    def _open_soon(self) -> bool:
        patience = min(_PATIENCE, self._time_left() / 4)
        while not self.open():
            if self._wait is None or patience < _ASKS_EVERY:
                return False
            self._wait(_ASKS_EVERY.total_seconds())
            patience -= _ASKS_EVERY
        return True

    def _with_unwritten(self, memory: RunMemory) -> RunMemory:
        """Add what runs of this process published without being able to write it."""
        if not self._in_process.is_unwritten:
            return memory
        known = self._in_process.memory.as_of(self._clock())
        incidents = [each.incident for each in (memory, known) if each.incident is not None]
        return replace(
            memory,
            incident=reduce(Incident.joined, incidents) if incidents else None,
            reminded=latest(memory.reminded, known.reminded),
        )

    def remember(self, memory: RunMemory) -> None:
        """Set what to write when the ledger is closed: what the run did and published.

        Without the lease, it stays in this process: the run that has the lease writes its own.
        """
        self.memory = memory
        self._in_process.memory, self._in_process.is_unwritten = memory, True

    def save(self) -> None:
        """Write the memory at once, before a step that must not happen twice.

        Raises:
            StoreError: it could not be written.
        """
        self._state().write(self._owner, self.memory)

    def close(self) -> None:
        """Write the memory and give the lease back, if this run has it.

        Raises:
            StoreError: it could not be written; the lease expires by itself.
        """
        if self.is_open:
            self.is_open = False
            self._state().release(self._owner, self.memory)
            self._in_process.is_unwritten = False


class UnsharedState:
    """A state in this process, for logins that no other process uses. Threads may share it.

    ``is_unwritten``: it replaced an unreachable state, which does not have its memory yet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.memory = RunMemory()
        self.is_unwritten = False
        self._owner: str | None = None
        self._until: datetime | None = None

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        with self._lock:
            is_held = self._owner is not None
            left = timedelta(0) if self._until is None else self._until - now
            if is_held and timedelta(0) < left <= LONGEST_LEASE:
                return None
            self._owner, self._until = owner, until
            return Leased(self.memory, taken_over=is_held)

    def read(self) -> RunMemory:
        return self.memory

    def write(self, owner: str, memory: RunMemory) -> None:
        with self._lock:
            if self._owner != owner:
                raise StoreError("another run took the lease over")
            self.memory = memory

    def release(self, owner: str, memory: RunMemory) -> None:
        with self._lock:
            if self._owner == owner:
                self.memory, self._owner = memory, None
