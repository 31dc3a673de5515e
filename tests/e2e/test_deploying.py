"""docs/deploy.md word for word, as a new user would: from nothing to the first refresh and back.

Who deploys and who operates have exactly the policies of the page, which IAM enforces on each call;
each call is looked at, too. One day of a company: two stacks in two regions, each role within a
permissions boundary, tags, an update, one that is refused in the middle, an older release.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from localcloud.aws import REGION, ROOT, STACK_NAME, Cloud, local_cloud
from localcloud.recording_proxy import Call
from localcloud.stack import credentials
from tests.e2e.conftest import Hosts
from tests.policies import (
    DEPLOYS,
    OPERATES,
    permissions_of,
    policy,
    recorded,
    refused,
    without,
)

pytestmark = pytest.mark.nightly

PAGE = (ROOT / "docs/deploy.md").read_text()
ELSEWHERE = "eu-central-1"
BOUNDARY = "arn:aws:iam::000000000000:policy/qwen-token-boundary"
OF_A_RELEASE = ("LICENSE", "README.md")
# In the order of the prompts, more empty lines than there are questions: Enter takes the default.
ENTERS = "\n" * 60


def scripts(heading: str) -> list[str]:
    """Return what a section of the page says to type."""
    _, _, rest = PAGE.partition(f"\n## {heading}\n")
    assert rest, heading
    section = rest.partition("\n## ")[0]
    found = re.findall(r"^( *)```sh\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


@dataclass
class Company:
    """An account, a checkout of the project in it, and who types."""

    cloud: Cloud
    by_relay: Cloud
    checkout: Path
    hosts: Hosts
    calls: dict[str, list[Call]] = field(default_factory=dict)
    recorded: list[Call] = field(default_factory=list)
    people: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def types(self, who: str, script: str, *, region: str = REGION, typed: str = "") -> str:
        """Let somebody type this in the checkout, and ``typed`` when asked; return the output."""
        given = self.checkout.parent / "typed"
        given.write_text(typed)
        seen = len(self.recorded)
        done = self.by_relay.typed(
            f"cd {self.checkout}; exec <{given}\n{script}",
            HOME=str(self.checkout.parent),
            AWS_REGION=region,
            AWS_DEFAULT_REGION=region,
            **self.people[who],
        )
        self.calls.setdefault(who, []).extend(self.recorded[seen:])
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def client(self, service: str, region: str = REGION) -> Any:
        session: Any = self.cloud.session
        return session.client(service, endpoint_url=self.cloud.endpoint, region_name=region)

    def resources(self, stack: str, region: str = REGION) -> dict[str, tuple[str, str]]:
        pages = self.client("cloudformation", region).get_paginator("list_stack_resources")
        return {
            each["LogicalResourceId"]: (each["ResourceType"], each["PhysicalResourceId"])
            for page in pages.paginate(StackName=stack)
            for each in page["StackResourceSummaries"]
        }


@pytest.fixture(name="company")
def _company(tmp_path: Path) -> Iterator[Company]:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("layers", "functions", "make", "requirements", "examples"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=ignored)
    for file in ("Makefile", "samconfig.toml", "template.yaml", ".python-version", *OF_A_RELEASE):
        shutil.copy2(ROOT / file, checkout)
    for folder in (".venv", ".tools"):
        (checkout / folder).symlink_to(ROOT / folder)

    def open_the_bucket(call: Call) -> None:
        """Have SAM's bucket take what comes without TLS, as all does here."""
        if call.operation.startswith("s3:") and call.method == "PUT":
            s3: Any = cloud.session.client("s3", endpoint_url=cloud.endpoint)
            s3.delete_bucket_policy(Bucket=call.path.split("/")[1])

    with (
        local_cloud() as cloud,
        recorded(cloud, before=open_the_bucket) as (by_relay, calls),
        Hosts.started() as hosts,
    ):
        company = Company(cloud, by_relay, checkout, hosts, recorded=calls)
        company.people["administrator"] = {}
        yield company


