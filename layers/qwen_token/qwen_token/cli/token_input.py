"""The input of commands: a login, at a hidden prompt or piped, and the address for a token.

A secret is never an argument, because process lists and shell histories would keep it.
"""

import codecs
import getpass
import sys
from contextlib import suppress

from qwen_token.errors import (
    ConfigError,
    SessionMalformedError,
    TokenMalformedError,
    TokenMissingError,
)
from qwen_token.origin import SAFE_URL, is_safe_url
from qwen_token.session import Session


def ask_for_token() -> str:
    """Return a token from a hidden prompt or from standard input."""
    return _ask("Token (hidden): ")


def ask_for_login() -> str:
    """Return a login from a hidden prompt (also a long paste) or from standard input."""
    return _ask("Token or session (hidden; paste it, then press Enter): ")


def ask_for_sign_in() -> Session:
    """Return the e-mail and password from the terminal, or from two lines on standard input.

    Raises:
        TokenMissingError: there is no standard input, or it is empty.
        SessionMalformedError: they are not an e-mail address and a password, each on one line.
    """
    if _is_at_terminal():
        print("E-mail: ", end="", file=sys.stderr, flush=True)
        lines = [sys.stdin.readline()]
        if lines[0].strip():
            lines.append(_typed("Password (hidden): ", show_count=False))
        given = "\n".join(line.rstrip("\r\n") for line in lines)
    else:
        given = _piped()
    if not given.strip():
        raise TokenMissingError("nothing was given: an e-mail and a password are needed")
    email, *rest = given.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if len(rest) != 1:
        raise SessionMalformedError(
            f"a sign-in is two lines, the e-mail and the password, not {len(rest) + 1}"
        )
    return Session(email=email.strip(), password=rest[0])


def safe_url(api_base_url: str) -> str:
    """Return an address to which a token may be sent."""
    if not is_safe_url(api_base_url):
        raise ConfigError(f"--api-base-url should be {SAFE_URL}")
    return api_base_url


def _ask(prompt: str) -> str:
    text = _typed(prompt, show_count=True) if _is_at_terminal() else _piped()
    if not text.strip():
        raise TokenMissingError("nothing was given: paste it at the prompt, or pipe it in")
    return text


def _is_at_terminal() -> bool:
    if sys.stdin is None:
        raise TokenMissingError("there is no standard input to read from")
    return sys.stdin.isatty()


def _typed(prompt: str, *, show_count: bool) -> str:
    with suppress(EOFError):
        try:
            from .hidden_prompt import read_hidden  # noqa: PLC0415 - Windows has no termios
        except ImportError:
            return getpass.getpass(prompt)
        return _decode(read_hidden(prompt, show_count=show_count))
    return ""


def _piped() -> str:
    return _decode(sys.stdin.buffer.read())


def _decode(given: bytes) -> str:
    # With a byte order mark, as Windows PowerShell pipes and writes files.
    utf16 = given.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with suppress(UnicodeDecodeError):
        return given.decode("utf-16" if utf16 else "utf-8-sig")
    # Raised outside the except block: the decoder's exception holds the input.
    raise TokenMalformedError("the input is no text: neither UTF-8, nor marked as UTF-16")
