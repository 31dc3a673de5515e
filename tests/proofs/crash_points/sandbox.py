"""A sandbox for one secret: the secret, an API and a relay of its own, and a process to run in.

Sandboxes share one MiniStack and nothing else, so that many can be at work side by side.
"""

import json
import queue
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config

from localcloud.aws import REGION, ROOT, Cloud
from localcloud.qwen import QwenStandIn, Reply, Request, Scenario
from localcloud.recording_proxy import Answer, Call, RecordingProxy
from localcloud.sign_in_host import SessionPolicy, SignInHostStandIn
from localcloud.stack import CURRENT, Version, versions_of
from qwen_token import Session
from qwen_token.secret_store import AWS_CONFIG, SecretStore
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import parse_session
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
# The sign-in that a person may have put in, with whatever else there is.
SIGN_IN: Final = {"email": "owner@example.com", "password": "correct horse battery staple"}
# A token with more than this left is as good as new.
YOUNG: Final = 6 * DAY


def _renew(qwen: QwenStandIn, request: Request) -> Reply:
    """Mint as the API does, each token unlike any other, in the line of the one that was shown."""
    claims = {} if request.raw is None else qwen.read(request.raw)
    return qwen.renew(request, qwen.lifetime, jti=secrets.token_hex(16), line=claims.get(LINE))


def _rotate(qwen: QwenStandIn, request: Request) -> Reply:
    """Give a token that is due a successor and retire it; give a young one back.

    An access token is no such token: it is neither renewed nor retired.
    """
    if request.raw is not None:
        token = decode_token(request.raw)
        if token.is_access_token or token.remaining(qwen.clock()) > YOUNG:
            return qwen.recognise(request)
    reply = _renew(qwen, request)
    if reply.status == 200 and request.raw is not None:
        qwen.retire(request.raw)
    return reply


RENEWS: Final = Scenario("renews", "trades a live token for a new one", _renew)
ROTATES: Final = Scenario(
    "rotates", "kills the old token as it issues the new one; gives a young one back", _rotate
)


class Clock:
    """The clock of a sandbox's function and hosts, which may be put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC) + self.ahead

    def advance(self, by: timedelta) -> None:
        """Let so much time pass at once."""
        self.ahead += by


@dataclass(frozen=True)
class Sandbox:
    """One token secret, the session secret beside it, and all that surrounds them."""

    secret_arn: str
    session_secret_arn: str
    qwen: QwenStandIn
    host: SignInHostStandIn
    relay: RecordingProxy
    worker: Worker
    # Straight to MiniStack, past the relay: a person's own.
    client: "SecretsManagerClient" = field(repr=False)
    _environ: Mapping[str, str] = field(repr=False)
    clock: Clock = field(default_factory=Clock, repr=False)
    # The API signs people in itself.
    is_open_webui: bool = False
    # When versions were written, by a clock that was put forward: AWS's was not.
    _written_at: dict[str, datetime] = field(default_factory=dict, repr=False)

    def run(self, event: Mapping[str, object] | None = None) -> End:
        """Run the function once, to its end or to its process's."""
        return self.worker.run(self.environ, event, ahead=self.clock.ahead)

    @property
    def environ(self) -> Mapping[str, str]:
        """The function's environment."""
        return {
            **self._environ,
            "AWS_ENDPOINT_URL": self.relay.url,
            "SECRET_ID": self.secret_arn,
            "SESSION_SECRET_ID": self.session_secret_arn,
            "API_BASE_URL": self.qwen.base_url,
            "AUTH_BASE_URL": "" if self.is_open_webui else self.host.base_url,
        }

    def mint(self, *, left: timedelta, line: str | None = None) -> str:
        """Log in: return a token unlike any other, of this line, that has so much time left."""
        return self.qwen.mint(lifetime=left, jti=secrets.token_hex(16), line=line)

    def age_current(self, age: timedelta) -> None:
        """Make the current version this old."""
        held = self.client.get_secret_value(SecretId=self.secret_arn, VersionStage=CURRENT)
        self._written_at[held["VersionId"]] = self.clock() - age

    def stage(self, raw: str) -> str:
        """Leave a staged version behind, as a run that died does; return its id."""
        store = SecretStore(self.client, self.secret_arn)
        held = store.read()
        assert held is not None
        return store.stage(decode_token(raw), over=held).version_id

    def put(self, raw: str) -> str:
        """Put a token in as a person does, with ``make put-token``; return the version's id."""
        return SecretStore(self.client, self.secret_arn).put(decode_token(raw)).version_id

    def put_session(self, credential: str) -> str:
        """Put a session in as a person does; return the version's id."""
        store = SessionStore(self.client, self.session_secret_arn)
        return store.put(Session(refresh_token=credential)).version_id

    def put_login(self, **members: str) -> None:
        """Make this, with the notes, the session secret's value, as a person does in the console.

        Both hosts know the sign-in from then on.
        """
        self.qwen.set_password(*SIGN_IN.values())
        self.host.set_password(*SIGN_IN.values())
        self.client.put_secret_value(
            SecretId=self.session_secret_arn, SecretString=json.dumps({**NOTES, **members})
        )

    def session_versions(self) -> list[Version]:
        """Return all versions of the session secret that have a value, the oldest first."""
        found = versions_of(self.session_secret_arn, self.client)
        return [version for version in found if version.text]

    def credential(self) -> str | None:
        """Return the refresh credential that is current."""
        held = self.client.get_secret_value(SecretId=self.session_secret_arn, VersionStage=CURRENT)
        return parse_session(held["SecretString"], held["VersionId"]).session.refresh_token

    def versions(self) -> list[Version]:
        """Return all versions of the token secret that have a value, the oldest first."""
        found = versions_of(self.secret_arn, self.client)
        return [version for version in found if version.text]

    def current(self) -> str:
        """Return what readers get, an empty text where that is nothing."""
        held = self.client.get_secret_value(SecretId=self.secret_arn, VersionStage=CURRENT)
        return held.get("SecretString", "")

    def serves_a_live_token(self) -> bool:
        """Say whether the API accepts what readers get."""
        current = self.current()
        return bool(current) and self.qwen.accepts(token_in(current))

    def line(self) -> str | None:
        """Return the line of the token that readers get."""
        return self.qwen.read(token_in(self.current())).get(LINE)

    def dated(self, call: Call, answer: Answer) -> Answer:
        """Let Secrets Manager's answer date a version by the sandbox's clock."""
        operation = call.operation.partition(":")[2]
        if answer.status != HTTPStatus.OK or operation not in {"PutSecretValue", "GetSecretValue"}:
            return answer
        document = json.loads(answer.body)
        version_id = document["VersionId"]
        if operation == "PutSecretValue" and self.clock.ahead:
            self._written_at.setdefault(version_id, self.clock())
        elif version_id in self._written_at:
            document["CreatedDate"] = self._written_at[version_id].timestamp()
            return replace(answer, body=json.dumps(document).encode())
        return answer

    @property
    def alerts(self) -> int:
        """How many alerts were published so far."""
        return len(self.relay.emails)


