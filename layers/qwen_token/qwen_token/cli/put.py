"""``put``: recognise the login that a person gives, and store it where it belongs."""

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import boto3

from qwen_token.errors import (
    ConfigError,
    SessionDocumentError,
    SessionRejectedError,
    TokenDocumentError,
    TokenRejectedError,
    UpstreamError,
)
from qwen_token.fleet import member_name
from qwen_token.origin import BASE_URL
from qwen_token.secret_store import SecretStore
from qwen_token.stored_session import recognise
from qwen_token.tokens import Token, date, in_days

from . import put_member, put_session
from .deployed import Stack, secrets_manager, session_for
from .failures import Advice
from .given_up import given_up_row, what_is_given_up
from .membership import NOT_A_MEMBER, Membership, find_fleet
from .output import OK, console_for, print_rows, token_bar
from .readings import read_session
from .token_input import ask_for_login, ask_for_sign_in, safe_url

if TYPE_CHECKING:
    from rich.console import Console

SUMMARY: Final = "put a login in: at a hidden prompt, or on standard input (never an argument)"

_DESCRIPTION: Final = """\
Put a login in: at a hidden prompt, or on standard input (never an argument).

Whatever you can copy is recognised:
  a session   what chat.qwen.ai gives today: the value of the cookie refresh_token, a
              Cookie header, "Copy as cURL" of any request to auth.qwen.ai, a JSON list
              of cookies, or a JSON object with refresh_token, or email and password
  a token     of the older kind, which lives for days: alone, or as its cookie
  a sign-in   with --sign-in: the e-mail and the password; on standard input, two lines

A session or a sign-in goes into the stack's session secret, and replaces all of the
login that was there. It is not used from here: the deployed function does that at
once, as only one may ever spend it. A token is checked with the API, and goes into the
token secret.

With --fleet --name NAME, the login is a member's: NAME is its token secret, NAME/session
its session secret. Either is made, with the fleet's tag, if there is none; a worker of
the fleet uses the login.

Of a secret that is a JSON object, every other key stays as it was written. What cannot
be kept is refused; --replace gives it up, and says what that was.
"""

_NOT_KEPT: Final = (
    "Nothing was stored. Correct the secret's value by hand (in the AWS console: Secrets Manager, "
    '"Retrieve secret value", "Edit"), so that its other keys can stay. Or give up all that it '
    "holds besides the login: --replace (make put-token ARGS=--replace)."
)
_ADVICE: Final[Advice] = {
    TokenDocumentError: _NOT_KEPT,
    SessionDocumentError: _NOT_KEPT,
    UpstreamError: (
        "Nothing was stored. Try again, or store the token without asking the API about it "
        "(--no-check)."
    ),
}

_CHECK_TIME: Final = timedelta(seconds=30)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.set_defaults(check=_check, advice=_ADVICE)
    parser.add_argument(
        "--sign-in", action="store_true", help="ask for an e-mail and its password (hidden)"
    )
    parser.add_argument(
        "--secret-id", metavar="ARN", help="a token into this secret; no stack is needed then"
    )
    parser.add_argument(
        "--api-base-url",
        metavar="URL",
        help=f"the API to ask about a token (default: the stack's ApiBaseUrl, or {BASE_URL})",
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="store only: do not ask the API about a token, nor have a session used",
    )
    parser.add_argument(
        "--fleet",
        action="store_true",
        help="the login of a member of the fleet, which is made if there is none",
    )
    parser.add_argument("--name", metavar="NAME", help="the member's name, with --fleet")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="store the login alone, and give up whatever else is in the secret",
    )


