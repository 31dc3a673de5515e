"""What services pass to worker processes: pickled without a token, and made anew over there."""

import copy
import functools
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

import qwen_token
from qwen_token import (
    ConfigError,
    FileStore,
    MemoryStore,
    QwenAuth,
    QwenClient,
    QwenTokenError,
    RateLimitedError,
    Session,
    SharedToken,
    StoreError,
    Token,
    TokenInfo,
    TokenManager,
)
from qwen_token.errors import RunFacts
from qwen_token.httpx_auth import QwenHttpxAuth
from qwen_token.secret_store import SecretStore
from tests.fake_secrets_manager import FakeSecretsManager
from tests.minting import NOW, token
from tests.programs import run_program
from tests.unit.auth_fakes import NEW, OLD, serving

SECRET = "qwen/token"
# For those who look at the real clock.
LIVE = token(left=timedelta(days=2), now=datetime.now(UTC)).raw
PASSWORD = "a password that nobody else has"
CREDENTIAL = "a-credential-that-nobody-else-has"


def pickled(value: object) -> bytes:
    """Return the pickle, after looking for what may not be in it."""
    data = pickle.dumps(value)
    for secret in (OLD, NEW, LIVE, PASSWORD, CREDENTIAL):
        assert secret.encode() not in data
        assert secret.split(".")[-1].encode() not in data
    return data


def passed(value: Any) -> Any:
    return pickle.loads(pickled(value))  # noqa: S301 - our own bytes


def warm(**options: Any) -> SharedToken:
    """Return one that holds a token, as if it had made its own client."""
    secrets: Any = FakeSecretsManager()
    secrets.add(SECRET, LIVE)
    shared = SharedToken(SECRET, **options)
    shared._store = SecretStore(secrets, SECRET)
    shared._copy = SharedToken(SECRET, client=secrets)._reread()
    assert shared.current() == LIVE
    return shared


def test_a_shared_token_becomes_the_other_processs_own() -> None:
    options: dict[str, Any] = {
        "max_age": 7.0,
        "max_stale": 8.0,
        "refresh_function": "keeper",
    }
    shared = warm(**options)
    there = passed(shared)

    assert there is not shared
    assert there is passed(shared) is SharedToken.of(SECRET, **options)
    assert there._store is None
    assert {name: getattr(there, f"_{name}") for name in options} == options


def test_one_with_the_usual_options_is_the_one_of_the_secret() -> None:
    assert passed(SharedToken(SECRET, max_age=300)) is SharedToken.of(SECRET)


def test_a_subclass_stays_one() -> None:
    class Own(SharedToken):
        """A program's own."""

    globals()["Own"] = Own
    Own.__qualname__ = "Own"
    there = passed(Own(SECRET))
    assert type(there) is type(Own.of(SECRET)) is Own
    assert type(SharedToken.of(SECRET)) is SharedToken


@pytest.mark.parametrize("name", ["client", "lambda_client"])
def test_a_client_that_was_passed_is_used_as_it_is(name: str) -> None:
    options: dict[str, Any] = {name: object()}
    shared = SharedToken(SECRET, **options)
    for value in (shared, QwenAuth(shared), QwenHttpxAuth(shared)):
        with pytest.raises(ConfigError, match="leave client and lambda_client out"):
            pickle.dumps(value)


@pytest.mark.parametrize("kind", [QwenAuth, QwenHttpxAuth])
def test_an_auth_goes_with_its_source_and_its_origin(kind: Any) -> None:
    auth = kind(warm(), base_url="http://127.0.0.1:8000")
    if kind is QwenHttpxAuth:
        auth._refused = OLD
    there = passed(auth)
    assert repr(there) == repr(auth)
    assert there._source is SharedToken.of(SECRET)


def test_what_holds_an_auth_goes_with_it() -> None:
    session = requests.Session()
    session.auth = QwenAuth(warm())
    there = passed(session)
    assert there.auth._source is SharedToken.of(SECRET)
    get = passed(functools.partial(requests.get, auth=session.auth))
    assert get.keywords["auth"]._source is SharedToken.of(SECRET)


