"""Every way in which keeping a token alive can fail, as one tree.

::

    QwenTokenError
    ├── TokenError                  the token itself
    │   ├── TokenMissingError       token_missing
    │   ├── TokenMalformedError     token_malformed
    │   │   └── TokenDocumentError  token_malformed, of what is stored around the token
    │   ├── TokenRejectedError      token_rejected
    │   ├── TokenNotExtendedError   token_not_extended
    │   ├── TokenShortLivedError    token_short_lived
    │   └── WrongAccountError       wrong_account
    ├── SessionError                the login that the keeper gets tokens with
    │   ├── SessionMalformedError   session_malformed
    │   │   └── SessionDocumentError  session_malformed, of what is stored around the login
    │   ├── SessionRejectedError    session_rejected
    │   └── SignInRefusedError      sign_in_refused
    │       └── ChallengedError     sign_in_refused, by a challenge page
    ├── UpstreamError               the API, which says nothing about the token
    │   ├── RateLimitedError        rate_limited
    │   ├── UpstreamBlockedError    upstream_blocked
    │   ├── UpstreamUnavailableError  upstream_unavailable
    │   └── UpstreamUnexpectedError upstream_unexpected
    ├── StoreError                  store_failed
    │   └── FileStoreError          store_failed, of a token file
    └── ConfigError                 config_invalid
        ├── NetworkConfigError      config_invalid, of this process's way to the network
        └── MembershipError         config_invalid, of a secret of a fleet

A message never quotes a token, a credential or a password, nor text that came from upstream: such
text may hold one.
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
    """What a run that failed knew of the login that it keeps.

    ``version_id`` is the token secret's version that was current (None where none could be read).
    ``is_dead`` says that the API called its token dead. ``replaced`` is the version that the run
    itself replaced before it failed.
    ``login_ends_at`` is when a person is needed at the latest (None: no end is known), and
    ``session_expires_at`` when the refresh credential expires. ``is_exchanged`` says that the token
    itself is the login, and ``is_login_known`` is false where the session could not be read, which
    may go on for longer than the token. ``next_sign_in_at`` is when a sign-in is allowed again,
    where that is all that the failure waits for.

    ``token_holds_more`` and ``session_holds_more`` say of the values of the two secrets that a bare
    login in their place would lose something else, or might: they may not be known. That is no part
    of the login, so it is not compared.
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
    expiry of the token that was current when the run failed, or None where none could be read;
    ``facts`` is what a run of the keeper knew besides (None outside of one).
    """

    reason: ClassVar[str]
    advice: ClassVar[str]
    facts: RunFacts | None = None

    def __init__(self, message: str, *, expires_at: datetime | None = None) -> None:
        super().__init__(message)
        self.expires_at: Final = expires_at

    def again(self) -> Self:
        """Return the same failure, cause included, to be raised to one more caller.

        Without the traceback: that of one exception would grow each time that it is raised.
        """
        # A copy, not a call of the constructor: a subclass may take other arguments.
        twin = copy.copy(self)
        twin.__cause__ = self.__cause__
        return twin

    def with_expiry(self, expires_at: datetime | None) -> Self:
        """Return the same failure, cause and traceback included, with another ``expires_at``."""
        twin = self.again().with_traceback(self.__traceback__)
        vars(twin)["expires_at"] = expires_at
        return twin

    def of_run(self, facts: RunFacts, *, expires_at: datetime | None) -> Self:
        """Return the same failure, as of a run that knew ``facts``."""
        twin = self.with_expiry(expires_at)
        vars(twin)["facts"] = facts
        return twin


class TokenError(QwenTokenError):
    """Something is wrong with a token, and waiting does not help."""


class TokenMissingError(TokenError):
    """The secret holds no token."""

    reason = "token_missing"
    advice = "Put the first token in: log in to chat.qwen.ai, copy the token and store it."


class TokenMalformedError(TokenError):
    """The value is not a JWT with an account and an expiry."""

    reason = "token_malformed"
    advice = (
        "Put a proper token in: log in to chat.qwen.ai, copy the whole token (three parts joined "
        "by dots) and store it."
    )


class TokenDocumentError(TokenMalformedError):
    """What is stored around the token could not be kept, so nothing was written."""

    advice = (
        "Correct the stored value by hand (a secret's: in the AWS console, Secrets Manager, "
        '"Retrieve secret value", "Edit"), so that its other keys can stay.'
    )


class TokenRejectedError(TokenError):
    """The API itself says that the token is dead; for a reader, the token may also have expired."""

    reason = "token_rejected"
    advice = (
        "Log in to chat.qwen.ai again and store the new token: the old one expired or was revoked, "
        "or the password changed."
    )


class TokenNotExtendedError(TokenError):
    """The API answered with a token that expires no later than the one it was shown."""

    reason = "token_not_extended"
    advice = (
        "This server does not renew tokens this way. Add a sign-in (make put-token "
        "ARGS=--sign-in), or log in again and store a new token before this one expires."
    )


class TokenShortLivedError(TokenError):
    """The new token is better than the old one and stored, but lives less than ten minutes."""

    reason = "token_short_lived"
    advice = "Use another kind of login: a token this short may expire before the next one is got."


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
        "Put a session or a sign-in in. Accepted are: a JSON object with 'refresh_token', or with "
        "'email' and 'password'; the value of the cookie 'refresh_token' alone; a Cookie header; "
        'the browser\'s "Copy as cURL" of a request to qwen.ai; a JSON list of cookies.'
    )


class SessionDocumentError(SessionMalformedError):
    """What is stored around the login could not be kept, so nothing was written."""

    advice = TokenDocumentError.advice


class SessionRejectedError(SessionError):
    """The sign-in host itself says that the refresh credential is dead."""

    reason = "session_rejected"
    advice = (
        "Put a session or a sign-in in: log in again in a private window, copy the cookie "
        "'refresh_token', store it, and close the window without logging out."
    )


class SignInRefusedError(SessionError):
    """The password was refused, or a challenge came: it is not tried again by itself."""

    reason = "sign_in_refused"
    advice = (
        "Put a session or a sign-in in: the right e-mail and password, or the cookie "
        "'refresh_token' of a new login. Until then no further sign-in is attempted."
    )


class ChallengedError(SignInRefusedError):
    """A challenge page answered the sign-in: every other one from this address may get it, too."""


class UpstreamError(QwenTokenError):
    """The API gave no usable answer: whether the token is alive is unknown."""


class RateLimitedError(UpstreamError):
    """The API asks to be called less often.

    ``retry_after`` is the pause that it asks for, or None where it does not say.
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
    """A firewall or a challenge page answered in the API's place."""

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
    """An answer that fits nothing known: the API may have changed."""

    reason = "upstream_unexpected"
    advice = (
        "Look at the function's log: the API may have changed. Look for a newer release of this "
        "project."
    )


