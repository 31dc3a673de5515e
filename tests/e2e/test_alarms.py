"""Each alarm goes off, and is over again; both reach the alert topic.

The emulator evaluates an alarm when metric data is put, over what is younger than the alarm's
periods, and for all stacks together: it ignores dimensions. So a copy of the deployed alarm is
watched, which differs in name and namespace alone. What the alarm sees first is dated to just
before the end of its periods, and has passed some seconds later.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.conftest import ARRIVAL, Deployed
from tests.localcloud.stack import Notification
from tests.localcloud.waiting import wait_until

# What the emulator takes between the put and the look at it is less.
UNTIL_PASSED = timedelta(seconds=3)

COPIED = (
    *("AlarmActions", "OKActions", "MetricName", "Dimensions", "Statistic", "Period"),
    *("EvaluationPeriods", "DatapointsToAlarm", "Threshold", "ComparisonOperator"),
    "TreatMissingData",
)


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
            AlarmName=self.name, StateValue="ALARM", StateReason="no data for a day"
        )

    def wait_for_message(self, state: str) -> Notification:
        return self._stack.wait_for_notification(
            lambda notification: (
                notification.is_alarm
                and notification.document["AlarmName"] == self.name
                and notification.document["NewStateValue"] == state
            ),
            within=ARRIVAL,
            expected=f"the message that {self.name} is in {state}",
        )

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
        pytest.param("token-expiring", 0.5, 7, id="days ran out, and a new token brought more"),
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


def test_a_run_that_succeeds_ends_the_silence(watch: Callable[[str], Alarm]) -> None:
    alarm = watch("keeper-silent")
    # The emulator takes missing data for nothing, whatever the alarm says of it: it is told.
    alarm.be_silent()
    alarm.wait_for_message("ALARM")

    alarm.measure(1)

    assert alarm.state() == "OK"
    alarm.wait_for_message("OK")
