"""The worker: what becomes of a batch of jobs, and what is told of it, once."""

import hashlib
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import worker
from jobs import Job, secrets_of
from pace import Pace
from qwen_token import (
    ConfigError,
    RateLimitedError,
    SessionRejectedError,
    Token,
    TokenNotExtendedError,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
)
from qwen_token.errors import ChallengedError
from qwen_token.grants import Granted, Login
from qwen_token.session import Grant
from tests.fake_lambda_context import FakeLambdaContext
from tests.fake_secrets_manager import arn
from tests.fakes import FakeQwen, Recorder
from tests.minting import NOW, pieces, token
from tests.unit.fleet_fakes import QUEUE, TAG, FleetUnderTest, read_output

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
BUS = "arn:aws:events:eu-west-1:111122223333:event-bus/default"
ENVIRON = {
    "STACK_NAME": "my-stack",
    "DISPATCH_FUNCTION": "dispatch",
    "QUEUE_URL": QUEUE,
    "MAXIMUM_CONCURRENCY": "2",
    "API_BASE_URL": "https://chat.qwen.ai",
    "AUTH_BASE_URL": "https://auth.qwen.ai",
    "WEB_VERSION": "0.3.12",
    "USER_AGENT": "Mozilla/5.0 (compatible; tests)",
    "STATE_TABLE": "state",
    "ALERT_AFTER_MINUTES": "60",
    "REFRESH_BEFORE_DAYS": "3",
    "CRITICAL_DAYS": "1",
    "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
    "EVENT_BUS_ARN": BUS,
}


def held_by(name: str, left: timedelta = 2 * DAY) -> Token:
    return token(left=left, account=name)


def renewed(asked: Token) -> Token:
    return token(left=7 * DAY, account=str(asked.account))


def message(name: str, **more: Any) -> dict[str, Any]:
    """Return what SQS delivers for the job of the secret of this name."""
    job = {"secret_id": arn(name), "obstacle": None, "postponed": 0, **more}
    return {
        "messageId": f"message-{name}",
        "receiptHandle": f"receipt-{name}",
        "body": json.dumps(job),
        "eventSource": "aws:sqs",
        "awsRegion": "eu-west-1",
    }


@dataclass
class Run:
    """One invocation, and what came out of it."""

    again: list[str]
    metrics: dict[str, list[float]]
    log: list[dict[str, Any]]
    output: str


Runner = Callable[..., Run]


@pytest.fixture(name="world")
def _world() -> FleetUnderTest:
    return FleetUnderTest(Recorder(ENVIRON), qwen=FakeQwen(renewed))


@pytest.fixture(name="run")
def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    # What another test's process has claimed.
    monkeypatch.setattr(worker, "_claimed", {})

    def run(
        world: FleetUnderTest, *messages: dict[str, Any], context: FakeLambdaContext | None = None
    ) -> Run:
        # The logger took hold of standard output when it was made; pytest replaces that since.
        for log_handler in logging.getLogger(worker.logger.service).handlers:
            monkeypatch.setattr(log_handler, "stream", sys.stdout)
        decorated = worker.metrics.log_metrics(
            lambda event, context: worker.run(event, context, world.clients())
        )
        response = decorated({"Records": list(messages)}, context or FakeLambdaContext())
        output = capsys.readouterr().out
        again = [each["itemIdentifier"] for each in response["batchItemFailures"]]
        return Run(again, *read_output(output), output)

    return run


def test_every_token_of_a_batch_is_refreshed(world: FleetUnderTest, run: Runner) -> None:
    names = [f"s{number}" for number in range(10)]
    for name in names:
        world.secrets.add(name, held_by(name).raw)

    done = run(world, *map(message, names))

    for name in names:
        assert world.secrets.secrets[arn(name)].value == renewed(held_by(name)).raw
    assert done.again == []
    assert done.metrics == {
        "TokenDaysRemaining": [7],
        "SessionDaysRemaining": [7],
        "RunSucceeded": [10],
        "TokenRefreshed": [10],
        "RefreshFailed": [0],
    }
    assert world.topic.documents == []


