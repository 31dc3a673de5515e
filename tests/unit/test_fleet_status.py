"""``status --fleet``: members of every kind, who needs a look, and what could not be read."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import shared_trouble
from qwen_token.cli import fleet_status
from qwen_token.policy import Severity
from qwen_token.run_memory import Incident, RunMemory
from tests.fake_secrets_manager import arn
from tests.minting import mint
from tests.unit.fake_stack import TAG, FakeStack, shown_by

CREDENTIAL = "Cr3dential-of_a.session~1234567890"
PASSWORD = "correct horse battery staple"
SWEEPS = "fleet:sweep"
SIGN_IN = {"email": "zoe@example.com", "password": PASSWORD}
DAY = timedelta(days=1)
QUARTER = timedelta(minutes=15)

Status = Callable[..., tuple[int, str]]


def in_time(duration: timedelta) -> datetime:
    """Return a whole second so long from now: a bit more, which no test notices."""
    return datetime.now(UTC).replace(microsecond=0) + duration + timedelta(seconds=1)


@pytest.fixture(name="stack")
def _stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    stack = FakeStack()
    stack.has_fleet()
    monkeypatch.setattr("boto3.Session", stack)
    return stack


@pytest.fixture(name="status")
def _status(capsys: pytest.CaptureFixture[str]) -> Status:
    """Return the exit code and all that was shown, which is no secret."""

    def run(*arguments: str) -> tuple[int, str]:
        return shown_by(capsys, "status", "--fleet", *arguments, hiding=(CREDENTIAL, PASSWORD))

    return run


def add(stack: FakeStack, name: str, *, left: timedelta | None = 5 * DAY) -> None:
    """Make a member with a token of the first kind, or with none."""
    raw = None if left is None else mint({"id": name, "exp": int(in_time(left).timestamp())})
    stack.secrets.add(name, raw, tags={TAG: "on"})


def add_session(
    stack: FakeStack,
    name: str,
    *,
    left: timedelta | None = timedelta(minutes=12),
    ends: timedelta | None = 20 * DAY,
    login: object = None,
) -> None:
    """Make a member with a session, whose access token lives so long; or with another login."""
    raw = None
    if left is not None:
        expires_at = in_time(left)
        claims = {
            "type": "access_token",
            "exp": int(expires_at.timestamp()),
            "iat": int((expires_at - QUARTER).timestamp()),
        }
        raw = mint(claims)
    stack.secrets.add(name, raw, tags={TAG: "on"})
    end = {} if ends is None else {"expires_at": int(in_time(ends).timestamp())}
    value = {"refresh_token": CREDENTIAL, **end} if login is None else login
    text = value if isinstance(value, str) else json.dumps(value)
    stack.secrets.add(f"{name}/session", text or None, tags={TAG: "session"})


def batches(stack: FakeStack, ending: str = "") -> list[list[str]]:
    """Return the secrets of each batch that was read, if their names end so."""
    asked = [
        call.request["SecretIdList"]
        for call in stack.secrets.recorded
        if call.operation == "BatchGetSecretValue"
    ]
    ours = [[each for each in batch if each.endswith(f"{ending}-a1b2c3")] for batch in asked]
    return [batch for batch in ours if batch]


def row_of(name: str, shown: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith(name))


@pytest.mark.parametrize(
    ("login", "kind", "text"),
    [
        (None, "session", "session, 20.00 days"),
        (SIGN_IN, "sign_in", "sign in"),
        ({"refresh_token": CREDENTIAL, **SIGN_IN}, "session_and_sign_in", "session and sign in"),
    ],
)
def test_a_member_with_a_session_shows_the_kind_of_its_login_and_both_lives(
    stack: FakeStack, status: Status, login: object, kind: str, text: str
) -> None:
    add_session(stack, "pool/zoe", login=login)
    stack.memories["pool/zoe"] = RunMemory(
        confirmed_version_id="v1", account="zoe", confirmed_at=in_time(-QUARTER)
    )

    code, shown = status()

    assert code == 0, shown
    row = row_of("pool/zoe", shown)
    assert "12.0 minutes  fresh" in row
    assert text in row
    assert row.endswith("zoe"), "the account that the API named to a run"
    assert "With a session" in shown
    document = json.loads(status("--json")[1])
    [member] = document["members"]
    assert member["session_secret_id"] == arn("pool/zoe/session")
    assert (member["login"]["kind"], member["state"]) == (kind, "fresh")
    ends_at = member["login"]["ends_at"]
    assert (ends_at is not None) is (kind == "session")
    assert document["totals"]["with_a_session"] == 1


def test_a_token_is_its_own_login_and_its_end_is_the_logins(
    stack: FakeStack, status: Status
) -> None:
    add(stack, "pool/abe", left=5 * DAY)

    code, shown = status()

    assert code == 0
    assert row_of("pool/abe", shown).split()[1:] == ["5.00", "days", "fresh", "token", "pool/abe"]
    [member] = json.loads(status("--json")[1])["members"]
    assert member["login"]["kind"] == "token"
    assert member["login"]["ends_at"] == member["expires_at"]


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("a token that ends today", 3),
        ("a token with a session beside it ends today", 0),
        ("a session that ends today", 3),
        ("an access token that expired", 3),
        ("nothing yet, but a session", 0),
        ("nothing at all", 3),
        ("a session that is no login", 3),
        ("an empty session secret, and an access token", 3),
    ],
)
def test_a_person_is_needed_where_a_login_ends_not_where_a_token_does(
    stack: FakeStack, status: Status, case: str, code: int
) -> None:
    if case == "a token that ends today":
        add(stack, "zoe", left=DAY / 2)
    elif case == "a token with a session beside it ends today":
        add(stack, "zoe", left=DAY / 2)
        login = json.dumps({"refresh_token": CREDENTIAL})
        stack.secrets.add("zoe/session", login, tags={TAG: "session"})
    elif case == "nothing at all":
        add(stack, "zoe", left=None)
    else:
        more: dict[str, dict[str, Any]] = {
            "a session that ends today": {"ends": DAY / 2},
            "an access token that expired": {"left": -QUARTER},
            "nothing yet, but a session": {"left": None},
            "a session that is no login": {"login": '{"refresh_token": 1}'},
            "an empty session secret, and an access token": {"login": ""},
        }
        add_session(stack, "zoe", **more[case])

    found, shown = status()

    assert found == code, shown


def test_a_member_that_waits_for_its_first_token_is_shown_as_waiting(
    stack: FakeStack, status: Status
) -> None:
    add_session(stack, "zoe", left=None)

    row = row_of("zoe", status()[1])

    assert "waiting" in row
    assert "token_missing" in row


def test_the_open_incident_of_a_member_is_shown_and_sorts_it_first(
    stack: FakeStack, status: Status
) -> None:
    add(stack, "abe", left=2 * DAY)
    add_session(stack, "zoe")
    since = in_time(timedelta(hours=-2))
    stack.memories["zoe"] = RunMemory(
        incident=Incident(
            "v1",
            since,
            Severity.WARNING,
            "upstream_blocked",
            "a firewall",
            {"warning upstream_blocked": since},
        )
    )

    code, shown = status()

    assert code == 3
    assert shown.splitlines()[0].startswith("zoe")
    said = f"since {since:%Y-%m-%d %H:%M} UTC: a firewall (upstream_blocked, warning)"
    assert f"incident {said}" in shown.splitlines()[1]
    document = json.loads(status("--json")[1])
    assert document["totals"]["incidents"] == 1
    assert document["members"][0]["incident"]["reason"] == "upstream_blocked"
    assert document["members"][1]["incident"] is None


def test_trouble_that_all_members_share_is_told_once_and_the_sweeps_own_too(
    stack: FakeStack, status: Status
) -> None:
    assert set(fleet_status.SHARED.values()) == {shared_trouble.KEY, SWEEPS}
    since = in_time(timedelta(hours=-2))
    add(stack, "abe")
    stack.memories["abe"] = RunMemory(incident=Incident("v1", since))
    blocked = Incident(None, since, Severity.WARNING, "upstream_blocked", "a firewall; 9 members")
    stack.memories[shared_trouble.KEY] = RunMemory(incident=blocked, affected=9)

    code, shown = status()

    assert code == 3
    assert "incident since" in shown.splitlines()[1]
    assert shown.splitlines()[1].endswith("shared, see below")
    assert "a firewall; 9 members (upstream_blocked, warning)" in shown
    document = json.loads(status("--json")[1])
    assert document["incidents"][shared_trouble.KEY]["reason"] == "upstream_blocked"
    assert document["incidents"][SWEEPS] is None
    stack.memories[shared_trouble.KEY] = RunMemory(
        incident=replace(blocked, highest=Severity.NOTICE)
    )
    assert status()[0] == 0


def test_only_the_logins_of_members_that_are_shown_are_read(
    stack: FakeStack, status: Status
) -> None:
    for number in range(45):
        add_session(stack, f"m{number:02}")

    code, shown = status()

    assert code == 0, shown
    assert [len(batch) for batch in batches(stack, "/session")] == [20, 10]
    assert "… and 15 more (--all shows them, or --json)" in shown
    assert "of 15 more, no end is known or was read" in shown

    stack.secrets.recorded.clear()
    document = json.loads(status("--json")[1])
    assert sum(len(batch) for batch in batches(stack, "/session")) == 30
    logins = [member["login"] for member in document["members"]]
    assert [each["kind"] for each in logins].count(None) == 15
    assert logins[-1]["problem"] == "not read: --all reads every login"

    stack.secrets.recorded.clear()
    document = json.loads(status("--json", "--all")[1])
    assert sum(len(batch) for batch in batches(stack, "/session")) == 45
    assert {member["login"]["kind"] for member in document["members"]} == {"session"}


def test_a_login_that_was_announced_to_end_is_among_those_that_are_looked_at(
    stack: FakeStack, status: Status
) -> None:
    for number in range(40):
        add_session(stack, f"m{number:02}")
    add_session(stack, "zz", ends=DAY / 2)
    reminded = {"critical session_ending 2026-12-01T00:00:00+00:00": in_time(-DAY)}
    stack.memories["zz"] = RunMemory(reminded=reminded)

    code, shown = status()

    assert code == 3
    assert shown.splitlines()[0].startswith("zz")
    stack.memories["zz"] = RunMemory(reminded={next(iter(reminded)): in_time(-9 * DAY)})
    assert status()[0] == 0, "that was another login's: it would have been repeated since"


def test_thousands_are_read_in_batches(stack: FakeStack, status: Status) -> None:
    for number in range(1010):
        add(stack, f"m{number:04}")

    code, _ = status("--json")

    assert code == 0
    calls = stack.secrets.calls
    assert calls.count("ListSecrets") == 11
    assert calls.count("BatchGetSecretValue") == 51
    assert len(calls) == 62


def test_logins_that_may_not_be_read_are_said_and_no_failure(
    stack: FakeStack, status: Status
) -> None:
    add_session(stack, "zoe")
    stack.secrets.secret("zoe/session").refuses = "AccessDeniedException"

    code, shown = status()

    assert code == 0
    assert "session may not be read" in row_of("zoe", shown)
    [member] = json.loads(status("--json")[1])["members"]
    assert (member["login"]["kind"], member["state"]) == (None, "fresh")
    assert "AccessDeniedException" in member["login"]["problem"]


def test_the_end_of_a_token_beside_a_login_that_may_not_be_read_calls_nobody(
    stack: FakeStack, status: Status
) -> None:
    add(stack, "zoe", left=DAY / 2)
    stack.secrets.add("zoe/session", CREDENTIAL, tags={TAG: "session"})
    stack.secrets.secret("zoe/session").refuses = "AccessDeniedException"

    assert status()[0] == 0


def test_a_session_secret_without_a_member_is_among_what_needs_a_look(
    stack: FakeStack, status: Status
) -> None:
    add(stack, "abe")
    stack.secrets.add("zoe/session", CREDENTIAL, tags={TAG: "session"})

    code, shown = status()

    assert code == 3
    assert "there is no member that it belongs to" in row_of("zoe/session", shown)
    assert batches(stack, "/session") == []


def test_logins_that_cannot_be_read_are_a_failure(stack: FakeStack, status: Status) -> None:
    add_session(stack, "zoe")
    stack.secrets.secret("zoe/session").refuses = "InternalServiceError"

    code, shown = status()

    assert code == 1
    assert "session not readable" in row_of("zoe", shown)


def test_a_state_table_that_cannot_be_read_is_a_failure_and_the_rest_is_shown(
    stack: FakeStack, status: Status
) -> None:
    add_session(stack, "zoe")
    stack.denies = {"dynamodb"}

    code, shown = status()

    assert code == 1
    assert "unknown (AccessDeniedException)" in shown
    assert "session, 20.00 days" in row_of("zoe", shown)
    document = json.loads(status("--json")[1])
    assert document["runs_problem"] == "unknown (AccessDeniedException)"
    del stack.outputs["StateTableName"]
    assert "the stack has no state table" in status()[1]
