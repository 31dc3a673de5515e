"""What the proofs share: one set of worlds in the session's cloud."""

from collections.abc import Iterator

import pytest

from localcloud.aws import Cloud
from tests.proofs.crash_points.world import Worlds, worlds


@pytest.fixture(scope="session", name="worlds")
def _worlds(cloud: Cloud) -> Iterator[Worlds]:
    with worlds(cloud) as made:
        yield made
