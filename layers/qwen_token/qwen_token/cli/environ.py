"""``environ``: the deployed function's environment, to run the function on this machine."""

import argparse
import json

from .deployed import Stack, client_for, session_for
from .output import OK


def run(options: argparse.Namespace) -> int:
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    found = client_for(session, "lambda").get_function_configuration(
        FunctionName=stack.outputs["RefreshFunctionName"]
    )
    # By the logical id, as sam wants it.
    print(json.dumps({"RefreshFunction": found["Environment"]["Variables"]}, indent=2))
    return OK
