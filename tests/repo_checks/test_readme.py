"""The README says what there is: parameters, reasons, targets, exit codes."""

import re
from pathlib import Path

import pytest

from qwen_token import QwenTokenError, errors
from qwen_token.cli import output
from tests.repo_checks.targets import TARGETS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def table(first_column: str) -> dict[str, list[str]]:
    """Return a table's rows, without code marks, by their first cell."""
    _, _, rest = README.partition(f"| {first_column} |")
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
    template = (ROOT / "template.yaml").read_text()
    parameters = template[template.index("\nParameters:") : template.index("\nConditions:")]
    declared = dict(re.findall(r"\n  (\w+):\n(?:    .*\n)*?    Default: (.*)\n", parameters))
    shown = {
        name: "" if cells[0] == "empty" else cells[0] for name, cells in table("parameter").items()
    }
    assert shown == {name: default.strip("'") for name, default in declared.items()}


@pytest.mark.parametrize(
    "target",
    sorted(set(re.findall(r"(?:`|^|=\S+ )make (?:-s )?([a-z0-9-]+)", README, re.MULTILINE))),
)
def test_every_target_exists(target: str) -> None:
    assert target in TARGETS


def test_every_command_and_exit_code_is_named() -> None:
    assert "`python -m qwen_token put|status|refresh|smoke|environ`" in README
    assert "`remove|sweep|redrive`" in README
    assert {int(code) for code in table("code")} == {
        output.OK,
        output.FAILED,
        2,
        output.ATTENTION,
        output.INTERRUPTED,
    }
