"""The secret in Secrets Manager: read it, stage a successor, promote it as compare-and-swap."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoRegionError,
    ParamValidationError,
)

from .errors import (
    ConfigError,
    QwenTokenError,
    StoreError,
    TokenDocumentError,
    TokenMalformedError,
    TokenMissingError,
    forgets_locals,
)
from .names import require_name
from .policy import same_account
from .stored_token import StoredToken, parse, rendered
from .tokens import Token

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import (
        GetSecretValueResponseTypeDef,
        PutSecretValueResponseTypeDef,
    )

CURRENT: Final = "AWSCURRENT"
PREVIOUS: Final = "AWSPREVIOUS"
# Not AWSPENDING, which belongs to native rotation: one left behind makes RotateSecret fail.
PENDING: Final = "QWEN_PENDING"
# The API called this version's token dead. A read of the version returns its labels, too, so a run
# that reads nothing else does not take the token for fresh.
REJECTED: Final = "QWEN_REJECTED"

# botocore's defaults (60 s each) would outlast the function. These add up to the keeper's
# STORE_CALL_LIMIT: two attempts of seven seconds, and the standard mode's wait (at most one second)
# between them. This holds for a single address: each further silent one costs two seconds
# more in each attempt, and nothing bounds a name look-up.
AWS_CONFIG: Final = Config(
    connect_timeout=2,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 2},
)

# Failures without an answer of AWS, which say nothing about the secret or the caller's permissions,
# may pass: even missing credentials may be a network failure. These exceptions never pass.
_LASTING: Final = (NoRegionError, ParamValidationError)
# Server errors (5xx) may pass, too, and so may these codes of other statuses.
_PASSING_CODES: Final = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException"})


# AWS's error codes; some contain the service's name.
_CODE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,100}")

_Answer = TypeVar("_Answer", bound=Mapping[str, Any])


def _now() -> datetime:
    return datetime.now(UTC)


class SecretVersions:
    """The versions of one secret and their labels in Secrets Manager.

    Every method raises boto3's exceptions.
    """

    def __init__(self, client: "SecretsManagerClient", secret_id: str) -> None:
        self._client = client
        self._secret_id = secret_id

    @property
    def not_found(self) -> type[ClientError]:
        """The error for an absent secret or version. botocore creates the class on first use."""
        return self._client.exceptions.ResourceNotFoundException

    def current(self) -> "GetSecretValueResponseTypeDef":
        """Return the current version."""
        return whole(self._client.get_secret_value(SecretId=self._secret_id, VersionStage=CURRENT))

    def current_value(self) -> str | bytes:
        """Return what readers get, be it text or binary; an empty text where there is nothing."""
        try:
            answer = self.current()
        except self.not_found:
            return ""
        return answer.get("SecretString", "") or answer.get("SecretBinary", "")

    def version(self, version_id: str) -> "GetSecretValueResponseTypeDef":
        """Return one version."""
        return whole(self._client.get_secret_value(SecretId=self._secret_id, VersionId=version_id))

    def labels(self) -> Mapping[str, Sequence[str]]:
        """Return the labels of each version that has any. Fails if there is no secret."""
        described = self._client.describe_secret(SecretId=self._secret_id)
        _require_arn(described)
        return described.get("VersionIdsToStages", {})

    def write(self, text: str, *, label: str) -> "PutSecretValueResponseTypeDef":
        """Add a version with this label."""
        # botocore sends the same ClientRequestToken in each attempt, so a retry adds no version.
        return whole(
            self._client.put_secret_value(
                SecretId=self._secret_id, SecretString=text, VersionStages=[label]
            )
        )

    def make_current(self, version_id: str, *, over: str | None) -> None:
        """Move AWSCURRENT from the version ``over`` (or from none) as a compare-and-swap.

        A failed call may still have been carried out: the label decides.
        """
        self._move(CURRENT, to=version_id, away_from=over)

    def attach(self, label: str, version_id: str) -> None:
        """Move one of our labels to a version, from the version that has it."""
        # AWS moves a label only away from the version that the caller names.
        holder = next((each for each, found in self.labels().items() if label in found), None)
        if holder != version_id:
            self._move(label, to=version_id, away_from=holder)

    def detach(self, label: str, version_id: str) -> None:
        """Remove one of our labels from the version that has it."""
        self._move(label, to=None, away_from=version_id)

    def _move(self, label: str, *, to: str | None, away_from: str | None) -> None:
        named = {"MoveToVersionId": to, "RemoveFromVersionId": away_from}
        versions: Any = {name: each for name, each in named.items() if each is not None}
        answer = self._client.update_secret_version_stage(
            SecretId=self._secret_id, VersionStage=label, **versions
        )
        _require_arn(answer)


def _require_arn(answer: Mapping[str, Any]) -> None:
    """Require that an answer names the secret: boto3 parses a page as an empty answer."""
    if not isinstance(answer["ARN"], str):
        raise TypeError


def whole(answer: _Answer) -> _Answer:
    """Return an answer if it names its version, and its value, if any, is a text.

    boto3 passes on anything that it could parse from a page or from half an answer.
    """
    if not (
        isinstance(answer["VersionId"], str) and isinstance(answer.get("SecretString", ""), str)
    ):
        raise TypeError
    return answer


class SecretStore:
    """One secret with a bare token or a JSON object. Its shape is kept.

    ``client`` is boto3's for Secrets Manager, created with ``AWS_CONFIG``; ``clock`` returns the
    aware time. Every method raises StoreError if Secrets Manager refuses or fails.
    """

    def __init__(
        self,
        client: "SecretsManagerClient",
        secret_id: str,
        *,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Take the secret's name or ARN.

        Raises:
            ConfigError: it looks like a token.
        """
        self.secret_id = require_name(secret_id, argument="secret_id")
        self._versions = SecretVersions(client, secret_id)
        self._clock = clock

    @classmethod
    def open(cls, secret_id: str, client: "SecretsManagerClient | None" = None) -> Self:
        """Return the secret, with ``client`` or a new one in the region that an ARN names.

        Raises:
            ConfigError: ``secret_id`` looks like a token, no region is known, or no client can be
                created.
        """
        if client is None:
            client = new_client("secretsmanager", region=region_of(secret_id))
        return cls(client, secret_id)

    @forgets_locals
    def read(self) -> StoredToken | None:
        """Return the current token, or None if the secret never had a value.

        Raises:
            TokenMissingError: the secret had a value, but now holds no token.
            TokenMalformedError: its value is not a token.
        """
        with translated(f"read the secret {self.secret_id}"):
            try:
                response = self._versions.current()
            except self._versions.not_found:
                # Either there is no value, or there is no secret: DescribeSecret shows which.
                if self._never_had_a_value():
                    return None
                raise TokenMissingError("the secret has no current value") from None
            if _is_empty(response) and self._never_had_a_value():
                return None
        return held_in(response)

    @forgets_locals
    def read_version(self, version_id: str) -> StoredToken | None:
        """Return a version, or None if it is gone or holds no token."""
        with translated("read a version of the secret"):
            answer = self._version(version_id)
        return _held_or_none(answer)

    @forgets_locals
    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken:
        """Write ``successor`` as a new version under QWEN_PENDING; readers do not see it yet.

        Raises:
            TokenDocumentError: the value around the token cannot be kept.
        """
        text = rendered(successor, over=over.text)
        with translated("stage the new token"):
            written = self._versions.write(text, label=PENDING)
        return self._staged(successor, written, text)

    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        """Return ``candidate`` if staging its token would write the same value; else stage it.

        An older version may hold older values of the other keys, or the token as it was pasted.
        """
        if candidate.text == rendered(candidate.token, over=over.text):
            return candidate
        return self.stage(candidate.token, over=over)

    @forgets_locals
    def put(self, token: Token, *, replace: bool = False) -> StoredToken:
        """Make ``token`` current, whatever the secret holds now. For people, not for the keeper.

        The shape and the other keys are kept, even if the old token cannot be read. With
        ``replace``, the token is stored alone.

        Raises:
            TokenDocumentError: the rest of the value cannot be kept: it is not a JSON object, or
                the new value would be too long.
        """
        over = "" if replace else self.current_value()
        if isinstance(over, bytes):
            raise _is_binary()
        text = rendered(token, over=over)
        with translated("put the token in"):
            written = self._versions.write(text, label=CURRENT)
        return StoredToken(token, written["VersionId"], text)

    def current_value(self) -> str | bytes:
        """Return the current value, whatever it is; an empty text if there is none."""
        with translated(f"read the secret {self.secret_id}"):
            return self._versions.current_value()

    @forgets_locals
    def put_first(self, token: Token) -> StoredToken:
        """Store the first token of a secret that never had a value; return what is then current.

        It is stored bare. If another writer was faster, that writer's version is kept and returned.

        Raises:
            TokenMissingError: another writer's value holds no token.
            TokenMalformedError: another writer's value is not a token.
        """
        with translated("store the first token"):
            try:
                current = self._versions.current()
            except self._versions.not_found:
                current = None
        if current is not None and not _is_empty(current):
            return held_in(current)
        # An emulator gives a new secret an empty version.
        empty_version = None if current is None else current["VersionId"]
        with translated("store the first token"):
            written = self._versions.write(token.raw, label=PENDING)
        staged = self._staged(token, written, token.raw)
        # AWS makes a secret's first version current, whatever its label is.
        if CURRENT in written.get("VersionStages", ()):
            return staged
        return self._make_current(staged, over=empty_version, step="make the first token current")

    @forgets_locals
    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken:
        """Move AWSCURRENT from ``over`` to ``staged``, and return what is then current.

        If another writer was faster, that writer's version is kept and returned.
        A failed call may still have been carried out: the label decides.
        """
        return self._make_current(staged, over=over.version_id, step="promote the new token")

    @forgets_locals
    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        """Return the staged and the previous tokens of the same account, latest expiry first.

        Versions that hold no token, or another account's, are left out.
        """
        with translated("look for other versions"):
            answers = [
                self._version(version_id)
                for version_id, stages in self._versions.labels().items()
                if version_id != to.version_id and {PENDING, PREVIOUS} & set(stages)
            ]
        found = [
            held
            for answer in answers
            if (held := _held_or_none(answer)) is not None and same_account(held.token, to.token)
        ]
        return sorted(found, key=lambda held: held.token.expires_at, reverse=True)

    def note_rejected(self, held: StoredToken) -> None:
        """Mark this version: the API called its token dead. Every read of it shows that."""
        with translated("note that the token is dead"):
            self._versions.attach(REJECTED, held.version_id)

    def note_accepted(self, held: StoredToken) -> None:
        """Remove the mark of ``note_rejected``."""
        with translated("note that the token is alive after all"):
            self._versions.detach(REJECTED, held.version_id)

    def _staged(
        self, token: Token, written: "PutSecretValueResponseTypeDef", text: str
    ) -> StoredToken:
        now = self._clock()
        return StoredToken(token, written["VersionId"], text, written_at=now, created_at=now)

    def _make_current(self, staged: StoredToken, *, over: str | None, step: str) -> StoredToken:
        """Move AWSCURRENT to ``staged`` from the version ``over``, or from none."""
        try:
            with translated(step):
                self._versions.make_current(staged.version_id, over=over)
        except StoreError:
            current = self.read()
            if current is None or current.version_id == over:
                raise
            return current
        return staged

    def _version(self, version_id: str) -> "GetSecretValueResponseTypeDef | None":
        try:
            return self._versions.version(version_id)
        except self._versions.not_found:
            return None

    def _never_had_a_value(self) -> bool:
        """Return whether the secret never had a value.

        AWS gives a new secret no version, an emulator an empty one. A staged version was never the
        secret's value.
        """
        labels = self._versions.labels().values()
        return sum(set(stages) != {PENDING} for stages in labels) <= 1


