"""Each reason of the contract, provoked through the deployed function, as its owner sees it."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from localcloud import qwen as scenarios
from localcloud import sign_in_host
from localcloud.qwen import Scenario
from localcloud.recording_proxy import AwsRefusal
from localcloud.stack import Notification, Run, subscribe
from qwen_token import QwenTokenError, errors
from tests.e2e.conftest import OWNER, Deployed, alarm_message

DAY = timedelta(days=1)
# AlertAfterMinutes, of the stack whose trouble is a notice first.
ALERT_AFTER = timedelta(minutes=60)

REASONS = {
    kind.reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, QwenTokenError) and "reason" in vars(kind)
}
CONTRACT_KEYS = {"source", "event", "severity", "request_id", "occurred_at", "since", "failures"}
FAILURE_KEYS = {
    *("secret_id", "reason", "message", "advice"),
    *("expires_at", "days_remaining", "session_expires_at"),
}


@dataclass(frozen=True)
class Case:
    """How a failure is provoked, and how the owner is to hear of it."""

    reason: str
    severity: str
    answer: Scenario = scenarios.MINTS_NEWER_CLAIMS
    left: timedelta = 2 * DAY
    value: str | None = None
    event: object = None
    refused: str | None = None
    # None: the token itself could not be read.
    knows_expiry: bool = True


# Of tokens of the first kind, with AlertAfterMinutes=60.
CASES = [
    Case("token_missing", "critical", value=" ", knows_expiry=False),
    Case("token_malformed", "critical", value="hunter2", knows_expiry=False),
    Case("token_rejected", "critical", answer=scenarios.TOKEN_DEAD),
    Case("token_rejected", "critical", left=-DAY),
    Case("token_not_extended", "critical", answer=scenarios.ECHOES),
    Case("wrong_account", "critical", answer=scenarios.MINTS_FOR_ANOTHER_ACCOUNT),
    Case("wrong_account", "critical", answer=scenarios.SEES_A_GUEST),
    Case("rate_limited", "notice", answer=scenarios.RATE_LIMITED_ENVELOPE),
    Case("upstream_blocked", "notice", answer=scenarios.BLOCK_PAGE),
    Case("upstream_unavailable", "notice", answer=scenarios.UNAVAILABLE_PAGE),
    Case("upstream_unavailable", "critical", answer=scenarios.BREAKS_OFF, left=DAY / 2),
    Case("upstream_unavailable", "critical", answer=scenarios.UNAVAILABLE_PAGE, left=-DAY),
    Case("upstream_unexpected", "notice", answer=scenarios.STRANGE_JSON),
    Case("upstream_unexpected", "notice", answer=scenarios.ISSUES_THEN_REFUSES),
    Case("store_failed", "notice", refused="secretsmanager:GetSecretValue", knows_expiry=False),
    Case("store_failed", "notice", refused="secretsmanager:PutSecretValue"),
    Case("store_failed", "notice", refused="dynamodb:UpdateItem"),
    Case(
        "store_failed",
        "critical",
        refused="secretsmanager:UpdateSecretVersionStage",
        left=DAY / 2,
    ),
    Case("config_invalid", "critical", event={"forced": True}, knows_expiry=False),
]


def case_id(case: Case) -> str:
    how = case.refused or (case.answer.name if case.answer != scenarios.MINTS_NEWER_CLAIMS else "")
    return " ".join(filter(None, (case.reason, case.severity, how)))


def refusing(deployed: Deployed, operation: str | None) -> Any:
    if operation is None:
        return nullcontext()
    relay = deployed.stack.cloud.relay
    return relay.interfering(operation, AwsRefusal("AccessDeniedException"))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_failure_is_reported_and_leaves_the_secret_alone(deployed: Deployed, case: Case) -> None:
    raw = deployed.hold(case.left)
    if case.value is not None:
        deployed.stack.put(case.value)
    before = deployed.stack.current()
    deployed.qwen.answer_with(case.answer)

    with refusing(deployed, case.refused):
        run = deployed.stack.invoke(case.event)

    alert = deployed.alert()
    failure = the_failure_in(alert, deployed)
    assert_told(run, failure, case.severity)
    assert failure["reason"] == case.reason
    assert alert.attributes == {"severity": case.severity, "reason": case.reason}
    if case.knows_expiry:
        expires_at = datetime.fromtimestamp(deployed.qwen.read(raw)["exp"], UTC)
        assert datetime.fromisoformat(failure["expires_at"]) == expires_at
        assert failure["days_remaining"] == pytest.approx(case.left / DAY, abs=0.02)
    else:
        assert failure["expires_at"] is failure["days_remaining"] is None
    assert failure["session_expires_at"] is None

    assert deployed.stack.current() == before
    assert_mailed(deployed, alert, failure)
    assert deployed.stack.notifications() == [], "one alert a run"


def the_failure_in(alert: Notification, deployed: Deployed) -> Any:
    """Return an alert's one failure, once the whole of it is as the contract has it."""
    assert alert.document.keys() == CONTRACT_KEYS
    assert alert.document["source"] == "qwen-token-refresh"
    assert alert.document["event"] == "refresh_failed"
    occurred_at = datetime.fromisoformat(alert.document["occurred_at"])
    assert datetime.fromisoformat(alert.document["since"]) <= occurred_at
    assert occurred_at.utcoffset() == timedelta()
    [failure] = alert.document["failures"]
    assert failure.keys() == FAILURE_KEYS
    assert failure["advice"] == REASONS[failure["reason"]].advice
    assert failure["secret_id"] == deployed.stack.secret_arn
    return failure


