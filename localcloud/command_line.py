"""The project's command line, in processes that have imported it before they begin.

    done = run(["status", "--stack", "pool"], environ=cloud.environ())

To import boto3 and the library takes most of a second, and the tests run a hundred commands. So one
process, which runs this file, imports them once, and each command is a fork of it: a process of its
own all the same, with its own arguments, environment, streams and exit code.
"""

import atexit
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, NoReturn

import boto3

from . import service_models

_ROOT: Final = Path(__file__).parents[1]
# With all that its commands import when they need it.
_IMPORTED: Final = ("qwen_token.cli", "qwen_token.client", "rich.console", "rich.table")
# Those that its commands ask.
_SERVICES: Final = (
    *("cloudformation", "cloudwatch", "dynamodb"),
    *("lambda", "scheduler", "secretsmanager", "sqs"),
)
# A command's arguments, environment and encoding, and its three standard streams.
_FILES: Final = 4


def run(
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str],
    typed: str = "",
    encoding: str = "utf-8",
) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m qwen_token``, with ``typed`` on its standard input.

    ``environ`` is its environment, and ``encoding`` that of its standard streams.
    """
    with ExitStack() as files:
        # Files, because a message of more than some kilobytes would come in pieces.
        asked, given, said, complained = (
            files.enter_context(TemporaryFile()) for _ in range(_FILES)
        )
        asked.write(json.dumps([[*arguments], dict(environ), encoding]).encode())
        given.write(typed.encode(encoding))
        for each in (asked, given):
            each.seek(0)
        starter = _starter()
        socket.send_fds(
            starter, [b"run"], [each.fileno() for each in (asked, given, said, complained)]
        )
        if not (answer := starter.recv(16)):
            raise RuntimeError("the process that commands are forked from has ended")
        said.seek(0)
        complained.seek(0)
        return subprocess.CompletedProcess(
            arguments, int(answer), said.read().decode(encoding), complained.read().decode(encoding)
        )


@cache
def _starter() -> socket.socket:
    """Start the process that is forked for each command; return what it is spoken to by."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "localcloud.command_line"],
        stdin=theirs.fileno(),
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT / "layers/qwen_token")},
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(starter: socket.socket) -> None:
    """Fork for each command that comes, and answer with its exit code, until nobody is there."""
    for module in _IMPORTED:
        import_module(module)
    service_models.read_once()
    # With keys that are nobody's, or boto3 would look for some.
    session: Any = boto3.Session("none", "none", region_name="us-east-1")
    for service in _SERVICES:
        session.client(service)
    # Or the first collection in each fork would copy all that was imported.
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(starter, 16, _FILES)
        if not message:
            return
        if (child := os.fork()) == 0:
            starter.close()
            _become(*files)
        for each in files:
            os.close(each)
        _, status = os.waitpid(child, 0)
        starter.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become(command: int, *streams: int) -> NoReturn:
    """Be the command, in the process that was forked for it."""
    with os.fdopen(command, encoding="utf-8") as asked:
        arguments, environ, encoding = json.load(asked)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environ)
    sys.stdin = os.fdopen(0, encoding=encoding)
    sys.stdout = os.fdopen(1, "w", encoding=encoding)
    sys.stderr = os.fdopen(2, "w", encoding=encoding, errors="backslashreplace")
    sys.argv = ["-m", *arguments]
    runpy.run_module("qwen_token", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    with socket.socket(fileno=os.dup(0)) as spoken_to:
        _serve(spoken_to)
