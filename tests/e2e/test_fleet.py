"""The deployed fleet: whose tokens are kept, what is told, and that nothing is lost."""

import json
import threading
from collections import Counter
from datetime import timedelta

import pytest

from localcloud import qwen as scenarios
from localcloud.fleet import DAY, SOON, TAG, DeployedFleet
from localcloud.qwen import Reply, Request, Scenario
from localcloud.sign_in_host import Rotation, SessionPolicy
from localcloud.waiting import wait_until
from tests.e2e.conftest import alarm_message, end_alarms

MINUTE = timedelta(minutes=1)


def test_a_sweep_refreshes_what_is_due_and_leaves_all_else_alone(fleet: DeployedFleet) -> None:
    for number in range(12):
        fleet.add(f"due/{number}", left=2 * DAY)
    for number in range(13):
        fleet.add(f"fresh/{number}", left=5 * DAY)
    # Of somebody else, as far as the fleet knows.
    untagged = fleet.qwen.mint(account="other", lifetime=DAY)
    fleet.cloud.secretsmanager.create_secret(Name="other", SecretString=untagged)
    fleet.add("paused", left=DAY, tag="off")
    calls = fleet.cloud.relay.calls
    begun = len(calls)

    result = fleet.sweep()
    fleet.drain()

    assert result == {
        "seen": 25,
        "queued": 12,
        "skipped": 13,
        "unreadable": 0,
        "completed": True,
    }
    # The workers make none of these.
    of_sweep = {"secretsmanager:ListSecrets": 1, "secretsmanager:BatchGetSecretValue": 2}
    of_sweep["sqs:SendMessageBatch"] = 2
    made = Counter(calls[begun:])
    assert {name: made[name] for name in of_sweep} == of_sweep
    assert {fleet.days_left(f"due/{number}") for number in range(12)} == {7}
    assert {fleet.days_left(f"fresh/{number}") for number in range(13)} == {5}
    assert fleet.current("other") == untagged
    assert fleet.days_left("paused") == 1
    assert fleet.alerts() == []


def test_the_sessions_of_members_are_refreshed(fleet: DeployedFleet) -> None:
    fleet.sign_in_host.policy = SessionPolicy(rotation=Rotation.OLD_DIES)
    fleet.add_session("pool/alice", left=4 * MINUTE)
    fleet.add_session("pool/bob")

    result = fleet.sweep()
    fleet.drain()

    assert (result["seen"], result["queued"]) == (2, 2)
    for name in ("pool/alice", "pool/bob"):
        assert fleet.minutes_left(name) == 15
        session = json.loads(fleet.current(f"{name}/session"))
        assert fleet.sign_in_host.current(name) == session["refresh_token"], "it was kept"
    assert fleet.alerts() == []


def test_a_pool_of_sign_ins_is_let_in_one_by_one_and_nobody_is_alarmed(
    fleet: DeployedFleet,
) -> None:
    names = [f"pool/{number}" for number in range(4)]
    for name in names:
        fleet.sign_in_host.set_password(f"{name}@example.com", "hunter2-hunter2", account=name)
        value = {"email": f"{name}@example.com", "password": "hunter2-hunter2"}
        fleet.add_session(name, value=json.dumps(value))
    fleet.forget("fleet:sign-in")

    fleet.sweep()
    fleet.wait_for_postponed(3)

    assert fleet.sign_in_host.sign_in_attempts == 1
    [served] = [name for name in names if fleet.has_value(name)]
    assert fleet.minutes_left(served) == 15
    waits = [
        line["secret_id"]
        for line in fleet.stack.log_documents("worker")
        if line.get("message") == "postponed: waits for its turn to sign in"
    ]
    assert len(set(waits)) >= 3
    assert fleet.alerts() == []
    # What waits is not queued a second time. What was served is, for when it falls due.
    assert fleet.sweep()["queued"] == 1


def test_one_blocked_address_is_one_incident_with_the_number_of_members(
    fleet: DeployedFleet,
) -> None:
    for number in range(15):
        fleet.add(f"due/{number}", left=2 * DAY)
    fleet.qwen.answer_with(scenarios.BLOCK_PAGE)

    fleet.forget("fleet:upstream")
    with fleet.workers_resting():
        fleet.send_jobs([f"due/{number}" for number in range(15)], postponed=3)
    fleet.drain()

    alerts = [each.document for each in fleet.alerts()]
    assert [each["severity"] for each in alerts] == ["notice"]
    [failure] = alerts[0]["failures"]
    assert failure["reason"] == "upstream_blocked"
    assert "members of the fleet have met this so far" in failure["message"]


def test_what_is_wrong_with_a_session_is_told_by_name_once(fleet: DeployedFleet) -> None:
    client = fleet.cloud.secretsmanager
    fleet.add_session("good", left=4 * MINUTE)
    fleet.add_session("other", left=4 * MINUTE, value=fleet.sign_in_host.log_in("mallory"))
    fleet.add_session("shapeless", left=4 * MINUTE, value="no login")
    fleet.add_session("typo", left=4 * MINUTE)
    client.tag_resource(SecretId="typo", Tags=[{"Key": TAG, "Value": "sesion"}])

    fleet.sweep()
    fleet.drain()

    assert fleet.minutes_left("good") == 15
    assert sorted(fleet.told()) == [
        ("other", "wrong_account"),
        ("shapeless", "session_malformed"),
        ("typo", "config_invalid"),
    ]


