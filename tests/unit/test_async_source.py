"""A source asked from event loops: no thread for a warm token, one for all who wait for another."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from traceback import extract_tb
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
from botocore.exceptions import ConnectTimeoutError

from localcloud.waiting import wait_until
from qwen_token import MemoryStore, SharedToken, StoreError, TokenManager, async_source
from qwen_token.httpx_auth import QwenHttpxAuth
from tests.fake_secrets_manager import FakeSecretsManager
from tests.fakes import Clock
from tests.minting import NOW
from tests.programs import run_program
from tests.unit.auth_fakes import BACKENDS, NEW, OLD, SOON, Api, Tokens, serving
from tests.wire import NO_CERTIFICATES

SECRET = "qwen/token"


@dataclass
class Slow:
    """A source of a program's own, which answers when it may, and counts who asks it."""

    answer: str | BaseException = NEW
    asked: list[str | None] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def current(self) -> str:
        return self._answer(None)

    def renew(self, *, rejected: str) -> str:
        return self._answer(rejected)

    def _answer(self, rejected: str | None) -> str:
        self.asked.append(rejected)
        self.threads.append(threading.current_thread())
        assert self.may_answer.wait(SOON), "nobody let it answer"
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture(name="api")
def _api() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture(name="backend", params=BACKENDS)
def _backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="secrets")
def _secrets() -> Any:
    secrets = FakeSecretsManager()
    secrets.add(SECRET, OLD)
    return secrets


@pytest.fixture(name="shared")
def _shared(secrets: Any, clock: Clock) -> SharedToken:
    return SharedToken(SECRET, client=secrets, clock=clock)


@contextmanager
def started_threads() -> Iterator[list[str]]:
    """Collect the names of the threads that are started meanwhile."""
    names: list[str] = []

    def note(*_what: object) -> None:
        names.append(threading.current_thread().name)
        # Once for each thread is enough.
        sys.setprofile(None)

    threading.setprofile(note)
    try:
        yield names
    finally:
        threading.setprofile(None)


def eventually(probe: Callable[[], bool]) -> None:
    wait_until(probe, within=timedelta(seconds=SOON), expected="it", seen=lambda: "not yet")


def waiting_for(source: Any) -> int:
    """Count the tasks that wait for a call of the source."""
    calls = async_source._threads._calls.get(id(source), {})
    return sum(len(call._wakers) for call in calls.values())


def is_idle(source: Any) -> bool:
    return id(source) not in async_source._threads._calls


async def gathered(ask: Callable[[], Any], count: int) -> list[Any]:
    """Return what this many tasks get when they ask at once: a token or an exception."""
    found: list[Any] = []

    async def one() -> None:
        try:
            found.append(await ask())
        except Exception as error:  # noqa: BLE001 - the tests say which
            found.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return found


def released(source: Slow, *, after: int) -> threading.Thread:
    """Let the source answer once this many tasks wait for it."""

    def release() -> None:
        eventually(lambda: waiting_for(source) >= after)
        source.may_answer.set()

    thread = threading.Thread(target=release)
    thread.start()
    return thread


def test_a_warm_token_needs_no_thread(api: Api, backend: str, shared: SharedToken) -> None:
    api.live = OLD
    shared.current()

    async def main() -> None:
        auth = QwenHttpxAuth(shared, base_url=api.base_url)
        async with httpx.AsyncClient(
            auth=auth, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES
        ) as client:
            # The first connection may need threads: to look up a name, say.
            await client.get(api.base_url)
            with started_threads() as names:
                await gathered(partial(client.get, api.base_url), 5)
            assert not [name for name in names if "process_request" not in name]

    anyio.run(main, backend=backend)
    assert api.tokens == [OLD] * 6


def test_a_warm_manager_needs_no_thread(clock: Clock) -> None:
    manager = TokenManager(
        store=MemoryStore(OLD), clock=lambda: NOW + timedelta(seconds=clock() - NOW.timestamp())
    )
    assert manager.current_nowait() is None
    assert manager.current() == manager.current_nowait() == OLD

    with started_threads() as names:
        assert asyncio.run(async_source.current(manager)) == OLD
    assert names == []


def test_a_managers_due_token_serves_while_its_store_is_read() -> None:
    now = [NOW]
    manager = TokenManager(store=MemoryStore(OLD), clock=lambda: now[0])
    manager.current()
    now[0] += timedelta(days=1)
    assert manager.current_nowait() is None
    assert manager.current_nowait(is_reading=True) == OLD
    now[0] += timedelta(days=1)
    assert manager.current_nowait(is_reading=True) is None


