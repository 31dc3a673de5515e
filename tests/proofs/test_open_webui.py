"""The keeper at real Open WebUI servers, which ``make open-webui`` installs: it is no part of CI.

One issues a new token for each exchange, and one only echoes, as all have done since 0.6.6.
"""

import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
import requests

from localcloud.aws import ROOT
from localcloud.supervised import supervised
from localcloud.waiting import wait_until
from qwen_token import Session, SignInRefusedError
from qwen_token.grants.hosts import Hosts
from qwen_token.keeper import Keeper
from qwen_token.ledger import Ledger, UnsharedState
from qwen_token.run_report import Outcome, Report
from qwen_token.secret_store import SecretStore
from qwen_token.session import Grant
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import rendered_session
from tests.fake_secrets_manager import FakeSecretsManager

MINTS: Final = "0.6.5"
ECHOES: Final = "0.12.4"
EMAIL: Final = "owner@example.com"
# Importing its models takes a server a minute where it has one core.
START: Final = timedelta(minutes=5)
LIFETIME: Final = timedelta(weeks=4)
DAY: Final = timedelta(days=1)


@dataclass
class Account:
    """An account at a server, kept by a keeper over Secrets Manager in memory."""

    base_url: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    later: timedelta = timedelta(0)
    state: UnsharedState = field(default_factory=UnsharedState)
    aws: FakeSecretsManager = field(default_factory=FakeSecretsManager)

    def sign_up(self) -> None:
        answer = requests.post(
            f"{self.base_url}/api/v1/auths/signup",
            json={"name": "Owner", "email": EMAIL, "password": self.password},
            timeout=30,
        )
        assert answer.status_code == 200
        self.aws.add("webui/token", None)
        self.aws.add("webui/session", None)
        self.put(Session(email=EMAIL, password=self.password))

    def put(self, session: Session) -> None:
        self.aws.put_secret_value(
            SecretId="webui/session", SecretString=rendered_session(session, over="")
        )

    def now(self) -> datetime:
        return datetime.now(UTC) + self.later

    def run(self, *, force: bool = False) -> Report:
        hosts = Hosts(api_base_url=self.base_url, auth_base_url="")
        minute = timedelta(minutes=2)
        ledger = Ledger(lambda: self.state, clock=self.now, time_left=lambda: minute)
        client: object = self.aws
        try:
            return Keeper(
                store=SecretStore(client, "webui/token", clock=self.now),  # type: ignore[arg-type]
                sessions=lambda: SessionStore(client, "webui/session"),  # type: ignore[arg-type]
                ledger=lambda: ledger,
                client=hosts.api,
                sources=hosts.source,
                clock=self.now,
                time_left=lambda: minute,
                refresh_before=3 * DAY,
            ).run(force=force)
        finally:
            ledger.close()


@pytest.fixture(scope="module", name="account", params=[MINTS, ECHOES])
def _account(request: pytest.FixtureRequest) -> Iterator[tuple[str, Account]]:
    version: str = request.param
    program = ROOT / f".tools/open-webui-{version}/bin/open-webui"
    if not program.exists():
        pytest.skip(f"Open WebUI {version} is not installed: make open-webui does that")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with supervised() as server:
        environ = {
            "PATH": f"{program.parent}:/usr/bin:/bin",
            "HOME": str(server.directory),
            "DATA_DIR": str(server.directory),
            "WEBUI_SECRET_KEY": secrets.token_hex(16),
            # Nothing here needs a model, and nothing may be fetched.
            "OFFLINE_MODE": "true",
            "HF_HUB_OFFLINE": "1",
            "ENABLE_OLLAMA_API": "false",
            "ENABLE_OPENAI_API": "false",
            "RAG_EMBEDDING_MODEL_AUTO_UPDATE": "false",
            "RAG_EMBEDDING_ENGINE": "openai",
            # What 0.6.5 itself sets as the default lets a token live for ever.
            "JWT_EXPIRES_IN": "4w",
        }
        server.start(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port)], environ=environ
        )
        account = Account(f"http://127.0.0.1:{port}")

        def is_up() -> bool:
            if (code := server.exit_code()) is not None:
                pytest.fail(f"the server ended with {code}:\n{server.output()[-3000:]}")
            try:
                return requests.get(f"{account.base_url}/health", timeout=2).ok
            except requests.RequestException:
                return False

        wait_until(is_up, within=START, expected="the server", seen=lambda: server.output()[-3000:])
        account.sign_up()
        yield version, account


def let_its_second_pass(report: Report) -> None:
    """Wait: in the second of issue, a server that mints gives the same token again."""
    assert report.held is not None
    issued = report.held.token.expires_at - LIFETIME
    wait_until(
        lambda: datetime.now(UTC) >= issued + timedelta(seconds=1),
        within=timedelta(seconds=5),
        expected="the next second",
        seen=lambda: str(datetime.now(UTC)),
    )


def test_a_sign_in_gets_the_first_token_and_later_ones_if_the_server_can(
    account: tuple[str, Account],
) -> None:
    version, kept = account

    first = kept.run()
    assert (first.outcome, first.grant) == (Outcome.REFRESHED, Grant.PASSWORD)
    assert kept.run().outcome is Outcome.FRESH

    let_its_second_pass(first)
    # Past the force brake, and past the day in which no second sign-in is allowed.
    kept.later = timedelta(hours=25)
    second = kept.run(force=True)

    assert second.outcome is Outcome.REFRESHED
    assert second.grant is (Grant.EXCHANGE if version == MINTS else Grant.PASSWORD)
    assert first.held is not None
    assert second.held is not None
    assert second.held.token.expires_at > first.held.token.expires_at
    assert second.held.token.account == first.held.token.account

    # An echo is not worth a second sign-in within a day: the token lives, and stays.
    let_its_second_pass(second)
    kept.later += timedelta(minutes=11)
    third = kept.run(force=True)
    expected = (Outcome.REFRESHED, Grant.EXCHANGE) if version == MINTS else (Outcome.FRESH, None)
    assert (third.outcome, third.grant) == expected


def test_a_wrong_password_is_refused_and_not_tried_again(account: tuple[str, Account]) -> None:
    _version, kept = account
    other = Account(kept.base_url)
    other.aws.add("webui/token", None)
    other.aws.add("webui/session", None)
    other.put(Session(email=EMAIL, password="not the password"))

    for _ in range(2):
        with pytest.raises(SignInRefusedError, match="the API refused the sign-in"):
            other.run()
        other.later += DAY

    other.put(Session(email=EMAIL, password=kept.password))
    assert other.run().grant is Grant.PASSWORD
