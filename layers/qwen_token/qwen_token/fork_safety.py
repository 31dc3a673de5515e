"""What a forked child must not inherit: locks that nobody releases there, connections, threads."""

import os
import weakref
from typing import Final, Protocol


class Forked(Protocol):
    """An object that makes itself usable in a child process."""

    def after_fork(self) -> None:
        """Drop locks and connections that a thread of the parent may be using."""


_instances: Final["weakref.WeakSet[Forked]"] = weakref.WeakSet()


def renew_after_fork(instance: Forked) -> None:
    """Call ``instance.after_fork()`` in every child, as long as the instance exists."""
    _instances.add(instance)


def _after_fork() -> None:
    for instance in _instances:
        instance.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
