"""Fakes for what reads the secret: the wall clock, and a client of Secrets Manager."""

import threading
from datetime import datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.minting import NOW

_SOON: Final = 10.0


class Clock:
    """The wall clock; ``sleep`` is what happens while nobody looks."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now.timestamp()
        self.looks: list[float] = []

    def __call__(self) -> float:
        self.looks.append(self.now)
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Secrets:
    """Secrets Manager with one secret, which may fail, or answer only when it is let."""

    class exceptions:  # noqa: N801 - boto3's name
        class ResourceNotFoundException(ClientError):  # noqa: N818 - the same
            pass

    def __init__(self, value: str | None) -> None:
        self.value = value
        self.fails_with: Exception | None = None
        self.calls: list[str] = []
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def get_secret_value(self, **_: str) -> dict[str, str]:
        self.calls.append("GetSecretValue")
        self.is_asked.set()
        assert self.may_answer.wait(_SOON)
        if self.fails_with is not None:
            raise self.fails_with
        if self.value is None:
            raise self.exceptions.ResourceNotFoundException({"Error": {}}, "GetSecretValue")
        return {"SecretString": self.value, "VersionId": "v1"}

    def describe_secret(self, **_: str) -> dict[str, Any]:
        self.calls.append("DescribeSecret")
        return {"VersionIdsToStages": {}}