def _is_binary() -> TokenDocumentError:
    return TokenDocumentError("the secret's value is binary: store it as a string")


def _is_empty(answer: Mapping[str, Any]) -> bool:
    return not (answer.get("SecretString") or answer.get("SecretBinary"))


def _text(answer: Mapping[str, Any]) -> str:
    """Return the value; an empty text if it is binary or absent."""
    text: str = answer.get("SecretString", "")
    return text


def held_in(answer: Mapping[str, Any]) -> StoredToken:
    """Parse the answer of GetSecretValue: a bare token, or a JSON object with one under ``token``.

    Raises:
        TokenMissingError: there is no token in it.
        TokenMalformedError: what is there is not a token.
    """
    if "SecretBinary" in answer:
        raise _is_binary()
    held = parse(_text(answer), answer["VersionId"], written_at=_written_by_keeper_at(answer))
    return replace(
        held,
        created_at=answer.get("CreatedDate"),
        is_rejected=REJECTED in answer.get("VersionStages", ()),
    )


def _held_or_none(answer: Mapping[str, Any] | None) -> StoredToken | None:
    try:
        return None if answer is None else held_in(answer)
    except (TokenMissingError, TokenMalformedError):
        return None


def _written_by_keeper_at(answer: Mapping[str, Any]) -> datetime | None:
    """Return when the keeper wrote a version, which it knows by the label QWEN_PENDING.

    None for a person's version, and once the label has moved to the next one.
    """
    created_at: datetime | None = answer.get("CreatedDate")
    if created_at is None or PENDING not in answer.get("VersionStages", ()):
        return None
    return created_at.astimezone(UTC)


