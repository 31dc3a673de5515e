"""The command line, for owners of a login: put it in, look at it, refresh it.

Each command is a module that adds its options and runs; this one puts them together. Commands do
not import each other. What they share: ``deployed`` (the stack), ``membership`` (its fleet),
``token_input`` and ``hidden_prompt`` (what people give to a command), ``given_up`` (what a command
replaces for good), ``readings`` and ``fleet_readings`` (what AWS says), ``standing`` and
``login_kinds`` (what that comes to),
``output`` and ``outcomes`` (what people see) and ``failures`` (what people read when a command
fails).
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn, Protocol

from qwen_token.names import may_be_login

from . import environ, put, redrive, refresh, remove, smoke, status, sweep
from .deployed import DEFAULT_STACK
from .failures import FAILURES, failure_of
from .output import FAILED, INTERRUPTED, complain

_EXIT_CODES: Final = """\
exit codes:
  0    done, and all is well (put, refresh: also where the function had no need to use
       the login now, or another run was at work; the outcome says so)
  1    failed: the message says what is wrong, with what, and what to do
       (put: the login may be stored all the same, and the message says so; status:
       something could not be read, or the API gave --check no answer; refresh: also a
       failure that may pass, with the outcome retrying)
  2    the command line is invalid
  3    something needs a person (status: no usable token, the login is ending, an
       incident is open, an alarm is on, or the schedule is off; refresh, smoke: the
       secret has no token yet)
  130  interrupted
"""

_NEVER_AN_ARGUMENT: Final = (
    "A login is never an argument: put asks for it, or reads it from standard input."
)
# The messages of argparse that do not quote the command line.
_HARMLESS: Final = re.compile(
    r"(argument [^:]+: )?(unrecognized arguments|invalid choice|ignored explicit argument"
    r"|expected one argument|the following arguments are required: \w+)"
)

# The valid names, by option. An ARN is checked by the command that takes it.
_NAMES: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "stack": (
        re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}|arn:[\w:/-]+", re.ASCII),
        "--stack should be a stack's name: letters, digits and hyphens",
    ),
    "region": (
        re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}"),
        "--region should be an AWS region, like eu-west-1",
    ),
    "name": (
        re.compile(r"[\w/+=.@!-]{1,512}|arn:[\w/+=.@!:-]+", re.ASCII),
        "--name should be a secret's name: letters, digits and /_+=.@-",
    ),
    "secret_id": (
        re.compile(r"[\w/+=.@!-]{1,512}|arn:[\w/+=.@!:-]+", re.ASCII),
        "--secret-id should be a secret's name or its ARN",
    ),
}


class _Command(Protocol):
    """A command's module.

    ``add_options`` may also set the defaults ``check``, a function that returns what is wrong with
    a combination of options, and ``advice`` for the command's failures.
    """

    @property
    def SUMMARY(self) -> str:  # noqa: N802 - a module's constant
        """What the command does, in the list of commands."""
        ...

    def add_options(self, _parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, options: argparse.Namespace) -> int:
        """Return the exit code."""
        ...


# In the order in which the help lists them.
_COMMANDS: Final[Mapping[str, _Command]] = {
    "put": put,
    "status": status,
    "refresh": refresh,
    "smoke": smoke,
    "remove": remove,
    "sweep": sweep,
    "redrive": redrive,
    "environ": environ,
}


def main(arguments: Sequence[str] | None = None, *, prog: str = "qwen-token") -> int:
    """Run one command and return its exit code; ``prog`` is the program's name in messages."""
    options = _parser(prog).parse_args(arguments)
    _require_names(options)
    if options.check is not None and (wrong := options.check(options)):
        options.parser.refuse(wrong)
    try:
        code = _carry_out(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the output. Without this, Python would complain again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        # A full disk, or a closed terminal. All other errors of this kind are translated.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: input or output failed: {type(error).__name__}", file=sys.stderr)
        return FAILED
    return code


def _require_names(options: argparse.Namespace) -> None:
    """Exit if an option's value is a login or not a name: it would be sent to AWS and shown."""
    for name, value in vars(options).items():
        if not isinstance(value, str):
            continue
        if may_be_login(value):
            options.parser.error("a login")
        if name in _NAMES and not _NAMES[name][0].fullmatch(value):
            options.parser.refuse(f"{_NAMES[name][1]}\n{_NEVER_AN_ARGUMENT}")


def _carry_out(options: argparse.Namespace) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show must not fail a command that has succeeded.
        sys.stdout.reconfigure(errors="replace")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except FAILURES as error:
        complain(options, *failure_of(error, options.advice))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Does not quote the command line, which may hold a token."""

    def error(self, message: str) -> NoReturn:
        harmless = _HARMLESS.match(message)
        self.refuse(f"{harmless[0] if harmless else 'not understood'}\n{_NEVER_AN_ARGUMENT}")

    def refuse(self, said: str) -> NoReturn:
        """Exit with the message ``said``, which must not quote the command line."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {said}\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    common = _common_options()
    parser = _Parser(
        prog=prog,
        description="Keep a chat.qwen.ai login alive on AWS: the commands for people.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        summary = command.SUMMARY
        added = commands.add_parser(
            name,
            parents=[common],
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(run=command.run, parser=added, check=None, advice={})
        command.add_options(added)
    return parser


def _common_options() -> _Parser:
    common = _Parser(add_help=False)
    common.add_argument(
        "--stack",
        default=DEFAULT_STACK,
        metavar="NAME",
        help="the deployed stack (default: %(default)s)",
    )
    common.add_argument("--region", help="AWS region (default: as boto3 finds it)")
    common.add_argument("--json", action="store_true", help="print one JSON document, for scripts")
    return common
