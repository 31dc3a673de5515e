"""``remove``: take a secret out of the fleet."""

import argparse
import json
from typing import Final

from .deployed import secrets_manager, session_for
from .membership import find_fleet, leave
from .output import OK, console_for, print_rows

SUMMARY: Final = "take a secret out of the fleet; it stays as it is"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="NAME", required=True, help="the secret's name")


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = find_fleet(session, options.stack)
    leave(options.name, stack, secrets_manager(session, options.name))
    if console is None:
        print(json.dumps({"secret_id": options.name, "removed": True}))
        return OK
    print_rows(
        console,
        "Taken out of the fleet",
        {
            "Secret": options.name,
            "Token": "it stays, and lives until it expires: nothing refreshes it any more",
            "To delete it": f"aws secretsmanager delete-secret --secret-id {options.name}",
        },
    )
    return OK
