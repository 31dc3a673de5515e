"""What the auths for ``requests`` and ``httpx`` share."""

from typing import Self, Unpack

from .errors import ConfigError
from .origin import BASE_URL, Origin
from .shared_token import SharedToken, Source, SourceOptions


class SourceAuth:
    """A token source and the tokens' origin. Subclasses adapt it to an HTTP library."""

    def __init__(self, source: Source, *, base_url: str = BASE_URL) -> None:
        """Take tokens from ``source``, for the origin of ``base_url`` only.

        Raises:
            ConfigError: a token may not be sent to ``base_url``.
        """
        self._source = source
        self._origin = Origin(base_url)

    @classmethod
    def from_secret(
        cls, secret_id: str, *, base_url: str = BASE_URL, **options: Unpack[SourceOptions]
    ) -> Self:
        """Take tokens from the process's shared source for this secret (``SharedToken.of``)."""
        return cls(SharedToken.of(secret_id, **options), base_url=base_url)

    def _through_a_proxy(self) -> ConfigError:
        """Return the error for plain http to our origin through a proxy."""
        return ConfigError(
            f"the token for {self._origin} would go through a proxy in the clear: add "
            f"{self._origin.host} to NO_PROXY, and give the session no proxy for http"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._origin}, token=[redacted])"