def employ(company: Company) -> None:
    """Give the people the roles that the page's policies are for: in two regions, of two stacks."""
    for who, names in (("deployer", DEPLOYS), ("operator", OPERATES)):
        statements = [
            each
            for of_stack in (
                {"region": REGION, "stack": STACK_NAME},
                {"region": ELSEWHERE, "stack": "qwen-two"},
            )
            for name in names
            for each in policy(name, **of_stack)["Statement"]
        ]
        session = company.cloud.session_of_role_that_may(statements)
        company.people[who] = credentials(session)


def answers(company: Company) -> str:
    """Return what is said beforehand: addresses of this machine, and the boundary.

    A value with a space keeps its quotes through make, the shell and SAM in this way only.
    """
    given = company.hosts.parameters(PermissionsBoundaryArn=BOUNDARY)
    words = " ".join(f'"{name}=\\"{value}\\""' for name, value in given.items() if value)
    return f"ARGS='--parameter-overrides {words}'"


def test_the_page_word_for_word(company: Company) -> None:  # noqa: PLR0915 - a day has many steps
    qwen = company.hosts.qwen
    before = everything(company)

    # Who may do what.
    for script in scripts("Who may do what"):
        company.types("administrator", script)
    iam = company.client("iam")
    made = {each["PolicyName"] for each in iam.list_policies(Scope="Local")["Policies"]}
    assert made == {
        *("qwen-token-deployer", "qwen-token-stack-resources", "qwen-token-operator"),
        *("qwen-token-fleet-operator", "qwen-token-boundary"),
    }
    employ(company)

    # Deploy, with the stand-ins' addresses and the boundary.
    deploy, first_login = scripts("Deploy")
    company.types("deployer", deploy.replace("deploy", f"deploy {answers(company)}"), typed=ENTERS)
    assert (company.checkout / f"samconfig.{STACK_NAME}.toml").exists()
    put, status, smoke = first_login.splitlines()
    login = qwen.mint(lifetime=timedelta(days=5))
    company.types("operator", put, typed=login)
    assert "days" in company.types("operator", status)
    assert company.types("operator", smoke).count("✓") == 3
    first = company.resources(STACK_NAME)
    bind(company, first)
    assert company.types("operator", smoke).count("✓") == 3

    # Another region.
    deploy, put, status = scripts("A second stack, or another region")[0].splitlines()
    company.types(
        "deployer",
        f"{deploy} {answers(company)}",
        region=ELSEWHERE,
        typed=f"\n{ELSEWHERE}{ENTERS}",
    )
    company.types("operator", put, region=ELSEWHERE, typed=qwen.mint(lifetime=timedelta(days=6)))
    assert ELSEWHERE in company.types("operator", f"{status} ARGS=--json", region=ELSEWHERE)
    bind(company, company.resources("qwen-two", ELSEWHERE))
    assert company.resources(STACK_NAME) == first, "one region's stack is not the other's"

    # Tags.
    [tags] = scripts("Parameters that companies need")
    company.types("deployer", tags)
    described = company.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"][0]
    assert {"Key": "Team", "Value": "chat"} in described["Tags"]

    # Update: one parameter, and then one that is refused, which changes nothing.
    update, preview = scripts("Update")
    company.types("deployer", update)
    assert parameters(company)["LogLevel"] == "WARNING"
    assert parameters(company)["PermissionsBoundaryArn"] == BOUNDARY
    bind(company, company.resources(STACK_NAME))
    company.types("deployer", preview)
    assert parameters(company)["LogLevel"] == "WARNING"
    with pytest.raises(AssertionError, match="SilentAfterMinutes"):
        company.types("deployer", "make deploy ARGS='--parameter-overrides SilentAfterMinutes=31'")
    assert company.types("operator", smoke).count("✓") == 3

    # A release that is replaced by the one before it.
    code = code_of(company)
    handler = company.checkout / "functions/refresh/handler.py"
    release = handler.read_text()
    handler.write_text(f"{release}\n# The next release.\n")
    company.types("deployer", "make deploy")
    assert code_of(company) != code
    handler.write_text(release)
    company.types("deployer", "make deploy")
    assert code_of(company) == code
    assert company.types("operator", smoke).count("✓") == 3

    # Uninstall both, and then what is left.
    which, destroy, secrets, layers = scripts("Uninstall")
    company.types("administrator", which)
    company.types("deployer", destroy, typed="y\ny\n")
    company.types("deployer", f"{destroy.strip()} STACK=qwen-two", region=ELSEWHERE, typed="y\ny\n")
    assert not list(company.checkout.glob("samconfig.*.toml"))
    left = everything(company)
    assert left.keys() - before.keys() == {
        f"{kind} {name} {region}"
        for region, stack in ((REGION, STACK_NAME), (ELSEWHERE, "qwen-two"))
        for kind, name in (
            ("secret", "qwen/token"),
            ("secret", "qwen/session"),
            ("layer", f"{stack}-token"),
            ("stack", "aws-sam-cli-managed-default"),
        )
    }
    for script in (secrets, layers):
        company.types("administrator", script)
        company.types("administrator", script.replace(STACK_NAME, "qwen-two"), region=ELSEWHERE)
    assert {each.partition(" ")[0] for each in everything(company)} == {"stack"}

    # Whoever deploys and operates needed each statement of the policies, and nothing beside them.
    for who, names in (("deployer", ("deployer",)), ("operator", OPERATES)):
        taken = [
            each
            for each in permissions_of(
                call for call in company.calls[who] if REGION in call.headers["Authorization"]
            )
            # Who one is, AWS tells everybody.
            if each["action"] != "sts:GetCallerIdentity"
        ]
        for name in names:
            document = policy(name)
            assert refused(taken, [document]) == []
            unused = {
                statement["Sid"]
                for statement in document["Statement"]
                if not refused(taken, [without(document, statement["Sid"])])
            }
            # CloudFormation's calls, which the emulator makes by itself, and of a log nobody read.
            assert unused <= {"UseSamsTransform", "MakeTheBucketForTheCodeOnce", "ReadTheLog"}


