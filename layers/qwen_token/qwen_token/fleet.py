"""The fleet: all secrets with one tag, listed page by page and read twenty at a time."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, TypeVar

from .errors import (
    MembershipError,
    QwenTokenError,
    StoreError,
    TokenError,
    TokenMissingError,
    forgets_locals,
)
from .secret_store import code_in, held_in, region_of, translated, whole
from .stored_token import StoredToken

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import (
        ListSecretsRequestTypeDef,
        SecretListEntryTypeDef,
        SecretValueEntryTypeDef,
    )

# The values of the fleet's tag: ``ON`` (or any value but the other two) marks a member, ``OFF`` a
# secret that is left alone, and ``SESSION`` the session secret of a member.
ON: Final = "on"
OFF: Final = "off"
SESSION: Final = "session"
# A value that differs from one of these by a letter or two does not mark a member: treating a
# mistyped session secret as a token secret would show the login to whoever reads tokens.
_NOT_A_MEMBERS: Final = (OFF, SESSION)
_ALIKE: Final = 0.8
# The end of every session secret's name, and of no member's.
_SESSION_SUFFIX: Final = "/session"

# Why a secret's token cannot be kept alive here. The replica's obstacle ends with the primary's
# region.
_BEING_DELETED: Final = "being_deleted"
_REPLICA_OF: Final = "replica_of:"
# What is wrong with the fleet's tag on a secret, or with its name.
_UNKNOWN_TAG: Final = "unknown_tag"
_NAME_OF_A_SESSION: Final = "name_of_a_session"
_NO_MEMBER: Final = "no_member"
# Lists of secrets lag: a session secret younger than this may have a member that is not listed yet.
_LISTED_WITHIN: Final = timedelta(minutes=15)
_REGION: Final = re.compile(r"[a-z]{2,3}(-[a-z]{2,10}){1,3}-[0-9]{1,2}")

# The most secrets that Secrets Manager lists, and reads, in one call.
_PAGE: Final = 100
BATCH: Final = 20

# AWS allows an account 50 writes of secrets a second, of all kinds together. The fleet leaves some
# of them to others.
WRITES_PER_SECOND: Final = 40

_Each = TypeVar("_Each")


def session_name(member_name: str) -> str:
    """Return the name of this member's session secret."""
    return f"{member_name}{_SESSION_SUFFIX}"


def member_name(session_name: str) -> str | None:
    """Return the member's name for a session secret's name, or None for any other name."""
    name = session_name.removesuffix(_SESSION_SUFFIX)
    return name if name and name != session_name else None


