"""Every failure of keeping a token alive, as one tree.

::

    QwenTokenError
    ├── TokenError                  the token itself
    │   ├── TokenMissingError       token_missing
    │   ├── TokenMalformedError     token_malformed
    │   │   └── TokenDocumentError  token_malformed: the value around the token
    │   ├── TokenRejectedError      token_rejected
    │   ├── TokenNotExtendedError   token_not_extended
    │   ├── TokenShortLivedError    token_short_lived
    │   └── WrongAccountError       wrong_account
    ├── SessionError                the login
    │   ├── SessionMalformedError   session_malformed
    │   │   └── SessionDocumentError  session_malformed: the value around the login
    │   ├── SessionRejectedError    session_rejected
    │   └── SignInRefusedError      sign_in_refused
    │       └── ChallengedError     sign_in_refused, by a challenge page
    ├── UpstreamError               no usable answer of the API: the token's state is unknown
    │   ├── RateLimitedError        rate_limited
    │   ├── UpstreamBlockedError    upstream_blocked
    │   ├── UpstreamUnavailableError  upstream_unavailable
    │   └── UpstreamUnexpectedError upstream_unexpected
    ├── StoreError                  store_failed
    │   └── FileStoreError          store_failed: a token file
    └── ConfigError                 config_invalid
        ├── NetworkConfigError      config_invalid: this process's proxy or CA bundle
        └── MembershipError         config_invalid: a secret of a fleet

A message never quotes a token, a credential, a password, or text from upstream, which may hold one.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import wraps
from typing import ClassVar, Final, ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a failed run knew about the login.

    ``version_id`` is the token secret's current version (None if none could be read).
    ``is_dead``: the API called its token dead. ``replaced`` is the version that the run
    itself replaced before it failed.
    ``login_ends_at`` is when a person is needed at the latest (None: no end is known), and
    ``session_expires_at`` when the refresh credential expires. ``is_exchanged``: the token
    itself is the login. ``is_login_known`` is false if the session, which may outlive the token,
    could not be read. ``next_sign_in_at`` is when a sign-in is allowed again, if the failure waits
    for nothing else.

    ``token_holds_more`` and ``session_holds_more``: overwriting the secret's value with a bare
    login would lose something else, or might. They do not describe the login, so they are not
    compared.
    """

    version_id: str | None = None
    is_dead: bool = False
    replaced: str | None = None
    login_ends_at: datetime | None = None
    session_expires_at: datetime | None = None
    is_exchanged: bool = False
    is_login_known: bool = True
    next_sign_in_at: datetime | None = None
    token_holds_more: bool = field(default=True, compare=False)
    session_holds_more: bool = field(default=True, compare=False)


class QwenTokenError(Exception):
    """The root: catch this one to catch them all.

    ``reason`` is a stable identifier, ``advice`` tells the owner what to do. ``expires_at`` is the
    expiry of the token that was current when the run failed, or None if none could be read.
    ``facts`` is what else a run of the keeper knew (None outside a run).
    """

    reason: ClassVar[str]
    advice: ClassVar[str]
    facts: RunFacts | None = None

    def __init__(self, message: str, *, expires_at: datetime | None = None) -> None:
        super().__init__(message)
        self.expires_at: Final = expires_at

    def again(self) -> Self:
        """Return a copy, cause included, to raise to one more caller.

        It has no traceback: that of a single exception would grow each time it is raised.
        """
        # Copied, not constructed: a subclass may take other arguments.
        twin = copy.copy(self)
        twin.__cause__ = self.__cause__
        return twin

    def with_expiry(self, expires_at: datetime | None) -> Self:
        """Return a copy, cause and traceback included, with another ``expires_at``."""
        twin = self.again().with_traceback(self.__traceback__)
        vars(twin)["expires_at"] = expires_at
        return twin

    def of_run(self, facts: RunFacts, *, expires_at: datetime | None) -> Self:
        """Return a copy with the ``facts`` of a run."""
        twin = self.with_expiry(expires_at)
        vars(twin)["facts"] = facts
        return twin


class TokenError(QwenTokenError):
    """Something is wrong with the token, and waiting does not help."""


class TokenMissingError(TokenError):
    """The secret holds no token."""

    reason = "token_missing"
    advice = "Put in the first token: log in to chat.qwen.ai, copy the token and store it."


class TokenMalformedError(TokenError):
    """The value is not a JWT with an account and an expiry."""

    reason = "token_malformed"
    advice = (
        "Put in a valid token: log in to chat.qwen.ai, copy the whole token (three parts joined "
        "by dots) and store it."
    )


class TokenDocumentError(TokenMalformedError):
    """The value around the token cannot be kept, so nothing was written."""

    advice = (
        "Correct the stored value by hand (a secret's: in the AWS console, Secrets Manager, "
        '"Retrieve secret value", "Edit"), so that its other keys can stay.'
    )


class TokenRejectedError(TokenError):
    """The API itself says that the token is dead. For a reader: or the token has expired."""

    reason = "token_rejected"
    advice = (
        "Log in to chat.qwen.ai again and store the new token: the old one expired or was revoked, "
        "or the password changed."
    )


class TokenNotExtendedError(TokenError):
    """The API answered with a token that expires no later than the old one."""

    reason = "token_not_extended"
    advice = (
        "This server does not renew tokens this way. Add a sign-in (make put-token "
        "ARGS=--sign-in), or log in again and store a new token before this one expires."
    )


class TokenShortLivedError(TokenError):
    """The new token is better and was stored, but lives less than ten minutes."""

    reason = "token_short_lived"
    advice = "Use another kind of login: a token this short may expire before the next one arrives."


