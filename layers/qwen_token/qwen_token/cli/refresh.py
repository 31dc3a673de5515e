"""``refresh``: run the deployed function now, and show what it did."""

import argparse
import json
from typing import Final

from .deployed import Stack, run_function, session_for
from .outcomes import exit_code_of, in_words
from .output import console_for, print_rows

SUMMARY: Final = "run the deployed function now and show what it did"

_LABELS: Final = {
    "secret_id": "Secret",
    "version_id": "Version",
    "grant": "Got by",
    "expires_at": "Expires",
    "days_remaining": "Days left",
    "session_expires_at": "Session expires",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="refresh even a fresh token (one younger than ten minutes is only checked)",
    )
    parser.add_argument(
        "--check",
        dest="ask_api",
        action="store_true",
        help="ask the API whether it accepts the token, and replace it where it does not",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="decide only: call nobody, change nothing"
    )


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    wanted = {"force": options.force, "check": options.ask_api, "dry_run": options.dry_run}
    event = {key: True for key, is_wanted in wanted.items() if is_wanted}
    result = run_function(session, stack.outputs["RefreshFunctionName"], event)
    if console is None:
        print(json.dumps(result))
        return exit_code_of(result)
    outcome = result["outcome"]
    asked = not options.dry_run
    words = in_words(outcome, force=asked and options.force, check=asked and options.ask_api)
    rows = {label: result.get(key) for key, label in _LABELS.items()}
    print_rows(console, "Run of the refresh function", {"Outcome": f"{outcome}: {words}", **rows})
    return exit_code_of(result)
