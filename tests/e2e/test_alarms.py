"""What is emitted is what is watched. Each alarm goes off, and is over again, and says so.

The emulator evaluates an alarm when metric data is put, over what is younger than the alarm's
periods, and for all stacks together: it ignores dimensions. So a copy of the deployed alarm is
watched, which differs in name and namespace alone. What the alarm sees first is dated to just
before the end of its periods, and has passed some seconds later.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from localcloud import qwen as scenarios
from localcloud.stack import Notification
from localcloud.waiting import wait_until
from tests.e2e.conftest import ARRIVAL, Deployed, alarm_message

DAY = timedelta(days=1)
# What the emulator takes between the put and the look at it is less.
UNTIL_PASSED = timedelta(seconds=3)

COPIED = (
    *("AlarmActions", "OKActions", "MetricName", "Dimensions", "Statistic", "Period"),
    *("EvaluationPeriods", "DatapointsToAlarm", "Threshold", "ComparisonOperator"),
    "TreatMissingData",
)


type Metric = tuple[str, str, tuple[tuple[str, str], ...]]


def emitted(deployed: Deployed) -> set[Metric]:
    """Return the metrics in the function's log: namespace, name, dimensions."""
    documents = [json.loads(line) for line in deployed.stack.log() if line.startswith("{")]
    return {
        (
            declared["Namespace"],
            metric["Name"],
            tuple((dimension, document[dimension]) for dimension in dimensions),
        )
        for document in documents
        for declared in document.get("_aws", {}).get("CloudWatchMetrics", ())
        for metric in declared["Metrics"]
        for dimensions in declared["Dimensions"]
    }


def watched_by_alarms(deployed: Deployed) -> set[Metric]:
    described = deployed.stack.cloud.cloudwatch.describe_alarms(
        AlarmNamePrefix=f"{deployed.stack.name}-"
    )
    return {
        (
            alarm["Namespace"],
            alarm["MetricName"],
            tuple((each["Name"], each["Value"]) for each in alarm["Dimensions"]),
        )
        for alarm in described["MetricAlarms"]
    }


def shown_on_the_dashboard(deployed: Deployed) -> set[Metric]:
    name = deployed.stack.resources()["Dashboard"]
    found = deployed.stack.cloud.cloudwatch.get_dashboard(DashboardName=name)
    shown: set[Metric] = set()
    for widget in json.loads(found["DashboardBody"])["widgets"]:
        above: list[Any] = []
        for row in widget["properties"].get("metrics", []):
            if isinstance(row[0], str):
                # A dot stands for what the row above has in its place.
                above = [above[at] if cell == "." else cell for at, cell in enumerate(row)]
                namespace, metric, dimension, value = above[:4]
                shown.add((namespace, metric, ((dimension, value),)))
    return shown


def test_alarms_and_dashboard_watch_what_the_function_emits(deployed: Deployed) -> None:
    for left, scenario in (
        (5 * DAY, scenarios.MINTS_NEWER_CLAIMS),
        (2 * DAY, scenarios.MINTS_NEWER_CLAIMS),
        (2 * DAY, scenarios.TOKEN_DEAD),
    ):
        deployed.hold(left)
        deployed.qwen.answer_with(scenario)
        deployed.stack.invoke()
    name = deployed.stack.outputs["RefreshFunctionName"]
    by_lambda: set[Metric] = {
        ("AWS/Lambda", metric, (("FunctionName", name),))
        for metric in ("Duration", "Errors", "Throttles")
    }

    own = emitted(deployed)

    assert shown_on_the_dashboard(deployed) == own | by_lambda
    assert watched_by_alarms(deployed) <= own | by_lambda
    assert {metric for _, metric, _ in watched_by_alarms(deployed)} == {
        "Errors",
        "RunCompleted",
        "SessionDaysRemaining",
        "TokenDaysRemaining",
    }


