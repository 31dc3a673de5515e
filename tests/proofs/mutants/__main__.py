"""Break the core in every way that mutmut knows, and say which of the breaks no test noticed.

``survivors.toml`` explains those that may stay: mutants that behave like the original. Any other
survivor makes the exit code 1, and so does an explanation that no survivor needs.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

_ROOT: Final = Path(__file__).parents[3]
_PYTHON: Final = str(_ROOT / ".tools/mutation/bin/python")
# Mutants are told apart by their modules' names, so the package has to lie at the top here.
_WORK: Final = _ROOT / ".mutation"
_EXPLAINED: Final = Path(__file__).with_name("survivors.toml")

_MODULES: Final = (
    "policy",
    "tokens",
    "keeper",
    "renewal",
    "grant_chain",
    "run_memory",
    "ledger",
    "incidents",
    "secret_store",
    "session_store",
    "stored_token",
    "stored_session",
    "session",
    "grants.exchange",
    "grants.hosts",
    "grants.password",
    "grants.refresh_token",
    "grants.sign_in_host",
    "qwen_api",
    "transport",
    "replies",
    "origin",
    "errors",
    "client",
)
# mutmut leaves a function with a decorator whole. These are put around theirs in a line of its own.
_DECORATORS: Final = frozenset({"forgets_locals", "property", "contextmanager"})
# Of these, mutmut gives a mutant those that run its function; order.py takes out what is emulated.
_TESTS: Final = (
    "tests/unit/test_policy.py",
    "tests/unit/test_tokens.py",
    "tests/unit/test_keeper.py",
    "tests/unit/test_handler.py",
    "tests/unit/test_errors.py",
    "tests/unit/test_grant_chain.py",
    "tests/unit/test_incidents.py",
    "tests/unit/test_ledger.py",
    "tests/unit/test_origin.py",
    "tests/unit/test_run_memory.py",
    "tests/unit/test_session.py",
    "tests/unit/test_session_store.py",
    "tests/unit/test_stored_token.py",
    "tests/unit/test_replies.py",
    # Those that have it make a client. Others fork, which mutmut's own processes do not bear.
    *(
        f"tests/unit/test_shared_token.py::test_{name}"
        for name in (
            "without_a_region_the_error_says_what_to_set",
            "an_invalid_arn_is_an_error_of_the_tree",
            "a_secret_named_by_its_arn_is_read_in_the_arns_region",
            "the_refresh_function_is_run_in_its_own_region_or_the_secrets",
            "a_refresh_function_that_cannot_be_reached_is_asked_once",
        )
    ),
    "tests/integration/test_secret_store.py",
    "tests/integration/test_secret_store_answers.py",
)
# Real servers, for the modules that speak to them; others are not kept waiting.
_WIRE_TESTS: Final = (
    "tests/integration/test_qwen_api.py",
    "tests/integration/test_qwen_api_words.py",
    "tests/integration/test_transport.py",
    *(
        f"tests/integration/test_transport_hostile.py::test_{name}"
        for name in (
            "a_reply_that_breaks_the_rules_is_classed",
            "a_reply_that_never_ends_is_cut_off_and_no_thread_reads_on[a body that drips]",
            "a_session_without_a_text_where_it_needs_one_is_unexpected",
            "what_a_session_has_besides_may_be_anything",
            "wherever_a_server_points_nobody_else_is_asked",
        )
    ),
    "tests/integration/test_transport_tls.py",
    "tests/integration/test_transport_wire.py",
    "tests/integration/test_client.py",
    "tests/integration/test_grants_wire.py",
    "tests/integration/test_sign_in_host.py",
)
_ON_THE_WIRE: Final = re.compile("qwen_api|transport|replies|origin|errors|client|grants\\..*")
# Seconds. The slowest test takes ten, all of it asleep.
_HANGS: Final = 45
_PROGRESS: Final = re.compile(r"(\d+)/(\d+)  ")
_NAME: Final = re.compile(r"qwen_token\.([\w.]+)\.(?:x_|xǁ\w+ǁ)(\w+)__mutmut_\d+")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A break of one line, and what became of it."""

    name: str
    status: str

    @property
    def module(self) -> str:
        """The module that it breaks."""
        return self._parts()[1]

    @property
    def function(self) -> str:
        """The function or method that it breaks."""
        return self._parts()[2]

    def _parts(self) -> re.Match[str]:
        parts = _NAME.fullmatch(self.name)
        assert parts is not None, self.name
        return parts


