"""A hidden prompt that reads a whole paste, of any length and any number of lines.

In line mode, which ``getpass`` uses, a terminal cuts a line at 4,095 characters; a copied request
is longer, and has many lines. POSIX only.
"""

import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

# A paste arrives in one burst, so a line end with no input for this long after it is the Enter key.
_QUIET_SECONDS: Final = 0.3
_READ_SIZE: Final = 65_536

# On request, a terminal marks the beginning and the end of a paste, whose line ends are not Enter.
_MARK_PASTES: Final = "\x1b[?2004h"
_MARK_NO_PASTES: Final = "\x1b[?2004l"
_PASTE_BEGINS: Final = b"\x1b[200~"
_PASTE_ENDS: Final = b"\x1b[201~"
_CLEAR_TO_THE_RIGHT: Final = "\x1b[K"

# The keys that the terminal itself handles, unless it passes on each character.
_END_OF_INPUT: Final = b"\x04"
_ERASE: Final = (b"\x7f", b"\x08")
_ERASE_ALL: Final = b"\x15"
# A line with such an ending continues on the next line: in bash, in cmd and in PowerShell.
_GOES_ON: Final = (b"\\\n", b"^\n", b"`\n")


def read_hidden(prompt: str, *, show_count: bool) -> bytes:
    """Return what was typed or pasted until Enter or Ctrl-D, without that key.

    None of it is shown; with ``show_count``, the number of characters is. The terminal's mode is
    restored even after an error, Ctrl-C or a signal that ends the process.

    Raises:
        EOFError: the terminal is gone.
    """
    keyboard, screen = sys.stdin.fileno(), sys.stderr
    is_terminal = screen.isatty()
    typed = _Typed()
    with _character_by_character(keyboard, screen if is_terminal else None):
        # Only now: input before the change of the mode would be shown or cut off.
        _say(screen, prompt)
        try:
            while not typed.is_over and not (typed.may_end and _is_quiet(keyboard)):
                typed.take(_read(keyboard))
                if show_count and is_terminal:
                    _say(screen, f"\r{prompt}{typed.count()}{_CLEAR_TO_THE_RIGHT}")
        finally:
            _say(screen, "\n")
    if show_count and not is_terminal:
        _say(screen, f"{typed.count()}\n")
    return typed.text()


class _Typed:
    """The input so far."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._in_paste = False
        self.is_over = False

    @property
    def may_end(self) -> bool:
        """Whether the last key may have been the final Enter."""
        return (
            not self._in_paste
            and self._bytes.endswith(b"\n")
            and not bytes(self._bytes).replace(b"\r", b"").endswith(_GOES_ON)
        )

    def take(self, chunk: bytes) -> None:
        for position in range(len(chunk)):
            self._take_one(chunk[position : position + 1])
            if self.is_over:
                # The rest is discarded when the terminal's mode is restored.
                return

    def _take_one(self, byte: bytes) -> None:
        if not self._in_paste and byte == _END_OF_INPUT:
            self.is_over = True
        elif not self._in_paste and byte in _ERASE:
            self._erase_character()
        elif not self._in_paste and byte == _ERASE_ALL:
            self._bytes.clear()
        else:
            self._bytes += byte
            for mark in (_PASTE_BEGINS, _PASTE_ENDS):
                if self._bytes.endswith(mark):
                    del self._bytes[-len(mark) :]
                    self._in_paste = mark == _PASTE_BEGINS

    def _erase_character(self) -> None:
        while self._bytes and _continues(self._bytes.pop()):
            pass

    def text(self) -> bytes:
        return bytes(self._bytes).removesuffix(b"\n")

    def count(self) -> str:
        """Show how much has arrived."""
        characters = sum(not _continues(byte) for byte in self.text())
        return f"received {characters:,} characters"


def _continues(byte: int) -> bool:
    """Return whether a byte continues a UTF-8 character."""
    return byte >> 6 == 0b10  # noqa: PLR2004 - UTF-8's own mark


def _is_quiet(keyboard: int) -> bool:
    return not select.select([keyboard], [], [], _QUIET_SECONDS)[0]


def _read(keyboard: int) -> bytes:
    try:
        chunk = os.read(keyboard, _READ_SIZE)
    except OSError:
        chunk = b""
    if not chunk:
        # Half a paste is not a login.
        raise EOFError
    return chunk


def _say(screen: TextIO, text: str) -> None:
    print(text, end="", file=screen, flush=True)


@contextmanager
def _character_by_character(keyboard: int, screen: TextIO | None) -> Iterator[None]:
    """Have the terminal show nothing and cut nothing; always restore its mode."""
    before = termios.tcgetattr(keyboard)

    def restore() -> None:
        # The terminal may be gone.
        with suppress(termios.error, OSError):
            if screen is not None:
                _say(screen, _MARK_NO_PASTES)
        with suppress(termios.error):
            # The unread rest of a paste must not reach the shell.
            termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)

    def end(number: int, _frame: object) -> None:
        restore()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    # These end a process without a ``finally``.
    fatal = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in fatal:
        signal.signal(number, end)
    try:
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, _mode(before))
        if screen is not None:
            _say(screen, _MARK_PASTES)
        yield
    finally:
        restore()
        for number in fatal:
            signal.signal(number, signal.SIG_DFL)


def _mode(before: list[int | list[bytes | int]]) -> list[int | list[bytes | int]]:
    """Return the mode in which every character except Ctrl-C is passed on as it comes."""
    input_flags, output_flags, control_flags, local_flags, *speeds, keys = before
    assert isinstance(input_flags, int)  # noqa: S101 - as termios documents it
    assert isinstance(local_flags, int)  # noqa: S101 - the same
    assert isinstance(keys, list)  # noqa: S101 - the same
    input_flags &= ~(termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON)
    local_flags &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    keys = [*keys]
    keys[termios.VMIN], keys[termios.VTIME] = 1, 0
    # Ctrl-Z and Ctrl-\ are disabled: the terminal would keep this mode.
    keys[termios.VSUSP] = keys[termios.VQUIT] = b"\0"
    return [
        input_flags | termios.ICRNL,
        output_flags,
        control_flags,
        local_flags,
        *speeds,
        keys,
    ]
