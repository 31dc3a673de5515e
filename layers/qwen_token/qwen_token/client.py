"""The client for programs that hold a token themselves, without a stack that keeps it alive."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from .errors import ConfigError, UpstreamUnexpectedError, WrongAccountError, forgets_locals
from .grant_chain import GrantChain, Obtained, Refused
from .host_options import HostOptions
from .ledger import Ledger, UnsharedState
from .origin import BASE_URL, USER_AGENT, WEB_VERSION, Origin
from .policy import require_better
from .qwen_api import AccountInfo
from .renewal import verify_new
from .session import Session
from .stored_session import StoredSession
from .stored_token import StoredToken
from .tokens import Token, TokenInfo, decode_token

_USER_STATUS_PATH: Final = "/api/v2/users/status"
_CHATS_PATH: Final = "/api/v2/chats/?page={page}"


class QwenClient:
    """Calls the API with one token, and exchanges it for a new one on request.

    ::

        client = QwenClient(auth_token=sys.stdin.read())
        if client.decode_token().days_remaining < 3:
            save(client.refresh_token())
        for chat in client.list_chats():
            print(chat["title"])

    Nothing is written anywhere: the caller keeps the token that a refresh returns. Any number of
    threads may share one client; those that refresh at the same time get the token of one refresh.

    ``session`` is a login that gets tokens. A refresh may change its credential, and the old one
    may be dead from then on, so the caller stores ``client.session`` as well, even after an error::

        client = QwenClient(session=Session(refresh_token=load()))
        try:
            token = client.refresh_token()
        finally:
            save(client.session.refresh_token)

    No other program, and no browser, may use the same session: ``TokenManager`` shares one.
    """

    @forgets_locals
    def __init__(  # noqa: PLR0913 - each is an option of its own, by name
        self,
        auth_token: str | None = None,
        *,
        session: Session | None = None,
        base_url: str = BASE_URL,
        auth_base_url: str | None = None,
        web_version: str = WEB_VERSION,
        user_agent: str = USER_AGENT,
        timeout: timedelta = timedelta(seconds=20),
    ) -> None:
        """Take a token, in any form that ``decode_token`` reads, a session, or both.

        With a session alone, the first use gets a token. ``auth_base_url`` is the host at which
        ``session`` signs in: by default Qwen's, and empty if ``base_url`` is an Open WebUI
        server. ``web_version`` and ``user_agent`` are headers for the hosts. Each call may last
        ``timeout``.

        Raises:
            TokenMalformedError: ``auth_token`` is not a JWT with an account and an expiry.
            ConfigError: names the invalid argument, and what it should be.
        """
        if auth_token is None and (session is None or session == Session()):
            raise ConfigError("auth_token or session should be given")
        self._held = None if auth_token is None else decode_token(auth_token)
        self._origin = Origin(base_url)
        hosts = HostOptions.of(
            base_url=base_url,
            auth_base_url=auth_base_url,
            web_version=web_version,
            user_agent=user_agent,
            session=session,
        )
        self._api = hosts.api()
        self._login = None if session is None else _Login(session, hosts, timeout)
        self._timeout = timeout
        self._refreshing = threading.Lock()

    @property
    def session(self) -> Session | None:
        """The session as it is now, for the caller to store; None if there is none."""
        return None if self._login is None else self._login.stored.session

    @forgets_locals
    def decode_token(self) -> TokenInfo:
        """Return the token's claims. No signature is verified.

        This makes no call, unless the client has only a session and needs its first token.
        """
        return TokenInfo.of(self._token, now=_now())

    @forgets_locals
    def get_token_info(self) -> AccountInfo:
        """Ask the API whose token it is.

        Raises:
            TokenRejectedError: the API says that the token is dead.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamError: one of its kinds; whether the token is alive is unknown.
        """
        return self._api.session(self._token, within=self._timeout)

    @forgets_locals
    def refresh_token(self) -> str:
        """Get a new token, verify it, use it from now on, and return it.

        Without a session, the token is exchanged. With one, the client uses the refresh
        credential, else the token, else e-mail and password, at most once in 24 hours. It does not
        send what the API has refused again for an hour. After an error, the client keeps
        its old token; ``session`` may have changed nevertheless.

        Raises:
            TokenNotExtendedError: the new token expires no later than the old one.
            TokenRejectedError: the API says that the old token is dead.
            SessionRejectedError: the sign-in host says that the refresh credential is dead.
            SignInRefusedError: the password was refused, or a challenge came.
            WrongAccountError: the API answered for another account, or for a guest.
            UpstreamUnexpectedError: the API refuses the token that it has just issued.
            UpstreamError: one of its kinds; whether the old token is alive is unknown.
        """
        held = self._held
        with self._refreshing:
            if self._held is not None and self._held is not held:
                # Another thread refreshed while this one waited. A second refresh could fail,
                # because a token issued in the same second does not expire later.
                return self._held.raw
            return self._refreshed(held).raw

    @property
    def _token(self) -> Token:
        """The token; if there is none yet, the session's first one."""
        if self._held is None:
            with self._refreshing:
                if self._held is None:
                    return self._refreshed(None)
        return self._held

    def _refreshed(self, held: Token | None) -> Token:
        """Replace the token; the lock is held."""
        if self._login is None:
            assert held is not None  # noqa: S101 - the constructor asked
            successor = self._api.refresh(held, within=self._timeout)
            require_better(successor, than=held)
        else:
            successor = self._login.obtain(held)
        account = verify_new(successor, by=self._api, within=self._timeout)
        if self._login is not None:
            self._login.require(account)
        self._held = successor
        return successor

    @forgets_locals
    def get_user_status(self) -> object:
        """Return the user's status as the API reports it: true if all is well.

        The API answers the same without a token, so this proves nothing about the token.

        Raises:
            TokenRejectedError: the API says that the token is dead.
            UpstreamError: one of its kinds; whether the token is alive is unknown.
        """
        return self._api.data(_USER_STATUS_PATH, self._token, within=self._timeout)

    @forgets_locals
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

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _known: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise ConfigError(
            "a QwenClient cannot be passed to another process, as it holds its token in memory: "
            "make one there, or pass a TokenManager with a FileStore"
        )

    def __repr__(self) -> str:
        return f"QwenClient({self._origin}, token=[redacted])"


