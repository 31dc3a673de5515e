"""What the server that workers are forked from has done before: imported, and read AWS's models."""

import boto3

# What a run would import late is here before the fork.
import handler  # noqa: F401
import qwen_token.grants.hosts
import qwen_token.qwen_api  # noqa: F401

# Reading and parsing the models costs a new process half a second. botocore keeps them.
for _service in ("secretsmanager", "dynamodb", "sns"):
    boto3.client(_service)