def region_of(name_or_arn: str) -> str | None:
    """Return the region of an ARN, or None for a name."""
    parts = name_or_arn.split(":")
    return (parts[3] or None) if parts[0] == "arn" and len(parts) > 3 else None  # noqa: PLR2004 - an ARN's


def new_client(
    service: str,
    *,
    region: str | None = None,
    config: Config = AWS_CONFIG,
    session: Callable[[], Any] | None = None,
) -> Any:
    """Create a client in ``region``, or in the region that boto3 finds.

    ``session`` creates the boto3 session. The default is a new one, because creating clients from
    boto3's own session is not thread-safe.

    Raises:
        ConfigError: no region is known, or no client can be created.
    """
    # Services that pass a client of their own need not import boto3.
    import boto3  # noqa: PLC0415

    new_session: Callable[[], Any] = session or boto3.Session
    try:
        found = new_session()
        # An empty variable is a region to boto3, which would fail later and in other words.
        if not (region or found.region_name):
            raise NoRegionError  # noqa: TRY301 - as boto3 where there is no variable
        return found.client(service, region_name=region, config=config)
    except NoRegionError as error:
        raise ConfigError(
            "no AWS region is known: set AWS_DEFAULT_REGION, or name the secret by its ARN"
        ) from error
    except Exception as error:  # noqa: BLE001 - files, variables and providers of whoever runs this
        raise ConfigError(
            f"no client for {service} can be made: {type(error).__name__}; look at the AWS "
            "configuration of this process"
        ) from None


