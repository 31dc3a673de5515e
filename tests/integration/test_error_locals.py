"""What a tracker of errors records of our failures: every local variable along the traceback."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import boto3
import httpx
import pytest
import requests

from localcloud import qwen as qwens
from localcloud import sign_in_host as hosts
from localcloud.qwen import QwenStandIn
from localcloud.sign_in_host import SignInHostStandIn
from qwen_token import (
    FileStore,
    MemoryStore,
    QwenAuth,
    QwenClient,
    QwenTokenError,
    Session,
    SharedToken,
    TokenManager,
    decode_token,
)
from qwen_token.httpx_auth import QwenHttpxAuth
from qwen_token.secret_store import AWS_CONFIG, SecretStore
from qwen_token.session_store import SessionStore
from qwen_token.stored_session import recognise
from tests.minting import found_in, pieces
from tests.wire import NO_CERTIFICATES, raw, reply, wire

DAY: Final = timedelta(days=1)
EMAIL, PASSWORD = "owner@example.com", "correct horse battery staple"
SOURCES: Final = str(Path(__file__).parents[2] / "layers")


def shown(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield what each frame and each exception shows, and where; of ours and of other libraries."""
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue:
        each = queue.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield type(each).__name__, f"{each!s} {each!r} {vars(each)!r}"
        step = each.__traceback__
        while step is not None:
            code = step.tb_frame.f_code
            # The test's own frames hold what the test holds.
            if code.co_filename != __file__:
                for name, value in step.tb_frame.f_locals.items():
                    where = f"{code.co_filename}:{step.tb_lineno} {code.co_qualname} {name}"
                    yield where, repr(value)
                    if name == "self" and code.co_filename.startswith(SOURCES):
                        yield where, repr(getattr(value, "__dict__", None))
            step = step.tb_next
        queue += [other for other in (each.__cause__, each.__context__) if other is not None]


def parts(secret: str) -> set[str]:
    """Return the pieces of a secret, except the beginning that all JWTs share."""
    return pieces(secret.partition(".")[2] if secret.startswith("eyJ") else secret)


def require_silence(error: BaseException, secrets: set[str]) -> None:
    secret = set().union(*map(parts, secrets))
    assert [where for where, text in shown(error) if found_in(text, secret)] == []


@pytest.fixture(name="host")
def _host(qwen: QwenStandIn) -> Iterator[SignInHostStandIn]:
    with SignInHostStandIn(qwen) as host:
        host.set_password(EMAIL, PASSWORD)
        yield host


def secrets_of(qwen: QwenStandIn, *more: str) -> set[str]:
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    return {request.raw for request in qwen.requests if request.raw} | {*more, PASSWORD, digest}


def failure(call: Callable[[], object]) -> QwenTokenError:
    with pytest.raises(QwenTokenError) as caught:
        call()
    return caught.value


EXCHANGES: Final = [
    qwens.ECHOES,
    qwens.ISSUES_THEN_REFUSES,
    qwens.MINTS_FOR_ANOTHER_ACCOUNT,
    qwens.NAMES_ANOTHER_ACCOUNT,
    qwens.SEES_A_GUEST,
    qwens.TOKEN_DEAD,
    qwens.TOKEN_DEAD_ENVELOPE,
    qwens.RATE_LIMITED,
    qwens.BLOCK_PAGE,
    qwens.SERVER_ERROR,
    qwens.STRANGE_JSON,
    qwens.STRANGE_TOKEN,
    qwens.EMPTY_ANSWER,
    qwens.BREAKS_OFF,
    qwens.MINTS_WITHOUT_EXPIRY,
]


