"""Who reads without pause while the token changes always gets one that is alive and verified."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest

import handler
from keeper_runtime.clients import Clients
from localcloud.aws import Cloud
from localcloud.qwen import ISSUES_THEN_REFUSES, TOKEN_DEAD, QwenStandIn, Reply, Request, Scenario
from localcloud.sign_in_host import Rotation, SessionPolicy
from qwen_token.secret_store import AWS_CONFIG
from tests.fake_lambda_context import FakeLambdaContext
from tests.proofs.crash_points.sandbox import DAY, RENEWS, WEEK, Sandbox, Sandboxes, token_in

REFRESHES = 15
# After this many successful refreshes, the API refuses the new token of the next one.
SPOILT_AFTER = 5
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of login. The keeper's clock is ``ahead``: each token is due as soon as it is there.

    ``spoils`` is the API that refuses the new token.
    """

    lifetime: timedelta
    ahead: timedelta
    spoils: Scenario
    session: SessionPolicy | None = None


TOKEN = Kind(lifetime=WEEK, ahead=4.5 * DAY, spoils=ISSUES_THEN_REFUSES)
SESSION = Kind(
    lifetime=HOUR,
    ahead=0.75 * HOUR,
    spoils=TOKEN_DEAD,
    session=SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN),
)


class Verifies:
    """The API, which remembers the tokens that it was asked about, and accepted."""

    def __init__(self, first: str) -> None:
        self.verified = {first}
        self.scenario = Scenario("verifies", "remembers what it accepted", self._answer)

    def _answer(self, qwen: QwenStandIn, request: Request) -> Reply | None:
        reply: Reply | None = RENEWS.answer(qwen, request)
        if reply is not None and reply.status == 200 and request.raw is not None:
            self.verified.add(request.raw)
        return reply


class Reader:
    """A service that reads the secret without pause, in a thread, and tries each token it gets."""

    def __init__(self, cloud: Cloud, sandbox: Sandbox, api: Verifies) -> None:
        # A client of its own, as a service has.
        self._client = cloud.session.client("secretsmanager", endpoint_url=cloud.endpoint)
        self._secret_arn = sandbox.secret_arn
        self._qwen: QwenStandIn = sandbox.qwen
        self._api = api
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.reads = 0
        self.refused = 0
        self.unverified = 0
        self.tokens: set[str] = set()
        self.errors: list[Exception] = []

    def _read(self) -> None:
        try:
            while not self._stopped.is_set():
                held = self._client.get_secret_value(SecretId=self._secret_arn)
                raw = token_in(held["SecretString"])
                self.reads += 1
                self.refused += not self._qwen.accepts(raw)
                self.unverified += raw not in self._api.verified
                self.tokens.add(raw)
        except Exception as error:  # noqa: BLE001 - the test shall see it, in its own thread
            self.errors.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def runs_ahead(cloud: Cloud, sandbox: Sandbox, ahead: timedelta) -> Callable[[], str]:
    """Return what runs the function once, with a clock that is ahead, and says how that ended."""
    names = {"secrets": "secretsmanager", "dynamodb": "dynamodb", "sns": "sns", "events": "events"}
    made = {
        part: cloud.session.client(name, endpoint_url=sandbox.relay.url, config=AWS_CONFIG)  # type: ignore[call-overload]
        for part, name in names.items()
    }
    parts: dict[str, Any] = {part: lambda client=client: client for part, client in made.items()}
    clients = replace(
        Clients.real(),
        environ=sandbox.environ,
        clock=lambda: datetime.now(UTC) + ahead,
        **parts,
    )

    def run() -> str:
        try:
            return str(handler.run({}, FakeLambdaContext(), clients)["outcome"])  # type: ignore[arg-type]
        finally:
            handler.metrics.clear_metrics()

    return run


@pytest.mark.parametrize("kind", [TOKEN, SESSION], ids=["of a token", "of a session"])
def test_every_read_gets_a_token_that_is_alive_and_verified(
    cloud: Cloud, sandboxes: Sandboxes, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The logger took hold of standard output when it was made; pytest replaces that since.
    monkeypatch.setattr(logging.getLogger("my-stack"), "disabled", True)
    with sandboxes.sandbox(left=kind.lifetime, session=kind.session) as sandbox:
        run = runs_ahead(cloud, sandbox, kind.ahead)
        api = Verifies(token_in(sandbox.current()))
        with Reader(cloud, sandbox, api) as reader:
            for number in range(REFRESHES):
                # Two refreshes within one second would not move the expiry, and be failures.
                lifetime = kind.lifetime + (number + 1) * SECOND
                sandbox.qwen.lifetime = lifetime
                sandbox.host.policy = replace(sandbox.host.policy, access_lifetime=lifetime)
                if number % SPOILT_AFTER == SPOILT_AFTER - 1:
                    sandbox.qwen.answer_with(kind.spoils)
                    assert run() == "retrying", number
                sandbox.qwen.answer_with(api.scenario)
                assert run() == "refreshed", number

    print(f"{reader.reads} reads, {len(reader.tokens)} tokens")  # noqa: T201 - with -rP
    assert reader.errors == []
    assert (reader.refused, reader.unverified) == (0, 0)
    assert len(reader.tokens) > REFRESHES / 2, "hardly read while it changed"
    assert reader.reads > REFRESHES
