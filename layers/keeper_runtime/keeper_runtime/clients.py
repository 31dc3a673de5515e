"""The functions' outside world: environment, clock, AWS, Qwen; each created when first needed."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import boto3

from qwen_token.library_logs import guard_library_logs
from qwen_token.secret_store import new_client

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

    from qwen_token.grants import TokenSource
    from qwen_token.grants.exchange import TokenApi
    from qwen_token.ledger import UnsharedState
    from qwen_token.qwen_api import QwenApi
    from qwen_token.session import Grant
    from qwen_token.session_store import SessionStore

    from .settings import HostSettings

# At DEBUG, botocore logs whole replies, and those of Secrets Manager hold tokens. At INFO, it logs
# in each cold start that it found credentials.
guard_library_logs()
logging.getLogger("botocore").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Clients:
    """The outside world of one function.

    ``qwen`` is called with the API's base URL and the user agent, ``grant`` with the grant and the
    settings of the hosts.
    """

    environ: Mapping[str, str]
    clock: Callable[[], datetime]
    secrets: Callable[[], "SecretsManagerClient"]
    sns: Callable[[], "SNSClient"]
    events: Callable[[], "EventBridgeClient"]
    sqs: Callable[[], "SQSClient"]
    functions: Callable[[], "LambdaClient"]
    dynamodb: Callable[[], "DynamoDBClient"]
    qwen: Callable[[str, str], "TokenApi"]
    grant: Callable[["Grant", "HostSettings"], "TokenSource"]
    # This process's memory of a secret, used if the state table cannot be reached.
    in_process: Callable[[str], "UnsharedState"] = field(default_factory=lambda: cache(_unshared))
    # Sleeps for a number of seconds. Without it, no run waits for another one's lease.
    wait: Callable[[float], object] | None = None

    def sessions(self, secret_id: str) -> "SessionStore":
        """Return a session secret."""
        from qwen_token.session_store import SessionStore  # noqa: PLC0415 - as above

        return SessionStore(self.secrets(), secret_id)

    @classmethod
    def real(cls) -> Self:
        """Return the real clients. Each is created once, when it is first needed.

        If one cannot be created, asking for it raises ConfigError.
        """
        # One session for all: each session would load its own copy of boto3's service models.
        session = cache(boto3.Session)
        # A session is not thread-safe, and threads may ask for clients at once.
        one_at_a_time = threading.Lock()

        def client(service: str) -> Callable[[], Any]:
            make = cache(lambda: new_client(service, session=session))

            def made() -> Any:
                with one_at_a_time:
                    return make()

            return made

        @cache
        def qwen(base_url: str, user_agent: str) -> "QwenApi":
            # Most runs find a fresh token and call no host, so they need not import requests.
            from qwen_token.qwen_api import QwenApi  # noqa: PLC0415

            return QwenApi(base_url, user_agent=user_agent)

        def grant(which: "Grant", settings: "HostSettings") -> "TokenSource":
            from qwen_token.grants.hosts import Hosts  # noqa: PLC0415 - the same

            hosts = Hosts(
                api_base_url=settings.api_base_url,
                auth_base_url=settings.auth_base_url,
                web_version=settings.web_version,
                user_agent=settings.user_agent,
            )
            return hosts.source(which)

        return cls(
            environ=os.environ,
            clock=lambda: datetime.now(UTC),
            secrets=client("secretsmanager"),
            sns=client("sns"),
            events=client("events"),
            sqs=client("sqs"),
            functions=client("lambda"),
            dynamodb=client("dynamodb"),
            qwen=qwen,
            grant=grant,
            wait=time.sleep,
        )


def _unshared(_secret_id: str) -> "UnsharedState":
    from qwen_token.ledger import UnsharedState  # noqa: PLC0415 - most runs remember nothing

    return UnsharedState()
