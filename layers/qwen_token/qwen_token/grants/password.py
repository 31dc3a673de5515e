"""``password``: a sign-in with e-mail and password, at Qwen's sign-in host or at an Open WebUI."""

import hashlib
from datetime import timedelta
from typing import Final

from qwen_token.errors import SessionMalformedError, SignInRefusedError, forgets_locals
from qwen_token.qwen_api import QwenApi
from qwen_token.transport import Request, send

from . import Granted, Login
from .sign_in_host import SignInHost

_PATH: Final = "/api/v2/auths/signin"


class HostSignIn:
    """Signs in at Qwen's sign-in host, which gets the password as its SHA-256."""

    def __init__(self, host: SignInHost) -> None:
        self._host = host

    @forgets_locals
    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        """Sign in; return an access token, and the new session's refresh credential.

        Raises:
            SignInRefusedError: the password was refused, or a challenge came.
            WrongAccountError: the answer is for a guest.
            UpstreamError: one of its kinds; nothing is known of the password.
            ConfigError: the host refuses the request for its headers.
        """
        email, password = _sign_in_of(login)
        request = Request(
            self._host.base_url + _PATH,
            method="POST",
            headers=self._host.headers(),
            json={"email": email, "password": hashlib.sha256(password.encode()).hexdigest()},
            repeatable=False,
        )
        return self._host.read(send(request, within=within), refusal=SignInRefusedError)


class OpenWebUISignIn:
    """Signs in at an Open WebUI server, which gets the password in plain."""

    def __init__(self, api: QwenApi) -> None:
        self._api = api

    @forgets_locals
    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        """Sign in; return the token of the new session.

        Raises:
            SignInRefusedError: the password was refused, or a challenge came.
            WrongAccountError: the answer is for a guest.
            UpstreamError: one of its kinds; nothing is known of the password.
        """
        email, password = _sign_in_of(login)
        return Granted(self._api.sign_in(email, password, within=within))


def _sign_in_of(login: Login) -> tuple[str, str]:
    email, password = login.session.email, login.session.password
    if email is None or password is None:
        raise SessionMalformedError("the session has no e-mail and password to sign in with")
    return email, password
