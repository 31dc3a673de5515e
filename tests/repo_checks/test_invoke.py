"""`make invoke` without a container: what it tells the SAM CLI, and what a script gets of it.

A run in a real container is tests/e2e/test_local_invoke.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RESULT = '{"outcome": "fresh"}'
ENVIRONMENT = {"RefreshFunction": {"SECRET_ID": "arn:aws:secretsmanager:x"}}

# Does what the SAM CLI does with its streams, and keeps what it was given.
SAM = """\
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
print("progress", words[0], file=sys.stderr)
if words[0] == "build":
    print("Build Succeeded")
    sys.exit()
given = Path(words[words.index("--env-vars") + 1]).read_text()
Path(os.environ["SEEN"]).write_text(json.dumps([words, given]))
sys.stdout.write(os.environ["ANSWER"])
sys.exit(int(os.environ.get("CODE", "0")))
"""
LIBRARY = f"""\
import sys
if "no-such-stack" in sys.argv:
    sys.exit("error: there is no stack 'no-such-stack'")
print({json.dumps(ENVIRONMENT)!r})
"""


@pytest.fixture(name="checkout")
def _checkout(tmp_path: Path) -> Path:
    """Return a checkout with stand-ins of the SAM CLI and of the library's command line."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "make", checkout / "make")
    shutil.copytree(ROOT / "requirements", checkout / "requirements")
    shutil.copy2(ROOT / "Makefile", checkout)
    program(checkout / ".tools/sam/bin/sam", SAM)
    (checkout / ".tools/sam/bin/python").write_text("#!/bin/sh\n")
    (checkout / ".tools/sam/bin/python").chmod(0o755)
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    (checkout / "layers/qwen_token/qwen_token").mkdir(parents=True)
    (checkout / "layers/qwen_token/qwen_token/__main__.py").write_text(LIBRARY)
    # In the order that each is newer than what it is made of.
    for file in (".tools/uv/bin/uv", ".tools/sam/ready", ".venv/ready"):
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
        (checkout / file).touch()
    return checkout


def program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(0o755)


def make(
    checkout: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(  # noqa: S603 - the project's own targets
        ["make", *arguments],  # noqa: S607 - the user's make
        cwd=checkout,
        env={
            **inherited,
            "SEEN": str(checkout.parent / "seen.json"),
            "ANSWER": RESULT,
            "PYTHONDONTWRITEBYTECODE": "1",
            **(environ or {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def files(checkout: Path) -> set[Path]:
    return {file for file in checkout.rglob("*") if "__pycache__" not in file.parts}


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [("x86_64", "x86_64"), ("amd64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64")],
)
def test_the_function_runs_in_the_machines_own_architecture(
    machine: str, architecture: str, checkout: Path, tmp_path: Path
) -> None:
    program(tmp_path / "bin/uname", f"print({machine!r})")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    printed = make(checkout, "--dry-run", "invoke", environ={"PATH": path}).stdout

    assert f"--parameter-overrides Architecture={architecture} " in printed


def test_a_script_gets_the_answer_and_nothing_else(checkout: Path) -> None:
    done = make(checkout, "--silent", "invoke")

    assert (done.returncode, done.stdout) == (0, RESULT + "\n"), done.stderr
    for progress in ("Build Succeeded", "progress build", "progress local"):
        assert progress in done.stderr


def test_the_sam_cli_gets_event_environment_and_the_users_words(checkout: Path) -> None:
    make(checkout, "--silent", "invoke", "EVENT=events/check.json", "REGION=x-1", "ARGS=--debug")

    words, environment = json.loads((checkout.parent / "seen.json").read_text())
    assert words[:5] == ["local", "invoke", "RefreshFunction", "--event", "events/check.json"]
    assert words[7:10] == ["--region", "x-1", "--debug"]
    assert json.loads(environment) == ENVIRONMENT


@pytest.mark.parametrize(
    "answer",
    [
        '{"errorMessage": "refused", "errorType": "TokenRejectedError"}',
        '{"errorType": "Runtime.ExitError"}',
        '{"errorMessage": "Task timed out"}',
        "",
        "Task timed out",
    ],
)
def test_a_function_that_failed_fails_the_command(answer: str, checkout: Path) -> None:
    done = make(checkout, "--silent", "invoke", environ={"ANSWER": answer})

    assert done.returncode != 0
    assert done.stdout.strip() == answer


@pytest.mark.parametrize("answer", ["null", '"text"', '{"outcome": "retrying"}'])
def test_any_other_answer_is_not_a_failure(answer: str, checkout: Path) -> None:
    assert make(checkout, "--silent", "invoke", environ={"ANSWER": answer}).returncode == 0


def test_a_failure_of_the_sam_cli_fails_the_command(checkout: Path) -> None:
    done = make(checkout, "--silent", "invoke", environ={"CODE": "1"})

    assert done.returncode != 0


def test_no_file_is_left_behind_by_a_run_or_a_wrong_stack(checkout: Path) -> None:
    before = files(checkout)
    assert make(checkout, "--silent", "invoke").returncode == 0
    (checkout.parent / "seen.json").unlink()

    done = make(checkout, "--silent", "invoke", "STACK=no-such-stack")

    assert done.returncode != 0
    assert "there is no stack 'no-such-stack'" in done.stderr
    assert done.stdout == ""
    assert not (checkout.parent / "seen.json").exists(), "the function must not have run"
    assert files(checkout) == before


def test_a_missing_container_runtime_is_reported_before_the_build(
    checkout: Path, tmp_path: Path
) -> None:
    python = checkout / ".tools/sam/bin/python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec "{ROOT / ".tools/sam/bin/python"}" "$@"\n')
    python.chmod(0o755)
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path / 'none.sock'}", "HOME": str(tmp_path)}

    done = make(checkout, "--silent", "invoke", environ=nowhere)

    assert done.returncode != 0
    assert "no container runtime answers here: install Docker or Finch" in done.stderr
    assert "Traceback" not in done.stderr
    assert "progress build" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_waits_for_the_sam_cli_to_clean_up(
    number: signal.Signals,
) -> None:
    slow = (
        "import os, signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(1)\n"  # Removing a container takes that long.
        # It may interrupt the print below, and two prints at once are an error.
        "    os.write(2, b'removed\\n')\n"
        "    sys.exit(1)\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, end)\n"
        "print('runs', file=sys.stderr, flush=True)\n"
        "signal.pause()\n"
    )
    running = subprocess.Popen(  # noqa: S603 - the project's own program
        [sys.executable, ROOT / "make/invoke.py", "{}", sys.executable, "-c", slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "runs\n"

    # A terminal's Ctrl-C is for all of its processes, make's SIGTERM for the one that it started.
    if number == signal.SIGINT:
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    _, said = running.communicate(timeout=20)

    assert said == "removed\n"
    assert running.returncode == 1
