"""Everything around the refresh function in memory, and what comes out of its runs."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

import handler
from keeper_runtime.clients import Clients
from qwen_token import QwenTokenError, Token, UpstreamUnavailableError
from qwen_token.grants import Granted, Login, TokenSource
from qwen_token.ledger import UnsharedState
from qwen_token.session import Grant
from tests.fake_dynamodb import FakeDynamoDB
from tests.fake_lambda_context import FakeLambdaContext
from tests.fake_secrets_manager import FakeSecretsManager, arn
from tests.fakes import FakeBus, FakeTopic
from tests.minting import ACCOUNT, NOW

SECRET: Final = arn("qwen/token")
SESSION: Final = arn("qwen/session")
BUS: Final = "arn:aws:events:eu-west-1:111122223333:event-bus/default"
ENVIRON: Final[Mapping[str, str]] = {
    "SECRET_ID": SECRET,
    "SESSION_SECRET_ID": SESSION,
    "API_BASE_URL": "https://chat.qwen.ai",
    "AUTH_BASE_URL": "https://auth.qwen.ai",
    "WEB_VERSION": "0.3.12",
    "USER_AGENT": "Mozilla/5.0 (compatible; tests)",
    "REFRESH_BEFORE_DAYS": "3",
    "CRITICAL_DAYS": "1",
    "ALERT_AFTER_MINUTES": "60",
    "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
    "STATE_TABLE": "state",
    "EVENT_BUS_ARN": BUS,
}

type Answer = Token | Granted | Exception


@dataclass
class Run:
    """One invocation, and everything that came out of it."""

    result: dict[str, Any] | None
    error: QwenTokenError | None
    metrics: dict[str, float]
    log: list[dict[str, Any]]
    alerts: list[dict[str, Any]]
    events: list[dict[str, Any]]
    output: str


@dataclass
class FakeHosts:
    """Both of Qwen's hosts: ``answers`` to each grant, and ``verified`` to a check."""

    answers: Callable[[Grant], Answer]
    verified: Exception | None = None
    given: list[timedelta] = field(default_factory=list)
    spent: list[Grant] = field(default_factory=list)

    def verify(self, token: Token, *, within: timedelta) -> str:
        assert within > timedelta(0)
        if self.verified is not None:
            raise self.verified
        return token.account or ACCOUNT

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        raise AssertionError(f"{token} is refreshed by a grant, {within}")

    def source(self, grant: Grant) -> TokenSource:
        return _Source(self, grant)


@dataclass
class _Source:
    hosts: FakeHosts
    grant: Grant

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        assert within > timedelta(0)
        assert login is not None
        self.hosts.given.append(within)
        self.hosts.spent.append(self.grant)
        answer = self.hosts.answers(self.grant)
        if isinstance(answer, Exception):
            raise answer
        return Granted(answer) if isinstance(answer, Token) else answer


class RefreshUnderTest:
    """A deployed refresh function: ``run`` is one invocation, at ``now``.

    What it remembers lasts from run to run, as in one process. ``answer`` is what each grant gives,
    ``verified`` the failure of every check, if there is one.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: datetime = NOW
        self.environ: Mapping[str, str] = ENVIRON
        self.answer: Answer = UpstreamUnavailableError("not to be asked")
        self.topic = FakeTopic()
        self.bus = FakeBus()
        self.dynamodb = FakeDynamoDB()
        self.secrets = FakeSecretsManager(clock=lambda: self.now)
        self.hosts = FakeHosts(lambda _: self.answer)
        self.process = UnsharedState()
        self.secrets.add("qwen/token")
        self.secrets.add("qwen/session")
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def holds(self, token: Token | str | None, session: Mapping[str, object] | str = "") -> None:
        """Have a person put these in."""
        if token is not None:
            self.secrets.hold(SECRET, token.raw if isinstance(token, Token) else token)
        if session:
            text = session if isinstance(session, str) else json.dumps(session)
            self.secrets.hold(SESSION, text)

    def clients(self) -> Clients:
        """Return what the function is to reach."""
        parts: dict[str, Any] = {
            "secrets": lambda: self.secrets,
            "sns": lambda: self.topic,
            "events": lambda: self.bus,
            "sqs": lambda: pytest.fail("there is no queue"),
            "functions": lambda: pytest.fail("it runs no other function"),
            "dynamodb": lambda: self.dynamodb,
            "qwen": lambda _url, _agent: self.hosts,
            "grant": lambda grant, _settings: self.hosts.source(grant),
            "in_process": lambda _secret_id: self.process,
        }
        return Clients(environ=self.environ, clock=lambda: self.now, **parts)

    def run(
        self,
        event: object = None,
        *,
        after: timedelta = timedelta(0),
        milliseconds_left: int = 120_000,
    ) -> Run:
        """Let time pass, and run once."""
        self.now += after
        # The logger took hold of standard output when it was made; pytest replaces that since.
        for log_handler in logging.getLogger("my-stack").handlers:
            self._monkeypatch.setattr(log_handler, "stream", sys.stdout)
        clients, alerts, events = self.clients(), len(self.topic.documents), len(self.bus.put)
        result, error = None, None
        # As the deployed handler has it: the decorators write out what was counted.
        decorated = handler.metrics.log_metrics(
            lambda given, context: handler.run(given, context, clients)
        )
        try:
            result = decorated({} if event is None else event, FakeLambdaContext(milliseconds_left))
        except QwenTokenError as caught:
            error = caught
        output = self._capsys.readouterr().out
        lines = [json.loads(line) for line in output.splitlines()]
        [emf] = [line for line in lines if "_aws" in line]
        [declared] = emf["_aws"]["CloudWatchMetrics"]
        assert declared["Namespace"] == "QwenTokenRefresh"
        assert declared["Dimensions"] == [["service"]]
        assert emf["service"] == "my-stack"
        names = [metric["Name"] for metric in declared["Metrics"]]
        return Run(
            result=result,
            error=error,
            metrics={name: emf[name][0] for name in names},
            log=[line for line in lines if "_aws" not in line],
            alerts=self.topic.documents[alerts:],
            events=self.bus.put[events:],
            output=output,
        )