def test_a_token_that_somebody_refreshed_meanwhile_is_left_alone(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("fresh", held_by("fresh", 6 * DAY).raw)

    done = run(world, message("fresh"))

    assert world.qwen.asked == []
    assert done.metrics["RunSucceeded"] == [1]
    assert done.metrics["TokenRefreshed"] == [0]


def test_one_accounts_failure_touches_no_other_and_is_told_once(
    world: FleetUnderTest, run: Runner
) -> None:
    def answers(asked: Token) -> Token | Exception:
        return TokenRejectedError("refused") if asked.account == "dead" else renewed(asked)

    world.qwen.answers = answers
    for name in ("one", "dead", "two"):
        world.secrets.add(name, held_by(name).raw)
    world.secrets.add("malformed", "something else")
    world.secrets.add("foreign", "…", refuses="AccessDeniedException")

    done = run(world, *map(message, ("one", "dead", "malformed", "foreign", "two")))

    assert done.again == [], "a token that fails is no reason to try again"
    [document] = world.topic.documents
    assert document["severity"] == "critical"
    told = [(each["secret_id"], each["reason"]) for each in document["failures"]]
    assert sorted(told[:2]) == [
        (arn("dead"), "token_rejected"),
        (arn("malformed"), "token_malformed"),
    ], "the gravest come first"
    assert told[2:] == [(arn("foreign"), "store_failed")]
    assert done.metrics == {
        "TokenDaysRemaining": [2],
        "SessionDaysRemaining": [2],
        "RunSucceeded": [2],
        "TokenRefreshed": [2],
        "RefreshFailed": [3],
    }
    assert world.secrets.secrets[arn("dead")].value == held_by("dead").raw


def test_what_can_never_be_kept_is_told_without_a_try(world: FleetUnderTest, run: Runner) -> None:
    world.secrets.add("replica", held_by("replica").raw)

    run(world, message("replica", obstacle="replica_of:us-east-1"))

    [document] = world.topic.documents
    [failure] = document["failures"]
    assert failure["reason"] == "store_failed"
    assert failure["message"].startswith("the secret is a replica of one in us-east-1, and can be")
    assert failure["message"].endswith("use another FleetTag in eu-west-1)")
    assert world.secrets.calls == []
    assert world.qwen.asked == [], "asked for what nobody can store, it might end the old token"


def test_a_secret_that_still_waits_for_its_token_is_a_warning_and_no_failure(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("new")

    done = run(world, message("new"))

    [document] = world.topic.documents
    assert document["severity"] == "warning"
    assert [each["reason"] for each in document["failures"]] == ["token_missing"]
    assert done.metrics == {"RunSucceeded": [0], "TokenRefreshed": [0], "RefreshFailed": [0]}


def test_changes_are_announced_for_each_token(world: FleetUnderTest, run: Runner) -> None:
    def answers(asked: Token) -> Token | Exception:
        return TokenRejectedError("refused") if asked.account == "dead" else renewed(asked)

    world.qwen.answers = answers
    names = [f"s{number}" for number in range(12)]
    for name in (*names, "dead"):
        world.secrets.add(name, held_by(name).raw)

    run(world, *map(message, (*names, "dead")))

    by_type = Counter(event["DetailType"] for event in world.bus.put)
    assert by_type == {"Token Refreshed": 12, "Token Refresh Failed": 1}
    announced = {
        secret_id
        for event in world.bus.put
        if event["DetailType"] == "Token Refreshed"
        for secret_id in event["Resources"]
    }
    assert announced == set(map(arn, names))
    [failed] = [event for event in world.bus.put if event["DetailType"] == "Token Refresh Failed"]
    assert json.loads(failed["Detail"]) == world.topic.documents[0]
    assert failed["Resources"] == [arn("dead")]


def test_that_the_bus_fails_changes_nothing_else(world: FleetUnderTest, run: Runner) -> None:
    world.bus.fails_with = RuntimeError("no bus")
    world.secrets.add("one", held_by("one").raw)

    done = run(world, message("one"))

    assert done.again == []
    assert done.metrics["TokenRefreshed"] == [1]
    assert "the change events could not be sent" in [line["message"] for line in done.log]


def test_without_a_bus_nothing_is_announced(world: FleetUnderTest, run: Runner) -> None:
    world.environ["EVENT_BUS_ARN"] = ""
    world.secrets.add("one", held_by("one").raw)

    run(world, message("one"))

    assert world.bus.put == []


# --- trouble with the API -------------------------------------------------------------------------


in_trouble = pytest.mark.parametrize(
    "trouble",
    [RateLimitedError("slow down"), UpstreamUnavailableError("down"), UpstreamBlockedError("no")],
    ids=lambda error: error.reason,
)


@in_trouble
def test_once_the_api_cannot_be_asked_the_rest_of_the_batch_is_not_sent_against_it(
    trouble: Exception, world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: trouble
    names = [f"s{number}" for number in range(30)]
    for name in names:
        world.secrets.add(name, held_by(name).raw)

    done = run(world, *map(message, names))

    # The first to meet it, and those that were under way when the second did.
    assert 2 <= len(world.qwen.asked) <= 5
    assert world.topic.documents == [], "nothing is lost yet"
    assert done.again == []
    assert sorted(world.queue.secret_ids) == sorted(map(arn, names))
    assert {body["postponed"] for body, _ in world.queue.sent} == {1}
    assert all(30 <= seconds <= 90 for _, seconds in world.queue.sent)
    assert done.metrics == {
        "TokenDaysRemaining": [2],
        "SessionDaysRemaining": [2],
        "RunSucceeded": [0],
        "TokenRefreshed": [0],
        "RefreshFailed": [0],
    }


@in_trouble
def test_trouble_of_one_account_holds_up_no_other(
    trouble: Exception, world: FleetUnderTest, run: Runner
) -> None:
    def answers(asked: Token) -> Token | Exception:
        return trouble if asked.account == "limited" else renewed(asked)

    world.qwen.answers = answers
    names = ["limited", *(f"s{number}" for number in range(6))]
    for name in names:
        world.secrets.add(name, held_by(name).raw)

    done = run(world, *map(message, names))

    assert world.queue.secret_ids == [arn("limited")]
    assert done.metrics["TokenRefreshed"] == [6]


def test_accounts_in_trouble_stop_no_batch_while_the_api_answers_others_in_between(
    world: FleetUnderTest, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after the other, for an order that is known.
    monkeypatch.setattr(worker, "_THREADS", 1)

    def answers(asked: Token) -> Token | Exception:
        limited = int(str(asked.account).removeprefix("s")) % 2
        return RateLimitedError("slow down") if limited else renewed(asked)

    world.qwen.answers = answers
    for number in range(10):
        world.secrets.add(f"s{number}", held_by(f"s{number}").raw)

    done = run(world, *(message(f"s{number}") for number in range(10)))

    assert len(world.qwen.asked) == 10
    assert done.metrics["TokenRefreshed"] == [5]
    assert len(world.queue.sent) == 5


def test_what_is_fresh_is_found_so_also_while_the_api_is_down(
    world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: UpstreamUnavailableError("down")
    world.secrets.add("stale", held_by("stale").raw)
    for number in range(8):
        world.secrets.add(f"s{number}", held_by(f"s{number}", 5 * DAY).raw)

    done = run(world, message("stale"), *(message(f"s{number}") for number in range(8)))

    assert done.metrics["RunSucceeded"] == [8]
    assert world.queue.secret_ids == [arn("stale")]


def test_each_postponement_is_twice_as_long_and_after_the_third_the_failure_is_told(
    world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: UpstreamUnavailableError("down")
    world.secrets.add("one", held_by("one", DAY / 2).raw)

    waits = []
    for postponed in range(3):
        run(world, message("one", postponed=postponed))
        [(body, seconds)] = world.queue.sent
        assert body["postponed"] == postponed + 1
        waits.append(seconds)
        world.queue.sent.clear()
    done = run(world, message("one", postponed=3))

    assert 30 <= waits[0] <= 90
    assert 60 <= waits[1] <= 180
    assert 120 <= waits[2] <= 360
    assert world.queue.sent == []
    [document] = world.topic.documents
    [failure] = document["failures"]
    assert failure["reason"] == "upstream_unavailable"
    assert document["severity"] == "critical", "half a day is left"
    assert done.metrics["RefreshFailed"] == [1]
    assert done.again == []


@in_trouble
@pytest.mark.parametrize(
    ("left", "told_by"),
    [
        pytest.param(4 * MINUTE, 4, id="alive"),
        pytest.param(-MINUTE, 1, id="expired"),
    ],
)
def test_an_urgent_job_goes_on_being_put_off_and_its_trouble_is_told_once(
    left: timedelta, told_by: int, trouble: Exception, world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: trouble
    world.secrets.add("one", held_by("one", left).raw)
    job: dict[str, Any] = {"urgent": True}

    counts, told = [], []
    for _ in range(20):
        run(world, message("one", **job))
        [(job, seconds)] = world.queue.sent
        del job["secret_id"]
        assert 30 <= seconds <= 90
        assert job["urgent"]
        counts.append(job["postponed"])
        told.append(len(world.topic.documents))
        mark = int(world.item(arn("one"))["queued_until"]["N"])
        assert mark >= world.now.timestamp() + seconds + 300, "no sweep queues it again"
        world.queue.sent.clear()
        world.now += MINUTE
    severities = [each["severity"] for each in world.topic.documents]

    assert counts == [1, 2, 3, *[3] * 17]
    assert told == [*[0] * (told_by - 1), *[1] * (21 - told_by)], "not by each attempt"
    assert severities == ["critical"], "nothing is left of a token that is its own login"

    world.qwen.answers = renewed
    done = run(world, message("one", **job))
    assert done.metrics["TokenRefreshed"] == [1]
    assert world.queue.sent == []


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(75, 75, 135), (300, 300, 360), (7200, 840, 900)]
)
def test_an_job_is_put_off_for_as_long_as_the_api_asks_as_far_as_sqs_delays(
    asked: int, least: int, most: int, world: FleetUnderTest, run: Runner
) -> None:
    limited = RateLimitedError("slow down", retry_after=timedelta(seconds=asked))
    world.qwen.answers = lambda _: limited
    names = [f"s{number}" for number in range(20)]
    for name in names:
        world.secrets.add(name, held_by(name).raw)

    run(world, *map(message, names))

    delays = [seconds for _, seconds in world.queue.sent]
    assert len(delays) == 20
    assert all(least <= seconds <= most for seconds in delays)
    # Else they would come back as one batch, for one account's limit to stop them all again.
    assert len(set(delays)) > 5, "they come back one after the other"


def test_trouble_that_many_members_met_is_one_incident_with_their_number(
    world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: UpstreamBlockedError("a firewall answered")
    names = [f"s{number:02}" for number in range(12)]
    for number, name in enumerate(names):
        world.secrets.add(name, held_by(name, (number + 9) * DAY / 8).raw)

    run(world, *(message(name, postponed=3) for name in names[:6]))
    for _ in range(7):
        world.now += 10 * MINUTE
        run(world, *(message(name, postponed=3) for name in names))

    told = [(each["severity"], each["failures"]) for each in world.topic.documents]
    assert [severity for severity, _ in told] == ["notice", "warning"], "not one for each member"
    [[first], [second]] = [failures for _, failures in told]
    assert "6 members of the fleet have met this so far" in first["message"]
    assert "12 members of the fleet have met this so far" in second["message"], "each counts once"
    assert (first["secret_id"], first["days_remaining"]) == (arn("s00"), 1.12), "the most urgent"
    assert {each["since"] for each in world.topic.documents} == {NOW.isoformat()}


def test_shared_trouble_is_over_once_members_are_served_and_none_meets_it_for_a_while(
    world: FleetUnderTest, run: Runner
) -> None:
    def answers(asked: Token) -> Token | Exception:
        return UpstreamBlockedError("no") if asked.account == "limited" else renewed(asked)

    world.qwen.answers = answers
    for name in ("limited", "a", "b"):
        world.secrets.add(name, held_by(name).raw)

    run(world, message("limited", postponed=3))
    run(world, message("a"))
    assert [each["event"] for each in world.topic.documents] == ["refresh_failed"]
    world.now += 20 * MINUTE
    run(world, message("b"))
    world.secrets.hold(arn("a"), held_by("a").raw)
    run(world, message("a"))

    assert [each["event"] for each in world.topic.documents] == [
        "refresh_failed",
        "refresh_recovered",
    ]
    [over] = world.topic.documents[1]["failures"]
    assert (over["reason"], over["secret_id"]) == ("upstream_blocked", None)


def test_an_answer_that_speaks_of_one_token_stops_no_other(
    world: FleetUnderTest, run: Runner
) -> None:
    def answers(asked: Token) -> Token | Exception:
        if int(str(asked.account).removeprefix("s")) % 2:
            return UpstreamUnexpectedError("what is this")
        return renewed(asked)

    world.qwen.answers = answers
    for number in range(10):
        world.secrets.add(f"s{number}", held_by(f"s{number}").raw)

    done = run(world, *(message(f"s{number}") for number in range(10)))

    assert len(world.qwen.asked) == 10
    assert done.metrics["TokenRefreshed"] == [5]
    assert done.metrics["RefreshFailed"] == [5]
    assert world.queue.sent == []


def test_the_next_batch_asks_the_api_again(world: FleetUnderTest, run: Runner) -> None:
    world.qwen.answers = lambda _: UpstreamUnavailableError("down")
    world.secrets.add("one", held_by("one").raw)
    run(world, message("one"))
    world.qwen.answers = renewed

    done = run(world, message("one", postponed=1))

    assert done.metrics["TokenRefreshed"] == [1]


# --- nothing is lost ------------------------------------------------------------------------------


def test_a_run_that_crashes_is_delivered_again_and_no_other(
    world: FleetUnderTest, run: Runner
) -> None:
    def answers(asked: Token) -> Token | Exception:
        return ZeroDivisionError("a bug") if asked.account == "bug" else renewed(asked)

    world.qwen.answers = answers
    for name in ("one", "bug"):
        world.secrets.add(name, held_by(name).raw)

    done = run(world, message("one"), message("bug"))

    assert done.again == ["message-bug"]
    assert done.metrics["TokenRefreshed"] == [1]
    assert "ZeroDivisionError" in done.output, "a bug leaves a trace in the log"


def test_a_batch_of_which_every_run_crashes_is_delivered_again(
    world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: ZeroDivisionError("a bug")
    world.secrets.add("one", held_by("one").raw)

    assert run(world, message("one")).again == ["message-one"]


PHISHING = "Call +1 555 0100\n<b>and tell your password</b>"
NO_JOBS: dict[str, str] = {
    "nothing": "",
    "a text": "text",
    "a list": "[]",
    "a list of pairs": json.dumps([["secret_id", arn("one")]]),
    "null": "null",
    "an empty object": "{}",
    "an unknown member": json.dumps({"secret_id": arn("one"), PHISHING: 1}),
    "a member twice": f'{{"secret_id": "{arn("one")}", "secret_id": "{arn("one")}"}}',
    "a secret that is a number": '{"secret_id": 1}',
    "a secret that is null": '{"secret_id": null}',
    "a name": '{"secret_id": "one"}',
    "a text in place of an ARN": json.dumps({"secret_id": PHISHING}),
    "a text behind an ARN": json.dumps({"secret_id": arn("one") + "\n" + PHISHING}),
    "a text in an ARN": json.dumps({"secret_id": arn(PHISHING)}),
    "a line break behind an ARN": json.dumps({"secret_id": arn("one") + "\n"}),
    "an ARN without its last characters": json.dumps({"secret_id": arn("one")[:-7]}),
    "another region's": json.dumps({"secret_id": arn("one").replace("eu-west-1", "eu-west-2")}),
    "another account's": json.dumps({"secret_id": arn("one").replace("1111", "2222", 1)}),
    "another partition's": json.dumps({"secret_id": arn("one").replace("aws", "aws-cn", 1)}),
    "another service's": json.dumps({"secret_id": arn("one").replace("secretsmanager", "ssm")}),
    "an obstacle that is a number": json.dumps({"secret_id": arn("one"), "obstacle": 1}),
    "an obstacle that is a text": json.dumps({"secret_id": arn("one"), "obstacle": PHISHING}),
    "an obstacle that is empty": json.dumps({"secret_id": arn("one"), "obstacle": ""}),
    "an obstacle with a text behind it": json.dumps(
        {"secret_id": arn("one"), "obstacle": f"replica_of:eu-west-1 {PHISHING}"}
    ),
    "a session that is a number": json.dumps({"secret_id": arn("one"), "session_id": 1}),
    "another secret's session": json.dumps(
        {"secret_id": arn("one"), "session_id": arn("two/session")}
    ),
    "a session of another name": json.dumps({"secret_id": arn("one"), "session_id": arn("s")}),
    "a flag that is a number": json.dumps({"secret_id": arn("one"), "force": 1}),
    "an urgency that is a word": json.dumps({"secret_id": arn("one"), "urgent": "yes"}),
    "a flag that is null": json.dumps({"secret_id": arn("one"), "check": None}),
    "a replica of nowhere": json.dumps({"secret_id": arn("one"), "obstacle": "replica_of:"}),
    **{
        f"put off {value} times": f'{{"secret_id": "{arn("one")}", "postponed": {value}}}'
        for value in (
            *("-1", "-1000000", "4", "1e2", "1.0", "NaN", "Infinity", "true", "null", '"1"', "[1]"),
            "1" * 400,
        )
    },
    "a number that Python does not parse": f'{{"secret_id": {"1" * 900}}}',
    "a deep nesting": '{"secret_id": ' + "[" * 900,
    "a very deep nesting": "[" * 100_000,
    "as long as SQS takes": json.dumps({"secret_id": arn("one"), "obstacle": "x" * 262_000}),
    "half a surrogate pair": '{"secret_id": "\\ud800"}',
    "a null byte": json.dumps({"secret_id": arn("one") + "\x00"}),
}


@pytest.mark.parametrize("body", NO_JOBS.values(), ids=NO_JOBS)
def test_a_message_that_is_not_a_job_goes_the_way_of_the_dead_letters(
    body: str, world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("one", held_by("one").raw)
    world.secrets.add("two", held_by("two").raw)
    stray = {**message("stray"), "body": body}

    done = run(world, stray, message("two"))

    assert done.again == ["message-stray"]
    assert done.metrics["TokenRefreshed"] == [1]
    # Nothing of it is quoted, and it does not go round: neither by an alert nor by the queue.
    assert [line["message_id"] for line in done.log if "message_id" in line] == ["message-stray"]
    assert (world.topic.documents, world.queue.sent) == ([], [])
    assert "555 0100" not in done.output


def test_what_dispatch_and_a_worker_send_is_a_job() -> None:
    secrets = secrets_of(FakeLambdaContext.invoked_function_arn)
    longest = "a" * 504
    jobs = [
        Job(arn("a/b_+=.@-9")),
        Job(
            arn("a"),
            arn("a/session"),
            force=True,
            check=True,
            urgent=True,
            waits=True,
            postponed=3,
        ),
        Job(arn(longest), arn(f"{longest}/session"), "replica_of:us-gov-west-1"),
        *(Job(arn("a"), obstacle=each) for each in ("being_deleted", "unknown_tag", "no_member")),
        Job(arn("a/session"), obstacle="name_of_a_session"),
    ]
    for job in jobs:
        assert Job.from_body(job.body(), secrets=secrets) == job


def test_a_failure_that_could_not_be_told_is_told_by_the_next_sweeps_run(
    world: FleetUnderTest, run: Runner
) -> None:
    world.topic.fails_with = RuntimeError("no topic")
    world.secrets.add("malformed", "something else")
    world.secrets.add("new")
    world.secrets.add("one", held_by("one").raw)

    done = run(world, message("one"), message("malformed"), message("new"))
    world.topic.fails_with = None
    run(world, message("malformed"), message("new"))

    assert done.again == []
    assert "the alert could not be published" in [line["message"] for line in done.log]
    assert "Token Refreshed" in [event["DetailType"] for event in world.bus.put]
    [document] = world.topic.documents
    assert {each["secret_id"] for each in document["failures"]} == {arn("malformed"), arn("new")}


def test_what_there_is_no_time_left_for_is_put_off_unread(
    world: FleetUnderTest, run: Runner
) -> None:
    for name in ("one", "two"):
        world.secrets.add(name, held_by(name).raw)

    done = run(world, message("one"), message("two"), context=FakeLambdaContext(59_999))

    # A slow store could make each reading outlast the worker, and then nothing would be told.
    assert world.secrets.calls == []
    assert sorted(world.queue.secret_ids) == [arn("one"), arn("two")]
    assert {body["postponed"] for body, _ in world.queue.sent} == {1}
    assert done.again == []


def test_an_urgent_job_is_delivered_again_soon_after_its_worker_was_killed(
    world: FleetUnderTest, run: Runner
) -> None:
    for name in ("fresh", "urgent", *(f"u{number}" for number in range(15))):
        world.secrets.add(name, held_by(name, 5 * DAY).raw)
    urgent = ["urgent", *(f"u{number}" for number in range(15))]

    run(
        world,
        message("fresh"),
        {**message("stray"), "body": "{"},
        *(message(name, urgent=True) for name in urgent),
        context=FakeLambdaContext(119_500),
    )

    # Never before the worker's end: another one would find the lease taken.
    assert world.queue.hidden == {f"receipt-{name}": 130 for name in urgent}


@pytest.mark.parametrize("fails", [True, False], ids=["the queue", "a receipt"])
def test_that_a_message_keeps_its_timeout_holds_up_no_job(
    *, fails: bool, world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("one", held_by("one").raw)
    if fails:
        world.queue.fails_with = RuntimeError("no queue")
    else:
        world.queue.no_receipts = frozenset({"receipt-one"})

    done = run(world, message("one", urgent=True))

    assert done.metrics["TokenRefreshed"] == [1]
    [line] = [each for each in done.log if each["message"].startswith("a job comes back late")]
    assert line["reason"] == "store_failed"


def test_a_job_that_comes_twice_is_done_once(world: FleetUnderTest, run: Runner) -> None:
    world.sign_in_host.answers = grants
    world.secrets.add("alice", access("alice", 4 * MINUTE).raw)
    add_session(world, "alice", credential("alice-1"))
    twice = (of_session("alice", urgent=True), of_session("alice", urgent=True))

    together = run(world, *twice)
    later = run(world, of_session("alice", urgent=True))

    assert len(world.sign_in_host.spent) == 1
    assert together.metrics["TokenRefreshed"] == [1]
    assert later.metrics["TokenRefreshed"] == [0]
    assert (together.again, later.again, world.topic.documents) == ([], [], [])


def test_what_could_not_be_postponed_is_left_to_the_next_sweep(
    world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: UpstreamUnavailableError("down")
    world.queue.fails_with = RuntimeError("no queue")
    world.secrets.add("one", held_by("one").raw)

    done = run(world, message("one"))

    assert done.again == []
    assert "queued_until" not in world.item(arn("one")), "the next sweep queues it"
    assert "jobs could not be postponed" in [line["message"] for line in done.log]


def test_an_environment_that_is_off_leaves_the_batch_in_the_queue(world: FleetUnderTest) -> None:
    world.environ["MAXIMUM_CONCURRENCY"] = "none"

    with pytest.raises(ConfigError, match="MAXIMUM_CONCURRENCY should be a whole number"):
        worker.run({"Records": [message("one")]}, FakeLambdaContext(), world.clients())  # type: ignore[arg-type]
    assert world.secrets.calls == []


# --- at once, and at a pace -----------------------------------------------------------------------


def test_several_jobs_are_under_way_at_once(world: FleetUnderTest, run: Runner) -> None:
    together = threading.Barrier(4)

    def answers(asked: Token) -> Token | Exception:
        # Passes only if four ask at the same time.
        together.wait(10)
        return renewed(asked)

    world.qwen.answers = answers
    for number in range(4):
        world.secrets.add(f"s{number}", held_by(f"s{number}").raw)

    done = run(world, *(message(f"s{number}") for number in range(4)))

    assert done.metrics["TokenRefreshed"] == [4]


def test_each_write_waits_for_its_turn_and_reads_do_not(world: FleetUnderTest, run: Runner) -> None:
    world.secrets.add("one", held_by("one").raw)

    run(world, message("one"))

    paced = {name.rpartition(".")[2] for name in world.secrets.hooks}
    assert paced == {"PutSecretValue", "UpdateSecretVersionStage"}
    paces = set(world.secrets.hooks.values())
    assert len(paces) == 1, "all writes share one pace"
    assert {type(pace) for pace in paces} == {Pace}


def test_it_reads_the_environment_that_the_template_sets(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("one", held_by("one").raw)
    run(world, message("one"))

    assert world.environ.asked == ENVIRON.keys()


def test_no_token_and_no_part_of_one_is_in_anything_that_a_worker_says(
    world: FleetUnderTest, run: Runner
) -> None:
    def answers(asked: Token) -> Token | Exception:
        return TokenRejectedError("refused") if asked.account == "dead" else renewed(asked)

    world.qwen.answers = answers
    raws = []
    for name in ("one", "dead"):
        world.secrets.add(name, held_by(name).raw)
        raws += [held_by(name).raw, renewed(held_by(name)).raw]

    done = run(world, message("one"), message("dead"))

    said = done.output + json.dumps([world.topic.documents, world.bus.put, world.queue.sent])
    assert not any(piece in said for raw in raws for piece in pieces(raw))


# --- sessions -------------------------------------------------------------------------------------


def credential(raw: str) -> str:
    """Return what a session secret holds with this refresh credential."""
    return json.dumps({"refresh_token": raw})


def add_session(world: FleetUnderTest, name: str, session: Mapping[str, object] | str) -> None:
    text = session if isinstance(session, str) else json.dumps(session)
    world.secrets.add(f"{name}/session", text, tags={TAG: "session"})


def of_session(name: str, **more: Any) -> dict[str, Any]:
    """Return what SQS delivers for the job of a member with a session secret."""
    return message(name, session_id=arn(f"{name}/session"), **more)


def access(name: str, left: timedelta = 180 * MINUTE) -> Token:
    """Return an access token. It does not say when it was issued."""
    return token(left=left, account=name, type="access_token")


def grants(_grant: Grant, login: Login) -> Granted:
    """Give each login an access token, and the credential that takes the old one's place."""
    who = login.session.email or str(login.session.refresh_token)
    name = who.split("@")[0].split("-")[0]
    return Granted(access(name), f"{name}-next", NOW + 30 * DAY)


def test_a_members_session_is_spent_and_what_comes_is_kept(
    world: FleetUnderTest, run: Runner
) -> None:
    world.sign_in_host.answers = grants
    world.secrets.add("alice", access("alice", 4 * MINUTE).raw)
    add_session(world, "alice", {"refresh_token": "alice-1", "note": "mine"})

    done = run(world, of_session("alice"))

    assert [grant for grant, _ in world.sign_in_host.spent] == [Grant.REFRESH_TOKEN]
    assert world.secrets.secrets[arn("alice")].value == access("alice").raw
    kept = json.loads(str(world.secrets.secrets[arn("alice/session")].value))
    assert (kept["refresh_token"], kept["note"]) == ("alice-next", "mine")
    assert done.metrics["TokenRefreshed"] == [1]
    assert done.metrics["SessionDaysRemaining"] == [30]
    assert "lease_until" not in world.item(arn("alice")), "the lease is given back"


def test_a_member_gets_its_first_token_by_its_session(world: FleetUnderTest, run: Runner) -> None:
    world.sign_in_host.answers = grants
    world.secrets.add("alice")
    add_session(world, "alice", credential("alice-1"))

    run(world, of_session("alice"))

    assert world.secrets.secrets[arn("alice")].value == access("alice").raw
    assert world.topic.documents == []


def test_a_session_that_another_run_spends_is_left_to_that_one(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("alice", access("alice", 4 * MINUTE).raw)
    add_session(world, "alice", credential("alice-1"))
    until = str(int((NOW + MINUTE).timestamp()))
    world.dynamodb.items["state", repr({"secret_id": {"S": arn("alice")}})] = {
        "secret_id": {"S": arn("alice")},
        "lease_owner": {"S": "another"},
        "lease_until": {"N": until},
    }

    done = run(world, of_session("alice"))

    assert world.sign_in_host.spent == []
    assert (done.again, world.topic.documents) == ([], [])
    assert world.queue.secret_ids == [arn("alice")], "that one may be dead"


@pytest.mark.parametrize(
    ("session", "answer", "reason"),
    [
        ("[not a login", None, "session_malformed"),
        (credential("alice-1"), Granted(access("mallory")), "wrong_account"),
        (credential("alice-1"), SessionRejectedError("dead"), "session_rejected"),
    ],
)
def test_a_session_that_does_not_fit_is_told_once_and_blocks_no_other(
    session: str,
    answer: Granted | Exception | None,
    reason: str,
    world: FleetUnderTest,
    run: Runner,
) -> None:
    def answers(grant: Grant, login: Login) -> Granted | Exception:
        if login.session.refresh_token == "alice-1":
            assert answer is not None
            return answer
        return grants(grant, login)

    world.sign_in_host.answers = answers
    for name, text in (("alice", session), ("bob", credential("bob-1"))):
        world.secrets.add(name, access(name, 4 * MINUTE).raw)
        add_session(world, name, text)

    done = run(world, of_session("alice"), of_session("bob"))
    world.now += MINUTE
    run(world, of_session("alice"))

    assert done.metrics["TokenRefreshed"] == [1]
    told = [(each["secret_id"], each["reason"]) for each in failures_of(world)]
    assert told == [(arn("alice"), reason)], "the second run publishes nothing"


def failures_of(world: FleetUnderTest) -> list[dict[str, Any]]:
    return [failure for document in world.topic.documents for failure in document["failures"]]


@pytest.mark.parametrize(
    "obstacle", ["no_member", "unknown_tag", "name_of_a_session", "being_deleted"]
)
def test_what_is_set_up_wrong_is_told_by_name_once(
    obstacle: str, world: FleetUnderTest, run: Runner
) -> None:
    for _ in range(3):
        run(world, message("a/session", obstacle=obstacle))
        world.now += 10 * MINUTE

    [failure] = failures_of(world)
    assert failure["secret_id"] == arn("a/session")
    assert world.secrets.calls == []


def test_a_failure_goes_on_from_sweep_to_sweep_and_its_end_is_told(
    world: FleetUnderTest, run: Runner
) -> None:
    world.sign_in_host.answers = lambda _grant, _login: SessionRejectedError("dead")
    world.secrets.add("alice", access("alice", 4 * MINUTE).raw)
    add_session(world, "alice", credential("alice-1"))
    run(world, of_session("alice"))

    world.sign_in_host.answers = grants
    world.secrets.hold(arn("alice/session"), credential("alice-2"))
    world.now += MINUTE
    run(world, of_session("alice"))

    assert [(each["event"], each["severity"]) for each in world.topic.documents] == [
        ("refresh_failed", "critical"),
        ("refresh_recovered", "critical"),
    ]


def test_that_logins_end_is_one_message_for_a_batch(world: FleetUnderTest, run: Runner) -> None:
    def answers(_grant: Grant, login: Login) -> Granted:
        name = str(login.session.refresh_token).split("-")[0]
        return Granted(access(name), f"{name}-2", NOW + 2 * DAY)

    world.sign_in_host.answers = answers
    for name in ("alice", "bob"):
        world.secrets.add(name, access(name, 4 * MINUTE).raw)
        add_session(world, name, credential(f"{name}-1"))

    run(world, of_session("alice"), of_session("bob"))

    [document] = world.topic.documents
    assert (document["event"], document["severity"]) == ("session_ending", "warning")
    assert {each["secret_id"] for each in document["failures"]} == {arn("alice"), arn("bob")}


def test_trouble_at_the_sign_in_host_keeps_nobody_from_the_api(
    world: FleetUnderTest, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after the other, for an order that is known.
    monkeypatch.setattr(worker, "_THREADS", 1)
    world.sign_in_host.answers = lambda _grant, _login: UpstreamBlockedError("a firewall")
    names = ["a", "b", "c"]
    for name in names:
        world.secrets.add(name, access(name, 4 * MINUTE).raw)
        add_session(world, name, credential(f"{name}-1"))
    world.secrets.add("exchanged", held_by("exchanged").raw)

    done = run(world, *map(of_session, names), message("exchanged"))

    assert len(world.sign_in_host.spent) == 2, "the third is not sent against it"
    assert done.metrics["TokenRefreshed"] == [1]
    assert set(world.queue.secret_ids) == set(map(arn, names))


def test_an_open_webui_signs_in_itself_so_that_its_trouble_is_one(
    world: FleetUnderTest, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_THREADS", 1)
    world.environ["AUTH_BASE_URL"] = ""
    world.qwen.answers = lambda _: UpstreamUnavailableError("down")
    for name in ("a", "b"):
        world.secrets.add(name, held_by(name).raw)
    add_sign_in(world, "c")

    run(world, message("a"), message("b"), of_session("c"))

    assert world.sign_in_host.spent == [], "nobody signs in at a server that is down"
    assert set(world.queue.secret_ids) == set(map(arn, ("a", "b", "c")))


# --- one login has one keeper ---------------------------------------------------------------------


def add_twins(world: FleetUnderTest) -> None:
    """Add two members with the same login, whose tokens are due."""
    world.sign_in_host.answers = grants
    for name in ("alice", "twin"):
        world.secrets.add(name, access("alice", 4 * MINUTE).raw)
        add_session(world, name, credential("alice-1"))


def test_the_second_member_with_one_login_is_refused_and_told_and_spends_nothing(
    world: FleetUnderTest, run: Runner
) -> None:
    add_twins(world)

    run(world, of_session("alice"))
    done = run(world, of_session("twin"))

    assert len(world.sign_in_host.spent) == 1
    [failure] = failures_of(world)
    assert (failure["secret_id"], failure["reason"]) == (arn("twin"), "config_invalid")
    assert "the member alice holds the same login" in failure["message"]
    digest = hashlib.sha256(b"qwen-token-refresh:alice-1").hexdigest()
    said = done.output + json.dumps([world.topic.documents, world.bus.put])
    assert not any(part in said for part in ("alice-1", digest[:12]))


def test_a_login_of_a_member_that_is_gone_is_another_ones(
    world: FleetUnderTest, run: Runner
) -> None:
    add_twins(world)
    run(world, of_session("alice"))
    del world.secrets.secrets[arn("alice/session")]

    run(world, of_session("twin"))

    assert world.topic.documents == []
    assert world.secrets.secrets[arn("twin")].value == access("alice").raw


# --- turns to sign in -----------------------------------------------------------------------------


def add_sign_in(world: FleetUnderTest, name: str) -> None:
    world.secrets.add(name)
    add_session(world, name, {"email": f"{name}@example.com", "password": "hunter2-hunter2"})


def test_one_member_signs_in_and_the_others_wait_for_their_turns(
    world: FleetUnderTest, run: Runner
) -> None:
    world.sign_in_host.answers = grants
    names = [f"s{number}" for number in range(6)]
    for name in names:
        add_sign_in(world, name)

    done = run(world, *map(of_session, names))

    [(grant, first)] = world.sign_in_host.spent
    assert grant is Grant.PASSWORD
    waiting = {arn(name) for name in names} - {arn(str(first.session.email).split("@")[0])}
    assert set(world.queue.secret_ids) == waiting
    assert all(body["waits"] and body["postponed"] == 0 for body, _ in world.queue.sent)
    assert all(45 <= seconds <= 166 for _, seconds in world.queue.sent)
    assert world.topic.documents == [], "they have not failed"
    said = [
        line for line in done.log if line["message"].startswith("postponed: waits for its turn")
    ]
    assert {line["secret_id"] for line in said} == waiting
    assert done.metrics["RefreshFailed"] == [0]
    assert all("queued_until" in world.item(each) for each in waiting)


def test_the_next_turn_is_after_three_quarters_of_a_minute(
    world: FleetUnderTest, run: Runner
) -> None:
    world.sign_in_host.answers = grants
    for name in ("one", "two"):
        add_sign_in(world, name)
    run(world, of_session("one"))

    world.now += timedelta(seconds=44)
    run(world, of_session("two", waits=True))
    assert len(world.sign_in_host.spent) == 1
    world.now += timedelta(seconds=2)
    run(world, of_session("two", waits=True))
    assert len(world.sign_in_host.spent) == 2


def test_after_a_challenge_nobody_signs_in_for_an_hour(world: FleetUnderTest, run: Runner) -> None:
    world.sign_in_host.answers = lambda _grant, _login: ChallengedError("a slider")
    for name in ("one", "two"):
        add_sign_in(world, name)
    run(world, of_session("one"))

    world.sign_in_host.answers = grants
    for _ in range(4):
        world.now += timedelta(minutes=14)
        run(world, of_session("two", waits=True))
    assert len(world.sign_in_host.spent) == 1
    assert all(780 <= seconds <= 900 for _, seconds in world.queue.sent[:2])
    world.now += timedelta(minutes=5)
    run(world, of_session("two", waits=True))
    assert len(world.sign_in_host.spent) == 2
    assert [each["reason"] for each in failures_of(world)] == ["sign_in_refused"]


def test_the_more_urgent_member_asks_for_its_turn_sooner(
    world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: TokenNotExtendedError("an echo")
    add_sign_in(world, "first")
    world.sign_in_host.answers = grants
    run(world, of_session("first"))
    for name, left in (("urgent", DAY / 1440), ("patient", 2 * DAY)):
        world.secrets.add(name, held_by(name, left).raw)
        add_session(world, name, {"email": f"{name}@example.com", "password": "hunter2-hunter2"})

    delays: dict[str, list[int]] = {"urgent": [], "patient": []}
    for _ in range(20):
        world.queue.sent.clear()
        run(world, of_session("urgent", waits=True), of_session("patient", waits=True))
        for body, seconds in world.queue.sent:
            delays["urgent" if "urgent" in body["secret_id"] else "patient"].append(seconds)

    assert len(delays["urgent"]) == len(delays["patient"]) == 20
    assert max(delays["urgent"]) <= 166
    assert sum(delays["patient"]) > 2 * sum(delays["urgent"])


def test_a_member_whose_readers_have_no_token_is_told_of_while_it_waits(
    world: FleetUnderTest, run: Runner
) -> None:
    world.qwen.answers = lambda _: TokenRejectedError("dead")
    world.sign_in_host.answers = grants
    add_sign_in(world, "first")
    run(world, of_session("first"))
    world.secrets.add("over", held_by("over", -DAY).raw)
    add_session(world, "over", {"email": "over@example.com", "password": "hunter2-hunter2"})

    done = run(world, of_session("over"))

    assert world.queue.secret_ids == [arn("over")]
    [failure] = failures_of(world)
    assert failure["secret_id"] == arn("over")
    assert done.metrics["TokenDaysRemaining"] == [-1]


# --- what dispatch asks for -----------------------------------------------------------------------


def test_a_check_asks_the_api_about_a_token_that_is_fresh(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("fresh", held_by("fresh", 20 * DAY).raw)

    done = run(world, message("fresh", check=True))

    assert [line["outcome"] for line in done.log if "outcome" in line] == ["checked"]
    assert world.qwen.asked == [], "it is not exchanged"


def test_a_forced_job_replaces_a_token_before_it_is_due(world: FleetUnderTest, run: Runner) -> None:
    world.secrets.add("fresh", held_by("fresh", 4 * DAY).raw)

    assert run(world, message("fresh", force=True)).metrics["TokenRefreshed"] == [1]


def test_a_job_that_finds_nothing_to_do_takes_its_mark_away(
    world: FleetUnderTest, run: Runner
) -> None:
    world.secrets.add("fresh", held_by("fresh", 6 * DAY).raw)
    world.dynamodb.items["state", repr({"secret_id": {"S": arn("fresh")}})] = {
        "secret_id": {"S": arn("fresh")},
        "queued_until": {"N": str(int(NOW.timestamp()) + 900)},
        "queued_for": {"S": "v1"},
    }

    run(world, message("fresh"))

    assert "queued_until" not in world.item(arn("fresh"))
