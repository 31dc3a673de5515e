"""The policies of examples/policies: for whom they are, what they allow, and what calls take."""

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from localcloud.aws import REGION, ROOT, STACK_NAME, Cloud
from localcloud.recording_proxy import Answer, Call, CarryOut, RecordingProxy

ACCOUNT = "000000000000"
FOLDER = ROOT / "examples/policies"
# Of those that are there, who deploys, and who operates what was deployed.
DEPLOYS = ("deployer", "stack-resources")
OPERATES = ("operator",)
OPERATES_A_FLEET = ("operator", "fleet-operator")

_EMULATORS_PYTHON = ROOT / ".tools/cloud/bin/python"

# An action, its resource, and the keys that a condition may ask for.
type Permission = dict[str, Any]
type Policy = dict[str, Any]


def policy(
    name: str, *, region: str = REGION, stack: str = STACK_NAME, secrets: str = "qwen"
) -> Policy:
    """Return a policy as docs/deploy.md has it filled in."""
    text = (FOLDER / f"{name}.json").read_text()
    for placeholder, value in (
        ("REGION", region),
        ("ACCOUNT", ACCOUNT),
        (STACK_NAME, stack),
        ("secret:qwen/", f"secret:{secrets}/"),
    ):
        text = text.replace(placeholder, value)
    document: Policy = json.loads(text)
    return document


def as_list(value: Any) -> list[Any]:
    """Return what a policy may write alone or in a list as a list."""
    return value if isinstance(value, list) else [value]


def actions_of(document: Policy) -> set[str]:
    """Return the actions that a policy names."""
    return {
        action for statement in document["Statement"] for action in as_list(statement["Action"])
    }


def without(document: Policy, sid: str) -> Policy:
    """Return the policy without one of its statements."""
    left = [each for each in document["Statement"] if each["Sid"] != sid]
    return document | {"Statement": left}


@contextmanager
def recorded(
    cloud: Cloud, before: Callable[[Call], None] = lambda _call: None
) -> Iterator[tuple[Cloud, list[Call]]]:
    """Return the cloud by another address, and the list that all calls to that one come into.

    ``before`` each of them, something may be done.
    """
    calls: list[Call] = []

    def record(call: Call, carry_out: CarryOut) -> Answer | None:
        calls.append(call)
        before(call)
        return carry_out()

    relay = RecordingProxy()
    relay.gate = record
    with relay.to(cloud.port):
        yield replace(cloud, port=int(relay.url.rpartition(":")[2])), calls


def permissions_of(calls: Iterable[Call]) -> list[Permission]:
    """Return what these calls take, each once."""
    found = answers_of(
        "iam_requests.py",
        [
            {
                "method": call.method,
                "path": call.path,
                "headers": dict(call.headers),
                "body": base64.b64encode(call.body).decode(),
            }
            for call in calls
        ],
    )
    return list({json.dumps(each, sort_keys=True): each for each in found}.values())


def refused(permissions: Iterable[Permission], policies: Iterable[Policy]) -> list[Permission]:
    """Return those of the permissions that the policies together do not give."""
    policies = list(policies)
    return refused_each((each, policies) for each in permissions)


def refused_each(asked: Iterable[tuple[Permission, list[Policy]]]) -> list[Permission]:
    """Return those of the permissions that are not given by the policies beside them."""
    asked = list(asked)
    verdicts = answers_of(
        "iam_verdicts.py",
        [
            {
                "principal": f"arn:aws:iam::{ACCOUNT}:role/person",
                "action": each["action"],
                "resource": each["resource"],
                "resource_policy": None,
                "policies": policies,
                "context": each.get("context", {}),
                "region": each.get("region", REGION),
            }
            for each, policies in asked
        ],
    )
    return [each for (each, _), allowed in zip(asked, verdicts, strict=True) if not allowed]


def one_of(pattern: str) -> str:
    """Return an ARN that a policy's pattern means."""
    return re.sub(r"\?", "0", pattern.replace("*", "x0"))


def answers_of(program: str, requests: list[dict[str, Any]]) -> list[Any]:
    """Return what a program of localcloud that uses the emulator's IAM answers to each request."""
    done = subprocess.run(  # noqa: S603 - our own programs
        [_EMULATORS_PYTHON, ROOT / "localcloud" / program],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers
