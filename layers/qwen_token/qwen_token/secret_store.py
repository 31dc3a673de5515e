"""The secret in Secrets Manager: read it, stage a successor, promote it as compare-and-swap."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, no subclass of the builtin
    CredentialRetrievalError,
    HTTPClientError,
    NoRegionError,
)

from .errors import ConfigError, StoreError, TokenMalformedError, TokenMissingError
from .stored_token import StoredToken, parse, rendered
from .tokens import Token

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import GetSecretValueResponseTypeDef

CURRENT: Final = "AWSCURRENT"
PREVIOUS: Final = "AWSPREVIOUS"
# Not AWSPENDING: that one is native rotation's, and left behind it makes RotateSecret fail.
PENDING: Final = "QWEN_PENDING"

# botocore's defaults (60 s each) would outlast the function. These make the keeper's
# STORE_CALL_LIMIT: two attempts of seven seconds, and the standard mode's wait (at most one second)
# between them. With one address to connect to, that is: each further one that is silent costs two
# seconds more in each attempt, and nothing bounds a name look-up.
AWS_CONFIG: Final = Config(
    connect_timeout=2,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 2},
)

# Answers, or the lack of them, that say nothing about the secret or the caller's permissions; with
# the server errors (5xx) and these codes of other statuses.
_PASSING: Final = (HTTPClientError, ConnectionError, CredentialRetrievalError)
_PASSING_CODES: Final = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException"})


class SecretStore:
    """One secret, bare token or JSON object; the shape found is the shape kept.

    ``client`` is boto3's for Secrets Manager, made with ``AWS_CONFIG``. Every method raises
    StoreError where Secrets Manager refuses or fails.
    """

    def __init__(self, client: "SecretsManagerClient", secret_id: str) -> None:
        self._client = client
        self.secret_id = secret_id

    @classmethod
    def open(cls, secret_id: str, client: "SecretsManagerClient | None" = None) -> Self:
        """Return the secret, over ``client`` or one made for it, in the region that an ARN names.

        Raises:
            ConfigError: no region is known, or no client can be made.
        """
        return cls(client or new_client("secretsmanager", secret_id, AWS_CONFIG), secret_id)

    def read(self) -> StoredToken | None:
        """Return what is current, or None while the secret never had a value.

        Raises:
            TokenMissingError: the secret had a value, but holds no token now.
            TokenMalformedError: what it holds is none.
        """
        with translated(f"read the secret {self.secret_id}"):
            try:
                response = self._get_current()
            except self._client.exceptions.ResourceNotFoundException:
                # Either there is no value or no secret: describing it tells which.
                if self._never_had_a_value():
                    return None
                raise TokenMissingError("the secret has no current value") from None
            is_empty = not (response.get("SecretString") or response.get("SecretBinary"))
            if is_empty and self._never_had_a_value():
                return None
        return held_in(response)

    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken:
        """Write ``successor`` as a new version under QWEN_PENDING; readers do not see it yet."""
        with translated("stage the new token"):
            return self._write(successor, over=over.text, label=PENDING)

    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        """Return ``candidate`` if its value is what staging its token would write; else stage that.

        An older version may hold the other keys as they were, or the token as it was pasted.
        """
        if candidate.text == rendered(candidate.token, over=over.text):
            return candidate
        return self.stage(candidate.token, over=over)

    def put(self, token: Token) -> StoredToken:
        """Make ``token`` current, whatever is there now: for people, who know what they do.

        The shape and the other keys are kept even where the old token cannot be read.
        """
        with translated("put the token in"):
            try:
                text = _text(self._get_current())
            except self._client.exceptions.ResourceNotFoundException:
                text = ""
            return self._write(token, over=text, label=CURRENT)

    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken:
        """Move AWSCURRENT from ``over`` to ``staged``, and return what is current then.

        That is ``staged``, unless another writer was faster: its version is kept and returned.
        A call that failed may still have been carried out, so it is the label that decides.
        """
        try:
            self._client.update_secret_version_stage(
                SecretId=self.secret_id,
                VersionStage=CURRENT,
                MoveToVersionId=staged.version_id,
                RemoveFromVersionId=over.version_id,
            )
        except (BotoCoreError, ClientError) as error:
            current = self.read()
            if current is None or current.version_id == over.version_id:
                raise _store_error("promote the new token", error) from error
            return current
        return staged

    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        """Return the staged and the previous tokens of the same account, latest expiry first.

        Versions that hold no token, or another account's, are left out.
        """
        with translated("look for other versions"):
            labels = self._client.describe_secret(SecretId=self.secret_id).get(
                "VersionIdsToStages", {}
            )
            found = [
                held
                for version_id, stages in labels.items()
                if version_id != to.version_id and {PENDING, PREVIOUS} & set(stages)
                if (held := self._read_version(version_id)) is not None
                if held.token.account == to.token.account
            ]
        return sorted(found, key=lambda held: held.token.expires_at, reverse=True)

    def _get_current(self) -> "GetSecretValueResponseTypeDef":
        return self._client.get_secret_value(SecretId=self.secret_id, VersionStage=CURRENT)

    def _write(self, token: Token, *, over: str, label: str) -> StoredToken:
        text = rendered(token, over=over)
        # botocore names a ClientRequestToken, the same in each attempt: a retry adds no version.
        response = self._client.put_secret_value(
            SecretId=self.secret_id, SecretString=text, VersionStages=[label]
        )
        return StoredToken(token, response["VersionId"], text)

    def _read_version(self, version_id: str) -> StoredToken | None:
        response = self._client.get_secret_value(SecretId=self.secret_id, VersionId=version_id)
        try:
            return held_in(response)
        except (TokenMissingError, TokenMalformedError):
            return None

    def _never_had_a_value(self) -> bool:
        """Say whether this is a new secret: AWS gives it no version, an emulator an empty one."""
        described = self._client.describe_secret(SecretId=self.secret_id)
        return len(described.get("VersionIdsToStages", {})) <= 1


def _text(answer: Mapping[str, Any]) -> str:
    """Return the value, an empty text where it is binary or there is none."""
    text: str = answer.get("SecretString", "")
    return text


def held_in(answer: Mapping[str, Any]) -> StoredToken:
    """Read what Secrets Manager answers of one version, when asked for a value.

    That is a JSON object with the token under ``token``, or the bare token.

    Raises:
        TokenMissingError: there is no token in it.
        TokenMalformedError: what is there is none.
    """
    if "SecretBinary" in answer:
        raise TokenMalformedError("the secret's value is binary: store it as a string")
    return parse(_text(answer), answer["VersionId"])


def new_client(
    service: Literal["secretsmanager", "lambda"], name_or_arn: str, config: Config
) -> Any:
    """Make a client in the region of the ARN, or else in the one that boto3 finds.

    Raises:
        ConfigError: no region is known, or no client can be made.
    """
    # Services that give a client of their own need no boto3.
    import boto3  # noqa: PLC0415

    parts = name_or_arn.split(":")
    region = parts[3] if parts[0] == "arn" and len(parts) > 3 else None  # noqa: PLR2004 - an ARN's
    try:
        # A session of its own: boto3's default one is not safe to make clients in several threads.
        return boto3.Session().client(service, region_name=region or None, config=config)
    except NoRegionError as error:
        raise ConfigError(
            "no AWS region is known: set AWS_DEFAULT_REGION, or name the secret by its ARN"
        ) from error
    except BotoCoreError as error:
        raise ConfigError(
            f"no client for {service} can be made: {type(error).__name__}; look at the AWS "
            "configuration of this process"
        ) from error


@contextmanager
def translated(step: str) -> Iterator[None]:
    """Raise what boto3 raises inside as a StoreError of this step."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise _store_error(step, error) from error


def _store_error(step: str, error: BotoCoreError | ClientError) -> StoreError:
    """Name the step and AWS's code; AWS's message stays in the cause."""
    if isinstance(error, ClientError):
        # botocore's own say both; those that a service's tests make up may not.
        code = error.response.get("Error", {}).get("Code", "unknown")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        may_pass = code in _PASSING_CODES or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    else:
        code = type(error).__name__
        may_pass = isinstance(error, _PASSING)
    return StoreError(f"Secrets Manager could not {step}: {code}", may_pass=may_pass)
