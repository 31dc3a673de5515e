"""A place for one text: what it promises, and how one of the program's own is called."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from qwen_token.errors import QwenTokenError, StoreError

from .events import place


class TextPlace(Protocol):
    """A place for one text. Each call raises StoreError where the place fails."""

    def load(self) -> str | None:
        """Return the text, or None while there is none."""
        ...

    def save(self, text: str, *, over: str | None) -> bool:
        """Put ``text`` in the place of the text ``over`` (None: of none), wholly or not at all.

        Returns False, and changes nothing, where another text is there by now.
        """
        ...


def require_text(found: object) -> str | None:
    """Return what a place of the program's own holds, if that is a text or nothing."""
    if found is not None and not isinstance(found, str):
        raise TypeError
    return found


@contextmanager
def translated_store(what: str) -> Iterator[None]:
    """Raise whatever a store of the program's own raises as a StoreError.

    It says where that was raised, and not its text, which may hold a token.
    """
    try:
        yield
    except QwenTokenError:
        raise
    except Exception as error:  # noqa: BLE001 - the program's code may raise anything
        raise StoreError(f"the store could not be {what}: {place(error)}", may_pass=True) from None


class GuardedPlace:
    """A place of the program's own, each failure of which is a StoreError."""

    def __init__(self, place: TextPlace) -> None:
        self._place = place

    def load(self) -> str | None:
        with translated_store("read"):
            return require_text(self._place.load())

    def save(self, text: str, *, over: str | None) -> bool:
        with translated_store("written"):
            return self._place.save(text, over=over)
