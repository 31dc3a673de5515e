"""checkov finds nothing in the transformed template but what the template says a reason for."""

import json
import os
import select
import socket
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHECKOV = ROOT / ".tools/checkov/bin/checkov"
TRANSFORM = [ROOT / ".tools/cloud/bin/python", ROOT / "tests/repo_checks/transform.py"]

# Between them, every resource and every statement is there once.
PARAMETERS = {
    "as it is": [],
    "with everything": [
        "AlertEmail=owner@example.com",
        "SecretKmsKeyArn=arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d-1111-2222-3333-444455556666",
        "VpcSubnetIds=subnet-0a1b2c3d",
        "VpcSecurityGroupIds=sg-0a1b2c3d",
        "PermissionsBoundaryArn=arn:aws:iam::111122223333:policy/boundary",
    ],
    "with the fleet": ["Fleet=true"],
    "with secrets that exist": [
        "SecretArn=arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1B2c3",
        "SessionSecretArn=arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/session-a1B2c3",
    ],
    "without a session secret": ["SessionSecretName=", "ChangeEvents=false", "CheckSchedule="],
}
WITHOUT_SUPPRESSIONS = "without its suppressions"
WITH_A_WILDCARD = "with a wildcard"

type Finding = tuple[str, str]


@dataclass(frozen=True)
class Scan:
    """What checkov said of each template: check and resource, and the reason where one is given."""

    passed: dict[str, set[Finding]]
    failed: dict[str, set[Finding]]
    suppressed: dict[str, dict[Finding, str]]
    asked_the_network: bool


def transformed(*sets: list[str]) -> list[Any]:
    """Return the template as CloudFormation gets to see it with each of these sets of values."""
    arguments = [argument for each in sets for argument in ("--", *each)][1:]
    with (ROOT / "template.yaml").open() as template:
        done = subprocess.run(  # noqa: S603 - the project's own
            [*map(str, TRANSFORM), *arguments], stdin=template, capture_output=True, check=True
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def without_suppressions(template: Any) -> Any:
    for resource in template["Resources"].values():
        resource.get("Metadata", {}).pop("checkov", None)
    return template


def with_a_wildcard(template: Any) -> Any:
    [policy] = template["Resources"]["RefreshFunctionRole"]["Properties"]["Policies"]
    policy["PolicyDocument"]["Statement"][0]["Resource"] = "*"
    return template


@pytest.fixture(scope="module", name="scan")
def _scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    directory = tmp_path_factory.mktemp("scan")
    templates = dict(zip(PARAMETERS, transformed(*PARAMETERS.values()), strict=True))
    plain = templates["with the fleet"]
    templates[WITHOUT_SUPPRESSIONS] = without_suppressions(deepcopy(plain))
    templates[WITH_A_WILDCARD] = with_a_wildcard(deepcopy(plain))
    files = {}
    for what, template in templates.items():
        file = directory / f"{what}.json"
        file.write_text(json.dumps(template, indent=1))
        files[str(file)] = what
    # Whatever it asked of the network would come to this proxy.
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        done = subprocess.run(  # noqa: S603 - a pinned tool
            [
                *(str(CHECKOV), "--file", *files, "--framework", "cloudformation"),
                *("--output", "json", "--soft-fail"),
                *("--skip-download", "--download-external-modules", "false"),
            ],
            env={
                **{name: text for name, text in os.environ.items() if name.lower() != "no_proxy"},
                **dict.fromkeys(
                    ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address
                ),
                # Whether there is a newer release is no business of a scan.
                "CKV_SKIP_PACKAGE_UPDATE_CHECK": "true",
                # What it asked an hour ago, and remembers, would hide that it asks.
                "HOME": str(directory),
                "XDG_CACHE_HOME": str(directory),
            },
            cwd=directory,
            capture_output=True,
            text=True,
            check=True,
        )
        connections, _, _ = select.select([proxy], [], [], 0)
        asked_the_network = bool(connections)
    results = json.loads(done.stdout)["results"]
    assert results["parsing_errors"] == []

    def found(kind: str) -> dict[str, dict[Finding, str]]:
        by_template: dict[str, dict[Finding, str]] = {what: {} for what in templates}
        for each in results[kind]:
            what = files[str(directory / Path(each["file_path"]).name)]
            finding = (each["check_id"], each["resource"])
            by_template[what][finding] = each["check_result"].get("suppress_comment", "")
        return by_template

    return Scan(
        passed={what: set(findings) for what, findings in found("passed_checks").items()},
        failed={what: set(findings) for what, findings in found("failed_checks").items()},
        suppressed=found("skipped_checks"),
        asked_the_network=asked_the_network,
    )


@pytest.mark.parametrize("what", PARAMETERS)
def test_the_template_is_clean(scan: Scan, what: str) -> None:
    assert scan.failed[what] == set()


def test_every_role_and_policy_is_looked_at(scan: Scan) -> None:
    # Which it is not where an Fn::If was left in it.
    looked_at = {
        resource
        for what in ("with everything", "with the fleet")
        for check, resource in scan.passed[what]
        if "107" in check
    }

    assert looked_at == {
        "AWS::IAM::ManagedPolicy.ReaderPolicy",
        "AWS::IAM::ManagedPolicy.VpcPolicy",
        "AWS::IAM::Policy.DispatchGoesOn",
        "AWS::IAM::Role.DispatchFunctionRole",
        "AWS::IAM::Role.DispatchScheduleRole",
        "AWS::IAM::Role.RefreshFunctionRole",
        "AWS::IAM::Role.ScheduleRole",
        "AWS::IAM::Role.WorkerFunctionRole",
    }


def test_a_suppression_has_a_reason_and_is_needed(scan: Scan) -> None:
    suppressed = scan.suppressed["with the fleet"]

    assert suppressed
    assert all(len(reason.split()) > 5 for reason in suppressed.values())
    assert suppressed.keys() == scan.failed[WITHOUT_SUPPRESSIONS]


def test_a_wildcard_would_be_found(scan: Scan) -> None:
    assert {resource for _, resource in scan.failed[WITH_A_WILDCARD]} == {
        "AWS::IAM::Role.RefreshFunctionRole"
    }


def test_the_scan_asks_nobody(scan: Scan) -> None:
    assert not scan.asked_the_network
