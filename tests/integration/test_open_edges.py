"""Where foreign code runs, any exception can come: it becomes the tree's own, without its text.

What is wrong here is what a user's environment, or whoever answers in AWS's place, does; boto3 and
requests are the real ones.
"""

import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from keeper_runtime.clients import Clients
from localcloud.qwen import QwenStandIn
from qwen_token import (
    ConfigError,
    QwenTokenError,
    Session,
    SharedToken,
    StoreError,
    TokenManager,
    UpstreamUnavailableError,
)
from qwen_token.cli import main
from qwen_token.errors import NetworkConfigError
from qwen_token.manager.local_store import FileStore, TokenStore
from qwen_token.secret_store import SecretStore
from qwen_token.session_store import SessionStore
from qwen_token.stored_token import StoredToken
from qwen_token.transport import Request, send
from tests.minting import token
from tests.unit.refresh_fakes import RefreshUnderTest
from tests.wire import Wire, reply, wire

ARN: Final = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3"
VERSION: Final = "v" * 32
HELD: Final = token(left=timedelta(days=2))
# No failure may say what a file, a variable or a server held.
TEXT: Final = "hunter2"
BRIEF: Final = timedelta(seconds=3)

type Environ = Callable[..., None]


@pytest.fixture(name="environ")
def _environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environ:
    """Return what sets variables, in an environment in which AWS could be asked."""
    for name in tuple(os.environ):
        if name.startswith("AWS_") or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    # Nothing listens there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobodys")

    def set_all(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)

    return set_all


def file(path: Path, content: bytes = b"", *, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


NO_KEYS: Final[dict[str, str | None]] = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}


def config(path: Path, *lines: str) -> dict[str, str | None]:
    return {"AWS_CONFIG_FILE": file(path / "config", "\n".join(lines).encode()), **NO_KEYS}


def web_identity(path: Path) -> dict[str, str | None]:
    return {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(path / TEXT),
        "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/pod",
        **NO_KEYS,
    }


# What is wrong → the variables, in a directory of the test's own.
AWS_FAULTS: Final[dict[str, Callable[[Path], dict[str, str | None]]]] = {
    "nothing listens": lambda _: {},
    "no credentials": lambda _: NO_KEYS,
    "no CA bundle, by requests' variable": lambda path: {"REQUESTS_CA_BUNDLE": str(path / TEXT)},
    "no CA bundle, by AWS's variable": lambda path: {"AWS_CA_BUNDLE": str(path / TEXT)},
    "a CA bundle without a certificate": lambda path: {"AWS_CA_BUNDLE": file(path / "ca")},
    "a web identity's token that is gone": web_identity,
    "a proxy that is no URL": lambda _: {"HTTPS_PROXY": f"{TEXT}:{TEXT}@:::"},
    "a proxy with an impossible port": lambda _: {"HTTPS_PROXY": "http://127.0.0.1:99999"},
    "a proxy of a kind that is not known": lambda _: {"HTTPS_PROXY": f"socks9://{TEXT}"},
    "a SOCKS proxy, without what speaks SOCKS": lambda _: {"HTTPS_PROXY": "socks5://127.0.0.1:9"},
    "an endpoint that is no URL": lambda _: {"AWS_ENDPOINT_URL": TEXT},
    "an endpoint with an impossible port": lambda _: {"AWS_ENDPOINT_URL": "http://127.0.0.1:99999"},
    "an endpoint with half a bracket": lambda _: {"AWS_ENDPOINT_URL": "http://[::1"},
    "an endpoint with a label that is too long": lambda _: {
        "AWS_ENDPOINT_URL": f"http://{'a' * 70}.example"
    },
    "a configuration in no known encoding": lambda path: {
        "AWS_CONFIG_FILE": file(path / "c", b"[default]\nregion = \xff\xfe\n")
    },
    "a configuration that is none": lambda path: config(path, f"{TEXT} [", "= ="),
    "a configuration that is a directory": lambda path: {"AWS_CONFIG_FILE": str(path)},
    "credentials in no known encoding": lambda path: {
        "AWS_SHARED_CREDENTIALS_FILE": file(path / "c", b"[default]\naws_access_key_id=\xff\n"),
        **NO_KEYS,
    },
    "half of the credentials": lambda _: {"AWS_SECRET_ACCESS_KEY": None},
    "a profile that is not there": lambda _: {"AWS_PROFILE": "another"},
    "a program for credentials that is not there": lambda path: config(
        path, "[default]", f"credential_process = {path}/{TEXT}"
    ),
    "a program for credentials that fails": lambda path: config(
        path, "[default]", f"credential_process = sh -c 'echo {TEXT} >&2; exit 1'"
    ),
    "a program for credentials that prints anything": lambda path: config(
        path, "[default]", f"credential_process = echo {TEXT}"
    ),
    "a program for credentials that prints half of them": lambda path: config(
        path, "[default]", "credential_process = echo '{\"Version\": 1}'"
    ),
    "a program for credentials that cannot be parsed": lambda path: config(
        path, "[default]", "credential_process = sh -c 'half"
    ),
    "a login that nobody made": lambda path: config(
        path,
        "[default]",
        "sso_start_url = https://example.com",
        "sso_region = eu-west-1",
        "sso_account_id = 111122223333",
        "sso_role_name = reader",
    ),
    "a role whose source is not there": lambda path: config(
        path, "[default]", "role_arn = arn:aws:iam::1:role/a", "source_profile = another"
    ),
    "a role of itself": lambda path: config(
        path, "[default]", "role_arn = arn:aws:iam::1:role/a", "source_profile = default"
    ),
    "a container whose credentials are elsewhere": lambda _: {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{TEXT}.example/",
        **NO_KEYS,
    },
    "a container whose token file is gone": lambda path: {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(path / TEXT),
        **NO_KEYS,
    },
    "a number of attempts that is none": lambda _: {"AWS_MAX_ATTEMPTS": TEXT},
    "a retry mode that is none": lambda _: {"AWS_RETRY_MODE": TEXT},
    "a mode of defaults that is none": lambda _: {"AWS_DEFAULTS_MODE": TEXT},
}

