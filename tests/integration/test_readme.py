"""The pages' snippets for services, run as they stand against the embedded AWS and Qwen."""

import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from localcloud.aws import Cloud
from localcloud.qwen import ACCOUNT, QwenStandIn
from tests.snippets import ALL, FROM_A_SECRET, SNIPPETS, run_snippet

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


@pytest.mark.parametrize("snippet", FROM_A_SECRET, ids=["requests", "httpx", "the token itself"])
def test_a_snippet_sends_the_token_that_the_secret_holds(
    cloud: Cloud, secrets: "SecretsManagerClient", snippet: str
) -> None:
    with QwenStandIn() as qwen:
        raw = qwen.mint()
        secret_id = f"test/{uuid.uuid4()}"
        secrets.create_secret(Name=secret_id, SecretString=raw)
        if "chat.qwen.ai" in snippet:
            run_snippet(snippet, cloud, secret_id, qwen.base_url)
            assert [request.raw for request in qwen.requests] == [raw]
        else:
            snippet = f"{snippet}\nprint(headers['Authorization'])"
            assert run_snippet(snippet, cloud, secret_id, qwen.base_url) == f"Bearer {raw}\n"


@pytest.mark.parametrize(("days", "calls"), [(2, 2), (4, 0)])
def test_the_snippet_without_a_secret_refreshes_when_it_says(
    cloud: Cloud, days: int, calls: int
) -> None:
    [snippet] = [snippet for snippet in SNIPPETS if "QwenClient(" in snippet]
    with QwenStandIn() as qwen:
        raw = qwen.mint(lifetime=timedelta(days=days))
        qwen.chats[ACCOUNT] = ["Bread", "Butter"]
        assert run_snippet(snippet, cloud, "", qwen.base_url, typed=raw) == "['Bread', 'Butter']\n"

    # One that trades the token, and one that verifies the new one.
    paths = [request.path for request in qwen.requests]
    assert paths.count("/api/v1/auths/") == calls
    assert (qwen.requests[-1].raw == raw) is (calls == 0)


def test_the_snippet_with_a_manager_keeps_the_token_in_a_file(cloud: Cloud, tmp_path: Path) -> None:
    [snippet] = [snippet for snippet in SNIPPETS if "TokenManager(" in snippet]
    snippet = snippet.replace('"qwen-token"', repr(str(tmp_path / "token")))
    # It ends as soon as it has its headers: the check that it began comes to its end.
    with QwenStandIn() as qwen:
        raw = qwen.mint(lifetime=timedelta(days=2))
        for said in ("good for 7 days\n", ""):
            assert run_snippet(snippet, cloud, "", qwen.base_url, typed=raw) == said
    stored = (tmp_path / "token").read_text()
    assert [request.raw for request in qwen.requests] == [raw, stored]


def test_the_snippet_without_the_layer_returns_the_token(
    cloud: Cloud, secrets: "SecretsManagerClient", qwen: QwenStandIn
) -> None:
    [snippet] = [snippet for snippet in ALL if "qwen_token" not in snippet]
    raw, secret_id = qwen.mint(), f"test/{uuid.uuid4()}"
    secrets.create_secret(Name=secret_id, SecretString=raw)

    assert run_snippet(f"{snippet}\nprint(token())", cloud, secret_id, qwen.base_url) == f"{raw}\n"
