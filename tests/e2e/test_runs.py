"""Runs of the deployed function that end well: what is called, stored and returned."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from localcloud import qwen as scenarios
from localcloud.aws import ROOT, Cloud
from localcloud.qwen import QwenStandIn, Scenario
from localcloud.recording_proxy import Loss, Refusal
from localcloud.stack import CURRENT, PREVIOUS
from tests.e2e.conftest import Deployed

DAY = timedelta(days=1)

READ = "secretsmanager:GetSecretValue"
STAGE = "secretsmanager:PutSecretValue"
PROMOTE = "secretsmanager:UpdateSecretVersionStage"
ANNOUNCE = "events:PutEvents"


def test_a_fresh_run_makes_one_call_to_aws_and_none_to_qwen(deployed: Deployed) -> None:
    raw = deployed.hold(5 * DAY)

    run, aws, qwen = deployed.calls()

    assert (aws, qwen) == ([READ], 0)
    assert run.result is not None
    assert run.result == {
        "outcome": "fresh",
        "secret_id": deployed.stack.secret_arn,
        "version_id": deployed.stack.current().version_id,
        "expires_at": datetime.fromtimestamp(deployed.qwen.read(raw)["exp"], UTC).isoformat(),
        "days_remaining": 5.0,
    }
    assert deployed.stack.notifications() == []


def test_a_refresh_makes_one_read_two_calls_to_qwen_one_stage_one_promote_and_one_event(
    deployed: Deployed,
) -> None:
    old = deployed.hold(2 * DAY)

    run, aws, qwen = deployed.calls()

    assert (aws, qwen) == ([READ, STAGE, PROMOTE, ANNOUNCE], 2)
    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert run.result["days_remaining"] == 7.0
    current = deployed.stack.current()
    assert run.result["version_id"] == current.version_id
    assert current.text != old
    assert deployed.qwen.accepts(current.text)
    [previous] = [each for each in deployed.stack.versions() if PREVIOUS in each.labels]
    assert previous.text == old
    assert deployed.stack.notifications() == []


@pytest.mark.parametrize(
    ("file", "outcome"),
    [("refresh.json", "fresh"), ("force.json", "refreshed"), ("dry_run.json", "fresh")],
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


def test_a_promote_whose_answer_was_lost_is_no_failure(deployed: Deployed) -> None:
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
    with deployed.stack.cloud.relay.interfering(PROMOTE, Refusal("InternalServiceError", 500)):
        broken = deployed.stack.invoke()
    assert broken.result is None
    assert not deployed.qwen.accepts(deployed.stack.current().text)
    deployed.stack.notifications()

    run = deployed.stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert deployed.qwen.accepts(deployed.stack.current().text)
    assert deployed.stack.notifications() == []


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
    deployed.hold(DAY / 2)
    deployed.qwen.answer_with(scenarios.TOKEN_DEAD)

    deployed.stack.invoke()

    states = deployed.stack.alarms()
    assert (states["refresh-failed"], states["token-expiring"]) == ("ALARM", "ALARM")
    gone_off = {
        each.document["AlarmName"].removeprefix(f"{deployed.stack.name}-")
        for each in deployed.stack.notifications()
        if each.is_alarm and each.document["NewStateValue"] == "ALARM"
    }
    # Another test's failure may have set one off before.
    assert "token-expiring" in gone_off


def test_the_schedule_runs_the_function(deployed: Deployed, cloud: Cloud) -> None:
    name = deployed.stack.resources()["RefreshFunctionTimer"]
    schedule = cloud.scheduler.get_schedule(Name=name)
    assert schedule["ScheduleExpression"] == "rate(6 hours)"
    assert schedule["State"] == "ENABLED"
    assert schedule["Target"]["Arn"] == deployed.stack.outputs["RefreshFunctionArn"]
    assert schedule["Target"]["Input"] == "{}"
