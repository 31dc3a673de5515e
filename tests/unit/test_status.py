"""``status``: both lives, what the runs met, and whether a person is needed."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qwen_token.policy import Severity
from qwen_token.run_memory import Incident, Refusal, RunMemory
from qwen_token.session import Grant
from tests.minting import ACCOUNT, mint, token
from tests.unit.fake_stack import SESSION_SECRET, TOKEN_SECRET, FailedRun, FakeStack, shown_by

CREDENTIAL = "Cr3dential-of_a.session~1234567890"
PASSWORD = "correct horse battery staple"
FULL = "█" * 24

Status = Callable[..., tuple[int, str]]


def in_time(**duration: float) -> datetime:
    """Return the next whole second after this duration from now."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**duration, seconds=1)


@pytest.fixture(name="stack")
def _stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    stack = FakeStack()
    monkeypatch.setattr("boto3.Session", stack)
    return stack


@pytest.fixture(name="status")
def _status(capsys: pytest.CaptureFixture[str]) -> Status:
    """Return the exit code and all that was shown, which is no secret."""

    def run(*arguments: str) -> tuple[int, str]:
        return shown_by(capsys, "status", *arguments, hiding=(CREDENTIAL, PASSWORD))

    return run


def holds(stack: FakeStack, *, left: float, life: float = 15, account: str | None = None) -> str:
    """Put an access token with this many minutes left into the token secret; return its version."""
    claims = {
        "type": "access_token",
        "exp": int(in_time(minutes=left).timestamp()),
        "iat": int(in_time(minutes=left - life).timestamp()),
        **({} if account is None else {"id": account}),
    }
    secret = stack.secrets.secret(TOKEN_SECRET)
    version = secret.write(mint(claims), labels=["QWEN_PENDING"])
    secret.move("AWSCURRENT", version)
    return version


def holds_token(stack: FakeStack, *, days: float) -> str:
    raw = token(left=timedelta(days=days, seconds=1), now=datetime.now(UTC)).raw
    return stack.secrets.secret(TOKEN_SECRET).write(raw)


def has_login(stack: FakeStack, **login: object) -> None:
    stack.secrets.hold(SESSION_SECRET, json.dumps(login))


def session(*, days: float | None = 20) -> dict[str, object]:
    end = {} if days is None else {"expires_at": int(in_time(days=days).timestamp())}
    return {"refresh_token": CREDENTIAL, **end}


SIGN_IN = {"email": "zoe@example.com", "password": PASSWORD}


def test_a_session_has_two_lives_and_both_are_drawn(stack: FakeStack, status: Status) -> None:
    version = holds(stack, left=12)
    has_login(stack, **session(days=15))
    confirmed_at = in_time(minutes=-3)
    stack.memory = RunMemory(
        confirmed_version_id=version, confirmed_at=confirmed_at, account=ACCOUNT
    )

    code, shown = status()

    assert code == 0, shown
    for line in (
        f"Account          {ACCOUNT}",
        "█" * 19 + "░" * 5 + " 12.0 of 15.0 minutes",
        "Login            session (a refresh credential)",
        "Session left     " + "█" * 12 + "░" * 12 + " 15.00 of 30.00 days",
        f"Confirmed        {confirmed_at:%Y-%m-%d %H:%M} UTC: the API accepted this token",
        "Incident         none",
        "Last alert       none is remembered",
    ):
        assert line in shown
    assert "put in by hand" not in shown, "the keeper wrote it"


def test_the_token_secret_is_read_once(stack: FakeStack, status: Status) -> None:
    holds_token(stack, days=5)

    status()

    assert stack.secrets.calls.count("GetSecretValue") == 2, "the token's and the session's"


@pytest.mark.parametrize(
    ("login", "kind"),
    [
        ({}, "token"),
        (session(), "session"),
        (SIGN_IN, "sign_in"),
        ({**session(), **SIGN_IN}, "session_and_sign_in"),
    ],
)
def test_the_kind_of_login_is_shown(
    stack: FakeStack, status: Status, login: dict[str, object], kind: str
) -> None:
    holds_token(stack, days=5)
    if login:
        has_login(stack, **login)

    code, shown = status("--json")

    assert code == 0
    assert json.loads(shown)["login"]["kind"] == kind


