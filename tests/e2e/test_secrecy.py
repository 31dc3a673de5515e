"""No token, credential or password, nor any part of one, comes out anywhere."""

import hashlib
import json
import subprocess
from datetime import timedelta

import pytest

from localcloud import qwen as scenarios
from localcloud import sign_in_host
from localcloud.recording_proxy import AwsRefusal
from localcloud.serving import Reply, Scenario
from localcloud.sign_in_host import (
    CredentialForm,
    Rotation,
    SessionPolicy,
    SignInHostStandIn,
    SignInRequest,
)
from tests.e2e.conftest import OWNER, Deployed, recorded
from tests.minting import found_in, pieces
from tests.repo_checks.targets import MAKEFILES

DAY = timedelta(days=1)

# A command's exit codes. Whether the failures before a status have raised an alarm yet is open.
GOOD, FAILED, TROUBLE = {0}, {1}, {3}


def secret_parts(raw: str) -> set[str]:
    """Return every piece of a token, except of its header, which every JWT shares."""
    _, payload, signature = raw.split(".")
    return pieces(payload) | pieces(signature)


def test_no_part_of_any_token_is_in_any_output(deployed: Deployed) -> None:
    stack, qwen, cloud = deployed.stack, deployed.qwen, deployed.stack.cloud
    shown: dict[str, str] = {}

    with recorded(cloud.relay) as sent:
        # Answers that carry a token, or refuse one: the other ways to fail are in the log by their
        # own tests, where those ran before.
        for scenario in (
            scenarios.MINTS,
            scenarios.ECHOES,
            scenarios.MINTS_FOR_ANOTHER_ACCOUNT,
            scenarios.ISSUES_THEN_REFUSES,
            scenarios.STRANGE_TOKEN,
            scenarios.TOKEN_DEAD,
        ):
            # What another answer left behind is not to keep the token from being spent.
            stack.forget()
            deployed.hold(2 * DAY)
            qwen.answer_with(scenario)
            stack.invoke()
        qwen.answer_with(scenarios.MINTS_NEWER_CLAIMS)
        for operation in ("GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"):
            stack.forget()
            deployed.hold(2 * DAY)
            refusal = AwsRefusal("InternalServiceError", 500)
            with cloud.relay.interfering(f"secretsmanager:{operation}", refusal):
                stack.invoke()
        raw = qwen.mint()
        for event in ({raw: True}, {"force": raw}, {"token": raw}, raw, [raw]):
            stack.invoke(event)
        with cloud.relay.interfering("sns:Publish", AwsRefusal("InternalError", 500)):
            stack.invoke({"token": raw})
        for value in (raw[:-40], f"{raw}.{raw}", f"{raw} {raw}", json.dumps({"token": [raw]})):
            stack.put(value)
            stack.invoke()
        for arguments, typed, codes in (
            # Of the value that was put last, nothing can be made.
            (["put"], raw, FAILED),
            (["put", "--json"], raw, FAILED),
            (["refresh", "--force"], "", FAILED),
            (["smoke"], "", FAILED),
            (["smoke", "--json"], "", FAILED),
            (["status"], "", TROUBLE),
            (["status", "--json"], "", TROUBLE),
            (["put", "--replace"], raw, GOOD),
            (["put"], raw, GOOD),
            (["put", "--json"], raw, GOOD),
            (["put"], f"{raw}.{raw}", FAILED),
            (["put"], raw[:-40], FAILED),
            (["refresh", "--force"], "", GOOD),
            (["smoke"], "", GOOD),
            (["smoke", "--json"], "", GOOD),
            (["smoke", "--stdin", "--api-base-url", qwen.base_url], raw, GOOD),
            (["smoke", "--stdin", "--api-base-url", qwen.base_url], raw[:-40], FAILED),
            (["status"], "", GOOD | TROUBLE),
            (["status", "--json"], "", GOOD | TROUBLE),
        ):
            done = stack.command_line(*arguments, typed=typed)
            shown[f"command line {len(shown)}: {arguments}"] = done.stdout + done.stderr
            assert done.returncode in codes, arguments

    shown |= shown_by(deployed)
    shown["calls to AWS"] = "\n".join(sent)
    assert '"Token Refreshed"' in shown["calls to AWS"], "the events must be among them"
    used = {request.raw for request in qwen.requests if request.raw} | {raw}
    used |= {each.text for each in stack.versions() if qwen.read(each.text)}
    parts = set().union(*(secret_parts(token) for token in used))
    assert len(used) > 10, "the test must have used tokens"

    for where, text in shown.items():
        assert len(text) > 10, f"{where} must say something"
        assert not found_in(text, parts), f"in the {where}"


def shown_by(deployed: Deployed) -> dict[str, str]:
    """Return all that AWS shows about a stack, except the values of its secrets."""
    stack, cloud = deployed.stack, deployed.stack.cloud
    name = stack.outputs["RefreshFunctionName"]
    return {
        "log": "\n".join(stack.log()),
        "alerts": str(stack.notifications()),
        "e-mails": str([email.text for email in cloud.relay.emails]),
        "state table": str(cloud.dynamodb.scan(TableName=stack.outputs["StateTableName"])),
        "alarms": str(cloud.cloudwatch.describe_alarms()),
        "metrics": str(cloud.cloudwatch.list_metrics()),
        "configuration": str(cloud.functions.get_function_configuration(FunctionName=name)),
        "events": str(cloud.cloudformation.describe_stack_events(StackName=stack.name)),
        "secret's description": str(cloud.secretsmanager.list_secrets()),
        "emulator's log": cloud.ministack.output(),
    }


