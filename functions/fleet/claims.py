"""Claims: only one member may use a login, even if several members hold a copy of it.

A refresh credential may be good for one use, and a second use may end the login. So before a member
spends its session's credential, it claims the credential with an item in the state table. The
item's key is a digest, from which nobody can recover the credential. The item holds the member's
ARN and nothing else.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from keeper_runtime.alerts import name_of
from keeper_runtime.state_table import Items, number
from qwen_token.errors import MembershipError, SessionMalformedError, StoreError
from qwen_token.fleet import session_name

if TYPE_CHECKING:
    from qwen_token.ports import Sessions
    from qwen_token.session import Session
    from qwen_token.stored_session import StoredSession

# Longer than the 30 days that a credential lives. A claim is renewed for as long as it is used.
_LASTS: Final = timedelta(days=40)
# How long a process remembers that it claimed a version, and does not write the claim again.
_KNOWN_FOR: Final = timedelta(hours=6)
_MOST_KNOWN: Final = 10_000


@dataclass(frozen=True, slots=True)
class Claims:
    """All claims. Every method raises StoreError if DynamoDB refuses or fails.

    ``sessions`` returns a session secret by its name.
    """

    items: Items
    sessions: Callable[[str], "Sessions"]
    # When this process claimed each member's version.
    known: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def take(self, stored: "StoredSession", member: str) -> None:
        """Claim the refresh credential of a member's session, if the session has one.

        Raises:
            MembershipError: another member holds the credential.
        """
        credential, now = stored.session.refresh_token, self.items.clock()
        if credential is None:
            return
        version = (member, stored.version_id)
        if version in self.known and timedelta(0) <= now - self.known[version] < _KNOWN_FOR:
            return
        if not self._write(_key(credential), member):
            holder = self._holder(_key(credential))
            if holder not in {None, member} and self._holds(str(holder), credential):
                raise MembershipError(
                    f"the member {name_of(str(holder))} holds the same login: one login is for one "
                    "member, as a second one that spends it may end it; put another login into one "
                    "of the two"
                )
            self._write(_key(credential), member, over=holder)
        if len(self.known) >= _MOST_KNOWN:
            self.known.clear()
        self.known[version] = now

    def _write(self, key: str, member: str, *, over: str | None = None) -> bool:
        now = self.items.clock()
        return self.items.update_if(
            key,
            update="SET held_by = :member, expires_at = :end",
            condition=(
                "attribute_not_exists(held_by) OR held_by = :member OR held_by = :over "
                "OR expires_at <= :now"
            ),
            values={
                ":member": {"S": member},
                ":over": {"S": over or member},
                ":end": number(now + _LASTS),
                ":now": number(now),
            },
            step="claim a login",
        )

    def _holder(self, key: str) -> str | None:
        item = self.items.get(key, step="see who claimed a login")
        holder: str | None = item.get("held_by", {}).get("S")
        return holder

    def _holds(self, holder: str, credential: str) -> bool:
        """Return whether the holder still has this login, perhaps with a later credential.

        It does not if its secret is gone, or if a person has stored another login in that secret.
        """
        try:
            stored = self.sessions(session_name(name_of(holder))).read()
        except SessionMalformedError:
            return False
        except StoreError as error:
            if error.may_pass:
                raise
            return False
        if stored is None or stored.session.refresh_token is None:
            return False
        return stored.session.refresh_token == credential or stored.by_keeper


@dataclass(frozen=True, slots=True)
class ClaimedSessions:
    """A member's session secret. Reading it claims the credential."""

    sessions: "Sessions"
    claims: Claims
    member: str

    def read(self) -> "StoredSession | None":
        """Return the current session, after claiming its credential.

        Raises:
            MembershipError: another member holds this login.
        """
        stored = self.sessions.read()
        if stored is not None:
            self.claims.take(stored, self.member)
        return stored

    def keep(self, session: "Session", *, over: "StoredSession") -> "StoredSession | None":
        return self.sessions.keep(session, over=over)

    def left_behind(self, *, over: "StoredSession") -> "StoredSession | None":
        return self.sessions.left_behind(over=over)


def _key(credential: str) -> str:
    return f"claim:{hashlib.sha256(b'qwen-token-refresh:' + credential.encode()).hexdigest()}"
