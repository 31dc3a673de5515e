"""Measure what reading the token costs a service, beside the usual ways to cache a secret."""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import httpx
import requests
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_secretsmanager_caching import SecretCache  # type: ignore[import-untyped]
from rich import box
from rich.console import Console
from rich.table import Table

from localcloud.aws import ROOT, Cloud, CommandFailedError, local_cloud
from localcloud.qwen import ECHOES, QwenStandIn
from qwen_token import QwenAuth, SharedToken
from qwen_token.httpx_auth import QwenHttpxAuth
from qwen_token.origin import BASE_URL
from qwen_token.secret_store import AWS_CONFIG

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_SECRET: Final = "benchmark"
_THREADS: Final = 8
_READS: Final = 2_000
_LIMIT: Final = 300.0
# On a busy machine. A thread for each request takes 270 µs and more.
_HTTPX_LIMIT: Final = 150_000.0
_ROUNDS: Final = 5
_DURATION: Final = 0.5
# Far below the 5 ms after which Python lets another thread run.
_BATCH: Final = 25_000
_WARM_UP: Final = 1_000
_HTTPX_REQUESTS: Final = 5_000
_RATE: Final = 100
_REQUESTS: Final = 1_000_000
_HEAVY: Final = ("boto3", "botocore", "requests", "urllib3", "httpx", "jwt")

Read = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to read: how it is imported, and how a new one is made for a client."""

    name: str
    statement: str
    make: "Callable[[SecretsManagerClient], Read]"


def _shared(client: "SecretsManagerClient") -> Read:
    return SharedToken(_SECRET, client=client).current


def _caching(client: "SecretsManagerClient") -> Read:
    cache = SecretCache(client=client)
    return lambda: cache.get_secret_string(_SECRET)


def _powertools(client: "SecretsManagerClient") -> Read:
    provider = SecretsProvider(boto3_client=client)
    return lambda: provider.get(_SECRET, max_age=300)


_OURS: Final = Reader("SharedToken.current", "from qwen_token import SharedToken", _shared)
_READERS: Final = (
    _OURS,
    Reader(
        "Powertools Parameters",
        "from aws_lambda_powertools.utilities.parameters import SecretsProvider",
        _powertools,
    ),
    Reader(
        "aws-secretsmanager-caching", "from aws_secretsmanager_caching import SecretCache", _caching
    ),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One reader's: times in ns a read and ms; calls to AWS in each round from cold."""

    one_thread: float
    eight_threads: float
    calls: tuple[int, ...]
    import_time: float
    imported: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """All readers', and what the auths add to a request, in ns.

    ``before`` and ``after`` are those of ``QwenAuth``: before the request, and after its answer.
    ``httpx`` and ``httpx_async`` are both together, for each kind of client of httpx.
    """

    readers: dict[str, Figures]
    before: float
    after: float
    httpx: float
    httpx_async: float
    calls_per_million: int

    def missed(self) -> list[str]:
        """Name what is over its limit."""
        ours = self.readers[_OURS.name]
        kept = {
            "a warm read by one thread": ours.one_thread <= _LIMIT,
            "a warm read by eight threads": ours.eight_threads <= _LIMIT,
            "calls from cold": set(ours.calls) == {1},
            "imports": not ours.imported,
            "a request of httpx's AsyncClient": self.httpx_async <= _HTTPX_LIMIT,
        }
        return [name for name, is_kept in kept.items() if not is_kept]


