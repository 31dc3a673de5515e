"""What the owner hears over many runs of the deployed function, whatever fails meanwhile."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

import handler
from qwen_token import (
    ConfigError,
    StoreError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
)
from qwen_token.errors import SessionRejectedError, SignInRefusedError
from qwen_token.grants import Granted
from tests.fake_lambda_context import FakeLambdaContext
from tests.fakes import FakeTopic
from tests.minting import all_said, mint, pieces, token
from tests.unit.refresh_fakes import ENVIRON, SECRET, RefreshUnderTest, Run

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
DENIED: Final = ClientError({"Error": {"Code": "AccessDeniedException"}}, "UpdateItem")
CREDENTIAL: Final = "nobodys-refresh-credential-0123456789abcdef"
PASSWORD: Final = "nobodys password: correct horse"


@pytest.fixture(name="function")
def _function(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> RefreshUnderTest:
    return RefreshUnderTest(capsys, monkeypatch)


def heard(run: Run) -> list[tuple[str, str, str]]:
    return [
        (alert["event"], alert["severity"], alert["failures"][0]["reason"]) for alert in run.alerts
    ]


def session(function: RefreshUnderTest, *, left: timedelta) -> dict[str, object]:
    return {"refresh_token": CREDENTIAL, "expires_at": int((function.now + left).timestamp())}


def access_token(function: RefreshUnderTest, *, left: timedelta = 15 * MINUTE) -> Any:
    issued_at = int(function.now.timestamp())
    return token(left=left, now=function.now, type="access_token", iat=issued_at)


DOWN: Final = UpstreamUnavailableError("down")
DEAD: Final = TokenRejectedError("refused")


# --- failures and their end -----------------------------------------------------------------------


def test_a_day_of_refusals_is_one_alert_and_a_reminder(function: RefreshUnderTest) -> None:
    function.holds(token(left=DAY))
    function.answer = DEAD
    function.hosts.verified = DEAD
    failed = [function.run({"force": True}, after=HOUR).error for _ in range(25)]

    assert all(isinstance(error, TokenRejectedError) for error in failed)
    began_at, reminded_at = (alert["occurred_at"] for alert in function.topic.documents)
    assert function.topic.documents[1]["since"] == began_at
    assert reminded_at == function.now.isoformat()


def test_trouble_that_passes_is_a_notice_and_one_recovery(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = DOWN
    first = function.run()
    assert heard(first) == [("refresh_failed", "notice", "upstream_unavailable")]
    assert heard(function.run(after=2 * MINUTE)) == []

    function.answer = token(left=7 * DAY)
    over = function.run(after=2 * MINUTE)
    assert heard(over) == [("refresh_recovered", "notice", "upstream_unavailable")]
    [alert] = over.alerts
    assert alert["since"] == first.alerts[0]["occurred_at"]
    [failure] = alert["failures"]
    assert failure["message"] == "down"
    assert failure["days_remaining"] == round((7 * DAY - 4 * MINUTE) / DAY, 2)
    assert heard(function.run({"check": True}, after=HOUR)) == []


def test_a_recovery_that_could_not_be_published_is_tried_again(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = DOWN
    function.run()
    works, function.topic = function.topic, FakeTopic(DENIED)
    function.answer = token(left=7 * DAY)
    refreshed = function.run(after=2 * MINUTE)
    assert refreshed.result is not None
    assert refreshed.result["outcome"] == "refreshed"

    function.topic = works
    over = function.run({"check": True}, after=HOUR)
    assert heard(over) == [("refresh_recovered", "notice", "upstream_unavailable")]


def test_a_failure_that_could_not_be_published_is_published_by_the_next_run(
    function: RefreshUnderTest,
) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = DEAD
    works, function.topic = function.topic, FakeTopic(DENIED)
    assert isinstance(function.run().error, TokenRejectedError)
    function.topic = works
    later = function.run(after=2 * MINUTE)
    assert heard(later) == [("refresh_failed", "critical", "token_rejected")]
    assert heard(function.run(after=2 * MINUTE)) == []


def test_a_check_of_the_same_token_does_not_end_that_the_next_one_does_not_come(
    function: RefreshUnderTest,
) -> None:
    held = token(left=2 * DAY)
    function.holds(held)
    function.answer = held  # an echo
    assert heard(function.run()) == [("refresh_failed", "critical", "token_not_extended")]

    # Due, so that a check is a refresh; with a shorter window, it is only a check.
    function.environ = {**ENVIRON, "REFRESH_BEFORE_DAYS": "1"}
    checked = function.run({"check": True}, after=HOUR)
    assert checked.result is not None
    assert checked.result["outcome"] == "checked"
    assert heard(checked) == []

    function.holds(token(left=30 * DAY))
    over = function.run({"check": True}, after=HOUR)
    assert heard(over) == [("refresh_recovered", "critical", "token_not_extended")]


def test_a_check_without_an_answer_ends_nothing(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = DEAD
    function.run()
    function.holds(token(left=30 * DAY))
    function.hosts.verified = UpstreamBlockedError("a page")
    assert heard(function.run({"check": True}, after=HOUR)) == []
    function.hosts.verified = None
    over = function.run({"check": True}, after=HOUR)
    assert heard(over) == [("refresh_recovered", "critical", "token_rejected")]


def test_a_fresh_run_asks_for_no_incident(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = DEAD
    function.run()
    function.holds(token(left=30 * DAY))
    calls = len(function.dynamodb.calls)
    assert heard(function.run(after=2 * MINUTE)) == []
    assert len(function.dynamodb.calls) == calls


def test_a_dry_run_says_nothing_and_ends_nothing(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = DEAD
    function.run()
    for _ in range(2):
        run = function.run({"dry_run": True}, after=2 * DAY)
        assert run.alerts == []


# --- what is wrong around it ----------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["API_BASE_URL", "STATE_TABLE", "SECRET_ID"])
def test_an_environment_that_is_off_is_one_alert_a_day(
    function: RefreshUnderTest, lost: str
) -> None:
    function.environ = {name: value for name, value in ENVIRON.items() if name != lost}
    runs = [function.run(after=HOUR) for _ in range(25)]
    assert all(isinstance(run.error, ConfigError) for run in runs)
    assert [len(run.alerts) for run in runs] == [1] + 23 * [0] + [1]
    assert heard(runs[0]) == [("refresh_failed", "critical", "config_invalid")]


def test_an_event_that_is_off_is_one_alert_a_day(function: RefreshUnderTest) -> None:
    function.holds(token(left=7 * DAY))
    runs = [function.run({"forced": True}, after=MINUTE) for _ in range(3)]
    assert [len(run.alerts) for run in runs] == [1, 0, 0]


def test_where_the_table_cannot_be_reached_the_login_is_not_spent_and_the_owner_hears_once(
    function: RefreshUnderTest,
) -> None:
    function.holds(token(left=2 * DAY))
    function.dynamodb.fails_with = DENIED
    runs = [function.run(after=2 * MINUTE) for _ in range(3)]
    assert [run.result and run.result["outcome"] for run in runs] == 3 * ["retrying"]
    assert [heard(run) for run in runs] == [[("refresh_failed", "notice", "store_failed")], [], []]
    assert function.hosts.spent == []
    later = function.run(after=HOUR)
    assert isinstance(later.error, StoreError)
    assert heard(later) == [("refresh_failed", "warning", "store_failed")]

    # What this process published counts once the table is there again.
    function.dynamodb.fails_with = None
    function.answer = token(left=9 * DAY)
    assert heard(function.run(after=2 * MINUTE)) == [
        ("refresh_recovered", "warning", "store_failed")
    ]


def test_a_history_that_nothing_knows_is_published(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = DEAD
    function.run()
    function.dynamodb.fails_with = DENIED
    # Another process, which remembers nothing.
    function.process = type(function.process)()
    assert heard(function.run()) == [("refresh_failed", "notice", "store_failed")]


@pytest.mark.parametrize("table", ["reached", "not reached"])
@pytest.mark.parametrize(
    "answer", [token(left=7 * DAY), DOWN, DEAD, ZeroDivisionError("a bug")], ids=repr
)
def test_the_lease_is_given_back_whatever_becomes_of_the_run(
    function: RefreshUnderTest, answer: Any, table: str
) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = answer
    if table == "not reached":
        function.topic = FakeTopic(DENIED)
    if isinstance(answer, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            run_plainly(function)
    else:
        function.run()
    item = function.dynamodb.item("state", secret_id=SECRET)
    assert item is not None
    assert item.keys() == {"secret_id", "memory", "expires_at"}


def run_plainly(function: RefreshUnderTest) -> None:
    """Run without the decorators, which complain of a run that counted nothing."""
    context: Any = FakeLambdaContext()
    handler.run({}, context, function.clients())


def test_a_lease_that_cannot_be_given_back_hides_nothing(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = token(left=7 * DAY)
    calls = iter([None, DENIED])

    def fails_at_the_end(_: object) -> None:
        if problem := next(calls, DENIED):
            raise problem

    function.dynamodb.before = fails_at_the_end
    run = function.run()
    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert any("lease could not be given back" in line["message"] for line in run.log)


# --- a login that ends, and a token that is awaited -----------------------------------------------


def test_the_end_of_a_session_is_told_once_daily_and_once_when_it_is_critical(
    function: RefreshUnderTest,
) -> None:
    function.holds(access_token(function), session(function, left=3 * DAY + HOUR / 2))
    said = []
    for hour in range(72):
        function.now += HOUR
        function.answer = access_token(function)
        said += [(hour, *each) for each in heard(function.run())]
    ending = "session_ending"
    assert said == [
        (0, ending, "warning", ending),
        (24, ending, "warning", ending),
        (48, ending, "critical", ending),
    ]
    function.now += HOUR
    function.holds(None, session(function, left=30 * DAY))
    function.answer = access_token(function)
    assert heard(function.run()) == [], "no recovery follows"


def test_an_end_that_the_host_moves_with_each_refresh_is_not_told_each_time(
    function: RefreshUnderTest,
) -> None:
    function.holds(access_token(function), session(function, left=2 * DAY))
    said = []
    for minute in range(0, 60, 10):
        function.now += 10 * MINUTE
        ends_at = function.now + 2 * DAY
        function.answer = Granted(access_token(function), f"{CREDENTIAL}{minute}", ends_at)
        said += heard(function.run())
    assert said == [("session_ending", "warning", "session_ending")]


def test_a_check_tells_of_the_end_too_however_long_the_token_lives(
    function: RefreshUnderTest,
) -> None:
    function.holds(token(left=30 * DAY), session(function, left=2 * DAY))
    run = function.run({"check": True})
    assert run.result is not None
    assert run.result["outcome"] == "checked"
    assert run.result["session_expires_at"] == (function.now + 2 * DAY).isoformat()
    assert heard(run) == [("session_ending", "warning", "session_ending")]
    assert run.metrics["SessionDaysRemaining"] == 2
    assert heard(function.run({"check": True}, after=HOUR)) == []


def test_a_check_does_not_mind_a_session_that_cannot_be_read(function: RefreshUnderTest) -> None:
    function.holds(access_token(function, left=30 * DAY), session="no login")
    run = function.run({"check": True})
    assert run.result is not None
    assert (run.result["outcome"], run.result["session_expires_at"]) == ("checked", None)
    assert run.alerts == []
    assert "SessionDaysRemaining" not in run.metrics


def test_with_a_sign_in_no_end_is_told(function: RefreshUnderTest) -> None:
    sign_in = {"email": "somebody@example.com", "password": PASSWORD}
    function.holds(access_token(function), {**session(function, left=DAY), **sign_in})
    run = function.run({"check": True})
    assert run.alerts == []
    assert run.metrics["SessionDaysRemaining"] == 365


def test_a_first_token_is_asked_for_once_and_daily_without_a_recovery(
    function: RefreshUnderTest,
) -> None:
    runs = [function.run(after=HOUR) for _ in range(25)]
    assert [len(run.alerts) for run in runs] == [1] + 23 * [0] + [1]
    assert heard(runs[0]) == [("refresh_failed", "warning", "token_missing")]
    function.holds(token(left=2 * DAY))
    function.answer = token(left=9 * DAY)
    assert heard(function.run()) == []


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "days"),
    [
        pytest.param({"refresh_token": CREDENTIAL}, 365, id="an end that nobody knows"),
        pytest.param({"email": "a@example.com", "password": PASSWORD}, 365, id="a sign-in"),
        pytest.param({}, 20, id="a session with an end"),
    ],
)
def test_how_long_nobody_is_needed_is_counted(
    function: RefreshUnderTest, kept: Mapping[str, object], days: float
) -> None:
    function.holds(access_token(function), kept or session(function, left=20 * DAY))
    function.answer = access_token(function)
    run = function.run()
    assert run.metrics.get("SessionDaysRemaining") is None, "a fresh run knows of no session"
    function.now += 10 * MINUTE
    function.answer = access_token(function)
    run = function.run()
    assert run.metrics["TokenRefreshed"] == 1
    assert run.metrics["SessionDaysRemaining"] == pytest.approx(days, abs=0.01)


def test_a_table_that_cannot_be_reached_does_not_make_a_session_look_over(
    function: RefreshUnderTest,
) -> None:
    function.holds(access_token(function), session(function, left=20 * DAY))
    function.dynamodb.fails_with = DENIED
    run = function.run(after=10 * MINUTE)
    assert run.metrics == {
        "TokenDaysRemaining": 5 * MINUTE / DAY,
        "RunCompleted": 1,
        "RefreshFailed": 1,
    }


def test_a_crash_counts_no_run_that_ended(function: RefreshUnderTest) -> None:
    function.holds(token(left=2 * DAY))
    function.answer = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        run_plainly(function)
    assert "RunCompleted" not in handler.metrics.metric_set


# --- secrecy --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "a token",
        "an echo",
        DOWN,
        DEAD,
        StoreError("failed"),
        SessionRejectedError("dead"),
        SignInRefusedError("wrong"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kept", ["exchange", "refresh_token", "password", "malformed"])
def test_no_part_of_a_token_a_credential_or_a_password_is_said(
    function: RefreshUnderTest, answer: Any, kept: str
) -> None:
    held, successor = token(left=DAY), token(left=7 * DAY)
    rotated = mint({"sub": "somebody", "type": "refresh", "exp": 4_000_000_000})
    email = "somebody@example.com"
    sessions: dict[str, Any] = {
        "exchange": "",
        "refresh_token": session(function, left=2 * DAY),
        "password": {"email": email, "password": PASSWORD},
        "malformed": json.dumps({"refresh_token": 1, "password": PASSWORD, "x": CREDENTIAL}),
    }
    function.holds(held, sessions[kept])
    if answer == "a token":
        answer = Granted(successor, rotated if kept == "refresh_token" else None)
    function.answer = held if answer == "an echo" else answer

    said = []
    for event in ({}, {"force": True}, {"check": True}, {"dry_run": True}):
        run = function.run(event, after=HOUR)
        said += [run.output, str(run.alerts), str(run.events), str(run.result)]
        if run.error is not None:
            said.append(all_said(run.error))
    said.append(str(function.dynamodb.items))
    everything = "\n".join(said)

    for secret in (held.raw, successor.raw, rotated, CREDENTIAL, PASSWORD, email):
        found = {piece for piece in pieces(secret) if piece in everything}
        assert found <= pieces(json.dumps(sorted(ENVIRON.values()))), secret
    assert email not in everything
