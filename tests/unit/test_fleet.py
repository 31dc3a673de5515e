"""The fleet: which secrets are members, and what reading them says."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from qwen_token import StoreError, TokenMalformedError, TokenMissingError
from qwen_token.errors import MembershipError
from qwen_token.fleet import OFF, ON, SESSION, Fleet, Member, member_name, session_name
from qwen_token.stored_token import StoredToken
from tests.fake_secrets_manager import FakeSecretsManager, SecretsManagerCall, arn
from tests.minting import NOW, token
from tests.unit.fleet_fakes import TAG

DAY = timedelta(days=1)


def fleet_secrets(*, page_size: int = 100) -> FakeSecretsManager:
    """Return Secrets Manager: a secret that is added there is of the fleet unless it says not."""
    return FakeSecretsManager(page_size=page_size, tags={TAG: ""})


def batches(secrets: FakeSecretsManager) -> list[int]:
    """Return how many secrets each call asked for at once."""
    calls = [call for call in secrets.recorded if call.operation == "BatchGetSecretValue"]
    return [len(call.request["SecretIdList"]) for call in calls]


def fleet(secrets: Any) -> Fleet:
    return Fleet(secrets, TAG)


def members_of(secrets: Any) -> list[Member]:
    return [member for page in fleet(secrets).pages() for member in page.members]


def test_a_session_secret_is_named_after_its_member_and_the_other_way_round() -> None:
    assert (ON, OFF, SESSION) == ("on", "off", "session")
    assert session_name("pool/alice") == "pool/alice/session"
    assert member_name("pool/alice/session") == "pool/alice"


@pytest.mark.parametrize("name", ["pool/alice", "session", "/session", "pool/session/alice"])
def test_another_name_is_not_a_session_secrets(name: str) -> None:
    assert member_name(name) is None


def test_members_are_the_secrets_with_exactly_this_tag_whatever_its_value_but_off() -> None:
    secrets = fleet_secrets()
    secrets.add("empty", "…")
    secrets.add("team", "…", tags={"team": "a", TAG: "blue"})
    secrets.add("off", "…", tags={TAG: "off"})
    secrets.add("team/session", "…", tags={TAG: "session"})
    secrets.add("longer", "…", tags={f"{TAG}-of-another": ""})
    secrets.add("none", "…", tags={})

    assert [member.name for member in members_of(secrets)] == ["empty", "team"]


def test_members_of_all_pages_are_found() -> None:
    secrets = fleet_secrets(page_size=100)
    for number in range(250):
        secrets.add(f"s{number}", "…")

    assert len(members_of(secrets)) == 250
    assert secrets.calls.count("ListSecrets") == 3


def test_a_page_can_be_gone_on_with_by_somebody_else() -> None:
    secrets = fleet_secrets(page_size=2)
    for number in range(3):
        secrets.add(f"s{number}", "…")

    first = fleet(secrets).page()
    last = fleet(secrets).page(first.next_token)

    assert [member.name for member in (*first.members, *last.members)] == ["s0", "s1", "s2"]
    assert last.next_token is None


def test_values_are_read_twenty_at_a_time() -> None:
    secrets = fleet_secrets()
    held = token(left=5 * DAY)
    for number in range(45):
        secrets.add(f"s{number}", held.raw)

    members = members_of(secrets)
    found = list(fleet(secrets).read(members))

    # At once, in whatever order.
    assert sorted(batches(secrets)) == [5, 20, 20]
    assert [member for member, _ in found] == members
    assert all(isinstance(each, StoredToken) and each.token == held for _, each in found)


def test_all_that_a_page_lists_is_read_at_once() -> None:
    together = threading.Barrier(5)

    def wait(call: SecretsManagerCall) -> None:
        if call.operation == "BatchGetSecretValue":
            # Passes only if five read at the same time.
            together.wait(10)

    secrets = fleet_secrets()
    secrets.before = wait
    for number in range(100):
        secrets.add(f"s{number}", token(left=5 * DAY).raw)

    assert len(list(fleet(secrets).read(members_of(secrets)))) == 100


def test_each_member_is_answered_for_whatever_is_wrong_with_others() -> None:
    secrets = fleet_secrets()
    good = token(left=5 * DAY)
    secrets.add("good", good.raw)
    secrets.add("json", f'{{"token": "{good.raw}", "note": 1}}')
    secrets.add("malformed", "anything else")
    secrets.add("other", '{"note": 1}')
    secrets.add("valueless")
    secrets.add("foreign", "…", refuses="AccessDeniedException")
    secrets.add("left out", "…", refuses="")
    secrets.add("deleted", good.raw, deleted_at=NOW)
    secrets.add("replica", good.raw, primary_region="us-east-1")
    secrets.add("primary", good.raw, primary_region="eu-west-1")

    members = members_of(secrets)
    found = {member.name: each for member, each in fleet(secrets).read(members)}

    kinds = {name: type(each) for name, each in found.items()}
    assert kinds == {
        "good": StoredToken,
        "json": StoredToken,
        "malformed": TokenMalformedError,
        "other": TokenMissingError,
        "valueless": TokenMissingError,
        "foreign": StoreError,
        "left out": StoreError,
        "deleted": StoreError,
        "replica": StoreError,
        "primary": StoredToken,
    }
    assert str(found["foreign"]).endswith("could not read the secret: AccessDeniedException")
    assert "restore it" in str(found["deleted"])
    assert "us-east-1" in str(found["replica"])
    assert batches(secrets) == [8], "what cannot be kept is not read"


def test_a_batch_of_nothing_readable_is_not_asked_for() -> None:
    secrets = fleet_secrets()
    secrets.add("deleted", "…", deleted_at=NOW)

    [(_, found)] = fleet(secrets).read(members_of(secrets))

    assert isinstance(found, StoreError)
    assert batches(secrets) == []


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "AccessDeniedException"}}, "ListSecrets"),
        EndpointConnectionError(endpoint_url="https://secretsmanager.example"),
    ],
    ids=["refuses", "does not answer"],
)
def test_that_secrets_manager_fails_as_a_whole_is_said(error: Exception) -> None:
    secrets = fleet_secrets()
    secrets.add("s", "…")
    members = members_of(secrets)
    secrets.fails_with = error

    with pytest.raises(StoreError, match="list the fleet's secrets"):
        fleet(secrets).page()
    with pytest.raises(StoreError, match="read the fleet's secrets"):
        list(fleet(secrets).read(members))


def test_an_arn_has_the_name_of_the_member() -> None:
    secrets = fleet_secrets()
    secrets.add("team/one", "…")
    [member] = members_of(secrets)
    assert (member.secret_id, member.name) == (arn("team/one"), "team/one")


# --- the roster -----------------------------------------------------------------------------------


def roster_of(secrets: FakeSecretsManager) -> dict[str, Member]:
    return {each.name: each for each in fleet(secrets).roster(now=NOW).members}


def test_each_member_has_its_session_also_from_another_page() -> None:
    secrets = fleet_secrets(page_size=1)
    secrets.add("alice", "…")
    secrets.add("bob", "…")
    secrets.add("alice/session", "…", tags={TAG: "session"})

    found = roster_of(secrets)

    assert found.keys() == {"alice", "bob"}
    assert found["alice"].session_id == arn("alice/session")
    assert found["bob"].session_id is None
    assert {each.obstacle for each in found.values()} == {None}


def test_the_roster_is_in_the_order_of_the_arns() -> None:
    secrets = fleet_secrets()
    for name in ("c", "a", "b"):
        secrets.add(name, "…")

    assert [each.name for each in fleet(secrets).roster(now=NOW).members] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "tag", "obstacle"),
    [
        ("a", "sesion", "unknown_tag"),
        ("a", "Session", "unknown_tag"),
        ("a", " session", "unknown_tag"),
        ("a", "sessions", "unknown_tag"),
        ("a", "OFF", "unknown_tag"),
        ("a", "of", "unknown_tag"),
        ("a/session", "on", "name_of_a_session"),
        ("a/session", "", "name_of_a_session"),
        ("b/session", "session", "no_member"),
        ("lonely", "session", "no_member"),
    ],
)
def test_a_secret_that_is_set_up_wrong_is_found_and_never_read(
    name: str, tag: str, obstacle: str
) -> None:
    secrets = fleet_secrets()
    secrets.add(name, "…", tags={TAG: tag}, created_at=NOW - DAY)

    [found] = fleet(secrets).roster(now=NOW).members
    [(_, error)] = fleet(secrets).read([found])

    assert (found.name, found.obstacle) == (name, obstacle)
    assert isinstance(error, MembershipError)
    if obstacle != "no_member":
        assert "known are 'on' (a member), 'off' (left alone) and 'session'" in str(error)
    assert "BatchGetSecretValue" not in secrets.calls


@pytest.mark.parametrize("tag", ["on", "", "blue", "true", "1", "production", "offline", "os"])
def test_any_other_value_of_the_tag_is_a_members(tag: str) -> None:
    secrets = fleet_secrets()
    secrets.add("a", "…", tags={TAG: tag})

    assert roster_of(secrets)["a"].obstacle is None


def test_the_session_of_a_member_that_is_left_alone_is_left_alone_too() -> None:
    secrets = fleet_secrets()
    secrets.add("a", "…", tags={TAG: "off"})
    secrets.add("a/session", "…", tags={TAG: "session"}, created_at=NOW - DAY)

    assert roster_of(secrets) == {}


def test_a_session_whose_member_may_not_be_listed_yet_is_not_called_one_without() -> None:
    secrets = fleet_secrets()
    secrets.add("a/session", "…", tags={TAG: "session"}, created_at=NOW - timedelta(minutes=14))

    assert roster_of(secrets) == {}


def test_a_session_that_is_being_deleted_is_nobodys() -> None:
    secrets = fleet_secrets()
    secrets.add("a", "…")
    secrets.add("a/session", "…", tags={TAG: "session"}, deleted_at=NOW, created_at=NOW - DAY)

    assert roster_of(secrets)["a"].session_id is None
    assert len(roster_of(secrets)) == 1


def test_where_a_page_fails_no_session_is_called_one_without_a_member() -> None:
    secrets = fleet_secrets(page_size=1)
    secrets.add("x/session", "…", tags={TAG: "session"}, created_at=NOW - DAY)
    secrets.add("a", "…")
    secrets.add("b", "…")

    def list_two_pages(call: SecretsManagerCall) -> None:
        if call.request.get("NextToken") == "2":
            raise ClientError({"Error": {"Code": "InternalFailure"}}, call.operation)

    secrets.before = list_two_pages
    found = fleet(secrets).roster(now=NOW)

    assert [each.name for each in found.members] == ["a"]
    assert isinstance(found.failure, StoreError)
