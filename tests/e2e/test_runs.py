"""Runs of the deployed function that end well: what is called, stored and returned."""

import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta

import pytest
import requests
from botocore.exceptions import ClientError

from localcloud import qwen as scenarios
from localcloud.aws import ROOT, Cloud
from localcloud.qwen import ACCOUNT, QwenStandIn, Scenario
from localcloud.recording_proxy import AwsRefusal, Loss
from localcloud.sign_in_host import (
    ANSWERS,
    BLOCK_SLIDER,
    Rotation,
    SessionPolicy,
    SignInHostStandIn,
    SignInRequest,
)
from localcloud.stack import CURRENT, PREVIOUS
from tests.e2e.conftest import Deploy, Deployed, Hosts, alarm_message, end_alarms

DAY = timedelta(days=1)
ACCESS_LIFETIME = timedelta(minutes=15)
RUNS_AT_ONCE = 6
# In seconds: of a call to Qwen.
LESS_THAN_THE_TIMEOUT = 8

READ = "secretsmanager:GetSecretValue"
STAGE = "secretsmanager:PutSecretValue"
PROMOTE = "secretsmanager:UpdateSecretVersionStage"
# Of the lease, which is taken and given back.
LEASE = "dynamodb:UpdateItem"
ANNOUNCE = "events:PutEvents"


# --- tokens of the first kind ---------------------------------------------------------------------


def test_a_fresh_run_makes_one_call_to_aws_and_none_to_qwen(deployed: Deployed) -> None:
    raw = deployed.hold(5 * DAY)

    calls = deployed.calls()

    assert (calls.aws, calls.qwen) == ([READ], 0)
    assert calls.run.result == {
        "outcome": "fresh",
        "secret_id": deployed.stack.secret_arn,
        "version_id": deployed.stack.current().version_id,
        "expires_at": datetime.fromtimestamp(deployed.qwen.read(raw)["exp"], UTC).isoformat(),
        "days_remaining": 5.0,
        "grant": None,
        "session_expires_at": None,
    }
    assert deployed.stack.notifications() == []


def test_a_refresh_makes_eight_calls_to_aws_at_most_and_two_to_qwen(deployed: Deployed) -> None:
    old = deployed.hold(2 * DAY)

    calls = deployed.calls()

    # The second read is of the session secret, which has no value.
    assert calls.aws == [READ, LEASE, READ, STAGE, PROMOTE, ANNOUNCE, LEASE]
    assert calls.qwen == 2
    result = calls.run.result
    assert result is not None
    assert (result["outcome"], result["grant"]) == ("refreshed", "exchange")
    assert result["days_remaining"] == 7.0
    assert result["session_expires_at"] is None
    current = deployed.stack.current()
    assert result["version_id"] == current.version_id
    assert current.text != old
    assert deployed.qwen.accepts(current.text)
    [previous] = [each for each in deployed.stack.versions() if PREVIOUS in each.labels]
    assert previous.text == old
    assert deployed.stack.notifications() == []


@pytest.mark.parametrize(
    ("file", "outcome"),
    [
        ("refresh.json", "fresh"),
        ("force.json", "refreshed"),
        ("dry_run.json", "fresh"),
        ("check.json", "checked"),
    ],
)
def test_the_events_for_sam_local_invoke_do_what_they_say(
    deployed: Deployed, file: str, outcome: str
) -> None:
    deployed.hold(5 * DAY)
    run = deployed.stack.invoke(json.loads((ROOT / "events" / file).read_text()))
    assert run.result is not None
    assert run.result["outcome"] == outcome


def test_a_json_secret_keeps_its_shape(deployed: Deployed) -> None:
    raw = deployed.qwen.mint(lifetime=DAY)
    deployed.stack.put(json.dumps({"service": "chat", "token": raw}))

    deployed.stack.invoke()

    stored = json.loads(deployed.stack.current().text)
    assert stored.keys() == {"service", "token", "expires_at"}
    assert stored["service"] == "chat"
    assert stored["expires_at"] == deployed.qwen.read(stored["token"])["exp"]
    assert deployed.qwen.accepts(stored["token"])


