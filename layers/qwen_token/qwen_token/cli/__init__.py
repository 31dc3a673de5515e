"""The command line, for the people who own a token: put it in, look at it, have it refreshed.

Each command is a module with a ``run`` that returns the exit code. Commands do not know each other:
what they share of the deployed stack is in ``deployed``, of what people give to them in ``given``,
of what people see in ``output``, of what went wrong in ``failures``.
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from qwen_token.origin import BASE_URL

from . import environ, put, redrive, refresh, remove, smoke, status, sweep
from .deployed import DEFAULT_STACK
from .failures import FAILURES, Advice, failure_of
from .output import FAILED, INTERRUPTED, complain

_EXIT_CODES: Final = """\
exit codes:
  0    done, and all is well
  1    failed: the message says what is wrong, with what, and what to do
       (status: something could not be read)
  2    the command line is off
  3    something needs a person (status: no usable token, an alarm is on, or the
       schedule is off; refresh: the secret has no token yet; smoke: it has none)
  130  interrupted
"""

# What argparse may say without repeating what it was given.
_HARMLESS: Final = re.compile(
    r"(argument [^:]+: )?(unrecognized arguments|invalid choice|ignored explicit argument"
    r"|expected one argument|the following arguments are required: \w+)"
)

# Base64 for the beginning of a JSON object: so does every JWT begin, and no name of ours.
_LIKE_A_TOKEN: Final = "eyJ"  # noqa: S105 - no password


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    if any(str(value).startswith(_LIKE_A_TOKEN) for value in vars(options).values()):
        options.parser.error("a token")
    if options.check is not None and (wrong := options.check(options)):
        options.parser.refuse(wrong)
    try:
        code = _carry_out(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output had enough; Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _carry_out(options: argparse.Namespace) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal cannot show must not fail a command that has done its work.
        sys.stdout.reconfigure(errors="replace")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except FAILURES as error:
        complain(options, *failure_of(error, options.advice))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Does not repeat what it was given: somebody may have given it a token."""

    def error(self, message: str) -> NoReturn:
        harmless = _HARMLESS.match(message)
        self.refuse(
            f"{harmless[0] if harmless else 'not understood'}\n"
            "A token is never an argument: put asks for it, or reads it from standard input."
        )

    def refuse(self, said: str) -> NoReturn:
        """End with ``said``, which repeats nothing that was given."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {said}\n")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument(
        "--stack",
        default=DEFAULT_STACK,
        metavar="NAME",
        help="the deployed stack (default: %(default)s)",
    )
    common.add_argument("--region", help="AWS region (default: as boto3 finds it)")
    common.add_argument("--json", action="store_true", help="print one JSON document, for scripts")

    parser = _Parser(
        prog="python -m qwen_token",
        description="Keep a chat.qwen.ai token alive on AWS: the commands for people.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str,
        summary: str,
        command: Callable[..., int],
        *,
        check: Callable[[argparse.Namespace], str | None] | None = None,
        advice: Advice | None = None,
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            parents=[common],
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command, parser=added, check=check, advice=advice or {})
        return added

    added = add(
        "put",
        "put a token in: at a hidden prompt, or on standard input (never an argument)",
        put.run,
        check=put.check,
        advice=put.ADVICE,
    )
    added.add_argument("--secret-id", metavar="ARN", help="this secret; no stack is needed then")
    added.add_argument(
        "--api-base-url",
        metavar="URL",
        help=f"the API to ask (default: the stack's ApiBaseUrl, or {BASE_URL})",
    )
    added.add_argument("--no-check", action="store_true", help="do not ask the API about the token")
    added.add_argument(
        "--fleet", action="store_true", help="into a secret of the fleet, made if there is none"
    )
    added.add_argument("--name", metavar="NAME", help="the secret's name, with --fleet")

    added = add(
        "status",
        "show the token, its time left, the schedule and the alarms",
        status.run,
        check=status.check,
    )
    added.add_argument(
        "--fleet", action="store_true", help="show the fleet's tokens: those that expire first"
    )
    added.add_argument("--all", action="store_true", help="with --fleet: every one of them")

    added = add("refresh", "run the deployed function now and show what it did", refresh.run)
    added.add_argument("--force", action="store_true", help="refresh even a fresh token")
    added.add_argument("--dry-run", action="store_true", help="decide only: change nothing")

    added = add(
        "smoke",
        "check it all: read the token, refresh it, use the new one",
        smoke.run,
        check=smoke.check,
    )
    added.description = smoke.DESCRIPTION
    added.add_argument(
        "--stdin",
        action="store_true",
        help="with a token of yours, at a hidden prompt or on standard input: AWS is not asked",
    )
    added.add_argument(
        "--api-base-url", metavar="URL", help=f"the API to ask, with --stdin (default: {BASE_URL})"
    )

    added = add("remove", "take a secret out of the fleet; it stays as it is", remove.run)
    added.add_argument("--name", metavar="NAME", required=True, help="the secret's name")

    add("sweep", "have the fleet looked through now: what is due is queued", sweep.run)

    add("redrive", "put the fleet's dead letters back into its queue", redrive.run)

    add(
        "environ",
        "print the function's environment, for `sam local invoke --env-vars`",
        environ.run,
    )
    return parser
