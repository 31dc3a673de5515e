"""The session of a program without AWS: where it is stored, and which of two logins is newer."""

import hmac
import logging
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from qwen_token.document import json_object, replace_members
from qwen_token.errors import (
    SessionDocumentError,
    SessionMalformedError,
    StoreError,
    forgets_locals,
)
from qwen_token.session import Session
from qwen_token.stored_session import LONGEST, StoredSession, parse_session, rendered_session
from qwen_token.stored_token import size_of

from .text_place import TextPlace

if TYPE_CHECKING:
    from collections.abc import Callable

# Passed instead of a login to use the stored one.
STORED: Final = Session()
# The keeper's own keys beside the login.
_KEY: Final = "keeper_key"
_GIVEN: Final = "keeper_given"
_SPENT: Final = "keeper_spent"
_WROTE: Final = "keeper_wrote"
# The number of earlier logins and replaced credentials that are recognised.
_MOST_GIVEN: Final = 20
_MOST_SPENT: Final = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The stored object: the login, and the keeper's record of the logins before it."""

    session: Session
    key: bytes
    given: tuple[str, ...]
    spent: tuple[str, ...]
    # The name of the session that the keeper last wrote; a person's has another name.
    wrote: str

    def name(self, *parts: str | None) -> str:
        """Return a name for a login, or a part of one, that reveals nothing without the key."""
        text = "\0".join(part or "" for part in parts)
        return hmac.digest(self.key, text.encode(), "sha256").hex()

    @property
    def version_id(self) -> str:
        """The session's name: any change by a person changes it."""
        return _version_id(self, self.session)

    def has_seen(self, credential: str) -> bool:
        """Return whether a credential is current, was passed before, or was replaced."""
        is_current = credential == self.session.refresh_token
        return is_current or self.name(credential) in {*self.given, *self.spent}

    def has_seen_sign_in(self, given: Session) -> bool:
        """Return whether an e-mail with its password is current, or was passed before."""
        current = (self.session.email, self.session.password)
        name = self.name(given.email, given.password)
        return (given.email, given.password) == current or name in self.given

    def with_given(self, given: Session) -> "_Kept":
        """Return a copy that records the parts of a login that was passed."""
        names = list(self.given)
        if given.refresh_token is not None:
            names.append(self.name(given.refresh_token))
        if given.email is not None:
            names.append(self.name(given.email, given.password))
        unique = tuple(dict.fromkeys(reversed(names)))[:_MOST_GIVEN]
        return replace(self, given=tuple(reversed(unique)))


class LocalSessions:
    """The session beside a local token; the keeper's ``Sessions``.

    ``place`` holds a JSON object like the session secret's, or a pasted form: what a
    person writes there is the newest login. A login that the program passes (``given``) counts
    once: it is stored if there is none, or if it was never seen before. One that was passed before,
    or whose credential was replaced since, gives way to the stored one. To recognise it,
    and so that the state can name a version, the object holds names of the logins, made with a
    random key. Names and key are stored beside the login, so a name in the state reveals nothing to
    those who cannot read the login.

    A changed credential that cannot be written is used from memory; a later ``read`` writes it.
    """

    def __init__(self, place: TextPlace, given: Session) -> None:
        self._place = place
        self._given = given
        self._is_noted = False
        self._unwritten: Callable[[], StoredSession | None] | None = None

    @forgets_locals
    def prepare(self) -> bytes:
        """Store the given login if it is the newest; return the key that names the versions.

        Raises:
        SessionMalformedError: the place holds something that is not a login.
            StoreError: it cannot be read or written.
        """
        while True:
            text = self._place.load()
            found = _read(text)
            if found is None and self._given == STORED:
                raise SessionMalformedError("the store has no login any more")
            if found is not None and found.key and self._is_noted:
                return found.key
            kept = _fresh(self._given) if found is None else _merged(found, self._given)
            if kept == found or self._place.save(_rendered(kept, over=text), over=text):
                self._is_noted = True
                return kept.key

    @property
    def is_settled(self) -> bool:
        """Whether the place has the given login and the newest credential."""
        return self._is_noted and self._unwritten is None

    @forgets_locals
    def put(self, session: Session) -> None:
        """Store a login that a person brought, whatever is there.

        Raises:
            StoreError: it cannot be written; nothing has changed.
        """
        while True:
            text = self._place.load()
            try:
                found = _read(text)
            except SessionMalformedError:
                found = None
            kept = _fresh(session) if found is None or not found.key else found
            kept = replace(kept, session=session, wrote="").with_given(session)
            if self._place.save(_rendered(kept, over=text), over=text):
                self._given, self._is_noted, self._unwritten = session, True, None
                return

    @forgets_locals
    def read(self) -> StoredSession | None:
        """Return the session, or None if there is none.

        Raises:
            SessionMalformedError: the place holds something that is not a login.
            StoreError: it cannot be read.
        """
        self.prepare()
        if self._unwritten is not None and (written := self._unwritten()) is not None:
            return written
        text = self._place.load()
        found = _read(text)
        return None if found is None else _stored(found, text or "")

    @forgets_locals
    def keep(self, session: Session, *, over: StoredSession) -> StoredSession | None:
        """Replace ``over`` by ``session`` at once; return None if a person's is there."""

        def write() -> StoredSession | None:
            try:
                written = self._write(session, over)
            except (StoreError, SessionDocumentError) as error:
                # This credential exists nowhere else, so this process keeps using it.
                _log.warning("the session's new credential is in memory only: %s", error)
                self._unwritten = write
                return replace(over, session=session, by_keeper=True)
            self._unwritten = None
            return written

        return write()

    def left_behind(self, *, over: StoredSession) -> None:
        """Return None: a session is written in one step, so a crash leaves none behind."""

    def _write(self, session: Session, over: StoredSession) -> StoredSession | None:
        while True:
            text = self._place.load()
            found = _read(text)
            if found is None or found.version_id != over.version_id:
                return None
            spent = found.spent
            if found.session.refresh_token is not None:
                spent = (*spent, found.name(found.session.refresh_token))[-_MOST_SPENT:]
            kept = replace(found, session=session, spent=spent, wrote=_version_id(found, session))
            written = _rendered(kept, over=text)
            if self._place.save(written, over=text):
                return _stored(kept, written)

    def __repr__(self) -> str:
        return "LocalSessions([redacted])"


