"""What the tests of operators share: a session with their policies, and how calls are judged."""

from typing import Any

from localcloud.aws import Cloud
from localcloud.fleet import TAG
from localcloud.recording_proxy import Call
from tests.policies import Permission, Policy, permissions_of, refused, without


def session_with(cloud: Cloud, policies: list[Policy]) -> Any:
    """Return a session that may do what the policies say."""
    statements = [each for document in policies for each in document["Statement"]]
    return cloud.session_of_role_that_may(statements)


def with_the_secrets_tag(permission: Permission) -> Permission:
    """Return the permission with the key that IAM reads off a member: no call carries it."""
    if ":secret:pool/" not in permission["resource"]:
        return permission
    context = {**permission["context"], f"aws:ResourceTag/{TAG}": "on"}
    return permission | {"context": context}


def assert_used(calls: list[Call], policies: list[Policy], *, of: Policy) -> None:
    """Check that no call is refused, and that without any statement of one policy some are."""
    taken = [with_the_secrets_tag(each) for each in permissions_of(calls)]
    assert refused(taken, policies) == []
    others = [each for each in policies if each is not of]
    sids = [statement["Sid"] for statement in of["Statement"]]
    assert [sid for sid in sids if not refused(taken, [*others, without(of, sid)])] == []
