"""The manager over Secrets Manager on the embedded AWS: it refreshes as the stack does."""

import json
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from localcloud import qwen as scenarios
from localcloud.aws import Cloud
from localcloud.qwen import QwenStandIn
from localcloud.recording_proxy import AwsRefusal
from qwen_token import (
    ConfigError,
    StoreError,
    TokenManager,
    TokenMissingError,
    TokenRejectedError,
    UpstreamUnexpectedError,
)
from qwen_token.secret_store import AWS_CONFIG, SecretStore

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

DAY: Final = timedelta(days=1)


class ManagedSecret:
    """A new secret, managed by a client whose calls pass the relay."""

    def __init__(self, cloud: Cloud, client: "SecretsManagerClient", value: str | None) -> None:
        self.cloud = cloud
        self._client = client
        self._arn = client.create_secret(Name=f"test/{uuid.uuid4()}")["ARN"]
        if value is not None:
            client.put_secret_value(SecretId=self._arn, SecretString=value)

    def value(self, label: str = "AWSCURRENT") -> str:
        return self._client.get_secret_value(SecretId=self._arn, VersionStage=label)["SecretString"]

    def manager(self, qwen: QwenStandIn, auth_token: str | None = None) -> TokenManager:
        client = self.cloud.session.client(
            "secretsmanager", endpoint_url=self.cloud.relay.url, config=AWS_CONFIG
        )
        return TokenManager.from_secret(
            self._arn, auth_token, client=client, base_url=qwen.base_url
        )

    def put(self, value: str) -> None:
        self._client.put_secret_value(SecretId=self._arn, SecretString=value)

    def store(self) -> SecretStore:
        return SecretStore(self._client, self._arn)


def test_a_refresh_stages_verifies_and_promotes(
    cloud: Cloud, secrets: "SecretsManagerClient", qwen: QwenStandIn
) -> None:
    raw = qwen.mint(lifetime=2 * DAY)
    secret = ManagedSecret(cloud, secrets, json.dumps({"note": 1, "token": raw}))
    manager = secret.manager(qwen)
    assert manager.token == raw
    before = len(cloud.relay.calls)
    successor = manager.refresh()

    document = json.loads(secret.value())
    assert (document["note"], document["token"], manager.token) == (1, successor, successor)
    assert json.loads(secret.value("AWSPREVIOUS"))["token"] == raw
    assert [request.raw for request in qwen.requests] == [raw, successor]
    assert cloud.relay.calls[before:] == [
        "secretsmanager:GetSecretValue",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    ]


def test_a_token_that_the_api_refuses_never_becomes_current(
    cloud: Cloud, secrets: "SecretsManagerClient", qwen: QwenStandIn
) -> None:
    secret = ManagedSecret(cloud, secrets, raw := qwen.mint(lifetime=2 * DAY))
    manager = secret.manager(qwen)
    qwen.answer_with(scenarios.ISSUES_THEN_REFUSES)
    with pytest.raises(UpstreamUnexpectedError):
        manager.refresh()
    assert secret.value() == manager.token == raw
    assert not qwen.accepts(secret.value("QWEN_PENDING"))


def test_a_dead_token_gives_way_to_a_live_previous_one(
    cloud: Cloud, secrets: "SecretsManagerClient", qwen: QwenStandIn
) -> None:
    secret = ManagedSecret(cloud, secrets, lives := qwen.mint(lifetime=5 * DAY))
    secret.put(dead := qwen.mint(lifetime=6 * DAY))
    qwen.retire(dead)
    manager = secret.manager(qwen)
    assert manager.renew(rejected=dead) == manager.token == secret.value() == lives
    qwen.revoke()
    with pytest.raises(TokenRejectedError):
        manager.refresh()


@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_new_token_that_cannot_be_stored_is_kept_and_stored_later(
    cloud: Cloud, secrets: "SecretsManagerClient", qwen: QwenStandIn, operation: str
) -> None:
    secret = ManagedSecret(cloud, secrets, raw := qwen.mint(lifetime=2 * DAY))
    manager = secret.manager(qwen)
    heard: list[str] = []
    manager.on("refresh", lambda _: heard.append(secret.value()))
    denied = AwsRefusal("AccessDeniedException")
    with cloud.relay.interfering(f"secretsmanager:{operation}", denied):
        with pytest.raises(StoreError, match="AccessDenied"):
            manager.refresh()
        successor = manager.token
        assert (secret.value(), heard) == (raw, [])
        # Nor is it lost while that goes on.
        assert manager.renew(rejected=raw) == successor != raw
    assert manager.renew(rejected=raw) == secret.value() == successor
    assert heard == [successor]
    assert secret.value("AWSPREVIOUS") == raw
    assert [request.raw for request in qwen.requests] == [raw, successor]


def test_a_secret_without_a_value_waits_for_its_first_token(
    cloud: Cloud, secrets: "SecretsManagerClient", qwen: QwenStandIn
) -> None:
    secret = ManagedSecret(cloud, secrets, None)
    manager = secret.manager(qwen)
    with pytest.raises(TokenMissingError):
        manager.refresh()
    raw = qwen.mint()
    assert secret.manager(qwen, raw).token == secret.value() == manager.token == raw


def test_a_store_that_was_made_by_hand_serves_as_well(
    cloud: Cloud, secrets: "SecretsManagerClient", qwen: QwenStandIn
) -> None:
    secret = ManagedSecret(cloud, secrets, qwen.mint(lifetime=2 * DAY))
    manager = TokenManager(store=secret.store(), base_url=qwen.base_url)
    assert manager.refresh() == secret.value()


def test_without_a_region_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="AWS_DEFAULT_REGION"):
        TokenManager.from_secret("qwen/token").refresh()
