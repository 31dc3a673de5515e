"""The wheel, installed as others do, on each Python that it is offered for."""

import re
import subprocess
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from localcloud.aws import ROOT, Cloud
from localcloud.qwen import QwenStandIn
from tests.minting import token
from tests.snippets import FROM_A_SECRET, SNIPPETS, run_snippet
from tests.wheel.building import install, new_environment

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

pytestmark = pytest.mark.nightly

VERSIONS = ("3.11", "3.12", "3.13")

# Prints what an environment has, and what each of it needs without an extra.
CLOSURE = """
from importlib.metadata import distributions

for each in distributions():
    print(each.metadata["Name"], *(each.requires or ()), sep="|")
"""


@pytest.fixture(scope="module", name="version", params=VERSIONS)
def _version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture(scope="module", name="alone")
def _alone(version: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel and what it needs, and no extra."""
    python = new_environment(tmp_path_factory.mktemp("alone") / version, version)
    install(python, "-c", ROOT / "requirements/dev.txt", wheel)
    return python


@pytest.fixture(scope="module", name="python")
def _python(version: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel and all its extras."""
    python = new_environment(tmp_path_factory.mktemp("all") / version, version)
    install(
        python, "-c", ROOT / "requirements/dev.txt", f"qwen-token[cli,httpx] @ {wheel.as_uri()}"
    )
    return python


@pytest.fixture(name="secret")
def _secret(qwen: QwenStandIn, secrets: "SecretsManagerClient") -> Iterator[tuple[str, str]]:
    """Return the name of a secret, and the token that it holds."""
    raw, name = qwen.mint(), f"test/{uuid.uuid4()}"
    secrets.create_secret(Name=name, SecretString=raw)
    yield name, raw
    secrets.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


def run(*command: str | Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a command away from the sources, with nothing of the user's environment."""
    return subprocess.run(  # noqa: S603 - what was just installed
        command,
        cwd="/",
        env={"AWS_CONFIG_FILE": "/nowhere", "AWS_DEFAULT_REGION": "us-east-1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output_of(python: Path, program: str, *arguments: str) -> str:
    done = run(python, "-W", "error", "-c", program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_on_the_python_that_was_asked_for(python: Path, version: str) -> None:
    printed = output_of(python, "import sys; print('%d.%d' % sys.version_info[:2])")

    assert printed == f"{version}\n"


def test_the_wheel_alone_brings_what_boto3_requests_and_pyjwt_need_and_nothing_else(
    alone: Path,
) -> None:
    lines = [line.split("|") for line in output_of(alone, CLOSURE).splitlines()]
    needs = {normal(name): [Requirement(need) for need in needed] for name, *needed in lines}
    assert "qwen-token" in needs

    closure, open_ones = {"qwen-token"}, ["boto3", "requests", "pyjwt"]
    while open_ones:
        name = open_ones.pop()
        if name in closure:
            continue
        closure.add(name)
        open_ones += [
            normal(need.name)
            for need in needs[name]
            if need.marker is None or normal(need.name) in needs
        ]
    assert needs.keys() == closure


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_public_name_is_there_without_an_extra(alone: Path) -> None:
    program = (
        "import qwen_token; print(*(getattr(qwen_token, each) for each in qwen_token.__all__))"
    )

    assert "QwenAuth" in output_of(alone, program)


def test_a_token_is_decoded(alone: Path) -> None:
    held = token(left=timedelta(days=5))
    program = "import sys; from qwen_token import decode_token; print(decode_token(sys.argv[1]))"

    printed = output_of(alone, program, held.raw)

    assert printed == f"{held!r}\n"


@pytest.mark.parametrize("snippet", FROM_A_SECRET, ids=["requests", "httpx", "the token itself"])
def test_a_snippet_of_the_pages_sends_the_token_of_the_secret(
    python: Path, cloud: Cloud, qwen: QwenStandIn, secret: tuple[str, str], snippet: str
) -> None:
    name, raw = secret
    printing = snippet if "chat.qwen.ai" in snippet else f"{snippet}\nprint(headers)"

    printed = run_snippet(printing, cloud, name, qwen.base_url, installed=python)

    assert raw in printed or [request.raw for request in qwen.requests] == [raw]


def test_the_snippets_without_a_secret_run(
    alone: Path, cloud: Cloud, qwen: QwenStandIn, tmp_path: Path
) -> None:
    snippets = [each for each in SNIPPETS if each not in FROM_A_SECRET]
    assert len(snippets) == 2
    for snippet in snippets:
        here = snippet.replace('"qwen-token"', repr(str(tmp_path / "token")))
        run_snippet(here, cloud, "", qwen.base_url, typed=qwen.mint(), installed=alone)
    assert qwen.requests


def test_the_command_shows_its_help_with_and_without_its_extra(alone: Path, python: Path) -> None:
    for environment in (alone, python):
        done = run(environment.with_name("qwen-token"), "--help", COLUMNS="80")
        assert (done.returncode, done.stderr) == (0, "")
        module = run(environment, "-m", "qwen_token", "--help", COLUMNS="80")
        assert done.stdout.startswith("usage: qwen-token ")
        assert module.stdout.startswith("usage: python -m qwen_token ")
        commands = re.compile(r"\{?positional arguments:.*", re.DOTALL)
        assert commands.findall(done.stdout) == commands.findall(module.stdout) != []


def test_without_its_extra_the_command_says_which_one_to_install(alone: Path) -> None:
    done = run(alone.with_name("qwen-token"), "status")

    assert done.returncode == 1
    assert "the tables need the extra 'cli', as in pip install 'qwen-token[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_json_without_its_extra(alone: Path, python: Path, cloud: Cloud) -> None:
    environ = {**cloud.environ(), "PYTHONPATH": ""}

    printed = {
        run(environment.with_name("qwen-token"), "status", "--json", **environ).stdout
        for environment in (alone, python)
    }

    assert len(printed) == 1
    assert printed.pop().startswith("{")