aws_faults = pytest.mark.parametrize(
    "variables", [pytest.param(each, id=name) for name, each in AWS_FAULTS.items()]
)


def require_plain(error: BaseException) -> None:
    """Require that neither the message nor what a traceback would print says what failed there."""
    assert TEXT not in str(error)
    assert TEXT not in getattr(error, "advice", "")


@aws_faults
def test_anything_that_stops_boto3_is_an_error_of_the_tree(
    variables: Callable[[Path], dict[str, str | None]], environ: Environ, tmp_path: Path
) -> None:
    environ(**variables(tmp_path))
    with pytest.raises(QwenTokenError) as caught:
        SecretStore.open(ARN).read()
    require_plain(caught.value)


@aws_faults
def test_the_deployed_function_publishes_an_alert_nevertheless(
    variables: Callable[[Path], dict[str, str | None]],
    environ: Environ,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The topic is reached another way here: where it is not, no alert can be published."""
    environ(**variables(tmp_path))
    real = Clients.real()

    class Function(RefreshUnderTest):
        def clients(self) -> Clients:
            parts: dict[str, Any] = {
                **{
                    name: getattr(super(Function, self).clients(), name)
                    for name in Clients.__slots__
                },
                "secrets": real.secrets,
                "dynamodb": real.dynamodb,
            }
            return Clients(**parts)

    run = Function(capsys, monkeypatch).run()

    [alert] = run.alerts
    [failure] = alert["failures"]
    assert failure["reason"] in {"store_failed", "config_invalid"}
    assert TEXT not in str(alert)
    assert run.metrics["RunCompleted"] == run.metrics["RefreshFailed"] == 1


@aws_faults
def test_the_command_line_ends_with_a_sentence(
    variables: Callable[[Path], dict[str, str | None]],
    environ: Environ,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environ(**variables(tmp_path))
    assert main(["status"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_ca_bundle_that_is_missing_is_named_by_its_variable(
    variable: str, environ: Environ, tmp_path: Path
) -> None:
    environ(**{variable: str(tmp_path / TEXT)})
    with pytest.raises(StoreError, match=f"the CA bundle that {variable} names") as caught:
        SecretStore.open(ARN).read()
    require_plain(caught.value)


# ── Whoever answers in AWS's place ────────────────────────────────────────────────────────────────

JSON: Final = "Content-Type: application/x-amz-json-1.1"
ANSWERS: Final = {
    "a page": reply("200 OK", b"<html>hunter2</html>", "Content-Type: text/html"),
    "a page of a failure": reply("404 No", b"<html>hunter2</html>", "Content-Type: text/html"),
    "nothing": reply("200 OK", b"", JSON),
    "an empty object": reply("200 OK", b"{}", JSON),
    "half an object": reply("200 OK", b'{"SecretString": "hunter2', JSON),
    "a list": reply("200 OK", b'["hunter2"]', JSON),
    "a text": reply("200 OK", b'"hunter2"', JSON),
    "null": reply("200 OK", b"null", JSON),
    "a number for a text": reply("200 OK", b'{"VersionId": 1, "SecretString": 2}', JSON),
    "a number for a value": reply("200 OK", b'{"VersionId": "v1", "SecretString": 2}', JSON),
    "a value without a version": reply("200 OK", b'{"SecretString": "hunter2"}', JSON),
    "a date that is none": reply(
        "200 OK", b'{"VersionId": "v1", "SecretString": "a", "CreatedDate": "hunter2"}', JSON
    ),
    "bytes that are no text": reply("200 OK", b"\xff\xfe\x00", JSON),
    "a failure whose code is a text": reply(
        "400 No", b'{"__type": "hunter2 is what you should type here"}', JSON
    ),
    "a failure that is a list": reply("400 No", b'["hunter2"]', JSON),
    "a failure whose code is a number": reply("400 No", b'{"__type": 5}', JSON),
}
answers = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)


@pytest.fixture(name="aws")
def _aws(answer: Any, environ: Environ) -> Iterator[Wire]:
    with wire(answer) as aws:
        environ(AWS_ENDPOINT_URL=aws.base_url)
        yield aws


STEPS = ("read", "read_version", "put", "put_first", "promote", "alternatives", "sessions")


def answers_at_steps() -> Iterator[object]:
    """Give each answer at each step: at one by day, and at the others by night."""
    for number, (name, answer) in enumerate(ANSWERS.items()):
        for step in STEPS:
            marks = () if step == STEPS[number % len(STEPS)] else pytest.mark.nightly
            yield pytest.param(answer, step, id=f"{step}-{name}", marks=marks)


@pytest.mark.parametrize(("answer", "step"), list(answers_at_steps()))
def test_an_answer_that_is_not_from_aws_is_a_store_error(aws: Wire, step: str) -> None:
    store = SecretStore.open(ARN)
    held = StoredToken(HELD, VERSION, HELD.raw)
    steps: dict[str, Callable[[], object]] = {
        "read": store.read,
        "read_version": lambda: store.read_version(VERSION),
        "put": lambda: store.put(HELD),
        "put_first": lambda: store.put_first(HELD),
        "promote": lambda: store.promote(held, over=held),
        "alternatives": lambda: store.alternatives(to=held),
        "sessions": SessionStore(store._versions._client, ARN).read,
    }
    with pytest.raises(StoreError) as caught:
        steps[step]()
    require_plain(caught.value)
    assert aws.requests


# ── Readers, and programs that keep a token themselves ────────────────────────────────────────────


class Stops(Exception):  # noqa: N818 - an exception of foreign code
    """What no list of exceptions has."""


class Wrapped:
    """A client of the reader's own, which fails from the second read on."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0
        self.exceptions = _Exceptions

    def get_secret_value(self, **_: str) -> dict[str, Any]:
        self.calls += 1
        if self.calls > 1:
            raise self.error
        return {"VersionId": "v1", "SecretString": HELD.raw}


class _Exceptions:
    class ResourceNotFoundException(Exception):  # noqa: N818 - boto3's name
        pass


ANY: Final = [FileNotFoundError(2, TEXT), Stops(TEXT), MemoryError(TEXT), RecursionError(TEXT)]


@pytest.mark.parametrize("error", ANY, ids=lambda error: type(error).__name__)
def test_a_live_copy_bridges_any_failure(error: Exception) -> None:
    now = [HELD.expires_at.timestamp() - 86_400]
    client: Any = Wrapped(error)
    shared = SharedToken(ARN, client=client, clock=lambda: now[0])
    assert shared.current() == HELD.raw
    now[0] += 600
    assert shared.current() == HELD.raw
    assert client.calls == 2


def test_a_client_that_cannot_be_made_again_after_a_fork_is_bridged(
    environ: Environ, tmp_path: Path
) -> None:
    now = [HELD.expires_at.timestamp() - 86_400]
    body = b'{"VersionId": "v1", "SecretString": "%b"}' % HELD.raw.encode()
    with wire(reply("200 OK", body, JSON)) as aws:
        environ(AWS_ENDPOINT_URL=aws.base_url)
        shared = SharedToken(ARN, clock=lambda: now[0])
        assert shared.current() == HELD.raw
    environ(AWS_CONFIG_FILE=file(tmp_path / "c", b"\xff"))
    shared.after_fork()
    now[0] += 600
    assert shared.current() == HELD.raw


@pytest.mark.parametrize("error", ANY, ids=lambda error: type(error).__name__)
def test_a_managers_live_token_bridges_any_failure(error: Exception) -> None:
    now = [HELD.expires_at - timedelta(days=1)]
    client: Any = Wrapped(error)
    manager = TokenManager(store=SecretStore(client, ARN), clock=lambda: now[0])
    assert manager.current() == HELD.raw
    now[0] += timedelta(minutes=10)
    assert manager.current() == HELD.raw
    assert client.calls == 2


def test_a_web_identitys_token_that_is_gone_is_a_failure_that_may_pass(
    environ: Environ, tmp_path: Path
) -> None:
    environ(**web_identity(tmp_path))
    with pytest.raises(StoreError, match="FileNotFoundError") as caught:
        TokenManager.from_secret(ARN).current()
    assert caught.value.may_pass


# ── The API ───────────────────────────────────────────────────────────────────────────────────────

API_FAULTS: Final[dict[str, tuple[Callable[[Path], dict[str, str | None]], str]]] = {
    "no CA bundle": (
        lambda path: {"REQUESTS_CA_BUNDLE": str(path / TEXT)},
        "the CA bundle that REQUESTS_CA_BUNDLE names",
    ),
    "no CA bundle, by curl's variable": (
        lambda path: {"CURL_CA_BUNDLE": str(path / TEXT)},
        "the CA bundle that CURL_CA_BUNDLE names",
    ),
    "a CA bundle without a certificate": (
        lambda path: {"REQUESTS_CA_BUNDLE": file(path / "ca", b"hunter2")},
        "the CA bundle that REQUESTS_CA_BUNDLE names",
    ),
    "a proxy without a host": (
        lambda _: {"HTTPS_PROXY": "http://"},
        "the proxy that HTTPS_PROXY names",
    ),
    "a proxy with an impossible port": (
        lambda _: {"https_proxy": "http://127.0.0.1:99999"},
        "the proxy that https_proxy names",
    ),
    "a proxy of a kind that is not known": (
        lambda _: {"ALL_PROXY": f"{TEXT}://127.0.0.1:9"},
        "the proxy that ALL_PROXY names",
    ),
    "a SOCKS proxy, without what speaks SOCKS": (
        lambda _: {"all_proxy": "socks5://127.0.0.1:9"},
        "the proxy that all_proxy names",
    ),
}


@pytest.mark.parametrize(
    ("variables", "said"),
    [pytest.param(*each, id=name) for name, each in API_FAULTS.items()],
)
def test_a_way_to_the_api_that_cannot_be_gone_is_configuration(
    variables: Callable[[Path], dict[str, str | None]],
    said: str,
    environ: Environ,
    tmp_path: Path,
) -> None:
    environ(**variables(tmp_path))
    with wire(reply("200 OK")) as server, pytest.raises(NetworkConfigError, match=said) as caught:
        send(Request(server.base_url.replace("http:", "https:")), within=BRIEF)
    require_plain(caught.value)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NO_PROXY": "[::1, 300.0.0.1/99, http://:x"},
        {"HTTPS_PROXY": "http://127.0.0.1:9"},
    ],
    ids=["nothing listens", "exemptions that are none", "a proxy that does not listen"],
)
def test_a_network_failure_that_may_pass_is_not_an_answer(
    variables: dict[str, str], environ: Environ
) -> None:
    environ(**variables)
    with pytest.raises(UpstreamUnavailableError):
        send(Request("https://127.0.0.1:9/"), within=BRIEF)