def test_endpoints_that_fill_every_worker_thread_still_get_a_token(
    api: Api, secrets: Any, shared: SharedToken
) -> None:
    """As a web framework does it: 40 endpoints in anyio's 40 threads call an async client."""
    api.live = OLD

    async def main() -> list[int]:
        limiter = anyio.to_thread.current_default_thread_limiter()
        count = int(limiter.total_tokens)
        everybody = threading.Barrier(count)
        auth = QwenHttpxAuth(shared, base_url=api.base_url)
        async with httpx.AsyncClient(
            auth=auth, timeout=SOON, trust_env=False, verify=NO_CERTIFICATES
        ) as client:

            def endpoint() -> int:
                everybody.wait(SOON)
                return anyio.from_thread.run(client.get, api.base_url).status_code

            return await gathered(partial(anyio.to_thread.run_sync, endpoint), count)

    assert anyio.run(main) == [200] * 40
    assert len(secrets.calls) == 1


def beside(others: set[threading.Thread]) -> set[threading.Thread]:
    """Return the threads that began since. Those of earlier tests may end at any time."""
    return set(threading.enumerate()) - others


def test_requests_that_are_given_up_leave_one_thread_which_ends(backend: str) -> None:
    source = Slow()
    others = set(threading.enumerate())

    async def main() -> None:
        for _ in range(300):
            with anyio.move_on_after(0.001):
                await async_source.current(source)
        assert len(beside(others)) <= 1
        assert waiting_for(source) == 0

    anyio.run(main, backend=backend)
    assert len(source.asked) == 1
    source.may_answer.set()
    source.threads[0].join(SOON)
    assert not beside(others)
    assert is_idle(source)


def test_given_up_renewals_leave_one_thread_as_well(backend: str) -> None:
    source = Slow()
    others = set(threading.enumerate())

    async def main() -> None:
        for number in range(50):
            with anyio.move_on_after(0.001):
                await async_source.renew(source, rejected=f"{number % 5}")

    anyio.run(main, backend=backend)
    assert len(beside(others)) == 1
    source.may_answer.set()
    source.threads[0].join(SOON)
    assert sorted(filter(None, source.asked)) == [str(number) for number in range(5)]
    assert len(set(source.threads)) == 1


