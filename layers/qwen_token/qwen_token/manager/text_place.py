"""A place for one text: its interface, and how a program's own implementation is called."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from qwen_token.errors import QwenTokenError, StoreError

from .events import place


class TextPlace(Protocol):
    """A place for one text. Each call raises StoreError if the place fails."""

    def load(self) -> str | None:
        """Return the text, or None if there is none."""
        ...

    def save(self, text: str, *, over: str | None) -> bool:
        """Replace the text ``over`` (None: there was none) by ``text``, atomically.

        Returns False, and changes nothing, if another text is there by now.
        """
        ...


def require_text(found: object) -> str | None:
    """Return the content of a program's own place, if that is a text or None."""
    if found is not None and not isinstance(found, str):
        raise TypeError
    return found


@contextmanager
def translated_store(what: str) -> Iterator[None]:
    """Translate any exception of a program's own store to a StoreError.

    Its message says where the exception was raised, but not its text, which may hold a token.
    """
    try:
        yield
    except QwenTokenError:
        raise
    except Exception as error:  # noqa: BLE001 - the program's code may raise anything
        raise StoreError(f"the store could not be {what}: {place(error)}", may_pass=True) from None


class GuardedPlace:
    """A program's own place. Each of its failures becomes a StoreError."""

    def __init__(self, place: TextPlace) -> None:
        self._place = place

    def load(self) -> str | None:
        with translated_store("read"):
            return require_text(self._place.load())

    def save(self, text: str, *, over: str | None) -> bool:
        with translated_store("written"):
            return self._place.save(text, over=over)