def _check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the combination of options."""
    if options.fleet is (options.name is None):
        return "a member of the fleet is named by --fleet and --name NAME together"
    if options.fleet and options.secret_id is not None:
        return "--secret-id is not for the fleet: its secrets are named by --name NAME"
    if options.fleet and options.name.startswith("arn:"):
        # Secrets Manager would create a secret with the ARN as its name.
        return "--name is a secret's name, not its ARN"
    if options.fleet and member_name(options.name) is not None:
        return NOT_A_MEMBER
    if options.sign_in and options.secret_id is not None:
        return "--sign-in goes into a session secret, not into one that services read (--secret-id)"
    return None


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    login = ask_for_sign_in() if options.sign_in else recognise(ask_for_login())
    if isinstance(login, Token):
        return _put_token(login, options, console)
    if login.expires_at is not None and login.expires_at <= datetime.now(UTC):
        raise SessionRejectedError(f"this session expired on {date(login.expires_at)} already")
    if options.fleet:
        return put_member.run(login, options, console)
    if options.secret_id is not None:
        raise ConfigError(
            "--secret-id names a secret that services read, and they must not get a session: "
            "without --secret-id it goes into the stack's session secret"
        )
    return put_session.run(login, options, console)


def _put_token(token: Token, options: argparse.Namespace, console: "Console | None") -> int:
    now = datetime.now(UTC)
    if token.remaining(now) <= timedelta(0):
        raise TokenRejectedError(f"this token expired on {date(token.expires_at)} already")

    session = session_for(options)
    secret_id, api_base_url, stack = _target(options, session)
    api_base_url = safe_url(options.api_base_url or api_base_url)
    client = secrets_manager(session, secret_id)
    if not options.no_check:
        from qwen_token.qwen_api import QwenApi  # noqa: PLC0415 - requests is slow to import

        QwenApi(api_base_url).verify(token, within=_CHECK_TIME)

    membership = Membership(stack, client) if options.fleet and stack is not None else None
    member = None if membership is None else membership.reserve(secret_id)
    store = SecretStore(client, secret_id)
    given_up = what_is_given_up(store.current_value(), of_token=True) if options.replace else None
    held = store.put(token, replace=options.replace)
    if membership is not None and member is not None:
        membership.admit(member)
    document = {
        "kind": "token",
        "secret_id": secret_id,
        "version_id": held.version_id,
        "account": token.account,
        "expires_at": token.expires_at.isoformat(),
        "days_remaining": in_days(token.remaining(now)),
        "checked": not options.no_check,
        "given_up": given_up,
    }
    if console is None:
        print(json.dumps(document))
        return OK
    beside = None if stack is None else _session_beside(session, stack, membership, secret_id)
    print_rows(
        console,
        "Token stored",
        {
            "Secret": secret_id,
            "Version": held.version_id,
            **given_up_row(given_up),
            "Account": token.account,
            "Expires": date(token.expires_at),
            "Time left": token_bar(token, now, colour="green"),
            "Checked": "not asked" if options.no_check else "the API accepts it",
            "Next": beside or "the function replaces it before it expires (make status)",
        },
    )
    return OK


def _target(options: argparse.Namespace, session: boto3.Session) -> tuple[str, str, Stack | None]:
    """Return the secret, the API to ask, and the stack, if one is needed."""
    if options.secret_id is not None:
        return options.secret_id, BASE_URL, None
    if options.fleet:
        stack = find_fleet(session, options.stack)
        return options.name, stack.parameter("ApiBaseUrl"), stack
    stack = Stack.find(session, options.stack)
    return stack.outputs["SecretArn"], stack.parameter("ApiBaseUrl"), stack


def _session_beside(
    session: boto3.Session, stack: Stack, membership: Membership | None, name: str
) -> str | None:
    """Say what a session that is stored as well does with the token; None: there is none.

    Of the member ``name``, in whose case there is a ``membership``, the session itself is not read.
    """
    if membership is None:
        if read_session(session, stack).stored is None:
            return None
    elif membership.session_of(name) is None:
        return None
    return (
        "the session secret holds a login too, which gets the next token: it has to be of this "
        "account, or the run that needs it ends as wrong_account"
    )
