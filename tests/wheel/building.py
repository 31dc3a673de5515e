"""The library's wheel, built by the pinned backend, and environments to install it in."""

import os
import subprocess
from pathlib import Path
from typing import Final

from localcloud.aws import ROOT

LIBRARY: Final = ROOT / "layers/qwen_token"
_UV: Final = ROOT / ".tools/uv/bin/uv"


def build_wheel(folder: Path) -> Path:
    """Build the wheel into ``folder``, and return its path."""
    pins = ROOT / "requirements/wheel.txt"
    uv("build", "--wheel", "--require-hashes", "--build-constraints", pins, "-o", folder, LIBRARY)
    [wheel] = folder.glob("*.whl")
    return wheel


def new_environment(folder: Path, version: str) -> Path:
    """Make an empty environment of this version of Python, and return its interpreter."""
    # A shim of pyenv's runs the version that it is told.
    uv("venv", "--python", version, folder, PYENV_VERSION=version)
    return folder / "bin/python"


def install(python: Path, *requirements: str | Path) -> None:
    """Install into the environment of ``python``."""
    uv("pip", "install", "--python", python, *requirements)


def uv(*arguments: str | Path, **environ: str) -> None:
    """Run uv; ``environ`` is added to the environment."""
    inherited = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(  # noqa: S603 - the project's own tool
        [_UV, "--quiet", *arguments],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
