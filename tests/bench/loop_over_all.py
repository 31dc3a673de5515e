"""The rivals of the fleet: the obvious script, which loops over all secrets, and a smarter one.

    python loop_over_all.py TAG API_BASE_URL [--auth-base-url URL] [--only-due]

The first refreshes every token, the second looks into each before, and leaves those alone that are
not due yet. Neither checks what it gets, stages it, or keeps another run from spending the same
credential; both stop at the first trouble.
"""

import argparse
import base64
import json
import time
import uuid

import boto3
import requests

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("tag")
parser.add_argument("base_url")
parser.add_argument("--auth-base-url", help="the members have sessions, which are renewed there")
parser.add_argument("--only-due", action="store_true")
options = parser.parse_args()

# How long before its end a token is due: days, or, of a session's, a third of its life.
DUE = 330 if options.auth_base_url else 3 * 86_400
HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "source": "web",
    "Version": "0.3.12",
    "Origin": "https://chat.qwen.ai",
    "Referer": "https://chat.qwen.ai/",
    "x-request-origin": "https://chat.qwen.ai",
    "Timezone": "Thu Nov 26 2026 02:00:00 GMT+0000",
}

secrets = boto3.client("secretsmanager")


def is_due(token: str) -> bool:
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return bool(claims["exp"] - time.time() <= DUE)


def exchange(name: str, token: str) -> None:
    answer = requests.get(
        f"{options.base_url}/api/v1/auths/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    answer.raise_for_status()
    secrets.put_secret_value(SecretId=name, SecretString=answer.json()["token"])


def renew(name: str, session_name: str) -> None:
    credential = secrets.get_secret_value(SecretId=session_name)["SecretString"]
    if credential.startswith("{"):
        credential = json.loads(credential)["refresh_token"]
    answer = requests.get(
        f"{options.auth_base_url}/api/v2/auths/refresh",
        headers={
            **HEADERS,
            "X-Request-Id": str(uuid.uuid4()),
            "Cookie": f"refresh_token={credential}",
        },
        timeout=30,
    )
    answer.raise_for_status()
    data = answer.json()["data"]
    secrets.put_secret_value(SecretId=name, SecretString=data["access_token"])
    if data.get("refresh_token", credential) != credential:
        secrets.put_secret_value(SecretId=session_name, SecretString=data["refresh_token"])


pages = secrets.get_paginator("list_secrets").paginate(
    Filters=[{"Key": "tag-key", "Values": [options.tag]}]
)
names = {secret["Name"] for page in pages for secret in page["SecretList"]}
for name in sorted(names):
    has_session = f"{name}/session" in names
    if name.endswith("/session") or has_session is not bool(options.auth_base_url):
        continue
    if has_session and not options.only_due:
        renew(name, f"{name}/session")
        continue
    token = secrets.get_secret_value(SecretId=name)["SecretString"]
    if options.only_due and not is_due(token):
        continue
    if has_session:
        renew(name, f"{name}/session")
    else:
        exchange(name, token)