def main() -> int:
    """Measure and report; the exit code is 1 where a limit was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.readers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    progress = Console(stderr=True)
    try:
        result = _measure()
    except CommandFailedError as error:
        progress.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        sys.stdout.write(json.dumps(asdict(result), indent=2) + "\n")
    else:
        _show(result)
    if missed := result.missed():
        progress.print(f"Over the limit: {', '.join(missed)}.", style="red")
    return int(bool(missed))


def _measure() -> Result:
    with QwenStandIn() as qwen, local_cloud() as cloud:
        cloud.secretsmanager.create_secret(Name=_SECRET, SecretString=qwen.mint())
        figures = {reader.name: _figures(reader, cloud) for reader in _READERS}
        before, after = _request_cost(_OURS.make(_client(cloud)), qwen)
        sync_cost, async_cost = _httpx_cost(SharedToken(_SECRET, client=_client(cloud)))
        return Result(figures, before, after, sync_cost, async_cost, _calls_of_a_million(cloud))


def _client(cloud: Cloud) -> "SecretsManagerClient":
    """Return a client whose calls the relay counts."""
    return cloud.session.client("secretsmanager", endpoint_url=cloud.relay.url, config=AWS_CONFIG)


def _figures(reader: Reader, cloud: Cloud) -> Figures:
    read = reader.make(_client(cloud))
    read()
    one = statistics.median(_batches(read))
    with ThreadPoolExecutor(_THREADS) as pool:
        each = [pool.submit(_batches, read) for _ in range(_THREADS)]
        eight = statistics.median(time for batches in each for time in batches.result())
    calls = tuple(_calls_from_cold(reader, cloud) for _ in range(_ROUNDS))
    return Figures(one, eight, calls, *_import(reader.statement))


def _batches(read: Read) -> list[float]:
    """Return ns a read, of each of many short batches."""
    started = time.perf_counter_ns()
    for _ in range(_WARM_UP):
        read()
    one = (time.perf_counter_ns() - started) / _WARM_UP
    size = max(1, round(_BATCH / one))
    repeat = range(size)
    found = []
    end = time.perf_counter() + _DURATION
    while time.perf_counter() < end:
        started = time.perf_counter_ns()
        for _ in repeat:
            read()
        found.append((time.perf_counter_ns() - started) / size)
    return found


def _calls_from_cold(reader: Reader, cloud: Cloud) -> int:
    read = reader.make(_client(cloud))
    before = len(cloud.relay.calls)
    start = threading.Barrier(_THREADS)

    def work() -> None:
        start.wait()
        for _ in range(_READS):
            read()

    with ThreadPoolExecutor(_THREADS) as pool:
        for each in [pool.submit(work) for _ in range(_THREADS)]:
            each.result()
    return len(cloud.relay.calls) - before


def _import(statement: str) -> tuple[float, tuple[str, ...]]:
    """Return what importing takes in a new Python, in ms, and which heavy modules come with it."""
    program = (
        "import json, sys, time; started = time.perf_counter(); "
        f"{statement}; took = time.perf_counter() - started; "
        f"print(json.dumps([took * 1000, [m for m in {_HEAVY} if m in sys.modules]]))"
    )
    runs = [
        json.loads(
            subprocess.run(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", program],
                env={"PYTHONPATH": str(ROOT / "layers/qwen_token")},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(_ROUNDS)
    ]
    return statistics.median(run[0] for run in runs), tuple(runs[0][1])


def _request_cost(read: Read, qwen: QwenStandIn) -> tuple[float, float]:
    """Return what the auth takes on the way out, and what it takes to look at the answer, in ns."""

    class Source:
        def current(self) -> str:
            return str(read())

        def renew(self, *, rejected: str) -> str:
            raise NotImplementedError

    auth = QwenAuth(Source(), base_url=qwen.base_url)
    qwen.answer_with(ECHOES)
    with requests.Session() as session:
        response = session.get(f"{qwen.base_url}/api/v1/auths/", auth=auth, timeout=10)
    response.raise_for_status()
    (hook,) = response.request.hooks["response"]

    def before() -> None:
        auth(response.request)
        response.request.hooks["response"].clear()

    return (
        statistics.median(_batches(before)),
        statistics.median(_batches(lambda: hook(response))),
    )


def _httpx_cost(shared: SharedToken) -> tuple[float, float]:
    """Return what the auth takes for a request and its answer in JSON, with and without a loop."""
    auth = QwenHttpxAuth(shared)
    url = f"{BASE_URL}/api/v1/auths/"
    body = json.dumps({"success": True, "data": [{"id": str(each)} for each in range(20)]}).encode()
    headers = {"Content-Type": "application/json"}

    def made() -> tuple[httpx.Request, httpx.Response]:
        request = httpx.Request("GET", url)
        stream = httpx.ByteStream(body)
        return request, httpx.Response(200, headers=headers, stream=stream, request=request)

    # Each request is timed alone, and without what httpx itself takes to make it.
    def one() -> int:
        request, response = made()
        started = time.perf_counter_ns()
        flow = auth.sync_auth_flow(request)
        next(flow)
        with suppress(StopIteration):
            flow.send(response)
        return time.perf_counter_ns() - started

    async def one_async() -> int:
        request, response = made()
        started = time.perf_counter_ns()
        flow = auth.async_auth_flow(request)
        await anext(flow)
        with suppress(StopAsyncIteration):
            await flow.asend(response)
        return time.perf_counter_ns() - started

    async def many() -> list[int]:
        return [await one_async() for _ in range(_HTTPX_REQUESTS)]

    shared.current()
    return (
        statistics.median(one() for _ in range(_HTTPX_REQUESTS)),
        statistics.median(asyncio.run(many())),
    )


def _calls_of_a_million(cloud: Cloud) -> int:
    """Count the calls of one process that makes a million requests, 100 a second, on its clock."""
    now = time.time()

    def clock() -> float:
        return now

    shared = SharedToken(_SECRET, client=_client(cloud), clock=clock)
    before = len(cloud.relay.calls)
    for _ in range(_REQUESTS):
        now += 1 / _RATE
        shared.current()
    return len(cloud.relay.calls) - before


def _show(result: Result) -> None:
    # In Markdown, so that it can be pasted.
    table = Table(box=box.MARKDOWN)
    columns = ("reader", "1 thread", "8 threads", "calls from cold", "import", "imports")
    for column in columns:
        table.add_column(column, justify="left" if column in ("reader", "imports") else "right")
    for name, figures in result.readers.items():
        low, high = min(figures.calls), max(figures.calls)
        table.add_row(
            name,
            f"{figures.one_thread:,.0f} ns",
            f"{figures.eight_threads:,.0f} ns",
            str(low) if low == high else f"{low}-{high}",
            f"{figures.import_time:.0f} ms",
            ", ".join(figures.imported) or "none of those",
        )
    console = Console(highlight=False, width=120)
    console.print(table)
    duration = timedelta(seconds=_REQUESTS / _RATE)
    console.print(
        f"Medians of a warm read; calls to Secrets Manager by {_THREADS} threads with {_READS:,} "
        f"reads each from cold, {_ROUNDS} times; time and imports of the import statement alone "
        f"(looked for: {', '.join(_HEAVY)}).",
        soft_wrap=True,
    )
    before, after = result.before / 1000, result.after / 1000
    console.print(
        f"A request takes {before + after:.1f} µs longer with QwenAuth: {before:.1f} µs before it "
        f"and {after:.1f} µs after its answer.",
        soft_wrap=True,
    )
    console.print(
        f"With QwenHttpxAuth, {result.httpx / 1000:.1f} µs; under asyncio, "
        f"{result.httpx_async / 1000:.1f} µs.",
        soft_wrap=True,
    )
    console.print(
        f"{_REQUESTS:,} requests of one process, {_RATE} a second ({duration} h), make "
        f"{result.calls_per_million} calls to Secrets Manager.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
