"""``refresh_token``: Qwen's sign-in host issues an access token for the credential in a cookie."""

from datetime import timedelta

from qwen_token.errors import SessionMalformedError, SessionRejectedError, forgets_locals
from qwen_token.transport import Request, send

from . import Granted, Login
from .sign_in_host import REFRESH_PATH, SignInHost


class RefreshToken:
    """Spends the session's refresh credential, which may be valid for one use only."""

    def __init__(self, host: SignInHost) -> None:
        self._host = host

    @forgets_locals
    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        """Get an access token, and the credential that replaces the spent one, if any.

        Raises:
            SessionRejectedError: the sign-in host says that the credential is dead.
            WrongAccountError: the answer is for a guest.
            UpstreamError: one of its kinds; whether the credential is alive is unknown.
            ConfigError: the host refuses the request for its headers.
        """
        credential = login.session.refresh_token
        if credential is None:
            raise SessionMalformedError("the session has no refresh credential")
        request = Request(
            self._host.base_url + REFRESH_PATH,
            headers={**self._host.headers(), "Cookie": f"refresh_token={credential}"},
            # A repeated request could be the second use of a single-use credential.
            repeatable=False,
        )
        return self._host.read(send(request, within=within), refusal=SessionRejectedError)
