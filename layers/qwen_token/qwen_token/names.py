"""Names that people pass to commands and to the library. A login passed as a name is refused."""

import re
from typing import Final

from .errors import ConfigError

# Base64 of the beginning of a JSON object: every JWT begins with it, and no name does.
_JWT: Final = "eyJ"
# Characters around a pasted login, and base64's padding; no name has them.
_NAMED: Final = re.compile(
    r"(?:token|cookie|authorization|password)[\"']?\s*[:=]|bearer\s|[\w+/-]{16}={1,2}\Z",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[A-Za-z0-9]+")
# A change from a letter to a digit or back, or to upper case: a border of words in a name.
_CHANGE: Final = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
# Random words of letters and digits have such a change at every second or third character, names at
# every fourth at most. Shorter words prove nothing: AWS itself appends twelve to a name.
_RANDOM: Final = 0.27
_SHORTEST_RANDOM: Final = 14
# A name may contain a random word, such as a hash. A credential consists of nothing else.
_NOTHING_ELSE: Final = 0.9
# URL-safe base64: the words between its signs may be short, but the whole changes more often than a
# name with a random end. It has letters of both cases, and digits.
_IN_URLS: Final = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[\w.-]{24,}")
_ALL_RANDOM: Final = 0.35


def may_be_login(text: str) -> bool:
    """Return whether a text that should be a name looks like a login or a part of one."""
    return _JWT in text or bool(_NAMED.search(text)) or _is_all_random(text)


def _is_all_random(text: str) -> bool:
    words = _WORD.findall(text)
    random = sum(len(word) for word in words if _is_random(word))
    together = "".join(words)
    if random > 0 and random >= _NOTHING_ELSE * len(together):
        return True
    changes = len(_CHANGE.findall(together))
    return bool(_IN_URLS.fullmatch(text)) and changes >= _ALL_RANDOM * len(together)


def _is_random(word: str) -> bool:
    changes = len(_CHANGE.findall(word))
    return len(word) >= _SHORTEST_RANDOM and changes >= _RANDOM * len(word)


def require_name(text: str, *, argument: str) -> str:
    """Return the name of something, if messages may quote it.

    Raises:
        ConfigError: it looks like a login, which must be neither quoted nor sent as a name.
    """
    if may_be_login(text):
        raise ConfigError(
            f"{argument} should be a name or an ARN, but looks like a token or another login: it "
            "was not used"
        )
    return text
