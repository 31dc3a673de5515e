"""Reads what AWS holds about the fleet's members, many at a time.

If a value cannot be read, the problem stands in its place, and the rest is still read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import boto3

from qwen_token.errors import QwenTokenError, SessionMalformedError, StoreError, TokenMissingError
from qwen_token.fleet import BATCH, Fleet, Member, batched, read_batch
from qwen_token.secret_store import AWS_CONFIG
from qwen_token.session_store import stored_in
from qwen_token.stored_token import StoredToken

from .deployed import Stack, client_for
from .failures import FAILURES, NotAskedError, asked
from .readings import (
    NO_STATE_TABLE,
    MemoryReading,
    SecretReading,
    SessionReading,
    memory_in,
    unread_memory,
    unread_session,
)

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# Members read before the next ones; the most table items in one call.
_PAGE: Final = 100
_ITEMS: Final = 100
# Threads: nearly all of the time is spent waiting for AWS.
_AT_ONCE: Final = 5
# Under load, DynamoDB leaves items out of its answer. This is how often the rest is requested.
_ROUNDS: Final = 5


def read_tokens(fleet: Fleet, *, now: datetime) -> Iterator[tuple[Member, SecretReading]]:
    """Yield the members with what their token secrets hold.

    Raises:
        StoreError: Secrets Manager refused or failed a whole call.
    """
    roster = fleet.roster(now=now)
    if roster.failure is not None:
        raise roster.failure
    for batch in batched(roster.members, _PAGE):
        for member, found in fleet.read(batch):
            yield member, _token_reading(member, found)


def _token_reading(member: Member, found: StoredToken | QwenTokenError) -> SecretReading:
    if isinstance(found, StoredToken):
        return SecretReading(found)
    return SecretReading(
        problem=f"{found} ({found.reason})",
        # Neither the token nor the secret is at fault: we may not read it, or cannot at the moment.
        unread=member.obstacle is None and isinstance(found, StoreError),
        awaits_first=isinstance(found, TokenMissingError),
    )


def read_sessions(
    client: "SecretsManagerClient", secret_ids: Sequence[str]
) -> dict[str, SessionReading]:
    """Return the logins in these session secrets. They contain secrets: never print them."""
    found: dict[str, SessionReading] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="login") as threads:
        for each in threads.map(lambda each: _read_batch(client, each), batched(secret_ids, BATCH)):
            found |= each
    return found


def _read_batch(
    client: "SecretsManagerClient", secret_ids: Sequence[str]
) -> dict[str, SessionReading]:
    try:
        values, refusals = read_batch(client, secret_ids, step="read the session secrets")
    except StoreError as error:
        return dict.fromkeys(secret_ids, unread_session(error, exists=True))
    return {
        secret_id: _session_reading(values.get(secret_id), refusals.get(secret_id, "no answer"))
        for secret_id in secret_ids
    }


def _session_reading(value: Mapping[str, Any] | None, refusal: str) -> SessionReading:
    if value is None:
        if refusal == "ResourceNotFoundException":
            # The secret was listed a moment ago, so what is missing is its value.
            return SessionReading(exists=True)
        forbidden = "AccessDenied" in refusal
        return SessionReading(problem=refusal, unread=True, forbidden=forbidden, exists=True)
    try:
        return SessionReading(stored_in(value), exists=True)
    except SessionMalformedError as error:
        return SessionReading(problem=f"{error} ({error.reason})", exists=True)


def read_memories(
    session: boto3.Session, stack: Stack, secret_ids: Iterable[str]
) -> dict[str, MemoryReading]:
    """Return the runs' memory for each of these token secrets."""
    asked_for = list(secret_ids)
    table = stack.outputs.get("StateTableName")
    if table is None:
        return dict.fromkeys(asked_for, NO_STATE_TABLE)
    try:
        client = client_for(session, "dynamodb", config=AWS_CONFIG)
        texts: dict[str, str | None] = dict.fromkeys(asked_for)
        for batch in batched(asked_for, _ITEMS):
            texts.update(_read_items(client, table, batch))
    except FAILURES as error:
        return dict.fromkeys(asked_for, unread_memory(error))
    return {secret_id: memory_in(text) for secret_id, text in texts.items()}


def _read_items(client: Any, table: str, secret_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each secret that has a memory, with that memory's text."""
    keys = [{"secret_id": {"S": secret_id}} for secret_id in secret_ids]
    wanted: Any = {table: {"Keys": keys, "ProjectionExpression": "secret_id, memory"}}
    for _ in range(_ROUNDS):
        with asked("DynamoDB"):
            answer = client.batch_get_item(RequestItems=wanted)
            for item in answer["Responses"].get(table, ()):
                if "memory" in item:
                    yield item["secret_id"]["S"], item["memory"]["S"]
            wanted = answer.get("UnprocessedKeys")
        if not wanted:
            return
    raise NotAskedError("DynamoDB left items out of its answers")
