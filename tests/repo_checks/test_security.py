"""SECURITY.md names the test of each promise: that there is one, and a break that it notices."""

import ast
import re
from functools import cache
from pathlib import Path

from tests.proofs.breaks import breaks
from tests.repo_checks.targets import TARGETS

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)))


def test_a_promises_test_exists() -> None:
    assert [
        f"{file}::{name}" for file, name in NAMED if name not in functions_of(ROOT / file)
    ] == []


@cache
def functions_of(file: Path) -> set[str]:
    return {
        node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)
    }


def test_every_promise_names_a_test() -> None:
    promises = [
        line
        for line in SECURITY.splitlines()
        if line.startswith("| ") and not line.startswith(("| promise", "| ---"))
    ]

    assert len(promises) > 20
    assert [line for line in promises if not re.search(r"`tests/[\w/]+\.py::test_\w+`", line)] == []


def test_a_promise_is_broken_for_its_test_to_notice() -> None:
    assert {f"{file}::{name}" for file, name in NAMED} <= {each.test for each in breaks()}


def test_a_break_changes_what_is_there() -> None:
    """Whether its test notices takes longer: that is tried each night."""
    for each in breaks():
        text = (ROOT / each.file).read_text("utf-8")
        assert each.of(text) != text, each.name
        assert re.search(
            rf"^def {each.test.split('::')[1].partition('[')[0]}\(",
            (ROOT / each.test.split("::")[0]).read_text(),
            re.MULTILINE,
        ), each.name


def test_every_target_that_is_named_exists() -> None:
    for document in ("SECURITY.md", "CONTRIBUTING.md"):
        targets = set(
            re.findall(r"(?:`|^)make ([a-z0-9-]+)", (ROOT / document).read_text(), re.MULTILINE)
        )
        assert targets
        assert targets <= TARGETS, document
