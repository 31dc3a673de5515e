"""`make invoke` with every event, in a container, on the secrets of the deployed stack.

Where there is no container runtime, these tests are skipped; `make containers` starts one for them.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from localcloud import qwen as scenarios
from localcloud.aws import ROOT, Cloud
from localcloud.supervised import supervised
from localcloud.waiting import wait_until
from tests.containers.base_image import import_image
from tests.containers.runtime import Runtime, container_runtime, missing
from tests.e2e.conftest import Deployed
from tests.e2e.test_secrecy import secret_parts
from tests.programs import start_program

DAY = timedelta(days=1)
READY = timedelta(seconds=30)
EVENTS = sorted((ROOT / "events").glob("*.json"))
# What each event comes to: with how much time left, the outcome, and whether the token is replaced.
COMES_TO = {
    "check": (5 * DAY, "checked", False),
    "dry_run": (DAY, "would_refresh", False),
    "force": (5 * DAY, "refreshed", True),
    "refresh": (DAY, "refreshed", True),
}


@dataclass(frozen=True)
class Invoked:
    """What `make -s invoke` came to."""

    code: int | None
    stdout: str
    stderr: str

    @property
    def answer(self) -> Any:
        """What a script would read."""
        return json.loads(self.stdout)


def require_runtime() -> None:
    asked = os.environ.get("CONTAINERS") == "start"
    if reason := missing(start=asked):
        # Who asks for containers is not to be told that all went well without.
        (pytest.fail if asked else pytest.skip)(reason)


@pytest.fixture(scope="module", name="runtime")
def _runtime() -> Iterator[Runtime]:
    require_runtime()
    with container_runtime() as runtime:
        yield runtime


@pytest.fixture(scope="module", name="image")
def _image(runtime: Runtime, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = runtime.label.replace("=", ":")
    import_image(
        name,
        label=runtime.label,
        endpoint=cloud.endpoint,
        docker=runtime.docker,
        folder=tmp_path_factory.mktemp("image"),
    )
    return name


@pytest.fixture(scope="module", name="checkout")
def _checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout of the test's own: what is built in it is not the user's."""
    checkout = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("layers", "functions", "make", "requirements", "events"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=ignored)
    for file in ("Makefile", "samconfig.toml", "template.yaml", ".python-version"):
        shutil.copy2(ROOT / file, checkout)
    for folder in (".venv", ".tools"):
        (checkout / folder).symlink_to(ROOT / folder)
    # The SAM CLI asks the package index for a newer one, unless it has done so lately.
    home = checkout / "home/.aws-sam"
    home.mkdir(parents=True)
    (home / "metadata.json").write_text(json.dumps({"lastVersionCheck": time.time()}))
    return checkout


@pytest.fixture(name="invoke")
def _invoke(runtime: Runtime, image: str, checkout: Path, deployed: Deployed) -> Any:
    cloud, hosts = deployed.stack.cloud, deployed.hosts
    addresses = (cloud.endpoint, hosts.qwen.base_url, hosts.sign_in_host.base_url)
    ports = [str(urlsplit(address).port) for address in addresses]
    environ = {**cloud.environ(), **runtime.environ, "HOME": str(checkout / "home")}

    def invoke(event: Path) -> Invoked:
        with supervised() as loopback, supervised() as make:
            loopback.start(
                [
                    ROOT / ".venv/bin/python",
                    "-m",
                    "tests.containers.loopback",
                    runtime.label,
                    *ports,
                ],
                environ={**environ, "PYTHONPATH": str(ROOT)},
            )
            wait_until(
                lambda: "ready" in loopback.output(),
                within=READY,
                expected="the way into the containers",
                seen=loopback.output,
            )
            make.start(
                [
                    *("sh", "-c", 'exec make -s -C "$0" invoke "$@" >answer', checkout),
                    f"EVENT={event.relative_to(ROOT)}",
                    f"ARGS=--skip-pull-image --invoke-image {image}",
                ],
                environ=environ,
            )
            code = make.wait()
            return Invoked(code, (make.directory / "answer").read_text(), make.output())

    return invoke


def assert_silent_about(tokens: list[str], invoked: Invoked) -> None:
    assert len(invoked.stderr) > 100, "the log of build and function must be there"
    for raw in tokens:
        for text in (invoked.stdout, invoked.stderr):
            assert not [part for part in secret_parts(raw) if part in text]


# The first test: there is one bridge, and a daemon of the other tests would have it.
def test_tests_that_are_killed_leave_nothing_of_the_runtime_behind() -> None:
    require_runtime()
    program = (
        "from tests.containers.runtime import container_runtime\n"
        "with container_runtime() as runtime:\n"
        "    print(runtime.directory, flush=True)\n"
        "    input()\n"
    )
    needed = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ}
    running = start_program(program, **needed)
    assert running.stdout is not None
    directory = Path(running.stdout.readline().strip())
    assert directory.is_dir()
    pid = directory / "docker.pid"
    daemons = [Path("/proc", pid.read_text())] if pid.exists() else []
    assert all(daemon.exists() for daemon in daemons)

    running.kill()
    running.communicate()

    wait_until(
        lambda: not any(each.exists() for each in (directory, *daemons)),
        within=READY,
        expected="the runtime to be gone",
        seen=lambda: str([each for each in (directory, *daemons) if each.exists()]),
    )


@pytest.mark.parametrize("event", EVENTS, ids=lambda file: file.stem)
def test_make_invoke_runs_the_function_in_a_container(
    event: Path, invoke: Any, deployed: Deployed
) -> None:
    left, outcome, is_replaced = COMES_TO[event.stem]
    raw = deployed.hold(left)
    before = deployed.stack.versions()

    invoked = invoke(event)

    assert invoked.code == 0, invoked.stderr
    assert invoked.stdout.count("\n") == 1
    current, after = deployed.stack.current(), deployed.stack.versions()
    assert invoked.answer["outcome"] == outcome
    assert invoked.answer["secret_id"] == deployed.stack.secret_arn
    assert invoked.answer["version_id"] == current.version_id
    assert len(after) == len(before) + is_replaced
    assert (current.text != raw) == is_replaced
    assert deployed.qwen.accepts(current.text)
    assert deployed.stack.notifications() == []
    assert_silent_about([raw, current.text], invoked)


def test_a_failure_in_a_container_fails_make_and_alerts_for_real(
    invoke: Any, deployed: Deployed
) -> None:
    raw = deployed.hold(DAY)
    before = deployed.stack.current()
    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)

    invoked = invoke(ROOT / "events/refresh.json")

    assert invoked.code != 0
    assert invoked.answer["errorType"] == "TokenRejectedError"
    alert = deployed.alert()
    assert alert.document["severity"] == "critical"
    [failure] = alert.document["failures"]
    assert failure["reason"] == "token_rejected"
    assert failure["secret_id"] == deployed.stack.secret_arn
    assert deployed.stack.current().version_id == before.version_id
    assert deployed.stack.current().text == raw
    assert_silent_about([raw], invoked)
