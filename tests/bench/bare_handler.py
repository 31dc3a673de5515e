"""The benchmark's rival: it reads the secret, and does nothing else."""

import os

import boto3

secrets = boto3.client("secretsmanager")


def handler(_event: object, _context: object) -> dict[str, str]:
    """Read the secret, and say which version it was."""
    response = secrets.get_secret_value(SecretId=os.environ["SECRET_ID"])
    return {"version_id": response["VersionId"]}
