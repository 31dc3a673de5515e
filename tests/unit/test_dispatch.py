"""Dispatch: which secrets of the fleet it queues, how it goes on, and what it says."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

import dispatch
from qwen_token import ConfigError, QwenTokenError, StoreError, Token
from tests.fake_lambda_context import FakeLambdaContext
from tests.fake_secrets_manager import SecretsManagerCall, arn
from tests.fakes import Recorder
from tests.minting import NOW, pieces, token
from tests.unit.fleet_fakes import QUEUE, TAG, FleetUnderTest, read_output

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
ENVIRON = {
    "STACK_NAME": "my-stack",
    "FLEET_TAG": TAG,
    "FLEET_SCHEDULE": "rate(10 minutes)",
    "CHECK_SCHEDULE": "",
    "QUEUE_URL": QUEUE,
    "STATE_TABLE": "state",
    "ALERT_AFTER_MINUTES": "60",
    "REFRESH_BEFORE_DAYS": "3",
    "CRITICAL_DAYS": "1",
    "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
}
BEGUN = {
    "begun_at": int(NOW.timestamp()),
    "seen": 0,
    "queued": 0,
    "skipped": 0,
    "unreadable": 0,
}
FRESH, STALE = token(left=5 * DAY), token(left=2 * DAY)


@dataclass
class Run:
    """One invocation, and what it wrote."""

    result: dict[str, object] | None
    error: Exception | None
    metrics: dict[str, list[float]]
    log: list[dict[str, Any]]


@pytest.fixture(name="world")
def _world() -> FleetUnderTest:
    return FleetUnderTest(Recorder(ENVIRON))


@pytest.fixture(name="run")
def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(
        world: FleetUnderTest, event: object = None, context: FakeLambdaContext | None = None
    ) -> Run:
        # The logger took hold of standard output when it was made; pytest replaces that since.
        for log_handler in logging.getLogger(dispatch.logger.service).handlers:
            monkeypatch.setattr(log_handler, "stream", sys.stdout)
        result, error = None, None
        decorated = dispatch.metrics.log_metrics(
            lambda given, context: dispatch.run(given, context, world.clients())
        )
        try:
            result = decorated({} if event is None else event, context or FakeLambdaContext())
        except (QwenTokenError, ClientError) as caught:
            error = caught
        return Run(result, error, *read_output(capsys.readouterr().out))

    return run


Runner = Callable[..., Run]


def test_only_what_is_due_is_queued(world: FleetUnderTest, run: Runner) -> None:
    world.secrets.add("fresh", FRESH.raw)
    world.secrets.add("stale", STALE.raw)
    world.secrets.add("expired", token(left=-DAY).raw)
    world.secrets.add("on the boundary", token(left=3 * DAY).raw)

    done = run(world)

    assert world.queue.secret_ids == [arn("expired"), arn("stale"), arn("on the boundary")], (
        "the most urgent first"
    )
    assert done.result == {
        "seen": 4,
        "queued": 3,
        "skipped": 1,
        "unreadable": 0,
        "completed": True,
    }
    assert world.secrets.calls == ["ListSecrets", "BatchGetSecretValue"]


def test_what_cannot_be_read_is_queued_so_that_a_worker_tells_of_it(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("malformed", "something else")
    world.secrets.add("valueless")
    world.secrets.add("foreign", "…", refuses="AccessDeniedException")
    world.secrets.add("deleted", FRESH.raw, deleted_at=NOW)

    done = run(world)

    assert done.result is not None
    assert (done.result["queued"], done.result["unreadable"]) == (4, 4)
    obstacles = {body["secret_id"]: body["obstacle"] for body, _ in world.queue.sent}
    assert {secret_id for secret_id, obstacle in obstacles.items() if obstacle} == {arn("deleted")}
    named = {line["secret_id"] for line in done.log if line["message"] == "unreadable"}
    assert named == set(obstacles), "each is in the log by name"
    assert world.topic.documents == [], "the worker tells of them, once"


def test_a_sweep_on_which_nothing_is_due_queues_nothing(world: FleetUnderTest, run: Runner) -> None:
    for number in range(20):
        world.secrets.add(f"s{number}", FRESH.raw)

    done = run(world)

    assert world.queue.sent == []
    assert world.secrets.calls == ["ListSecrets", "BatchGetSecretValue"]
    assert done.metrics == {
        "TokenDaysRemaining": [5],
        "SessionDaysRemaining": [5],
        "RunSucceeded": [20],
        "SweepCompleted": [1],
        "RefreshFailed": [0],
    }


def test_the_days_of_those_that_stay_as_they_are_are_counted_by_the_least(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("longest", token(left=6 * DAY).raw)
    world.secrets.add("shortest", token(left=4 * DAY).raw)
    # Its worker says what is left after its run.
    world.secrets.add("due", token(left=DAY / 2).raw)

    assert run(world).metrics["TokenDaysRemaining"] == [4]


def test_an_empty_fleet_is_looked_through_at_once(world: FleetUnderTest, run: Runner) -> None:
    done = run(world)

    assert done.result is not None
    assert done.result["completed"] is True
    assert done.metrics == {"SweepCompleted": [1], "RefreshFailed": [0]}


def test_jobs_are_spread_over_the_time_that_their_writes_may_take(
    world: FleetUnderTest, run: Runner
) -> None:
    for number in range(400):
        world.secrets.add(f"s{number}", STALE.raw)

    run(world)

    delays = [seconds for _, seconds in world.queue.sent]
    assert len(delays) == 400
    # Two writes each, forty a second.
    assert all(0 <= seconds <= number // 20 + 1 for number, seconds in enumerate(delays))
    assert len(set(delays)) > 10


@pytest.mark.parametrize(("taken", "least", "most"), [(0, 5, 20), (15, 1, 5), (20, 0, 0)])
def test_the_time_that_a_sweep_has_taken_counts_as_time_to_write_in(
    taken: int, least: int, most: int, world: FleetUnderTest, run: Runner
) -> None:
    for number in range(100):
        world.secrets.add(f"s{number}", STALE.raw)
    # 400 of which the last would have its turn 20 s after the sweep began.
    begun = {**BEGUN, "begun_at": BEGUN["begun_at"] - taken, "seen": 300, "queued": 300}

    run(world, {"continue": {"after": "0", **begun}})

    delays = [seconds for _, seconds in world.queue.sent]
    assert len(delays) == 100
    assert least <= max(delays) <= most


def test_no_job_is_delayed_for_longer_than_sqs_delays(world: FleetUnderTest, run: Runner) -> None:
    for number in range(20):
        world.secrets.add(f"s{number}", STALE.raw)
    begun = {**BEGUN, "seen": 10**6, "queued": 10**6}

    run(world, {"continue": {"after": "0", **begun}})

    delays = [seconds for _, seconds in world.queue.sent]
    assert max(delays) == 900


def test_what_does_not_fit_into_its_time_goes_on_in_another_invocation(
    world: FleetUnderTest, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_PART", 10)
    for number in range(35):
        world.secrets.add(f"s{number:02}", STALE.raw if number % 5 == 0 else FRESH.raw)

    # Time for two parts, and not for a third.
    first = run(world, context=FakeLambdaContext(120_000, each_look=31_000))
    [asked] = world.functions.invoked
    second = run(world, json.loads(asked["Payload"]))

    assert first.result == {
        "seen": 20,
        "queued": 4,
        "skipped": 16,
        "unreadable": 0,
        "completed": False,
    }
    assert asked["FunctionName"] == FakeLambdaContext.function_name
    assert asked["InvocationType"] == "Event"
    assert "SweepCompleted" not in first.metrics
    assert second.result == {
        "seen": 35,
        "queued": 7,
        "skipped": 28,
        "unreadable": 0,
        "completed": True,
    }
    assert second.metrics["SweepCompleted"] == [1]
    assert second.metrics["RunSucceeded"] == [8, 4], "each part counts what it saw itself"
    assert world.queue.secret_ids == [arn(f"s{number:02}") for number in range(0, 35, 5)]
    assert len(world.functions.invoked) == 1


def test_even_without_time_a_part_is_done_so_that_a_sweep_always_ends(
    world: FleetUnderTest, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_PART", 1)
    for number in range(3):
        world.secrets.add(f"s{number}", STALE.raw)

    event: object = {}
    for _ in range(3):
        run(world, event, FakeLambdaContext(0))
        event = json.loads(world.functions.invoked[-1]["Payload"])

    assert world.queue.secret_ids == [arn("s0"), arn("s1"), arn("s2")]
    assert len(world.functions.invoked) == 2


@pytest.mark.parametrize(
    "event",
    [
        [],
        "sweep",
        {"force": True},
        {"continue": {}},
        {"continue": "x"},
        {"continue": {"after": "x"}},
        {"continue": {"after": 1, **BEGUN}},
        {"continue": {"after": "x", **BEGUN, "seen": True}},
        {"continue": {"after": "x", **BEGUN, "begun_at": "2026-11-25"}},
        {"continue": {"after": "x", **BEGUN, "y": 0}},
        {"continue": {"after": "x", **BEGUN}, "y": 0},
        {"continue": {"after": "", **BEGUN}},
        {"continue": {"after": "x" * 4097, **BEGUN}},
        {"continue": {"after": "call this\nnumber", **BEGUN}},
        {"continue": {"after": "x", **BEGUN, "queued": -1}},
        {"continue": {"after": "x", **BEGUN, "queued": 10**400}},
        {"continue": {"after": "x", **BEGUN, "queued": 1.0}},
        {"continue": {"after": "x", **BEGUN, "begun_at": 0}},
        {"continue": {"after": "x", **BEGUN, "begun_at": -(10**400)}},
        {"continue": {"after": "x", **BEGUN, "begun_at": BEGUN["begun_at"] + 86_400}},
        {"continue": {"after": "x", **BEGUN, "begun_at": BEGUN["begun_at"] - 2 * 86_400}},
    ],
    ids=lambda event: str(event)[:80],
)
def test_an_event_that_is_none_of_its_own_is_refused(
    event: object, world: FleetUnderTest, run: Runner
) -> None:
    done = run(world, event)

    assert isinstance(done.error, ConfigError)
    assert str(done.error).startswith("the event should be an empty JSON object")
    assert world.secrets.calls == []


def test_a_sweep_that_fails_once_is_a_notice_and_the_next_one_a_warning_that_is_raised(
    world: FleetUnderTest, run: Runner
) -> None:
    refused = ClientError({"Error": {"Code": "AccessDeniedException"}}, "ListSecrets")
    world.secrets.fails_with = refused

    first = run(world)
    world.now += MINUTE * 10
    second = run(world)
    world.now += MINUTE * 10
    third = run(world)

    assert first.result is not None
    assert first.result["completed"] is False
    assert first.metrics == {"RefreshFailed": [0, 1]}
    assert isinstance(second.error, StoreError)
    assert isinstance(third.error, StoreError)
    assert [each["severity"] for each in world.topic.documents] == ["notice", "warning"]
    [failure] = world.topic.documents[1]["failures"]
    assert (failure["reason"], failure["secret_id"]) == ("store_failed", None)


def test_the_first_sweep_that_ends_well_says_that_the_trouble_is_over_and_only_once(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.fails_with = ClientError({"Error": {"Code": "InternalFailure"}}, "ListSecrets")
    run(world)
    world.secrets.fails_with = None

    for _ in range(2):
        world.now += MINUTE * 10
        assert run(world).metrics["SweepCompleted"] == [1]

    assert [each["event"] for each in world.topic.documents] == [
        "refresh_failed",
        "refresh_recovered",
    ]


def failing_reads(world: FleetUnderTest, name: str, *, times: int) -> None:
    """Let reading the batch of this member fail so often."""
    left = [times]

    def read_most(call: SecretsManagerCall) -> None:
        if arn(name) in call.request.get("SecretIdList", ()) and left[0]:
            left[0] -= 1
            raise ClientError({"Error": {"Code": "InternalServiceError"}}, call.operation)

    world.secrets.before = read_most


def test_a_batch_that_could_not_be_read_is_read_again_at_the_end_of_the_sweep(
    world: FleetUnderTest, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_PART", 20)
    for number in range(60):
        world.secrets.add(f"s{number:02}", STALE.raw)
    failing_reads(world, "s25", times=1)

    done = run(world)

    assert done.error is None
    assert world.topic.documents == []
    others = [arn(f"s{number:02}") for number in (*range(20), *range(40, 60))]
    failed = [arn(f"s{number:02}") for number in range(20, 40)]
    assert world.queue.secret_ids == [*others, *failed], "those behind it did not wait"
    assert done.result == {
        "seen": 60,
        "queued": 60,
        "skipped": 0,
        "unreadable": 0,
        "completed": True,
    }


def test_a_batch_that_cannot_be_read_twice_is_told_at_the_end_and_holds_up_no_other(
    world: FleetUnderTest, run: Runner
) -> None:
    for number in range(60):
        world.secrets.add(f"s{number:02}", STALE.raw)
    world.secrets.add("t-deleted", STALE.raw, deleted_at=NOW)
    failing_reads(world, "s25", times=2)

    done = run(world)

    assert done.result is not None
    assert done.result["completed"] is False
    assert "SweepCompleted" not in done.metrics
    queued = [f"s{number:02}" for number in (*range(20), *range(40, 60))]
    assert sorted(world.queue.secret_ids) == sorted([*map(arn, queued), arn("t-deleted")])
    [document] = world.topic.documents
    assert [each["reason"] for each in document["failures"]] == ["store_failed"]
    unread = [line["secret_id"] for line in done.log if line["message"] == "unread"]
    assert unread == [arn(f"s{number:02}") for number in range(20, 40)]


def test_where_a_page_of_the_list_fails_those_before_it_are_looked_at(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.page_size = 10
    for number in range(30):
        world.secrets.add(f"s{number:02}", STALE.raw)
    world.secrets.add("x/session", "…", tags={TAG: "session"}, created_at=NOW - DAY)

    def list_two_pages(call: SecretsManagerCall) -> None:
        if call.request.get("NextToken") == "20":
            raise ClientError({"Error": {"Code": "InternalServiceError"}}, call.operation)

    world.secrets.before = list_two_pages

    done = run(world)

    assert world.queue.secret_ids == [arn(f"s{number:02}") for number in range(20)]
    assert done.result is not None
    assert done.result["completed"] is False


def test_an_environment_that_is_off_is_told_as_far_as_the_topic_is_known(
    world: FleetUnderTest, run: Runner
) -> None:
    world.environ["CRITICAL_DAYS"] = "4"

    done = run(world)

    assert isinstance(done.error, ConfigError)
    assert "CRITICAL_DAYS should not be more than REFRESH_BEFORE_DAYS" in str(done.error)
    [document] = world.topic.documents
    assert document["severity"] == "critical"
    assert world.queue.sent == []


def test_without_a_topic_a_failure_is_in_the_log_and_raised(
    world: FleetUnderTest, run: Runner
) -> None:
    del world.environ["ALERT_TOPIC_ARN"]

    done = run(world)

    assert isinstance(done.error, ConfigError)
    assert [line["message"] for line in done.log] == [
        "run failed",
        "no alert could be published: the environment names no topic",
    ]


def test_a_failing_publish_does_not_hide_the_failure(world: FleetUnderTest, run: Runner) -> None:
    world.environ["CRITICAL_DAYS"] = "none"
    world.topic.fails_with = RuntimeError("no topic")

    done = run(world)

    assert isinstance(done.error, ConfigError)
    assert done.log[-1]["message"] == "the alert could not be published"


@pytest.mark.parametrize("at_fault", [False, True], ids=["the queue", "the sender"])
def test_a_message_that_the_queue_refuses_makes_the_sweep_fail_when_the_others_are_queued(
    *, at_fault: bool, world: FleetUnderTest, run: Runner
) -> None:
    for number in range(30):
        world.secrets.add(f"s{number}", STALE.raw)
    world.queue.refuses = {arn("s17"): 2}
    world.queue.sender_at_fault = at_fault

    done = run(world)

    [document] = world.topic.documents
    [failure] = document["failures"]
    assert failure["message"] == "SQS could not queue the jobs: Refused"
    assert done.result is not None
    assert done.result["queued"] == 29
    others = {arn(f"s{number}") for number in range(30)} - {arn("s17")}
    assert Counter(world.queue.secret_ids) == Counter(others)


@pytest.mark.parametrize(
    "problem",
    [FileNotFoundError(2, "hunter2"), UnicodeError("hunter2"), ResponseParserError("hunter2")],
    ids=lambda problem: type(problem).__name__,
)
@pytest.mark.parametrize("service", ["SQS", "Lambda"])
def test_whatever_keeps_a_sweep_from_going_on_is_told(
    problem: Exception,
    service: str,
    world: FleetUnderTest,
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "_PART", 1)
    for number in range(3):
        world.secrets.add(f"s{number}", STALE.raw)
    if service == "SQS":
        world.queue.fails_with = problem
    else:
        world.functions.fails_with = problem

    done = run(world, context=FakeLambdaContext(1_000))

    assert done.metrics["RefreshFailed"] == [0, 1]
    assert "SweepCompleted" not in done.metrics
    [document] = world.topic.documents
    assert type(problem).__name__ in document["failures"][0]["message"]
    assert "hunter2" not in json.dumps([document, done.log])


def test_a_message_that_the_queue_could_not_take_is_sent_once_more(
    world: FleetUnderTest, run: Runner
) -> None:
    for number in range(30):
        world.secrets.add(f"s{number}", STALE.raw)
    world.queue.refuses = {arn("s17"): 1}

    done = run(world)

    assert done.error is None
    assert Counter(world.queue.secret_ids) == Counter(arn(f"s{number}") for number in range(30))


def test_it_reads_the_environment_that_the_template_sets(
    world: FleetUnderTest, run: Runner
) -> None:
    run(world)
    world.environ["REFRESH_BEFORE_DAYS"] = ""
    run(world)

    # The change events are the workers'.
    assert world.environ.asked - {"EVENT_BUS_ARN"} == ENVIRON.keys()


def test_no_token_and_no_part_of_one_is_in_anything_that_dispatch_says(
    world: FleetUnderTest, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, held in (("fresh", FRESH), ("stale", STALE)):
        world.secrets.add(name, held.raw)
    world.secrets.add("pasted badly", FRESH.raw.replace(".", "_"))

    dispatch.run({}, FakeLambdaContext(), world.clients())  # type: ignore[arg-type]
    dispatch.metrics.clear_metrics()

    said = capsys.readouterr().out + json.dumps(world.queue.sent)
    assert not any(piece in said for held in (FRESH, STALE) for piece in pieces(held.raw))


# --- what falls due before the next sweep ---------------------------------------------------------


def test_what_falls_due_before_the_next_sweep_is_queued_with_the_delay_until_then(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("soon", token(left=3 * DAY + 4 * MINUTE).raw)
    world.secrets.add("later", token(left=3 * DAY + 20 * MINUTE).raw)

    done = run(world)

    assert [(body["secret_id"], delay) for body, delay in world.queue.sent] == [(arn("soon"), 241)]
    assert done.metrics["RunSucceeded"] == [2], "readers of both have a token that lives"


def access_token(left: timedelta) -> Token:
    return token(left=left, type="access_token", iat=int(NOW.timestamp()))


def test_an_access_token_is_replaced_in_time_by_sweeps_of_ten_minutes(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("alice", access_token(15 * MINUTE).raw)
    world.secrets.add("alice/session", "…", tags={TAG: "session"})

    run(world)

    [(body, delay)] = world.queue.sent
    assert (body["session_id"], delay) == (arn("alice/session"), 571)
    assert [call.request["SecretIdList"] for call in world.secrets.recorded[1:]] == [[arn("alice")]]


def test_what_is_queued_already_is_not_queued_again(world: FleetUnderTest, run: Runner) -> None:
    world.secrets.add("due", STALE.raw)
    world.secrets.add("unreadable", "…", refuses="AccessDeniedException")
    run(world)
    world.now += 10 * MINUTE

    done = run(world)

    assert len(world.queue.sent) == 2
    assert done.result is not None
    assert (done.result["queued"], done.result["skipped"]) == (0, 2)


def test_a_mark_is_lifted_by_another_version_and_by_time(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("due", STALE.raw)
    run(world)
    world.secrets.hold(arn("due"), token(left=DAY).raw)
    run(world)
    assert len(world.queue.sent) == 2, "another token is another job"

    world.now += 31 * MINUTE
    run(world)
    assert len(world.queue.sent) == 3, "a job that was lost is not waited for"


def test_a_lost_job_of_an_access_token_is_queued_again_once_the_token_has_expired(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("alice", access_token(15 * MINUTE).raw)
    world.secrets.add("bob", STALE.raw)

    sent = []
    for _ in range(3):
        run(world)
        sent.append(sorted(world.queue.secret_ids))
        world.queue.sent.clear()
        world.now += 10 * MINUTE

    # The job was due after 10 minutes, and its mark ended after 15.
    assert sent == [[arn("alice"), arn("bob")], [], [arn("alice")]]


def test_a_job_of_a_token_that_has_expired_is_given_five_minutes(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("expired", token(left=-DAY).raw)

    sent = []
    for _ in range(4):
        run(world)
        sent.append(len(world.queue.sent))
        world.now += 2 * MINUTE

    assert sent == [1, 1, 1, 2]


def test_a_job_is_urgent_if_the_token_expires_before_a_later_sweep_can_help(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("alice", access_token(15 * MINUTE).raw)
    world.secrets.add("expired", token(left=-DAY).raw)
    world.secrets.add("stale", STALE.raw)
    world.secrets.add("unreadable", "something else")

    run(world)

    assert {body["secret_id"]: body["urgent"] for body, _ in world.queue.sent} == {
        arn("alice"): True,
        arn("expired"): True,
        arn("stale"): False,
        arn("unreadable"): False,
    }


def test_a_member_that_is_fresh_for_days_costs_its_share_of_a_batch_read_and_no_write(
    world: FleetUnderTest, run: Runner
) -> None:
    for number in range(20):
        world.secrets.add(f"s{number}", FRESH.raw)

    run(world)

    assert world.secrets.calls == ["ListSecrets", "BatchGetSecretValue"]
    assert {str(call.request["Key"]) for call in world.dynamodb.recorded} == {
        "{'secret_id': {'S': 'fleet:sweep'}}"
    }


def test_without_the_state_table_what_is_due_is_queued_all_the_same(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("due", STALE.raw)
    world.dynamodb.fails_with = ClientError(
        {"Error": {"Code": "InternalServerError"}}, "UpdateItem"
    )

    done = run(world)

    assert world.queue.secret_ids == [arn("due")]
    [document] = world.topic.documents
    assert "DynamoDB could not" in document["failures"][0]["message"]
    assert done.result is not None
    assert done.result["completed"] is False


def test_what_could_not_be_queued_is_queued_by_the_next_sweep(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("due", STALE.raw)
    world.queue.fails_with = RuntimeError("no queue")
    run(world)
    world.queue.fails_with = None
    world.now += 10 * MINUTE

    run(world)

    assert world.queue.secret_ids == [arn("due")]


def test_each_token_that_is_fresh_for_days_is_checked_once_a_day(
    world: FleetUnderTest, run: Runner
) -> None:
    world.environ["CHECK_SCHEDULE"] = "rate(1 day)"
    world.environ["FLEET_SCHEDULE"] = "rate(2 hours)"
    names = [f"s{number}" for number in range(30)]
    for name in names:
        world.secrets.add(name, token(left=20 * DAY).raw)

    by_sweep = []
    for _ in range(12):
        before = len(world.queue.sent)
        run(world)
        by_sweep.append(len(world.queue.sent) - before)
        world.now += 120 * MINUTE

    assert Counter(world.queue.secret_ids) == Counter(map(arn, names))
    assert all(body["check"] and not body["force"] for body, _ in world.queue.sent)
    assert max(by_sweep) < 20, "spread over the day"


def test_without_a_check_schedule_nothing_is_checked(world: FleetUnderTest, run: Runner) -> None:
    world.environ["FLEET_SCHEDULE"] = "rate(12 hours)"
    world.secrets.add("fresh", token(left=20 * DAY).raw)

    run(world)

    assert world.queue.sent == []


def test_only_a_token_that_is_its_own_login_says_when_a_person_is_needed(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("own", token(left=20 * DAY).raw)
    world.secrets.add("beside", token(left=10 * DAY).raw)
    world.secrets.add("beside/session", "…", tags={TAG: "session"})
    world.secrets.add("access", token(left=9 * DAY, type="access_token").raw)

    done = run(world)

    assert done.metrics["TokenDaysRemaining"] == [9]
    assert done.metrics["SessionDaysRemaining"] == [20]


def test_a_session_without_a_member_is_queued_to_be_told_of(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("lost/session", "…", tags={TAG: "session"}, created_at=NOW - DAY)

    run(world)

    [(body, _)] = world.queue.sent
    assert (body["secret_id"], body["obstacle"]) == (arn("lost/session"), "no_member")
    assert "BatchGetSecretValue" not in world.secrets.calls
