"""The rivals of the fleet: the obvious script, which loops over all secrets, and a smarter one.

    python loop_over_all.py TAG API_BASE_URL [--only-due]

The first refreshes every token, the second looks into each before, and leaves those alone that live
for longer than three days. Neither checks what it gets, or stages it; both stop at the first
trouble.
"""

import argparse
import base64
import json
import time

import boto3
import requests

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("tag")
parser.add_argument("base_url")
parser.add_argument("--only-due", action="store_true")
options = parser.parse_args()

secrets = boto3.client("secretsmanager")
pages = secrets.get_paginator("list_secrets").paginate(
    Filters=[{"Key": "tag-key", "Values": [options.tag]}]
)
for secret in (secret for page in pages for secret in page["SecretList"]):
    token = secrets.get_secret_value(SecretId=secret["ARN"])["SecretString"]
    if options.only_due:
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        if claims["exp"] - time.time() > 3 * 86_400:
            continue
    answer = requests.get(
        f"{options.base_url}/api/v1/auths/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    answer.raise_for_status()
    secrets.put_secret_value(SecretId=secret["ARN"], SecretString=answer.json()["token"])
