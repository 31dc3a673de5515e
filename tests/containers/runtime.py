"""A container runtime for the tests: the one that answers here, or one of their own.

    with container_runtime(start=True) as runtime: ...

Beside the tests runs one more process, this file as a script. It holds the reading end of a pipe.
When the other end is closed, on purpose or because the tests died, it removes every container and
image with the tests' label, and ends the daemon that it started, with all that belongs to it.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

_PREFIX: Final = "qwen-token-refresh-containers-"
_LABEL: Final = "qwen-token-refresh-test"
_BRIDGE: Final = "docker0"
_START_LIMIT: Final = timedelta(seconds=60)
# A daemon gives its containers fifteen seconds to end.
_END_LIMIT: Final = 60


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime that answers."""

    host: str
    label: str
    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which programs find it."""
        return {"DOCKER_HOST": self.host}

    @property
    def docker(self) -> list[str]:
        """The first words of a docker command to it."""
        return ["docker", "--host", self.host]


def missing(*, start: bool) -> str | None:
    """Return why there is no runtime for the tests, None where there is, or one can be started."""
    if reason := _unusable():
        return reason
    if _answers(_users_host()):
        return None
    return _unstartable() if start else "no container runtime answers (make containers starts one)"


def _unusable() -> str | None:
    if not sys.platform.startswith("linux"):
        return "only on Linux can a container be let through to this machine's 127.0.0.1"
    if os.geteuid() != 0:
        return "only root can let a container through to this machine's 127.0.0.1"
    if shutil.which("docker") is None:
        return "docker is not installed (on Debian: apt install docker.io)"
    return None


def _unstartable() -> str | None:
    for program, package in (("dockerd", "docker.io"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"{program} is not installed (on Debian: apt install {package})"
    if Path("/sys/class/net", _BRIDGE).exists():
        return f"no container runtime answers here, but another one has left {_BRIDGE} behind"
    return None


@contextmanager
def container_runtime() -> Iterator[Runtime]:
    """Hold the runtime that answers here, or start one; leave nothing behind after the block.

    Raises:
        TimeoutError: the daemon that was started does not answer.
    """
    from localcloud.waiting import wait_until  # noqa: PLC0415 - not for the script below

    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    own = not _answers(_users_host())
    host = f"unix://{directory}/docker.sock" if own else _users_host()
    runtime = Runtime(host, f"{_LABEL}={secrets.token_hex(4)}", directory)
    with subprocess.Popen(  # noqa: S603 - this file
        [sys.executable, "-I", __file__, "own" if own else "users", host, runtime.label, directory],
        stdin=subprocess.PIPE,
        # Ctrl-C at the terminal is for the tests, which let go in their own time.
        start_new_session=True,
    ) as keeper:
        # The end of the block closes the pipe, and waits.
        wait_until(
            lambda: _answers(host),
            within=_START_LIMIT,
            expected="the container runtime to answer",
            seen=lambda: (directory / "dockerd.log").read_text()[-2000:],
        )
        yield runtime
    assert keeper.returncode == 0, "what it left behind is said above"


def _users_host() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def _answers(host: str) -> bool:
    words = ["docker", "--host", host, "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0  # noqa: S603 - fixed words


def _keep(kind: str, host: str, label: str, directory: Path) -> int:
    daemon = _start(host, directory) if kind == "own" else None
    os.read(sys.stdin.fileno(), 1)
    left = _remove_labelled(["docker", "--host", host], label)
    if daemon is not None:
        daemon.terminate()
        daemon.wait(_END_LIMIT)
        if Path("/sys/class/net", _BRIDGE).exists():
            subprocess.run(["ip", "link", "delete", _BRIDGE], check=True)  # noqa: S603, S607 - fixed words
    shutil.rmtree(directory)
    return left


def _start(host: str, directory: Path) -> "subprocess.Popen[bytes]":
    # It touches no rule of the machine's firewall, and forwards nothing: a container reaches what
    # loopback.py passes on. A port that it publishes is served on 127.0.0.1.
    with (directory / "dockerd.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - fixed words
            [
                *("dockerd", "--host", host, "--pidfile", directory / "docker.pid"),
                *("--data-root", directory / "data", "--exec-root", directory / "exec"),
                *("--iptables=false", "--ip-forward=false", "--ip-masq=false"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _remove_labelled(docker: list[str], label: str) -> int:
    """Remove the containers and then the images; return 1 where something could not be removed."""
    code = 0
    for listing, removal in ((("ps", "--all"), "rm"), (("images",), "rmi")):
        words = [*docker, *listing, "--quiet", "--filter", f"label={label}"]
        found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603 - fixed words
        if found:
            words = [*docker, removal, "--force", *dict.fromkeys(found)]
            code |= subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode  # noqa: S603 - as above
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