def test_a_person_who_logs_in_during_a_run_is_not_overwritten(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)
    theirs = deployed.qwen.mint(lifetime=6 * DAY)

    def put_meanwhile(qwen: QwenStandIn, request: scenarios.Request) -> scenarios.Reply | None:
        deployed.stack.put(theirs)
        return scenarios.MINTS_NEWER_CLAIMS.answer(qwen, request)

    deployed.qwen.answer_with(
        scenarios.MINTS_NEWER_CLAIMS, Scenario("races", "is overtaken by a person", put_meanwhile)
    )
    run = deployed.stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "superseded"
    assert deployed.stack.current().text == theirs
    assert run.result["version_id"] == deployed.stack.current().version_id
    assert deployed.stack.notifications() == []


def test_a_promote_whose_answer_was_lost_is_not_a_failure(deployed: Deployed) -> None:
    deployed.hold(2 * DAY)

    with deployed.stack.cloud.relay.interfering(PROMOTE, Loss.OF_THE_ANSWER):
        run = deployed.stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert deployed.qwen.accepts(deployed.stack.current().text)


def test_a_run_that_broke_off_before_its_promotion_is_finished_by_the_next(
    deployed: Deployed,
) -> None:
    # The worst case: the API retires the old token as it issues the new one.
    deployed.hold(2 * DAY)
    deployed.qwen.answer_with(scenarios.RETIRES_OLD, scenarios.ECHOES)
    with deployed.stack.cloud.relay.interfering(PROMOTE, AwsRefusal("InternalServiceError", 500)):
        broken = deployed.stack.invoke()
    assert broken.result is not None
    assert broken.result["outcome"] == "retrying"
    assert not deployed.qwen.accepts(deployed.stack.current().text)

    run = deployed.stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert deployed.qwen.accepts(deployed.stack.current().text)


def test_a_reader_may_read_and_nothing_else(deployed: Deployed, cloud: Cloud) -> None:
    raw = deployed.hold(5 * DAY)
    other = cloud.secretsmanager.create_secret(Name="another", SecretString="x")["ARN"]
    reader = deployed.stack.reader()

    assert reader.get_secret_value(SecretId=deployed.stack.secret_arn)["SecretString"] == raw
    reader.describe_secret(SecretId=deployed.stack.secret_arn)
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.get_secret_value(SecretId=other)
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.put_secret_value(SecretId=deployed.stack.secret_arn, SecretString="x")
    assert deployed.stack.current().labels >= {CURRENT}