def parameters(company: Company) -> dict[str, str]:
    stacks = company.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"]
    return {each["ParameterKey"]: each["ParameterValue"] for each in stacks[0]["Parameters"]}


def code_of(company: Company) -> str:
    kind, name = company.resources(STACK_NAME)["RefreshFunction"]
    assert kind == "AWS::Lambda::Function"
    configuration = company.client("lambda").get_function_configuration(FunctionName=name)
    return str(configuration["CodeSha256"])


def bind(company: Company, resources: Mapping[str, tuple[str, str]]) -> None:
    """Put the boundary on the stack's roles, which CloudFormation does and the emulator not."""
    roles = [name for kind, name in resources.values() if kind == "AWS::IAM::Role"]
    assert len(roles) == 2
    for name in roles:
        company.client("iam").put_role_permissions_boundary(
            RoleName=name, PermissionsBoundary=BOUNDARY
        )


def everything(company: Company) -> dict[str, object]:
    """Return what there is of kinds that the stack has, and of stacks, by kind, name and region."""
    found: dict[str, object] = {}
    for region in (REGION, ELSEWHERE):
        for kind, service, operation, key, name in (
            ("secret", "secretsmanager", "list_secrets", "SecretList", "Name"),
            ("function", "lambda", "list_functions", "Functions", "FunctionName"),
            ("layer", "lambda", "list_layers", "Layers", "LayerName"),
            ("table", "dynamodb", "list_tables", "TableNames", None),
            ("topic", "sns", "list_topics", "Topics", "TopicArn"),
            ("alarm", "cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
            ("dashboard", "cloudwatch", "list_dashboards", "DashboardEntries", "DashboardName"),
            ("group", "logs", "describe_log_groups", "logGroups", "logGroupName"),
            ("schedule", "scheduler", "list_schedules", "Schedules", "Name"),
            ("queue", "sqs", "list_queues", "QueueUrls", None),
            ("stack", "cloudformation", "describe_stacks", "Stacks", "StackName"),
        ):
            answer = getattr(company.client(service, region), operation)()
            for each in answer.get(key, ()):
                if kind == "stack" and each["StackStatus"] == "DELETE_COMPLETE":
                    continue
                found[f"{kind} {each if name is None else each[name]} {region}"] = each
    return found


def test_every_line_of_the_page_is_typed() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    typed = {
        *("Who may do what", "Deploy", "Parameters that companies need", "Update"),
        *("A second stack, or another region", "Uninstall", "Without a clone"),
    }
    assert {heading for heading in headings if scripts(heading)} == typed
    assert json.loads((ROOT / "examples/policies/boundary.json").read_text())
