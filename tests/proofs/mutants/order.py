"""Which tests a mutant meets, as the conftest of its runs: no emulator's, and the quickest first.

The first test that fails ends the run, so most mutants never meet a slow one.
"""

import json
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

# A slow machine is no failed test, and what one mutant meets the next one meets, too.
settings.register_profile(
    "mutants",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mutants")

# Mutmut's own, as of the run without a mutant; there is none before that.
_DURATIONS: Final = Path("mutmut-stats.json")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would start an emulator for each mutant, and sort the others."""
    emulated = [
        item
        for item in items
        if "emulated" in item.name or "cloud" in getattr(item, "fixturenames", ())
    ]
    config.hook.pytest_deselected(items=emulated)
    took: dict[str, float] = {}
    if _DURATIONS.exists():
        took = json.loads(_DURATIONS.read_text("utf-8"))["duration_by_test"]
    items[:] = sorted(
        (item for item in items if item not in emulated),
        key=lambda item: took.get(item.nodeid, 0.0),
    )