@dataclass(frozen=True, slots=True)
class Member:
    """A secret of the fleet; ``session_id`` is the ARN of its session secret, if it has one.

    ``obstacle`` is the reason, if any, why no run can keep its token (see ``obstacle_error``).
    """

    secret_id: str
    name: str
    obstacle: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class SessionSecret:
    """A member's session secret, from the list of secrets."""

    secret_id: str
    name: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some members and session secrets, and the token for the next page (None on the last one).

    ``paused`` are the names of the secrets that are left alone.
    """

    members: tuple[Member, ...]
    next_token: str | None
    sessions: tuple[SessionSecret, ...] = ()
    paused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Roster:
    """The whole fleet: each member with its session secret, in the order of their ARNs.

    A session secret without a member is listed as a member with that obstacle. ``failure`` is why
    the list is incomplete, if it is; then no session secret is reported as one without a member.
    """

    members: tuple[Member, ...]
    failure: StoreError | None = None


class Fleet:
    """All secrets of this region with the tag ``tag``, whatever its value.

    Secrets with ``off`` are left alone; those with ``session`` are the members' session secrets.
    ``client`` is boto3's for Secrets Manager. Every method raises StoreError if Secrets Manager
    refuses or fails a whole call.
    """

    def __init__(self, client: "SecretsManagerClient", tag: str) -> None:
        self._client = client
        self._tag = tag

    @forgets_locals
    def page(self, after: str | None = None) -> Page:
        """Return the first page of members, or the page after the ``next_token`` ``after``."""
        request: ListSecretsRequestTypeDef = {
            "MaxResults": _PAGE,
            "Filters": [{"Key": "tag-key", "Values": [self._tag]}],
            # Include members that are being deleted, so that they are reported.
            "IncludePlannedDeletion": True,
        }
        if after is not None:
            request["NextToken"] = after
        with translated("list the fleet's secrets"):
            listed = self._client.list_secrets(**request)
            entries = [(entry["ARN"], entry["Name"], entry) for entry in listed["SecretList"]]
            tagged = [
                (*each, tag) for each in entries if (tag := self._tag_of(each[2])) is not None
            ]
        return Page(
            members=tuple(
                Member(arn, name, _obstacle(entry, name, tag))
                for arn, name, entry, tag in tagged
                if tag not in _NOT_A_MEMBERS
            ),
            next_token=listed.get("NextToken"),
            sessions=tuple(
                SessionSecret(arn, name, entry.get("CreatedDate"))
                for arn, name, entry, tag in tagged
                if tag == SESSION and "DeletedDate" not in entry
            ),
            paused=tuple(name for _, name, _, tag in tagged if tag == OFF),
        )

    def pages(self) -> Iterator[Page]:
        """Yield all pages of members."""
        page = self.page()
        yield page
        while page.next_token is not None:
            page = self.page(page.next_token)
            yield page

    def roster(self, *, now: datetime) -> Roster:
        """Return all members with their sessions; if listing fails, those listed until then."""
        members: list[Member] = []
        sessions: dict[str, SessionSecret] = {}
        paused: set[str] = set()
        failure: StoreError | None = None
        try:
            for page in self.pages():
                members += page.members
                sessions |= {each.name: each for each in page.sessions}
                paused |= set(page.paused)
        except StoreError as error:
            failure = error
        paired = []
        for member in members:
            session = sessions.pop(session_name(member.name), None)
            session_id = None if session is None else session.secret_id
            paired.append(replace(member, session_id=session_id))
        if failure is None:
            paired += [
                Member(each.secret_id, each.name, _NO_MEMBER)
                for each in sessions.values()
                if member_name(each.name) not in paused and _is_listed_for_long(each, now)
            ]
        return Roster(tuple(sorted(paired, key=lambda member: member.secret_id)), failure)

    def read(
        self, members: Sequence[Member]
    ) -> Iterator[tuple[Member, StoredToken | QwenTokenError]]:
        """Yield each member with the token in its secret, or with the error of reading it.

        Members whose whole batch fails are left out, and StoreError is raised at the end.
        """
        failure: StoreError | None = None
        batches = list(batched(members, BATCH))
        # Threads, because nearly all of the time is spent waiting. With more than a page's worth of
        # batches at once, the calls would soon exceed AWS's limit of 100 batches a second.
        with ThreadPoolExecutor(_PAGE // BATCH, thread_name_prefix="read") as threads:
            readings = [threads.submit(self._read_batch, batch) for batch in batches]
            for batch, reading in zip(batches, readings, strict=True):
                try:
                    found = reading.result()
                except StoreError as error:
                    failure, found = failure or error, None
                for member in batch:
                    if member.obstacle is not None:
                        yield member, obstacle_error(member.obstacle, member.secret_id)
                    elif found is not None:
                        unanswered = StoreError("Secrets Manager left the secret out of its answer")
                        yield member, found.get(member.secret_id, unanswered)
        if failure is not None:
            raise failure

    def _read_batch(self, members: Sequence[Member]) -> dict[str, StoredToken | QwenTokenError]:
        secret_ids = [member.secret_id for member in members if member.obstacle is None]
        if not secret_ids:
            return {}
        values, refusals = read_batch(self._client, secret_ids, step="read the fleet's secrets")
        found: dict[str, StoredToken | QwenTokenError] = {
            secret_id: _refusal(code) for secret_id, code in refusals.items()
        }
        for secret_id, value in values.items():
            try:
                found[secret_id] = held_in(value)
            except TokenError as error:
                found[secret_id] = error
        return found

    def _tag_of(self, entry: "SecretListEntryTypeDef") -> str | None:
        """Return the tag's value, or None: AWS's filter also finds keys that begin with the tag."""
        tags = {tag["Key"]: tag.get("Value", "") for tag in entry.get("Tags", ())}
        return tags.get(self._tag)


def batched(all_of_them: Sequence[_Each], size: int) -> Iterator[Sequence[_Each]]:
    """Yield all of them in batches of at most ``size``. (Python 3.11 has no itertools.batched.)"""
    return (all_of_them[start : start + size] for start in range(0, len(all_of_them), size))


def read_batch(
    client: "SecretsManagerClient", secret_ids: Sequence[str], *, step: str
) -> "tuple[dict[str, SecretValueEntryTypeDef], dict[str, str]]":
    """Read at most ``BATCH`` secrets; return by ARN the values, and AWS's codes for the others.

    Raises:
        StoreError: Secrets Manager refused or failed the whole call.
    """
    with translated(step):
        answer = client.batch_get_secret_value(SecretIdList=list(secret_ids))
        refusals = {
            each["SecretId"]: code_in(each.get("ErrorCode")) for each in answer.get("Errors", ())
        }
        values = {each["ARN"]: whole(each) for each in answer.get("SecretValues", ())}
    return values, refusals


def _refusal(code: str) -> QwenTokenError:
    # The secret was listed a moment ago, so what is missing is its value.
    if code == "ResourceNotFoundException":
        return TokenMissingError("the secret has no current value")
    return StoreError(f"Secrets Manager could not read the secret: {code}")


_KNOWN_TAGS: Final = (
    f"known are {ON!r} (a member), {OFF!r} (left alone) and {SESSION!r} (a member's session)"
)
_OBSTACLES: Final = {
    _BEING_DELETED: (
        "the secret is being deleted: restore it (aws secretsmanager restore-secret), or wait "
        "until it is gone"
    ),
    _UNKNOWN_TAG: f"the fleet's tag has a value on this secret that is not clear: {_KNOWN_TAGS}",
    _NAME_OF_A_SESSION: (
        f"the secret's name ends with {_SESSION_SUFFIX!r}, as a session secret's does, but the "
        f"fleet's tag on it says something else: {_KNOWN_TAGS}"
    ),
    _NO_MEMBER: (
        "the fleet's tag says that this is a session secret, but there is no member that it "
        f"belongs to: a session secret has its member's name with {_SESSION_SUFFIX!r} behind it"
    ),
}


def _is_listed_for_long(session: SessionSecret, now: datetime) -> bool:
    return session.created_at is None or now - session.created_at >= _LISTED_WITHIN


def _obstacle(entry: "SecretListEntryTypeDef", name: str, tag: str) -> str | None:
    """Return why the token of a listed secret cannot be kept alive here, or None."""
    if "DeletedDate" in entry:
        return _BEING_DELETED
    region = region_of(entry["ARN"])
    primary = entry.get("PrimaryRegion", region)
    if primary != region:
        return f"{_REPLICA_OF}{primary}"
    if get_close_matches(tag.strip().casefold(), _NOT_A_MEMBERS, n=1, cutoff=_ALIKE):
        return _UNKNOWN_TAG
    return _NAME_OF_A_SESSION if member_name(name) is not None else None


def obstacle_error(obstacle: str, secret_id: str) -> QwenTokenError:
    """Return the error for a secret whose token cannot be kept alive here."""
    words = obstacle_in_words(obstacle, secret_id)
    is_set_up_wrong = obstacle in {_UNKNOWN_TAG, _NAME_OF_A_SESSION, _NO_MEMBER}
    return MembershipError(words) if is_set_up_wrong else StoreError(words)


def obstacle_in_words(obstacle: str, secret_id: str) -> str:
    """Return the obstacle's text, or an empty one for anything that is not an obstacle.

    Obstacles are names instead of texts because jobs in the queue contain them.
    """
    if obstacle in _OBSTACLES:
        return _OBSTACLES[obstacle]
    primary = obstacle.removeprefix(_REPLICA_OF) if obstacle.startswith(_REPLICA_OF) else ""
    if not _REGION.fullmatch(primary):
        return ""
    return (
        f"the secret is a replica of one in {primary}, and can be written there only: keep the "
        "fleet there (to leave the replica out here, use another FleetTag in "
        f"{region_of(secret_id)})"
    )
