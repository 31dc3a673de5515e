"""The library's sources run on every Python that the template offers the public layer for."""

import ast
import io
import tokenize
from pathlib import Path
from typing import Final

import pytest

from tests.unit.template import RESOURCES

LIBRARY: Final = Path(__file__).parents[2] / "layers/qwen_token/qwen_token"
SOURCES: Final = sorted(LIBRARY.rglob("*.py"))
OLDEST: Final = (3, 11)

# What the standard library has got since, as far as a program like this one might want it.
NEWER: Final = {
    "calendar": {"Day", "Month"},
    "collections.abc": {"Buffer"},
    "copy": {"replace"},
    "inspect": {"BufferFlags", "markcoroutinefunction"},
    "itertools": {"batched"},
    "math": {"sumprod"},
    "os": {"process_cpu_count"},
    "queue": {"ShutDown"},
    "random": {"binomialvariate"},
    "typing": {"NoDefault", "ReadOnly", "TypeAliasType", "TypeIs", "override"},
    "types": {"get_original_bases"},
    "warnings": {"deprecated"},
}


def name_of(source: Path) -> str:
    return str(source.relative_to(LIBRARY))


def reused_quotes(text: str) -> list[int]:
    """Return the lines of expressions in f-strings that Python 3.11 cannot read.

    It wants other quotes inside than outside, and neither backslashes nor comments.
    """
    lines = []
    quotes: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.FSTRING_END:
            quotes.pop()
            continue
        starts = token.type == tokenize.FSTRING_START
        if quotes and (starts or token.type in {tokenize.STRING, tokenize.COMMENT}):
            quote = token.string.lstrip("rRbBfFuU")[:1]
            if quote in {each[:1] for each in quotes} | {"#"} or "\\" in token.string:
                lines.append(token.start[0])
        if starts:
            quotes.append(token.string.lstrip("rRfF"))
    return lines


def newer_names(tree: ast.AST) -> set[str]:
    """Return what is imported from the standard library, or looked up in it, and newer."""
    return {
        f"{module}.{name}"
        for node in ast.walk(tree)
        for module, name in (
            [(node.module, alias.name) for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [(node.value.id, node.attr)]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            else []
        )
        if name in NEWER.get(module or "", ())
    }


def test_the_oldest_python_that_the_layer_is_offered_for_is_the_one_tested_here() -> None:
    runtimes = RESOURCES["TokenLayer"]["Properties"]["CompatibleRuntimes"]

    assert runtimes == [f"python3.{minor}" for minor in range(OLDEST[1], 14)]


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_a_source_is_readable_for_the_oldest_python(source: Path) -> None:
    text = source.read_text(encoding="utf-8")

    ast.parse(text, feature_version=OLDEST)
    assert reused_quotes(text) == []


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_a_source_asks_for_nothing_that_the_oldest_python_lacks(source: Path) -> None:
    assert newer_names(ast.parse(source.read_text(encoding="utf-8"))) == set()


@pytest.mark.parametrize(
    "text",
    ['f"{x["y"]}"', "f'{x:{y['z']}}'", "f\"{'\\n'.join(x)}\"", 'f"""{x # why\n}"""'],
    ids=["the same quotes", "in a format", "a backslash", "a comment"],
)
def test_an_f_string_of_newer_pythons_is_found(text: str) -> None:
    assert reused_quotes(text) == [1]


def test_an_f_string_that_every_python_reads_is_left_alone() -> None:
    assert reused_quotes('f"{x[\'y\']}\\n" f\'{"z"}\' "z"') == []


def test_a_newer_name_is_found_however_it_is_used() -> None:
    tree = ast.parse("from itertools import batched, chain\nimport copy\ncopy.replace(x)\n")

    assert newer_names(tree) == {"itertools.batched", "copy.replace"}
