"""Qwen's API: the endpoint that names a token's account and issues the next one, and newer ones."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, Required, TypedDict, cast

from .errors import (
    SignInRefusedError,
    UpstreamUnexpectedError,
    WrongAccountError,
    forgets_locals,
)
from .origin import USER_AGENT, authorization
from .replies import read_answer, require_member
from .tokens import Token, issued_token
from .transport import Request, send

# Open WebUI's own sign-in. Qwen's is on another host: see ``grants.password``.
_SIGN_IN_PATH: Final = "/api/v1/auths/signin"
# A session's document has one of these beside ``id``. A verification must not need its token.
_SESSION_KEYS: Final = ("token", "email", "role")
# With the trailing slash; without it, the site answers 200 with the web app's page.
_AUTHS_PATH: Final = "/api/v1/auths/"


class AccountInfo(TypedDict, total=False):
    """The API's data about an account. Only ``id`` is checked; the rest is as the API returns it.

    ``expires_at`` is the token's expiry, in seconds since 1970. The API may return more keys.
    """

    id: Required[str]
    email: str
    name: str
    role: str
    profile_image_url: str
    token_type: str
    expires_at: int | None
    permissions: dict[str, object]


class QwenApi:
    """Calls ``GET {base_url}/api/v1/auths/``, and the newer paths, with a token as bearer.

    Each call ends within its time limit, whatever the server does.
    """

    def __init__(self, base_url: str, *, user_agent: str = USER_AGENT) -> None:
        self._base_url = base_url.rstrip("/")
        self._user_agent = user_agent

    @forgets_locals
    def refresh(self, token: Token, *, within: timedelta) -> Token:
        """Exchange ``token`` for its successor, which is not verified yet.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        return _issued(self._session(token, within))

    @forgets_locals
    def sign_in(self, email: str, password: str, *, within: timedelta) -> Token:
        """Sign in at an Open WebUI server, and return the token of the new session.

        Raises:
            SignInRefusedError: the password was refused, or a challenge came.
            WrongAccountError: the answer is for a guest.
            UpstreamError: one of its kinds; nothing is known of the password.
        """
        request = Request(
            self._base_url + _SIGN_IN_PATH,
            method="POST",
            headers=self._headers(),
            json={"email": email, "password": password},
            repeatable=False,
        )
        answer = read_answer(send(request, within=within), refusal=SignInRefusedError)
        require_member(answer)
        return _issued(answer)

    @forgets_locals
    def verify(self, token: Token, *, within: timedelta) -> str:
        """Check that the API accepts ``token`` for the account that it names; return that account.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        return str(self._session(token, within)["id"])

    @forgets_locals
    def session(self, token: Token, *, within: timedelta) -> AccountInfo:
        """Return the API's data about the account of ``token``, without the new token.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        answer = self._session(token, within)
        return cast("AccountInfo", {name: each for name, each in answer.items() if name != "token"})

    @forgets_locals
    def data(self, path: str, token: Token, *, within: timedelta) -> object:
        """Return the ``data`` of the newer API's envelope that ``GET {base_url}{path}`` answers.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        answer = self._answer(path, token, within)
        if answer.get("success") is not True or "data" not in answer:
            raise UpstreamUnexpectedError(
                "the API's answer is no envelope: it has no 'success' or no 'data'"
            )
        return answer["data"]

    def _session(self, token: Token, within: timedelta) -> Mapping[str, object]:
        """Return the document of the account of ``token``."""
        answer = self._answer(_AUTHS_PATH, token, within)
        require_member(answer)
        account = answer.get("id")
        is_session = any(isinstance(answer.get(key), str) for key in _SESSION_KEYS)
        if not (isinstance(account, str) and account and is_session):
            # Other documents have an id, too; only a session's names the token's account.
            raise UpstreamUnexpectedError(
                "the API's answer is no session: it has no 'id', or neither 'email' nor 'role'"
            )
        if token.account not in {None, account}:
            raise WrongAccountError("the API sees another account behind this token")
        return answer

    def _answer(self, path: str, token: Token, within: timedelta) -> Mapping[str, object]:
        headers = {**self._headers(), "Authorization": authorization(token.raw)}
        return read_answer(send(Request(self._base_url + path, headers=headers), within=within))

    def _headers(self) -> dict[str, str]:
        return {"Accept": "application/json", "source": "web", "User-Agent": self._user_agent}


def _issued(answer: Mapping[str, object]) -> Token:
    """Return the token in a session's document."""
    raw = answer.get("token")
    if not isinstance(raw, str):
        raise UpstreamUnexpectedError("the API's answer is no session: it has no 'token'")
    return issued_token(raw, by="the API")
