"""What `make lint` runs its tools with: at once, each heard in one piece, and no failure lost."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIDE_BY_SIDE = ROOT / "make/side_by_side.py"


def run(*commands: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - the project's own
        [sys.executable, SIDE_BY_SIDE, *commands],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_commands_run_at_once_and_each_is_heard_in_one_piece(tmp_path: Path) -> None:
    """One after the other, neither would find the other at its end of the pipe."""
    subprocess.run(["mkfifo", "pipe"], cwd=tmp_path, check=True)  # noqa: S607 - the system's

    done = run(
        "echo one; read line <pipe; echo $line", "echo two; echo met >pipe", directory=tmp_path
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line[0] != "·"] == ["one", "met", "two"]


def test_a_command_that_fails_fails_the_whole_and_is_named(tmp_path: Path) -> None:
    done = run("echo wrong >&2; exit 3", "echo well", directory=tmp_path)

    assert done.returncode == 1
    assert done.stdout == "· echo wrong >&2; exit 3\nwrong\n· echo well\nwell\n"
    assert done.stderr == "failed: echo wrong >&2; exit 3\n"