class WrongAccountError(TokenError):
    """The API answered for another account, or for a guest."""

    reason = "wrong_account"
    advice = "Log in to chat.qwen.ai with the right account and store its token."


class SessionError(QwenTokenError):
    """Something is wrong with the login that the keeper gets tokens with."""


class SessionMalformedError(SessionError):
    """The value holds no login that can be read."""

    reason = "session_malformed"
    advice = (
        "Put in a session or a sign-in. Accepted are: a JSON object with 'refresh_token', or with "
        "'email' and 'password'; the value of the cookie 'refresh_token' alone; a Cookie header; "
        'the browser\'s "Copy as cURL" of a request to qwen.ai; a JSON list of cookies.'
    )


class SessionDocumentError(SessionMalformedError):
    """The value around the login cannot be kept, so nothing was written."""

    advice = TokenDocumentError.advice


class SessionRejectedError(SessionError):
    """The sign-in host itself says that the refresh credential is dead."""

    reason = "session_rejected"
    advice = (
        "Put in a session or a sign-in: log in again in a private window, copy the cookie "
        "'refresh_token', store it, and close the window without logging out."
    )


class SignInRefusedError(SessionError):
    """The password was refused, or a challenge came. The keeper does not try again by itself."""

    reason = "sign_in_refused"
    advice = (
        "Put in a session or a sign-in: the right e-mail and password, or the cookie "
        "'refresh_token' of a new login. Until then no further sign-in is attempted."
    )


class ChallengedError(SignInRefusedError):
    """A challenge page answered the sign-in: every other one from this address may get it, too."""


class UpstreamError(QwenTokenError):
    """The API gave no usable answer, so it is unknown whether the token is alive."""


class RateLimitedError(UpstreamError):
    """The API asks to be called less often.

    ``retry_after`` is the pause that it names, or None.
    """

    reason = "rate_limited"
    advice = "Nothing while time is left: the next run tries again."

    def __init__(
        self,
        message: str,
        *,
        retry_after: timedelta | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        super().__init__(message, expires_at=expires_at)
        self.retry_after: Final = retry_after


class UpstreamBlockedError(UpstreamError):
    """A firewall or a challenge page answered instead of the API."""

    reason = "upstream_blocked"
    advice = (
        "Nothing while time is left: the next run tries again. If it goes on, check where the "
        "function's traffic leaves from (egress): the site blocks that address."
    )


class UpstreamUnavailableError(UpstreamError):
    """The API did not answer, or its server failed."""

    reason = "upstream_unavailable"
    advice = "Nothing while time is left: the next run tries again."


class UpstreamUnexpectedError(UpstreamError):
    """An answer of an unknown kind: the API may have changed."""

    reason = "upstream_unexpected"
    advice = (
        "Look at the function's log: the API may have changed. Look for a newer release of this "
        "project."
    )


class StoreError(QwenTokenError):
    """The store that holds the token, usually Secrets Manager, refused or failed.

    ``may_pass`` is true if the store did not answer or failed itself: a later try may succeed.
    """

    reason = "store_failed"
    advice = (
        "Check that the secret exists in this region, that the role may use it (a service reads it "
        "by the stack's ReaderPolicyArn), the network path, and the AWS status page."
    )

    def __init__(
        self, message: str, *, may_pass: bool = False, expires_at: datetime | None = None
    ) -> None:
        super().__init__(message, expires_at=expires_at)
        self.may_pass: Final = may_pass


class FileStoreError(StoreError):
    """A token file could not be read or written."""

    advice = (
        "Name a regular file, not a link, in a directory that this process may write in and other "
        "users may not, on a disk with room left."
    )


class ConfigError(QwenTokenError):
    """The environment, the event or an argument is invalid."""

    reason = "config_invalid"
    advice = (
        "Fix what the message names, and try again (the refresh function: run it once by hand)."
    )


class NetworkConfigError(ConfigError):
    """The environment names a proxy or a CA bundle that cannot be used; nothing was sent."""

    advice = "Correct the variable that the message names, in the environment of this process."


class MembershipError(ConfigError):
    """A secret of a fleet is set up in a way that nobody can keep its token alive."""

    advice = (
        "Correct what the message names: the secret's tag, its name, or the login in it. The next "
        "sweep looks again."
    )


def forgets_locals(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate ``function`` to clear the local variables in the traceback of what it raises.

    They hold tokens and passwords, in our frames and those of other libraries, and error trackers
    record them. The traceback keeps its files and lines.
    """

    @wraps(function)
    def forgetful(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            forget_locals(error)
            raise

    return forgetful


def forget_locals(error: BaseException) -> None:
    """Clear the frames in the tracebacks of an exception, its causes and its contexts.

    A frame that is still running is left alone. From our own errors, a suppressed context
    (``from None``, or another cause) is dropped: a decoder's exception holds the text.
    """
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue:
        each = queue.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        step = each.__traceback__
        while step is not None:
            with suppress(RuntimeError):
                step.tb_frame.clear()
            step = step.tb_next
        if isinstance(each, QwenTokenError) and each.__suppress_context__:
            each.__context__ = None
        queue += [other for other in (each.__cause__, each.__context__) if other is not None]


def error_of(reason: str, message: str) -> QwenTokenError:
    """Return the failure that was recorded as ``reason`` and ``message``.

    A reason of another release becomes an UpstreamUnexpectedError.
    """
    return _BY_REASON.get(reason, UpstreamUnexpectedError)(message)


_BY_REASON: Final[Mapping[str, type[QwenTokenError]]] = {
    kind.reason: kind
    for kind in tuple(vars().values())
    if isinstance(kind, type) and issubclass(kind, QwenTokenError) and "reason" in vars(kind)
}
