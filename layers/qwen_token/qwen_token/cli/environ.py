"""``environ``: the deployed function's environment, to run the function on this machine."""

import argparse
import json
from typing import Final

from .deployed import Stack, client_for, session_for
from .failures import asked
from .output import OK

SUMMARY: Final = "print the function's environment, for `sam local invoke --env-vars`"


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: this command has no options of its own."""


def run(options: argparse.Namespace) -> int:
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    client = client_for(session, "lambda")
    with asked("Lambda"):
        found = client.get_function_configuration(FunctionName=stack.outputs["RefreshFunctionName"])
        variables = found["Environment"]["Variables"]
    # sam looks the variables up by the logical id.
    print(json.dumps({"RefreshFunction": variables}, indent=2))
    return OK
