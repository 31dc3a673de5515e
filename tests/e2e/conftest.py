"""The deployed stacks, one of them with a fleet: built and deployed once, by the real ``sam``.

No schedule comes in between: they run twice a day, and no test lasts so long.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from localcloud.aws import Cloud
from localcloud.cloudformation import read_template
from localcloud.fleet import DeployedFleet
from localcloud.qwen import MINTS_NEWER_CLAIMS, QwenStandIn
from localcloud.recording_proxy import Answer, Call, CarryOut, RecordingProxy
from localcloud.sign_in_host import ANSWERS, SessionPolicy, SignInHostStandIn
from localcloud.stack import DeployedStack, Notification, Run

ARRIVAL = timedelta(seconds=10)
OWNER = "owner@example.com"
# Of an access token's fifteen minutes: too few.
NEARLY_OVER = timedelta(minutes=4)


@dataclass(frozen=True)
class Hosts:
    """Stand-ins of Qwen's two hosts."""

    qwen: QwenStandIn
    sign_in_host: SignInHostStandIn

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Hosts"]:
        """Start both, for the length of the block."""
        with QwenStandIn() as qwen, SignInHostStandIn(qwen) as sign_in_host:
            yield cls(qwen, sign_in_host)

    def parameters(self, **others: str) -> dict[str, str]:
        """Return the parameters of a stack that talks to these hosts, and runs when it is asked."""
        return {
            "ApiBaseUrl": self.qwen.base_url,
            "AuthBaseUrl": self.sign_in_host.base_url,
            "Schedule": "rate(12 hours)",
            "CheckSchedule": "",
            **others,
        }


@dataclass(frozen=True)
class Calls:
    """What a run came to, its calls to AWS, and how many it made to Qwen's hosts."""

    run: Run
    aws: list[str]
    qwen: int


@dataclass(frozen=True)
class Deployed:
    """The stack, and the hosts that its function talks to."""

    stack: DeployedStack
    hosts: Hosts

    @property
    def qwen(self) -> QwenStandIn:
        """The stand-in of the API."""
        return self.hosts.qwen

    @property
    def sign_in_host(self) -> SignInHostStandIn:
        """The stand-in of the host that sessions are renewed at."""
        return self.hosts.sign_in_host

    def hold(self, lifetime: timedelta) -> str:
        """Put a token with this lifetime into the secret, as the only live one, and return it."""
        # What other tests left in the secret would be a way to recover.
        self.qwen.mint()
        self.qwen.revoke()
        raw = self.qwen.mint(lifetime=lifetime)
        self.stack.put(raw)
        return raw

    def hold_session(self, *, left: timedelta = NEARLY_OVER, login: timedelta | None = None) -> str:
        """Put a new login in, and its access token with so much time left; return the credential.

        ``login`` is how long the credential lives, where that is to be said.
        """
        self.qwen.mint()
        self.qwen.revoke()
        # Since when it lives, it does not say: it is due with less than days left.
        self.stack.put(self.qwen.issue_access_token(lifetime=left, has_iat=False))
        credential = self.sign_in_host.log_in(lifetime=login)
        self.stack.put_session(credential)
        return credential

    def alert(self) -> Notification:
        """Return the alert of the function that arrived."""
        return self.stack.wait_for_notification(
            lambda notification: not notification.is_alarm,
            within=ARRIVAL,
            expected="the function's alert",
        )

    def calls(self, event: object = None) -> Calls:
        """Run the function; return what came of it, and its calls."""
        aws = self.stack.cloud.relay.calls
        seen_by_aws, seen_by_qwen = len(aws), self._asked()
        run = self.stack.invoke(event)
        return Calls(run, aws[seen_by_aws:], self._asked() - seen_by_qwen)

    def _asked(self) -> int:
        return len(self.qwen.requests) + len(self.sign_in_host.requests)

    def start_anew(self) -> None:
        """Forget what was said and done so far, and let the hosts behave again."""
        self.qwen.answer_with(MINTS_NEWER_CLAIMS)
        self.sign_in_host.answer_with(ANSWERS)
        self.sign_in_host.policy = SessionPolicy()
        # A dozen sign-ins bring a challenge.
        self.sign_in_host.requests.clear()
        self.sign_in_host.spent.clear()
        self.stack.forget()
        self.stack.unstage()
        self.stack.notifications()


def end_alarms(stack: DeployedStack) -> None:
    """Set all alarms of a stack to OK: other tests may have let them go off."""
    cloudwatch = stack.cloud.cloudwatch
    # What was counted so far is not to be counted after this.
    stack.alarms()
    for logical_id, name in stack.resources().items():
        if logical_id.endswith("Alarm"):
            cloudwatch.set_alarm_state(AlarmName=name, StateValue="OK", StateReason="a test")


