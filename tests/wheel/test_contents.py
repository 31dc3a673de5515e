"""The wheel: what it says of itself, and what is in it."""

import re
import zipfile
from collections.abc import Mapping
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import qwen_token
from localcloud.aws import ROOT
from tests.wheel.building import LIBRARY

INFO = f"qwen_token-{qwen_token.__version__}.dist-info"


def files(wheel: Path) -> Mapping[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(name="metadata")
def _metadata(wheel: Path) -> Message:
    return Parser().parsestr(files(wheel)[f"{INFO}/METADATA"].decode())


def test_the_wheel_holds_the_library_as_it_is_here_and_nothing_else(wheel: Path) -> None:
    sources = {
        str(file.relative_to(LIBRARY)): file.read_bytes()
        for file in (LIBRARY / "qwen_token").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert "qwen_token/py.typed" in sources

    packed = files(wheel)

    assert {name: packed[name] for name in packed if not name.startswith(INFO)} == sources
    assert {name.removeprefix(f"{INFO}/") for name in packed.keys() - sources} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_wheel_is_for_every_machine(wheel: Path) -> None:
    assert wheel.name == f"qwen_token-{qwen_token.__version__}-py3-none-any.whl"


def test_the_licence_is_the_repositorys(wheel: Path) -> None:
    assert files(wheel)[f"{INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_metadata_says_what_it_runs_on(metadata: Message) -> None:
    assert metadata["Name"] == "qwen-token"
    assert metadata["Version"] == qwen_token.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_each_need_has_a_minimum_and_no_maximum(metadata: Message) -> None:
    needs = [Requirement(need) for need in metadata.get_all("Requires-Dist", [])]

    named = {(need.name, str(need.marker or "")) for need in needs}
    assert named == {
        ("boto3", ""),
        ("requests", ""),
        ("urllib3", ""),
        ("PyJWT", ""),
        ("rich", 'extra == "cli"'),
        ("httpx", 'extra == "httpx"'),
        ("anyio", 'extra == "httpx"'),
    }
    assert [{each.operator for each in need.specifier} for need in needs] == [{">="}] * len(needs)


def test_the_changelog_prepares_this_version() -> None:
    [latest, *_] = re.findall(r"^## \[(.*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert latest == qwen_token.__version__
