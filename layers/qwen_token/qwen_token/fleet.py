"""The fleet: the secrets that carry one tag, found page by page and read twenty at a time."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .errors import QwenTokenError, StoreError, TokenError, TokenMissingError, forgets_locals
from .secret_store import code_in, held_in, region_of, translated, whole
from .stored_token import StoredToken

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import (
        ListSecretsRequestTypeDef,
        SecretListEntryTypeDef,
    )

# The values of the fleet's tag: a member has ``ON`` (or any other value than these), one that is
# left alone for as long as it has it, ``OFF``, and the session secret of a member, ``SESSION``.
ON: Final = "on"
OFF: Final = "off"
SESSION: Final = "session"
# What a session secret's name ends with. No member's name does.
_SESSION_SUFFIX: Final = "/session"

# Why nobody can keep the token of a secret where it is; the second with the primary's region.
_BEING_DELETED: Final = "being_deleted"
_REPLICA_OF: Final = "replica_of:"
_REGION: Final = re.compile(r"[a-z]{2,3}(-[a-z]{2,10}){1,3}-[0-9]{1,2}")

# What Secrets Manager lists, and reads, in one call at most.
_PAGE: Final = 100
_BATCH: Final = 20

# AWS bears 50 writes of secrets a second from an account, of all kinds together. The fleet leaves
# some of them to others.
WRITES_PER_SECOND: Final = 40


def session_name(member_name: str) -> str:
    """Return the name of the session secret that belongs to the member of this name."""
    return f"{member_name}{_SESSION_SUFFIX}"


def member_name(session_name: str) -> str | None:
    """Return the name of the member that a session secret belongs to; None for another name."""
    name = session_name.removesuffix(_SESSION_SUFFIX)
    return name if name and name != session_name else None


@dataclass(frozen=True, slots=True)
class Member:
    """A secret of the fleet.

    ``obstacle`` is why no run can keep its token, where that is so, for ``obstacle_in_words``.
    """

    secret_id: str
    name: str
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some members, and what gets the next page: None on the last one."""

    members: tuple[Member, ...]
    next_token: str | None


class Fleet:
    """All secrets of this region with the tag ``tag``, whatever its value (but for ``off`` and ``session``).

    ``client`` is boto3's for Secrets Manager. Every method raises StoreError where Secrets Manager
    refuses or fails as a whole.
    """

    def __init__(self, client: "SecretsManagerClient", tag: str) -> None:
        self._client = client
        self._tag = tag

    @forgets_locals
    def page(self, after: str | None = None) -> Page:
        """Return the first page of members, or the one that ``after`` (a ``next_token``) gets."""
        request: ListSecretsRequestTypeDef = {
            "MaxResults": _PAGE,
            "Filters": [{"Key": "tag-key", "Values": [self._tag]}],
            # A member that is about to be lost is worth a word.
            "IncludePlannedDeletion": True,
        }
        if after is not None:
            request["NextToken"] = after
        with translated("list the fleet's secrets"):
            listed = self._client.list_secrets(**request)
            entries = [(entry["ARN"], entry["Name"], entry) for entry in listed["SecretList"]]
        members = tuple(
            Member(arn, name, _obstacle(entry)) for arn, name, entry in entries if self._has(entry)
        )
        return Page(members, listed.get("NextToken"))

    def pages(self) -> Iterator[Page]:
        """Yield all pages."""
        page = self.page()
        yield page
        while page.next_token is not None:
            page = self.page(page.next_token)
            yield page

    def read(
        self, members: Sequence[Member]
    ) -> Iterator[tuple[Member, StoredToken | QwenTokenError]]:
        """Yield each member with what is current in its secret, or with why that cannot be said.

        Where Secrets Manager fails for some of them as a whole, StoreError comes after the others.
        """
        failure: StoreError | None = None
        batches = [members[start : start + _BATCH] for start in range(0, len(members), _BATCH)]
        # Nearly all of it is waiting. More at once than a page has would soon meet AWS's limit of
        # 100 batches a second.
        with ThreadPoolExecutor(_PAGE // _BATCH, thread_name_prefix="read") as threads:
            readings = [threads.submit(self._read_batch, batch) for batch in batches]
            for batch, reading in zip(batches, readings, strict=True):
                try:
                    found = reading.result()
                except StoreError as error:
                    failure, found = failure or error, None
                for member in batch:
                    if member.obstacle is not None:
                        words = obstacle_in_words(member.obstacle, member.secret_id)
                        yield member, StoreError(words)
                    elif found is not None:
                        unanswered = StoreError("Secrets Manager left the secret out of its answer")
                        yield member, found.get(member.secret_id, unanswered)
        if failure is not None:
            raise failure

    def _read_batch(self, members: Sequence[Member]) -> dict[str, StoredToken | QwenTokenError]:
        secret_ids = [member.secret_id for member in members if member.obstacle is None]
        if not secret_ids:
            return {}
        with translated("read the fleet's secrets"):
            response = self._client.batch_get_secret_value(SecretIdList=secret_ids)
            refusals = {
                each["SecretId"]: code_in(each.get("ErrorCode"))
                for each in response.get("Errors", ())
            }
            values = {each["ARN"]: whole(each) for each in response.get("SecretValues", ())}
        found: dict[str, StoredToken | QwenTokenError] = {
            secret_id: _refusal(code) for secret_id, code in refusals.items()
        }
        for secret_id, value in values.items():
            try:
                found[secret_id] = held_in(value)
            except TokenError as error:
                found[secret_id] = error
        return found

    def _has(self, entry: "SecretListEntryTypeDef") -> bool:
        """Say whether a listed secret is a member: the filter finds tags that begin alike, too."""
        tags = {tag["Key"]: tag.get("Value", "") for tag in entry.get("Tags", ())}
        return self._tag in tags and tags[self._tag] not in {OFF, SESSION}


def _refusal(code: str) -> QwenTokenError:
    # It was listed a moment ago: what was not found is its value.
    if code == "ResourceNotFoundException":
        return TokenMissingError("the secret has no current value")
    return StoreError(f"Secrets Manager could not read the secret: {code}")


def _obstacle(entry: "SecretListEntryTypeDef") -> str | None:
    """Return why the token of a listed secret cannot be kept alive, by anybody, where it is."""
    if "DeletedDate" in entry:
        return _BEING_DELETED
    region = region_of(entry["ARN"])
    primary = entry.get("PrimaryRegion", region)
    return None if primary == region else f"{_REPLICA_OF}{primary}"


def obstacle_in_words(obstacle: str, secret_id: str) -> str:
    """Say why the token of a secret cannot be kept alive where it is; empty for what is no reason.

    The reasons travel through a queue: so they are names, not texts.
    """
    if obstacle == _BEING_DELETED:
        return (
            "the secret is being deleted: restore it (aws secretsmanager restore-secret), or wait "
            "until it is gone"
        )
    primary = obstacle.removeprefix(_REPLICA_OF) if obstacle.startswith(_REPLICA_OF) else ""
    if not _REGION.fullmatch(primary):
        return ""
    return (
        f"the secret is a replica of one in {primary}, and can be written there only: keep the "
        "fleet there (to leave the replica out here, use another FleetTag in "
        f"{region_of(secret_id)})"
    )
