"""docs/architecture.md is true: its modules, who may import whom, where to change what."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
LIBRARY = ROOT / "layers/qwen_token/qwen_token"
RUNTIME = ROOT / "layers/keeper_runtime/keeper_runtime"
# What belongs to the package as a whole.
NO_MODULES = {"__init__", "__main__", "__pycache__"}


def modules(package: Path) -> set[str]:
    """Return the modules of a package and its packages, by name."""
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    return names - NO_MODULES


def named(heading: str) -> set[str]:
    """Return what the first column of the table below a heading names."""
    table = PAGE.split(f"### `{heading}`\n")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
    return {name.strip("/") for cell in cells for name in re.findall(r"`([\w/]+)`", cell)}


def ranks() -> dict[str, tuple[int, int]]:
    """Return each module's line, and its place on the line, in the page's picture."""
    picture = PAGE.split("## Who may import whom")[1].split("```")[1]
    return {
        name: (row, column)
        for row, line in enumerate(picture.strip().splitlines())
        for column, name in enumerate(line.split())
    }


def imports(path: Path, package: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, wherever in the file."""
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join([*parts[: -node.level], *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("package", [LIBRARY, RUNTIME], ids=["library", "runtime"])
def test_every_module_has_its_line_on_the_map(package: Path) -> None:
    assert named(str(package.relative_to(ROOT))) == modules(package)


def test_every_module_has_its_place_in_the_picture_of_imports() -> None:
    assert ranks().keys() == modules(LIBRARY)


def test_imports_of_the_library_point_down_or_to_the_right() -> None:
    places = ranks()
    wrong = []
    for path in sources(LIBRARY):
        importer = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        if importer in NO_MODULES:
            continue
        for name in imports(path, LIBRARY):
            top, _, rest = name.partition(".")
            imported = rest.partition(".")[0]
            if top != LIBRARY.name or imported == importer or imported not in places:
                continue
            if places[imported] < places[importer]:
                wrong.append(f"{importer} imports {imported}")
    assert wrong == []


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        (LIBRARY, {"keeper_runtime", "aws_lambda_powertools", "handler", "dispatch", "worker"}),
        (RUNTIME, {"handler", "dispatch", "worker", "jobs", "breaker", "pace"}),
        (ROOT / "localcloud", {"keeper_runtime", "handler", "dispatch", "worker"}),
    ],
    ids=["the library", "the runtime", "localcloud"],
)
def test_packages_import_only_what_is_below_them(folder: Path, never: set[str]) -> None:
    found = {name.partition(".")[0] for path in sources(folder) for name in imports(path, folder)}
    assert found & never == set()


def test_only_the_two_that_the_page_names_import_requests() -> None:
    importers = {
        path.stem
        for folder in (LIBRARY, RUNTIME, ROOT / "functions")
        for path in sources(folder)
        for name in imports(path, folder)
        if name.partition(".")[0] == "requests"
    }
    assert importers == {"transport", "requests_auth"}


def definitions(path: Path) -> Iterator[str]:
    """Yield each class, function and constant of a file, and each class with its members."""
    for node in ast.parse(path.read_text()).body:
        yield from defined(node)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                yield from (f"{node.name}.{name}" for name in defined(member))


def defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def test_what_the_page_says_to_change_exists() -> None:
    section = PAGE.split("## Where do I change …")[1].split("\n## ")[0]
    names = set(re.findall(r"`((?:\w+\.)?_?\w+)`", "".join(section.split("| ---")[1:])))
    packages = (LIBRARY, RUNTIME, ROOT / "functions", ROOT / "localcloud")
    known = {"advice", "reason", "Schedule", "TokenManager"}
    for path in (path for package in packages for path in sources(package)):
        found = set(definitions(path))
        known |= found | {path.stem} | {f"{path.stem}.{name}" for name in found}

    assert len(names) > 20
    assert names - known - {"template.yaml"} == set()
