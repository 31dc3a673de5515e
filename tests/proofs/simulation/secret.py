"""A secret as Secrets Manager keeps it, behind the calls of boto3's client that the store makes.

It does what AWS documents, of which the emulator is known to differ in two points: a label that is
named in ``PutSecretValue`` moves to the new version, and a new secret has no version at all. What
both have in common is tested on both.
"""

# ruff: noqa: N803 - the arguments are named as boto3 names them

import uuid
from dataclasses import dataclass, field
from typing import Any, ClassVar

from botocore.exceptions import ClientError

CURRENT = "AWSCURRENT"
PREVIOUS = "AWSPREVIOUS"


class _NotFoundError(ClientError):
    """What boto3 raises for a secret or version that is not there."""


class _Exceptions:
    ResourceNotFoundException: ClassVar = _NotFoundError


@dataclass
class SimulatedSecret:
    """One secret. Versions are found by label or by id."""

    arn: str = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"
    values: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    exceptions: ClassVar = _Exceptions

    def get_secret_value(
        self, *, SecretId: str, VersionId: str = "", VersionStage: str = ""
    ) -> dict[str, Any]:
        """Return the version with this id, or this label."""
        assert SecretId == self.arn
        version = VersionId or self.labels.get(VersionStage or CURRENT, "")
        if version not in self.values:
            raise _refused("GetSecretValue", "ResourceNotFoundException")
        return {"SecretString": self.values[version], "VersionId": version}

    def describe_secret(self, *, SecretId: str) -> dict[str, Any]:
        """Return the labels, by version; AWS leaves the key out where there is no version."""
        assert SecretId == self.arn
        stages: dict[str, list[str]] = {}
        for label, version in self.labels.items():
            stages.setdefault(version, []).append(label)
        return {"VersionIdsToStages": stages} if stages else {}

    def put_secret_value(
        self,
        *,
        SecretId: str,
        SecretString: str,
        ClientRequestToken: str = "",
        VersionStages: list[str] | None = None,
    ) -> dict[str, Any]:
        """Add a version, and move the labels to it."""
        assert SecretId == self.arn
        version = ClientRequestToken or str(uuid.uuid4())
        if self.values.get(version, SecretString) != SecretString:
            raise _refused("PutSecretValue", "ResourceExistsException")
        if version not in self.values:
            self.values[version] = SecretString
            for label in [CURRENT] if VersionStages is None else VersionStages:
                self._move(label, version)
            self._prune()
        return {"VersionId": version}

    def update_secret_version_stage(
        self,
        *,
        SecretId: str,
        VersionStage: str,
        MoveToVersionId: str,
        RemoveFromVersionId: str = "",
    ) -> dict[str, Any]:
        """Move a label from the version that has it, if that is the one named, to another."""
        assert SecretId == self.arn
        if MoveToVersionId not in self.values:
            raise _refused("UpdateSecretVersionStage", "ResourceNotFoundException")
        holder = self.labels.get(VersionStage, "")
        if holder != RemoveFromVersionId:
            raise _refused("UpdateSecretVersionStage", "InvalidParameterException")
        self._move(VersionStage, MoveToVersionId)
        return {}

    def _move(self, label: str, version: str) -> None:
        holder = self.labels.get(label)
        if holder == version:
            return
        self.labels[label] = version
        if label == CURRENT and holder is not None:
            self.labels[PREVIOUS] = holder

    def _prune(self) -> None:
        """Let versions without a label go, as AWS does sooner or later."""
        labelled = set(self.labels.values())
        self.values = {name: text for name, text in self.values.items() if name in labelled}


def _refused(operation: str, code: str) -> ClientError:
    kind = _NotFoundError if code == "ResourceNotFoundException" else ClientError
    refused: Any = {
        "Error": {"Code": code, "Message": "simulated"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    return kind(refused, operation)
