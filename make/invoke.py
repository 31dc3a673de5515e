"""Runs `sam local invoke` so that a script can use it: the answer alone on standard output.

    invoke.py ENVIRONMENT sam local invoke …

ENVIRONMENT is the functions' environment, as JSON. The SAM CLI takes it from a file only: it gets a
pipe, so that nothing is left on the disk. The exit status is 1 where the function failed, for which
the SAM CLI ends with 0.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence


def main(environment: str, command: Sequence[str]) -> int:
    """Return the exit status: the SAM CLI's own, or 1 where the function failed."""
    reading, writing = os.pipe()
    # Lambda allows 4 KiB of variables, and a pipe holds more before anybody reads.
    with os.fdopen(writing, "w") as pipe:
        pipe.write(environment)
    # Ctrl-C reaches the SAM CLI as well, which removes the container, and is waited for.
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(  # noqa: S603 - the Makefile's own words
        [*command, "--env-vars", f"/dev/fd/{reading}"],
        pass_fds=[reading],
        stdout=subprocess.PIPE,
        text=True,
    ) as sam:
        signal.signal(signal.SIGTERM, lambda number, _: sam.send_signal(number))
        os.close(reading)
        answer, _ = sam.communicate()
    if answer.strip():
        print(answer.strip())
    return sam.returncode or int(_has_failed(answer))


def _has_failed(answer: str) -> bool:
    try:
        result = json.loads(answer)
    except ValueError:
        print("The function gave no answer: see what it logged above.", file=sys.stderr)
        return True
    return isinstance(result, dict) and not result.keys().isdisjoint({"errorMessage", "errorType"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
