"""A token over redirects of requests, where a .netrc has credentials for the same host."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from qwen_token import QwenAuth
from tests.unit.auth_fakes import JSON, NEW, OLD, SOON, WELCOME, Api, Reply, Seen, Tokens, serving

BASIC = "Basic bWU6cGFzcw=="
LOGIN = "login me password pass"


@pytest.fixture(name="api")
def _api() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture(name="elsewhere")
def _elsewhere() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture(name="netrc", params=["machine 127.0.0.1", "default"], autouse=True)
def _netrc(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "netrc"
    path.write_text(f"{request.param} {LOGIN}\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


def redirects(status: int, *, to: str = "/there") -> Callable[[Seen], Reply]:
    def answer(seen: Seen) -> Reply:
        if seen.path == "/here":
            return Reply(status, {"Location": to})
        return Reply(200, JSON, WELCOME)

    return answer


def sent(api: Api) -> list[str | None]:
    return [seen.authorization for seen in api.requests]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("per_session", [False, True], ids=["a call's", "a session's"])
def test_the_token_stays_over_a_redirect_within_its_origin(
    api: Api, status: int, method: str, *, per_session: bool
) -> None:
    api.welcome = redirects(status)
    auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
    with requests.Session() as session:
        how: dict[str, Any] = {"auth": auth}
        if per_session:
            session.auth = how.pop("auth")
        body = b"question" if method == "POST" else None
        response = session.request(method, f"{api.base_url}/here", data=body, timeout=SOON, **how)

    assert (response.status_code, sent(api)) == (200, [f"Bearer {NEW}"] * 2)
    is_kept = method == "POST" and status in {307, 308}
    assert (api.requests[1].method, api.requests[1].body) == (
        ("POST", b"question") if is_kept else ("GET", b"")
    )


@pytest.mark.parametrize("trust_env", [True, False])
def test_a_header_of_the_callers_own_gives_way_to_the_token(api: Api, *, trust_env: bool) -> None:
    api.welcome = redirects(302)
    with requests.Session() as session:
        session.trust_env = trust_env
        session.auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
        session.headers["Authorization"] = "Basic YTpi"
        session.get(f"{api.base_url}/here", timeout=SOON)
    assert sent(api) == [f"Bearer {NEW}"] * 2


def test_the_token_stays_over_many_redirects(api: Api) -> None:
    def answer(seen: Seen) -> Reply:
        hop = int(seen.path[1:])
        return Reply(302, {"Location": f"/{hop + 1}"}) if hop < 5 else Reply(200, JSON, WELCOME)

    api.welcome = answer
    auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
    assert requests.get(f"{api.base_url}/0", auth=auth, timeout=SOON).status_code == 200
    assert sent(api) == [f"Bearer {NEW}"] * 6


@pytest.mark.parametrize("refused_at", ["/here", "/there"])
def test_a_token_that_is_refused_on_the_way_is_renewed(api: Api, refused_at: str) -> None:
    api.live = None

    def refusal() -> Reply:
        seen = api.requests[-1]
        if seen.raw == NEW or (seen.raw == OLD and seen.path != refused_at):
            return redirects(302)(seen)
        return Reply(401, JSON, b'{"detail": "401 Unauthorized"}')

    api.refusal = refusal
    tokens = Tokens()
    auth = QwenAuth(tokens, base_url=api.base_url)
    assert requests.get(f"{api.base_url}/here", auth=auth, timeout=SOON).status_code == 200
    assert tokens.rejected == [OLD]
    assert BASIC not in sent(api)


def test_elsewhere_the_netrc_counts_and_the_token_stays_at_home(api: Api, elsewhere: Api) -> None:
    api.welcome = redirects(302, to=f"{elsewhere.base_url}/here")
    elsewhere.refusal = lambda: Reply(302, {"Location": f"{api.base_url}/back"})
    tokens = Tokens(NEW)
    auth = QwenAuth(tokens, base_url=api.base_url)
    response = requests.get(f"{api.base_url}/here", auth=auth, timeout=SOON)

    assert response.status_code == 401
    assert sent(elsewhere) == [BASIC]
    assert sent(api) == [f"Bearer {NEW}", BASIC]
    assert tokens.rejected == []


def test_a_request_to_another_origin_is_as_without_an_auth(api: Api, elsewhere: Api) -> None:
    elsewhere.live, elsewhere.welcome = None, redirects(302)
    auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
    requests.get(f"{elsewhere.base_url}/here", auth=auth, timeout=SOON)
    assert sent(elsewhere) == [None, BASIC]


def test_a_copy_of_a_request_may_be_given_another_auth(api: Api) -> None:
    with requests.Session() as session:
        auth = QwenAuth(Tokens(NEW), base_url=api.base_url)
        request = session.prepare_request(requests.Request("GET", api.base_url, auth=auth))
        copied = request.copy()
        copied.prepare_auth(("somebody", "else"))
        session.send(request, timeout=SOON)
        session.send(copied, timeout=SOON)
    assert sent(api) == [f"Bearer {NEW}", "Basic c29tZWJvZHk6ZWxzZQ=="]
