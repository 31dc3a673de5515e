"""What was built is what was pinned."""

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest

from localcloud.aws import ROOT


@pytest.mark.parametrize(
    ("layer", "folder"), [("TokenLayer", "qwen_token"), ("RuntimeLayer", "keeper_runtime")]
)
def test_a_built_layer_holds_what_is_pinned_and_nothing_else(
    built: Path, layer: str, folder: str
) -> None:
    site = built.parent / layer / "python"
    shipped = {
        (each.metadata["Name"].lower().replace("_", "-"), each.version)
        for each in distributions(path=[str(site)])
    }

    pins = (ROOT / "layers" / folder / "requirements.txt").read_text()
    assert shipped == set(re.findall(r"^([a-z0-9-]+)==(\S+)", pins, re.MULTILINE))
    assert not list(site.rglob("*.so")), "pure Python serves both architectures"