def assert_told(run: Run, failure: Any, severity: str) -> None:
    """Check that a failed run is an error of the function, except for a notice."""
    if severity == "notice":
        assert run.result is not None, run.error
        assert run.result["outcome"] == "retrying"
        assert run.result["secret_id"] == failure["secret_id"]
        assert run.result["expires_at"] == failure["expires_at"]
    else:
        assert run.error == failure["message"]


def assert_mailed(deployed: Deployed, alert: Notification, failure: Any) -> None:
    email = deployed.stack.cloud.relay.emails[-1]
    severity = alert.document["severity"].upper()
    assert email.subject.startswith(f"[{severity}] Qwen token: {failure['reason']}")
    assert failure["advice"] in email.text


# --- of sessions ----------------------------------------------------------------------------------

NO_LOGIN = '{"refresh_token": 1, "note": "mine"}'
SIGN_IN = {"email": OWNER, "password": "not the right one"}


@dataclass(frozen=True)
class SessionCase:
    """How a failure is provoked of a session, with AlertAfterMinutes=0."""

    reason: str
    severity: str
    answer: Scenario = sign_in_host.ANSWERS
    # Of the API, where the access token is verified.
    verification: Scenario = scenarios.MINTS_NEWER_CLAIMS
    left: timedelta = timedelta(minutes=4)
    value: str | None = None
    refused: str | None = None
    knows_end: bool = True


SESSION_CASES = [
    SessionCase("session_malformed", "critical", value=NO_LOGIN, knows_end=False),
    SessionCase("session_rejected", "critical", answer=sign_in_host.REFUSES),
    SessionCase("session_rejected", "critical", answer=sign_in_host.REFUSES_AND_DELETES),
    SessionCase("sign_in_refused", "critical", value=json.dumps(SIGN_IN), knows_end=False),
    SessionCase(
        "sign_in_refused",
        "critical",
        value=json.dumps(SIGN_IN),
        answer=sign_in_host.BLOCK_SLIDER,
        knows_end=False,
    ),
    SessionCase("wrong_account", "critical", answer=sign_in_host.ANSWERS_FOR_ANOTHER_ACCOUNT),
    SessionCase("wrong_account", "critical", answer=sign_in_host.ANSWERS_FOR_A_GUEST),
    SessionCase("rate_limited", "warning", answer=scenarios.RATE_LIMITED),
    SessionCase("upstream_blocked", "warning", answer=sign_in_host.BLOCK_SLIDER),
    SessionCase("upstream_blocked", "warning", verification=scenarios.BLOCK_PAGE),
    SessionCase("upstream_unavailable", "warning", answer=scenarios.UNAVAILABLE_PAGE),
    SessionCase(
        "upstream_unavailable",
        "critical",
        answer=scenarios.UNAVAILABLE_PAGE,
        left=-timedelta(minutes=1),
    ),
    SessionCase("upstream_unexpected", "warning", answer=sign_in_host.ISSUES_THEN_REFUSES),
    SessionCase("store_failed", "warning", refused="dynamodb:UpdateItem", knows_end=False),
    SessionCase("store_failed", "warning", refused="secretsmanager:UpdateSecretVersionStage"),
]


