"""Each reason of the contract, provoked through the deployed function, as its owner sees it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from localcloud import qwen as scenarios
from localcloud.qwen import Scenario
from localcloud.recording_proxy import Refusal
from qwen_token import QwenTokenError, errors
from tests.e2e.conftest import Deployed

DAY = timedelta(days=1)

REASONS = {
    kind.reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, QwenTokenError) and "reason" in vars(kind)
}


@dataclass(frozen=True)
class Case:
    """How a failure is provoked, and how it is to be told."""

    reason: str
    severity: str
    answer: Scenario = scenarios.MINTS_NEWER_CLAIMS
    left: timedelta = 2 * DAY
    value: str | None = None
    event: object = None
    refused: str | None = None
    # None: the token itself could not be read.
    knows_expiry: bool = True


CASES = [
    Case("token_missing", "critical", value=" ", knows_expiry=False),
    Case("token_malformed", "critical", value="hunter2", knows_expiry=False),
    Case("token_rejected", "critical", answer=scenarios.TOKEN_DEAD),
    Case("token_rejected", "critical", left=-DAY),
    Case("token_not_extended", "critical", answer=scenarios.ECHOES),
    Case("wrong_account", "critical", answer=scenarios.MINTS_FOR_ANOTHER_ACCOUNT),
    Case("wrong_account", "critical", answer=scenarios.SEES_A_GUEST),
    Case("rate_limited", "warning", answer=scenarios.RATE_LIMITED_ENVELOPE),
    Case("upstream_blocked", "warning", answer=scenarios.BLOCK_PAGE),
    Case("upstream_unavailable", "warning", answer=scenarios.UNAVAILABLE_PAGE),
    Case("upstream_unavailable", "critical", answer=scenarios.BREAKS_OFF, left=DAY / 2),
    Case("upstream_unexpected", "warning", answer=scenarios.STRANGE_JSON),
    Case("upstream_unexpected", "warning", answer=scenarios.ISSUES_THEN_REFUSES),
    Case("store_failed", "warning", refused="GetSecretValue", knows_expiry=False),
    Case("store_failed", "warning", refused="PutSecretValue"),
    Case("store_failed", "critical", refused="UpdateSecretVersionStage", left=DAY / 2),
    Case("config_invalid", "critical", event={"forced": True}, knows_expiry=False),
]


def case_id(case: Case) -> str:
    how = case.refused or (case.answer.name if case.answer != scenarios.MINTS_NEWER_CLAIMS else "")
    return " ".join(filter(None, (case.reason, case.severity, how)))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_failure_is_told_and_leaves_the_secret_alone(deployed: Deployed, case: Case) -> None:
    raw = deployed.hold(case.left)
    if case.value is not None:
        deployed.stack.put(case.value)
    before = deployed.stack.current()
    deployed.qwen.answer_with(case.answer)
    relay = deployed.stack.cloud.relay
    refusing = (
        relay.interfering(f"secretsmanager:{case.refused}", Refusal("AccessDeniedException"))
        if case.refused
        else nullcontext()
    )

    with refusing:
        run = deployed.stack.invoke(case.event)

    assert run.result is None, "a failure is raised"
    alert = deployed.alert()
    told = alert.document
    assert told.keys() == CONTRACT_KEYS
    assert (told["source"], told["event"]) == ("qwen-token-refresh", "refresh_failed")
    assert told["severity"] == case.severity
    assert datetime.fromisoformat(told["occurred_at"]).tzinfo
    [failure] = told["failures"]
    assert failure.keys() == FAILURE_KEYS
    assert failure["reason"] == case.reason
    assert failure["advice"] == REASONS[case.reason].advice
    assert failure["message"] == run.error
    assert failure["secret_id"] == deployed.stack.secret_arn
    assert alert.attributes == {"severity": case.severity, "reason": case.reason}
    if case.knows_expiry:
        expires_at = datetime.fromtimestamp(deployed.qwen.read(raw)["exp"]).astimezone()
        assert datetime.fromisoformat(failure["expires_at"]) == expires_at
        assert failure["days_remaining"] == pytest.approx(case.left / DAY, abs=0.02)
    else:
        assert failure["expires_at"] is failure["days_remaining"] is None

    assert deployed.stack.current() == before
    email = relay.emails[-1]
    assert email.subject.startswith(f"[{case.severity.upper()}] Qwen token: {case.reason}")
    assert failure["advice"] in email.text
    assert deployed.stack.notifications() == [], "one alert a run"


CONTRACT_KEYS = {"source", "event", "severity", "request_id", "occurred_at", "failures"}
FAILURE_KEYS = {"secret_id", "reason", "message", "advice", "expires_at", "days_remaining"}


def test_every_reason_of_the_contract_is_provoked() -> None:
    # The short-lived one stores its token: it has a test of its own.
    assert {case.reason for case in CASES} | {"token_short_lived"} == set(REASONS)


def test_a_short_lived_token_is_stored_and_told(deployed: Deployed) -> None:
    deployed.hold(timedelta(minutes=5))
    deployed.qwen.answer_with(scenarios.MINTS_SHORT_LIVED)

    run = deployed.stack.invoke()

    assert run.result is None
    alert = deployed.alert()
    [failure] = alert.document["failures"]
    assert (alert.document["severity"], failure["reason"]) == ("critical", "token_short_lived")
    stored = deployed.qwen.read(deployed.stack.current().text)
    assert datetime.fromisoformat(failure["expires_at"]).timestamp() == stored["exp"]


def test_a_failing_publish_hides_nothing(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)

    with deployed.stack.cloud.relay.interfering("sns:Publish", Refusal("AuthorizationError", 403)):
        run = deployed.stack.invoke()

    assert run.error is not None
    assert "refused the token" in run.error
    assert any("could not be published" in line for line in deployed.stack.log())


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda qwen: qwen.revoke(), id="the password was changed"),
        pytest.param(lambda qwen: qwen.forget(), id="the account is gone"),
    ],
)
def test_a_dead_account_is_told_from_a_dead_network(
    deployed: Deployed, spoil: Callable[[Any], None]
) -> None:
    deployed.hold(2 * DAY)
    spoil(deployed.qwen)

    deployed.stack.invoke()

    [failure] = deployed.alert().document["failures"]
    assert failure["reason"] == "token_rejected"