def test_an_access_token_without_a_session_is_not_a_login(stack: FakeStack, status: Status) -> None:
    holds(stack, left=12)

    code, shown = status()

    assert code == 3
    assert "none: an access token cannot be renewed by itself" in shown


@pytest.mark.parametrize(
    ("login", "days_left_of_token", "code"),
    [
        pytest.param({}, 5, 0, id="a token with days left"),
        pytest.param({}, 0.5, 3, id="a token that is its own login, and ends"),
        pytest.param(session(days=20), 0.5, 0, id="a session gets the next one"),
        pytest.param(session(days=0.5), 5, 3, id="a session that ends"),
        pytest.param(session(days=None), 5, 0, id="a session whose end is not known"),
        pytest.param({**session(days=0.5), **SIGN_IN}, 5, 0, id="a sign-in after it"),
        pytest.param({"refresh_token": 1}, 5, 3, id="a login that cannot be read"),
    ],
)
def test_a_person_is_needed_when_the_login_ends_not_when_a_token_does(
    stack: FakeStack,
    status: Status,
    login: dict[str, object],
    days_left_of_token: float,
    code: int,
) -> None:
    holds_token(stack, days=days_left_of_token)
    if login:
        has_login(stack, **login)

    assert status()[0] == code


def test_what_a_run_learnt_of_the_sessions_end_counts(stack: FakeStack, status: Status) -> None:
    holds(stack, left=12)
    has_login(stack, **session(days=None))
    version = stack.secrets.secret(SESSION_SECRET).labels["AWSCURRENT"]
    ends_at = in_time(days=10)
    stack.memory = RunMemory(session_version_id=version, session_expires_at=ends_at)

    login = json.loads(status("--json")[1])["login"]

    assert datetime.fromisoformat(login["session_expires_at"]) == ends_at
    assert login["session_days_remaining"] == 10.0


def refused(stack: FakeStack, version: str, at: datetime) -> RunMemory:
    refusal = Refusal(version, "token_rejected", "refused", at)
    return replace(stack.memory or RunMemory(), refusals={Grant.EXCHANGE: refusal})


def test_a_refused_token_is_not_a_green_bar(stack: FakeStack, status: Status) -> None:
    version = holds_token(stack, days=7)
    stack.memory = RunMemory(
        confirmed_version_id=version, confirmed_at=in_time(days=-1), account=ACCOUNT
    )
    assert FULL in status()[1]
    stack.memory = refused(stack, version, in_time(minutes=-2))

    code, shown = status()

    assert code == 3
    assert "█" not in shown
    assert "refused by the API" in shown
    assert "the API refused this token on" in shown
    assert json.loads(status("--json")[1])["refused_at"] is not None


@pytest.mark.parametrize("case", ["another token", "accepted since", "merely not extended"])
def test_a_refusal_of_something_else_is_not_the_tokens(
    stack: FakeStack, status: Status, case: str
) -> None:
    version = holds_token(stack, days=7)
    stack.memory = refused(
        stack, "another" if case == "another token" else version, in_time(hours=-2)
    )
    if case == "accepted since":
        stack.memory = replace(
            stack.memory, confirmed_version_id=version, confirmed_at=in_time(hours=-1)
        )
    if case == "merely not extended":
        refusal = replace(stack.memory.refusals[Grant.EXCHANGE], reason="token_not_extended")
        stack.memory = replace(stack.memory, refusals={Grant.EXCHANGE: refusal})

    code, shown = status()

    assert code == 0
    assert FULL in shown


