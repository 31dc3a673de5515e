"""``put --fleet`` with a session: store it beside the member's token, and queue a run that uses it.

Like ``put_session``, this does not call the sign-in host. It does not wait for the worker, because
the owner may have thousands of logins to store.
"""

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import boto3

from qwen_token.session import Session
from qwen_token.stored_session import StoredSession

from .deployed import Stack, secrets_manager, session_for
from .failures import FAILURES, CommandFailure, failure_of
from .given_up import given_up_row
from .login_kinds import expiry_text, kind_of
from .membership import Membership, find_fleet, queue_run
from .output import FAILED, OK, complain, print_rows
from .put_session import store

if TYPE_CHECKING:
    from rich.console import Console

_WITHOUT_THE_QUEUE: Final = (
    "Nothing has to be done: the next sweep takes it up ({schedule}; make sweep has one now)."
)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is shown about a stored login; ``failure`` is why no run could be queued, if so."""

    name: str
    session_secret: str
    stored: StoredSession
    given_up: str | None
    queued: bool
    failure: CommandFailure | None


def run(session: Session, options: argparse.Namespace, console: "Console | None") -> int:
    """Store ``session`` for the member ``options.name``, and return the exit code.

    Raises:
        ConfigError: there is no fleet, or a secret with that name does not belong to the fleet.
        StoreError: the session could not be stored.
    """
    aws = session_for(options)
    stack = find_fleet(aws, options.stack)
    client = secrets_manager(aws, options.name)
    membership = Membership(stack, client)
    member = membership.reserve(options.name)
    session_secret = membership.session_secret(options.name)
    stored, given_up = store(session, session_secret, client, replace=options.replace)
    membership.admit(member)
    failure = None if options.no_check else _queued(aws, stack, member.arn, session_secret)
    queued = failure is None and not options.no_check
    after = _Stored(options.name, session_secret, stored, given_up, queued, failure)
    if console is None:
        print(json.dumps(_document(after)))
    else:
        _print(console, after, stack)
        if failure is not None:
            told = f"the login is stored, but no worker could be asked to use it: {failure.message}"
            complain(options, failure.reason, told, failure.advice)
    return OK if failure is None else FAILED


def _queued(
    aws: boto3.Session, stack: Stack, member: str, session_secret: str
) -> CommandFailure | None:
    """Queue a run for the member; return the failure, if any. The login stays stored."""
    try:
        queue_run(aws, stack, member=member, session_secret=session_secret)
    except FAILURES as error:
        advice = _WITHOUT_THE_QUEUE.format(schedule=stack.parameter("FleetSchedule"))
        return failure_of(error, {})._replace(advice=advice)
    return None


def _document(after: _Stored) -> dict[str, object]:
    expires_at = after.stored.session.expires_at
    return {
        "kind": kind_of(after.stored.session)[0],
        "secret_id": after.name,
        "session_secret_id": after.session_secret,
        "version_id": after.stored.version_id,
        "queued": after.queued,
        "session_expires_at": expires_at and expires_at.isoformat(),
        "given_up": after.given_up,
        "error": None if after.failure is None else after.failure._asdict(),
    }


def _print(console: "Console", after: _Stored, stack: Stack) -> None:
    session = after.stored.session
    rows: dict[str, object] = {
        "Member": after.name,
        "Session secret": after.session_secret,
        "Version": after.stored.version_id,
        "Kind": kind_of(session)[1],
        "Before": "whatever login was there is replaced by this one",
        **given_up_row(after.given_up),
        "Used": _use_text(after, stack),
    }
    if session.refresh_token is not None:
        rows["Session expires"] = expiry_text(session.expires_at)
    rows["Next"] = "make status ARGS=--fleet shows what became of it"
    print_rows(console, "Login stored", rows)


def _use_text(after: _Stored, stack: Stack) -> str:
    if after.queued:
        return "not yet: a worker is asked to, and does within a minute or so"
    sweep = f"the next sweep sees it ({stack.parameter('FleetSchedule')})"
    return f"not yet: {'it was only stored (--no-check); ' if after.failure is None else ''}{sweep}"
