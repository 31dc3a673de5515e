"""Functions and roles of a test on the embedded AWS, without a stack."""

import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from localcloud.aws import Cloud


@contextmanager
def function(cloud: Cloud, code: str, **environ: str) -> Iterator[str]:
    """Make a function of this module's ``handler``; give its name, and delete it afterwards."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("module.py", code)
    name = f"function-{uuid.uuid4()}"
    cloud.functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role=role(cloud, "secretsmanager:*"),
        Handler="module.handler",
        Code={"ZipFile": archive.getvalue()},
        Environment={"Variables": environ},
        Timeout=30,
    )
    try:
        yield name
    finally:
        cloud.functions.delete_function(FunctionName=name)


def role(cloud: Cloud, action: str) -> str:
    """Make a role that may do nothing but this, and return its ARN."""
    iam = cloud.session.client("iam", endpoint_url=cloud.endpoint)
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    name = f"role-{uuid.uuid4()}"
    made = iam.create_role(
        RoleName=name,
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )
    allowed = {"Effect": "Allow", "Action": action, "Resource": "*"}
    iam.put_role_policy(
        RoleName=name,
        PolicyName="only",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )
    arn: str = made["Role"]["Arn"]
    return arn