@pytest.mark.parametrize("scenario", EXCHANGES, ids=lambda each: each.name)
def test_an_exchange_that_fails_leaves_no_secret_in_a_frame(
    qwen: QwenStandIn, scenario: Any
) -> None:
    held = qwen.mint(lifetime=2 * DAY)
    issued: list[str] = []
    mint = qwen.mint

    def minted(*arguments: Any, **options: Any) -> str:
        issued.append(mint(*arguments, **options))
        return issued[-1]

    qwen.mint = minted  # type: ignore[method-assign]
    qwen.answer_with(scenario)
    client = QwenClient(held, base_url=qwen.base_url, timeout=timedelta(seconds=3))
    require_silence(failure(client.refresh_token), {held, *issued})

    manager = TokenManager(held, base_url=qwen.base_url)
    told: list[Exception] = []
    manager.on("expired", told.append)
    manager.on("error", told.append)
    for call in (manager.refresh, lambda: manager.renew(rejected=held)):
        require_silence(failure(call), {held, *issued})
    manager._check()
    assert told
    for error in told:
        require_silence(error, {held, *issued})

    auth = QwenAuth(manager, base_url=qwen.base_url)
    qwen.revoke()
    error = failure(lambda: requests.get(f"{qwen.base_url}/api/v2/chats/", auth=auth, timeout=9))
    require_silence(error, {held, *issued})


@pytest.mark.parametrize("scenario", [qwens.TOKEN_DEAD, qwens.BLOCK_PAGE], ids=lambda s: s.name)
def test_no_auth_leaves_the_refused_token_in_a_frame(qwen: QwenStandIn, scenario: Any) -> None:
    held = qwen.mint(lifetime=2 * DAY)
    manager = TokenManager(held, base_url=qwen.base_url)
    assert manager.token == held
    qwen.revoke()
    url = f"{qwen.base_url}/api/v2/chats/"
    auth = QwenHttpxAuth(manager, base_url=qwen.base_url)
    qwen.answer_with(qwens.TOKEN_DEAD, scenario)
    require_silence(failure(lambda: httpx.get(url, auth=auth, verify=NO_CERTIFICATES)), {held})

    async def get() -> None:
        async with httpx.AsyncClient(auth=auth, verify=NO_CERTIFICATES) as client:
            await client.get(url)

    require_silence(failure(lambda: asyncio.run(get())), {held})
    with wire(reply("401 No", b"{}", "Content-Type: application/json")) as server:
        ours = QwenAuth(manager, base_url=server.base_url)
        require_silence(
            failure(lambda: requests.get(server.base_url, auth=ours, timeout=9)), {held}
        )


@pytest.mark.parametrize(
    "scenario",
    [
        hosts.REFUSES,
        hosts.ISSUES_THEN_REFUSES,
        hosts.ANSWERS_FOR_ANOTHER_ACCOUNT,
        hosts.ANSWERS_FOR_A_GUEST,
        hosts.WITHOUT_TOKEN,
        hosts.STRANGE_TOKEN,
        hosts.BLOCK_SLIDER,
        qwens.SERVER_ERROR,
    ],
    ids=lambda each: each.name,
)
@pytest.mark.parametrize("grant", ["refresh_token", "password"])
def test_a_login_that_fails_leaves_no_secret_in_a_frame(
    host: SignInHostStandIn, scenario: Any, grant: str
) -> None:
    credential = host.log_in()
    session = (
        Session(refresh_token=credential, account=qwens.ACCOUNT)
        if grant == "refresh_token"
        else Session(email=EMAIL, password=PASSWORD, account=qwens.ACCOUNT)
    )
    host.answer_with(scenario)
    host.answer_sign_ins_with(scenario)
    hosts_of: dict[str, Any] = {"base_url": host.qwen.base_url, "auth_base_url": host.base_url}
    client = QwenClient(session=session, **hosts_of)
    errors = [failure(client.refresh_token)]
    manager = TokenManager(session=session, store=MemoryStore(), **hosts_of)
    errors.append(failure(lambda: manager.token))
    secrets = secrets_of(host.qwen, credential)
    for each in errors:
        require_silence(each, secrets)


@pytest.fixture(name="raw_token")
def _raw_token(qwen: QwenStandIn) -> str:
    return qwen.mint(lifetime=-DAY)


