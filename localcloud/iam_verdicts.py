"""Decide whether AWS would allow requests, by the rules of the emulator's IAM. Runs in its Python.

    .tools/cloud/bin/python localcloud/iam_verdicts.py < requests.json > verdicts.json

The emulator applies these rules to each call, but knows no call that crosses accounts. A request
names the principal, the action, the resource, the policy on the resource (null: none), the
principal's policies and the context's keys; the verdict is true where it is allowed.
"""

import json
import sys
from typing import Any

from ministack.core.iam_evaluator import (
    EvalContext,
    combine_resource_policy,
    evaluate,
    parse_policy_document,
)


def allows(request: dict[str, Any]) -> bool:
    context = EvalContext(
        principal_arn=request["principal"],
        principal_type="Role",
        principal_account=request["principal"].split(":")[4],
        action=request["action"],
        resource_arn=request["resource"],
        # Many resources have none of their own.
        region=request.get("region") or request["resource"].split(":")[3],
        service_context={name.lower(): value for name, value in request["context"].items()},
    )
    identity = evaluate(context, [parse_policy_document(each) for each in request["policies"]])
    if request["resource_policy"] is None:
        return bool(identity.decision == "Allow")
    owner = request["resource"].split(":")[4]
    both = combine_resource_policy(identity, context, request["resource_policy"], owner)
    return bool(both.decision == "Allow")


json.dump([allows(request) for request in json.load(sys.stdin)], sys.stdout)