def newer_login(given: Session, stored: Session, *, is_new: bool, is_new_sign_in: bool) -> Session:
    """Return the login to use: ``stored``, or the parts of ``given`` that are newer.

    ``is_new`` and ``is_new_sign_in`` say which parts of ``given`` were never seen before.
    """
    if is_new:
        return given
    if not is_new_sign_in:
        return stored
    if given.refresh_token is None and given.email != stored.email:
        # A different login: no part of the old one may be mixed with it.
        return given
    return replace(stored, email=given.email, password=given.password)


def _merged(found: _Kept, given: Session) -> _Kept:
    if not found.key:
        # A person has written it since the keeper last wrote, so it is newer than the given login.
        return replace(found, key=secrets.token_bytes(32)).with_given(given)
    session = newer_login(
        given,
        found.session,
        is_new=given.refresh_token is not None and not found.has_seen(given.refresh_token),
        is_new_sign_in=given.email is not None and not found.has_seen_sign_in(given),
    )
    return replace(found, session=session).with_given(given)


def _fresh(session: Session) -> _Kept:
    kept = _Kept(session, secrets.token_bytes(32), (), (), "")
    return kept.with_given(session)


def _read(text: str | None) -> _Kept | None:
    if text is None or not text.strip():
        return None
    document = json_object(text) or {}
    key, given, spent, wrote = (
        value if isinstance(value := document.get(name), str) else ""
        for name in (_KEY, _GIVEN, _SPENT, _WROTE)
    )
    try:
        raw_key = bytes.fromhex(key)
    except ValueError:
        raw_key = b""
    session = parse_session(text, "").session
    return _Kept(session, raw_key, tuple(given.split()), tuple(spent.split()), wrote)


def _rendered(kept: _Kept, *, over: str | None) -> str:
    """Return the text, dropping names of spent credentials if there is no room for the next one."""
    text = _written(kept, over=over)
    while size_of(text) > LONGEST and kept.spent:
        kept = replace(kept, spent=kept.spent[1:])
        text = _written(kept, over=over)
    return text


def _written(kept: _Kept, *, over: str | None) -> str:
    return replace_members(
        rendered_session(kept.session, over=over or ""),
        {
            _KEY: kept.key.hex(),
            _GIVEN: " ".join(kept.given) or None,
            _SPENT: " ".join(kept.spent) or None,
            _WROTE: kept.wrote or None,
        },
    )


def _stored(kept: _Kept, text: str) -> StoredSession:
    version_id = kept.version_id
    return StoredSession(kept.session, version_id, text, by_keeper=kept.wrote == version_id)


def _version_id(kept: _Kept, session: Session) -> str:
    return kept.name(session.refresh_token, session.email, session.password)