def session_case_id(case: SessionCase) -> str:
    others = (case.answer, case.verification)
    usual = {sign_in_host.ANSWERS.name, scenarios.MINTS_NEWER_CLAIMS.name}
    how = [each.name for each in others if each.name not in usual]
    return " ".join(filter(None, (case.reason, case.severity, case.refused, *how)))


@pytest.mark.parametrize("case", SESSION_CASES, ids=session_case_id)
def test_a_failure_of_a_session_is_reported_and_leaves_both_secrets_alone(
    newer: Deployed, case: SessionCase
) -> None:
    newer.hold_session(left=case.left)
    newer.sign_in_host.set_password(OWNER, "the right one")
    if case.value is not None:
        newer.stack.put_session(case.value)
    before = (newer.stack.current(), newer.stack.current_session())
    newer.sign_in_host.answer_with(case.answer)
    newer.qwen.answer_with(case.verification)

    with refusing(newer, case.refused):
        run = newer.stack.invoke()

    alert = newer.alert()
    failure = the_failure_in(alert, newer)
    assert_told(run, failure, case.severity)
    assert failure["reason"] == case.reason
    assert alert.attributes == {"severity": case.severity, "reason": case.reason}
    assert timedelta(days=failure["days_remaining"]) < timedelta(minutes=15)
    assert (failure["session_expires_at"] is not None) == case.knows_end
    assert (newer.stack.current(), newer.stack.current_session()) == before
    assert_mailed(newer, alert, failure)
    assert newer.stack.notifications() == [], "one alert a run"


def test_a_short_lived_token_is_stored_and_reported(newer: Deployed) -> None:
    newer.hold_session()
    newer.sign_in_host.answer_with(sign_in_host.SHORT_LIVED)

    run = newer.stack.invoke()

    alert = newer.alert()
    failure = the_failure_in(alert, newer)
    assert run.error == failure["message"]
    assert (alert.document["severity"], failure["reason"]) == ("critical", "token_short_lived")
    stored = newer.qwen.read(newer.stack.current().text)
    assert datetime.fromisoformat(failure["expires_at"]).timestamp() == stored["exp"]


def test_every_reason_of_the_contract_is_provoked() -> None:
    # The short-lived one stores its token: it has a test of its own.
    provoked = {case.reason for case in CASES} | {case.reason for case in SESSION_CASES}
    assert provoked | {"token_short_lived"} == set(REASONS)


@pytest.mark.parametrize(
    ("lives", "severity"),
    [(2 * DAY, "warning"), (DAY / 2, "critical")],
    ids=["in less than RefreshBeforeDays", "in less than CriticalDays"],
)
def test_a_sessions_coming_end_is_reported_once(
    newer: Deployed, lives: timedelta, severity: str
) -> None:
    newer.hold_session(login=lives)

    for _ in range(2):
        result = newer.stack.invoke().result or {}
        assert result["outcome"] == "refreshed"
        newer.stack.put(newer.qwen.issue_access_token(lifetime=timedelta(minutes=4), has_iat=False))

    [alert] = [each for each in newer.stack.notifications() if not each.is_alarm]
    assert alert.document["event"] == "session_ending"
    assert alert.attributes == {"severity": severity, "reason": "session_ending"}
    [failure] = alert.document["failures"]
    assert failure["session_expires_at"] == result["session_expires_at"]
    ends_at = datetime.fromisoformat(failure["session_expires_at"])
    assert f"{ends_at:%Y-%m-%d %H:%M}" in failure["advice"]


