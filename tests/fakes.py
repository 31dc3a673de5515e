"""Small fakes that several kinds of tests use, one for each thing outside the code."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from qwen_token import Token
from tests.minting import ACCOUNT, NOW


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


class FakeQwen:
    """The API: ``answers`` says what becomes of each account's token."""

    def __init__(self, answers: Callable[[Token], Token | Exception]) -> None:
        self.answers = answers
        self.asked: list[Token] = []
        self.given: list[timedelta] = []

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        assert within > timedelta(0)
        self.asked.append(token)
        self.given.append(within)
        answer = self.answers(token)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def verify(self, token: Token, *, within: timedelta) -> str:
        assert within > timedelta(0)
        # It knows whose a token is, also where that says nothing of it.
        return token.account or ACCOUNT


@dataclass
class FakeTopic:
    """SNS, which keeps the documents that it is told to publish, or fails to publish them."""

    fails_with: Exception | None = None
    documents: list[dict[str, Any]] = field(default_factory=list)

    def publish(self, **message: Any) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        self.documents.append(json.loads(json.loads(message["Message"])["default"]))


@dataclass
class FakeBus:
    """EventBridge, which keeps the events it is told to put, or refuses them in its own way."""

    refuses: bool = False
    fails_with: Exception | None = None
    put: list[dict[str, Any]] = field(default_factory=list)

    def put_events(self, *, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 - boto3's
        assert 1 <= len(Entries) <= 10
        if self.fails_with is not None:
            raise self.fails_with
        if self.refuses:
            refused = {"ErrorCode": "ThrottlingException", "ErrorMessage": "…"}
            return {"FailedEntryCount": len(Entries), "Entries": [refused for _ in Entries]}
        self.put += Entries
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "e"} for _ in Entries]}


class Recorder(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        super().__init__(values or {})
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        pytest.fail(f"{name} is read without a word for its absence")
