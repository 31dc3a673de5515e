"""The emulated AWS, where MiniStack by itself is not like AWS."""

import base64
import json
import re
import uuid
from typing import Any

import pytest

from localcloud.aws import Cloud
from tests.integration.functions import function

CODE = """
calls = 0

def handler(event, context):
    global calls
    calls += 1
    if event == "raise":
        raise ValueError(f"call {calls}")
    return calls
"""

# Each line is written by itself, the last of them without an end.
LOGS = """
import os, time

def handler(event, context):
    for line in range(9):
        os.write(2, f"step {event[1]}{line}".encode() + (b"\\n" if line < 8 else b""))
        time.sleep(0.01)
    if event[0] == "raise":
        raise ValueError
"""


def test_a_handler_that_raises_keeps_its_process(cloud: Cloud) -> None:
    with function(cloud, CODE) as name:

        def invoke(event: str) -> tuple[Any, str | None]:
            answer = cloud.functions.invoke(FunctionName=name, Payload=json.dumps(event))
            return json.loads(answer["Payload"].read()), answer.get("FunctionError")

        failed, error = invoke("raise")
        assert (failed["errorMessage"], error) == ("call 1", "Unhandled")
        assert invoke("count") == (2, None)


@pytest.mark.parametrize("event", ["return", "raise"])
def test_the_log_of_an_invocation_is_whole_and_its_own(cloud: Cloud, event: str) -> None:
    with function(cloud, LOGS) as name:
        for number in range(3):
            answer = cloud.functions.invoke(
                FunctionName=name, LogType="Tail", Payload=json.dumps([event, number])
            )
            log = base64.b64decode(answer["LogResult"]).decode()
            assert re.findall("step ([0-9]+)", log) == [f"{number}{line}" for line in range(9)]
            assert not re.search(r"end of|step \d+[^\n\d]", log)


def test_a_secret_is_found_by_its_name_its_arn_and_the_beginning_of_its_arn(cloud: Cloud) -> None:
    client = cloud.secretsmanager
    # The one's name begins as the other's does, and ends as an ARN's suffix would.
    name = f"emulator/{uuid.uuid4()}"
    arns = {
        each: client.create_secret(Name=each, SecretString=each)["ARN"]
        for each in (name, f"{name}-abcdef", f"{name}-abcdef-ghijkl")
    }

    for each, arn in arns.items():
        for secret_id in (each, arn):
            assert client.get_secret_value(SecretId=secret_id)["SecretString"] == each
    assert client.get_secret_value(SecretId=arns[name][:-7])["SecretString"] == name
    for other in (arns[name][:-6] + "aaaaaa", arns[name].replace("us-east-1", "us-east-2")):
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.get_secret_value(SecretId=other)
