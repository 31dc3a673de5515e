"""What several kinds of tests share: one embedded AWS a test process, started when first needed."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hypothesis
import pytest
from xdist import is_xdist_worker  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from localcloud import service_models
from localcloud.aws import Cloud, build, local_cloud, without_proxy
from localcloud.qwen import QwenStandIn
from qwen_token.secret_store import AWS_CONFIG
from tests.wheel.building import build_wheel

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


# What a user's environment says of an AWS account, a proxy or a terminal is not for these.
for _name in [*os.environ]:
    if _name.startswith("AWS_") or _name in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}:
        del os.environ[_name]
os.environ.update(without_proxy())

# Powertools reads its own environment when the handler is imported: it has to be there by then.
os.environ["POWERTOOLS_SERVICE_NAME"] = "my-stack"
os.environ["POWERTOOLS_METRICS_NAMESPACE"] = "QwenTokenRefresh"

service_models.read_once()

# How long an example takes says how busy the machine is. `make nightly` takes the other profile.
hypothesis.settings.register_profile("everyday", deadline=None, max_examples=30)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=300)
hypothesis.settings.load_profile("everyday")

# What the tests of each of these share, they use one after the other: a stack, some secrets, or a
# scan that takes long. Each stands for what begins with one of its prefixes; the first that fits
# counts. They begin in this order, before all others, and are of a size for all workers to end at
# nearly the same time.
_ON_ONE_WORKER: Final = (
    # The examples, secrecy and stacks.
    ("tests/e2e/test_examples.py", "tests/e2e/test_s"),
    ("tests/e2e/test_fleet",),
    ("tests/e2e/",),
    # These wait for slow servers. If all workers did that at once, nobody would calculate.
    ("tests/integration/test_transport_",),
    ("tests/repo_checks/",),
    ("tests/wheel/",),
    ("tests/proofs/crash_points/",),
    ("tests/proofs/",),
)


# Each of these needs nothing of the others.
_APART: Final = ("tests/proofs/simulation/", "tests/proofs/fuzz/")


class _TogetherOrNot(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps such tests on one worker, where there are several, and in their order.

    xdist's own loadgroup cannot: it adds the groups to node ids, which pytest 9 does not keep.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_APART):
            return nodeid
        place = _place(nodeid)
        # All cases of a test: xdist's bookkeeping grows with the square of what is apart.
        return nodeid.partition("[")[0] if place is None else _ON_ONE_WORKER[place][0]


def _place(nodeid: str) -> int | None:
    """Return the place in ``_ON_ONE_WORKER`` of a test's kind, or None if it may run anywhere."""
    if nodeid.startswith(_APART):
        return None
    return next((at for at, each in enumerate(_ON_ONE_WORKER) if nodeid.startswith(each)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have those that stay on one worker begin first."""
    others = len(_ON_ONE_WORKER)
    items.sort(key=lambda item: others if (at := _place(item.nodeid)) is None else at)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _TogetherOrNot | None:
    """Take ours for ``--dist loadgroup``."""
    return _TogetherOrNot(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(name="qwen")
def _qwen() -> Iterator[QwenStandIn]:
    with QwenStandIn() as qwen:
        yield qwen


@pytest.fixture(scope="session", name="cloud")
def _cloud() -> Iterator[Cloud]:
    with local_cloud() as cloud:
        yield cloud


@pytest.fixture(scope="session", name="built")
def _built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built template. It is built once, by the worker that needs it first."""
    own = tmp_path_factory.getbasetemp()
    # The environment does not say it: tests that a worker starts in a process inherit that.
    shared = own.parent if is_xdist_worker(request) else own
    done = shared / "built.path"
    with (shared / "built.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            done.write_text(str(build(tmp_path_factory.mktemp("built"))))
    return Path(done.read_text())


@pytest.fixture(scope="session", name="wheel")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session", name="secrets")
def _secrets(cloud: Cloud) -> "SecretsManagerClient":
    """Return a client with the timeouts and retries that the function's has."""
    return cloud.session.client("secretsmanager", endpoint_url=cloud.endpoint, config=AWS_CONFIG)
