"""``sweep``: have the fleet's dispatch function look at all its secrets now."""

import argparse
import json
from typing import Final

from .deployed import run_function, session_for
from .membership import find_fleet
from .output import OK, console_for, print_rows

SUMMARY: Final = "start a sweep of the fleet now"

# Of the function's result.
_MEMBERS: Final = ("seen", "skipped", "queued", "unreadable", "completed")


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: this command has no options of its own."""


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = find_fleet(session, options.stack)
    function = stack.outputs["DispatchFunctionName"]
    result = run_function(session, function, {}, members=_MEMBERS)
    if console is None:
        print(json.dumps(result))
        return OK
    print_rows(
        console,
        "Sweep of the fleet",
        {
            "Secrets seen": result["seen"],
            "Fresh": result["skipped"],
            "Queued": result["queued"],
            "Of them unreadable": result["unreadable"],
            "Ended": "yes" if result["completed"] else "no: it goes on by itself",
            "The result": "make status ARGS=--fleet shows it, once the workers are through",
        },
    )
    return OK
