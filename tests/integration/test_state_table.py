"""The state table on the embedded AWS: the lease of one run, and what the runs remember."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from keeper_runtime.clients import Clients
from keeper_runtime.state_table import StateTable, ledger_of
from localcloud.aws import Cloud
from localcloud.recording_proxy import Answer, Call, CarryOut
from qwen_token import (
    SessionRejectedError,
    SignInRefusedError,
    StoreError,
    TokenRejectedError,
)
from qwen_token.grant_chain import GrantChain, Refused
from qwen_token.grants import Granted, Login
from qwen_token.ledger import Leased, Ledger, State, UnsharedState
from qwen_token.policy import Severity
from qwen_token.run_memory import Incident, Refusal, RunMemory, SignIn
from qwen_token.secret_store import AWS_CONFIG
from qwen_token.session import Grant, Session
from qwen_token.stored_session import StoredSession
from qwen_token.stored_token import StoredToken
from tests.minting import ACCOUNT, NOW, mint, pieces, token

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
UNTIL = NOW + 2 * MINUTE
MEMORY = RunMemory(
    refusals={Grant.REFRESH_TOKEN: Refusal("v1", "session_rejected", "refused", NOW)},
    sign_in=SignIn("v1", NOW - DAY, answered=True, reason="rate_limited", message="429"),
    pending="v2",
    replaced="v0",
    untried="v0",
    token_left_behind=True,
    session_left_behind=True,
    first_try=Refusal("v1", "wrong_account", "another's", NOW),
    session_version_id="v1",
    session_expires_at=NOW + 30 * DAY,
    account=ACCOUNT,
    confirmed_version_id="v0",
    confirmed_at=NOW,
    incident=Incident("v0", NOW, Severity.WARNING, "rate_limited", "429", {"warning x": NOW}),
    reminded={"warning token_missing": NOW},
)

NewState = Callable[[], State]


class TableUnderTest:
    """The items of one table, and the states over them."""

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        self.client = client
        self.name = name

    def state(self, secret_id: str | None = None, *, now: datetime = NOW) -> StateTable:
        """Return the state of a secret, of a new one by default."""
        return StateTable(
            self.client, self.name, secret_id or f"arn:{uuid.uuid4()}", clock=lambda: now
        )

    def item(self, secret_id: str) -> dict[str, Any]:
        key = {"secret_id": {"S": secret_id}}
        answer = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True)
        found: dict[str, Any] = answer.get("Item", {})
        return found


@pytest.fixture(name="table")
def _table(dynamodb: "DynamoDBClient", state_table: str) -> TableUnderTest:
    return TableUnderTest(dynamodb, state_table)


@pytest.fixture(name="new_state", params=["in the table", "in this process"])
def _new_state(request: pytest.FixtureRequest) -> NewState:
    """Return what makes a state: both kinds promise the same."""
    if request.param == "in this process":
        return UnsharedState
    table: TableUnderTest = request.getfixturevalue("table")
    return table.state


def test_the_first_run_of_a_secret_gets_the_lease_and_remembers_nothing(
    new_state: NewState,
) -> None:
    assert new_state().acquire("one", now=NOW, until=UNTIL) == Leased(RunMemory())


def test_of_twenty_runs_at_once_one_gets_the_lease(new_state: NewState) -> None:
    state = new_state()
    together = threading.Barrier(20)

    def acquire(number: int) -> Leased | None:
        together.wait(30)
        return state.acquire(f"run-{number}", now=NOW, until=UNTIL)

    with ThreadPoolExecutor(20) as threads:
        got = [each for each in threads.map(acquire, range(20)) if each is not None]

    assert got == [Leased(RunMemory())]


def test_a_lease_keeps_others_out_until_it_is_given_back(new_state: NewState) -> None:
    state = new_state()
    state.acquire("one", now=NOW, until=UNTIL)
    assert state.acquire("two", now=NOW + MINUTE, until=UNTIL) is None

    state.release("one", MEMORY)

    assert state.acquire("two", now=NOW + MINUTE, until=UNTIL) == Leased(MEMORY)


def test_a_lease_until_a_time_that_no_run_asks_for_holds_nobody_off(new_state: NewState) -> None:
    state = new_state()
    state.acquire("one", now=NOW + DAY, until=UNTIL + DAY)
    assert state.acquire("two", now=NOW, until=UNTIL) == Leased(RunMemory(), taken_over=True)
    assert state.acquire("three", now=NOW, until=UNTIL) is None


def test_an_expired_lease_is_taken_over_with_its_memory(
    new_state: NewState,
) -> None:
    state = new_state()
    state.acquire("one", now=NOW, until=UNTIL)
    state.write("one", MEMORY)

    just_before = UNTIL - timedelta(seconds=1)
    assert state.acquire("two", now=just_before, until=UNTIL + DAY) is None
    got = state.acquire("two", now=UNTIL, until=UNTIL + MINUTE)

    assert got == Leased(MEMORY, taken_over=True)
    assert state.acquire("three", now=UNTIL, until=UNTIL + DAY) is None


def test_a_run_that_lost_its_lease_changes_nothing_when_releasing_it(new_state: NewState) -> None:
    state = new_state()
    state.acquire("slow", now=NOW, until=UNTIL)
    state.acquire("next", now=UNTIL, until=UNTIL + MINUTE)

    state.release("slow", MEMORY)

    assert state.read() == RunMemory()
    assert state.acquire("third", now=UNTIL, until=UNTIL + DAY) is None, "the next one has it"


def test_releasing_a_lease_that_nobody_holds_changes_nothing(new_state: NewState) -> None:
    state = new_state()
    state.release("nobody", MEMORY)
    assert state.read() == RunMemory()


def test_a_run_that_lost_its_lease_cannot_write(new_state: NewState) -> None:
    state = new_state()
    state.acquire("slow", now=NOW, until=UNTIL)
    state.acquire("next", now=UNTIL, until=UNTIL + MINUTE)

    with pytest.raises(StoreError):
        state.write("slow", MEMORY)
    assert state.read() == RunMemory()


def test_all_of_the_memory_is_read_as_it_was_written(new_state: NewState) -> None:
    state = new_state()
    state.acquire("one", now=NOW, until=UNTIL)

    state.write("one", MEMORY)
    assert state.read() == MEMORY

    changed = replace(MEMORY, pending=None, incident=None, refusals={})
    state.release("one", changed)
    assert state.read() == changed


def test_the_memory_survives_runs_that_read_only(new_state: NewState) -> None:
    state = new_state()
    state.acquire("one", now=NOW, until=UNTIL)
    state.release("one", MEMORY)
    for owner in ("two", "three"):
        got = state.acquire(owner, now=NOW, until=UNTIL)
        assert got == Leased(MEMORY)
        state.release(owner, got.memory)

    assert state.read() == MEMORY


def test_each_secret_has_a_lease_and_a_memory_of_its_own(table: TableUnderTest) -> None:
    one, another = table.state(), table.state()
    one.acquire("run", now=NOW, until=UNTIL)
    one.write("run", MEMORY)

    assert another.acquire("run", now=NOW, until=UNTIL) == Leased(RunMemory())


def test_an_item_is_forgotten_ninety_days_after_its_last_run(table: TableUnderTest) -> None:
    state = table.state("arn:forgotten")
    state.acquire("one", now=NOW, until=UNTIL)
    state.write("one", MEMORY)
    written = table.item("arn:forgotten")
    state.release("one", MEMORY)

    assert written["expires_at"] == {"N": str(int((NOW + 90 * DAY).timestamp()))}
    assert written["lease_until"] == {"N": str(int(UNTIL.timestamp()))}
    assert table.item("arn:forgotten").keys() == {"secret_id", "memory", "expires_at"}


def test_a_lease_whose_answer_was_lost_is_still_ones_own(
    cloud: Cloud, table: TableUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 repeats the call, and the second one finds the lease taken: by this very run."""
    calls: list[Call] = []

    def lose_the_first_answer(call: Call, carry_out: CarryOut) -> Answer | None:
        answer = carry_out()
        calls.append(call)
        return None if len(calls) == 1 else answer

    known = table.state("arn:lost")
    known.acquire("before", now=NOW, until=UNTIL)
    known.release("before", MEMORY)
    client = cloud.session.client("dynamodb", endpoint_url=cloud.relay.url, config=AWS_CONFIG)
    state = TableUnderTest(client, table.name).state("arn:lost")
    monkeypatch.setattr(cloud.relay, "gate", lose_the_first_answer)

    # Whether it was taken over from a run that died was in the answer that was lost.
    assert state.acquire("one", now=NOW, until=UNTIL) == Leased(MEMORY, taken_over=True)
    assert len(calls) == 2
    assert state.acquire("two", now=NOW, until=UNTIL) is None


