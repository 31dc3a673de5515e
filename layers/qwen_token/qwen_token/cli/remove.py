"""``remove``: take a secret out of the fleet."""

import argparse
import json
from typing import Final

from qwen_token.fleet import member_name

from .deployed import secrets_manager, session_for
from .membership import NOT_A_MEMBER, Membership, find_fleet
from .output import OK, console_for, print_rows

SUMMARY: Final = "take a member out of the fleet; its secrets stay as they are"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(check=_check)
    parser.add_argument("--name", metavar="NAME", required=True, help="the member's name")


def _check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the name."""
    return None if member_name(options.name) is None else NOT_A_MEMBER


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = find_fleet(session, options.stack)
    left = Membership(stack, secrets_manager(session, options.name)).leave(options.name)
    if console is None:
        print(json.dumps({"secret_id": options.name, "secrets": left, "removed": True}))
        return OK
    print_rows(
        console,
        "Taken out of the fleet",
        {
            "Secrets": ", ".join(left),
            "Token": "it stays, and lives until it expires: nothing refreshes it any more",
            "Login": "it stays, too: nothing uses it any more" if len(left) > 1 else None,
            **{
                f"To delete {number}": f"aws secretsmanager delete-secret --secret-id {name}"
                for number, name in enumerate(left, start=1)
            },
        },
    )
    return OK
