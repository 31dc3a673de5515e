"""The shared token against Secrets Manager on the embedded AWS."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.aws import Cloud
from localcloud.recording_proxy import AwsRefusal
from qwen_token import SharedToken, StoreError, TokenMalformedError, TokenMissingError
from qwen_token.secret_store import AWS_CONFIG
from tests.fakes import Clock
from tests.integration.functions import function, role
from tests.minting import mint, token

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

NOW = datetime.now(UTC)
OLD = token(left=timedelta(days=2), now=NOW)
NEW = token(left=timedelta(days=7), now=NOW)

# What the stack's function does at best: it puts a better token in.
REFRESH = """
import os, boto3

def handler(event, context):
    assert event == {"force": True}, event
    boto3.client("secretsmanager").put_secret_value(
        SecretId=os.environ["SECRET_ID"], SecretString=os.environ["NEW"]
    )
"""


def access_token(*, minutes: int) -> str:
    """Return one that names no account, as half of a session may be."""
    exp = int((NOW + timedelta(minutes=minutes)).timestamp())
    return mint({"type": "access_token", "exp": exp})


def counted(cloud: Cloud) -> "SecretsManagerClient":
    """Return a client whose calls the relay counts."""
    return cloud.session.client("secretsmanager", endpoint_url=cloud.relay.url, config=AWS_CONFIG)


def secret_with(secrets: "SecretsManagerClient", value: str | None) -> str:
    given: dict[str, Any] = {} if value is None else {"SecretString": value}
    return secrets.create_secret(Name=f"test/{uuid.uuid4()}", **given)["ARN"]


@pytest.mark.parametrize(
    "value", [OLD.raw, json.dumps({"note": 1, "token": OLD.raw})], ids=["bare", "JSON"]
)
def test_sixteen_thousand_reads_by_eight_threads_from_cold_are_one_call(
    cloud: Cloud, secrets: "SecretsManagerClient", value: str
) -> None:
    shared = SharedToken(secret_with(secrets, value), client=counted(cloud))
    before = len(cloud.relay.calls)
    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(lambda: {shared.current() for _ in range(2_000)}) for _ in range(8)]
        assert [each.result() for each in readers] == [{OLD.raw}] * 8
    assert cloud.relay.calls[before:] == ["secretsmanager:GetSecretValue"]


def test_a_newly_stored_token_is_found_when_the_old_one_is_refused(
    secrets: "SecretsManagerClient",
) -> None:
    arn = secret_with(secrets, OLD.raw)
    shared = SharedToken(arn, client=secrets)
    assert shared.current() == OLD.raw
    secrets.put_secret_value(SecretId=arn, SecretString=NEW.raw)
    assert shared.renew(rejected=OLD.raw) == NEW.raw


def test_an_access_token_of_15_minutes_is_replaced_before_its_last_minute(
    cloud: Cloud, secrets: "SecretsManagerClient"
) -> None:
    short, successor = access_token(minutes=15), access_token(minutes=25)
    arn, clock = secret_with(secrets, short), Clock(NOW)
    shared = SharedToken(arn, client=counted(cloud), max_age=3600, clock=clock)
    before = len(cloud.relay.calls)
    assert shared.current() == short
    secrets.put_secret_value(SecretId=arn, SecretString=successor)
    clock.sleep(14 * 60 - 1)
    assert shared.current() == short
    clock.sleep(1)
    with ThreadPoolExecutor(10) as pool:
        readers = [pool.submit(shared.current) for _ in range(10)]
        assert {each.result() for each in readers} == {successor}
    assert cloud.relay.calls[before:] == ["secretsmanager:GetSecretValue"] * 2


def test_ten_threads_whose_token_ended_on_the_way_cause_one_read(
    cloud: Cloud, secrets: "SecretsManagerClient"
) -> None:
    short, successor = access_token(minutes=15), access_token(minutes=25)
    arn, clock = secret_with(secrets, short), Clock(NOW)
    shared = SharedToken(arn, client=counted(cloud), clock=clock)
    shared.current()
    secrets.put_secret_value(SecretId=arn, SecretString=successor)
    clock.sleep(15 * 60)
    before = len(cloud.relay.calls)
    with ThreadPoolExecutor(10) as pool:
        renewed = [pool.submit(shared.renew, rejected=short) for _ in range(10)]
        assert {each.result() for each in renewed} == {successor}
    assert cloud.relay.calls[before:] == ["secretsmanager:GetSecretValue"]


def test_without_a_client_one_is_made_from_the_environment(
    cloud: Cloud, secrets: "SecretsManagerClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = secret_with(secrets, OLD.raw)
    for name, value in {**cloud.environ(), "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    assert SharedToken(arn).current() == OLD.raw


def test_the_refresh_function_is_run_when_the_stored_token_is_the_rejected_one(
    cloud: Cloud, secrets: "SecretsManagerClient"
) -> None:
    arn = secret_with(secrets, OLD.raw)
    with function(cloud, REFRESH, SECRET_ID=arn, NEW=NEW.raw) as name:
        shared = SharedToken(
            arn, client=secrets, refresh_function=name, lambda_client=cloud.functions
        )
        with ThreadPoolExecutor(10) as pool:
            renewed = [pool.submit(shared.renew, rejected=OLD.raw) for _ in range(10)]
            assert {each.result() for each in renewed} == {NEW.raw}
    versions = secrets.describe_secret(SecretId=arn)["VersionIdsToStages"]
    assert len(versions) == 2


def test_a_role_without_permission_gets_an_error_that_says_so(
    cloud: Cloud, secrets: "SecretsManagerClient"
) -> None:
    arn = secret_with(secrets, OLD.raw)
    sts = cloud.session.client("sts", endpoint_url=cloud.endpoint)
    assumed = sts.assume_role(RoleArn=role(cloud, "s3:GetObject"), RoleSessionName="stranger")
    keys = assumed["Credentials"]
    stranger = cloud.session_with(
        keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]
    ).client("secretsmanager", endpoint_url=cloud.endpoint)
    with pytest.raises(StoreError, match="AccessDenied") as seen:
        SharedToken(arn, client=stranger).current()
    assert "ReaderPolicyArn" in seen.value.advice


def test_a_secret_that_does_not_exist_is_named_and_the_region_advised(
    secrets: "SecretsManagerClient",
) -> None:
    with pytest.raises(StoreError, match="qwen/nowhere: ResourceNotFound") as seen:
        SharedToken("qwen/nowhere", client=secrets).current()
    assert "in this region" in seen.value.advice


def test_a_deleted_secret_is_an_error_also_for_one_who_read_it_before(
    secrets: "SecretsManagerClient",
) -> None:
    arn, clock = secret_with(secrets, OLD.raw), Clock(NOW)
    shared = SharedToken(arn, client=secrets, clock=clock)
    shared.current()
    secrets.delete_secret(SecretId=arn)
    clock.sleep(300)
    with pytest.raises(StoreError, match="InvalidRequest"):
        shared.current()


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, TokenMissingError), (" ", TokenMissingError), ("hunter2", TokenMalformedError)],
    ids=["none", "blank", "no token"],
)
def test_a_secret_without_a_token_has_an_error_of_its_own(
    secrets: "SecretsManagerClient", value: str | None, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        SharedToken(secret_with(secrets, value), client=secrets).current()


def test_an_outage_of_secrets_manager_is_bridged_until_it_is_over(
    cloud: Cloud, secrets: "SecretsManagerClient"
) -> None:
    arn, clock = secret_with(secrets, OLD.raw), Clock(NOW)
    shared = SharedToken(arn, client=counted(cloud), clock=clock)
    shared.current()
    secrets.put_secret_value(SecretId=arn, SecretString=NEW.raw)
    clock.sleep(300)
    refusal = AwsRefusal("InternalServiceError", 500)
    with cloud.relay.interfering("secretsmanager:GetSecretValue", refusal):
        assert shared.current() == OLD.raw
    clock.sleep(5)
    assert shared.current() == NEW.raw
