"""Membership of the fleet: secrets join and leave by the fleet's tag.

A member is a token secret. Its login, where it has one beside the token, is in a session secret
that is named after it, and whose tag has a value of its own.
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

# Of a name that ends as a session secret's does.
NOT_A_MEMBER: Final = "--name is the member's, not its session secret's: leave the /session out"

_DENIED: Final = "AccessDeniedException"

# By the value of the tag with which a secret is made.
_DESCRIPTIONS: Final[Mapping[str, str]] = {
    OFF: "chat.qwen.ai session token, kept alive by the fleet of {stack}.",
    SESSION: "The login behind a token, for the fleet of {stack} alone.",
}


@dataclass(frozen=True, slots=True)
class Tagged:
    """A secret that exists, and the value that it has for the fleet's tag (None: no such tag)."""

    arn: str
    name: str
    tag_value: str | None


def find_fleet(session: boto3.Session, name: str) -> Stack:
    """Return the stack of this name.

    Raises:
        ConfigError: there is none, or it was deployed without a fleet.
    """
    stack = Stack.find(session, name)
    if "DispatchFunctionName" not in stack.outputs:
        raise ConfigError(
            f"the stack {stack.name!r} keeps one token and has no fleet: deploy it with the "
            "parameter Fleet=true, or name another with --stack"
        )
    return stack


class Membership:
    """Who is in the fleet of ``stack``; ``client`` is boto3's for Secrets Manager.

    Every method raises StoreError where Secrets Manager refuses or fails.
    """

    def __init__(self, stack: Stack, client: "SecretsManagerClient") -> None:
        self._stack = stack
        self._client = client
        self._tag = stack.parameter("FleetTag")

    def reserve(self, name: str) -> Tagged:
        """Return the member ``name``, which is made if there is none: left alone, at first.

        So no sweep finds it before its login is stored.

        Raises:
            ConfigError: there is such a secret, but it is not one of the fleet's.
        """
        return self._made(name, OFF)

    def admit(self, member: Tagged) -> None:
        """Have the fleet keep a member that is left alone."""
        if member.tag_value == OFF:
            self._tag_as(ON, member)

    def session_secret(self, name: str) -> str:
        """Return the ARN of the session secret of the member ``name``, made if there is none.

        Raises:
            ConfigError: there is a secret of that name, but it is not a session secret.
        """
        secret = self._made(session_name(name), SESSION)
        if secret.tag_value == OFF:
            self._tag_as(SESSION, secret)
        return secret.arn

    def session_of(self, name: str) -> str | None:
        """Return the name of the session secret of the member ``name``; None: it has none."""
        with translated("look for the session secret"):
            found = self._find(session_name(name))
        return found.name if found is not None and found.tag_value == SESSION else None

    def leave(self, secret_id: str) -> list[str]:
        """Take a member and its session secret out of the fleet, and return their names.

        The secrets stay as they are. A member that has left, but not its session secret, as the
        second call failed, can leave again.

        Raises:
            ConfigError: neither is of the fleet.
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
        """Return the secret ``name``, which is made with this value of the tag if there is none."""
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
        """Take the fleet's tag away, and return whether there was one."""
        if found.tag_value is not None:
            self._client.untag_resource(SecretId=found.arn, TagKeys=[self._tag])
        return found.tag_value is not None

    def _find(self, name: str) -> Tagged | None:
        """Return a secret of the fleet, if there is one of this name.

        Where a policy asks for the fleet's tag, AWS refuses to describe a secret that does not
        exist, as it refuses one without the tag.
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
        """Check that a secret was given to the fleet, as a member or as a session secret.

        A member's tag may have any value but a session secret's.
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
    """Queue a run of a worker for a member, due or not, by the ARNs of its secrets."""
    client: Any = client_for(session, "sqs")
    body = json.dumps({"secret_id": member, "session_id": session_secret, "force": True})
    with asked("SQS"):
        client.send_message(QueueUrl=stack.outputs["FleetQueueUrl"], MessageBody=body)
