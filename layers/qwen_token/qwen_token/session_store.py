"""The session secret, which only the keeper reads. A changed credential is stored at once."""

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
    """One session secret. Every method raises StoreError if Secrets Manager refuses or fails.

    ``client`` is boto3's for Secrets Manager, created with ``AWS_CONFIG``.
    """

    def __init__(self, client: "SecretsManagerClient", secret_id: str) -> None:
        self.secret_id = require_name(secret_id, argument="secret_id")
        self._versions = SecretVersions(client, secret_id)

    @forgets_locals
    def read(self) -> StoredSession | None:
        """Return the current session, or None if the secret has no value.

        Raises:
        SessionMalformedError: its value is not a readable login.
        """
        with translated(f"read the session secret {self.secret_id}"):
            try:
                answer = self._versions.current()
            except self._versions.not_found:
                # Either there is no value, or there is no secret: then reading the labels fails.
                self._versions.labels()
                return None
        return stored_in(answer)

    @forgets_locals
    def keep(self, session: Session, *, over: StoredSession) -> StoredSession | None:
        """Replace ``over`` by ``session``; return None if somebody has put in another one.

        It is staged first, so that a person's newer session wins, and so that the next run finds it
        if this one dies.
        """
        text = rendered_session(session, over=over.text)
        with translated("stage the session's new credential"):
            version_id = self._versions.write(text, label=PENDING)["VersionId"]
        step = "make the session's new credential current"
        try:
            with translated(step):
                self._versions.make_current(version_id, over=over.version_id)
        except StoreError:
            # A failed call may have been carried out: the label decides.
            with translated(step):
                current = self._versions.current()["VersionId"]
            if current == over.version_id:
                raise
            if current != version_id:
                self._abandon(version_id)
                return None
        return StoredSession(session, version_id, text, by_keeper=True)

    def _abandon(self, version_id: str) -> None:
        """Remove the label from a staged version that lost, so that no later run finds it."""
        try:
            with translated("take the label from a session that lost"):
                self._versions.detach(PENDING, version_id)
        except StoreError:
            # Only a run that takes over a lease would look there.
            return

    def current_value(self) -> str | bytes:
        """Return the current value, whatever it is; an empty text if there is none."""
        with translated(f"read the session secret {self.secret_id}"):
            return self._versions.current_value()

    @forgets_locals
    def left_behind(self, *, over: StoredSession) -> StoredSession | None:
        """Return the session that a run staged after ``over`` was written but did not promote.

        None if there is none, or if a person has put in a session after that.
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
        """Make ``session`` current, whatever the secret holds now. For people, not for the keeper.

        Keys that do not belong to a login are kept, unless ``replace`` is true.

        Raises:
            SessionDocumentError: the rest of the value cannot be kept.
        """
        over = "" if replace else self.current_value()
        if isinstance(over, bytes):
            raise _is_binary()
        text = rendered_session(session, over=over)
        # The function must be able to read it, too.
        parse_session(text, "")
        with translated("put the session in"):
            version_id = self._versions.write(text, label=CURRENT)["VersionId"]
        return StoredSession(session, version_id, text)


def _is_binary() -> SessionDocumentError:
    return SessionDocumentError("the session secret's value is binary: store it as a string")


def stored_in(answer: Mapping[str, Any]) -> StoredSession | None:
    """Return the session in a version of the secret, or None for an empty value.

    Raises:
    SessionMalformedError: its value is not a readable login.
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
