"""The client for programs that hold a token themselves, and have no stack to keep it alive."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from .errors import UpstreamUnexpectedError
from .keeper import verify_new
from .origin import BASE_URL, Origin
from .policy import require_better
from .qwen_api import AccountInfo, QwenApi
from .tokens import TokenInfo, decode_token

_USER_STATUS_PATH: Final = "/api/v2/users/status"
_CHATS_PATH: Final = "/api/v2/chats/?page={page}"


class QwenClient:
    """Calls the API with one token, and trades it for a new one when asked to.

    ::

        client = QwenClient(auth_token=sys.stdin.read())
        if client.decode_token().days_remaining < 3:
            save(client.refresh_token())
        for chat in client.list_chats():
            print(chat["title"])

    Nothing is written anywhere: the caller keeps the token that a refresh returns. Any number of
    threads may share one client; those that refresh at the same time get the token of one refresh.
    """

    def __init__(
        self,
        auth_token: str,
        *,
        base_url: str = BASE_URL,
        timeout: timedelta = timedelta(seconds=20),
    ) -> None:
        """Take a token, in any form that ``decode_token`` reads; each call may last ``timeout``.

        Raises:
            TokenMalformedError: ``auth_token`` is not a JWT with an account and an expiry.
            ConfigError: a token may not be sent to ``base_url``.
        """
        self._token = decode_token(auth_token)
        self._origin = Origin(base_url)
        self._api = QwenApi(base_url)
        self._timeout = timeout
        self._refreshing = threading.Lock()

    def decode_token(self) -> TokenInfo:
        """Return what the token says of itself. No call is made, and no signature verified."""
        return TokenInfo.of(self._token, now=datetime.now(UTC))

    def get_token_info(self) -> AccountInfo:
        """Ask the API whose the token is.

        Raises:
            TokenRejectedError: the API says that the token is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether the token is alive is unknown.
        """
        return self._api.session(self._token, within=self._timeout)

    def refresh_token(self) -> str:
        """Trade the token for a new one, check that one, use it from now on, and return it.

        After any error the client goes on with the token that it had.

        Raises:
            TokenNotExtendedError: the new token expires no later than the old one.
            TokenRejectedError: the API says that the old token is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamUnexpectedError: the API refuses the token that it has just issued.
            UpstreamError: one of its kinds; whether the old token is alive is unknown.
        """
        held = self._token
        with self._refreshing:
            if self._token is not held:
                # Another thread refreshed while this one waited. A second refresh could fail: a
                # token issued in the same second does not expire later.
                return self._token.raw
            successor = self._api.refresh(held, within=self._timeout)
            require_better(successor, than=held)
            verify_new(successor, by=self._api, within=self._timeout)
            self._token = successor
            return successor.raw

    def get_user_status(self) -> object:
        """Return the user's status as the API has it: true where all is well.

        The API answers the same without a token, so this proves nothing about this one.

        Raises:
            TokenRejectedError: the API says that the token is dead.
            UpstreamError: one of its kinds; whether the token is alive is unknown.
        """
        return self._api.data(_USER_STATUS_PATH, self._token, within=self._timeout)

    def list_chats(self) -> list[dict[str, Any]]:
        """Return the chats of all pages, each once: ``id``, ``title``, ``updated_at``, ….

        Times are seconds since 1970. Each page is a call of its own.

        Raises:
            TokenRejectedError: the API says that the token is dead.
            UpstreamError: one of its kinds; the pages read before are lost.
        """
        chats: dict[str, dict[str, Any]] = {}
        page = 1
        while batch := self._page_of_chats(page):
            known = len(chats)
            # A chat that moves while the pages are read may be on two of them.
            for chat in batch:
                chats.setdefault(chat["id"], chat)
            if len(chats) == known:
                raise UpstreamUnexpectedError(
                    f"page {page} of the chats has none that was not on a page before: "
                    "the API does not page as it did"
                )
            page += 1
        return list(chats.values())

    def _page_of_chats(self, page: int) -> list[dict[str, Any]]:
        path = _CHATS_PATH.format(page=page)
        data = self._api.data(path, self._token, within=self._timeout)
        if not (isinstance(data, list) and all(map(_is_chat, data))):
            raise UpstreamUnexpectedError(
                f"page {page} of the chats is no list of objects with an 'id'"
            )
        return data

    def __repr__(self) -> str:
        return f"QwenClient({self._origin}, token=[redacted])"


def _is_chat(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str)
