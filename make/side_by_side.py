"""Run commands at once, and show what each printed in one piece: `side_by_side.py mypy ruff`.

Fails if any of them does, after all have ended, and names those that did.
"""

import subprocess
import sys
import tempfile
from contextlib import ExitStack


def main(commands: list[str]) -> int:
    """Run the commands; return 1 if any failed."""
    failed = []
    with ExitStack() as held:
        outputs = [held.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        started = [
            held.enter_context(
                subprocess.Popen(command, shell=True, stdout=output, stderr=subprocess.STDOUT)  # noqa: S602 - the Makefile's own
            )
            for command, output in zip(commands, outputs, strict=True)
        ]
        for command, process, output in zip(commands, started, outputs, strict=True):
            if process.wait():
                failed.append(command)
            output.seek(0)
            print(f"· {command}\n{output.read()}", end="", flush=True)
    for command in failed:
        print(f"failed: {command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