@pytest.mark.parametrize("rejected", [None, OLD], ids=["current", "renew"])
def test_tasks_of_several_event_loops_wait_for_one_call(rejected: str | None) -> None:
    source = Slow()

    def ask() -> Any:
        if rejected is None:
            return async_source.current(source)
        return async_source.renew(source, rejected=rejected)

    release = released(source, after=30)
    loops = [BACKENDS[number % len(BACKENDS)] for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        runs = [
            pool.submit(partial(anyio.run, gathered, ask, 10, backend=backend)) for backend in loops
        ]
        found = [each for run in runs for each in run.result(SOON)]
    release.join()
    assert found == [NEW] * 30
    assert source.asked == [rejected]


class OwnError(Exception):
    """What a program's source may raise."""


@pytest.mark.parametrize(
    "error",
    [StoreError("down", may_pass=True), OwnError("down"), StopIteration("down")],
    ids=["of the tree", "of the program", "an odd one"],
)
def test_everybody_who_waits_gets_the_error(backend: str, error: Exception) -> None:
    source = Slow(error)
    release = released(source, after=5)
    found = anyio.run(gathered, partial(async_source.current, source), 5, backend=backend)
    release.join()
    if isinstance(error, StopIteration):
        # A coroutine cannot raise it.
        assert [type(each.__cause__) for each in found] == [StopIteration] * 5
        return
    assert [(type(each), str(each)) for each in found] == [(type(error), "down")] * 5
    assert all(extract_tb(each.__traceback__)[-1].name == "_answer" for each in found)
    if isinstance(error, StoreError):
        assert len({id(each) for each in found}) == 5


def test_a_source_that_ends_its_thread_leaves_nobody_waiting() -> None:
    source = Slow(SystemExit(3))
    source.may_answer.set()
    with pytest.raises(SystemExit):
        asyncio.run(async_source.current(source))
    source.answer = NEW
    assert asyncio.run(async_source.current(source)) == NEW


def test_an_event_loop_that_was_closed_meanwhile_keeps_nobody_waiting() -> None:
    source = Slow()
    closed = asyncio.new_event_loop()
    given_up = closed.create_task(async_source.current(source))
    closed.run_until_complete(asyncio.sleep(0))
    assert waiting_for(source) == 1
    closed.close()
    release = released(source, after=2)
    assert asyncio.run(async_source.current(source)) == NEW
    release.join()
    assert source.asked == [None]
    # asyncio complains about a task that its loop has left; what it leaves is not ours.
    given_up._log_destroy_pending = False  # type: ignore[attr-defined]
    del given_up
    gc.collect()


def test_a_source_sees_the_variables_of_the_task_that_asked_first() -> None:
    trace: ContextVar[str] = ContextVar("trace")

    class Traced(Tokens):
        def current(self) -> str:
            return trace.get()

    async def main() -> str:
        trace.set("of the request")
        return await async_source.current(Traced())

    assert asyncio.run(main()) == "of the request"


def test_a_subclass_with_a_current_of_its_own_is_asked_by_it(secrets: Any, clock: Clock) -> None:
    class Counting(SharedToken):
        count = 0

        def current(self) -> str:
            self.count += 1
            return super().current()

    shared = Counting(SECRET, client=secrets, clock=clock)
    for _ in range(3):
        assert asyncio.run(async_source.current(shared)) == OLD
    assert shared.count == 3


def test_a_source_that_stands_for_another_is_asked_by_its_own_methods(shared: SharedToken) -> None:
    shared.current()

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            return getattr(shared, name)

        def current(self) -> str:
            return "the proxy's"

    assert asyncio.run(async_source.current(Proxy())) == "the proxy's"


def test_ten_tasks_that_were_refused_cause_one_read(
    backend: str, secrets: Any, shared: SharedToken
) -> None:
    shared.current()
    secrets.hold(SECRET, NEW)
    renew = partial(async_source.renew, shared, rejected=OLD)
    assert anyio.run(gathered, renew, 10, backend=backend) == [NEW] * 10
    with started_threads() as names:
        assert anyio.run(gathered, renew, 10, backend=backend) == [NEW] * 10
    assert names == []
    assert len(secrets.calls) == 2


def test_in_an_outage_no_task_waits_for_the_thread_that_tries_again(
    secrets: Any, shared: SharedToken, clock: Clock
) -> None:
    shared.current()
    clock.sleep(300)
    secrets.fails_with = ConnectTimeoutError(endpoint_url="https://aws")
    shared.current()
    clock.sleep(5)
    secrets.is_asked.clear()
    secrets.may_answer.clear()
    assert asyncio.run(gathered(partial(async_source.current, shared), 10)) == [OLD] * 10
    assert secrets.is_asked.wait(SOON)
    assert asyncio.run(async_source.current(shared)) == OLD
    secrets.may_answer.set()
    eventually(lambda: is_idle(shared))
    assert len(secrets.calls) == 3


def test_where_no_thread_can_be_started_the_request_says_so_and_the_next_one_works() -> None:
    source = Slow()
    source.may_answer.set()
    usual = threading.stack_size(1 << 46)
    try:
        with pytest.raises(RuntimeError, match="start new thread"):
            asyncio.run(async_source.current(source))
    finally:
        threading.stack_size(usual)
    assert asyncio.run(async_source.current(source)) == NEW


FORKED = """
import asyncio, os, threading
from tests.unit.test_async_source import NEW, Slow, eventually, waiting_for
from qwen_token import async_source

source = Slow()
waiting = threading.Thread(target=lambda: asyncio.run(async_source.current(source)))
waiting.start()
eventually(lambda: waiting_for(source) == 1)
child = os.fork()
if child == 0:
    threading.Timer(10, lambda: os._exit(7)).start()
    source.may_answer.set()
    os._exit(0 if asyncio.run(async_source.current(source)) == NEW else 8)
_, status = os.waitpid(child, 0)
assert len(source.asked) == 1
source.may_answer.set()
waiting.join()
print(os.waitstatus_to_exitcode(status))
"""


def test_a_child_that_was_forked_during_a_call_makes_its_own() -> None:
    assert run_program(FORKED) == "0"


ENDING = """
import asyncio, threading
from tests.unit.test_async_source import Slow
from qwen_token import async_source

class Spends(Slow):
    def current(self):
        raw = super().current()
        print("stored")
        return raw

source = Spends()

async def main():
    try:
        await asyncio.wait_for(async_source.current(source), 0.1)
    except TimeoutError:
        threading.Timer(0.2, source.may_answer.set).start()

asyncio.run(main())
"""


def test_a_program_that_ends_lets_a_call_under_way_come_to_its_end() -> None:
    assert run_program(ENDING) == "stored"
