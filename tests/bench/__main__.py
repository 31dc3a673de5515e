"""Measure what a cold start, a run and the package cost, and hold it against its limits."""

import argparse
import compileall
import json
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from localcloud.aws import Cloud, CommandFailedError, local_cloud
from localcloud.qwen import QwenStandIn
from localcloud.sign_in_host import Rotation, SessionPolicy, SignInHostStandIn

from .emulator import ROOT, ColdStart, EmulatorError, Function, cold_start
from .meter import Cost

_FUNCTION: Final = ROOT / ".aws-sam/build/RefreshFunction"
_LAYERS: Final = tuple(ROOT / ".aws-sam/build" / name for name in ("TokenLayer", "RuntimeLayer"))
_RIVAL: Final = Path(__file__).with_name("bare_handler.py")

_TABLE: Final = "benchmark"
_DUE: Final = timedelta(minutes=4)
# Of a session: a run every two minutes, of which one in five has a token to refresh.
_RUNS_A_DAY: Final = 720
_REFRESHES_A_DAY: Final = 144

_CPU_LIMIT: Final = 1.25
_MEMORY_LIMIT: Final = 1.15
_PACKAGE_LIMIT: Final = 8_000_000
_MEGABYTE: Final = 1_000_000
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both: the medians, and of the ratios pair by pair the median and quartiles."""

    bare: float
    ours: float
    ratio: float
    quartiles: tuple[float, float]

    @classmethod
    def of(
        cls, pairs: Sequence[tuple[ColdStart, ColdStart]], figure: Callable[[ColdStart], float]
    ) -> Self:
        """Compare ``figure`` of cold starts that were made in alternation: bare, ours."""
        bare = [figure(start) for start, _ in pairs]
        ours = [figure(start) for _, start in pairs]
        ratios = [mine / other for other, mine in zip(bare, ours, strict=True)]
        first, middle, third = statistics.quantiles(ratios, method="inclusive")
        return cls(statistics.median(bare), statistics.median(ours), middle, (first, third))


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls that one run made: to AWS, by name; to Qwen, their number."""

    aws: tuple[str, ...]
    qwen: int


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured: times in ms, memory in MB, the package (unzipped) in bytes."""

    alternations: int
    cpu: Comparison
    peak_memory: Comparison
    wall: Comparison
    fresh: Calls
    exchange: Calls
    session: Calls
    changed_session: Calls
    package: int

    def day(self, refresh: Calls) -> Cost:
        """Return the calls to AWS of a session's day, whose refreshes are all like this one."""
        calls = Counter(self.fresh.aws * (_RUNS_A_DAY - _REFRESHES_A_DAY))
        calls.update(refresh.aws * _REFRESHES_A_DAY)
        return Cost(timedelta(days=1).total_seconds(), calls, 0)

    def missed(self) -> list[str]:
        """Name what is over its limit."""
        kept = {
            "CPU time": self.cpu.ratio <= _CPU_LIMIT,
            "peak memory": self.peak_memory.ratio <= _MEMORY_LIMIT,
            "calls of a run on a fresh token": len(self.fresh.aws) == 1 and self.fresh.qwen == 0,
            "calls of an exchange": len(self.exchange.aws) <= 6 and self.exchange.qwen == 2,
            "calls of a refresh by session": len(self.session.aws) <= 7 and self.session.qwen == 2,
            "calls where the credential changed": len(self.changed_session.aws) <= 9
            and self.changed_session.qwen == 2,
            "package": self.package <= _PACKAGE_LIMIT,
        }
        return [name for name, is_kept in kept.items() if not is_kept]