def test_a_sweep_on_which_nothing_is_due_makes_a_call_for_twenty_secrets(
    fleet: DeployedFleet,
) -> None:
    for number in range(40):
        fleet.add(f"fresh/{number}", left=5 * DAY)
    calls = fleet.cloud.relay.calls
    begun = len(calls)

    result = fleet.sweep()

    assert (result["seen"], result["queued"]) == (40, 0)
    assert calls[begun:] == [
        "secretsmanager:ListSecrets",
        *["secretsmanager:BatchGetSecretValue"] * 2,
        # Whether there is an incident of sweeps that is over.
        *["dynamodb:UpdateItem"] * 2,
    ]


def test_whatever_is_wrong_with_a_member_is_told_by_name_once_and_blocks_no_other(
    fleet: DeployedFleet,
) -> None:
    client = fleet.cloud.secretsmanager
    fleet.add("good", left=DAY)
    fleet.add("dead", left=2 * DAY)
    fleet.qwen.revoke("dead")
    fleet.add("password", value="a database's, and no token")
    fleet.add("config", value='{"host": "db", "port": 1}')
    fleet.add("empty")
    deleted = fleet.add("deleted", left=DAY)
    client.delete_secret(SecretId=deleted)
    fleet.forbid(fleet.add("foreign", left=DAY))

    result = fleet.sweep()
    fleet.drain()

    assert (result["queued"], result["unreadable"]) == (7, 5)
    assert fleet.days_left("good") == 7
    told = fleet.told()
    assert sorted(told) == [
        ("config", "token_missing"),
        ("dead", "token_rejected"),
        ("deleted", "store_failed"),
        ("empty", "token_missing"),
        ("foreign", "store_failed"),
        ("password", "token_malformed"),
    ]
    assert fleet.current("config") == '{"host": "db", "port": 1}'
    assert fleet.queued("FleetDeadLetterQueueUrl")["Visible"] == 0


def test_while_the_api_is_down_jobs_are_put_off_and_nobody_is_alarmed(fleet: DeployedFleet) -> None:
    for number in range(15):
        fleet.add(f"due/{number}", left=2 * DAY)
    fleet.qwen.answer_with(scenarios.BLOCK_PAGE)
    asked = len(fleet.qwen.requests)

    with fleet.workers_resting():
        fleet.sweep()
        wait_until(
            lambda: fleet.queued()["Visible"] == 15,
            within=SOON,
            expected="every job to wait for a worker",
            seen=lambda: str(fleet.queued()),
        )
    fleet.wait_for_postponed(15)

    # Two batches, and in each what was under way when the first answer came.
    assert 2 <= len(fleet.qwen.requests) - asked <= 8
    assert fleet.alerts() == []


def test_a_worker_that_is_killed_loses_nothing_and_tells_nothing_twice(
    fleet: DeployedFleet,
) -> None:
    names = [f"due/{number}" for number in range(8)]
    arns = [fleet.add(name, left=2 * DAY) for name in (*names, "dead")]
    fleet.qwen.revoke("dead")
    counting, killed = threading.Lock(), threading.Event()
    asked = len(fleet.qwen.requests)

    def kill_meanwhile(qwen: scenarios.QwenStandIn, request: Request) -> Reply | None:
        if request.account == "dead":
            # Before that, no worker knows of a failure that it could have told.
            assert killed.wait(SOON.total_seconds())
        with counting:
            if len(qwen.requests) - asked >= 5 and not killed.is_set():
                assert fleet.kill_workers() >= 1
                # AWS delivers again when the leases of the dead are long over.
                for arn in arns:
                    fleet.forget(arn)
                killed.set()
        return scenarios.MINTS_NEWER_CLAIMS.answer(qwen, request)

    fleet.qwen.answer_with(Scenario("killing", "the workers die meanwhile", kill_meanwhile))

    with fleet.redelivering_after(10):
        fleet.sweep()
        fleet.drain()

    assert killed.is_set()
    assert {fleet.days_left(name) for name in names} == {7}
    assert fleet.told() == [("dead", "token_rejected")]
    assert fleet.queued("FleetDeadLetterQueueUrl")["Visible"] == 0


@pytest.mark.nightly
def test_the_sessions_of_a_killed_worker_are_refreshed_before_their_tokens_expire(
    fleet: DeployedFleet,
) -> None:
    """Nothing is made faster here: it takes as long as AWS's timeouts are set to."""
    left = 4 * MINUTE
    names = [f"pool/{number}" for number in range(8)]
    for name in names:
        fleet.add_session(name, left=left)
    counting, killed = threading.Lock(), threading.Event()

    def kill_at_once(qwen: scenarios.QwenStandIn, request: Request) -> Reply | None:
        with counting:
            if not killed.is_set():
                assert fleet.kill_workers() >= 1
                killed.set()
        return scenarios.MINTS_NEWER_CLAIMS.answer(qwen, request)

    fleet.qwen.answer_with(Scenario("killing", "the workers die at once", kill_at_once))

    fleet.sweep()
    fleet.drain(within=left)

    assert killed.is_set()
    assert min(fleet.minutes_left(name) for name in names) > 10
    assert fleet.alerts() == []