def test_a_release_whose_answer_was_lost_is_done(
    cloud: Cloud, table: TableUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Call] = []

    def lose_the_first_answer(call: Call, carry_out: CarryOut) -> Answer | None:
        answer = carry_out()
        calls.append(call)
        return None if len(calls) == 1 else answer

    client = cloud.session.client("dynamodb", endpoint_url=cloud.relay.url, config=AWS_CONFIG)
    state = TableUnderTest(client, table.name).state("arn:released")
    state.acquire("one", now=NOW, until=UNTIL)
    monkeypatch.setattr(cloud.relay, "gate", lose_the_first_answer)

    state.release("one", MEMORY)

    assert len(calls) == 2
    assert state.acquire("two", now=NOW, until=UNTIL) == Leased(MEMORY)


# --- what fails -----------------------------------------------------------------------------------


def test_an_absent_table_is_a_store_error(dynamodb: "DynamoDBClient") -> None:
    state = StateTable(dynamodb, "no-such-table", "arn:one", clock=lambda: NOW)
    with pytest.raises(StoreError, match="DynamoDB could not take the lease: ResourceNotFound"):
        state.acquire("one", now=NOW, until=UNTIL)
    with pytest.raises(StoreError, match="DynamoDB could not read"):
        state.read()
    with pytest.raises(StoreError, match="DynamoDB could not write"):
        state.write("one", MEMORY)
    with pytest.raises(StoreError, match="DynamoDB could not give the lease back"):
        state.release("one", MEMORY)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"sign_in": {"at": 1}}', '{"pending": 7}'])
