"""What the server that workers are forked from has done before: imported, and read AWS's models."""

import gc
from typing import Final

import boto3

# What a run would import late is here before the fork.
import handler  # noqa: F401
import qwen_token.grants.hosts
import qwen_token.qwen_api  # noqa: F401

# Reading and parsing the models costs a new session a sixth of a second, and each sandbox takes new
# clients: they are made of this session, which keeps the models.
SESSION: Final = boto3.Session()
for _service in ("secretsmanager", "dynamodb", "sns", "events"):
    SESSION.client(_service)

# Or the first collection in each worker would copy all that was imported.
gc.freeze()