def test_the_login_is_measured_apart_from_the_token_that_it_gives(newer: Deployed) -> None:
    """An access token of 15 minutes raises no alarm: its login lives for 30 days."""
    newer.hold_session()

    newer.stack.invoke()

    [*_, measured] = [each for each in newer.stack.log_documents() if "_aws" in each]
    assert measured["service"] == newer.stack.name
    assert value_of("SessionDaysRemaining", measured) == pytest.approx(30, abs=0.01)
    assert value_of("TokenDaysRemaining", measured) == pytest.approx(15 / 1440, abs=0.001)
    counted = {"RunCompleted": 1, "RunSucceeded": 1, "TokenRefreshed": 1, "RefreshFailed": 0}
    assert {name: value_of(name, measured) for name in counted} == counted


def value_of(metric: str, document: Any) -> float:
    [value] = document[metric]
    return float(value)


class Alarm:
    """A copy of one of the stack's alarms, with metric data that only it sees."""

    def __init__(self, deployed: Deployed, name: str) -> None:
        self._client: Any = deployed.stack.cloud.cloudwatch
        self._stack = deployed.stack
        original = self._described(f"{deployed.stack.name}-{name}")
        self.name = f"copy-of-{original['AlarmName']}"
        self._metric = {key: original[key] for key in ("MetricName", "Dimensions")}
        self.looks_back = timedelta(seconds=original["Period"] * original["EvaluationPeriods"])
        self._client.put_metric_alarm(
            AlarmName=self.name,
            Namespace=self.name,
            **{field: original[field] for field in COPIED if field in original},
        )

    def measure(self, value: float, *, ago: timedelta = timedelta()) -> None:
        self._client.put_metric_data(
            Namespace=self.name,
            MetricData=[{**self._metric, "Value": value, "Timestamp": datetime.now(UTC) - ago}],
        )

    def state(self) -> str:
        return str(self._described(self.name)["StateValue"])

    def _described(self, name: str) -> Any:
        [alarm] = self._client.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return alarm

    def be_silent(self) -> None:
        self._client.set_alarm_state(
            AlarmName=self.name, StateValue="ALARM", StateReason="no data for half an hour"
        )

    def wait_for_message(self, state: str) -> Notification:
        return alarm_message(self._stack, self.name, state=state)

    def delete(self) -> None:
        self._client.delete_alarms(AlarmNames=[self.name])


@pytest.fixture(name="watch")
def _watch(deployed: Deployed) -> Iterator[Callable[[str], Alarm]]:
    watched: list[Alarm] = []

    def watch(name: str) -> Alarm:
        watched.append(Alarm(deployed, name))
        return watched[-1]

    yield watch
    for alarm in watched:
        alarm.delete()


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        pytest.param("refresh-failed", 1, 0, id="a run failed, and the next one did not"),
        pytest.param("login-ending", 0.5, 30, id="a login's days ran out, and a new one began"),
        pytest.param("token-expired", 0, 0.01, id="a token expired, and a new one is there"),
    ],
)
def test_an_alarm_goes_off_and_is_over_again(
    watch: Callable[[str], Alarm], name: str, bad: float, good: float
) -> None:
    alarm = watch(name)
    alarm.measure(good, ago=alarm.looks_back + UNTIL_PASSED)
    assert alarm.state() == "INSUFFICIENT_DATA", "what passed long ago does not count"

    alarm.measure(bad, ago=alarm.looks_back - UNTIL_PASSED)
    assert alarm.state() == "ALARM"
    alarm.wait_for_message("ALARM")

    alarm.measure(good)
    assert alarm.state() == "ALARM", "what is bad has not passed yet"

    def is_over() -> bool:
        alarm.measure(good)
        return alarm.state() == "OK"

    wait_until(is_over, within=ARRIVAL, expected=f"{name} to be over", seen=alarm.state)
    alarm.wait_for_message("OK")


def test_a_run_that_comes_to_its_end_ends_the_silence(watch: Callable[[str], Alarm]) -> None:
    alarm = watch("keeper-silent")
    # The emulator takes missing data for nothing, whatever the alarm says of it: it is told.
    alarm.be_silent()
    alarm.wait_for_message("ALARM")

    alarm.measure(1)

    assert alarm.state() == "OK"
    alarm.wait_for_message("OK")