@pytest.mark.parametrize(
    ("severity", "code"),
    [(Severity.CRITICAL, 3), (Severity.WARNING, 3), (Severity.NOTICE, 0), (None, 0)],
)
def test_the_open_incident_is_shown_and_a_grave_one_needs_a_person(
    stack: FakeStack, status: Status, severity: Severity | None, code: int
) -> None:
    holds_token(stack, days=5)
    since, at = in_time(hours=-2), in_time(hours=-1)
    published = {} if severity is None else {f"{severity.value} upstream_blocked": at}
    reason, message = ("upstream_blocked", "a firewall") if severity else ("", "")
    stack.memory = RunMemory(
        incident=Incident("v1", since, severity, reason, message, published),
        reminded={"warning session_ending 2026-12-01T00:00:00+00:00": in_time(hours=-9)},
    )

    found, shown = status()

    assert found == code
    assert f"since {since:%Y-%m-%d %H:%M} UTC" in shown
    document = json.loads(status("--json")[1])
    if severity is None:
        assert "not published yet" in shown
        assert document["last_alert"]["reason"] == "session_ending"
    else:
        assert f"a firewall (upstream_blocked, {severity.value})" in shown
        assert f"upstream_blocked ({severity.value}) on {at:%Y-%m-%d %H:%M} UTC" in shown
        assert document["incident"]["severity"] == severity.value
        assert document["last_alert"]["reason"] == "upstream_blocked"


def test_a_session_secret_that_may_not_be_read_is_said_and_no_failure(
    stack: FakeStack, status: Status
) -> None:
    holds(stack, left=12)
    stack.secrets.secret(SESSION_SECRET).refuses = "AccessDeniedException"

    code, shown = status()

    assert code == 0
    assert "the session secret may not be read from here" in shown
    assert "12.0 of 15.0 minutes" in shown
    assert json.loads(status("--json")[1])["login"]["kind"] is None


def test_a_session_secret_that_cannot_be_read_is_a_failure(
    stack: FakeStack, status: Status
) -> None:
    holds(stack, left=12)
    stack.secrets.secret(SESSION_SECRET).refuses = "InternalServiceError"

    assert status()[0] == 1


def test_a_state_table_that_cannot_be_read_is_a_failure_and_the_rest_is_shown(
    stack: FakeStack, status: Status
) -> None:
    holds_token(stack, days=5)
    stack.denies = {"dynamodb"}

    code, shown = status()

    assert code == 1
    assert shown.count("unknown (AccessDeniedException)") == 3, "confirmed, incident, last alert"
    assert "5.00 of 7.00 days" in shown
    del stack.outputs["StateTableName"]
    assert "the stack has no state table" in status()[1]


def test_a_secret_that_awaits_its_first_token_needs_a_person_unless_there_is_a_session(
    stack: FakeStack, status: Status
) -> None:
    code, shown = status()
    assert code == 3
    assert "no token yet: put a token or a session in (make put-token)" in shown

    has_login(stack, **session())
    code, shown = status()
    assert code == 0
    assert "no token yet: the next run gets the first one" in shown


def test_a_check_asks_the_api_through_the_function_before_anything_is_read(
    stack: FakeStack, status: Status
) -> None:
    version = holds_token(stack, days=5)

    def answer(_event: object) -> dict[str, Any]:
        stack.memory = RunMemory(confirmed_version_id=version, confirmed_at=in_time())
        return {"outcome": "checked", "version_id": version}

    stack.answer = answer

    code, shown = status("--check")

    assert code == 0
    assert stack.events == [{"check": True}]
    assert "checked: the API accepts the token" in shown
    assert "UTC: the API accepted this token" in shown


@pytest.mark.parametrize("outcome", ["fresh", "leased", "retrying"])
def test_a_check_without_an_answer_is_not_a_success(
    stack: FakeStack, status: Status, outcome: str
) -> None:
    holds_token(stack, days=5)
    stack.answer = lambda _event: {"outcome": outcome}

    code, shown = status("--check")

    assert code == 1
    assert f"{outcome}: " in shown
    assert "5.00 of 7.00 days" in shown


def test_a_failed_check_is_shown_with_the_rest(stack: FakeStack, status: Status) -> None:
    version = holds_token(stack, days=5)

    def answer(_event: object) -> dict[str, Any]:
        stack.memory = refused(stack, version, in_time())
        raise FailedRun("TokenRejectedError", "the API refused the token")

    stack.answer = answer

    code, shown = status("--check")

    assert code == 3
    assert "failed: the API refused the token (token_rejected)" in shown
    assert "█" not in shown
    check = json.loads(status("--check", "--json")[1])["check"]
    assert (check["result"], check["error"]["reason"]) == (None, "token_rejected")
