"""Programs that run in a Python of their own, to fork, to die or to be seen from outside."""

import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]


def run_program(program: str, *, typed: str = "", **environ: str) -> str:
    """Run a program with the library and the tests at hand; return what it printed, trimmed."""
    running = start_program(program, **environ)
    try:
        said, complained = running.communicate(typed, timeout=40)
    finally:
        running.kill()
    assert running.returncode == 0, complained
    return said.strip()


def start_program(program: str, **environ: str) -> subprocess.Popen[str]:
    """Start one to talk with: its standard streams are pipes."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env={"PYTHONPATH": f"{_ROOT / 'layers/qwen_token'}:{_ROOT}", **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