def test_the_readmes_snippet_reads_the_token(deployed: Deployed, cloud: Cloud) -> None:
    raw = deployed.hold(5 * DAY)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [snippet] = [each for each in snippets if "import boto3" in each]

    done = subprocess.run(  # noqa: S603 - the README's own
        [sys.executable, "-c", f"{snippet}\nprint(token())"],
        env=cloud.environ(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == raw


def test_alarms_go_off_and_reach_the_topic(deployed: Deployed) -> None:
    end_alarms(deployed.stack)
    deployed.hold(-DAY)

    deployed.stack.invoke()

    states = deployed.stack.alarms()
    names = ("refresh-failed", "login-ending", "token-expired")
    assert {name: states[name] for name in names} == dict.fromkeys(names, "ALARM")
    assert alarm_message(deployed.stack, f"{deployed.stack.name}-token-expired")


# --- sessions -------------------------------------------------------------------------------------


def test_a_fresh_access_token_takes_one_call_to_aws_and_none_to_qwen(newer: Deployed) -> None:
    newer.hold_session()
    newer.stack.put(newer.qwen.issue_access_token())

    calls = newer.calls()

    assert (calls.aws, calls.qwen) == ([READ], 0)
    assert calls.run.result is not None
    assert calls.run.result["outcome"] == "fresh"


def test_an_unchanged_session_takes_seven_calls_to_aws_and_two_to_qwen(
    newer: Deployed,
) -> None:
    credential = newer.hold_session()
    before = newer.stack.session_versions()

    calls = newer.calls()

    assert calls.aws == [READ, LEASE, READ, STAGE, PROMOTE, ANNOUNCE, LEASE]
    assert calls.qwen == 2
    result = calls.run.result
    assert result is not None
    assert (result["outcome"], result["grant"]) == ("refreshed", "refresh_token")
    assert timedelta(days=result["days_remaining"]) <= ACCESS_LIFETIME
    ends_at = datetime.fromisoformat(result["session_expires_at"])
    assert ends_at.timestamp() == pytest.approx(
        (datetime.now(UTC) + newer.sign_in_host.policy.credential_lifetime).timestamp(), abs=60
    )
    assert newer.qwen.accepts(newer.stack.current().text)
    assert newer.stack.session_versions() == before
    assert newer.sign_in_host.spent[newer.sign_in_host.serial_of(credential)] == 1
    assert newer.stack.notifications() == []


@pytest.mark.parametrize("rotation", [Rotation.OLD_STAYS, Rotation.OLD_DIES])
def test_a_changed_credential_costs_two_more_calls_and_is_written_first(
    newer: Deployed, rotation: Rotation
) -> None:
    old = newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(rotation=rotation)

    calls = newer.calls()

    keep = [STAGE, PROMOTE]
    assert calls.aws == [READ, LEASE, READ, *keep, STAGE, PROMOTE, ANNOUNCE, LEASE]
    assert calls.qwen == 2
    assert calls.run.result is not None
    assert calls.run.result["outcome"] == "refreshed"
    [previous] = [each for each in newer.stack.session_versions() if PREVIOUS in each.labels]
    assert previous.text == old
    kept = json.loads(newer.stack.current_session().text)
    assert kept["refresh_token"] == newer.sign_in_host.current()
    assert kept["expires_at"] == int(
        datetime.fromisoformat(calls.run.result["session_expires_at"]).timestamp()
    )


def test_a_login_lasts_through_many_refreshes_with_single_use_credentials(newer: Deployed) -> None:
    newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)

    for _ in range(3):
        run = newer.stack.invoke()
        assert run.result is not None
        assert run.result["outcome"] == "refreshed"
        # As if ten minutes had passed.
        newer.stack.put(newer.qwen.issue_access_token(lifetime=timedelta(minutes=4), has_iat=False))

    assert set(newer.sign_in_host.spent.values()) == {1}
    assert newer.stack.notifications() == []


def test_a_refresh_forced_ten_times_makes_one_version_and_checks_it_nine_times(
    newer: Deployed,
) -> None:
    newer.hold_session()
    before = len(newer.stack.versions())

    runs = [newer.stack.invoke({"force": True}) for _ in range(10)]

    outcomes = [run.result and run.result["outcome"] for run in runs]
    assert outcomes == ["refreshed", *["checked"] * 9]
    assert len(newer.stack.versions()) == before + 1
    assert newer.stack.notifications() == []


def test_a_check_of_a_live_token_writes_nothing_and_notes_when_it_was(newer: Deployed) -> None:
    newer.hold_session()
    version_id = newer.stack.put(newer.qwen.issue_access_token())
    before = newer.stack.versions()

    calls = newer.calls({"check": True})

    # The second read is of the session secret: does the login end soon?
    assert (calls.aws, calls.qwen) == ([READ, LEASE, READ, LEASE], 1)
    assert calls.run.result is not None
    assert calls.run.result["outcome"] == "checked"
    assert newer.stack.versions() == before
    memory = newer.stack.memory()
    assert memory.confirmed_version_id == version_id
    assert memory.confirmed_at is not None


def test_a_check_replaces_a_token_that_was_revoked_on_its_first_day(newer: Deployed) -> None:
    newer.hold_session()
    raw = newer.qwen.issue_access_token()
    newer.stack.put(raw)
    newer.qwen.retire(raw)

    run = newer.stack.invoke({"check": True})

    assert run.result is not None
    assert (run.result["outcome"], run.result["grant"]) == ("refreshed", "refresh_token")
    assert newer.qwen.accepts(newer.stack.current().text)


def test_a_dead_token_that_is_not_due_is_replaced_as_soon_as_possible(
    newer: Deployed,
) -> None:
    newer.hold_session()
    raw = newer.qwen.issue_access_token()
    newer.stack.put(raw)
    newer.qwen.retire(raw)
    newer.sign_in_host.answer_with(BLOCK_SLIDER)
    checked = newer.stack.invoke({"check": True})
    assert checked.error is not None
    [alert] = newer.stack.notifications()
    assert alert.attributes == {"severity": "critical", "reason": "upstream_blocked"}

    newer.sign_in_host.answer_with(ANSWERS)
    run = newer.stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert newer.qwen.accepts(newer.stack.current().text)


def test_a_staged_credential_is_not_lost_and_the_old_one_not_spent_again(
    newer: Deployed,
) -> None:
    credential = newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)
    with newer.stack.cloud.relay.interfering(PROMOTE, AwsRefusal("InternalServiceError", 500)):
        broken = newer.stack.invoke()
    assert broken.error is not None
    [failed] = newer.stack.notifications()
    assert failed.attributes == {"severity": "warning", "reason": "store_failed"}

    run = newer.stack.invoke()

    assert run.result is not None
    assert (run.result["outcome"], run.result["grant"]) == ("refreshed", "refresh_token")
    assert newer.sign_in_host.spent[newer.sign_in_host.serial_of(credential)] == 1
    kept = json.loads(newer.stack.current_session().text)
    assert kept["refresh_token"] == newer.sign_in_host.current()
    [recovery] = newer.stack.notifications()
    assert recovery.document["event"] == "refresh_recovered"