COPIES = pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])


@COPIES
def test_a_copy_in_the_same_process_shares_the_token(copied: Callable[[Any], Any]) -> None:
    secrets: Any = FakeSecretsManager()
    for shared in (
        SharedToken(SECRET, client=secrets),
        TokenManager(OLD),
        QwenClient(OLD),
        MemoryStore(OLD),
    ):
        assert copied(shared) is shared
        assert copied({"any": shared})["any"] is shared
    shared = SharedToken(SECRET, client=secrets)
    for auth in (QwenAuth(shared), QwenHttpxAuth(shared)):
        assert copied(auth)._source is shared


def test_a_file_store_goes_by_its_path(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "token")
    held = store.put(token(left=timedelta(days=2)))
    store.stage(token(left=timedelta(days=7)), over=held)
    there = passed(store)
    assert there.load() == OLD
    assert there.alternatives(to=held) == []


def test_a_manager_over_a_file_is_made_anew(tmp_path: Path) -> None:
    clock = now_of_tests
    manager = TokenManager(
        OLD,
        store=FileStore(tmp_path / "token"),
        refresh_before=timedelta(hours=5),
        base_url="http://127.0.0.1:8000",
        clock=clock,
    )
    there = passed(manager)
    assert there.token == OLD
    assert repr(there) == repr(manager)
    assert there._refresh_before == timedelta(hours=5)
    assert there.set_token(NEW) is None
    assert FileStore(tmp_path / "token").load() == NEW


def now_of_tests() -> Any:
    return NOW


def test_a_managers_login_is_the_one_that_is_stored(tmp_path: Path) -> None:
    manager = TokenManager(
        OLD,
        session=Session(refresh_token=CREDENTIAL, email="me@example.com", password=PASSWORD),
        store=FileStore(tmp_path / "token"),
        clock=now_of_tests,
    )
    there = passed(passed(manager))
    assert there.token == OLD
    there._login.prepare()
    session = there._login.sessions.read().session
    assert (session.refresh_token, session.password) == (CREDENTIAL, PASSWORD)
    (tmp_path / "token.session").unlink()
    with pytest.raises(QwenTokenError, match="no login any more"):
        there._login.prepare()


def test_a_manager_that_cannot_write_its_token_says_so(tmp_path: Path) -> None:
    manager = TokenManager(OLD, store=FileStore(tmp_path / "nowhere" / "token"))
    with pytest.raises(StoreError):
        pickle.dumps(manager)


def test_a_manager_of_a_secret_is_made_anew() -> None:
    there = passed(TokenManager.from_secret(SECRET, base_url="http://127.0.0.1:8000"))
    assert repr(there) == "TokenManager(http://127.0.0.1:8000, token=[redacted])"
    assert there._arguments["_open_store"]._secret_id == SECRET


SECRETS: Any = FakeSecretsManager()


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        pytest.param(QwenClient(OLD), "make one there", id="a client"),
        pytest.param(MemoryStore(OLD), "use a FileStore", id="a store in memory"),
        pytest.param(TokenManager(OLD), "use a FileStore", id="a manager in memory"),
        pytest.param(
            TokenManager.from_secret(SECRET, client=SECRETS),
            "from_secret without client",
            id="a manager with a client",
        ),
        pytest.param(
            TokenManager(store=SecretStore(SECRETS, SECRET)),
            "from_secret without client",
            id="a manager over a store with a client",
        ),
    ],
)
def test_what_cannot_go_says_what_to_pass_instead(value: object, advice: str) -> None:
    for holder in (value, {"any": value}, functools.partial(print, value)):
        with pytest.raises(ConfigError, match=advice) as caught:
            pickle.dumps(holder)
        assert OLD not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        token(left=timedelta(days=2)),
        TokenInfo.of(token(left=timedelta(days=2)), now=NOW),
        Session(email="me@example.com", password=PASSWORD, expires_at=NOW),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_stays_what_it_is(value: Token | TokenInfo | Session) -> None:
    for other in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):  # noqa: S301 - our own bytes
        assert other == value
        assert repr(other) == repr(value)