def alarm_message(stack: DeployedStack, alarm: str, *, state: str = "ALARM") -> Notification:
    """Return the message on the topic that this alarm of the stack has come into the state."""
    return stack.wait_for_notification(
        lambda told: (
            told.is_alarm
            and told.document["AlarmName"] == alarm
            and told.document["NewStateValue"] == state
        ),
        within=ARRIVAL,
        expected=f"the message that {alarm} is in {state}",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those tests be the last that look back at what all others made the functions do."""
    items.sort(key=lambda item: item.path.name.endswith("permissions.py"))


@contextmanager
def recorded(relay: RecordingProxy) -> Iterator[list[str]]:
    """Record what the functions send to AWS during the block, except the secrets' values."""
    sent: list[str] = []

    def record(call: Call, carry_out: CarryOut) -> Answer | None:
        if call.operation != "secretsmanager:PutSecretValue":
            sent.append(call.body.decode())
        return carry_out()

    before, relay.gate = relay.gate, record
    try:
        yield sent
    finally:
        relay.gate = before


@pytest.fixture(scope="session", name="session_stack")
def _session_stack(cloud: Cloud, built: Path) -> Iterator[Deployed]:
    with Hosts.started() as hosts:
        parameters = hosts.parameters(AlertEmail=OWNER)
        yield Deployed(cloud.deploy(built, parameters=parameters), hosts)


# Deploys a stack of this name, with these parameters.
type Deploy = Callable[[str, Mapping[str, str]], DeployedStack]


@pytest.fixture(scope="session", name="deploy_again")
def _deploy_again(session_stack: Deployed) -> Deploy:
    """Return what deploys the first stack's template under other names.

    ``sam deploy`` has packaged it by then. What it goes on to ask CloudFormation for, this does: a
    second ``sam`` would take ten times as long.
    """
    cloud, first = session_stack.stack.cloud, session_stack.stack.name
    client = cloud.cloudformation
    packaged = client.get_template(StackName=first, TemplateStage="Original")["TemplateBody"]
    s3 = cloud.session.client("s3", endpoint_url=cloud.endpoint)
    bucket = s3.list_buckets()["Buckets"][0]["Name"]
    # What sam packages is YAML, of which boto3 makes no dictionary.
    body = json.dumps(read_template(str(packaged))).encode()
    s3.put_object(Bucket=bucket, Key="again.template", Body=body)

    def deploy(name: str, parameters: Mapping[str, str]) -> DeployedStack:
        client.create_change_set(
            StackName=name,
            ChangeSetName="again",
            ChangeSetType="CREATE",
            TemplateURL=f"{cloud.endpoint}/{bucket}/again.template",
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
        client.get_waiter("change_set_create_complete").wait(
            StackName=name, ChangeSetName="again", WaiterConfig={"Delay": 1}
        )
        client.execute_change_set(StackName=name, ChangeSetName="again")
        client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
        return DeployedStack.find(cloud, name)

    return deploy


@pytest.fixture(name="deployed")
def _deployed(session_stack: Deployed) -> Deployed:
    """Return a stack for tokens of the first kind. It holds no login beside the token."""
    session_stack.start_anew()
    return session_stack


@pytest.fixture(scope="session", name="session_newer")
def _session_newer(deploy_again: Deploy) -> Iterator[Deployed]:
    with Hosts.started() as hosts:
        stack = deploy_again(
            "newer",
            hosts.parameters(
                SecretName="newer/token", SessionSecretName="newer/session", AlertAfterMinutes="0"
            ),
        )
        yield Deployed(stack, hosts)


@pytest.fixture(name="newer")
def _newer(session_newer: Deployed) -> Deployed:
    """Return a stack for sessions. To it, no trouble is a notice."""
    session_newer.start_anew()
    return session_newer


@pytest.fixture(scope="session", name="session_operated")
def _session_operated(deploy_again: Deploy) -> Iterator[Deployed]:
    with Hosts.started() as hosts:
        names = {"SecretName": "operated/token", "SessionSecretName": "operated/session"}
        yield Deployed(deploy_again("operated", hosts.parameters(**names)), hosts)


@pytest.fixture(name="operated")
def _operated(session_operated: Deployed) -> Deployed:
    """Return a stack whose session secret may get a value, which it then keeps."""
    session_operated.start_anew()
    return session_operated


@pytest.fixture(scope="session", name="session_fleet")
def _session_fleet(cloud: Cloud, built: Path) -> Iterator[DeployedFleet]:
    with Hosts.started() as hosts:
        stack = cloud.deploy(
            built,
            name="pool",
            parameters=hosts.parameters(
                Fleet="true",
                FleetSchedule="rate(12 hours)",
                SecretName="pool/own",
                SessionSecretName="pool/own-session",
            ),
        )
        yield DeployedFleet(stack, hosts.qwen, hosts.sign_in_host)


@pytest.fixture(name="fleet")
def _fleet(session_fleet: DeployedFleet) -> Iterator[DeployedFleet]:
    """Return the fleet without members, and with nothing said or queued."""
    session_fleet.qwen.answer_with(MINTS_NEWER_CLAIMS)
    session_fleet.sign_in_host.answer_with(ANSWERS)
    session_fleet.sign_in_host.policy = SessionPolicy()
    # A dozen sign-ins bring a challenge.
    session_fleet.sign_in_host.requests.clear()
    session_fleet.stack.notifications()
    with session_fleet.passing():
        yield session_fleet