def _now() -> datetime:
    return datetime.now(UTC)


def _is_chat(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str)


class _Login:
    """The session of a client, in memory; the ``Sessions`` of its grants."""

    def __init__(self, session: Session, hosts: HostOptions, timeout: timedelta) -> None:
        self.stored = StoredSession(session, "1", "")
        self._hosts = hosts
        self._timeout = timeout
        # The record of refusals and of sign-ins.
        self._state = UnsharedState()
        # The token that was spent last; its number is its version.
        self._spent: Token | None = None
        self._number = 0

    def obtain(self, held: Token | None) -> Token:
        """Return the next token, which is not verified yet.

        Raises:
            QwenTokenError: no grant got one.
        """
        ledger = Ledger(lambda: self._state, clock=_now, time_left=lambda: timedelta.max)
        ledger.open()
        try:
            chain = GrantChain(self, self._hosts.source, ledger, lambda _calls: self._timeout)
            stored = chain.session()
            if held is not self._spent:
                self._spent, self._number = held, self._number + 1
            current = None if held is None else StoredToken(held, str(self._number), "")
            outcome = chain.without_sign_in(current, stored)
            if isinstance(outcome, Refused):
                outcome = chain.sign_in(current, stored, after=outcome)
        finally:
            ledger.close()
        if not isinstance(outcome, Obtained):
            raise outcome.error
        self.stored = outcome.stored
        return outcome.token

    def require(self, account: str) -> None:
        """Record the session's account; raise WrongAccountError if it is another one."""
        session = self.stored.session
        if session.account not in {None, account}:
            raise WrongAccountError(
                "the API sees another account behind the new token than the session belongs to"
            )
        self.stored = replace(self.stored, session=replace(session, account=account))

    def read(self) -> StoredSession:
        return self.stored

    def keep(self, session: Session, *, over: StoredSession) -> StoredSession:
        version_id = str(int(over.version_id) + 1)
        self.stored = StoredSession(session, version_id, "", by_keeper=True)
        return self.stored

    def left_behind(self, *, over: StoredSession) -> None:
        """Return None: nothing is staged in memory."""