def test_plain_http_on_this_machine_needs_no_bundle_and_no_proxy(
    environ: Environ, tmp_path: Path
) -> None:
    environ(REQUESTS_CA_BUNDLE=str(tmp_path / TEXT), ALL_PROXY="socks5://127.0.0.1:9")
    with wire(reply("200 OK")) as server:
        assert send(Request(server.base_url), within=BRIEF).status == 200


def test_a_process_that_cannot_start_a_thread_gets_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading.Thread, "start", _no_thread)
    with pytest.raises(UpstreamUnavailableError, match="no thread"):
        send(Request("https://127.0.0.1:9/"), within=BRIEF)


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# ── A store of the program's own ──────────────────────────────────────────────────────────────────


class Own(TokenStore):
    """A store whose author thought of nothing that may go wrong."""

    def __init__(self, text: object) -> None:
        self.text: Any = text
        self.load_fails: Exception | None = None
        self.save_fails: Exception | None = None

    def load(self) -> Any:
        if self.load_fails is not None:
            raise self.load_fails
        return self.text

    def save(self, text: str, *, over: str | None) -> bool:
        if self.save_fails is not None:
            raise self.save_fails
        if self.text == over:
            self.text = text
            return True
        return False

    def beside(self, name: str) -> Any:
        return self


