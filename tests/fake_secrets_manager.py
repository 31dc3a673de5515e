"""Secrets Manager in memory, behind the calls of boto3's client.

It does what AWS documents; ``tests/integration/test_secrets_manager_contract.py`` holds it and the
emulator against the same expectations, and names what the emulator does otherwise.
"""

# ruff: noqa: N803 - the arguments are named as boto3 names them

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from types import SimpleNamespace
from typing import Any, ClassVar, Final

from botocore.exceptions import ClientError

CURRENT: Final = "AWSCURRENT"
PREVIOUS: Final = "AWSPREVIOUS"
REGION: Final = "eu-west-1"

_BATCH: Final = 20
# How long a call waits for the test to let it go on.
_SOON: Final = 10.0


class _NotFoundError(ClientError):
    """A secret, a version or a value is not there."""


class _ExistsError(ClientError):
    """The name, or the version's id, is taken."""


class _InvalidParameterError(ClientError):
    """What was asked for contradicts what is there."""


class _InvalidRequestError(ClientError):
    """The secret is in a state that does not allow it."""


class _Exceptions:
    """The errors by the names that boto3's clients give them."""

    ResourceNotFoundException: ClassVar = _NotFoundError
    ResourceExistsException: ClassVar = _ExistsError
    InvalidParameterException: ClassVar = _InvalidParameterError
    InvalidRequestException: ClassVar = _InvalidRequestError


def arn(name: str) -> str:
    """Return the ARN that the secret of this name has here."""
    return f"arn:aws:secretsmanager:{REGION}:111122223333:secret:{name}-a1b2c3"


