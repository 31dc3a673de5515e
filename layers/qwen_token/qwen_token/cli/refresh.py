"""``refresh``: run the deployed function now, and show what it did."""

import argparse
import json
from typing import Final

from botocore.config import Config

from qwen_token import errors
from qwen_token.keeper import Outcome

from .deployed import Stack, client_for, session_for
from .output import ATTENTION, FAILED, OK, complain, console_for, print_rows

# Longer than the function's own timeout; and a second attempt would be a second run.
_INVOKE_CONFIG: Final = Config(
    connect_timeout=5, read_timeout=150, retries={"mode": "standard", "total_max_attempts": 1}
)


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = Stack.find(session, options.stack)
    event = {
        key: True
        for key, wanted in (("force", options.force), ("dry_run", options.dry_run))
        if wanted
    }
    response = client_for(session, "lambda", config=_INVOKE_CONFIG).invoke(
        FunctionName=stack.outputs["RefreshFunctionName"], Payload=json.dumps(event)
    )
    result = json.loads(response["Payload"].read())
    if "FunctionError" in response:
        name = result.get("errorType", "unknown")
        failure = getattr(errors, name, None)
        reason = getattr(failure, "reason", "function_failed")
        advice = getattr(failure, "advice", "Look at the function's log (make logs).")
        complain(options, reason, result.get("errorMessage", name), advice)
        return FAILED
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
