"""The session secret: what only the keeper reads; a credential that changed is kept at once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import SessionDocumentError, SessionMalformedError, StoreError, forgets_locals
from .names import require_name
from .secret_store import CURRENT, PENDING, PREVIOUS, SecretVersions, translated
from .session import Session
from .stored_session import StoredSession, parse_session, rendered_session

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


class SessionStore:
    """One session secret. Every method raises StoreError where Secrets Manager refuses or fails.

    ``client`` is boto3's for Secrets Manager, made with ``AWS_CONFIG``.
    """

    def __init__(self, client: "SecretsManagerClient", secret_id: str) -> None:
        self.secret_id = require_name(secret_id, argument="secret_id")
        self._versions = SecretVersions(client, secret_id)

    @forgets_locals
    def read(self) -> StoredSession | None:
        """Return what is current, or None where the secret has no value.

        Raises:
            SessionMalformedError: what it holds is not a login that can be read.
        """
        with translated(f"read the session secret {self.secret_id}"):
            try:
                answer = self._versions.current()
            except self._versions.not_found:
                # Either there is no value or no secret: asking for labels fails for the second.
                self._versions.labels()
                return None
        return stored_in(answer)

    @forgets_locals
    def keep(self, session: Session, *, over: StoredSession) -> StoredSession | None:
        """Write ``session`` in the place of ``over``; None where somebody put another one in.

        It is staged first: a person's newer session wins, and a run that dies in between leaves
        it for the next one to find.
        """
        text = rendered_session(session, over=over.text)
        with translated("stage the session's new credential"):
            version_id = self._versions.write(text, label=PENDING)["VersionId"]
        step = "make the session's new credential current"
        try:
            with translated(step):
                self._versions.make_current(version_id, over=over.version_id)
        except StoreError:
            # A call that failed may have been carried out: it is the label that decides.
            with translated(step):
                current = self._versions.current()["VersionId"]
            if current == over.version_id:
                raise
            if current != version_id:
                self._abandon(version_id)
                return None
        return StoredSession(session, version_id, text, by_keeper=True)

    def _abandon(self, version_id: str) -> None:
        """Take the label from a staged version that lost: no later run is to find it."""
        try:
            with translated("take the label from a session that lost"):
                self._versions.detach(PENDING, version_id)
        except StoreError:
            # Only a run that takes over would look there.
            return

    def current_value(self) -> str | bytes:
        """Return what is current, whatever it is; an empty text where there is nothing."""
        with translated(f"read the session secret {self.secret_id}"):
            return self._versions.current_value()

    @forgets_locals
    def left_behind(self, *, over: StoredSession) -> StoredSession | None:
        """Return the session that a run staged after ``over`` was written, and could not promote.

        A person's session that was put in after that is the newer word: then there is none.
        """
        with translated("look for a staged session"):
            answers = [
                self._versions.version(version_id)
                for version_id, stages in self._versions.labels().items()
                if PENDING in stages and not {CURRENT, PREVIOUS} & set(stages)
            ]
        found = []
        for answer in answers:
            try:
                stored = stored_in(answer)
            except SessionMalformedError:
                continue
            if stored is not None and stored.created_at is not None:
                found.append((stored.created_at, stored))
        found.sort(key=lambda each: each[0])
        if not found or over.created_at is None or found[-1][0] < over.created_at:
            return None
        return found[-1][1]

    @forgets_locals
    def put(self, session: Session, *, replace: bool = False) -> StoredSession:
        """Make ``session`` current, whatever login is there now: for people.

        Other keys than the login's are kept, unless with ``replace``.

        Raises:
            SessionDocumentError: what else is there cannot be kept.
        """
        over = "" if replace else self.current_value()
        if isinstance(over, bytes):
            raise _is_binary()
        text = rendered_session(session, over=over)
        # The function, too, has to be able to read it.
        parse_session(text, "")
        with translated("put the session in"):
            version_id = self._versions.write(text, label=CURRENT)["VersionId"]
        return StoredSession(session, version_id, text)


def _is_binary() -> SessionDocumentError:
    return SessionDocumentError("the session secret's value is binary: store it as a string")


def stored_in(answer: Mapping[str, Any]) -> StoredSession | None:
    """Return the session that a version of a secret holds; None: an empty value.

    Raises:
        SessionMalformedError: what it holds is not a login that can be read.
    """
    if "SecretBinary" in answer:
        raise _is_binary()
    text = answer.get("SecretString", "")
    if not text.strip():
        return None
    return replace(
        parse_session(text, answer["VersionId"]),
        created_at=answer.get("CreatedDate"),
        by_keeper=PENDING in answer.get("VersionStages", ()),
    )
