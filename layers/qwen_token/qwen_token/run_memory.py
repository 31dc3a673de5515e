"""What the runs of one secret remember: refusals, sign-ins, the incident. Never a login."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from .policy import Severity
from .session import Grant

# What the API declared dead is tried again after this time at the earliest.
DEAD_FOR: Final = timedelta(hours=1)
# The minimum time after a sign-in that was answered, and after one that was not.
SIGN_IN_EVERY: Final = timedelta(hours=24)
UNANSWERED_FOR: Final = timedelta(minutes=10)

# Limits for a memory that is read: anybody may have written it.
_REASON: Final = re.compile("[a-z_]{0,40}")
# The beginning of a reminder's key.
_PUBLISHED: Final = re.compile("[a-z]{1,20} [a-z_]{1,40}( [!-~]{1,40})?")
_LONGEST_MESSAGE: Final = 2000
_FIRST_SECOND: Final = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
_LAST_SECOND: Final = datetime(9000, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API refused what a grant spends; ``version_id`` is the version that held it.

    For ``exchange``, it is a version of the token secret, and ``reason`` is that the token is
    dead (``token_rejected``) or cannot be extended (``token_not_extended``). For a first
    token, it is a version of the session secret, and ``reason`` is why the token was not stored.
    """

    version_id: str
    reason: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SignIn:
    """An attempt to sign in with the session secret's version ``version_id``.

    ``reason`` and ``message`` are those of its failure; they are empty if it got a token, or if
    the run died before it could record the result.
    """

    version_id: str
    at: datetime
    answered: bool
    reason: str = ""
    message: str = ""

    def next_at(self) -> datetime:
        """Return when the next attempt is allowed."""
        return self.at + (SIGN_IN_EVERY if self.answered else UNANSWERED_FOR)


@dataclass(frozen=True, slots=True)
class Incident:
    """A failure from its first run to the first success.

    ``version_id`` is the token's current version. ``published`` has the time at which each
    ``"severity reason"`` was last published; ``highest`` is the most severe of them, with its
    ``reason`` and ``message`` (None while nothing could be published).
    """

    version_id: str | None
    since: datetime
    highest: Severity | None = None
    reason: str = ""
    message: str = ""
    published: Mapping[str, datetime] = field(default_factory=dict)

    def joined(self, other: Self) -> Self:
        """Return what two runs, neither of which knew of the other, know together.

        Of incidents of different versions, it is the one that began last.
        """
        first, last = sorted((self, other), key=lambda each: each.since)
        if None not in {first.version_id, last.version_id} and first.version_id != last.version_id:
            return last
        graver = max((last, first), key=lambda each: each.highest.grade if each.highest else -1)
        return replace(
            graver,
            version_id=last.version_id or first.version_id,
            since=first.since,
            published=latest(first.published, last.published),
        )


