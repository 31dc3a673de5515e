"""The simulated secret and the emulator's, held against the same expectations."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .secret import SimulatedSecret


class Secret:
    """A new secret, of either kind, with the client that serves it."""

    def __init__(self, client: Any, arn: str) -> None:
        self.client = client
        self.arn = arn

    def put(self, text: str, **request: Any) -> str:
        answer = self.client.put_secret_value(SecretId=self.arn, SecretString=text, **request)
        return str(answer["VersionId"])

    def move(self, label: str, *, to: str, **request: str) -> None:
        self.client.update_secret_version_stage(
            SecretId=self.arn, VersionStage=label, MoveToVersionId=to, **request
        )

    def labels(self) -> dict[str, str]:
        described = self.client.describe_secret(SecretId=self.arn)
        stages = described.get("VersionIdsToStages", {})
        return {label: version for version, labels in stages.items() for label in labels}

    def text(self, **which: str) -> str:
        return str(self.client.get_secret_value(SecretId=self.arn, **which)["SecretString"])


def simulated(_request: pytest.FixtureRequest) -> Secret:
    secret = SimulatedSecret()
    return Secret(secret, secret.arn)


def emulated(request: pytest.FixtureRequest) -> Secret:
    client = request.getfixturevalue("secrets")
    return Secret(client, client.create_secret(Name=f"contract/{uuid.uuid4()}")["ARN"])


@pytest.fixture(name="secret", params=[simulated, emulated], ids=["simulated", "emulated"])
def _secret(request: pytest.FixtureRequest) -> Secret:
    make: Callable[[pytest.FixtureRequest], Secret] = request.param
    return make(request)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_a_put_is_current_and_what_was_before_is_previous(secret: Secret) -> None:
    first = secret.put("one")
    second = secret.put("two")
    assert secret.labels()["AWSCURRENT"] == second
    assert secret.labels()["AWSPREVIOUS"] == first
    assert secret.text(VersionStage="AWSCURRENT") == "two"
    assert secret.text(VersionStage="AWSPREVIOUS") == "one"
    assert secret.text(VersionId=first) == "one"


def test_a_put_under_a_label_of_its_own_leaves_the_others_alone(secret: Secret) -> None:
    current = secret.put("one")
    staged = secret.put("two", VersionStages=["QWEN_PENDING"])
    assert secret.labels()["AWSCURRENT"] == current
    assert secret.labels()["QWEN_PENDING"] == staged


def test_a_put_that_is_sent_again_adds_nothing(secret: Secret) -> None:
    token = str(uuid.uuid4())
    assert secret.put("one", ClientRequestToken=token) == token
    assert secret.put("one", ClientRequestToken=token) == token
    assert secret.labels() == {"AWSCURRENT": token}


def test_a_move_from_the_version_that_has_the_label_succeeds(secret: Secret) -> None:
    old = secret.put("one")
    new = secret.put("two", VersionStages=["QWEN_PENDING"])
    secret.move("AWSCURRENT", to=new, RemoveFromVersionId=old)
    assert secret.labels()["AWSCURRENT"] == new
    assert secret.labels()["AWSPREVIOUS"] == old


def test_a_move_from_a_version_that_has_not_is_refused_and_changes_nothing(secret: Secret) -> None:
    old = secret.put("one")
    new = secret.put("two", VersionStages=["QWEN_PENDING"])
    faster = secret.put("three")
    code = refusal(lambda: secret.move("AWSCURRENT", to=new, RemoveFromVersionId=old))
    assert code == "InvalidParameterException"
    assert secret.labels()["AWSCURRENT"] == faster


def test_a_move_that_is_sent_again_is_refused(secret: Secret) -> None:
    old = secret.put("one")
    new = secret.put("two", VersionStages=["QWEN_PENDING"])
    secret.move("AWSCURRENT", to=new, RemoveFromVersionId=old)
    code = refusal(lambda: secret.move("AWSCURRENT", to=new, RemoveFromVersionId=old))
    assert code == "InvalidParameterException"
    assert secret.labels()["AWSCURRENT"] == new


def test_a_version_that_is_not_there_is_not_found(secret: Secret) -> None:
    secret.put("one")
    unknown = str(uuid.uuid4())
    assert refusal(lambda: secret.text(VersionId=unknown)) == "ResourceNotFoundException"
    assert refusal(lambda: secret.text(VersionStage="NOBODY")) == "ResourceNotFoundException"
    with pytest.raises(secret.client.exceptions.ResourceNotFoundException):
        secret.text(VersionId=unknown)


def test_a_put_that_is_sent_again_later_moves_no_label_on_aws_as_in_the_simulation() -> None:
    # On the emulator it does.
    secret = simulated(None)  # type: ignore[arg-type]
    first = secret.put("one", ClientRequestToken="t" * 32)
    second = secret.put("two")
    assert secret.put("one", ClientRequestToken="t" * 32) == first
    assert secret.labels()["AWSCURRENT"] == second


def test_a_label_named_in_a_put_moves_on_aws_as_in_the_simulation() -> None:
    # Not the emulator: it leaves such a label on both. AWS documents the move.
    secret = simulated(None)  # type: ignore[arg-type]
    secret.put("one")
    secret.put("two", VersionStages=["QWEN_PENDING"])
    third = secret.put("three", VersionStages=["QWEN_PENDING"])
    assert secret.labels()["QWEN_PENDING"] == third


def test_a_new_secret_has_no_version_on_aws_as_in_the_simulation() -> None:
    # Not on the emulator, which gives it an empty one.
    secret = simulated(None)  # type: ignore[arg-type]
    assert secret.labels() == {}
    assert refusal(secret.text) == "ResourceNotFoundException"