def test_what_crashes_three_times_is_put_aside_and_can_be_put_back(fleet: DeployedFleet) -> None:
    with fleet.redelivering_after(1):
        fleet.cloud.sqs.send_message(
            QueueUrl=fleet.stack.outputs["FleetQueueUrl"], MessageBody="nothing a worker knows"
        )
        wait_until(
            lambda: fleet.queued("FleetDeadLetterQueueUrl")["Visible"] == 1,
            within=SOON,
            expected="the message among the dead letters",
            seen=lambda: str([fleet.queued(), fleet.queued("FleetDeadLetterQueueUrl")]),
        )
    # Not one of them for all: its jobs would wait for each other's lease.
    members = {name: fleet.add(name, left=DAY) for name in map("pool/{}".format, range(12))}
    dead = fleet.stack.outputs["FleetDeadLetterQueueUrl"]
    fleet.cloud.sqs.purge_queue(QueueUrl=dead)
    for arn in members.values():
        fleet.cloud.sqs.send_message(
            QueueUrl=dead,
            MessageBody=json.dumps({"secret_id": arn, "obstacle": None, "postponed": 0}),
        )

    done = fleet.stack.command_line("redrive", "--json")
    fleet.drain()

    assert json.loads(done.stdout) == {"redriven": 12}
    assert fleet.queued("FleetDeadLetterQueueUrl")["Visible"] == 0
    assert {fleet.days_left(name) for name in members} == {7}


def test_a_fleet_too_large_for_one_invocation_is_looked_through_to_its_end(
    fleet: DeployedFleet,
) -> None:
    for number in range(101):
        fleet.add(f"fresh/{number:03}", left=5 * DAY)
    fleet.add("zz/last", left=2 * DAY)

    with fleet.one_page_an_invocation():
        first = fleet.sweep()
        fleet.wait_for_refresh("zz/last")

    assert (first["seen"], first["completed"]) == (100, False)
    [ended] = [
        line
        for line in fleet.stack.log_documents("dispatch")
        if line.get("message") == "sweep ended" and line.get("seen") == 102
    ]
    assert (ended["queued"], ended["skipped"]) == (1, 101)


@pytest.mark.parametrize(
    ("alarm", "left"), [("fleet-login-ending", DAY / 2), ("fleet-token-expired", -DAY / 2)]
)
def test_a_token_of_the_fleet_that_ends_raises_its_alarm(
    alarm: str, left: timedelta, fleet: DeployedFleet
) -> None:
    end_alarms(fleet.stack)
    fleet.add("dying", left=left)
    fleet.qwen.revoke("dying")

    fleet.sweep()
    fleet.drain()
    assert fleet.stack.alarms()[alarm] == "ALARM"

    told = alarm_message(fleet.stack, f"pool.{alarm}")
    assert "make status STACK=pool ARGS=--fleet" in told.document["AlarmDescription"]


def test_the_schedule_runs_dispatch(fleet: DeployedFleet) -> None:
    timer = fleet.cloud.scheduler.get_schedule(
        Name=fleet.stack.resources()["DispatchFunctionTimer"]
    )
    assert timer["Target"]["Arn"].endswith(fleet.stack.outputs["DispatchFunctionName"])
    assert json.loads(timer["Target"]["Input"]) == {}


def test_the_keepers_own_secret_is_none_of_the_fleets(fleet: DeployedFleet) -> None:
    fleet.stack.put(fleet.qwen.mint(lifetime=DAY))
    assert fleet.sweep()["seen"] == 0


@pytest.mark.parametrize(
    ("alarm", "metric", "queue", "bad"),
    [
        (
            "fleet-dead-letters",
            "ApproximateNumberOfMessagesVisible",
            "FleetDeadLetterQueueUrl",
            1,
        ),
        ("fleet-queue-old", "ApproximateAgeOfOldestMessage", "FleetQueueUrl", 7201),
    ],
)
def test_what_sqs_measures_of_the_queues_raises_alarms(
    alarm: str, metric: str, queue: str, bad: float, fleet: DeployedFleet
) -> None:
    # As SQS would: the emulator's does not measure its queues.
    [measured] = fleet.cloud.cloudwatch.describe_alarms(AlarmNames=[f"pool.{alarm}"])[
        "MetricAlarms"
    ]
    name = fleet.stack.outputs[queue].rpartition("/")[2]
    assert (measured["Namespace"], measured["MetricName"]) == ("AWS/SQS", metric)
    assert measured["Dimensions"] == [{"Name": "QueueName", "Value": name}]

    fleet.measure(metric, queue=name, value=bad)
    assert fleet.stack.alarms()[alarm] == "ALARM"
    assert alarm_message(fleet.stack, f"pool.{alarm}")