def main() -> int:
    """Run the mutants of the modules asked for, print the score, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(_MODULES)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: all cores")
    options = parser.parse_args()
    modules = options.modules or _MODULES
    if unknown := set(modules) - set(_MODULES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(_MODULES)}")

    console = Console(highlight=False)
    _lay_out(modules)
    _run(console, options.workers)
    mutants = list(_results())
    explained = {
        (each["module"], each["function"], each["line"])
        for each in tomllib.loads(_EXPLAINED.read_text("utf-8"))["survivor"]
        if each["module"] in modules and each["why"]
    }
    needed = set[tuple[str, str, str]]()
    unnoticed: list[tuple[Mutant, str]] = []
    counts: dict[str, Counter[str]] = {module: Counter() for module in modules}
    for mutant in mutants:
        fate = mutant.status
        if fate not in {"killed", "timeout"}:
            line = _broken_line(mutant)
            named = (mutant.module, mutant.function, line)
            if named in explained:
                needed.add(named)
                fate = "explained"
            else:
                unnoticed.append((mutant, line))
                fate = "unnoticed"
        counts[mutant.module][fate] += 1
    _print(console, counts, unnoticed)
    for module, function, line in sorted(explained - needed):
        console.print(f"{module}.{function} is explained in vain: {line}", markup=False)
    return 1 if unnoticed or explained != needed or not mutants else 0


def _lay_out(modules: Sequence[str]) -> None:
    shutil.rmtree(_WORK, ignore_errors=True)
    _WORK.mkdir()
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "layers/qwen_token/qwen_token", _WORK / "qwen_token", ignore=leave)
    shutil.copytree(_ROOT / "layers/keeper_runtime", _WORK / "keeper_runtime", ignore=leave)
    for folder in ("functions", "localcloud", "tests"):
        shutil.copytree(_ROOT / folder, _WORK / folder, ignore=leave)
    shutil.copy(_ROOT / "template.yaml", _WORK)
    shutil.copy(Path(__file__).with_name("order.py"), _WORK / "conftest.py")
    files = [f"qwen_token/{module.replace('.', '/')}.py" for module in modules]
    for file in files:
        source = (_WORK / file).read_text("utf-8")
        (_WORK / file).write_text(_with_bare_functions(source), "utf-8")
    listed = [f'"{file}"' for file in files]
    speaks = any(map(_ON_THE_WIRE.fullmatch, modules))
    tests = [f'"{test}"' for test in (*_TESTS, *(_WIRE_TESTS if speaks else ()))]
    (_WORK / "pyproject.toml").write_text(
        f"""\
[tool.mutmut]
source_paths = ["qwen_token"]
only_mutate = [{", ".join(listed)}]
also_copy = ["functions", "keeper_runtime", "localcloud", "conftest.py", "template.yaml"]
pytest_add_cli_args_test_selection = [{", ".join(tests)}]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
use_git_change_detection = false
# For what hangs where pytest cannot end it. Long: what is only slow was not noticed by any test.
timeout_multiplier = 4.0
timeout_constant = 60.0

[tool.pytest.ini_options]
pythonpath = [".", "keeper_runtime", "functions/refresh"]
filterwarnings = ["error"]
markers = ["nightly"]
faulthandler_timeout = {_HANGS}
faulthandler_exit_on_timeout = true
""",
        "utf-8",
    )


def _with_bare_functions(source: str) -> str:
    """Return the same module, with its decorators as calls after the functions."""
    lines = source.splitlines()
    decorated = [
        (node, decorator)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Name) and decorator.id in _DECORATORS
    ]
    for node, decorator in sorted(decorated, key=lambda each: each[0].lineno, reverse=True):
        assert node.end_lineno is not None
        indent = " " * node.col_offset
        lines.insert(node.end_lineno, f"{indent}{node.name} = {decorator.id}({node.name})")
        del lines[decorator.lineno - 1]
    return "\n".join([*lines, ""])


def _run(console: Console, workers: int) -> None:
    """Run mutmut to its end; its own line of progress is shown on a terminal."""
    command = [_PYTHON, "-m", "mutmut", "run", "--max-children", str(workers)]
    with (
        subprocess.Popen(  # noqa: S603 - our own words
            command, cwd=_WORK, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        console.status("mutants: laying out, and running the tests once") as status,
    ):
        assert process.stdout is not None
        output = ""
        # Universal newlines: each of mutmut's carriage returns ends a line here.
        for line in process.stdout:
            output = f"{output}{line}"[-4000:]
            if seen := _PROGRESS.search(line):
                status.update(f"mutants: {seen[1]} of {seen[2]}")
    if process.returncode:
        sys.exit(f"mutmut ended with exit code {process.returncode}:\n{output}")


def _results() -> Iterator[Mutant]:
    for line in _mutmut("results", "--all", "true").splitlines():
        name, _, status = line.strip().partition(": ")
        if _NAME.fullmatch(name):
            yield Mutant(name, status)


def _broken_line(mutant: Mutant) -> str:
    """Return the line as the mutant has it, or the line that it took away, after a minus."""
    diff = _mutmut("show", mutant.name).splitlines()
    changed = [line for line in diff if line[:1] in {"+", "-"} and line[:3] not in {"+++", "---"}]
    added = " ".join(line[1:].strip() for line in changed if line.startswith("+"))
    return added or "- " + " ".join(line[1:].strip() for line in changed)


def _mutmut(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own words
        [_PYTHON, "-m", "mutmut", *arguments],
        cwd=_WORK,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _print(
    console: Console,
    counts: dict[str, Counter[str]],
    unnoticed: list[tuple[Mutant, str]],
) -> None:
    table = Table("Module", title="Mutants", title_justify="left")
    for heading in ("Mutants", "Noticed", "Explained", "Unnoticed"):
        table.add_column(heading, justify="right")
    for module, fates in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        noticed = fates["killed"] + fates["timeout"]
        row = (fates.total(), noticed, fates["explained"], fates["unnoticed"])
        table.add_row(module, *map(str, row))
    console.print(table)
    for mutant, line in unnoticed:
        console.print(f"{mutant.module}.{mutant.function}  [dim]{mutant.name}[/dim]")
        console.print(f"    {line}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
