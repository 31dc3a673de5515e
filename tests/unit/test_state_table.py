"""The state table: the lease and the memory, whatever happens to a call."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoRegionError, ReadTimeoutError

from keeper_runtime.clients import Clients
from keeper_runtime.state_table import StateTable, ledger_of
from qwen_token import StoreError
from qwen_token.ledger import Leased
from qwen_token.run_memory import Incident, RunMemory
from tests.fake_dynamodb import FakeDynamoDB
from tests.minting import NOW

SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
MEMORY = RunMemory(pending="v2", incident=Incident("v1", NOW))
DENIED = ClientError({"Error": {"Code": "AccessDeniedException"}}, "UpdateItem")


def state(dynamodb: FakeDynamoDB, secret_id: str = SECRET) -> StateTable:
    return StateTable(dynamodb, "state", secret_id, clock=lambda: NOW)  # type: ignore[arg-type]


def stored(dynamodb: FakeDynamoDB) -> dict[str, Any]:
    item = dynamodb.item("state", secret_id=SECRET)
    assert item is not None
    return item


def acquired(table: StateTable, owner: str, *, now: datetime = NOW) -> Leased | None:
    return table.acquire(owner, now=now, until=now + MINUTE)


def test_one_run_at_a_time_has_the_lease() -> None:
    table = state(FakeDynamoDB())
    assert acquired(table, "a") == Leased(RunMemory())
    assert acquired(table, "b") is None


def test_the_lease_is_of_one_secret() -> None:
    dynamodb = FakeDynamoDB()
    assert acquired(state(dynamodb), "a") is not None
    assert acquired(state(dynamodb, f"{SECRET}x"), "b") is not None


def test_what_was_written_is_read_and_the_lease_given_back() -> None:
    table = state(FakeDynamoDB())
    acquired(table, "a")
    table.release("a", MEMORY)
    assert table.read() == MEMORY
    assert acquired(table, "b") == Leased(MEMORY)


def test_what_is_written_in_between_keeps_the_lease() -> None:
    table = state(FakeDynamoDB())
    acquired(table, "a")
    table.write("a", MEMORY)
    assert table.read() == MEMORY
    assert acquired(table, "b") is None


def test_a_lease_whose_time_is_over_is_taken_over_on_the_second() -> None:
    table = state(FakeDynamoDB())
    acquired(table, "a")
    table.write("a", MEMORY)
    assert acquired(table, "b", now=NOW + MINUTE - SECOND) is None
    assert acquired(table, "b", now=NOW + MINUTE) == Leased(MEMORY, taken_over=True)


def test_a_lease_longer_than_any_run_takes_is_ignored() -> None:
    dynamodb = FakeDynamoDB()
    table = state(dynamodb)
    acquired(table, "a")
    stored(dynamodb)["lease_until"] = {"N": str(int((NOW + 20 * MINUTE).timestamp()))}
    assert table.acquire("b", now=NOW, until=NOW + MINUTE) is None
    stored(dynamodb)["lease_until"] = {"N": str(int((NOW + 20 * MINUTE + SECOND).timestamp()))}
    leased = table.acquire("b", now=NOW, until=NOW + MINUTE)
    assert leased is not None
    assert leased.taken_over


def test_a_run_that_lost_its_lease_writes_nothing_and_takes_nobody_elses() -> None:
    table = state(FakeDynamoDB())
    acquired(table, "a")
    acquired(table, "b", now=NOW + MINUTE)

    with pytest.raises(StoreError, match="ConditionalCheckFailedException"):
        table.write("a", MEMORY)
    table.release("a", MEMORY)

    assert table.read() == RunMemory()
    assert acquired(table, "c", now=NOW + MINUTE) is None


def test_a_lease_until_a_time_that_no_run_asks_for_holds_nobody_off() -> None:
    table = state(FakeDynamoDB())
    # By the clock of a machine that is a day ahead, and died.
    ahead = NOW + timedelta(days=1)
    assert table.acquire("a", now=ahead, until=ahead + MINUTE)
    assert acquired(table, "b") == Leased(RunMemory(), taken_over=True)
    assert acquired(table, "c") is None


def test_an_unused_item_expires_after_a_quarter_of_a_year() -> None:
    dynamodb = FakeDynamoDB()
    table = state(dynamodb)
    acquired(table, "a")
    table.release("a", MEMORY)
    forgotten_at = int((NOW + timedelta(days=90)).timestamp())
    assert stored(dynamodb)["expires_at"] == {"N": str(forgotten_at)}


def test_a_lease_whose_answer_was_lost_is_ours_when_boto3_asks_again() -> None:
    dynamodb = FakeDynamoDB()
    table = state(dynamodb)
    acquired(table, "a")
    table.write("a", MEMORY)
    # Whether a dead run had it before is not known then.
    assert acquired(table, "a") == Leased(MEMORY, taken_over=True)
    assert acquired(table, "b") is None


@pytest.mark.parametrize(
    "problem",
    [DENIED, ReadTimeoutError(endpoint_url="https://dynamodb")],
    ids=["refused", "no answer"],
)
@pytest.mark.parametrize("step", ["acquire", "read", "write", "release"])
def test_every_failure_is_a_failure_of_the_store(problem: Exception, step: str) -> None:
    dynamodb = FakeDynamoDB()
    table = state(dynamodb)
    if step != "acquire":
        acquired(table, "a")
    dynamodb.fails_with = problem
    steps: dict[str, Any] = {
        "acquire": lambda: acquired(table, "a"),
        "read": table.read,
        "write": lambda: table.write("a", MEMORY),
        "release": lambda: table.release("a", MEMORY),
    }
    with pytest.raises(StoreError, match=r"^DynamoDB could not"):
        steps[step]()


@pytest.mark.parametrize("text", ["", "[]", '{"sign_in": 1}', '{"incident": {}}', "hunter2"])
def test_an_item_that_cannot_be_read_fails_with_what_to_do_and_keeps_no_lease(text: str) -> None:
    dynamodb = FakeDynamoDB()
    table = state(dynamodb)
    acquired(table, "z")
    table.release("z", MEMORY)
    stored(dynamodb)["memory"] = {"S": text}
    for owner in ("a", "b"):
        with pytest.raises(StoreError, match="delete the item") as caught:
            acquired(table, owner)
        assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}"
    with pytest.raises(StoreError, match="delete the item"):
        table.read()
    assert stored(dynamodb)["memory"] == {"S": text}


# --- of one function ------------------------------------------------------------------------------


def clients(environ: dict[str, str], dynamodb: Any) -> Clients:
    def not_reached(*_: object) -> Any:
        pytest.fail("the ledger needs DynamoDB alone")

    others = ["secrets", "sns", "events", "sqs", "functions", "qwen", "grant"]
    parts: dict[str, Any] = {**dict.fromkeys(others, not_reached), "dynamodb": dynamodb}
    return Clients(environ=environ, clock=lambda: NOW, **parts)


NAMED = {"STATE_TABLE": "state"}


def test_a_ledger_that_is_not_opened_reaches_nothing() -> None:
    ledger = ledger_of(clients(NAMED, lambda: pytest.fail("no need")), lambda: MINUTE, SECRET)
    ledger.close()


@pytest.mark.parametrize(("table", "secret_id"), [(" ", SECRET), ("state", "")])
def test_where_the_table_or_the_secret_is_not_named_this_process_remembers(
    table: str, secret_id: str
) -> None:
    outside = clients({"STATE_TABLE": table}, lambda: pytest.fail("which table?"))
    ledger = ledger_of(outside, lambda: MINUTE, secret_id)
    assert ledger.history() == RunMemory()
    ledger.remember(MEMORY)
    ledger.close()
    assert ledger_of(outside, lambda: MINUTE, secret_id).history() == MEMORY


def test_where_the_table_cannot_be_reached_this_process_remembers_until_it_can() -> None:
    dynamodb = FakeDynamoDB()
    outside = clients(NAMED, lambda: dynamodb)
    dynamodb.fails_with = DENIED
    ledger = ledger_of(outside, lambda: MINUTE, SECRET)
    assert ledger.history() == RunMemory()
    ledger.remember(MEMORY)
    ledger.close()

    again = ledger_of(outside, lambda: MINUTE, SECRET)
    assert again.history() == MEMORY
    with pytest.raises(StoreError):
        again.open()

    dynamodb.fails_with = None
    reached = ledger_of(outside, lambda: MINUTE, SECRET)
    assert reached.history().incident == MEMORY.incident
    reached.close()
    assert state(dynamodb).read().incident == MEMORY.incident

    # By now it is another process's to say that the incident is over.
    other = state(dynamodb)
    acquired(other, "b")
    other.release("b", RunMemory())
    assert ledger_of(outside, lambda: MINUTE, SECRET).history() == RunMemory()


def test_a_client_that_cannot_be_made_is_a_failure_of_the_store_too() -> None:
    def no_client() -> Any:
        raise NoRegionError

    ledger = ledger_of(clients(NAMED, no_client), lambda: MINUTE, SECRET)
    with pytest.raises(StoreError, match="NoRegionError"):
        ledger.open()
    assert ledger.history() == RunMemory()


def test_the_lease_lasts_as_long_as_the_run_and_a_little_longer() -> None:
    dynamodb = FakeDynamoDB()
    ledger_of(clients(NAMED, lambda: dynamodb), lambda: MINUTE, SECRET).open()
    until = int((NOW + MINUTE + 5 * SECOND).timestamp())
    assert stored(dynamodb)["lease_until"] == {"N": str(until)}
