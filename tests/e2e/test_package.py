"""What was built is what was pinned."""

import re
from importlib.metadata import distributions
from pathlib import Path

from tests.localcloud.aws import ROOT


def test_the_built_layer_holds_what_is_pinned_and_nothing_else(built: Path) -> None:
    site = built.parent / "TokenLayer/python"
    shipped = {
        (each.metadata["Name"].lower().replace("_", "-"), each.version)
        for each in distributions(path=[str(site)])
    }

    pins = (ROOT / "layers/qwen_token/requirements.txt").read_text()
    assert shipped == set(re.findall(r"^([a-z0-9-]+)==(\S+)", pins, re.MULTILINE))
    assert not list(site.rglob("*.so")), "pure Python serves both architectures"
