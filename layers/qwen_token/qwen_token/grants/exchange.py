"""``exchange``: exchange a token for the next one, by ``GET {ApiBaseUrl}/api/v1/auths/``."""

from datetime import timedelta
from typing import Protocol

from qwen_token.errors import TokenMissingError, forgets_locals
from qwen_token.tokens import Token

from . import Granted, Login


class TokenApi(Protocol):
    """The API that tokens are for; ``QwenApi`` documents each call."""

    def refresh(self, token: Token, *, within: timedelta) -> Token: ...
    def verify(self, token: Token, *, within: timedelta) -> str: ...


class Exchange:
    """Exchanges the current token, but never an access token."""

    def __init__(self, api: TokenApi) -> None:
        self._api = api

    @forgets_locals
    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        """Exchange the login's token for its successor.

        Raises:
            TokenRejectedError: the API says that the token is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether the token is alive is unknown.
        """
        if login.token is None or login.token.is_access_token:
            raise TokenMissingError("there is no token that could be exchanged")
        return Granted(self._api.refresh(login.token, within=within))
