"""Cold starts under the Lambda Runtime Interface Emulator, measured from outside the runtime.

The emulator comes with the SAM CLI and needs no Docker. It starts the runtime's process when the
first invocation arrives: what that process has used by its answer is init and first invoke.
"""

import http.client
import json
import platform
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Final

from localcloud.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]

_RUNTIME: Final = ROOT / ".tools/lambda/bin/python"
_EMULATORS: Final = "lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-*"
_ARCHITECTURES: Final = {"x86_64": "x86_64", "aarch64": "arm64"}
_PATH: Final = "/2015-03-31/functions/function/invocations"
_LIMIT: Final = timedelta(seconds=60)
# The function's, as in the template.
_TIMEOUT: Final = "120"
_MEMORY: Final = "256"


class EmulatorError(Exception):
    """The emulator, or the handler under it, failed; the message has what it wrote."""


@dataclass(frozen=True, slots=True)
class Function:
    """A built function: its folder, its handler, its layers' folders, and its own environment."""

    task_root: Path
    handler: str
    layers: Sequence[Path]
    environ: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What init and first invoke cost the runtime's process; memory in bytes, at its peak."""

    cpu: timedelta
    wall: timedelta
    peak_memory: int
    answer: Mapping[str, object]


def find_emulator() -> Path:
    """Return the emulator's path.

    Raises:
        EmulatorError: there is none for this machine.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if platform.system() != "Linux" or architecture is None:
        raise EmulatorError("the Lambda Runtime Interface Emulator runs on Linux only")
    for emulator in (ROOT / ".tools/sam").glob(_EMULATORS):
        if emulator.name.endswith(architecture):
            return emulator
    raise EmulatorError("the SAM CLI is not installed here: run `make setup`")


def cold_start(function: Function, event: Mapping[str, object]) -> ColdStart:
    """Start ``function`` from nothing, invoke it once, and measure it.

    Raises:
        EmulatorError: it did not start, or its handler raised.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        port, runtime_port = _free_ports()
        emulator = subprocess.Popen(  # noqa: S603 - the SAM CLI's own binary
            [
                find_emulator(),
                # Its default is every interface.
                *("--runtime-interface-emulator-address", f"127.0.0.1:{port}"),
                *("--runtime-api-address", f"127.0.0.1:{runtime_port}"),
                *(_RUNTIME, "-m", "awslambdaric", function.handler),
            ],
            cwd=function.task_root,
            env=_environ(function),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(_end, emulator)
        wait_until(
            lambda: _listens(port) or emulator.poll() is not None,
            within=_LIMIT,
            expected=f"the emulator to listen on port {port}",
            seen=lambda: _written(log),
        )
        started = time.monotonic()
        answer = _invoke(port, event, log)
        wall = timedelta(seconds=time.monotonic() - started)
        runtime = _only_child(emulator.pid)
        cpu = _cpu_when_idle(runtime)
        return ColdStart(cpu, wall, _peak_memory(runtime), answer)


def _environ(function: Function) -> dict[str, str]:
    # The order of Lambda's own path: the function, its layers, the runtime.
    path = [function.task_root, *function.layers]
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": ":UTC",
        "PYTHONPATH": ":".join(str(folder) for folder in path),
        # Lambda's disk is read-only.
        "PYTHONDONTWRITEBYTECODE": "1",
        "AWS_LAMBDA_FUNCTION_NAME": "benchmark",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": _TIMEOUT,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": _MEMORY,
        # Nothing of the user's own.
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        **function.environ,
    }


def _free_ports() -> Sequence[int]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return [candidate.getsockname()[1] for candidate in (one, two)]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _invoke(port: int, event: Mapping[str, object], log: IO[bytes]) -> Mapping[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LIMIT.total_seconds())
    try:
        connection.request("POST", _PATH, json.dumps(event))
        answer: object = json.loads(connection.getresponse().read())
    except (OSError, ValueError) as error:
        raise EmulatorError(f"no answer from the function\n{_written(log)}") from error
    finally:
        connection.close()
    # Its status is 200 whatever happened.
    if not isinstance(answer, dict) or "errorType" in answer:
        raise EmulatorError(f"the function failed: {answer}\n{_written(log)}")
    return answer


def _only_child(parent: int) -> int:
    children: list[int] = []
    for thread in Path(f"/proc/{parent}/task").iterdir():
        # A thread may end meanwhile.
        with suppress(FileNotFoundError):
            children += map(int, (thread / "children").read_text().split())
    if len(children) != 1:
        raise EmulatorError(f"the emulator should have started one process, but has {children}")
    return children[0]


def _cpu_when_idle(process: int) -> timedelta:
    """Wait until the process waits for its next invocation; return what it has used in all."""
    readings = [_cpu(process)]

    def is_idle() -> bool:
        readings.append(_cpu(process))
        return readings[-1] == readings[-2]

    wait_until(
        is_idle,
        within=_LIMIT,
        expected="the runtime to come to rest",
        seen=lambda: f"{readings[-1]} s of CPU time",
    )
    return timedelta(seconds=readings[-1])


def _cpu(process: int) -> float:
    # The kernel's clock of another process (clock_getcpuclockid): user and system time of all its
    # threads, to the nanosecond, where /proc counts in hundredths of a second.
    return time.clock_gettime((~process << 3) | 2)


def _peak_memory(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise EmulatorError("the kernel does not tell the peak memory of a process")


def _written(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


def _end(emulator: "subprocess.Popen[bytes]") -> None:
    # It kills the runtime before it ends.
    emulator.terminate()
    try:
        emulator.wait(timeout=10)
    except subprocess.TimeoutExpired:
        emulator.kill()
        emulator.wait()
