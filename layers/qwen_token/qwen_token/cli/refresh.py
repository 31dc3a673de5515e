"""``refresh``: run the deployed function now, and show what it did."""

import argparse
import json
from typing import Final

from qwen_token.keeper import Outcome

from .deployed import Stack, run_function, session_for
from .output import ATTENTION, OK, console_for, print_rows

SUMMARY: Final = "run the deployed function now and show what it did"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="refresh even a fresh token")
    parser.add_argument("--dry-run", action="store_true", help="decide only: change nothing")


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    event = {
        key: True
        for key, wanted in (("force", options.force), ("dry_run", options.dry_run))
        if wanted
    }
    result = run_function(session, stack.outputs["RefreshFunctionName"], event)
    code = ATTENTION if result["outcome"] == Outcome.AWAITING_TOKEN else OK
    if console is None:
        print(json.dumps(result))
        return code
    labels = {
        "outcome": "Outcome",
        "secret_id": "Secret",
        "version_id": "Version",
        "expires_at": "Expires",
        "days_remaining": "Days left",
    }
    print_rows(
        console,
        "Run of the refresh function",
        {label: result[key] for key, label in labels.items()},
    )
    return code
