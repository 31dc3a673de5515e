"""Membership of the fleet: secrets join and leave by the fleet's tag.

A member is a token secret. If it has a login besides the token, the login is in a session secret,
which is named after the member and has its own value of the tag.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.exceptions import ClientError

from qwen_token.errors import ConfigError
from qwen_token.fleet import OFF, ON, SESSION, session_name
from qwen_token.secret_store import translated

from .deployed import Stack, client_for
from .failures import asked

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import CreateSecretRequestTypeDef

# The error for a --name that ends like a session secret's.
NOT_A_MEMBER: Final = "--name is the member's, not its session secret's: leave the /session out"

_DENIED: Final = "AccessDeniedException"

# Descriptions of new secrets, by the tag value that they are created with.
_DESCRIPTIONS: Final[Mapping[str, str]] = {
    OFF: "chat.qwen.ai session token, kept alive by the fleet of {stack}.",
    SESSION: "The login behind a token, for the fleet of {stack} alone.",
}


@dataclass(frozen=True, slots=True)
class Tagged:
    """An existing secret, with its value of the fleet's tag (None if it does not have the tag)."""

    arn: str
    name: str
    tag_value: str | None


def find_fleet(session: boto3.Session, name: str) -> Stack:
    """Return the stack of this name.

    Raises:
        ConfigError: there is no such stack, or it was deployed without a fleet.
    """
    stack = Stack.find(session, name)
    if "DispatchFunctionName" not in stack.outputs:
        raise ConfigError(
            f"the stack {stack.name!r} keeps one token and has no fleet: deploy it with the "
            "parameter Fleet=true, or name another with --stack"
        )
    return stack


class Membership:
    """The members of the fleet of ``stack``; ``client`` is boto3's for Secrets Manager.

    Every method raises StoreError if Secrets Manager refuses or fails.
    """

    def __init__(self, stack: Stack, client: "SecretsManagerClient") -> None:
        self._stack = stack
        self._client = client
        self._tag = stack.parameter("FleetTag")

    def reserve(self, name: str) -> Tagged:
        """Return the member ``name``, and create it if it does not exist.

        A new member is tagged ``off``, so that no sweep queues it before its login is stored.

        Raises:
            ConfigError: the secret exists, but does not belong to the fleet.
        """
        return self._made(name, OFF)

    def admit(self, member: Tagged) -> None:
        """Tag a member ``on`` if it is tagged ``off``, so that the fleet keeps its token."""
        if member.tag_value == OFF:
            self._tag_as(ON, member)

    def session_secret(self, name: str) -> str:
        """Return the ARN of a member's session secret, and create the secret if necessary.

        Raises:
            ConfigError: a secret with that name exists, but is not a session secret.
        """
        secret = self._made(session_name(name), SESSION)
        if secret.tag_value == OFF:
            self._tag_as(SESSION, secret)
        return secret.arn

    def session_of(self, name: str) -> str | None:
        """Return the name of a member's session secret, or None if it has none."""
        with translated("look for the session secret"):
            found = self._find(session_name(name))
        return found.name if found is not None and found.tag_value == SESSION else None

    def leave(self, secret_id: str) -> list[str]:
        """Take a member and its session secret out of the fleet, and return their names.

        Only the tags are removed. If the second call fails, only the member has left; calling this
        again then removes its session secret.

        Raises:
            ConfigError: neither secret belongs to the fleet.
        """
        with translated("take the tag away"):
            found = self._described(secret_id)
            left = [found.name] if self._untag(found) else []
        name = session_name(found.name)
        with translated(f"take the tag away from the session secret {name}"):
            session = self._find(name)
            if session is not None and session.tag_value == SESSION and self._untag(session):
                left.append(name)
        if not left:
            raise self._is_not_ours(found, OFF)
        return left

    def _made(self, name: str, value: str) -> Tagged:
        """Return the secret ``name``, and create it with this tag value if it does not exist."""
        request: CreateSecretRequestTypeDef = {
            "Name": name,
            "Description": _DESCRIPTIONS[value].format(stack=self._stack.name),
            "Tags": [{"Key": self._tag, "Value": value}],
        }
        if key := self._stack.parameters.get("SecretKmsKeyArn"):
            request["KmsKeyId"] = key
        with translated(f"make the secret {name}"):
            try:
                return Tagged(self._client.create_secret(**request)["ARN"], name, value)
            except self._client.exceptions.ResourceExistsException:
                found = self._described(name)
        self._require_tag(found, value)
        return found

    def _tag_as(self, value: str, secret: Tagged) -> None:
        with translated(f"tag the secret {secret.name}"):
            self._client.tag_resource(
                SecretId=secret.arn, Tags=[{"Key": self._tag, "Value": value}]
            )

    def _untag(self, found: Tagged) -> bool:
        """Remove the fleet's tag, and return whether the secret had it."""
        if found.tag_value is not None:
            self._client.untag_resource(SecretId=found.arn, TagKeys=[self._tag])
        return found.tag_value is not None

    def _find(self, name: str) -> Tagged | None:
        """Return the secret ``name``, or None if it does not exist or may not be described.

        If a policy requires the fleet's tag, AWS gives the same refusal for a secret that does not
        exist as for one without the tag.
        """
        try:
            return self._described(name)
        except self._client.exceptions.ResourceNotFoundException:
            return None
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == _DENIED:
                return None
            raise

    def _described(self, secret_id: str) -> Tagged:
        found = self._client.describe_secret(SecretId=secret_id)
        values = {each["Key"]: each.get("Value", "") for each in found.get("Tags", ())}
        return Tagged(found["ARN"], found["Name"], values.get(self._tag))

    def _require_tag(self, found: Tagged, value: str) -> None:
        """Check that an existing secret has the fleet's tag, with a value of the same kind.

        A member's tag may have any value except that of session secrets.
        """
        if found.tag_value is None:
            raise self._is_not_ours(found, value)
        if found.tag_value != OFF and (found.tag_value == SESSION) is not (value == SESSION):
            raise ConfigError(
                f"the secret {found.name!r} is a member of the fleet, and cannot hold the login of "
                "another one: take it out (make remove-token), or choose another --name"
                if value == SESSION
                else f"the secret {found.name!r} is the session secret of a member, and cannot be "
                "one itself: choose another --name"
            )

    def _is_not_ours(self, found: Tagged, value: str) -> ConfigError:
        value = SESSION if value == SESSION else ON
        return ConfigError(
            f"the secret {found.name!r} is none of the fleet's, and may hold anything: if it is to "
            f"be one, give it the tag {self._tag!r} first (aws secretsmanager tag-resource "
            f"--secret-id {found.name} --tags Key={self._tag},Value={value})"
        )


def queue_run(session: boto3.Session, stack: Stack, *, member: str, session_secret: str) -> None:
    """Queue a run for a member, even if it is not due, by the ARNs of its two secrets."""
    client: Any = client_for(session, "sqs")
    body = json.dumps({"secret_id": member, "session_id": session_secret, "force": True})
    with asked("SQS"):
        client.send_message(QueueUrl=stack.outputs["FleetQueueUrl"], MessageBody=body)
