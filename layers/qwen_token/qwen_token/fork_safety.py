"""What a forked child must not take over: locks that nobody frees there, connections, threads."""

import os
import weakref
from typing import Final, Protocol


class Forked(Protocol):
    """Something that makes itself usable in a child process."""

    def after_fork(self) -> None:
        """Forget what a thread of the parent may hold, or be talking over."""


_instances: Final["weakref.WeakSet[Forked]"] = weakref.WeakSet()


def renew_after_fork(instance: Forked) -> None:
    """Have ``instance.after_fork()`` called in every child, as long as it is used here."""
    _instances.add(instance)


def _after_fork() -> None:
    for instance in _instances:
        instance.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
