"""What the proofs share: one set of sandboxes in the session's cloud."""

from collections.abc import Iterator

import pytest

from localcloud.aws import Cloud
from tests.proofs.crash_points.sandbox import Sandboxes, sandboxes


@pytest.fixture(scope="session", name="sandboxes")
def _sandboxes(cloud: Cloud) -> Iterator[Sandboxes]:
    with sandboxes(cloud) as made:
        yield made