class StoreError(QwenTokenError):
    """The store that holds the token, as a rule Secrets Manager, refused or failed.

    ``may_pass`` is true where the store did not answer, or failed itself: a later try may succeed.
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
    """The proxy or the CA bundle that the environment names cannot be used: nothing was sent."""

    advice = "Correct the variable that the message names, in the environment of this process."


class MembershipError(ConfigError):
    """A secret of a fleet is set up in a way that nobody can keep its token alive."""

    advice = (
        "Correct what the message names: the secret's tag, its name, or the login in it. The next "
        "sweep looks again."
    )


def forgets_locals(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have what ``function`` raises hold no local variable of the calls that it passed through.

    Tokens and passwords are in those, ours and other libraries', and trackers of errors record
    them. The traceback keeps its files and lines.
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
    """Empty the frames that an exception, and those that it hangs on to, passed through.

    A frame that is still at work is left alone. Of our own errors, the exception that one took the
    place of (``from None``, or another cause) is dropped: a decoder's holds the text.
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
    """Return the failure that was remembered as ``reason`` and ``message``.

    A reason that only another release knows becomes an unexpected answer.
    """
    return _BY_REASON.get(reason, UpstreamUnexpectedError)(message)


_BY_REASON: Final[Mapping[str, type[QwenTokenError]]] = {
    kind.reason: kind
    for kind in tuple(vars().values())
    if isinstance(kind, type) and issubclass(kind, QwenTokenError) and "reason" in vars(kind)
}