# --- logins ---------------------------------------------------------------------------------------

PASSWORD = "correct horse battery staple"
WRONG_PASSWORD = "wrong horse, right battery"

SCENARIOS = (
    sign_in_host.REFUSES,
    sign_in_host.ISSUES_THEN_REFUSES,
    sign_in_host.ANSWERS_FOR_ANOTHER_ACCOUNT,
    sign_in_host.WITHOUT_TOKEN,
    sign_in_host.STRANGE_TOKEN,
    sign_in_host.COOKIE_HUGE,
    sign_in_host.BLOCK_SLIDER,
)
# With a credential in them that nothing can be made of.
SPOILT = ("{}; x=1", '{{"refresh_token": "{}"', '{{"refresh_token": ["{}"]}}', "{0} {0}")


class Trial:
    """Logins of one form, tried one after another, with a look at what can be seen meanwhile."""

    def __init__(self, deployed: Deployed, form: CredentialForm) -> None:
        self.deployed = deployed
        self.form = form
        self.host = deployed.sign_in_host
        self.logins: list[str] = []
        self.processes: list[str] = []
        self.looking = Scenario("looks around", "lists the processes meanwhile", self._look_around)

    def _look_around(self, host: SignInHostStandIn, request: SignInRequest) -> Reply:
        listed = subprocess.run(
            ["ps", "axeww", "-o", "command"],  # noqa: S607 - wherever the system has it
            capture_output=True,
            text=True,
            check=True,
        )
        self.processes.append(listed.stdout)
        return host.answer(request)

    def log_in(self) -> str:
        """Let a token be due, and return a new credential."""
        self.deployed.hold_session()
        self.host.policy = SessionPolicy(rotation=Rotation.OLD_DIES, credential_form=self.form)
        self.host.answer_with(self.looking)
        self.logins.append(self.host.log_in())
        return self.logins[-1]

    def run(self, text: str) -> None:
        """Run the function with this in the session secret, as if it had never run."""
        self.deployed.stack.forget()
        self.deployed.stack.put_session(text)
        self.deployed.stack.invoke()
        kept = self.deployed.stack.current_session().text
        if kept != text:
            self.logins.append(json.loads(kept)["refresh_token"])

    def parts(self) -> set[str]:
        """Return every piece of what was secret."""
        of_credential = secret_parts if self.form is CredentialForm.JWT else pieces
        passwords = (PASSWORD, WRONG_PASSWORD)
        return set().union(
            *map(of_credential, self.logins),
            *(pieces(password) for password in passwords),
            *(pieces(hashlib.sha256(password.encode()).hexdigest()) for password in passwords),
            *(secret_parts(each.raw) for each in self.deployed.qwen.requests if each.raw),
        )


@pytest.mark.parametrize(
    "form", [CredentialForm.JWT, pytest.param(CredentialForm.OPAQUE, marks=pytest.mark.nightly)]
)
def test_no_part_of_any_login_is_in_any_output(newer: Deployed, form: CredentialForm) -> None:
    trial = Trial(newer, form)
    relay = newer.stack.cloud.relay
    newer.sign_in_host.set_password(OWNER, PASSWORD)

    with recorded(relay) as sent:
        trial.run(trial.log_in())
        for scenario in SCENARIOS:
            credential = trial.log_in()
            newer.sign_in_host.answer_with(scenario)
            trial.run(credential)
        for operation in ("PutSecretValue", "UpdateSecretVersionStage"):
            refusal = AwsRefusal("InternalServiceError", 500)
            credential = trial.log_in()
            with relay.interfering(f"secretsmanager:{operation}", refusal):
                trial.run(credential)
        for spoilt in SPOILT:
            trial.run(spoilt.format(trial.log_in()))
        for email, password in ((OWNER, PASSWORD), (OWNER, WRONG_PASSWORD), ("nobody", PASSWORD)):
            trial.log_in()
            trial.run(json.dumps({"email": email, "password": password}))
    spent = trial.log_in()
    trial.run(spent)
    shown: dict[str, str] = {}
    for arguments, type_, codes in (
        (["put"], trial.log_in, GOOD),
        (["put", "--json"], lambda: f"refresh_token={trial.log_in()}; other=1", GOOD),
        (["put"], lambda: f"refresh_token={trial.log_in()[:-40]} x", FAILED),
        (["put"], lambda: spent, FAILED),
        (["put", "--sign-in"], lambda: f"{OWNER}\n{PASSWORD}\n", GOOD),
        # It is stored, and not used yet: the token is fresh.
        (["put", "--sign-in", "--json"], lambda: f"{OWNER}\n{WRONG_PASSWORD}\n", GOOD),
        (["status"], str, GOOD | TROUBLE),
        (["status", "--json"], str, GOOD | TROUBLE),
        (["refresh", "--force"], str, GOOD),
        (["smoke"], str, GOOD),
    ):
        done = newer.stack.command_line(*arguments, typed=type_())
        shown[f"command line {len(shown)}: {arguments}"] = done.stdout + done.stderr
        assert done.returncode in codes, arguments

    shown |= shown_by(newer)
    shown |= {"calls to AWS": "\n".join(sent), "process list": str(trial.processes)}
    assert len(trial.processes) > 4, "both grants must have been used"
    parts = trial.parts()
    for where, text in shown.items():
        assert len(text) > 10, f"{where} must say something"
        assert not found_in(text, parts), f"in the {where}"


def test_no_command_line_of_the_project_takes_a_token() -> None:
    makefile = "".join(file.read_text() for file in MAKEFILES)
    assert "put-token" in makefile
    assert "TOKEN=" not in makefile