@contextmanager
def translated(step: str, *, by: str = "Secrets Manager") -> Iterator[None]:
    """Translate any exception inside to a StoreError of this step; ``by`` is the service.

    Use it only around calls of boto3 and the reading of their answers: the code that boto3 calls
    for credentials, addresses and parsing may raise any exception.
    """
    try:
        yield
    except QwenTokenError:
        raise
    except (BotoCoreError, ClientError) as error:
        raise _store_error(step, error, by=by) from error
    except Exception as error:  # noqa: BLE001 - as above
        # Without the cause: its text may hold anything.
        raise _store_error(step, error, by=by) from None


def _store_error(step: str, error: Exception, *, by: str) -> StoreError:
    """Name the step and AWS's code; AWS's message stays in the cause."""
    if isinstance(error, ClientError):
        code = code_in(error.response.get("Error", {}).get("Code"))
        # botocore's own errors have both; those of a user's tests may not.
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        may_pass = code in _PASSING_CODES or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return StoreError(f"{by} could not {step}: {code}", may_pass=may_pass)
    from .environment_faults import AWS_CA_BUNDLES, unusable_ca_bundle  # noqa: PLC0415 - once failed

    fault = ""
    if variable := unusable_ca_bundle(AWS_CA_BUNDLES):
        fault = f" (the CA bundle that {variable} names cannot be used: correct that variable)"
    return StoreError(
        f"{by} could not {step}: {type(error).__name__}{fault}",
        may_pass=not isinstance(error, _LASTING),
    )


def code_in(said: object) -> str:
    """Return AWS's code for a failure. Anything else did not come from AWS, and is left out."""
    return said if isinstance(said, str) and _CODE.fullmatch(said) else "unknown"