def latest(one: Mapping[str, datetime], other: Mapping[str, datetime]) -> dict[str, datetime]:
    """Return all keys of both, each with the later of its times."""
    return {**one, **{key: max(at, one.get(key, at)) for key, at in other.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMemory:
    """The whole memory. A secret without a history has none of the members.

    Versions of the token secret: ``pending`` was staged and is not current yet; it may replace
    ``pending_over`` only, not a person's newer token. With ``pending_is_refused``, the API has
    refused it, or called it another account's. ``replaced`` is the last one that a run
    replaced, ``superseded`` the last one that somebody else replaced before a run could.
    ``untried`` is dead, and not all of its alternatives could be tried.
    ``token_left_behind`` and ``session_left_behind``: a run may have staged a version of that
    secret without recording it. ``first_try`` is the last first token that could not be stored.
    ``died_young`` counts the tokens that the API refused within ten minutes of accepting them,
    with no hour between two; the last one was at ``died_young_at``. ``staged_beside`` is the
    session secret's version when the last token was staged (empty: there was none): if the API
    refuses that token, no other one follows at once, unless a person has put in another session.

    ``session_expires_at`` and ``account`` are known about the session secret's version
    ``session_version_id``, but not written in it. ``confirmed_at`` is when the API last accepted
    the token of ``confirmed_version_id``. ``reminded`` has the time at which each reminder was last
    published. For an incident that many secrets share, ``affected`` counts those that met it, and
    ``troubled_at`` is when the last one did.
    """

    refusals: Mapping[Grant, Refusal] = field(default_factory=dict)
    sign_in: SignIn | None = None
    pending: str | None = None
    pending_over: str | None = None
    pending_is_refused: bool = False
    replaced: str | None = None
    superseded: str | None = None
    untried: str | None = None
    token_left_behind: bool = False
    session_left_behind: bool = False
    first_try: Refusal | None = None
    died_young: int = 0
    died_young_at: datetime | None = None
    staged_beside: str | None = None
    session_version_id: str | None = None
    session_expires_at: datetime | None = None
    account: str | None = None
    confirmed_version_id: str | None = None
    confirmed_at: datetime | None = None
    incident: Incident | None = None
    reminded: Mapping[str, datetime] = field(default_factory=dict)
    affected: int = 0
    troubled_at: datetime | None = None

    def as_of(self, now: datetime) -> Self:
        """Return the memory with all times in the future replaced by ``now``.

        They come from a clock that was ahead, so their real time is unknown. Waits that begin at
        such a time begin now.
        """

        def past(at: datetime) -> datetime:
            return min(at, now)

        def each(instants: Mapping[str, datetime]) -> dict[str, datetime]:
            return {name: past(at) for name, at in instants.items()}

        return replace(
            self,
            refusals={
                grant: replace(found, at=past(found.at)) for grant, found in self.refusals.items()
            },
            sign_in=self.sign_in and replace(self.sign_in, at=past(self.sign_in.at)),
            first_try=self.first_try and replace(self.first_try, at=past(self.first_try.at)),
            died_young_at=self.died_young_at and past(self.died_young_at),
            confirmed_at=self.confirmed_at and past(self.confirmed_at),
            incident=self.incident
            and replace(
                self.incident,
                since=past(self.incident.since),
                published=each(self.incident.published),
            ),
            reminded=each(self.reminded),
            troubled_at=self.troubled_at and past(self.troubled_at),
        )

    def with_refusal(self, grant: Grant, refusal: Refusal) -> Self:
        """Return the memory with this refusal."""
        return replace(self, refusals={**self.refusals, grant: refusal})

    def without_refusal(self, grant: Grant) -> Self:
        """Return the memory without the refusal of ``grant``."""
        others = {each: found for each, found in self.refusals.items() if each is not grant}
        return replace(self, refusals=others)

    def refusal(self, grant: Grant, version_id: str, *, now: datetime) -> Refusal | None:
        """Return why ``grant`` must not be tried with ``version_id`` now, or None if it may.

        A refused sign-in counts until its secret changes; any other refusal counts for an hour.
        """
        found = self.refusals.get(grant)
        if found is None or found.version_id != version_id:
            return None
        if grant is not Grant.PASSWORD and now - found.at >= DEAD_FOR:
            return None
        return found

    def of_session(self, version_id: str) -> Self:
        """Return the memory with its record of the sign-in moved to ``version_id``.

        A run wrote that version: it is the same session with another credential.
        """
        refused = self.refusals.get(Grant.PASSWORD)
        moved = (
            self
            if refused is None
            else self.with_refusal(Grant.PASSWORD, replace(refused, version_id=version_id))
        )
        return replace(
            moved,
            sign_in=self.sign_in and replace(self.sign_in, version_id=version_id),
            first_try=self.first_try and replace(self.first_try, version_id=version_id),
        )

    def of_new_session(self, version_id: str) -> Self:
        """Return the memory without its record of another session's sign-in.

        A person put in ``version_id``, which lifts every limit of the session before it.
        """
        refused = self.refusals.get(Grant.PASSWORD)
        lifted = (
            self
            if refused is None or refused.version_id == version_id
            else self.without_refusal(Grant.PASSWORD)
        )
        return replace(
            lifted,
            sign_in=self.sign_in
            if self.sign_in and self.sign_in.version_id == version_id
            else None,
            first_try=self.first_try
            if self.first_try and self.first_try.version_id == version_id
            else None,
        )

    def to_json(self) -> str:
        """Return the memory as one JSON object, without the missing members."""
        members: dict[str, object] = {
            **_document(self),
            "refusals": {grant.value: _document(each) for grant, each in self.refusals.items()},
            "sign_in": self.sign_in and _document(self.sign_in),
            "first_try": self.first_try and _document(self.first_try),
            "incident": self.incident and _document(self.incident),
        }
        # An empty text has a meaning; only None is missing.
        kept = {name: each for name, each in members.items() if each or isinstance(each, str)}
        return json.dumps(kept)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` of this or another release wrote. Unknown members are ignored.

        Raises:
            ValueError: the text is something else.
        """
        try:
            members = json.loads(text)
            return cls(
                pending=_text(members.get("pending")),
                pending_over=_text(members.get("pending_over")),
                pending_is_refused=_flag(members.get("pending_is_refused", False)),
                died_young=_count(members.get("died_young", 0)),
                died_young_at=_optional_instant(members.get("died_young_at")),
                staged_beside=_text(members.get("staged_beside")),
                replaced=_text(members.get("replaced")),
                superseded=_text(members.get("superseded")),
                untried=_text(members.get("untried")),
                token_left_behind=_flag(members.get("token_left_behind", False)),
                session_left_behind=_flag(members.get("session_left_behind", False)),
                first_try=_refusal(members.get("first_try")),
                session_version_id=_text(members.get("session_version_id")),
                session_expires_at=_optional_instant(members.get("session_expires_at")),
                account=_text(members.get("account")),
                confirmed_version_id=_text(members.get("confirmed_version_id")),
                confirmed_at=_optional_instant(members.get("confirmed_at")),
                refusals={
                    Grant(grant): refusal
                    for grant, each in members.get("refusals", {}).items()
                    if grant in set(Grant) and (refusal := _refusal(each))
                },
                sign_in=_sign_in(members.get("sign_in")),
                incident=_incident(members.get("incident")),
                reminded=_instants(members.get("reminded", {})),
                affected=_count(members.get("affected", 0)),
                troubled_at=_optional_instant(members.get("troubled_at")),
            )
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            OverflowError,
            OSError,
            RecursionError,
        ) as error:
            raise ValueError(f"no memory of a run: {type(error).__name__}") from None


def _document(record: Any) -> dict[str, object]:
    return {each.name: _plain(getattr(record, each.name)) for each in fields(record)}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value


def _instant(seconds: object) -> datetime:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError
    # Other instants may overflow in calculations.
    if not _FIRST_SECOND <= seconds < _LAST_SECOND:
        raise ValueError
    return datetime.fromtimestamp(seconds, UTC)


def _optional_instant(seconds: object) -> datetime | None:
    return None if seconds is None else _instant(seconds)


def _instants(members: Mapping[str, object]) -> dict[str, datetime]:
    if not all(map(_PUBLISHED.fullmatch, members)):
        raise ValueError
    return {name: _instant(at) for name, at in members.items()}


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _required(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _reason(value: object) -> str:
    """Return a reason that is safe in an alert's subject."""
    if not _REASON.fullmatch(_required(value)):
        raise ValueError
    return _required(value)


def _message(value: object) -> str:
    """Return a message that is safe in an alert: one line of limited length."""
    text = "".join(each if each.isprintable() else " " for each in _required(value))
    return text[:_LONGEST_MESSAGE]


def _text(value: object) -> str | None:
    return None if value is None else _required(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _refusal(document: Mapping[str, object] | None) -> Refusal | None:
    if document is None:
        return None
    return Refusal(
        _required(document["version_id"]),
        _reason(document["reason"]),
        _message(document["message"]),
        _instant(document["at"]),
    )


def _sign_in(document: Mapping[str, object] | None) -> SignIn | None:
    if document is None:
        return None
    return SignIn(
        _required(document["version_id"]),
        _instant(document["at"]),
        _flag(document["answered"]),
        _reason(document.get("reason", "")),
        _message(document.get("message", "")),
    )


def _incident(document: Mapping[str, Any] | None) -> Incident | None:
    if document is None:
        return None
    highest = document["highest"]
    return Incident(
        version_id=_text(document["version_id"]),
        since=_instant(document["since"]),
        highest=None if highest is None else Severity(highest),
        reason=_reason(document["reason"]),
        message=_message(document["message"]),
        published=_instants(document["published"]),
    )