@dataclass(frozen=True, slots=True)
class SecretsManagerCall:
    """A call that arrived, whatever became of it."""

    operation: str
    request: Mapping[str, Any] = field(repr=False)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class FakeSecret:
    """One secret: its versions by id, its labels by name.

    ``refuses`` is the code with which reading its value fails; with an empty one, a batch leaves it
    out. A secret with a ``primary_region`` other than this one is a replica.
    """

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    refuses: str | None = None
    deleted_at: datetime | None = None
    created_at: datetime | None = None
    primary_region: str | None = None
    versions: dict[str, str | bytes] = field(default_factory=dict, repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    clock: Callable[[], datetime] = _now
    created: dict[str, datetime] = field(default_factory=dict)
    _written: int = 0

    @property
    def value(self) -> str | bytes | None:
        """What is current."""
        return self.versions.get(self.labels.get(CURRENT, ""))

    def write(
        self, value: str | bytes, *, labels: Sequence[str] = (CURRENT,), token: str = ""
    ) -> str:
        """Add a version, unless ``token`` names one, and move the labels to it; return its id."""
        self._written += 1
        version = token or f"v{self._written}"
        if version in self.versions:
            return version
        is_first = not self.versions
        self.versions[version] = value
        self.created[version] = self.clock()
        for label in dict.fromkeys([*labels, CURRENT] if is_first else labels):
            self.move(label, version)
        return version

    def move(self, label: str, version: str | None) -> None:
        """Move a label to a version, or take it away, and AWSPREVIOUS after AWSCURRENT."""
        holder = self.labels.pop(label, None)
        if version is not None:
            self.labels[label] = version
        if label == CURRENT and holder not in (None, version):
            assert holder is not None
            self.labels[PREVIOUS] = holder
        # AWS lets versions without a label go sooner or later: here it is at once.
        labelled = set(self.labels.values())
        self.versions = {each: kept for each, kept in self.versions.items() if each in labelled}

    def stages(self) -> dict[str, list[str]]:
        """Return the labels by version."""
        stages: dict[str, list[str]] = {}
        for label, version in self.labels.items():
            stages.setdefault(version, []).append(label)
        return stages


def _operation(method: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Make a method a call: it is recorded, may fail or wait, and is carried out as a whole."""
    name = "".join(part.title() for part in method.__name__.split("_"))

    @wraps(method)
    def called(self: "FakeSecretsManager", **request: Any) -> dict[str, Any]:
        self._arrive(SecretsManagerCall(name, request))
        with self._lock:
            return method(self, **request)

    return called


class FakeSecretsManager:
    """The secrets of one region. Secrets are found by ARN or name.

    ``page_size`` is how many secrets it lists at once, ``tags`` are those of a secret that is added
    without any. ``fails_with`` makes every call fail. ``before`` is called with each call before
    it is carried out: it may raise, wait, or write as another client does meanwhile. While
    ``may_answer`` is not set, calls wait; ``is_asked`` says that one came. Versions are dated by
    ``clock``.
    """

    exceptions: ClassVar = _Exceptions

    def __init__(
        self,
        *,
        page_size: int = 100,
        tags: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.page_size = page_size
        self.clock = clock
        self.secrets: dict[str, FakeSecret] = {}
        self.recorded: list[SecretsManagerCall] = []
        self.fails_with: Exception | None = None
        self.before: Callable[[SecretsManagerCall], None] = lambda _call: None
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        # What a client's events get: by the name of an event, what is called then.
        self.hooks: dict[str, Callable[..., None]] = {}
        self.meta = SimpleNamespace(events=SimpleNamespace(register=self._register))
        self._tags = dict(tags or {})
        self._lock = threading.Lock()

    # --- for the tests ----------------------------------------------------------------------------

    @property
    def calls(self) -> list[str]:
        """The operations of all calls, in their order."""
        return [call.operation for call in self.recorded]

    def add(
        self,
        name: str,
        value: str | bytes | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        **more: Any,
    ) -> str:
        """Add a secret, with what FakeSecret can be besides, and return its ARN. It is no call."""
        given = dict(self._tags if tags is None else tags)
        secret = FakeSecret(name, given, clock=self._now, **more)
        if value is not None:
            secret.write(value)
        self.secrets[arn(name)] = secret
        return arn(name)

    def hold(self, secret_id: str, value: str | None) -> None:
        """Have somebody else make this the secret's value, or take every value out of it."""
        secret = self.secret(secret_id)
        if value is None:
            secret.versions.clear()
            secret.labels.clear()
        else:
            secret.write(value)

    def secret(self, secret_id: str) -> FakeSecret:
        """Return the secret with this ARN or name."""
        return self.secrets[secret_id if secret_id in self.secrets else arn(secret_id)]

    # --- the calls --------------------------------------------------------------------------------

    @_operation
    def create_secret(
        self,
        *,
        Name: str,
        SecretString: str | None = None,
        SecretBinary: bytes | None = None,
        ClientRequestToken: str = "",
        Tags: Sequence[Mapping[str, str]] = (),
        **_: Any,
    ) -> dict[str, Any]:
        there = self.secrets.get(arn(Name))
        if there is not None and there.deleted_at is not None:
            raise _refused("CreateSecret", _InvalidRequestError)
        if there is not None:
            raise _refused("CreateSecret", _ExistsError)
        secret = FakeSecret(Name, _by_key(Tags), clock=self._now)
        self.secrets[arn(Name)] = secret
        answer = {"ARN": arn(Name), "Name": Name}
        value = SecretBinary if SecretString is None else SecretString
        if value is not None:
            answer["VersionId"] = secret.write(value, token=ClientRequestToken)
        return answer

    @_operation
    def get_secret_value(
        self, *, SecretId: str, VersionId: str = "", VersionStage: str = ""
    ) -> dict[str, Any]:
        assert not (VersionId and VersionStage), "not needed so far"
        secret = self._live("GetSecretValue", SecretId)
        if secret.refuses:
            raise _refused("GetSecretValue", ClientError, secret.refuses)
        version = VersionId or secret.labels.get(VersionStage or CURRENT, "")
        if version not in secret.versions:
            raise _refused("GetSecretValue", _NotFoundError)
        return _value(secret, version)

    @_operation
    def batch_get_secret_value(self, *, SecretIdList: Sequence[str]) -> dict[str, Any]:
        assert 1 <= len(SecretIdList) <= _BATCH, "AWS refuses it"
        values, errors = [], []
        for secret_id in SecretIdList:
            secret = self._found(secret_id)
            if secret is None or secret.value is None:
                code: str | None = "ResourceNotFoundException"
            else:
                code = secret.refuses if secret.deleted_at is None else "InvalidRequestException"
            if secret is not None and code is None:
                values.append(_value(secret, secret.labels[CURRENT]))
            elif code:
                errors.append({"SecretId": secret_id, "ErrorCode": code, "Message": "by the fake"})
        return {"SecretValues": values, "Errors": errors}

    @_operation
    def describe_secret(self, *, SecretId: str) -> dict[str, Any]:
        # Also of one that is being deleted. Without a version, AWS leaves the key out.
        secret = self._there("DescribeSecret", SecretId)
        stages = secret.stages()
        return {**_entry(secret), **({"VersionIdsToStages": stages} if stages else {})}

    @_operation
    def list_secrets(
        self,
        *,
        MaxResults: int = 100,
        NextToken: str = "0",
        Filters: Sequence[Mapping[str, Any]] = (),
        IncludePlannedDeletion: bool = False,
    ) -> dict[str, Any]:
        found = [
            secret
            for secret in self.secrets.values()
            if IncludePlannedDeletion or secret.deleted_at is None
            if all(_passes(secret, each) for each in Filters)
        ]
        start = int(NextToken)
        end = start + min(self.page_size, MaxResults)
        page = {"SecretList": [_entry(secret) for secret in found[start:end]]}
        return page | ({"NextToken": str(end)} if end < len(found) else {})

    @_operation
    def put_secret_value(
        self,
        *,
        SecretId: str,
        SecretString: str | None = None,
        SecretBinary: bytes | None = None,
        ClientRequestToken: str = "",
        VersionStages: Sequence[str] = (CURRENT,),
    ) -> dict[str, Any]:
        secret = self._writable("PutSecretValue", SecretId)
        value = SecretBinary if SecretString is None else SecretString
        assert value is not None, "AWS refuses it"
        if secret.versions.get(ClientRequestToken, value) != value:
            raise _refused("PutSecretValue", _ExistsError)
        version = secret.write(value, labels=VersionStages, token=ClientRequestToken)
        stages = secret.stages()[version]
        return {**_names(secret), "VersionId": version, "VersionStages": stages}

    @_operation
    def update_secret_version_stage(
        self,
        *,
        SecretId: str,
        VersionStage: str,
        MoveToVersionId: str | None = None,
        RemoveFromVersionId: str | None = None,
    ) -> dict[str, Any]:
        secret = self._writable("UpdateSecretVersionStage", SecretId)
        if MoveToVersionId is not None and MoveToVersionId not in secret.versions:
            raise _refused("UpdateSecretVersionStage", _NotFoundError)
        # AWSCURRENT has to be somewhere.
        leaves_none = VersionStage == CURRENT and MoveToVersionId is None
        if leaves_none or secret.labels.get(VersionStage) != RemoveFromVersionId:
            raise _refused("UpdateSecretVersionStage", _InvalidParameterError)
        secret.move(VersionStage, MoveToVersionId)
        return _names(secret)

    @_operation
    def tag_resource(self, *, SecretId: str, Tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        self._live("TagResource", SecretId).tags.update(_by_key(Tags))
        return {}

    @_operation
    def untag_resource(self, *, SecretId: str, TagKeys: Sequence[str]) -> dict[str, Any]:
        tags = self._live("UntagResource", SecretId).tags
        for key in TagKeys:
            tags.pop(key, None)
        return {}

    @_operation
    def delete_secret(
        self, *, SecretId: str, ForceDeleteWithoutRecovery: bool = False, **_: Any
    ) -> dict[str, Any]:
        if ForceDeleteWithoutRecovery:
            self.secrets.pop(SecretId if SecretId in self.secrets else arn(SecretId), None)
            return {}
        secret = self._live("DeleteSecret", SecretId)
        secret.deleted_at = datetime.now(UTC)
        return {**_names(secret), "DeletionDate": secret.deleted_at}

    # --- inside -----------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return self.clock()

    def _register(self, event: str, hook: Callable[..., None], *, unique_id: str) -> None:
        assert unique_id
        self.hooks[event] = hook

    def _arrive(self, call: SecretsManagerCall) -> None:
        self.recorded.append(call)
        self.is_asked.set()
        assert self.may_answer.wait(_SOON), "nobody let the call go on"
        if hook := self.hooks.get(f"before-send.secrets-manager.{call.operation}"):
            hook(request=None)
        self.before(call)
        if self.fails_with is not None:
            raise self.fails_with

    def _found(self, secret_id: str) -> FakeSecret | None:
        return self.secrets.get(secret_id) or self.secrets.get(arn(secret_id))

    def _there(self, operation: str, secret_id: str) -> FakeSecret:
        secret = self._found(secret_id)
        if secret is None:
            raise _refused(operation, _NotFoundError)
        return secret

    def _live(self, operation: str, secret_id: str) -> FakeSecret:
        secret = self._there(operation, secret_id)
        if secret.deleted_at is not None:
            raise _refused(operation, _InvalidRequestError)
        return secret

    def _writable(self, operation: str, secret_id: str) -> FakeSecret:
        secret = self._live(operation, secret_id)
        if secret.primary_region not in (None, REGION):
            raise _refused(operation, _InvalidRequestError)
        return secret


def _passes(secret: FakeSecret, wanted: Mapping[str, Any]) -> bool:
    """Say whether a filter lets the secret through: AWS finds what begins with a value, too."""
    prefixes = tuple(wanted["Values"])
    looked_at = {
        "tag-key": [*secret.tags],
        "tag-value": [*secret.tags.values()],
        "name": [secret.name],
    }
    return any(each.startswith(prefixes) for each in looked_at[wanted["Key"]])


def _names(secret: FakeSecret) -> dict[str, Any]:
    return {"ARN": arn(secret.name), "Name": secret.name}


def _entry(secret: FakeSecret) -> dict[str, Any]:
    found = _names(secret)
    # AWS leaves out what there is not.
    if secret.tags:
        found["Tags"] = [{"Key": key, "Value": value} for key, value in secret.tags.items()]
    if secret.deleted_at is not None:
        found["DeletedDate"] = secret.deleted_at
    if secret.created_at is not None:
        found["CreatedDate"] = secret.created_at
    if secret.primary_region is not None:
        found["PrimaryRegion"] = secret.primary_region
    return found


def _value(secret: FakeSecret, version: str) -> dict[str, Any]:
    value = secret.versions[version]
    return {
        **_names(secret),
        "VersionId": version,
        "VersionStages": secret.stages()[version],
        "CreatedDate": secret.created[version],
        ("SecretBinary" if isinstance(value, bytes) else "SecretString"): value,
    }


def _by_key(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


def _refused(operation: str, kind: type[ClientError], code: str = "") -> ClientError:
    named = next((name for name, each in vars(_Exceptions).items() if each is kind), code)
    refused: Any = {
        "Error": {"Code": named, "Message": "by the fake"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    return kind(refused, operation)
