"""``smoke``: read the token, refresh it, use the new one, and show which steps passed."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from qwen_token.errors import (
    StoreError,
    TokenMissingError,
    TokenNotExtendedError,
    UpstreamBlockedError,
    UpstreamError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
)
from qwen_token.origin import BASE_URL
from qwen_token.run_report import Outcome
from qwen_token.secret_store import SecretStore
from qwen_token.stored_token import StoredToken
from qwen_token.tokens import TokenInfo, date, decode_token, instant

from .deployed import Stack, run_function, secrets_manager, session_for
from .failures import FAILURES, Advice, CommandFailure, failure_of
from .outcomes import in_words
from .output import ATTENTION, FAILED, OK, Markup, complain, console_for, mark, print_rows
from .token_input import ask_for_token, safe_url

if TYPE_CHECKING:
    import boto3
    from rich.console import Console

    from qwen_token.client import QwenClient

SUMMARY: Final = "check it all: read the token, refresh it, use the new one"

_DESCRIPTION: Final = """\
Check it all, in three steps: read the token; refresh it; with the new one, ask for
the user's status and count the chats (no title is shown).

The token is that of the deployed stack's secret. The stack's own function refreshes
it, as on its schedule, with whatever login it has: the new token is in the secret then,
and a failure alerts. A token younger than ten minutes is only checked.

With --stdin it is a token of yours, and AWS is not asked. What it is traded for is
used in the last step and then thrown away, never shown; the token given stays valid,
on all servers known.
"""


class _AnotherVersionError(StoreError):
    """The secret's current version is not the one that the run left there."""


class _AnotherRunError(StoreError):
    """Another run holds the lease."""


class _NotRefreshedError(UpstreamUnavailableError):
    """The run did not fail, but it neither replaced the token nor found that it is alive."""


_ADVICE: Final[Advice] = {
    UpstreamError: "Try again: whether the token is alive is not known.",
    UpstreamBlockedError: (
        "The site turns away where this machine's traffic comes from: try from another network. "
        "It says nothing about the token."
    ),
    UpstreamUnexpectedError: "The API may have changed: look for a newer release of this project.",
    _AnotherVersionError: "Try again: somebody else wrote to the secret, or AWS shows it late.",
    _AnotherRunError: "Try again in a minute.",
    _NotRefreshedError: "Try again in a minute: make status says what the runs met.",
}

_LABELS: Final = {
    "account": "Account",
    "outcome": "Outcome",
    "grant": "Got by",
    "version_id": "Version",
    "issued_at": "Issued",
    "expires_at": "Expires",
    "days_remaining": "Days left",
    "kept": "New token",
    "user_status": "User status",
    "chats": "Chats",
    "newest_chat_at": "Newest chat",
}


# A forced run that ends like this left a token that the API accepts.
_ENDS_WELL: Final = {Outcome.REFRESHED, Outcome.SUPERSEDED, Outcome.CHECKED}

_NOT_SAID: Final = {
    "account": "the token does not say",
    "issued_at": "not said",
    "kept": "none: the one in the secret is younger than ten minutes, so it was only checked",
    "user_status": "neither true nor false",
}
_KEPT: Final = "in the secret"
_THROWN_AWAY: Final = "thrown away after step 3; the one given stays valid, on all servers known"


@dataclass
class _Step:
    """One step; ``passed`` is None until it was tried. Its findings stay if it fails."""

    name: str
    title: str
    passed: bool | None = None
    found: dict[str, Any] = field(default_factory=dict)


class _Source(Protocol):
    """The token's source, and how it is refreshed."""

    def title(self) -> str: ...

    def read(self) -> "QwenClient": ...

    def refresh(self, client: "QwenClient") -> "tuple[QwenClient, dict[str, Any]]":
        """Return the client with the new token, and the refresh's result in words."""
        ...


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.set_defaults(check=_check)
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="with a token of yours, at a hidden prompt or on standard input: AWS is not asked",
    )
    parser.add_argument(
        "--api-base-url", metavar="URL", help=f"the API to ask, with --stdin (default: {BASE_URL})"
    )


