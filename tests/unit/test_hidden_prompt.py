"""The hidden prompt on a real terminal: all of a paste arrives, and the terminal is given back."""

import fcntl
import hashlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from qwen_token.cli import token_input

MODULE = Path(__file__).parents[2] / "layers/qwen_token/qwen_token/cli/hidden_prompt.py"
PROMPT = b"Hidden: "
# Says what was read as a length and a digest: the text itself would look like an echo. The module
# is run without its package, which takes a second to import.
PROGRAM = f"""
import hashlib, runpy
read_hidden = runpy.run_path({str(MODULE)!r})["read_hidden"]
text = read_hidden({PROMPT.decode()!r}, show_count=SHOW)
print("read", len(text), hashlib.sha256(text).hexdigest(), flush=True)
"""
# Long enough for a busy machine.
SOON = 30.0


class Terminal:
    """A terminal with the program at its prompt; what it shows is collected as it comes."""

    def __init__(self, *, show_count: bool = True) -> None:
        self.keyboard, screen = pty.openpty()
        # Kept open, to ask for its mode after the program has ended.
        self.screen = screen
        self.before = termios.tcgetattr(screen)
        self.process = subprocess.Popen(  # noqa: S603 - the project's own module
            [sys.executable, "-c", PROGRAM.replace("SHOW", str(show_count))],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
            # The terminal is to be the one that Ctrl-C is typed at.
            preexec_fn=lambda: _control(screen),  # noqa: PLW1509 - no thread holds a lock here
        )
        self.shown = b""
        self._is_over = threading.Event()
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()

    def _collect(self) -> None:
        while not self._is_over.is_set():
            if select.select([self.keyboard], [], [], 0.05)[0]:
                with suppress(OSError):
                    self.shown += os.read(self.keyboard, 65536)

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + SOON
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.01)

    def type_in(self, text: bytes) -> None:
        while text:
            text = text[os.write(self.keyboard, text[:1024]) :]

    def ended(self) -> int:
        """Return the exit code, once what the program wrote has arrived."""
        code = self.process.wait(SOON)
        time.sleep(0.1)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._is_over.set()
        self._reader.join()
        for each in (self.keyboard, self.screen):
            os.close(each)


def _control(screen: int) -> None:
    fcntl.ioctl(screen, termios.TIOCSCTTY, 0)
    # A shell has what it starts in the background ignore Ctrl-C, nohup has it ignore the end of the
    # terminal, and both is handed on.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(name="terminal")
def _terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    try:
        terminal.wait_for(PROMPT)
        yield terminal
    finally:
        terminal.close()


def digest(text: bytes) -> bytes:
    return f"read {len(text)} {hashlib.sha256(text).hexdigest()}".encode()


LONG = b"".join(b"%05d" % number for number in range(4000))
CURL = (
    b"curl 'https://auth.qwen.ai/api/v2/auths/refresh' \\\n"
    + b"".join(b"  -H 'x-%d: %s' \\\n" % (number, b"y" * 900) for number in range(8))
    + b"  -b 'refresh_token=credential'"
)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        pytest.param(LONG + b"\r", LONG, id="20,000 characters in one line"),
        pytest.param(CURL + b"\r", CURL, id="a command of many lines"),
        pytest.param(CURL + b"\n\r", CURL + b"\n", id="with an end of its last line"),
        pytest.param(
            b"\x1b[200~" + CURL.replace(b"\n", b"\r") + b"\x1b[201~\r", CURL, id="a marked paste"
        ),
        pytest.param(b"short\x04", b"short", id="Ctrl-D at the end"),
        pytest.param(b"\x04", b"", id="Ctrl-D alone"),
        pytest.param(b"wrong\x15rigth\x7f\x7fht\r", b"right", id="mended while typed"),
        pytest.param("zoë\x7f\x7fo\r".encode(), b"zo", id="a character of two bytes erased"),
        pytest.param(b"a\x16\x11\x13b\r", b"a\x16\x11\x13b", id="keys that a terminal keeps"),
    ],
)
def test_all_that_is_pasted_arrives_and_nothing_of_it_is_shown(
    terminal: Terminal, typed: bytes, read: bytes
) -> None:
    terminal.type_in(typed)

    assert terminal.ended() == 0
    assert digest(read) in terminal.shown
    assert f"received {len(read.removesuffix(b' ')):,} characters".encode() in terminal.shown
    shown = terminal.shown.partition(b"read ")[0]
    assert not any(read[at : at + 6] in shown for at in range(len(read) - 5))
    assert termios.tcgetattr(terminal.screen) == terminal.before


def test_a_line_end_within_a_slow_paste_is_not_an_enter_key(
    terminal: Terminal,
) -> None:
    first, second = b"\x1b[200~{\r", b'"refresh_token": "credential"}\x1b[201~'
    terminal.type_in(first)
    time.sleep(1)
    terminal.type_in(second)
    time.sleep(1)
    assert terminal.process.poll() is None, "the end of a paste is no Enter key"
    terminal.type_in(b"\r")

    assert terminal.ended() == 0
    assert digest(b'{\n"refresh_token": "credential"}') in terminal.shown


def test_a_command_that_continues_on_the_next_line_is_waited_for(terminal: Terminal) -> None:
    terminal.type_in(b"curl 'https://qwen.ai' \\\r")
    time.sleep(1)
    assert terminal.process.poll() is None
    terminal.type_in(b"-b 'a=b'\r")

    assert terminal.ended() == 0
    assert digest(b"curl 'https://qwen.ai' \\\n-b 'a=b'") in terminal.shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_if_a_signal_ends_the_prompt(
    terminal: Terminal, number: signal.Signals
) -> None:
    terminal.type_in(b"half a secr")
    terminal.wait_for(b"received 11 characters")
    assert termios.tcgetattr(terminal.screen) != terminal.before
    if number is signal.SIGINT:
        terminal.type_in(b"\x03")
    else:
        terminal.process.send_signal(number)

    code = terminal.ended()
    # Python itself says that it was interrupted; both leave by the signal.
    assert code == -number, terminal.shown
    assert termios.tcgetattr(terminal.screen) == terminal.before
    assert terminal.shown.count(b"\x1b[?2004h") == terminal.shown.count(b"\x1b[?2004l") == 1
    assert b"half" not in terminal.shown


def test_the_length_of_a_password_is_not_shown() -> None:
    terminal = Terminal(show_count=False)
    try:
        terminal.wait_for(PROMPT)
        terminal.type_in(b"hunter2\r")
        assert terminal.ended() == 0
    finally:
        terminal.close()
    assert digest(b"hunter2") in terminal.shown
    assert b"received" not in terminal.shown


def test_where_there_is_no_such_terminal_a_line_is_asked_for_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Keyboard:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setitem(sys.modules, "qwen_token.cli.hidden_prompt", None)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed at {prompt}")

    assert token_input.ask_for_token() == "typed at Token (hidden): "