@pytest.mark.parametrize("error", ANY, ids=lambda error: type(error).__name__)
def test_a_store_that_fails_in_its_own_way_is_bridged(error: Exception) -> None:
    now = [HELD.expires_at - timedelta(days=1)]
    store = Own(HELD.raw)
    manager = TokenManager(store=store, clock=lambda: now[0])
    assert manager.current() == HELD.raw
    store.load_fails = error
    now[0] += timedelta(minutes=10)
    assert manager.current() == HELD.raw
    now[0] += timedelta(days=2)
    with pytest.raises(
        StoreError, match=f"could not be read: {type(error).__name__} in "
    ) as caught:
        manager.current()
    require_plain(caught.value)


@pytest.mark.parametrize("text", [b"bytes", 1, ["a list"]], ids=repr)
def test_a_store_that_holds_no_text_has_failed(text: object) -> None:
    with pytest.raises(StoreError, match="could not be read: TypeError"):
        TokenManager(store=Own(text)).current()


def test_a_new_token_that_a_store_cannot_take_is_used_from_memory(qwen: QwenStandIn) -> None:
    old = qwen.mint(lifetime=timedelta(days=2))
    store = Own(old)
    manager = TokenManager(store=store, base_url=qwen.base_url)
    store.save_fails = Stops(TEXT)
    with pytest.raises(StoreError, match="could not be written: Stops") as caught:
        manager.refresh()
    require_plain(caught.value)
    assert manager.current() != old
    store.save_fails = None
    assert manager.info.days_remaining > 6


def test_any_error_of_a_place_for_the_session_is_a_store_error() -> None:
    store = Own(None)
    manager = TokenManager(session=Session(refresh_token="r" * 40), store=store)
    store.load_fails = Stops(TEXT)
    with pytest.raises(StoreError, match="could not be read: Stops"):
        manager.current()


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000], ids=["a null byte", "too long"])
def test_a_path_that_no_file_can_have_is_a_failure_of_the_store(path: str) -> None:
    with pytest.raises(StoreError):
        TokenManager(store=FileStore(path)).current()


@pytest.mark.parametrize("path", ["~nobody-of-this-name/token", 5], ids=repr)
def test_a_path_that_leads_nowhere_is_configuration(path: Any) -> None:
    with pytest.raises(ConfigError, match="path should be a file's"):
        FileStore(path)
