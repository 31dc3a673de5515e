"""What the functions reach outside: environment, clock, AWS, Qwen; each made when first needed."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Self

import boto3

from qwen_token.secret_store import AWS_CONFIG

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

    from qwen_token.keeper import Client

# At DEBUG, botocore logs whole replies, and those of Secrets Manager hold tokens.
logging.getLogger("botocore").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class Clients:
    """The outside world of one function; ``qwen`` is called with the API's base URL."""

    environ: Mapping[str, str]
    clock: Callable[[], datetime]
    secrets: Callable[[], "SecretsManagerClient"]
    sns: Callable[[], "SNSClient"]
    events: Callable[[], "EventBridgeClient"]
    sqs: Callable[[], "SQSClient"]
    functions: Callable[[], "LambdaClient"]
    qwen: Callable[[str], "Client"]

    @classmethod
    def real(cls) -> Self:
        """Return the real ones. Nothing is made yet, and each is made once."""

        @cache
        def qwen(base_url: str) -> "Client":
            # Most runs meet a fresh token and ask nobody: they need not pay for importing requests.
            from qwen_token.qwen_api import QwenApi  # noqa: PLC0415

            return QwenApi(base_url)

        return cls(
            environ=os.environ,
            clock=lambda: datetime.now(UTC),
            secrets=cache(lambda: boto3.client("secretsmanager", config=AWS_CONFIG)),
            sns=cache(lambda: boto3.client("sns", config=AWS_CONFIG)),
            events=cache(lambda: boto3.client("events", config=AWS_CONFIG)),
            sqs=cache(lambda: boto3.client("sqs", config=AWS_CONFIG)),
            functions=cache(lambda: boto3.client("lambda", config=AWS_CONFIG)),
            qwen=qwen,
        )
