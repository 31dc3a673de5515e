"""``put``: check a token, and make it the secret's current value."""

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import Final

import boto3

from qwen_token.errors import TokenRejectedError, UpstreamError
from qwen_token.origin import BASE_URL
from qwen_token.secret_store import SecretStore
from qwen_token.tokens import decode_token, in_days

from .deployed import Stack, secrets_manager, session_for
from .failures import Advice
from .membership import find_fleet, join
from .output import OK, bar, console_for, date, print_rows
from .token_input import ask_for_token, safe_url

SUMMARY: Final = "put a token in: at a hidden prompt, or on standard input (never an argument)"

_ADVICE: Final[Advice] = {
    UpstreamError: (
        "Nothing was stored. Try again, or store the token without asking the API about it "
        "(--no-check)."
    ),
}

_CHECK_TIME: Final = timedelta(seconds=30)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(check=_check, advice=_ADVICE)
    parser.add_argument("--secret-id", metavar="ARN", help="this secret; no stack is needed then")
    parser.add_argument(
        "--api-base-url",
        metavar="URL",
        help=f"the API to ask (default: the stack's ApiBaseUrl, or {BASE_URL})",
    )
    parser.add_argument(
        "--no-check", action="store_true", help="do not ask the API about the token"
    )
    parser.add_argument(
        "--fleet", action="store_true", help="into a secret of the fleet, made if there is none"
    )
    parser.add_argument("--name", metavar="NAME", help="the secret's name, with --fleet")


def _check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the combination of options."""
    if options.fleet is (options.name is None):
        return "a member of the fleet is named by --fleet and --name NAME together"
    if options.fleet and options.secret_id is not None:
        return "--secret-id is not for the fleet: its secrets are named by --name NAME"
    if options.fleet and options.name.startswith("arn:"):
        # Secrets Manager would create a secret with the ARN as its name.
        return "--name is a secret's name, not its ARN"
    return None


def run(options: argparse.Namespace) -> int:
    console = console_for(options)
    token = decode_token(ask_for_token())
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

    if stack is None:
        held = SecretStore(client, secret_id).put(token)
    else:
        held = join(secret_id, token, stack, client)
    document = {
        "secret_id": secret_id,
        "version_id": held.version_id,
        "account": token.account,
        "expires_at": token.expires_at.isoformat(),
        "days_remaining": in_days(token.remaining(now)),
        "checked": not options.no_check,
    }
    if console is None:
        print(json.dumps(document))
        return OK
    print_rows(
        console,
        "Token stored",
        {
            "Secret": secret_id,
            "Version": held.version_id,
            "Account": token.account,
            "Expires": date(token.expires_at),
            "Time left": bar(token, now, refresh_before=timedelta(), critical_before=timedelta()),
            "Checked": "not asked" if options.no_check else "the API accepts it",
        },
    )
    return OK


def _target(options: argparse.Namespace, session: boto3.Session) -> tuple[str, str, Stack | None]:
    """Return the secret, the API to ask, and the stack whose fleet the secret is to join."""
    if options.secret_id is not None:
        return options.secret_id, BASE_URL, None
    if not options.fleet:
        stack = Stack.find(session, options.stack)
        return stack.outputs["SecretArn"], stack.parameters["ApiBaseUrl"], None
    stack = find_fleet(session, options.stack)
    return options.name, stack.parameters["ApiBaseUrl"], stack