def _check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the combination of options."""
    if options.api_base_url is not None and not options.stdin:
        return "--api-base-url goes with --stdin: the stack names its own API"
    return None


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    source = _Given.ask(options) if options.stdin else _Secret.find(options)
    steps = (
        _Step("token", "Read the token"),
        _Step("refresh", "Refresh it"),
        _Step("use", "Use the new one"),
    )
    if console is not None:
        print_rows(console, source.title(), {})

    failure = None
    taken = _take(source, *steps)
    for number, step in enumerate(steps, 1):
        if failure is None:
            try:
                next(taken)
                step.passed = True
            except FAILURES as error:
                step.passed = False
                failure = failure_of(error, _ADVICE)
        if console is not None:
            _print_step(console, number, step)

    if console is None:
        print(json.dumps(_document(steps, failure), default=datetime.isoformat))
    elif failure is not None:
        failed = next(number for number, step in enumerate(steps, 1) if step.passed is False)
        complain(options, failure.reason, f"step {failed}: {failure.message}", failure.advice)
    if failure is None:
        return OK
    return ATTENTION if failure.reason == TokenMissingError.reason else FAILED


def _take(source: _Source, token: _Step, refresh: _Step, use: _Step) -> Iterator[None]:
    """Take the steps in order; each yield ends one."""
    client = source.read()
    told = client.decode_token()
    token.found |= {"account": told.user_id, "issued_at": told.issued_at, **_life(told)}
    yield
    client, refresh.found = source.refresh(client)
    refresh.found |= _life(client.decode_token())
    yield
    status = client.get_user_status()
    # Any other text is not shown, because it may hold anything.
    use.found["user_status"] = status if isinstance(status, bool) else None
    chats = client.list_chats()
    changes = [at for chat in chats if (at := instant(chat.get("updated_at")))]
    use.found |= {"chats": len(chats), "newest_chat_at": max(changes, default=None)}
    yield


def _life(told: TokenInfo) -> dict[str, object]:
    return {"expires_at": told.expires_at, "days_remaining": round(told.days_remaining, 2)}


@dataclass(frozen=True)
class _Secret:
    """The deployed stack's secret, refreshed by the function.

    A refresh from here could end the stored token, if the API retires tokens.
    """

    session: "boto3.Session"
    stack: Stack
    store: SecretStore

    @classmethod
    def find(cls, options: argparse.Namespace) -> "_Secret":
        session = session_for(options)
        stack = Stack.find(session, options.stack)
        secret_id = stack.outputs["SecretArn"]
        return cls(session, stack, SecretStore(secrets_manager(session, secret_id), secret_id))

    def title(self) -> str:
        return f"Smoke test of the stack {self.stack.name}"

    def read(self) -> "QwenClient":
        return self._client(self._current())

    def refresh(self, _client: "QwenClient") -> "tuple[QwenClient, dict[str, Any]]":
        result = run_function(
            self.session, self.stack.outputs["RefreshFunctionName"], {"force": True}
        )
        outcome = result["outcome"]
        if outcome == Outcome.LEASED:
            raise _AnotherRunError("another run is at work on this secret")
        if outcome not in _ENDS_WELL:
            raise _NotRefreshedError(f"the run ended as {outcome}: {in_words(outcome, force=True)}")
        held = self._current()
        if held.version_id != result.get("version_id"):
            raise _AnotherVersionError(
                f"the run left the version {result.get('version_id')} as the secret's current one, "
                f"but now that is {held.version_id}"
            )
        found = {
            "outcome": outcome,
            "grant": result.get("grant"),
            "version_id": held.version_id,
            "kept": None if outcome == Outcome.CHECKED else True,
        }
        return self._client(held), found

    def _current(self) -> StoredToken:
        held = self.store.read()
        if held is None:
            raise TokenMissingError("the secret has no token yet")
        return held

    def _client(self, held: StoredToken) -> "QwenClient":
        return _client_with(held.token.raw, self.stack.parameter("ApiBaseUrl"))


@dataclass(frozen=True)
class _Given:
    """A token that a person typed in, refreshed from here."""

    text: str = field(repr=False)
    api_base_url: str

    @classmethod
    def ask(cls, options: argparse.Namespace) -> "_Given":
        api_base_url = safe_url(options.api_base_url or BASE_URL)
        return cls(ask_for_token(), api_base_url)

    def title(self) -> str:
        return f"Smoke test of the token given, at {self.api_base_url}"

    def read(self) -> "QwenClient":
        return _client_with(self.text, self.api_base_url)

    def refresh(self, client: "QwenClient") -> "tuple[QwenClient, dict[str, Any]]":
        if decode_token(self.text).is_access_token:
            raise TokenNotExtendedError(
                "this is an access token, which lives for minutes and cannot be renewed by itself"
            )
        client.refresh_token()
        return client, {"kept": False}


def _client_with(text: str, api_base_url: str) -> "QwenClient":
    from qwen_token.client import QwenClient  # noqa: PLC0415 - requests is slow to import

    return QwenClient(text, base_url=api_base_url)


def _print_step(console: "Console", number: int, step: _Step) -> None:
    title = f"{mark(passed=step.passed)} {number}. {step.title}"
    if step.passed is None:
        title += ": not tried"
    rows = {_LABELS[name]: _shown(name, value) for name, value in step.found.items()}
    print_rows(console, Markup(title), rows)


def _shown(name: str, value: object) -> object:
    if value is None:
        return _NOT_SAID.get(name)
    if name == "kept":
        return _KEPT if value else _THROWN_AWAY
    if isinstance(value, datetime):
        return date(value)
    return str(value).lower() if isinstance(value, bool) else value


def _document(steps: tuple[_Step, ...], failure: CommandFailure | None) -> dict[str, object]:
    results = {True: "passed", False: "failed", None: "not_tried"}
    return {
        "steps": [
            {"name": step.name, "result": results[step.passed], **step.found} for step in steps
        ],
        "error": None if failure is None else failure._asdict(),
    }