def test_what_is_not_a_login_is_refused_without_it_in_a_frame(
    qwen: QwenStandIn, raw_token: str, tmp_path: Path
) -> None:
    held = qwen.mint()
    spoilt = f"{held}.{held}"
    credential = "an-opaque-credential-of-a-login"
    path = tmp_path / "token"
    path.write_text(f'{{"token": "{held}"')
    full = MemoryStore(json.dumps({"token": held, "more": "x" * 65_500}))
    calls: list[Callable[[], object]] = [
        lambda: decode_token(spoilt),
        lambda: QwenClient(spoilt),
        lambda: TokenManager(spoilt),
        lambda: TokenManager(held).set_token(spoilt),
        lambda: TokenManager(held, base_url="http://example.com"),
        lambda: TokenManager.from_secret("qwen/token", spoilt),
        lambda: TokenManager(store=FileStore(path)).token,
        lambda: TokenManager(held, store=FileStore(tmp_path / "no" / "token")).token,
        lambda: TokenManager(raw_token).token,
        lambda: FileStore(path).read(),
        lambda: FileStore(path).put(decode_token(held)),
        lambda: FileStore(tmp_path / "no" / "token").put(decode_token(held)),
        lambda: full.put(decode_token(qwen.mint(lifetime=999 * DAY))),
        lambda: Session(refresh_token=f"{credential}; x"),
        lambda: Session(email="nobody", password=PASSWORD),
        lambda: Session(password=PASSWORD),
        lambda: recognise(f'{{"refresh_token": "{credential}"'),
        lambda: recognise(json.dumps({"refresh_token": [credential]})),
    ]
    for call in calls:
        require_silence(failure(call), {held, raw_token, credential, PASSWORD})


DENIED: Final = reply("400 No", b'{"__type": "AccessDeniedException", "message": "no"}')


def test_a_secret_that_fails_leaves_no_value_in_a_frame(
    qwen: QwenStandIn, raw_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    held = qwen.mint()
    credential = "an-opaque-credential-of-a-login"
    values = (
        raw_token,
        f'{{"token": "{held}"',
        f"{held}.{held}",
        f'{{"refresh_token": "{credential}"',
    )
    for value in values:
        answer = {"ARN": "a", "Name": "n", "VersionId": "v" * 36, "SecretString": value}
        body = json.dumps({**answer, "CreatedDate": datetime.now(UTC).timestamp()}).encode()
        with wire(reply("200 OK", body)) as server:
            client: Any = boto3.client(
                "secretsmanager",
                region_name="eu-west-1",
                endpoint_url=server.base_url,
                config=AWS_CONFIG,
            )
            calls: list[Callable[[], object]] = [
                SharedToken("qwen/token", client=client).current,
                lambda c=client: SharedToken("s", client=c).renew(rejected=raw_token),  # type: ignore[misc]
                lambda c=client: TokenManager.from_secret("s", client=c).token,  # type: ignore[misc]
            ]
            if value != raw_token:
                calls += [SecretStore(client, "s").read, SessionStore(client, "s").read]
            for call in calls:
                require_silence(failure(call), {held, raw_token, credential})
    # What was to be written, and was refused.
    with wire(DENIED) as server:
        client = boto3.client(
            "secretsmanager", region_name="eu-west-1", endpoint_url=server.base_url
        )
        session = Session(refresh_token=credential)
        for call in (
            lambda: SecretStore(client, "s").put(decode_token(held)),
            lambda: SecretStore(client, "s").put_first(decode_token(held)),
            lambda: SessionStore(client, "s").put(session),
        ):
            require_silence(failure(call), {held, credential})


def test_a_traceback_keeps_its_files_and_lines(qwen: QwenStandIn) -> None:
    qwen.answer_with(qwens.TOKEN_DEAD)
    error = failure(QwenClient(qwen.mint(), base_url=qwen.base_url).refresh_token)
    names = []
    step = error.__traceback__
    while step is not None:
        names.append(step.tb_frame.f_code.co_name)
        step = step.tb_next
    assert names[-1] == "read_answer"


def test_a_foreign_exception_is_let_through_and_forgets_as_well() -> None:
    class Broken:
        def current(self) -> str:
            secret = "a secret of a source that breaks"
            raise LookupError(len(secret))

        def renew(self, *, rejected: str) -> str:
            raise AssertionError

    with wire(raw(b"")) as server, pytest.raises(LookupError) as caught:
        requests.get(server.base_url, auth=QwenAuth(Broken(), base_url=server.base_url), timeout=9)
    assert all("a secret of" not in text for _, text in shown(caught.value))