# --- who hears of it, and when --------------------------------------------------------------------


@pytest.fixture(name="mailbox")
def _mailbox(deployed: Deployed) -> Callable[[], list[Any]]:
    """Return what takes the documents of what e-mail gets.

    The emulator mails nothing: queues are subscribed as the address is, filter and all.
    """
    cloud, resources, urls = deployed.stack.cloud, deployed.stack.resources(), []
    for name in ("AlertTopic", "AlarmEmailTopic"):
        subscriptions = cloud.sns.list_subscriptions_by_topic(TopicArn=resources[name])
        [email] = [each for each in subscriptions["Subscriptions"] if each["Protocol"] == "email"]
        assert email["Endpoint"] == OWNER
        found = cloud.sns.get_subscription_attributes(SubscriptionArn=email["SubscriptionArn"])
        filter_policy = found["Attributes"].get("FilterPolicy")
        urls.append(subscribe(cloud, resources[name], queue="mailbox", filter_policy=filter_policy))

    def take() -> list[Any]:
        documents = []
        for url in urls:
            received = cloud.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
            for each in received.get("Messages", []):
                cloud.sqs.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
                documents.append(json.loads(json.loads(each["Body"])["Message"]))
        return documents

    return take


def test_a_notice_is_published_and_mailed_to_nobody(
    deployed: Deployed, mailbox: Callable[[], list[Any]]
) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.BLOCK_PAGE)
    deployed.stack.invoke()
    assert deployed.alert().attributes["severity"] == "notice"
    assert mailbox() == []

    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)
    deployed.stack.invoke()
    alert = deployed.alert()
    assert alert.attributes["severity"] == "critical"
    assert mailbox() == [alert.document]


def test_an_alarm_is_mailed(deployed: Deployed, mailbox: Callable[[], list[Any]]) -> None:
    cloud, name = deployed.stack.cloud, f"{deployed.stack.name}-keeper-silent"

    cloud.cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="no data")

    alarm_message(deployed.stack, name)
    assert [each["AlarmName"] for each in mailbox()] == [name]


def test_trouble_is_a_notice_once_and_a_warning_once_it_lasts(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.BLOCK_PAGE)

    runs = [deployed.stack.invoke() for _ in range(2)]

    assert [run.result and run.result["outcome"] for run in runs] == ["retrying"] * 2
    assert [severity_of(each) for each in alerts_to(deployed)] == ["notice"]

    pass_time(deployed, ALERT_AFTER)
    runs = [deployed.stack.invoke() for _ in range(2)]

    assert [run.result for run in runs] == [None] * 2, "each is an error of the function"
    [alert] = alerts_to(deployed)
    assert severity_of(alert) == "warning"
    since = datetime.fromisoformat(alert.document["since"])
    assert datetime.fromisoformat(alert.document["occurred_at"]) - since >= ALERT_AFTER


def severity_of(alert: Notification) -> str:
    assert alert.attributes["severity"] == alert.document["severity"]
    return alert.attributes["severity"]


def alerts_to(deployed: Deployed) -> list[Notification]:
    """Take the function's alerts that arrived; those of alarms are thrown away."""
    return [each for each in deployed.stack.notifications() if not each.is_alarm]


def pass_time(deployed: Deployed, how_long: timedelta) -> None:
    """Let the open incident be older by so much, with all that was published of it."""
    memory = deployed.stack.memory()
    incident = memory.incident
    assert incident is not None
    published = {key: at - how_long for key, at in incident.published.items()}
    older = replace(incident, since=incident.since - how_long, published=published)
    deployed.stack.remember(replace(memory, incident=older))


