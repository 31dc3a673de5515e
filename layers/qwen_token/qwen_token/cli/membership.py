"""A secret's membership of the fleet: it joins and leaves by the fleet's tag."""

from typing import TYPE_CHECKING, Final

import boto3

from qwen_token.errors import ConfigError
from qwen_token.fleet import OFF
from qwen_token.secret_store import translated

from .deployed import Stack

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import CreateSecretRequestTypeDef

# Not empty: the functions' roles ask for the tag to be there, and IAM's documentation of such
# conditions counts an empty value as none.
_ON: Final = "on"
_DESCRIPTION: Final = "chat.qwen.ai session token, kept alive by the fleet of {stack}."


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


def join(name: str, stack: Stack, client: "SecretsManagerClient") -> None:
    """Make ``name`` a member of the fleet: a secret that is made where there is none.

    Raises:
        ConfigError: there is such a secret, but it is none of the fleet's: it may hold anything.
        StoreError: Secrets Manager refused or failed.
    """
    tag = stack.parameter("FleetTag")
    request: CreateSecretRequestTypeDef = {
        "Name": name,
        "Description": _DESCRIPTION.format(stack=stack.name),
        "Tags": [{"Key": tag, "Value": _ON}],
    }
    if key := stack.parameters.get("SecretKmsKeyArn"):
        request["KmsKeyId"] = key
    with translated("make the secret"):
        try:
            client.create_secret(**request)
        except client.exceptions.ResourceExistsException:
            if _value_of(tag, name, client) == OFF:
                client.tag_resource(SecretId=name, Tags=[{"Key": tag, "Value": _ON}])


def leave(name: str, stack: Stack, client: "SecretsManagerClient") -> None:
    """Take the secret out of the fleet; it stays as it is.

    Raises:
        ConfigError: it is none of the fleet's.
        StoreError: Secrets Manager refused or failed.
    """
    tag = stack.parameter("FleetTag")
    with translated("take the tag away"):
        _value_of(tag, name, client)
        client.untag_resource(SecretId=name, TagKeys=[tag])


def _value_of(tag: str, name: str, client: "SecretsManagerClient") -> str:
    """Return the value that a member has for the fleet's tag."""
    found = client.describe_secret(SecretId=name)
    values = {each["Key"]: each.get("Value", "") for each in found.get("Tags", ())}
    if tag not in values:
        raise ConfigError(
            f"the secret {name!r} is none of the fleet's, and may hold anything: if it is to be "
            f"one, give it the tag {tag!r} first (aws secretsmanager tag-resource)"
        )
    return values[tag]
