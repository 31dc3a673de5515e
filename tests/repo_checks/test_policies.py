"""The policies of examples/policies against what CloudFormation asks for each kind of resource.

CloudFormation makes the stack's resources with the rights of whoever deploys. Which ones it takes,
each kind of resource declares in its schema, and cfn-lint has these schemas.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.policies import (
    DEPLOYS,
    FOLDER,
    Policy,
    actions_of,
    as_list,
    one_of,
    policy,
    refused,
    refused_each,
    without,
)
from tests.repo_checks.test_checkov import transformed

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / ".tools/sam/lib/python3.13/site-packages/cfnlint/data/schemas/resources"
# AWS refuses a longer managed policy; white space does not count.
LONGEST = 6144
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))

OURS = re.compile(
    r'"typeName": "AWS::(CloudWatch|DynamoDB|IAM|Lambda|Logs|S3|SNS|SQS|Scheduler|SecretsManager)::'
)

# The bucket for the code, which SAM makes once in an account and region.
OF_THE_BUCKET = {"AWS::S3::Bucket", "AWS::S3::BucketPolicy"}
# Asked for by a schema, for properties that the template does not set.
NOT_SET = {
    "dynamodb:": (
        "AssociateTableReplica BatchWriteItem CreateTableReplica DeleteItem DeleteResourcePolicy "
        "DescribeImport DisableKinesisStreamingDestination EnableKinesisStreamingDestination "
        "GetItem ImportTable PutItem PutResourcePolicy Query Scan UpdateContinuousBackups "
        "UpdateContributorInsights UpdateItem UpdateKinesisStreamingDestination"
    ),
    "iam:": (
        "AttachGroupPolicy AttachUserPolicy DeleteGroupPolicy DeleteUserPolicy DetachGroupPolicy "
        "DetachUserPolicy GetGroupPolicy GetUserPolicy PutGroupPolicy PutUserPolicy "
        "CreateServiceLinkedRole"
    ),
    "lambda:": (
        "AssociateRuntimeAlias DeleteFunctionCodeSigningConfig DeleteFunctionConcurrency "
        "GetCodeSigningConfig PassCapacityProvider PublishVersion PutFunctionCodeSigningConfig "
        "PutFunctionConcurrency PutFunctionScalingConfig PutRuntimeManagementConfig"
    ),
    "logs:": (
        "AssociateKmsKey CreateLogDelivery CreateLogStream DeleteDataProtectionPolicy "
        "DeleteIndexPolicy DeleteResourcePolicy DeleteRetentionPolicy DescribeLogStreams "
        "DisassociateKmsKey PutBearerTokenAuthentication PutDataProtectionPolicy PutIndexPolicy "
        "PutLogEvents PutLogGroupDeletionProtection PutResourcePolicy"
    ),
    "secretsmanager:": (
        # The template sets no value: whoever deploys reads no token.
        "GetRandomPassword GetSecretValue"
    ),
    "s3:": "GetObjectMetadata GetObjectVersion REST.PUT.OBJECT",
    "sns:": "PutDataProtectionPolicy",
}
# The same, of whole services.
OTHER_SERVICES = ("elasticfilesystem:", "firehose:", "kinesis:", "kms:", "s3files:", "s3tables:")
# Granted where there is a customer-managed key, which this template is given none of.
OF_A_KEY = {"kms:Decrypt", "kms:GenerateDataKey"}


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Return what CloudFormation says of each kind of resource."""
    texts = (file.read_text() for file in SCHEMAS.glob("*.json"))
    found = (json.loads(text) for text in texts if OURS.search(text))
    return {schema["typeName"]: schema for schema in found}


@pytest.fixture(scope="module", name="everything")
def _everything() -> Any:
    """Return the template with all that its parameters can bring."""
    [template] = transformed(
        [
            "Fleet=true",
            "AlertEmail=owner@example.com",
            "PermissionsBoundaryArn=arn:aws:iam::111122223333:policy/boundary",
            "VpcSubnetIds=subnet-0a1b2c3d",
            "VpcSecurityGroupIds=sg-0a1b2c3d",
        ]
    )
    return template


@pytest.fixture(scope="module", name="asked_for")
def _asked_for(everything: Any) -> set[str]:
    """Return the actions that CloudFormation takes to make, read, change and delete the stack."""
    kinds = {each["Type"] for each in everything["Resources"].values()}
    return {
        action
        for kind in kinds
        for does in ("create", "read", "update", "delete")
        for action in schemas()[kind]["handlers"].get(does, {}).get("permissions", ())
    }


def is_left_out(action: str) -> bool:
    service, _, name = action.partition(":")
    return name in NOT_SET.get(f"{service}:", "").split() or action.startswith(OTHER_SERVICES)