def test_an_item_that_cannot_be_read_says_how_to_be_rid_of_it(
    table: TableUnderTest, text: str
) -> None:
    secret_id = f"arn:{uuid.uuid4()}"
    table.client.put_item(
        TableName=table.name, Item={"secret_id": {"S": secret_id}, "memory": {"S": text}}
    )
    with pytest.raises(StoreError, match="delete-item"):
        table.state(secret_id).read()
    with pytest.raises(StoreError, match="delete-item"):
        table.state(secret_id).acquire("one", now=NOW, until=UNTIL)
    assert "lease_until" not in table.item(secret_id), "the next run is not to wait for this one"
    assert table.item(secret_id)["memory"] == {"S": text}, "it is there to be looked at"


def clients_of(table: TableUnderTest, **environ: str) -> Clients:
    unused = ("secrets", "sns", "events", "sqs", "functions", "qwen", "grant")
    parts: dict[str, Any] = dict.fromkeys(unused, lambda *_: pytest.fail("it is not needed"))
    return Clients(environ=environ, clock=lambda: NOW, dynamodb=lambda: table.client, **parts)


def test_the_ledger_is_kept_in_the_table_that_the_environment_names(table: TableUnderTest) -> None:
    environ, secret_id = {"STATE_TABLE": table.name}, f"arn:{uuid.uuid4()}"
    one, two = (ledger_of(clients_of(table, **environ), lambda: MINUTE, secret_id) for _ in "12")

    assert one.open()
    assert not two.open()
    one.remember(MEMORY)
    assert two.history() == RunMemory(), "nothing is written before it is saved"
    one.save()
    assert two.history() == MEMORY
    one.close()
    assert two.open()
    assert two.memory == MEMORY


