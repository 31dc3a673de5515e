"""What is taken for a name, and what looks like a login in its place."""

from base64 import b64encode, urlsafe_b64encode
from binascii import hexlify
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from qwen_token import (
    ConfigError,
    FileStore,
    QwenAuth,
    SharedToken,
    TokenManager,
)
from qwen_token.names import may_be_login, require_name
from qwen_token.secret_store import SecretStore
from qwen_token.session_store import SessionStore
from tests.fake_secrets_manager import FakeSecretsManager
from tests.minting import all_said, mint, pieces

RAW = mint({"id": "4f2f4f5e-0000-4000-8000-00000000a11c", "exp": 1795521600, "jti": "a1b2c3"})


@pytest.mark.parametrize(
    "text",
    [
        RAW,
        f'"{RAW}"',
        f"  {RAW}",
        f"Bearer {RAW}",
        f"https://chat.qwen.ai/?token={RAW}",
        RAW[: len(RAW) // 2],
        RAW[1:],
        RAW[20:],
        "refresh_token=s3cret; theme=dark",
        "token: s3cret",
        "c2VjcmV0LXNlY3Jl==",
        "Authorization: s3cret",
        '{"password": "s3cret"}',
        "9f2c41d07ab3e86512cd9f0b7a3e55d1c0b9e4f7",
        "9F2C41D07AB3E86512CD9F0B7A3E55D1C0B9E4F7",
        "Zk3x9Qm7hR2vT8wL5dXy",
        "x/Zk3x9Qm7hR2vT8wL5dXy-1",
    ],
    ids=range(17),
)
def test_what_may_be_a_login_is_not_taken_for_a_name_nor_repeated(text: str) -> None:
    assert may_be_login(text)
    with pytest.raises(ConfigError, match="secret_id should be a name or an ARN") as caught:
        require_name(text, argument="secret_id")
    assert not pieces(text) - pieces("token password") & pieces(all_said(caught.value))


@pytest.mark.parametrize(
    "name",
    [
        "qwen/token",
        "qwen-token-refresh",
        "QwenTokenRefreshProduction2026",
        "MyCompanyQwenTokenDb2Prod",
        "qwen/token/4f2f4f5e-0b1d-4c7a-8d31-00b1c2d3a11c",
        "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1B2c3",
        "arn:aws:cloudformation:eu-west-1:111122223333:stack/qwen/1f0c9a52-7c1d-4a1b-9f0e-3c5b",
        "qwen-token-refresh-RefreshFunction-1A2B3C4D5E6F",
        "test/5d41402abc4b",
        "trust-a92d4a59111c0a4f-cf534a",
        "pool/5d41402abc4b2a76b9719d911017c592",
        "pool/64b7f0c2a9e81d0012f3a4b5",
        "pool/1srOrx2ZWZBpBUvZwXKQmoEYga2",
        "arn:aws:secretsmanager:eu-west-1:111122223333:secret:5d41402abc4b2a76b9719d911017c592-a1B2c3",
        "us-gov-west-1",
        "https://chat.qwen.ai",
        "internationalisation1internationalisation2",
    ],
)
def test_a_name_is_a_name(name: str) -> None:
    assert require_name(name, argument="secret_id") == name


@pytest.mark.parametrize(
    ("encode", "share"),
    [(b64encode, 1.0), (lambda raw: urlsafe_b64encode(raw).rstrip(b"="), 0.9), (hexlify, 0.97)],
    ids=["base64", "in URLs", "hex"],
)
def test_nearly_every_random_credential_is_known(
    encode: Callable[[bytes], bytes], share: float
) -> None:
    random = Random(1)  # noqa: S311 - the same ones each time
    found = [encode(random.randbytes(32)).decode() for _ in range(1000)]
    assert sum(map(may_be_login, found)) >= share * len(found)


def test_the_library_takes_no_token_for_the_name_of_a_secret_or_of_a_file() -> None:
    client: Any = FakeSecretsManager()
    for take in (
        lambda: SharedToken(RAW, client=client),
        lambda: SharedToken("qwen/token", refresh_function=RAW),
        lambda: QwenAuth.from_secret(f"Bearer {RAW}"),
        lambda: TokenManager.from_secret(RAW, client=client),
        lambda: SecretStore(client, RAW),
        lambda: SessionStore(client, f"refresh_token={RAW}"),
        lambda: FileStore(RAW),
    ):
        with pytest.raises(ConfigError, match="looks like a token") as caught:
            take()
        assert not pieces(RAW) & pieces(all_said(caught.value))
    assert client.calls == []
