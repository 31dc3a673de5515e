"""README and docs name what there is: parameters, outcomes, reasons, targets, exit codes."""

import json
import re
from pathlib import Path

import pytest

from qwen_token import QwenTokenError, errors
from qwen_token.cli import output
from qwen_token.policy import Severity
from qwen_token.run_report import Outcome
from tests.repo_checks.targets import TARGETS

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TEXT = "\n".join(page.read_text() for page in PAGES)
REFERENCE = (ROOT / "docs/reference.md").read_text()
OPERATE = (ROOT / "docs/operate.md").read_text()
TEMPLATE = (ROOT / "template.yaml").read_text()


def table(first_column: str) -> dict[str, list[str]]:
    """Return the rows of a page's table, without code marks, by their first cell."""
    [page] = [page for page in (REFERENCE, OPERATE) if f"\n| {first_column} |" in page]
    _, _, rest = page.partition(f"| {first_column} |")
    rows = [line.strip("|").split("|") for line in rest.split("\n\n")[0].splitlines()[2:]]
    return {row[0].strip(" `"): [cell.strip(" `") for cell in row[1:]] for row in rows}


def test_every_reason_has_its_row() -> None:
    reasons = {
        kind.reason
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, QwenTokenError) and "reason" in vars(kind)
    }
    assert table("reason").keys() == reasons


def test_every_parameter_has_its_row_with_its_default() -> None:
    parameters = TEMPLATE[TEMPLATE.index("\nParameters:") : TEMPLATE.index("\nRules:")]
    declared = dict(re.findall(r"\n  (\w+):\n(?:    .*\n)*?    Default: (.*)\n", parameters))
    shown = {
        name: "" if cells[0] == "empty" else cells[0] for name, cells in table("parameter").items()
    }
    assert shown == {name: default.strip("'") for name, default in declared.items()}


def test_every_outcome_has_its_row() -> None:
    # A failure that nobody is needed for ends a run well, too.
    assert table("outcome").keys() == {*Outcome, "retrying"}


def test_every_severity_has_its_row() -> None:
    assert table("severity").keys() == set(Severity)


def test_every_alarm_has_its_row() -> None:
    declared = re.findall(r"AlarmName: !Sub \$\{AWS::StackName\}(\S+)", TEMPLATE)
    shown = {name.strip("`… ") for names in table("alarm") for name in names.split(", ")}
    assert shown == set(declared)


def test_every_output_is_named() -> None:
    outputs = re.findall(r"\n  (\w+):\n", TEMPLATE[TEMPLATE.index("\nOutputs:") :])
    section = REFERENCE.split("\n## Outputs\n")[1].split("\n## ")[0]
    assert set(outputs) == set(re.findall(r"`(\w+)`", section))


def test_every_event_that_is_named_has_its_file() -> None:
    rows = table("event")
    files = [json.loads(file.read_text()) for file in (ROOT / "events").glob("*.json")]
    assert sorted(rows) == sorted(json.dumps(event) for event in files)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def anchors(file: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "target",
    sorted(set(re.findall(r"(?:`|^|=\S+ )make (?:-s )?([a-z0-9-]+)", TEXT, re.MULTILINE))),
)
def test_every_target_exists(target: str) -> None:
    assert target in TARGETS


def test_every_command_and_exit_code_is_named() -> None:
    assert "`python -m qwen_token put|status|refresh|smoke|environ`" in OPERATE
    assert "`remove|sweep|redrive`" in OPERATE
    assert {int(code) for code in table("code")} == {
        output.OK,
        output.FAILED,
        2,
        output.ATTENTION,
        output.INTERRUPTED,
    }
