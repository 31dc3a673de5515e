"""Look for inputs that break a promise, led by the code's coverage: make fuzz SECONDS=60."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["qwen_token", "jwt", "json"]):
    from tests.proofs.fuzz.promises import HELD, hold_for_reply, hold_for_text

_STATUS: Final = (200, 302, 400, 401, 403, 405, 429, 500)
_MEDIA_TYPES: Final = ("", "application/json", "application/problem+json")


def text(data: bytes) -> None:
    """Read any text as a token."""
    hold_for_text(atheris.FuzzedDataProvider(data).ConsumeUnicode(len(data)))


def reply(data: bytes) -> None:
    """Read any reply."""
    given = atheris.FuzzedDataProvider(data)
    status = _STATUS[given.ConsumeIntInRange(0, len(_STATUS) - 1)]
    media_type = _MEDIA_TYPES[given.ConsumeIntInRange(0, len(_MEDIA_TYPES) - 1)]
    hold_for_reply(status, (("Content-Type", media_type),), given.ConsumeBytes(len(data)))


_TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"text": text, "reply": reply}
# Words that a fuzzer would need long to find: they decide what a reply means.
_WORDS: Final = (
    *("success", "false", "data", "code", "unauthorized", "RateLimited", "detail", "ret", "type"),
    *("id", "sub", "exp", "iat", "token", "role", "guest", "email", "@guest.com", "FAIL_SYS_USER"),
    *("Bearer ", "Authorization: ", "token=", "aliyun_waf_aa", "_____tmd_____"),
)


def main() -> None:
    """Fuzz one target for a number of seconds; libFuzzer prints its findings and exits with 77."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("target", choices=_TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    corpus = Path(".fuzz", options.target)
    corpus.mkdir(parents=True, exist_ok=True)
    corpus.joinpath("token").write_bytes(HELD.raw.encode())
    corpus.joinpath("session").write_text(f'{{"id": "{HELD.account}", "token": "{HELD.raw}"}}')
    words = Path(".fuzz", "words")
    words.write_text("".join(f'"{word}"\n' for word in _WORDS))
    libfuzzer = (
        f"-max_total_time={options.seconds}",
        f"-dict={words}",
        "-max_len=4096",
        "-artifact_prefix=.fuzz/",
        "-print_final_stats=1",
    )
    atheris.Setup([sys.argv[0], *libfuzzer, str(corpus)], _TARGETS[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
