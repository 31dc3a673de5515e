"""What was built: what was pinned, with bytecode, and safe beside the layers of others."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from importlib.util import source_hash
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from localcloud.aws import ROOT
from localcloud.cloudformation import read_template

LAYERS: Final = ("TokenLayer", "RuntimeLayer")

# Imports what a run does, with the clients that it makes, and prints which sources were compiled.
RUN: Final = """
import importlib, json, sys
from importlib.machinery import SourceFileLoader

compiled = []
compile_source = SourceFileLoader.source_to_code

def recorded(loader, source, path, **options):
    compiled.append(path)
    return compile_source(loader, source, path, **options)

SourceFileLoader.source_to_code = recorded
importlib.import_module(sys.argv[1])

from keeper_runtime.clients import Clients

clients = Clients.real()
for make in (
    *(clients.secrets, clients.dynamodb, clients.sns, clients.events),
    *(clients.sqs, clients.functions),
):
    make()
clients.qwen("https://chat.qwen.ai", "any")
for module in ("exchange", "refresh_token", "password"):
    importlib.import_module(f"qwen_token.grants.{module}")
print(json.dumps([compiled, [getattr(each, "__file__", None) for each in sys.modules.values()]]))
"""


def site(built: Path, layer: str) -> Path:
    """Return the folder of a built layer that Python imports from."""
    return built.parent / layer / "python"


def output_of(program: str, *arguments: str, path: Sequence[Path]) -> str:
    """Run a program in a Python that imports from ``path`` first, on a read-only disk."""
    return subprocess.run(  # noqa: S603 - programs of this file
        [sys.executable, "-c", program, *arguments],
        env={
            "PYTHONPATH": ":".join(map(str, path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "POWERTOOLS_SERVICE_NAME": "my-stack",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("layer", "folder"), [("TokenLayer", "qwen_token"), ("RuntimeLayer", "keeper_runtime")]
)
def test_a_built_layer_holds_what_is_pinned_and_nothing_else(
    built: Path, layer: str, folder: str
) -> None:
    packages = list(distributions(path=[str(site(built, layer))]))
    shipped = {(each.metadata["Name"].lower().replace("_", "-"), each.version) for each in packages}
    pins = (ROOT / "layers" / folder / "requirements.txt").read_text()
    assert shipped == set(re.findall(r"^([a-z0-9-]+)==(\S+)", pins, re.MULTILINE))

    # Every file is our own as it is here, or one that a package lists, with the hash that it lists.
    sources = ROOT / "layers" / folder / folder
    ours = {
        f"{folder}/{file.relative_to(sources)}": digest(file.read_bytes())
        for file in sources.rglob("*")
        if file.is_file()
    }
    listed = {
        str(file): file.hash.value
        for each in packages
        for file in each.files or ()
        if file.hash is not None
    }
    assert [
        str(file)
        for file in (built.parent / layer).rglob("*")
        if not is_known(file, site(built, layer), ours | listed)
    ] == []
    assert not list(site(built, layer).rglob("*.so")), "pure Python serves both architectures"


def is_known(file: Path, folder: Path, known: Mapping[str, str]) -> bool:
    """Return whether a built file has a known hash, or is the bytecode of a source beside it."""
    if file.is_symlink():
        return False
    if file.is_dir():
        return True
    if file.match("__pycache__/*.cpython-313.pyc"):
        source = file.parents[1] / f"{file.name.removesuffix('.cpython-313.pyc')}.py"
        return source.exists() and file.read_bytes()[8:16] == source_hash(source.read_bytes())
    name = str(file.relative_to(folder, walk_up=True))
    # The list itself, of which no list has the hash.
    return re.fullmatch(r"[^/]+\.dist-info/RECORD", name) is not None or (
        known.get(name) == digest(file.read_bytes())
    )


def digest(content: bytes) -> str:
    """Return a hash as a package's list of files has it."""
    return urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def test_the_layer_and_the_wheel_differ_by_the_commands_alone(built: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name: archive.read(name)
            for name in archive.namelist()
            if name.startswith("qwen_token/")
        }
    folder = site(built, "TokenLayer")
    laid = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in (folder / "qwen_token").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    # They are for people, on their machines, and need a package that no function has.
    commands = {name for name in packed if re.match(r"qwen_token/(cli/|__main__\.py$)", name)}
    assert len(commands) > 1
    assert laid == {name: packed[name] for name in packed.keys() - commands}


# --- beside what services have --------------------------------------------------------------------


def test_the_public_layer_has_nothing_that_only_the_functions_need(built: Path) -> None:
    packages = {
        each.stem
        for each in site(built, "TokenLayer").iterdir()
        if each.suffix != ".dist-info" and each.name != "__pycache__"
    }

    assert packages == {
        "qwen_token",
        "certifi",
        "charset_normalizer",
        "idna",
        "jwt",
        "requests",
        "urllib3",
    }


def test_the_public_layer_has_what_its_packages_need_on_every_python_it_is_offered_for(
    built: Path,
) -> None:
    shipped = {
        each.metadata["Name"].lower().replace("_", "-"): each
        for each in distributions(path=[str(site(built, "TokenLayer"))])
    }
    layer = read_template((ROOT / "template.yaml").read_text())["Resources"]["TokenLayer"]

    for runtime in layer["Properties"]["CompatibleRuntimes"]:
        version = runtime.removeprefix("python")
        environment = {"python_version": version, "python_full_version": f"{version}.0"}
        for each in shipped.values():
            assert version in SpecifierSet(each.metadata.get("Requires-Python", ""))
            for need in map(Requirement, each.requires or ()):
                if need.marker is None or need.marker.evaluate({**environment, "extra": ""}):
                    name = need.name.lower().replace("_", "-")
                    assert shipped[name].version in need.specifier, f"{each.name} on {version}"


@pytest.mark.parametrize(
    "module", ["urllib3._version", "requests.__version__", "qwen_token.errors"]
)
def test_a_service_imports_what_it_attached_last_though_it_has_no_bytecode(
    built: Path, tmp_path: Path, module: str
) -> None:
    # As Lambda does in /opt: what a later layer brings takes the place of what lay there.
    opt = tmp_path / "opt"
    shutil.copytree(site(built, "TokenLayer"), opt)
    source = opt / f"{module.replace('.', '/')}.py"
    source.write_text(f'{source.read_text()}\nattached = "last"\n')

    printed = output_of(
        "import importlib, sys; print(importlib.import_module(sys.argv[1]).attached)",
        module,
        path=[opt],
    )

    assert printed == "last\n"


# --- bytecode -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "module"),
    [
        ("RefreshFunction", "handler"),
        pytest.param("DispatchFunction", "dispatch", marks=pytest.mark.nightly),
        ("WorkerFunction", "worker"),
    ],
)
def test_nothing_that_a_run_imports_is_compiled_at_import(
    built: Path, function: str, module: str
) -> None:
    folders = [built.parent / function, *(site(built, layer) for layer in LAYERS)]

    compiled, imported = json.loads(output_of(RUN, module, path=folders))

    roots = tuple(f"{folder}/" for folder in folders)
    assert [path for path in compiled if path.startswith(roots)] == []
    for root in roots:
        assert any(path.startswith(root) for path in imported if path), f"nothing is from {root}"
