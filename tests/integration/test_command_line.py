"""The command line in forks of one process: each is what a Python of its own would be."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from localcloud import command_line

ENVIRON = {
    **{
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))
    },
    "PYTHONPATH": "layers/qwen_token",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_MAX_ATTEMPTS": "1",
}


@pytest.mark.parametrize(
    ("arguments", "typed", "encoding", "code"),
    [
        (["status", "--regions", "x"], "", "utf-8", 2),
        (["put", "--region", "us-east-1"], "ü no token", "latin-1", 1),
        pytest.param(["--help"], "", "latin-1", 0, marks=pytest.mark.nightly),
        pytest.param(
            *(["status", "--json", "--region", "us-east-1"], "", "utf-8", 1),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_a_fork_says_what_a_python_of_its_own_says(
    arguments: Sequence[str], typed: str, encoding: str, code: int
) -> None:
    alone = subprocess.run(  # noqa: S603 - the project's own command
        [sys.executable, "-m", "qwen_token", *arguments],
        input=typed,
        env={**ENVIRON, "PYTHONIOENCODING": encoding},
        encoding=encoding,
        capture_output=True,
        check=False,
    )

    forked = command_line.run(arguments, environ=ENVIRON, typed=typed, encoding=encoding)

    assert (forked.returncode, forked.stdout, forked.stderr) == (code, alone.stdout, alone.stderr)
    assert alone.returncode == code
    assert alone.stdout or alone.stderr


def test_a_fork_gets_nothing_of_the_environment_of_whoever_asks() -> None:
    asking = """if True:
        from localcloud import command_line
        from tests.integration.test_command_line import ENVIRON
        print(command_line.run(["environ"], environ=ENVIRON).stderr)
    """

    done = subprocess.run(  # noqa: S603 - this very Python
        [sys.executable, "-c", asking],
        env={
            **ENVIRON,
            "PYTHONPATH": os.pathsep.join(("layers/qwen_token", ".")),
            "AWS_DEFAULT_REGION": "us-east-1",
        },
        text=True,
        capture_output=True,
        check=True,
    )

    assert "no AWS region is known" in done.stdout


@pytest.mark.parametrize("size", [40_000, 300_000])
def test_a_fork_gets_all_of_a_large_environment(size: int) -> None:
    # Whoever runs the tests may have one. The region is the last of it.
    large = {f"V{number}": "x" * 1000 for number in range(size // 1000)}
    environ = {**ENVIRON, **large, "AWS_DEFAULT_REGION": "us-east-1"}

    done = command_line.run(["environ"], environ=environ)

    assert (done.returncode, "Could not connect" in done.stderr) == (1, True)