def test_the_page_names_what_gets_no_tags(everything: Any) -> None:
    """CloudFormation gives a stack's tags to each resource that it can tag."""
    untagged = {
        each["Type"]
        for each in everything["Resources"].values()
        if not schemas()[each["Type"]].get("tagging", {}).get("taggable")
    }
    page = (ROOT / "docs/deploy.md").read_text()
    words = {
        "AWS::IAM::ManagedPolicy": "managed policies",
        "AWS::IAM::Policy": "roles",  # a part of one
        "AWS::Lambda::EventInvokeConfig": "Lambda's settings for asynchronous runs",
        "AWS::Lambda::LayerVersion": "layer versions",
        "AWS::SNS::Subscription": "subscriptions",
        "AWS::SNS::TopicPolicy": "topic policies",
        "AWS::Scheduler::Schedule": "schedules (only for groups of them)",
    }

    assert untagged == words.keys()
    assert [word for word in words.values() if word not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_fits_and_names_what_it_means(name: str) -> None:
    document = json.loads((FOLDER / f"{name}.json").read_text())
    sids = [statement["Sid"] for statement in document["Statement"]]

    assert len("".join(json.dumps(document, separators=(",", ":")).split())) <= LONGEST
    assert len(set(sids)) == len(sids)
    assert not [action for action in actions_of(document) if "*" in action]
    assert all(statement["Effect"] == "Allow" for statement in document["Statement"])


def test_what_cloudformation_takes_is_allowed_and_nothing_else(asked_for: set[str]) -> None:
    allowed = actions_of(policy("stack-resources"))

    assert {action for action in asked_for if not is_left_out(action)} - allowed == {
        # The code comes out of the bucket, by the other policy.
        "s3:GetObject",
        "s3:ListBucket",
    }
    # A schema has no word for the tags of a function that are read.
    assert allowed - asked_for <= {"lambda:ListTags"}
    assert not [action for action in allowed if is_left_out(action)]
    assert "s3:GetObject" in actions_of(policy("deployer"))


def test_what_is_left_out_is_asked_for(asked_for: set[str]) -> None:
    named = {f"{service}{name}" for service, names in NOT_SET.items() for name in names.split()}

    assert named - asked_for == set()


def test_the_bucket_is_made_with_what_its_kind_asks_for() -> None:
    by_schema = {
        action
        for kind in OF_THE_BUCKET
        for does in schemas()[kind]["handlers"].values()
        for action in does["permissions"]
    }
    makes = next(
        statement["Action"]
        for statement in policy("deployer")["Statement"]
        if statement["Sid"] == "MakeTheBucketForTheCodeOnce"
    )

    assert set(makes) <= by_schema


@pytest.mark.parametrize("name", [name for name in NAMES if name != "boundary"])
def test_each_statement_is_needed_and_opens_nothing_of_others(name: str) -> None:
    document = policy(name)
    own = {
        statement["Sid"]: [
            {"action": action, "resource": one_of(resource), "context": context(statement)}
            for action in as_list(statement["Action"])
            for resource in as_list(statement["Resource"])
        ]
        for statement in document["Statement"]
    }
    assert refused((each for those in own.values() for each in those), [document]) == []
    missed = refused_each(
        (each, [without(document, sid)]) for sid, those in own.items() for each in those
    )
    assert [
        sid for sid, those in own.items() if not [each for each in those if each in missed]
    ] == []

    # What is like the stack's own, and is not.
    foreign = [
        {"action": action, "resource": resource}
        for action in sorted(actions_of(document))
        for resource in (
            "arn:aws:iam::000000000000:role/admin",
            "arn:aws:lambda:us-east-1:000000000000:function:another",
            "arn:aws:secretsmanager:us-east-1:000000000000:secret:database-a1b2c3",
            "arn:aws:s3:::company-data",
            "arn:aws:s3:::company-data/key",
            "arn:aws:sns:us-east-1:000000000000:another",
            "arn:aws:cloudformation:us-east-1:000000000000:stack/another/id",
            "arn:aws:cloudformation:us-east-1:000000000000:stack/qwen-token-refresh-two/id",
        )
    ]
    no_resource = {
        action
        for statement in document["Statement"]
        if statement["Resource"] == "*" and "Condition" not in statement
        for action in as_list(statement["Action"])
    }
    closed = refused(foreign, [document])
    opened = [each for each in foreign if each not in closed]
    assert {each["action"] for each in opened} <= no_resource
    assert all(
        action.partition(":")[2].startswith(("Describe", "List", "BatchGet"))
        for action in no_resource
    )


def context(statement: dict[str, Any]) -> dict[str, Any]:
    """Return a context in which a statement's conditions hold."""
    found: dict[str, Any] = {}
    for operator, keys in statement.get("Condition", {}).items():
        for key, value in keys.items():
            found[key] = "on" if operator == "Null" else one_of(as_list(value)[0])
    return found


def test_the_boundary_bounds_the_roles_by_what_they_do_and_nothing_else(everything: Any) -> None:
    granted = {
        action
        for each in everything["Resources"].values()
        if each["Type"] in {"AWS::IAM::Role", "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"}
        for document in documents(each)
        for action in actions_of(document)
    }

    assert granted - {"sts:AssumeRole"} | OF_A_KEY == actions_of(policy("boundary"))


def documents(resource: Any) -> list[Policy]:
    """Return what a role or a policy allows; a role's trust is not its own."""
    properties = resource["Properties"]
    found = [properties.get("PolicyDocument")]
    found += [each["PolicyDocument"] for each in properties.get("Policies", ())]
    return [each for each in found if isinstance(each, dict) and "Statement" in each]


@pytest.mark.parametrize("who", ["operator", "fleet-operator"])
def test_whoever_operates_may_change_nothing_of_the_stack(who: str) -> None:
    ours = actions_of(policy(who))
    assert not ours & {
        action
        for name in DEPLOYS
        for action in actions_of(policy(name))
        if action.partition(":")[2].startswith(("Update", "Put", "Delete", "Attach", "Pass"))
    }
