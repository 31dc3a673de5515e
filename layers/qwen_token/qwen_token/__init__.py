"""Keep a chat.qwen.ai token alive, and read it where it is needed.

Names with slow imports are imported on first use: the errors cost nothing; ``SharedToken`` imports
boto3 on its first read, ``TokenManager`` imports requests on its first refresh; ``QwenAuth`` and
``QwenClient`` import requests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .errors import (
    ConfigError,
    FileStoreError,
    QwenTokenError,
    RateLimitedError,
    SessionError,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
    StoreError,
    TokenError,
    TokenMalformedError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamBlockedError,
    UpstreamError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)

# Defined here, because neither the layer nor a checkout has the package's metadata.
__version__ = "0.1.0"

if TYPE_CHECKING:
    from .client import QwenClient
    from .manager.local_store import FileStore, MemoryStore, TokenStore
    from .manager.token_manager import TokenManager
    from .qwen_api import AccountInfo
    from .requests_auth import QwenAuth
    from .session import Session
    from .shared_token import SharedToken
    from .tokens import Token, TokenInfo, decode_token

# The module of each name that is imported on first use.
_MODULES: Final = {
    "AccountInfo": ".qwen_api",
    "FileStore": ".manager.local_store",
    "MemoryStore": ".manager.local_store",
    "QwenAuth": ".requests_auth",
    "QwenClient": ".client",
    "Session": ".session",
    "SharedToken": ".shared_token",
    "Token": ".tokens",
    "TokenInfo": ".tokens",
    "TokenManager": ".manager.token_manager",
    "TokenStore": ".manager.local_store",
    "decode_token": ".tokens",
}

__all__ = [
    "AccountInfo",
    "ConfigError",
    "FileStore",
    "FileStoreError",
    "MemoryStore",
    "QwenAuth",
    "QwenClient",
    "QwenTokenError",
    "RateLimitedError",
    "Session",
    "SessionError",
    "SessionMalformedError",
    "SessionRejectedError",
    "SharedToken",
    "SignInRefusedError",
    "StoreError",
    "Token",
    "TokenError",
    "TokenInfo",
    "TokenMalformedError",
    "TokenManager",
    "TokenMissingError",
    "TokenNotExtendedError",
    "TokenRejectedError",
    "TokenShortLivedError",
    "TokenStore",
    "UpstreamBlockedError",
    "UpstreamError",
    "UpstreamUnavailableError",
    "UpstreamUnexpectedError",
    "WrongAccountError",
    "decode_token",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
