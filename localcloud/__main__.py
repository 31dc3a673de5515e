"""Deploy the whole stack into an embedded AWS on this machine, and show the keeper at work.

Starts an AWS emulator and stand-ins of Qwen's two hosts on free loopback ports, runs the real
`sam build` and `sam deploy`, puts in a token with two days left and a session whose token is nearly
over, waits for the deployed schedule to run the deployed functions, and shows what changed; then
has the hosts fail, and shows the notice, the alert, the alarm and the recovery. Takes
about two minutes. Leaves nothing behind, even when interrupted.
"""

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

OK: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130

_ENVIRONMENT: Final = """\
environment:
  KEEP=1                   as --keep
  QWEN_TOKEN_FILE=FILE     as --token-file
  NO_COLOR=1               no colours (there are none either where the output is no terminal)

exit codes: 0 everything shown really happened; 1 it did not; 2 the command line is invalid, or
something is not installed; 130 interrupted
"""


def main() -> int:
    """Run the command line."""
    parser = _parser()
    options = parser.parse_args()
    token_file: Path | None = options.token_file
    if token_file is not None and not os.access(token_file, os.R_OK | os.W_OK):
        # Without the name, which may be the login itself.
        parser.error("the file of --token-file (QWEN_TOKEN_FILE) cannot be read and written")
    # Closing the terminal, or terminating the process, is an interruption, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)

    hosts = (options.api_base_url, options.auth_base_url)

    def run(keep: Callable[[bool], None] | None) -> int:
        try:
            return _show(parser, token_file, hosts, keep)
        except KeyboardInterrupt:
            sys.stdout.write("Interrupted: everything was stopped and removed.\n")
            return INTERRUPTED

    return _run_and_keep(run) if options.keep else run(None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m localcloud",
        description=__doc__,
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        default=os.environ.get("KEEP", "") not in ("", "0"),
        help="leave the cloud running in the background, and say how to talk to it and stop it",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        default=os.environ.get("QWEN_TOKEN_FILE") or None,
        help="renew the login in this file (a token, or a session) at the real hosts, instead of "
        "the stand-ins' logins; should it be retired, the new one is written to the file",
    )
    parser.add_argument(
        "--api-base-url",
        metavar="URL",
        default="https://chat.qwen.ai",
        help="the real API, for --token-file (default: %(default)s)",
    )
    parser.add_argument(
        "--auth-base-url",
        metavar="URL",
        default="https://auth.qwen.ai",
        help="the real sign-in host, for --token-file (default: %(default)s)",
    )
    return parser


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _show(
    parser: argparse.ArgumentParser,
    token_file: Path | None,
    hosts: tuple[str, str],
    keep: Callable[[bool], None] | None,
) -> int:
    # Slow imports, during which somebody may press Ctrl-C.
    from rich.console import Console  # noqa: PLC0415

    from .aws import CommandFailedError, missing_tools  # noqa: PLC0415
    from .screen import Screen  # noqa: PLC0415
    from .show import NotAsExpectedError, RealToken, ShowFailedError, show  # noqa: PLC0415

    if missing := missing_tools():
        parser.error(f"{missing[0]} is missing: run this through `make run`, which installs it")
    real_token = None if token_file is None else RealToken(token_file, *hosts)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Logs and alerts may hold any character, and an old terminal may not support it.
        sys.stdout.reconfigure(errors="replace")
    screen = Screen(Console(highlight=False))
    try:
        show(screen, real_token=real_token, keep=keep)
    except ShowFailedError:
        return FAILED
    except (CommandFailedError, NotAsExpectedError, TimeoutError) as error:
        screen.say(str(error))
        return FAILED
    return OK


def _run_and_keep(run: Callable[[Callable[[bool], None]], int]) -> int:
    """Run in a child, which goes on when this process ends.

    The child reports the show's result by a byte in a pipe, or by its own exit code.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)

        def keep(well: bool) -> None:  # noqa: FBT001 - a callback with one argument
            _live_in_background()
            os.write(writing, bytes([OK if well else FAILED]))
            os.close(writing)
            # Waits until it is killed: _interrupt raises.
            threading.Event().wait()

        return run(keep)
    os.close(writing)
    # Ctrl-C reaches the child, too, which stops everything and says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(reading, "rb") as pipe:
        verdict = pipe.read(1)
    if verdict:
        return verdict[0]
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _live_in_background() -> None:
    """Leave the terminal, so that neither Ctrl-C nor closing it ends this process."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
