"""The library's own tests, on the oldest Python and the least versions that the wheel declares."""

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from localcloud.aws import ROOT
from tests.repo_checks.test_requirements import pins
from tests.wheel.building import LIBRARY, install, new_environment

pytestmark = pytest.mark.nightly

# What the tests need beside the library.
TOOLS: Final = ("pytest", "pytest-xdist", "hypothesis", "trustme", "pyyaml", "trio")

TESTS: Final = (
    "tests/integration/test_transport.py",
    "tests/integration/test_transport_wire.py",
    "tests/integration/test_transport_tls.py",
    "tests/integration/test_auth_proxies.py",
    "tests/integration/test_client.py",
    "tests/integration/test_manager.py",
    "tests/integration/test_manager_session.py",
    "tests/unit/test_async_source.py",
    "tests/unit/test_httpx_hooks.py",
    "tests/unit/test_netrc.py",
    "tests/unit/test_output.py",
    "tests/unit/test_refresh_thread.py",
    "tests/unit/test_requests_auth.py",
    "tests/unit/test_shared_token.py",
    "tests/unit/test_status.py",
    "tests/unit/test_streamed_answers.py",
    "tests/unit/test_tokens.py",
)


@pytest.mark.parametrize("version", ["3.11"])
def test_the_library_works_with_the_least_versions_that_it_declares(
    wheel: Path, tmp_path: Path, version: str
) -> None:
    python = new_environment(tmp_path / "lowest", version)
    pinned = pins(ROOT / "requirements/dev.txt")
    project = LIBRARY / "pyproject.toml"
    extras = ("--extra", "cli", "--extra", "httpx")
    # One call: what one of them brings must suit all others.
    install(
        python,
        *("--resolution", "lowest-direct", "-r", project, *extras),
        *(f"{tool}=={pinned[tool]}" for tool in TOOLS),
    )
    install(python, "--no-deps", wheel)
    assert installed(python, declared(project)) == declared(project)

    done = subprocess.run(  # noqa: S603 - the project's own tests
        # The wheel, and not the sources. A socket that was left to the garbage collector is
        # reported in whichever test comes next: that is looked at on the pinned versions.
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-o",
            "pythonpath=.",
            "-W",
            "default::pytest.PytestUnraisableExceptionWarning",
            "-p",
            "no:cacheprovider",
            *TESTS,
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-8000:]


def declared(project: Path) -> dict[str, str]:
    """Return the least version of each package that the library needs."""
    settings = tomllib.loads(project.read_text())["project"]
    lists = [settings["dependencies"], *settings["optional-dependencies"].values()]
    needs = [need for each in lists for need in each]
    return {need.name: each.version for need in map(Requirement, needs) for each in need.specifier}


def installed(python: Path, names: dict[str, str]) -> dict[str, str]:
    program = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(  # noqa: S603 - the environment's own
        [python, "-c", program, *names], capture_output=True, text=True, check=True
    )
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
