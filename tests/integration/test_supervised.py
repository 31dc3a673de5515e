"""Supervised commands end, and leave nothing."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from localcloud.aws import ROOT
from localcloud.supervised import Supervisor, supervised
from localcloud.waiting import wait_until

# A command with a child that outlives it; both numbers are in the output.
FAMILY = ("/bin/sh", "-c", "sleep 1000 & echo $$ $!; wait")
STARTER = f"""
import os, time
from localcloud.supervised import supervised
with supervised() as held:
    held.start({FAMILY!r}, environ=os.environ)
    while len(held.output().split()) < 2:
        time.sleep(0.05)
    print(held.directory, *held.output().split(), flush=True)
    time.sleep(1000)
"""
SOON = timedelta(seconds=20)


def wait_for_family(held: Supervisor) -> list[int]:
    words = wait_until(
        lambda: held.output().split() if held.output().endswith("\n") else None,
        within=SOON,
        expected="two process numbers",
        seen=held.output,
    )
    return [int(word) for word in words]


def expect_gone(pids: list[int], directory: Path) -> None:
    wait_until(
        lambda: not any(is_alive(pid) for pid in pids) and not directory.exists(),
        within=SOON,
        expected=f"processes {pids} and {directory} to be gone",
        seen=lambda: f"{[is_alive(pid) for pid in pids]}, {directory.exists()}",
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_command_runs_in_its_own_directory_and_its_output_is_kept() -> None:
    with supervised() as held:
        held.start(["/bin/sh", "-c", "pwd; echo $TMPDIR; exit 3"], environ=os.environ)

        assert held.wait() == 3
        # macOS reaches its temporary directories through a link.
        assert {Path(line).resolve() for line in held.output().split()} == {
            held.directory.resolve()
        }


def test_a_command_that_cannot_be_started_fails_and_says_so() -> None:
    with supervised() as held:
        held.start(["/nowhere/to/be/found"], environ=os.environ)

        assert held.wait() != 0
        assert "/nowhere/to/be/found" in held.output()


def test_the_end_of_the_block_ends_the_command_its_children_and_its_directory() -> None:
    with supervised() as held:
        held.start(FAMILY, environ=os.environ)
        family = wait_for_family(held)
        assert held.exit_code() is None

    assert not held.directory.exists()
    expect_gone(family, held.directory)


def test_children_end_with_a_command_that_ends_by_itself() -> None:
    with supervised() as held:
        held.start(["/bin/sh", "-c", "sleep 1000 & echo $!"], environ=os.environ)
        assert held.wait() == 0
        family = wait_for_family(held)

    expect_gone(family, held.directory)


def test_the_sudden_death_of_the_starter_ends_everything_as_well() -> None:
    with subprocess.Popen(  # noqa: S603 - this test's own command
        [sys.executable, "-c", STARTER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        directory, *family = starter.stdout.readline().split()
        assert Path(directory).exists()
        starter.send_signal(signal.SIGKILL)

    expect_gone([int(pid) for pid in family], Path(directory))
