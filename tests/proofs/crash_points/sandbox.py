"""A sandbox for one secret: the secret, an API and a relay of its own, and a process to run in.

Sandboxes share one MiniStack and nothing else, so that many can be at work side by side.
"""

import json
import queue
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from botocore.config import Config

from localcloud.aws import REGION, ROOT, Cloud
from localcloud.qwen import QwenStandIn, Reply, Request, Scenario
from localcloud.recording_proxy import RecordingProxy
from localcloud.stack import CURRENT, Version, versions_of
from qwen_token.secret_store import AWS_CONFIG, SecretStore
from qwen_token.tokens import decode_token

from .worker import End, Worker, start_fork_server

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

DAY: Final = timedelta(days=1)
# What a person keeps beside the token.
NOTES: Final = {"service": "chat", "owner": "a person"}
# The claim that tells a person's token, and whatever descends from it, from all others.
LINE: Final = "line"
PERSON: Final = "a person's"
WEEK: Final = 7 * DAY
# A token with more than this left is as good as new.
YOUNG: Final = 6 * DAY


def _renew(qwen: QwenStandIn, request: Request) -> Reply:
    """Mint as the API does, each token unlike any other, in the line of the one that was shown."""
    claims = {} if request.raw is None else qwen.read(request.raw)
    return qwen.renew(request, qwen.lifetime, jti=secrets.token_hex(16), line=claims.get(LINE))


def _rotate(qwen: QwenStandIn, request: Request) -> Reply:
    """Give a token that is due a successor and retire it; give a young one back."""
    if request.raw is not None and decode_token(request.raw).remaining(datetime.now(UTC)) > YOUNG:
        return qwen.recognise(request)
    reply = _renew(qwen, request)
    if reply.status == 200 and request.raw is not None:
        qwen.retire(request.raw)
    return reply


RENEWS: Final = Scenario("renews", "trades a live token for a new one", _renew)
ROTATES: Final = Scenario(
    "rotates", "kills the old token as it issues the new one; gives a young one back", _rotate
)


@dataclass(frozen=True)
class Sandbox:
    """One secret and all that surrounds it."""

    secret_arn: str
    qwen: QwenStandIn
    relay: RecordingProxy
    worker: Worker
    # Straight to MiniStack, past the relay: a person's own.
    client: "SecretsManagerClient" = field(repr=False)
    _environ: Mapping[str, str] = field(repr=False)

    def run(self, event: Mapping[str, object] | None = None) -> End:
        """Run the function once, to its end or to its process's."""
        return self.worker.run(self.environ, event)

    @property
    def environ(self) -> Mapping[str, str]:
        """The function's environment."""
        return {
            **self._environ,
            "AWS_ENDPOINT_URL": self.relay.url,
            "SECRET_ID": self.secret_arn,
            "API_BASE_URL": self.qwen.base_url,
        }

    def mint(self, *, left: timedelta, line: str | None = None) -> str:
        """Log in: return a token unlike any other, of this line, that has so much time left."""
        return self.qwen.mint(lifetime=left, jti=secrets.token_hex(16), line=line)

    def stage(self, raw: str) -> str:
        """Leave a staged version behind, as a run that died does; return its id."""
        store = SecretStore(self.client, self.secret_arn)
        held = store.read()
        assert held is not None
        return store.stage(decode_token(raw), over=held).version_id

    def put(self, raw: str) -> str:
        """Put a token in as a person does, with ``make put-token``; return the version's id."""
        return SecretStore(self.client, self.secret_arn).put(decode_token(raw)).version_id

    def versions(self) -> list[Version]:
        """Return all versions of the secret, the oldest first."""
        return versions_of(self.secret_arn, self.client)

    def current(self) -> str:
        """Return what readers get."""
        held = self.client.get_secret_value(SecretId=self.secret_arn, VersionStage=CURRENT)
        return held["SecretString"]

    def serves_a_live_token(self) -> bool:
        """Say whether the API accepts what readers get."""
        return self.qwen.accepts(token_in(self.current()))

    def line(self) -> str | None:
        """Return the line of the token that readers get."""
        return self.qwen.read(token_in(self.current())).get(LINE)

    @property
    def alerts(self) -> int:
        """How many alerts were published so far."""
        return len(self.relay.emails)


def labelled(label: str, versions: list[Version]) -> Version:
    """Return the one version with this label."""
    [version] = [each for each in versions if label in each.labels]
    return version


def token_in(text: str) -> str:
    """Return the token in what a version holds."""
    raw: str = json.loads(text)["token"]
    return raw


def keeps_notes(text: str) -> bool:
    """Say whether what a person kept beside the token is still there."""
    return bool(json.loads(text).items() >= NOTES.items())


class Sandboxes:
    """Makes sandboxes in one cloud, and keeps their processes for the next ones."""

    def __init__(self, cloud: Cloud) -> None:
        """Make sandboxes in ``cloud``."""
        self._cloud = cloud
        self._topic = cloud.sns.create_topic(Name="trust")["TopicArn"]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._client = cloud.session.client(
            "secretsmanager",
            endpoint_url=cloud.endpoint,
            # One client for the threads of all sandboxes.
            config=AWS_CONFIG.merge(Config(max_pool_connections=64)),
        )
        self.environ = {
            **cloud.environ(),
            "PYTHONPATH": ":".join(
                str(ROOT / part)
                for part in ("layers/qwen_token", "layers/keeper_runtime", "functions/refresh", ".")
            ),
            "POWERTOOLS_SERVICE_NAME": "trust",
            "POWERTOOLS_METRICS_NAMESPACE": "QwenTokenRefresh",
            "REFRESH_BEFORE_DAYS": "3",
            "CRITICAL_DAYS": "1",
            "ALERT_TOPIC_ARN": self._topic,
            "EVENT_BUS_ARN": f"arn:aws:events:{REGION}:000000000000:event-bus/default",
        }

    @contextmanager
    def sandbox(self, *, left: timedelta) -> Iterator[Sandbox]:
        """Make a sandbox whose secret holds a token with this much time left, and notes beside."""
        relay = RecordingProxy()
        with ExitStack() as held:
            held.enter_context(relay.to(self._cloud.port))
            qwen = held.enter_context(QwenStandIn())
            qwen.answer_with(RENEWS)
            arn = self._client.create_secret(
                Name=f"trust-{secrets.token_hex(8)}",
                SecretString=json.dumps({**NOTES, "token": qwen.mint(lifetime=left, jti="first")}),
            )["ARN"]
            worker = held.enter_context(self.worker())
            yield Sandbox(arn, qwen, relay, worker, self._client, self.environ)

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lend a process."""
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = Worker()
            self._workers.append(worker)
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.close()


@contextmanager
def sandboxes(cloud: Cloud) -> Iterator[Sandboxes]:
    """Hold what sandboxes are made of."""
    made = Sandboxes(cloud)
    start_fork_server(made.environ)
    try:
        yield made
    finally:
        made.close()
