"""cfn-lint with the rules of every region: `make lint` asks for those of one."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
def test_the_template_is_right_in_every_region() -> None:
    done = subprocess.run(  # noqa: S603 - a tool of the project's
        [ROOT / ".tools/sam/bin/cfn-lint", "--regions", "ALL_REGIONS", "--", "template.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "")
