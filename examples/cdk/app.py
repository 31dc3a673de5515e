"""The stack, deployed by CDK from the packaged template of a release, as part of a stack of yours.

    cdk deploy --app "python app.py"

docs/deploy.md, "Without a clone", has the line that makes packaged.yaml. It is uploaded with the
assets of your stack: the code lies in the bucket that it was packaged into, in the same region.
"""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as assets

app = cdk.App()
stack = cdk.Stack(app, "Services")

template = assets.Asset(stack, "QwenTemplate", path="packaged.yaml")
qwen = cdk.CfnStack(
    stack,
    "Qwen",
    template_url=template.http_url,
    parameters={"AlertEmail": "you@example.com", "LogRetentionDays": "90"},
    tags=[cdk.CfnTag(key="Team", value="chat")],
)

# A service that reads the token.
iam.Role(
    stack,
    "Reader",
    assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"),
    managed_policies=[
        iam.ManagedPolicy.from_managed_policy_arn(
            stack, "ReaderPolicy", qwen.get_att("Outputs.ReaderPolicyArn").to_string()
        )
    ],
)

app.synth()
