"""The forms in which people paste a login: JSON, cookies, a copied request, or the value alone.

A credential must be exactly what the browser sends. So a command is split into words as its shell
would do it, and only the cookies that it sends are read: a cookie's name in an address or a body
is not a cookie. ``http.cookies`` does not help: it drops all cookies of a header in which one is
unusual, and browsers send such headers.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Final

from .errors import SessionMalformedError
from .tokens import SURROUNDINGS, instant

# The keys of the stored object that belong to a login.
LOGIN_KEYS: Final = ("refresh_token", "email", "password")

_BYTE_ORDER_MARK: Final = "\ufeff"
_CURL: Final = re.compile(r"(?:\$ +)?curl(?:\.exe)?\s", re.IGNORECASE)
# The form for the Windows command line, in which ^ escapes and continues a line.
_CMD: Final = re.compile(r"\S+\s+\^|.*\s\^\r?$", re.MULTILINE)
_CARET: Final = re.compile(r"\^(\r?\n|.)", re.DOTALL)
_PIECE: Final = re.compile(
    r"""(?P<gap>(?:\s|\\\r?\n)+)
      | \$'(?P<ansi>(?:[^'\\]|\\.)*)'
      | '(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | \\(?P<escaped>.)
      | (?P<bare>[^\s'"\\$]+|\$)""",
    re.DOTALL | re.VERBOSE,
)
_ANSI_ESCAPE: Final = re.compile(r"\\(u[0-9A-Fa-f]{1,4}|x[0-9A-Fa-f]{1,2}|.)", re.DOTALL)
_DOUBLE_ESCAPE: Final = re.compile(r'\\(["\\$`])')

_POWERSHELL: Final = re.compile(r"Invoke-WebRequest|System\.Net\.Cookie\(", re.IGNORECASE)
_POWERSHELL_STRING: Final = r'"((?:[^"`]|`.)*)"'
_POWERSHELL_COOKIE: Final = re.compile(
    rf"System\.Net\.Cookie\(\s*{_POWERSHELL_STRING}\s*,\s*{_POWERSHELL_STRING}"
    rf"(?:\s*,\s*{_POWERSHELL_STRING}\s*,\s*{_POWERSHELL_STRING})?",
    re.IGNORECASE | re.DOTALL,
)
_POWERSHELL_HEADER: Final = re.compile(
    rf'"cookie"\s*=\s*{_POWERSHELL_STRING}', re.IGNORECASE | re.DOTALL
)

# A Cookie header among other lines; some browsers put the value on the next line.
_HEADER: Final = re.compile(
    r"^[ \t]*(?:set-)?cookie(?::|[ \t]*\r?\n)[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE
)
# But not base64's padding at the end.
_FIRST_PAIR: Final = re.compile(r"[\w.-]+=(?:[^=;\s]|[^;]*;)")


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie with a value. ``domain`` is empty where the form does not say."""

    name: str
    value: str = field(repr=False)
    expires_at: datetime | None = None
    domain: str = ""


def read(text: str) -> dict[str, object] | list[Cookie] | str:
    """Return a JSON object as it is, else the cookies, else the value without quotes and spaces.

    Cookies that are empty or deleted are left out.

    Raises:
        SessionMalformedError: a command that was cut off, or a text that only starts like JSON.
    """
    text = text.strip().strip(_BYTE_ORDER_MARK).strip()
    if _CURL.match(text):
        return _cookies_of(_curl_headers(text))
    if _POWERSHELL.search(text):
        return [*_powershell_cookies(text), *_cookies_of(_powershell_headers(text))]
    value = text.strip(SURROUNDINGS)
    if value.startswith(("{", "[")):
        return _read_json(value)
    if headers := _HEADER.findall(value):
        return _cookies_of(headers)
    if _FIRST_PAIR.match(value):
        return _cookies_of([value])
    return value


def is_command(text: str) -> bool:
    """Return whether a text is a copied request, whole or cut off."""
    return _CURL.match(text.strip()) is not None or _POWERSHELL.search(text) is not None


def _read_json(text: str) -> dict[str, object] | list[Cookie]:
    document: object = None
    with suppress(ValueError, RecursionError):
        document = json.loads(text)
    if isinstance(document, dict):
        cookies = document.get("cookies")
        if not isinstance(cookies, list) or holds_login(document):
            return document
        return list(_listed_cookies(cookies))
    if isinstance(document, list):
        return list(_listed_cookies(document))
    # Raised outside the except block: the decoder's exception holds the text.
    raise SessionMalformedError("the value starts like JSON, but does not parse: is it cut off?")


def holds_login(document: Mapping[str, object]) -> bool:
    """Return whether an object has a key that belongs to a login, with a value that is not null."""
    return any(document.get(key) is not None for key in LOGIN_KEYS)


def _listed_cookies(listed: Iterable[object]) -> Iterator[Cookie]:
    """Read cookies as browser extensions, Playwright (``expires``) or Selenium export them."""
    for each in listed:
        if not isinstance(each, dict):
            continue
        name, value, domain = (each.get(key) for key in ("name", "value", "domain"))
        if isinstance(name, str) and isinstance(value, str) and value:
            times = (instant(each.get(key)) for key in ("expirationDate", "expires", "expiry"))
            expires_at = next((time for time in times if time is not None), None)
            yield Cookie(name, value, expires_at, domain if isinstance(domain, str) else "")


def _cookies_of(headers: Iterable[str]) -> list[Cookie]:
    return [cookie for header in headers for cookie in _cookies_of_header(header)]


def _cookies_of_header(header: str) -> Iterator[Cookie]:
    """Read the value of a Cookie header, or of Set-Cookie, whose attributes follow the cookie."""
    split = (pair.partition("=") for pair in header.split(";"))
    pairs = [(name.strip(), value.strip().strip('"')) for name, _, value in split]
    attributes = {name.lower(): value for name, value in pairs[1:]}
    if re.fullmatch(r"0+|-\d+", attributes.get("max-age", "")):
        return
    expires_at = None
    with suppress(ValueError, OverflowError):
        expires_at = instant(parsedate_to_datetime(attributes.get("expires", "")).timestamp())
        if expires_at is None:
            # In 1970: this is how a server deletes a cookie.
            return
    for name, value in pairs:
        if value:
            yield Cookie(name, value, expires_at, attributes.get("domain", ""))


def _curl_headers(command: str) -> Iterator[str]:
    """Yield the values of the Cookie headers that a curl command sends."""
    if _CMD.match(command):
        command = _CARET.sub(lambda escaped: escaped[1].strip("\r\n"), command)
    words = [part for word in _words(command) for part in _option_and_value(word)]
    for option, value in pairwise(words):
        if option in {"-b", "--cookie"}:
            yield value
        elif option in {"-H", "--header"}:
            name, _, content = value.partition(":")
            if name.strip().lower() == "cookie":
                yield content


def _option_and_value(word: str) -> tuple[str, ...]:
    """Split ``-bname=value``, as curl does."""
    return (word[:2], word[2:]) if word[:2] in {"-b", "-H"} and word[2:] else (word,)


def _words(command: str) -> list[str]:
    """Split a command into words as bash does; ``shlex`` does not know the quotes ``$'…'``."""
    words = [""]
    position = 0
    while position < len(command):
        piece = _PIECE.match(command, position)
        if piece is None:
            raise SessionMalformedError("the curl command is cut off: a quote is not closed")
        position = piece.end()
        if piece["gap"] is not None:
            words.append("")
        elif piece["ansi"] is not None:
            words[-1] += _ANSI_ESCAPE.sub(_unescaped, piece["ansi"])
        elif piece["double"] is not None:
            words[-1] += _DOUBLE_ESCAPE.sub(r"\1", piece["double"])
        else:
            words[-1] += piece["single"] or piece["escaped"] or piece["bare"] or ""
    return words


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return {"n": "\n", "r": "\r", "t": "\t"}.get(code, code)


def _powershell_cookies(command: str) -> Iterator[Cookie]:
    for name, value, _, domain in _POWERSHELL_COOKIE.findall(command):
        if value:
            yield Cookie(_without_backticks(name), _without_backticks(value), domain=domain)


def _powershell_headers(command: str) -> list[str]:
    return [_without_backticks(value) for value in _POWERSHELL_HEADER.findall(command)]


def _without_backticks(text: str) -> str:
    return re.sub(r"`(.)", r"\1", text, flags=re.DOTALL)