def test_a_run_takes_over_a_dead_runs_lease_and_finds_its_staged_version(
    newer: Deployed,
) -> None:
    credential = newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(
        rotation=Rotation.REUSE_ENDS_LOGIN, demands_headers=False
    )
    # What a run had done when it was killed: the credential is spent, and the next one staged.
    answer = requests.get(
        f"{newer.sign_in_host.base_url}/api/v2/auths/refresh",
        cookies={"refresh_token": credential},
        timeout=10,
    ).json()
    newer.stack.stage_session(json.dumps({"refresh_token": answer["data"]["refresh_token"]}))
    newer.stack.abandon_lease()

    run = newer.stack.invoke()

    assert run.result is not None, run.error
    assert (run.result["outcome"], run.result["grant"]) == ("refreshed", "refresh_token")
    assert newer.sign_in_host.spent[newer.sign_in_host.serial_of(credential)] == 1
    assert newer.stack.notifications() == []


def test_a_sign_in_replaces_a_dead_credential(newer: Deployed) -> None:
    email, password = "owner@example.com", "correct horse battery staple"
    credential = newer.hold_session()
    newer.sign_in_host.set_password(email, password)
    newer.sign_in_host.end_login(credential)
    login = {"refresh_token": credential, "email": email, "password": password, "note": "mine"}
    newer.stack.put_session(json.dumps(login))

    run = newer.stack.invoke()

    assert run.result is not None
    assert (run.result["outcome"], run.result["grant"]) == ("refreshed", "password")
    kept = json.loads(newer.stack.current_session().text)
    assert kept["refresh_token"] == newer.sign_in_host.current() != credential
    assert (kept["email"], kept["password"], kept["note"]) == (email, password, "mine")
    assert newer.stack.notifications() == []


def test_a_session_put_in_during_a_run_is_not_overwritten(newer: Deployed) -> None:
    newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(rotation=Rotation.OLD_DIES)
    theirs = newer.sign_in_host.log_in()

    def put_meanwhile(host: SignInHostStandIn, request: SignInRequest) -> scenarios.Reply | None:
        reply = host.answer(request)
        newer.stack.put_session(theirs)
        return reply

    newer.sign_in_host.answer_with(
        Scenario("races", "is overtaken by a person", put_meanwhile), ANSWERS
    )
    run = newer.stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert newer.sign_in_host.spent[newer.sign_in_host.serial_of(theirs)] == 1
    kept = json.loads(newer.stack.current_session().text)
    assert kept["refresh_token"] == newer.sign_in_host.current()
    assert newer.qwen.accepts(newer.stack.current().text)


def test_a_run_that_finds_the_lease_taken_spends_nothing_without_an_error(newer: Deployed) -> None:
    newer.hold_session()
    before = newer.stack.versions()

    with newer.stack.leased():
        calls = newer.calls()

    assert (calls.aws, calls.qwen) == ([READ, LEASE], 0)
    assert calls.run.result is not None
    assert calls.run.result["outcome"] == "leased"
    assert newer.stack.versions() == before
    assert newer.stack.notifications() == []


