"""What keeping a fleet costs: the calls to AWS as they pass, and how long readers had no token."""

import json
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from localcloud.aws import Cloud
from localcloud.recording_proxy import Answer, Call, CarryOut
from qwen_token.errors import QwenTokenError
from qwen_token.stored_token import parse

GET: Final = "secretsmanager:GetSecretValue"
PUT: Final = "secretsmanager:PutSecretValue"
_PROMOTE: Final = "secretsmanager:UpdateSecretVersionStage"
_WRITES: Final = (_PROMOTE, PUT)
_MONTH: Final = timedelta(days=365) / 12

# USD a million calls, us-east-1, November 2026. What is not named here costs nothing worth a line.
_PRICES: Final[Mapping[str, float]] = {
    "secretsmanager": 5.0,
    "dynamodb": 0.625,
    "sqs": 0.4,
    "events": 1.0,
    "sns": 0.5,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost: seconds, calls to AWS, and the most writes of secrets in a second."""

    seconds: float
    calls: Counter[str]
    busiest_second: int

    @property
    def writes(self) -> int:
        """How many writes of secrets there were."""
        return sum(self.calls[name] for name in _WRITES)

    def times(self, factor: float, *, more: Mapping[str, int] | None = None) -> "Cost":
        """Return what so many times as much costs, and ``more`` calls beside that."""
        calls = Counter({name: round(count * factor) for name, count in self.calls.items()})
        calls.update(more or {})
        return Cost(self.seconds * factor, calls, self.busiest_second)

    def of_a_month(self, seconds: float) -> float:
        """Return the list price in USD of a month of what these calls kept for ``seconds``."""
        price = sum(
            count * _PRICES.get(name.partition(":")[0], 0.0) / 1e6
            for name, count in self.calls.items()
        )
        return price * _MONTH.total_seconds() / seconds


@dataclass(frozen=True, slots=True)
class Lapse:
    """A time in which the readers of a secret had no valid token, in seconds since 1970."""

    name: str
    begun: float
    ended: float


class Meter:
    """Looks at every call to ``cloud``.

    ``aws_latency`` is added to what the emulator takes for each call, in seconds. ``before`` is
    called with each call, and returns whether it is to be carried out.
    """

    def __init__(self, cloud: Cloud, *, aws_latency: float = 0.0) -> None:
        self.aws_latency = aws_latency
        self.before: Callable[[Call], bool] = lambda _call: True
        # By secret: when which token became current, and when that expires.
        self.current: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._calls: list[tuple[float, str]] = []
        self._expiries: dict[str, float | None] = {}
        cloud.relay.gate = self._gate

    def cost(self, begun: float, ended: float) -> Cost:
        """Return what was called between these two instants, in seconds since 1970."""
        meanwhile = [(at, name) for at, name in self._calls.copy() if begun <= at < ended]
        writes = sorted(at for at, name in meanwhile if name in _WRITES)
        # Of the second that begins with each write: how many there are in it.
        busiest = max(
            (bisect_left(writes, start + 1) - first for first, start in enumerate(writes)),
            default=0,
        )
        return Cost(ended - begun, Counter(name for _, name in meanwhile), busiest)

    def last_promotion(self, since: float) -> float:
        """Return when the last token became current, ``since`` where none did."""
        return max((at for each in self.current.values() for at, _ in each), default=since)

    def holds(self, name: str, expires_at: float) -> None:
        """Note what a secret holds to begin with. What one of this name held before is not its."""
        self.current[name] = [(time.time(), expires_at)]

    def lapses(self, names: Sequence[str], ended: float) -> list[Lapse]:
        """Return when readers of these secrets had no valid token, up to ``ended``."""
        found = []
        for name in names:
            held = self.current[name]
            followed = [at for at, _ in held[1:]] + [ended]
            for (_, expires_at), until in zip(held, followed, strict=True):
                if until > expires_at:
                    found.append(Lapse(name, expires_at, until))
        return found

    def _gate(self, call: Call, carry_out: CarryOut) -> Answer | None:
        time.sleep(self.aws_latency)
        if not self.before(call):
            return None
        self._calls.append((time.time(), call.operation))
        if call.operation not in _WRITES:
            return carry_out()
        request = json.loads(call.body)
        if call.operation == PUT:
            self._expiries[request["ClientRequestToken"]] = _expiry_in(request["SecretString"])
        answer = carry_out()
        if answer is not None and answer.status == 200:
            self._note(call.operation, request)
        return answer

    def _note(self, operation: str, request: Mapping[str, str]) -> None:
        """Note what became current by a write that was carried out."""
        if operation == PUT:
            version = request["ClientRequestToken"]
            is_current = "AWSCURRENT" in request.get("VersionStages", ["AWSCURRENT"])
        else:
            version = request.get("MoveToVersionId", "")
            is_current = request["VersionStage"] == "AWSCURRENT"
        expires_at = self._expiries.get(version)
        if is_current and expires_at is not None:
            self.current[name_of(request["SecretId"])].append((time.time(), expires_at))


def name_of(secret_id: str) -> str:
    """Return a secret's name; ``secret_id`` is that, or its ARN."""
    return secret_id.split(":secret:")[1][:-7] if ":secret:" in secret_id else secret_id


def _expiry_in(text: str) -> float | None:
    try:
        return parse(text, "").token.expires_at.timestamp()
    except QwenTokenError:
        # A session secret's value, or something broken on purpose.
        return None


def counted(calls: Counter[str]) -> str:
    """Return calls as text, the most frequent first."""
    return ", ".join(f"{count} {name.partition(':')[2]}" for name, count in calls.most_common())