@pytest.mark.parametrize(
    ("named", "secret_id"), [({}, ""), ({"STATE_TABLE": "t"}, ""), ({}, "arn:one")]
)
def test_without_a_table_or_a_secret_the_process_remembers(
    table: TableUnderTest, named: dict[str, str], secret_id: str
) -> None:
    clients = clients_of(table, **named)
    ledger = ledger_of(clients, lambda: MINUTE, secret_id)
    assert ledger.open()
    ledger.remember(MEMORY)
    ledger.close()

    assert ledger_of(clients, lambda: MINUTE, secret_id).history() == MEMORY


# --- it never holds a token -----------------------------------------------------------------------


HELD = token(left=DAY)
ISSUED = token(left=2 * DAY)
CREDENTIAL = mint({"type": "refresh_token", "exp": int((NOW + 30 * DAY).timestamp())})
SESSION = Session(
    refresh_token="an-opaque-credential-of-a-month",
    email="owner@example.com",
    password="the password of a person",
)


@dataclass
class _Sessions:
    """A session secret, in memory."""

    stored: StoredSession

    def read(self) -> StoredSession:
        return self.stored

    def keep(self, session: Session, *, over: StoredSession) -> StoredSession:
        assert over == self.stored
        self.stored = StoredSession(session, "s2", "…", by_keeper=True)
        return self.stored

    def left_behind(self, *, over: StoredSession) -> None:
        assert over == self.stored


@dataclass
class _Source:
    """A grant that answers with this."""

    answer: Granted | Exception

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        assert login.session.password == SESSION.password
        assert within == MINUTE
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(
            {Grant.REFRESH_TOKEN: Granted(ISSUED, CREDENTIAL, NOW + 30 * DAY)}, id="refreshed"
        ),
        pytest.param(
            {
                Grant.REFRESH_TOKEN: SessionRejectedError("the API refused the credential"),
                Grant.EXCHANGE: TokenRejectedError("the API refused the token"),
                Grant.PASSWORD: Granted(ISSUED, CREDENTIAL, NOW + 30 * DAY),
            },
            id="signed in",
        ),
        pytest.param(
            {
                Grant.REFRESH_TOKEN: SessionRejectedError("the API refused the credential"),
                Grant.EXCHANGE: Granted(HELD),
                Grant.PASSWORD: SignInRefusedError("the API refused the sign-in"),
            },
            id="all refused",
        ),
    ],
)
def test_whatever_is_spent_given_and_refused_the_item_holds_no_secret(
    table: TableUnderTest, answers: dict[Grant, Granted | Exception]
) -> None:
    secret_id = f"arn:{uuid.uuid4()}"
    ledger = Ledger(lambda: table.state(secret_id), clock=lambda: NOW, time_left=lambda: MINUTE)
    sessions = _Sessions(StoredSession(SESSION, "s1", "…"))
    chain = GrantChain(sessions, lambda grant: _Source(answers[grant]), ledger, lambda _: MINUTE)
    current = StoredToken(HELD, "v1", HELD.raw)

    assert ledger.open()
    got = chain.without_sign_in(current, chain.session())
    if isinstance(got, Refused):
        chain.sign_in(current, chain.session(), after=got)
    ledger.save()
    seen = str(table.item(secret_id))
    ledger.close()
    seen += str(table.item(secret_id))

    assert "s2" in seen or "sign_in_refused" in seen
    spent = [HELD.raw, ISSUED.raw, CREDENTIAL]
    spent += [str(SESSION.refresh_token), str(SESSION.email), str(SESSION.password)]
    assert not any(piece in seen for secret in spent for piece in pieces(secret))
