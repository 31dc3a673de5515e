"""The workflows and forms of .github: pinned, with few rights, and calling what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcloud.cloudformation import read_template
from qwen_token import __version__
from tests.repo_checks.targets import TARGETS

GITHUB = Path(__file__).parents[2] / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
PINNED = re.compile(r"(?P<action>[\w-]+/[\w/-]+)@(?P<commit>[0-9a-f]{40}) # v\d+\.\d+\.\d+")
# What a job may do beside reading the repository.
RIGHTS = {
    ("release.yml", "publish"): {"contents", "id-token", "attestations"},
    ("requirements.yml", "upgrade"): {"contents", "pull-requests", "actions"},
    ("codeql.yml", "analyze"): {"security-events"},
}


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def test_every_action_is_pinned_and_each_by_one_commit() -> None:
    commits: dict[str, set[str]] = {}
    for file in WORKFLOWS:
        for use in re.findall(r"uses: (.*)", file.read_text()):
            pin = PINNED.fullmatch(use)
            assert pin, f"{file.name}: {use}"
            repository = "/".join(pin["action"].split("/")[:2])
            commits.setdefault(repository, set()).add(pin["commit"])

    assert {action for action, found in commits.items() if len(found) > 1} == set()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_may_read_and_a_job_what_it_needs_beside(file: Path) -> None:
    workflow = read(file)

    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in file.read_text()
    for name, job in workflow["jobs"].items():
        may_write = {what for what, how in job.get("permissions", {}).items() if how == "write"}
        assert may_write == RIGHTS.get((file.name, name), set())
        assert job["timeout-minutes"] <= 90


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_runs_targets_that_there_are_and_no_text_of_others(file: Path) -> None:
    for job in read(file)["jobs"].values():
        for step in job["steps"]:
            command = step.get("run", "")
            assert set(re.findall(r"\bmake ([a-z][a-z-]*)", command)) <= {*TARGETS}
            # What somebody else may have named, like a branch, comes by way of the environment.
            assert "${{" not in re.sub(r"\$\{\{ matrix\.\w+ \}\}", "", command)


def test_the_template_has_the_version_of_the_library() -> None:
    template = read_template((GITHUB.parent / "template.yaml").read_text())

    assert (
        template["Metadata"]["AWS::ServerlessRepo::Application"]["SemanticVersion"] == __version__
    )


def test_only_a_tag_is_published_and_only_what_was_built() -> None:
    release = read(GITHUB / "workflows/release.yml")["jobs"]

    assert release["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert release["publish"]["needs"] == "build"
    assert not [step for step in release["publish"]["steps"] if "checkout" in step.get("uses", "")]


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_a_form_asks_for_no_token_and_says_so(file: Path) -> None:
    form = read(file)
    asked = [each for each in form["body"] if each["type"] != "markdown"]

    assert len({each["id"] for each in asked}) == len(asked)
    assert "no token" in " ".join(file.read_text().lower().split())


def test_the_form_for_trouble_asks_for_the_status() -> None:
    text = (GITHUB / "ISSUE_TEMPLATE/trouble.yml").read_text()

    assert "make -s status ARGS=--json" in text
    assert "required: true" in text.split("id: clean")[1]
