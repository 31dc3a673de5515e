"""``redrive``: put the fleet's dead letters back into its queue."""

import argparse
import json
from typing import Any, Final

from .deployed import client_for, session_for
from .failures import asked
from .membership import find_fleet
from .output import OK, console_for, print_rows

SUMMARY: Final = "put the fleet's dead letters back into its queue"

# The most messages that SQS returns at once.
_BATCH: Final = 10
# Seconds for which nobody else receives a message that is being moved.
_HIDDEN: Final = 60


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: this command has no options of its own."""


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    session = session_for(options)
    stack = find_fleet(session, options.stack)
    moved = _move(
        client_for(session, "sqs"),
        source=stack.outputs["FleetDeadLetterQueueUrl"],
        target=stack.outputs["FleetQueueUrl"],
    )
    if console is None:
        print(json.dumps({"redriven": moved}))
        return OK
    print_rows(console, "Dead letters", {"Put back": moved})
    return OK


def _move(client: Any, *, source: str, target: str) -> int:
    """Move every message and return the count. Each is sent before it is deleted: none is lost."""
    moved = 0
    with asked("SQS"):
        while received := client.receive_message(
            QueueUrl=source,
            MaxNumberOfMessages=_BATCH,
            VisibilityTimeout=_HIDDEN,
            WaitTimeSeconds=1,
        ).get("Messages"):
            for message in received:
                client.send_message(QueueUrl=target, MessageBody=message["Body"])
                client.delete_message(QueueUrl=source, ReceiptHandle=message["ReceiptHandle"])
                moved += 1
    return moved
