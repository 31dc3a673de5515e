"""A service that sends a request a second, all day, sends no expired token, and reads it rarely.

A simulation: the clock, Secrets Manager and the API are fakes, and the jitter is seeded.
"""

import io
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle
from typing import Any

import httpx
import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from qwen_token import QwenAuth, SharedToken, TokenRejectedError
from qwen_token.httpx_auth import QwenHttpxAuth
from tests.fake_secrets_manager import FakeSecretsManager
from tests.fakes import Clock
from tests.minting import NOW, token

SECRET = "qwen/token"
HOUR = 3600
DAY = 24 * HOUR
QUARTER_HOUR = 15 * 60
TEN_MINUTES = 10 * 60
MAX_AGE = 300
BASE_URL = "https://chat.qwen.ai"


@pytest.fixture(
    name="age",
    params=[0, pytest.param(200, marks=pytest.mark.nightly), 599],
    ids="begun with a token {} s old".format,
)
def _age(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the age of the first token, and make the jitter the same in each run."""
    state = random.getstate()
    random.seed(request.param)
    yield request.param
    random.setstate(state)


class Keeper:
    """The keeper as its readers see it: each token is replaced at a certain age, in seconds.

    It is ``late`` by so much, one token after the other; nothing happens in the seconds ``down``.
    """

    def __init__(
        self,
        *,
        age: int,
        lifetime: int = QUARTER_HOUR,
        replaces_after: int = TEN_MINUTES,
        late: Iterable[int] = (0,),
        down: range = range(0),
    ) -> None:
        self.secrets = FakeSecretsManager()
        self.secrets.add(SECRET)
        self.expires_at: dict[str, float] = {}
        self._lifetime = lifetime
        self._replaces_after = replaces_after
        self._late = cycle(late)
        self._down = down
        self._store(-age)

    def pass_second(self, second: int) -> None:
        """Replace the token if it is time."""
        if second >= self._next and second not in self._down:
            self._store(second)

    def _store(self, second: int) -> None:
        left = timedelta(seconds=second + self._lifetime)
        raw = token(left=left, second=second).raw
        self.secrets.hold(SECRET, raw)
        self.expires_at[raw] = (NOW + left).timestamp()
        self._next = second + self._replaces_after + next(self._late)


@dataclass
class Service:
    """What happened to a service in a day; ``least_left`` is of the tokens that it sent."""

    reads: int = 0
    requests: int = 0
    least_left: float = float("inf")
    seconds_without: list[int] = field(default_factory=list)


def a_day(keeper: Keeper) -> Service:
    """Let a service send a request a second; in each second the keeper comes first."""
    clock, service = Clock(), Service()
    secrets: Any = keeper.secrets
    shared = SharedToken(SECRET, client=secrets, clock=clock, max_age=MAX_AGE)
    for second in range(DAY):
        keeper.pass_second(second)
        try:
            left = keeper.expires_at[shared.current()] - clock.now
        except TokenRejectedError:
            service.seconds_without.append(second)
        else:
            service.requests += 1
            service.least_left = min(left, service.least_left)
        clock.sleep(1)
    service.reads = len(keeper.secrets.calls)
    print(  # noqa: T201 - with -rP
        f"{service.reads} reads, {service.requests} requests, {len(keeper.expires_at)} tokens, "
        f"least left {service.least_left:.0f} s, {len(service.seconds_without)} s without a token"
    )
    assert set(keeper.secrets.calls) == {"GetSecretValue"}
    return service


@pytest.mark.parametrize(
    "late",
    [
        pytest.param([0], id="on time"),
        # EventBridge Scheduler is precise to a minute.
        pytest.param([0, 59, 17, 42, 3, 31], id="up to a minute late"),
        pytest.param([240], id="four minutes late, each time"),
    ],
)
def test_each_token_sent_has_more_than_a_minute_left(age: int, late: list[int]) -> None:
    service = a_day(Keeper(age=age, late=late))
    assert service.requests == 86_400
    assert service.least_left > 60
    assert service.reads <= 450


def test_a_keeper_in_the_last_second_costs_five_reads_a_token_and_no_request(age: int) -> None:
    keeper = Keeper(age=age, late=[299])
    service = a_day(keeper)
    assert service.requests == 86_400
    assert service.least_left > 0
    assert service.reads <= 330 + 5 * len(keeper.expires_at)


def test_when_the_keeper_is_back_after_an_hour_its_token_is_used_within_five_seconds(
    age: int,
) -> None:
    starts, back = 6 * HOUR, 7 * HOUR
    service = a_day(Keeper(age=age, down=range(starts, back)))
    assert service.least_left > 0
    without = service.seconds_without
    assert without == list(range(without[0], without[-1] + 1))
    # The last token lived five minutes more at least, and was used up to its end.
    assert starts + 5 * 60 <= without[0] <= starts + QUARTER_HOUR
    assert without[-1] < back + 5
    # While there is no token, one read in five seconds.
    assert service.reads <= 450 + len(without) / 5


@pytest.mark.parametrize("replaced", [False, True], ids=["all day", "replaced during the day"])
def test_a_token_of_seven_days_is_read_at_max_age_and_not_more_often(
    age: int, *, replaced: bool
) -> None:
    days_old = 3 if replaced else 1
    keeper = Keeper(age=age + days_old * DAY, lifetime=7 * DAY, replaces_after=4 * DAY - HOUR)
    state = random.getstate()
    service = a_day(keeper)
    random.setstate(state)
    assert service.requests == 86_400
    assert len(keeper.expires_at) == 1 + replaced
    assert service.reads == reads_at_max_age_alone()
    # 288, and up to a tenth more by the jitter.
    assert 288 <= service.reads <= 320


def reads_at_max_age_alone() -> int:
    reads, at = 0, 0
    while at < DAY:
        reads += 1
        age = MAX_AGE * (1 - 0.1 * random.random())  # noqa: S311 - no secret
        at += math.ceil(age)
    return reads


class Api(HTTPAdapter):
    """The API, for either client: by its own clock, it refuses a token from its expiry on."""

    def __init__(self, keeper: Keeper, clock: Clock) -> None:
        super().__init__()
        self.refusals = 0
        self._keeper = keeper
        self._clock = clock

    def status(self, authorization: str) -> int:
        if self._keeper.expires_at[authorization.removeprefix("Bearer ")] > self._clock.now:
            return 200
        self.refusals += 1
        return 401

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **_: Any
    ) -> requests.Response:
        status = self.status(str(request.headers["Authorization"]))
        answer = HTTPResponse(io.BytesIO(), status=status, preload_content=False)
        response: requests.Response = self.build_response(request, answer)
        return response

    def answer(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(self.status(request.headers["Authorization"]))


def by_requests(source: SharedToken, api: Api) -> Callable[[], int]:
    session = requests.Session()
    session.mount(BASE_URL, api)
    session.auth = QwenAuth(source)
    return lambda: session.get(BASE_URL, timeout=1).status_code


def by_httpx(source: SharedToken, api: Api) -> Callable[[], int]:
    transport = httpx.MockTransport(api.answer)
    client = httpx.Client(auth=QwenHttpxAuth(source), transport=transport, trust_env=False)
    return lambda: client.get(BASE_URL).status_code


@pytest.mark.parametrize("http", [by_requests, pytest.param(by_httpx, marks=pytest.mark.nightly)])
def test_a_service_whose_clock_is_two_minutes_slow_loses_no_request(
    age: int, http: Callable[[SharedToken, Api], Callable[[], int]]
) -> None:
    keeper = Keeper(age=age, late=[299])
    clock = Clock(NOW - timedelta(minutes=2))
    api_clock = Clock()
    api = Api(keeper, api_clock)
    secrets: Any = keeper.secrets
    get = http(SharedToken(SECRET, client=secrets, clock=clock), api)
    statuses = set()
    for second in range(HOUR):
        keeper.pass_second(second)
        statuses.add(get())
        clock.sleep(1)
        api_clock.sleep(1)
    reads = len(keeper.secrets.calls)
    print(f"{reads} reads, {HOUR} requests, {api.refusals} refusals")  # noqa: T201 - with -rP
    assert statuses == {200}
    # One refusal for a token that ended, and one read for it.
    assert 0 < api.refusals < len(keeper.expires_at)
    assert reads <= 1 + HOUR / (0.9 * MAX_AGE) + api.refusals
