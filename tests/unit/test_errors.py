"""The error tree: its identifiers, and the facts that an error keeps wherever it is taken."""

import copy
import pickle
from collections.abc import Callable
from datetime import timedelta

import pytest

from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    StoreError,
    TokenRejectedError,
    UpstreamUnavailableError,
    errors,
)
from tests.minting import NOW

HOUR = timedelta(hours=1)

WITH_FACTS = [
    TokenRejectedError("dead", expires_at=NOW),
    RateLimitedError("slowly", retry_after=HOUR, expires_at=NOW),
    StoreError("throttled", may_pass=True, expires_at=NOW),
]


def test_every_failure_has_a_reason_of_its_own_and_advice() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, QwenTokenError) and "reason" in vars(kind)
    ]
    assert {kind.reason for kind in kinds} == {
        "token_missing",
        "token_malformed",
        "token_rejected",
        "token_not_extended",
        "token_short_lived",
        "wrong_account",
        "session_malformed",
        "session_rejected",
        "sign_in_refused",
        "rate_limited",
        "upstream_blocked",
        "upstream_unavailable",
        "upstream_unexpected",
        "store_failed",
        "config_invalid",
    }
    assert len(kinds) == 15
    assert all(kind.advice.endswith(".") and kind.__name__.endswith("Error") for kind in kinds)


def test_what_is_not_said_is_not_known() -> None:
    assert UpstreamUnavailableError("down").expires_at is None
    assert RateLimitedError("slowly").retry_after is None
    assert StoreError("denied").may_pass is False


@pytest.mark.parametrize("error", WITH_FACTS, ids=lambda error: error.reason)
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],  # noqa: S301 - our own bytes
    ids=["copied", "copied deeply", "pickled"],
)
def test_an_error_keeps_its_facts_when_it_is_copied(
    copied: Callable[[QwenTokenError], QwenTokenError], error: QwenTokenError
) -> None:
    twin = copied(error)

    assert twin is not error
    assert type(twin) is type(error)
    assert (str(twin), vars(twin)) == (str(error), vars(error))


@pytest.mark.parametrize("error", WITH_FACTS, ids=lambda error: error.reason)
def test_a_copy_with_another_expiry_keeps_facts_and_cause(
    error: QwenTokenError,
) -> None:
    before = dict(vars(error))
    other = error.with_expiry(NOW + HOUR)

    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == before | {"expires_at": NOW + HOUR}
    assert vars(error) == before


def test_with_another_expiry_an_error_still_shows_where_and_why_it_was_raised() -> None:
    cause = OSError("the network")
    with pytest.raises(UpstreamUnavailableError) as caught:
        raise UpstreamUnavailableError("down") from cause
    other = caught.value.with_expiry(NOW)

    assert other.__cause__ is cause
    assert other.__traceback__ is caught.value.__traceback__


class DiskError(StoreError):
    """A subclass whose constructor takes other arguments."""

    def __init__(self, number: int) -> None:
        super().__init__("the disk failed", may_pass=True)
        self.args = (number,)


def test_an_error_of_a_subclass_with_another_constructor_may_get_an_expiry() -> None:
    other = DiskError(28).with_expiry(NOW)
    assert (other.args, other.expires_at, other.may_pass) == ((28,), NOW, True)
