"""The fake Secrets Manager and the emulator's, held against the same expectations.

Where the emulator is known to do otherwise than AWS documents, its case has to fail: a release that
mends it is noticed.
"""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.fake_secrets_manager import FakeSecretsManager


class ContractedSecret:
    """A new secret without a value, of either kind, with the client that serves it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.name = f"contract/{uuid.uuid4()}"
        self.arn = str(client.create_secret(Name=self.name)["ARN"])

    def put(self, text: str, **request: Any) -> str:
        answer = self.client.put_secret_value(SecretId=self.arn, SecretString=text, **request)
        return str(answer["VersionId"])

    def move(self, label: str, **request: str) -> None:
        self.client.update_secret_version_stage(SecretId=self.arn, VersionStage=label, **request)

    def labels(self) -> dict[str, str]:
        stages = self.describe().get("VersionIdsToStages", {})
        return {label: version for version, labels in stages.items() for label in labels}

    def text(self, **which: str) -> str:
        return str(self.client.get_secret_value(SecretId=self.arn, **which)["SecretString"])

    def describe(self) -> Any:
        return self.client.describe_secret(SecretId=self.arn)

    def tags(self) -> dict[str, str]:
        return {each["Key"]: each["Value"] for each in self.describe().get("Tags", ())}


@pytest.fixture(name="secret", params=["faked", "emulated"])
def _secret(request: pytest.FixtureRequest) -> ContractedSecret:
    is_faked = request.param == "faked"
    return ContractedSecret(
        FakeSecretsManager() if is_faked else request.getfixturevalue("secrets")
    )


def emulator_differs(how: str) -> pytest.MarkDecorator:
    """Expect the fake to pass, and the emulator, for this reason, to fail."""
    failing = (AssertionError, pytest.fail.Exception)
    fails = pytest.mark.xfail(raises=failing, strict=True, reason=f"the emulator {how}")
    kinds = ["faked", pytest.param("emulated", marks=fails)]
    return pytest.mark.parametrize("secret", kinds, indirect=True)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_a_put_is_current_and_the_version_before_is_previous(secret: ContractedSecret) -> None:
    first = secret.put("one")
    second = secret.put("two")
    assert secret.labels()["AWSCURRENT"] == second
    assert secret.labels()["AWSPREVIOUS"] == first
    assert secret.text(VersionStage="AWSCURRENT") == "two"
    assert secret.text(VersionStage="AWSPREVIOUS") == "one"
    assert secret.text(VersionId=first) == "one"


def test_a_put_under_a_label_of_its_own_leaves_the_others_alone(secret: ContractedSecret) -> None:
    current = secret.put("one")
    staged = secret.put("two", VersionStages=["QWEN_PENDING"])
    assert secret.labels()["AWSCURRENT"] == current
    assert secret.labels()["QWEN_PENDING"] == staged


def test_a_version_says_its_labels_and_when_it_was_made(secret: ContractedSecret) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)  # AWS tells the time to the millisecond
    current = secret.put("one")
    staged = secret.put("two", VersionStages=["QWEN_PENDING"])
    secret.move("AWSCURRENT", MoveToVersionId=staged, RemoveFromVersionId=current)

    one = secret.client.get_secret_value(SecretId=secret.arn, VersionId=staged)
    [batched] = secret.client.batch_get_secret_value(SecretIdList=[secret.arn])["SecretValues"]

    for answer in (one, batched):
        assert set(answer["VersionStages"]) == {"AWSCURRENT", "QWEN_PENDING"}
        assert before <= answer["CreatedDate"] <= datetime.now(UTC) + timedelta(seconds=1)


def test_a_put_answers_with_the_labels_of_the_version(secret: ContractedSecret) -> None:
    secret.put("one")
    answer = secret.client.put_secret_value(
        SecretId=secret.arn, SecretString="two", VersionStages=["QWEN_PENDING"]
    )
    assert answer["VersionStages"] == ["QWEN_PENDING"]


def test_a_put_that_is_sent_again_adds_nothing(secret: ContractedSecret) -> None:
    token = str(uuid.uuid4())
    assert secret.put("one", ClientRequestToken=token) == token
    assert secret.put("one", ClientRequestToken=token) == token
    assert secret.labels() == {"AWSCURRENT": token}


def test_a_move_from_the_version_that_has_the_label_succeeds(secret: ContractedSecret) -> None:
    old = secret.put("one")
    new = secret.put("two", VersionStages=["QWEN_PENDING"])
    secret.move("AWSCURRENT", MoveToVersionId=new, RemoveFromVersionId=old)
    assert secret.labels()["AWSCURRENT"] == new
    assert secret.labels()["AWSPREVIOUS"] == old


def test_a_move_from_a_version_without_the_label_is_refused(
    secret: ContractedSecret,
) -> None:
    old = secret.put("one")
    new = secret.put("two", VersionStages=["QWEN_PENDING"])
    faster = secret.put("three")
    code = refusal(lambda: secret.move("AWSCURRENT", MoveToVersionId=new, RemoveFromVersionId=old))
    assert code == "InvalidParameterException"
    assert secret.labels()["AWSCURRENT"] == faster


def test_a_move_that_is_sent_again_is_refused(secret: ContractedSecret) -> None:
    old = secret.put("one")
    new = secret.put("two", VersionStages=["QWEN_PENDING"])
    secret.move("AWSCURRENT", MoveToVersionId=new, RemoveFromVersionId=old)
    code = refusal(lambda: secret.move("AWSCURRENT", MoveToVersionId=new, RemoveFromVersionId=old))
    assert code == "InvalidParameterException"
    assert secret.labels()["AWSCURRENT"] == new


def test_an_absent_version_is_not_found(secret: ContractedSecret) -> None:
    secret.put("one")
    unknown = str(uuid.uuid4())
    assert refusal(lambda: secret.text(VersionId=unknown)) == "ResourceNotFoundException"
    assert refusal(lambda: secret.text(VersionStage="NOBODY")) == "ResourceNotFoundException"
    with pytest.raises(secret.client.exceptions.ResourceNotFoundException):
        secret.text(VersionId=unknown)


@emulator_differs("moves the labels to it")
def test_a_put_that_is_sent_again_later_moves_no_label(secret: ContractedSecret) -> None:
    token = str(uuid.uuid4())
    secret.put("one", ClientRequestToken=token)
    second = secret.put("two")
    assert secret.put("one", ClientRequestToken=token) == token
    assert secret.labels()["AWSCURRENT"] == second


@emulator_differs("writes over the first value")
def test_a_put_of_another_value_under_the_same_id_is_refused(secret: ContractedSecret) -> None:
    token = str(uuid.uuid4())
    secret.put("one", ClientRequestToken=token)
    with pytest.raises(ClientError) as caught:
        secret.put("two", ClientRequestToken=token)
    assert caught.value.response["Error"]["Code"] == "ResourceExistsException"


@emulator_differs("leaves the label on both versions")
def test_a_label_that_a_put_names_moves_to_the_new_version(secret: ContractedSecret) -> None:
    secret.put("one")
    second = secret.put("two", VersionStages=["QWEN_PENDING"])
    third = secret.put("three", VersionStages=["QWEN_PENDING"])
    assert second not in secret.describe()["VersionIdsToStages"]
    assert secret.text(VersionId=third) == secret.text(VersionStage="QWEN_PENDING") == "three"


@emulator_differs("gives a new secret an empty version")
def test_a_new_secret_has_no_version(secret: ContractedSecret) -> None:
    assert "VersionIdsToStages" not in secret.describe()
    assert refusal(secret.text) == "ResourceNotFoundException"


@emulator_differs("gives a new secret an empty version")
def test_the_first_version_is_current_whatever_its_label(secret: ContractedSecret) -> None:
    first = secret.put("one", VersionStages=["QWEN_PENDING"])
    assert secret.labels() == {"QWEN_PENDING": first, "AWSCURRENT": first}


def test_a_move_to_an_absent_version_is_not_found(secret: ContractedSecret) -> None:
    old = secret.put("one")
    unknown = str(uuid.uuid4())
    code = refusal(
        lambda: secret.move("AWSCURRENT", MoveToVersionId=unknown, RemoveFromVersionId=old)
    )
    assert code == "ResourceNotFoundException"
    assert secret.text() == "one"


def test_a_move_that_does_not_name_the_old_version_is_refused(secret: ContractedSecret) -> None:
    old = secret.put("one")
    new = secret.put("two", VersionStages=["QWEN_PENDING"])
    code = refusal(lambda: secret.move("AWSCURRENT", MoveToVersionId=new))
    assert code == "InvalidParameterException"
    assert secret.labels()["AWSCURRENT"] == old


def test_a_label_that_no_version_has_is_attached(secret: ContractedSecret) -> None:
    only = secret.put("one")
    secret.move("MINE", MoveToVersionId=only)
    assert (secret.labels()["AWSCURRENT"], secret.labels()["MINE"]) == (only, only)


def test_a_label_of_ones_own_can_be_taken_away(secret: ContractedSecret) -> None:
    secret.put("one")
    staged = secret.put("two", VersionStages=["QWEN_PENDING", "MINE"])
    secret.move("QWEN_PENDING", RemoveFromVersionId=staged)
    assert "QWEN_PENDING" not in secret.labels()
    assert secret.text(VersionStage="MINE") == "two"


def test_a_binary_value_is_answered_as_such(secret: ContractedSecret) -> None:
    secret.client.put_secret_value(SecretId=secret.arn, SecretBinary=b"one")
    answer = secret.client.get_secret_value(SecretId=secret.arn)
    assert answer["SecretBinary"] == b"one"
    assert "SecretString" not in answer


def test_a_secret_is_found_by_its_name_as_by_its_arn(secret: ContractedSecret) -> None:
    secret.put("one")
    answer = secret.client.get_secret_value(SecretId=secret.name)
    assert (answer["ARN"], answer["Name"], answer["SecretString"]) == (
        secret.arn,
        secret.name,
        "one",
    )


def test_a_name_can_be_given_once(secret: ContractedSecret) -> None:
    code = refusal(lambda: secret.client.create_secret(Name=secret.name, SecretString="one"))
    assert code == "ResourceExistsException"


def test_a_secret_is_created_with_a_value_and_tags(secret: ContractedSecret) -> None:
    name = f"{secret.name}/with-all"
    tags = [{"Key": "qwen-token", "Value": "blue"}]
    made = secret.client.create_secret(Name=name, SecretString="one", Tags=tags)
    described = secret.client.describe_secret(SecretId=made["ARN"])
    assert described["VersionIdsToStages"] == {made["VersionId"]: ["AWSCURRENT"]}
    assert described["Tags"] == tags


def test_tags_come_change_and_go(secret: ContractedSecret) -> None:
    def tag(value: str) -> None:
        tags = [{"Key": "qwen-token", "Value": value}]
        secret.client.tag_resource(SecretId=secret.arn, Tags=tags)

    tag("blue")
    tag("off")
    secret.client.tag_resource(SecretId=secret.arn, Tags=[{"Key": "team", "Value": "a"}])
    assert secret.tags() == {"qwen-token": "off", "team": "a"}
    secret.client.untag_resource(SecretId=secret.arn, TagKeys=["qwen-token", "no-such-key"])
    assert secret.tags() == {"team": "a"}


@emulator_differs("compares tags as a whole")
def test_a_filter_finds_tags_by_their_beginning(secret: ContractedSecret) -> None:
    key = f"tag-{uuid.uuid4()}"
    secret.client.tag_resource(SecretId=secret.arn, Tags=[{"Key": f"{key}-longer", "Value": ""}])
    filters = [{"Key": "tag-key", "Values": [key]}]
    assert len(secret.client.list_secrets(Filters=filters)["SecretList"]) == 1


def test_the_secrets_with_a_tag_are_listed_page_by_page(secret: ContractedSecret) -> None:
    key = f"tag-{uuid.uuid4()}"
    tagged = {f"{secret.name}/{number}" for number in range(3)}
    for name in tagged:
        secret.client.create_secret(Name=name, Tags=[{"Key": key, "Value": ""}])

    request: dict[str, Any] = {"Filters": [{"Key": "tag-key", "Values": [key]}], "MaxResults": 2}
    first = secret.client.list_secrets(**request)
    second = secret.client.list_secrets(**request, NextToken=first["NextToken"])

    assert (len(first["SecretList"]), "NextToken" in second) == (2, False)
    listed = [*first["SecretList"], *second["SecretList"]]
    assert {each["Name"] for each in listed} == tagged
    assert all(each["Tags"] == [{"Key": key, "Value": ""}] for each in listed)


def test_a_batch_is_answered_secret_by_secret(secret: ContractedSecret) -> None:
    version = secret.put("one")
    missing = f"{secret.arn[:-6]}abcdef"
    answer = secret.client.batch_get_secret_value(SecretIdList=[secret.arn, missing])

    [value] = answer["SecretValues"]
    assert (value["ARN"], value["SecretString"], value["VersionId"]) == (
        secret.arn,
        "one",
        version,
    )
    [error] = answer["Errors"]
    assert (error["SecretId"], error["ErrorCode"]) == (missing, "ResourceNotFoundException")


def test_a_secret_that_is_being_deleted_is_described_and_nothing_else(
    secret: ContractedSecret,
) -> None:
    secret.put("one")
    secret.client.delete_secret(SecretId=secret.arn)

    assert "DeletedDate" in secret.describe()
    assert refusal(secret.text) == "InvalidRequestException"
    assert refusal(lambda: secret.put("two")) == "InvalidRequestException"


@emulator_differs("says that the name exists")
def test_the_name_of_a_secret_that_is_being_deleted_is_not_free(secret: ContractedSecret) -> None:
    secret.client.delete_secret(SecretId=secret.arn)
    code = refusal(lambda: secret.client.create_secret(Name=secret.name))
    assert code == "InvalidRequestException"


def test_a_secret_that_is_being_deleted_is_listed_only_for_who_asks_for_it(
    secret: ContractedSecret,
) -> None:
    secret.client.delete_secret(SecretId=secret.arn)
    filters = [{"Key": "name", "Values": [secret.name]}]
    assert secret.client.list_secrets(Filters=filters)["SecretList"] == []
    [listed] = secret.client.list_secrets(Filters=filters, IncludePlannedDeletion=True)[
        "SecretList"
    ]
    assert "DeletedDate" in listed


def test_an_absent_secret_is_not_found(secret: ContractedSecret) -> None:
    secret.client.delete_secret(SecretId=secret.arn, ForceDeleteWithoutRecovery=True)
    for call in (secret.text, secret.describe, lambda: secret.put("one")):
        assert refusal(call) == "ResourceNotFoundException"
