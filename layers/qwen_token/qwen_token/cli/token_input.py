"""What people give to a command: a token, typed at a hidden prompt or piped, and where to send it.

A token is never an argument: process lists and shell histories would keep it.
"""

import codecs
import getpass
import sys
from contextlib import suppress

from qwen_token.errors import ConfigError, TokenMalformedError, TokenMissingError
from qwen_token.origin import SAFE_URL, is_safe_url


def ask_for_token() -> str:
    """Return what was typed at a hidden prompt, or what came on standard input."""
    if sys.stdin is None:
        raise TokenMissingError("there is no standard input to read a token from")
    if sys.stdin.isatty():
        try:
            text = getpass.getpass("Token (hidden): ")
        except EOFError:
            text = ""
    else:
        text = _decode(sys.stdin.buffer.read())
    if not text.strip():
        raise TokenMissingError("nothing was given: paste the token, or pipe it in")
    return text


def safe_url(api_base_url: str) -> str:
    """Return where a token may be sent."""
    if not is_safe_url(api_base_url):
        raise ConfigError(f"--api-base-url should be {SAFE_URL}")
    return api_base_url


def _decode(piped: bytes) -> str:
    # With a mark in front, Windows PowerShell's way to pipe and to write files.
    utf16 = piped.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with suppress(UnicodeDecodeError):
        return piped.decode("utf-16" if utf16 else "utf-8-sig")
    # Raised out here: the decoder's exception holds all that was read.
    raise TokenMalformedError("standard input is no text: neither UTF-8, nor marked as UTF-16")