def test_many_runs_at_once_spend_the_credential_once(newer: Deployed) -> None:
    credential = newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)
    others_ended = threading.Event()

    def hold_the_answer(host: SignInHostStandIn, request: SignInRequest) -> scenarios.Reply | None:
        others_ended.wait(LESS_THAN_THE_TIMEOUT)
        return host.answer(request)

    newer.sign_in_host.answer_with(
        Scenario("is slow", "answers when the other runs have ended", hold_the_answer)
    )
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        # So that none of them has to start first.
        list(pool.map(newer.stack.invoke, [{"dry_run": True}] * RUNS_AT_ONCE))
        running = [pool.submit(newer.stack.invoke) for _ in range(RUNS_AT_ONCE)]
        outcomes = []
        for ended in as_completed(running):
            run = ended.result()
            outcomes.append(run.result["outcome"] if run.result else run.error)
            if len(outcomes) == RUNS_AT_ONCE - 1:
                others_ended.set()

    assert outcomes == [*["leased"] * (RUNS_AT_ONCE - 1), "refreshed"]
    assert newer.sign_in_host.spent[newer.sign_in_host.serial_of(credential)] == 1
    assert newer.sign_in_host.current(), "the login goes on"
    assert newer.stack.notifications() == []


def test_runs_that_follow_close_upon_each_other_spend_each_credential_once(
    newer: Deployed,
) -> None:
    newer.hold_session()
    newer.sign_in_host.policy = SessionPolicy(rotation=Rotation.REUSE_ENDS_LOGIN)
    before = len(newer.stack.versions())

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(newer.stack.invoke, [{"force": True}] * 24))

    outcomes = Counter(run.result["outcome"] if run.result else run.error for run in runs)
    assert outcomes["refreshed"] == 1
    assert outcomes.keys() <= {"refreshed", "leased", "checked", "superseded"}
    assert set(newer.sign_in_host.spent.values()) == {1}
    assert len(newer.stack.versions()) == before + 1
    assert newer.stack.notifications() == []


# --- the first token ------------------------------------------------------------------------------


@pytest.fixture(name="newcomer")
def _newcomer(deploy_again: Deploy) -> Iterator[Deployed]:
    """Return a stack just deployed, which nothing was ever put into."""
    with Hosts.started() as hosts:
        parameters = hosts.parameters(
            SecretName="newcomer/token", SessionSecretName="newcomer/session"
        )
        yield Deployed(deploy_again("newcomer", parameters), hosts)


def test_a_new_stack_awaits_a_login_and_gets_its_first_token_with_a_session(
    newcomer: Deployed,
) -> None:
    stack = newcomer.stack

    runs = [stack.invoke() for _ in range(3)]

    for run in runs:
        assert run.result is not None
        assert (run.result["outcome"], run.result["version_id"]) == ("awaiting_token", None)
    [alert] = stack.notifications()
    assert alert.attributes == {"severity": "warning", "reason": "token_missing"}
    assert alert.document["event"] == "refresh_failed"

    stack.put_session(newcomer.sign_in_host.log_in())
    first = stack.invoke()

    assert first.result is not None
    assert (first.result["outcome"], first.result["grant"]) == ("refreshed", "refresh_token")
    assert newcomer.qwen.accepts(stack.current().text), "it is stored bare"
    assert first.result["version_id"] == stack.current().version_id
    assert stack.memory().account == ACCOUNT
    assert stack.notifications() == [], "no recovery follows: nothing had failed"
    second = stack.invoke()
    assert second.result is not None
    assert second.result["outcome"] == "fresh"


# --- the schedules --------------------------------------------------------------------------------


def test_the_schedule_runs_the_function(deployed: Deployed, cloud: Cloud) -> None:
    name = deployed.stack.resources()["RefreshFunctionTimer"]
    schedule = cloud.scheduler.get_schedule(Name=name)
    assert schedule["ScheduleExpression"] == "rate(12 hours)"
    assert schedule["State"] == "ENABLED"
    assert schedule["Target"]["Arn"] == deployed.stack.outputs["RefreshFunctionArn"]
    assert schedule["Target"]["Input"] == "{}"
    assert "CheckTimer" not in deployed.stack.resources(), "an empty CheckSchedule is none"
