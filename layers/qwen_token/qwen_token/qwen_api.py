"""Qwen's API: the endpoint that says whose a token is and issues the next one, and newer ones."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, Required, TypedDict, cast

from .errors import TokenMalformedError, UpstreamUnexpectedError, WrongAccountError
from .origin import authorization
from .replies import read_answer
from .tokens import Token, decode_token
from .transport import Request, send

# With the trailing slash: without it the site answers 200 with the web app's page.
_AUTHS_PATH: Final = "/api/v1/auths/"


class AccountInfo(TypedDict, total=False):
    """What the API says of an account. Only ``id`` is checked; the others are as the API has them.

    ``expires_at`` is the expiry of the token, in seconds since 1970. The API may have more keys
    than these.
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
    """Asks ``GET {base_url}/api/v1/auths/``, and the newer paths, with a token as bearer.

    Each call ends within the time that it is given, whatever the other side does.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")

    def refresh(self, token: Token, *, within: timedelta) -> Token:
        """Trade ``token`` for its successor, which is not yet to be trusted.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        try:
            return decode_token(self._session(token, within)[1])
        except TokenMalformedError as error:
            raise UpstreamUnexpectedError(f"the token in the API's answer: {error}") from error

    def verify(self, token: Token, *, within: timedelta) -> None:
        """Check that the API knows ``token`` as its own account's.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        self._session(token, within)

    def session(self, token: Token, *, within: timedelta) -> AccountInfo:
        """Return what the API says of the account behind ``token``, without the new token.

        Raises:
            TokenRejectedError: the API says that ``token`` is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether ``token`` is alive is unknown.
        """
        answer, _ = self._session(token, within)
        return cast("AccountInfo", {name: each for name, each in answer.items() if name != "token"})

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

    def _session(self, token: Token, within: timedelta) -> tuple[Mapping[str, object], str]:
        """Return what the API says of the account behind ``token``, and the token it issues."""
        answer = self._answer(_AUTHS_PATH, token, within)
        email = answer.get("email")
        if answer.get("role") == "guest" or (
            isinstance(email, str) and email.endswith("@guest.com")
        ):
            raise WrongAccountError("the API sees a guest behind this token: it is not signed in")
        account, raw = answer.get("id"), answer.get("token")
        if not (isinstance(account, str) and account and isinstance(raw, str)):
            # Other things have an id, too: only a session says whose the token is.
            raise UpstreamUnexpectedError(
                "the API's answer is no session: it has no 'id' or no 'token'"
            )
        if account != token.account:
            raise WrongAccountError("the API sees another account behind this token")
        return answer, raw

    def _answer(self, path: str, token: Token, within: timedelta) -> Mapping[str, object]:
        headers = {"Accept": "application/json", "Authorization": authorization(token.raw)}
        return read_answer(send(Request(self._base_url + path, headers=headers), within=within))
