"""Say which permissions calls take, by the rules of the emulator's IAM. Runs in its Python.

    .tools/cloud/bin/python localcloud/iam_requests.py < calls.json > permissions.json

A call has a method, a path, headers and a body in base64; its permission has the action, the
resource and the context's keys that a policy may ask for.
"""

import base64
import json
import re
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ministack.core.iam_actions import (
    extract_iam_action,
    extract_resource_arn,
    request_tag_context,
)
from ministack.core.router import detect_service

_SIGNED_FOR = re.compile(r"Credential=[^/]+/\d{8}/(?P<region>[^/]+)/")
_ACCOUNT = "000000000000"


def permission(call: dict[str, Any]) -> dict[str, Any]:
    """Return what a call takes."""
    headers = {name.lower(): value for name, value in call["headers"].items()}
    body = base64.b64decode(call["body"])
    url = urlsplit(call["path"])
    params = parse_qs(url.query, keep_blank_values=True)
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        params = {**parse_qs(body.decode(), keep_blank_values=True), **params}
    service = detect_service(call["method"], url.path, headers, params)
    action = extract_iam_action(service, call["method"], url.path, headers, body, params)
    signed_for = _SIGNED_FOR.search(headers["authorization"])
    assert signed_for is not None
    region = signed_for["region"]
    resource = extract_resource_arn(
        service, call["method"], url.path, headers, body, params, region, _ACCOUNT
    )
    return {
        "action": action,
        "resource": resource,
        "region": region,
        "context": request_tag_context(service, action or "", body, params),
    }


json.dump([permission(call) for call in json.load(sys.stdin)], sys.stdout)
