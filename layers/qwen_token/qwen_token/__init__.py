"""Keep a chat.qwen.ai token alive, and read it where it is needed."""

from .errors import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
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
from .tokens import Token, decode_token

__all__ = [
    "ConfigError",
    "QwenTokenError",
    "RateLimitedError",
    "StoreError",
    "Token",
    "TokenError",
    "TokenMalformedError",
    "TokenMissingError",
    "TokenNotExtendedError",
    "TokenRejectedError",
    "TokenShortLivedError",
    "UpstreamBlockedError",
    "UpstreamError",
    "UpstreamUnavailableError",
    "UpstreamUnexpectedError",
    "WrongAccountError",
    "decode_token",
]