def test_many_runs_that_fail_alike_are_one_alert_and_a_reminder_a_day(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)
    before = len(deployed.stack.versions())
    events = [{}, {"force": True}, {"check": True}]

    calls = [deployed.calls(event) for event in events]

    assert [each.run.result for each in calls] == [None] * 3, "each is an error of the function"
    asked = [each.qwen for each in calls]
    # About the token, and about the one before it.
    assert 1 <= asked[0] <= 2
    assert asked[1:] == [0, 0], "what is dead is not asked about again"
    assert [severity_of(each) for each in alerts_to(deployed)] == ["critical"]

    pass_time(deployed, DAY)
    runs = [deployed.stack.invoke() for _ in range(2)]

    assert [run.result for run in runs] == [None] * 2
    assert [severity_of(each) for each in alerts_to(deployed)] == ["critical"]
    assert len(deployed.stack.versions()) == before


def test_a_wrong_password_is_tried_once(newer: Deployed) -> None:
    newer.hold_session()
    newer.sign_in_host.set_password(OWNER, "the right one")
    newer.stack.put_session(json.dumps(SIGN_IN))
    before = newer.sign_in_host.sign_in_attempts

    runs = [newer.stack.invoke(event) for event in ({}, {"force": True}, {})]

    assert [run.result for run in runs] == [None] * 3
    assert newer.sign_in_host.sign_in_attempts == before + 1
    assert [severity_of(each) for each in alerts_to(newer)] == ["critical"]


def test_a_new_login_after_an_alert_is_reported_as_one_recovery(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)
    deployed.stack.invoke()
    failed = deployed.alert()

    deployed.qwen.answer_with(scenarios.MINTS_NEWER_CLAIMS)
    deployed.hold(2 * DAY)
    for _ in range(3):
        deployed.stack.invoke({"force": True})

    [recovery] = alerts_to(deployed)
    assert recovery.document["event"] == "refresh_recovered"
    assert recovery.attributes == failed.attributes
    assert recovery.document["since"] == failed.document["since"]
    [failure] = recovery.document["failures"]
    assert (failure["reason"], failure["secret_id"]) == (
        "token_rejected",
        deployed.stack.secret_arn,
    )
    stored = deployed.qwen.read(deployed.stack.current().text)
    assert datetime.fromisoformat(failure["expires_at"]).timestamp() == stored["exp"]
    assert deployed.stack.memory().incident is None


def test_trouble_that_passed_is_a_recovery_with_the_highest_severity(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.BLOCK_PAGE)
    deployed.stack.invoke()
    pass_time(deployed, ALERT_AFTER)
    deployed.stack.invoke()
    assert [severity_of(each) for each in alerts_to(deployed)] == ["notice", "warning"]

    deployed.qwen.answer_with(scenarios.MINTS_NEWER_CLAIMS)
    run = deployed.stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    [recovery] = alerts_to(deployed)
    assert recovery.document["event"] == "refresh_recovered"
    assert recovery.attributes == {"severity": "warning", "reason": "upstream_blocked"}


def test_a_failing_publish_hides_nothing_and_the_next_run_repeats_it(
    deployed: Deployed,
) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)

    with deployed.stack.cloud.relay.interfering(
        "sns:Publish", AwsRefusal("AuthorizationError", 403)
    ):
        run = deployed.stack.invoke()

    assert run.error is not None
    assert "refused the token" in run.error
    assert any("could not be published" in line for line in deployed.stack.log())
    deployed.stack.invoke()
    assert [severity_of(each) for each in alerts_to(deployed)] == ["critical"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda qwen: qwen.revoke(), id="the password was changed"),
        pytest.param(lambda qwen: qwen.forget(), id="the account is gone"),
    ],
)
def test_a_dead_account_is_not_mistaken_for_a_dead_network(
    deployed: Deployed, spoil: Callable[[Any], None]
) -> None:
    deployed.hold(2 * DAY)
    spoil(deployed.qwen)

    deployed.stack.invoke()

    [failure] = deployed.alert().document["failures"]
    assert failure["reason"] == "token_rejected"