def labelled(label: str, versions: list[Version]) -> Version:
    """Return the one version with this label."""
    [version] = [each for each in versions if label in each.labels]
    return version


def token_in(text: str) -> str:
    """Return the token in what a version holds: in the object, or bare."""
    raw: str = json.loads(text)["token"] if text.startswith("{") else text
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
        table = f"trust-{secrets.token_hex(8)}"
        cloud.session.client("dynamodb", endpoint_url=cloud.endpoint).create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "secret_id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "secret_id", "KeyType": "HASH"}],
        )
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
            "ALERT_AFTER_MINUTES": "60",
            "WEB_VERSION": SessionPolicy().web_version,
            "USER_AGENT": "Mozilla/5.0 (compatible; proofs)",
            "STATE_TABLE": table,
            "ALERT_TOPIC_ARN": self._topic,
            "EVENT_BUS_ARN": f"arn:aws:events:{REGION}:000000000000:event-bus/default",
        }

    @contextmanager
    def sandbox(
        self,
        *,
        left: timedelta,
        session: SessionPolicy | None = None,
        is_new: bool = False,
        is_open_webui: bool = False,
    ) -> Iterator[Sandbox]:
        """Make a sandbox whose secret holds a token with this much time left, and notes beside.

        With a ``session``, that is an access token of it, and its credential is in the session
        secret; nobody knows how long the token lived, so that it is due. Without one, the session
        secret has no value. The token secret has none if it ``is_new``.
        """
        relay = RecordingProxy()
        with ExitStack() as held:
            held.enter_context(relay.to(self._cloud.port))
            qwen = held.enter_context(QwenStandIn())
            qwen.answer_with(RENEWS)
            host = held.enter_context(SignInHostStandIn(qwen, session))
            clock = qwen.clock = host.clock = Clock()
            login = token = None
            if session is not None:
                login = json.dumps({**NOTES, "refresh_token": host.log_in()})
            if not is_new:
                raw = (
                    qwen.mint(lifetime=left, jti="first")
                    if session is None
                    else qwen.issue_access_token(lifetime=left, has_iat=False)
                )
                token = json.dumps({**NOTES, "token": raw})
            name = f"trust-{secrets.token_hex(8)}"
            session_arn = self._create(f"{name}/session", login)
            arn = self._create(name, token)
            worker = held.enter_context(self.worker())
            yield Sandbox(
                arn,
                session_arn,
                qwen,
                host,
                relay,
                worker,
                self._client,
                self.environ,
                clock,
                is_open_webui,
            )

    def _create(self, name: str, text: str | None) -> str:
        value: Any = {} if text is None else {"SecretString": text}
        return self._client.create_secret(Name=name, **value)["ARN"]

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
