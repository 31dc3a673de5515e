"""Each promise of SECURITY.md is broken in a copy; the test that is named for it has to fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localcloud.aws import ROOT
from tests.proofs.breaks import Break, breaks

# What the tests need beside these is installed, and the same for every copy.
COPIED = (
    "examples",
    "events",
    "functions",
    "layers",
    "localcloud",
    "make",
    "requirements",
    "tests",
)
SHARED = (".venv", ".tools")
# Two minutes for the tools and the emulator to start, and the longest test itself.
LIMIT = 300


@pytest.fixture(name="copy")
def _copy(tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in (*COPIED, "docs", ".githooks", ".github"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy2(file, copy)
    for folder in SHARED:
        (copy / folder).symlink_to(ROOT / folder)
    return copy


@pytest.mark.nightly
@pytest.mark.parametrize("broken", breaks(), ids=lambda broken: broken.name)
def test_the_test_of_a_promise_fails_when_the_promise_is_broken(broken: Break, copy: Path) -> None:
    file = copy / broken.file
    file.write_text(broken.of(file.read_text("utf-8")), "utf-8")

    done = subprocess.run(  # noqa: S603 - the project's own tests
        # Those of its cases that `make test` runs: each change has to meet one that fails.
        [
            *(sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"),
            *("-m", "not nightly", broken.test),
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    # A break that keeps the test from running at all is not one that the test noticed.
    assert f"FAILED {broken.test}" in done.stdout, done.stdout[-3000:]
