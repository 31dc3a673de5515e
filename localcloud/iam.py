"""What a deployed stack's roles may do, read from the emulator's IAM."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

from .stack import DeployedStack

# An action and the ARN of a resource.
Permission: TypeAlias = tuple[str, str]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def permissions(statements: list[Any]) -> set[Permission]:
    """Return the actions that the statements allow, each with its resource."""
    return {
        (action, resource)
        for statement in statements
        if statement["Effect"] == "Allow"
        for action in _as_list(statement["Action"])
        for resource in _as_list(statement["Resource"])
    }


class Iam:
    """A stack's roles and policies, as they were deployed."""

    def __init__(self, stack: DeployedStack) -> None:
        """Look at ``stack``."""
        self._client: Any = stack.cloud.session.client("iam", endpoint_url=stack.cloud.endpoint)
        self._stack = stack

    def role(self, logical_id: str) -> Any:
        """Return a role."""
        return self._client.get_role(RoleName=self._stack.resources()[logical_id])["Role"]

    def trust(self, logical_id: str) -> list[Any]:
        """Return a role's trust policy."""
        return list(_document(self.role(logical_id)["AssumeRolePolicyDocument"])["Statement"])

    def statements(self, logical_id: str, *, without: str | None = None) -> list[Any]:
        """Return all that a role allows, from all its policies except one."""
        name = self.role(logical_id)["RoleName"]
        attached = self._client.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        assert attached == [], "the template writes down itself what its roles may do"
        return [
            statement
            for policy in self._client.list_role_policies(RoleName=name)["PolicyNames"]
            if policy != without
            for statement in _document(
                self._client.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            )["Statement"]
        ]

    def reader_statements(self) -> list[Any]:
        """Return all that the reader policy allows."""
        arn = self._stack.outputs["ReaderPolicyArn"]
        version = self._client.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = self._client.get_policy_version(PolicyArn=arn, VersionId=version)
        return list(_document(found["PolicyVersion"]["Document"])["Statement"])

    def allowed(self, logical_id: str, actions: list[str], resource: str) -> set[Permission]:
        """Return those of ``actions`` that IAM allows a role on ``resource``."""
        results = self._client.simulate_principal_policy(
            PolicySourceArn=self.role(logical_id)["Arn"],
            ActionNames=actions,
            ResourceArns=[resource],
        )["EvaluationResults"]
        assert len(results) == len(actions)
        return {
            (result["EvalActionName"], resource)
            for result in results
            if result["EvalDecision"] == "allowed"
        }


def _document(found: Any) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads(unquote(found)) if isinstance(found, str) else found
    return document