def fails(name: str) -> None:
    """Raise each error of the tree, with all that it can know."""
    kind = getattr(qwen_token, name)
    known: dict[str, Any] = {"retry_after": timedelta(seconds=9)}
    if not issubclass(kind, RateLimitedError):
        known = {"may_pass": True} if issubclass(kind, StoreError) else {}
    error = kind(f"{name} happened", **known)
    raise error.of_run(RunFacts("v1", login_ends_at=NOW), expires_at=NOW) from OSError("why")


ERRORS = sorted(
    name
    for name in qwen_token.__all__
    if isinstance(kind := getattr(qwen_token, name), type) and issubclass(kind, QwenTokenError)
)

RAISED = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from tests.unit.test_worker_processes import ERRORS, NOW, RunFacts, fails, qwen_token

with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(METHOD)) as pool:
    for name in ERRORS:
        error = pool.submit(fails, name).exception()
        assert type(error) is getattr(qwen_token, name), error
        assert str(error) == f"{name} happened"
        assert error.facts == RunFacts("v1", login_ends_at=NOW)
        assert error.expires_at == NOW
        try:
            fails(name)
        except Exception as here:
            assert vars(error) == vars(here), name
            if hasattr(type(error), "reason"):
                assert (error.reason, error.advice) == (here.reason, here.advice)
print(len(ERRORS))
"""


class SecretsManager(BaseHTTPRequestHandler):
    """Secrets Manager, which counts the reads."""

    protocol_version = "HTTP/1.1"
    reads: list[str]

    def do_POST(self) -> None:
        self.reads.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        body = json.dumps({"SecretString": LIVE, "VersionId": "v1"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent."""


@contextmanager
def secrets_manager() -> Iterator[tuple[str, list[str]]]:
    reads: list[str] = []
    handler = type("_SecretsManager", (SecretsManager,), {"reads": reads})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", reads
        finally:
            server.shutdown()
            thread.join()


WORK = """
import functools, io, multiprocessing
from concurrent.futures import ProcessPoolExecutor
import httpx, requests
from qwen_token import QwenAuth, SharedToken
from qwen_token.httpx_auth import QwenHttpxAuth

shared = SharedToken("qwen/token")
first = shared.current()
auth = QwenAuth(shared, base_url=API)
session = requests.Session()
session.auth = auth
get = functools.partial(requests.get, API, auth=auth, timeout=10)
ask = functools.partial(httpx.get, API, auth=QwenHttpxAuth(shared, base_url=API), trust_env=False)
context = multiprocessing.get_context(METHOD)
with ProcessPoolExecutor(1, mp_context=context) as pool:
    assert pool.submit(shared.current).result() == first
    assert pool.submit(auth._source.current).result() == first
    assert pool.submit(get).result().status_code == 200
    assert pool.submit(session.get, API).result().status_code == 200
    assert pool.submit(ask).result().status_code == 200
process = context.Process(target=get)
process.start()
process.join()
print(process.exitcode)
"""

METHODS = pytest.mark.parametrize(
    # What forkserver forks was spawned.
    "method",
    ["fork", pytest.param("spawn", marks=pytest.mark.nightly), "forkserver"],
)


@METHODS
def test_worker_processes_read_for_themselves_once(method: str) -> None:
    with secrets_manager() as (url, reads), serving() as api:
        api.live = LIVE
        printed = run_program(
            WORK.replace("METHOD", repr(method)).replace("API", repr(api.base_url)),
            AWS_ENDPOINT_URL=url,
            AWS_DEFAULT_REGION="eu-west-1",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
        )
    assert printed == "0"
    assert api.tokens == [LIVE] * 4
    # The program and the pool's process, and the last one, unless it inherited what was read.
    assert len(reads) == (2 if method == "fork" else 3)


@METHODS
def test_every_error_comes_back_whole_from_a_worker_process(method: str) -> None:
    assert run_program(RAISED.replace("METHOD", repr(method))) == str(len(ERRORS))
