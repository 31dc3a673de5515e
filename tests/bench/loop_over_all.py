"""The rival of the fleet: the obvious script, which looks at one secret after the other.

    python loop_over_all.py TAG API_BASE_URL

It checks nothing of what it gets, stages nothing, and stops at the first trouble.
"""

import base64
import json
import sys
import time

import boto3
import requests

tag, base_url = sys.argv[1:]
secrets = boto3.client("secretsmanager")
pages = secrets.get_paginator("list_secrets").paginate(
    Filters=[{"Key": "tag-key", "Values": [tag]}]
)
for secret in (secret for page in pages for secret in page["SecretList"]):
    token = secrets.get_secret_value(SecretId=secret["ARN"])["SecretString"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    if claims["exp"] - time.time() > 3 * 86_400:
        continue
    answer = requests.get(
        f"{base_url}/api/v1/auths/", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    answer.raise_for_status()
    secrets.put_secret_value(SecretId=secret["ARN"], SecretString=answer.json()["token"])
