"""SECURITY.md names the test of each promise: here, that there is one."""

import ast
import re
from pathlib import Path

import pytest

from tests.repo_checks.targets import TARGETS

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_promises_test_exists(file: str, name: str) -> None:
    functions = {
        node.name
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }

    assert name in functions


def test_every_promise_names_a_test() -> None:
    promises = [
        line
        for line in SECURITY.splitlines()
        if line.startswith("| ") and not line.startswith(("| promise", "| ---"))
    ]

    assert len(promises) > 20
    assert [line for line in promises if not re.search(r"`tests/[\w/]+\.py::test_\w+`", line)] == []


def test_every_target_that_is_named_exists() -> None:
    for document in ("SECURITY.md", "CONTRIBUTING.md"):
        targets = set(
            re.findall(r"(?:`|^)make ([a-z0-9-]+)", (ROOT / document).read_text(), re.MULTILINE)
        )
        assert targets
        assert targets <= TARGETS, document