class Bench:
    """The two functions, on one embedded AWS and beside the stand-ins of Qwen's hosts."""

    def __init__(
        self, cloud: Cloud, qwen: QwenStandIn, sign_in_host: SignInHostStandIn, directory: Path
    ) -> None:
        """Create the secret with a fresh token, and lay out the rival in ``directory``."""
        self._cloud = cloud
        self._qwen = qwen
        self._sign_in_host = sign_in_host
        secret = cloud.secretsmanager.create_secret(
            # Fresh, and yet a forced refresh moves its expiry.
            Name="benchmark",
            SecretString=qwen.mint(lifetime=qwen.lifetime - timedelta(days=1)),
        )
        cloud.dynamodb.create_table(
            TableName=_TABLE,
            KeySchema=[{"AttributeName": "secret_id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "secret_id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        environ = {
            **cloud.exports,
            "AWS_ENDPOINT_URL": cloud.relay.url,
            "SECRET_ID": secret["ARN"],
            "API_BASE_URL": qwen.base_url,
            "REFRESH_BEFORE_DAYS": "3",
            "CRITICAL_DAYS": "1",
            "SESSION_SECRET_ID": "",
            "AUTH_BASE_URL": sign_in_host.base_url,
            "WEB_VERSION": "0.3.12",
            "USER_AGENT": "benchmark",
            "ALERT_AFTER_MINUTES": "60",
            "STATE_TABLE": _TABLE,
            "ALERT_TOPIC_ARN": "arn:aws:sns:us-east-1:000000000000:benchmark",
            "EVENT_BUS_ARN": "arn:aws:events:us-east-1:000000000000:event-bus/default",
            "POWERTOOLS_SERVICE_NAME": "benchmark",
            "POWERTOOLS_METRICS_NAMESPACE": "QwenTokenRefresh",
            "POWERTOOLS_LOG_LEVEL": "INFO",
        }
        shutil.copy(_RIVAL, directory)
        # As ours has it.
        compileall.compile_dir(directory, quiet=1)
        self._bare = Function(directory, "bare_handler.handler", (), environ)
        self._environ = environ
        self._ours = self._function({})
        self._with_session = self._function({})

    def _function(self, more: Mapping[str, str]) -> Function:
        layers = [layer / "python" for layer in _LAYERS]
        return Function(_FUNCTION, "handler.handler", layers, {**self._environ, **more})

    def put_session(self, policy: SessionPolicy) -> None:
        """Give the function a session of its own, whose token is due."""
        self._sign_in_host.policy = policy
        name = f"benchmark-{policy.rotation.name.lower()}"
        due = self._qwen.issue_access_token(lifetime=_DUE, has_iat=False)
        token = self._cloud.secretsmanager.create_secret(Name=name, SecretString=due)
        session = self._cloud.secretsmanager.create_secret(
            Name=f"{name}-session", SecretString=self._sign_in_host.log_in()
        )
        self._with_session = self._function(
            {"SECRET_ID": token["ARN"], "SESSION_SECRET_ID": session["ARN"]}
        )

    def bare(self) -> ColdStart:
        """Start the rival."""
        return cold_start(self._bare, {})

    def ours(
        self, event: Mapping[str, object], *, expected: str, by_session: bool = False
    ) -> tuple[ColdStart, Calls]:
        """Start the refresh function, the one with a session where ``by_session`` says so.

        Raises:
            EmulatorError: the outcome is not what was expected.
        """
        aws_before, qwen_before = len(self._cloud.relay.calls), self._calls_to_qwen()
        start = cold_start(self._with_session if by_session else self._ours, event)
        if start.answer.get("outcome") != expected:
            raise EmulatorError(f"expected the outcome {expected}, but got {start.answer}")
        return start, Calls(
            tuple(self._cloud.relay.calls[aws_before:]), self._calls_to_qwen() - qwen_before
        )

    def _calls_to_qwen(self) -> int:
        return len(self._qwen.requests) + len(self._sign_in_host.requests)


def main() -> int:
    """Measure and report; the exit code is 1 where a limit was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--alternations", type=int, default=25, help="cold starts of each (25)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if options.alternations < 2:
        parser.error("--alternations should be at least 2")
    progress = Console(stderr=True)
    if not all(folder.exists() for folder in (_FUNCTION, *_LAYERS)):
        progress.print("Nothing is built here: run `make build`.", style="red", markup=False)
        return 1
    try:
        result = _measure(options.alternations, progress)
    except (EmulatorError, CommandFailedError) as error:
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


def _measure(alternations: int, progress: Console) -> Result:
    with (
        QwenStandIn() as qwen,
        SignInHostStandIn(qwen) as sign_in_host,
        local_cloud() as cloud,
        tempfile.TemporaryDirectory() as directory,
    ):
        bench = Bench(cloud, qwen, sign_in_host, Path(directory))
        # The first of each fills the disk's cache, and does not count.
        bench.bare()
        _, fresh = bench.ours({}, expected="fresh")
        pairs = [
            (bench.bare(), bench.ours({}, expected="fresh")[0])
            for _ in track(range(alternations), "Cold starts", console=progress, transient=True)
        ]
        _, exchange = bench.ours({"force": True}, expected="refreshed")
        bench.put_session(SessionPolicy(rotation=Rotation.NEVER))
        _, session = bench.ours({}, expected="refreshed", by_session=True)
        bench.put_session(SessionPolicy(rotation=Rotation.OLD_DIES))
        _, changed_session = bench.ours({}, expected="refreshed", by_session=True)
    return Result(
        alternations=alternations,
        cpu=Comparison.of(pairs, lambda start: start.cpu / _MILLISECOND),
        peak_memory=Comparison.of(pairs, lambda start: start.peak_memory / _MEGABYTE),
        wall=Comparison.of(pairs, lambda start: start.wall / _MILLISECOND),
        fresh=fresh,
        exchange=exchange,
        session=session,
        changed_session=changed_session,
        package=sum(map(_size, (_FUNCTION, *_LAYERS))),
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _show(result: Result) -> None:
    # In Markdown, so that it can be pasted.
    table = Table(box=box.MARKDOWN)
    for column in ("cold start", "bare boto3", "refresh function", "ratio", "limit"):
        table.add_column(column, justify="left" if column == "cold start" else "right")
    for name, figures, unit, limit in (
        ("CPU time", result.cpu, "ms", f"{_CPU_LIMIT:.2f}"),
        ("peak memory", result.peak_memory, "MB", f"{_MEMORY_LIMIT:.2f}"),
        ("wall time", result.wall, "ms", ""),
    ):
        low, high = figures.quartiles
        table.add_row(
            name,
            f"{figures.bare:.0f} {unit}",
            f"{figures.ours:.0f} {unit}",
            f"{figures.ratio:.2f} ({low:.2f}-{high:.2f})",
            limit,
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "Init and first invoke on a fresh token, of the runtime's process: medians of "
        f"{result.alternations} alternations, and the quartiles of the ratio pair by pair.\n",
        soft_wrap=True,
    )
    for name, calls in (
        ("Fresh token", result.fresh),
        ("Exchange, without a session secret", result.exchange),
        ("Refresh by session", result.session),
        ("Refresh by session, credential changed", result.changed_session),
    ):
        console.print(
            f"{name}: {len(calls.aws)} calls to AWS ({', '.join(calls.aws)}), "
            f"{calls.qwen} to Qwen.",
            soft_wrap=True,
        )
    for name, calls in (
        ("whose credential is kept", result.session),
        ("whose credential changes each time", result.changed_session),
    ):
        day = result.day(calls)
        console.print(
            f"A day of a session {name} ({_RUNS_A_DAY} runs, {_REFRESHES_A_DAY} refreshes): "
            f"{day.calls.total()} calls to AWS, {day.of_a_month(day.seconds):.2f} USD a month at "
            "list prices, beside 0.80 USD for two secrets.",
            soft_wrap=True,
        )
    console.print(
        f"Function and layers, unzipped: {result.package / _MEGABYTE:.2f} MB "
        f"(limit {_PACKAGE_LIMIT / _MEGABYTE:.0f} MB)."
    )


if __name__ == "__main__":
    sys.exit(main())
