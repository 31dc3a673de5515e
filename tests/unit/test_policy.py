"""The decisions: every boundary, once on each side."""

from dataclasses import replace
from datetime import timedelta

import pytest

from qwen_token import (
    ConfigError,
    QwenTokenError,
    RateLimitedError,
    StoreError,
    TokenMalformedError,
    TokenMissingError,
    TokenNotExtendedError,
    TokenRejectedError,
    TokenShortLivedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
)
from qwen_token.policy import (
    Severity,
    TokenState,
    assess,
    expires_later,
    pause_after,
    require_better,
    require_long_lived,
    severity,
)
from tests.minting import ACCOUNT, NOW, token

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("left", "state"),
    [
        pytest.param(7 * DAY, TokenState.FRESH, id="a week"),
        pytest.param(3 * DAY + SECOND, TokenState.FRESH, id="a second more than the window"),
        pytest.param(3 * DAY, TokenState.STALE, id="exactly the window"),
        pytest.param(SECOND, TokenState.STALE, id="a second"),
        pytest.param(0 * DAY, TokenState.EXPIRED, id="exactly none"),
        pytest.param(-SECOND, TokenState.EXPIRED, id="a second ago"),
    ],
)
def test_a_token_is_placed_on_its_timeline(left: timedelta, state: TokenState) -> None:
    assert assess(token(left=left), now=NOW, refresh_before=3 * DAY) is state


def test_a_token_that_expires_later_is_better() -> None:
    successor = token(left=DAY + SECOND)
    assert require_better(successor, than=token(left=DAY)) is successor


def test_an_echo_is_no_better() -> None:
    held = token(left=DAY)
    with pytest.raises(TokenNotExtendedError, match=r"^the API echoed .* unchanged$"):
        require_better(token(left=DAY), than=held)


def test_another_token_that_expires_at_the_same_time_is_no_better() -> None:
    held = token(left=DAY)
    other = replace(held, raw=f"{held.raw}x")
    with pytest.raises(TokenNotExtendedError, match="no later"):
        require_better(other, than=held)


def test_a_token_that_expires_earlier_is_no_better() -> None:
    with pytest.raises(TokenNotExtendedError, match="no later"):
        require_better(token(left=DAY - SECOND), than=token(left=DAY))


def test_another_accounts_token_is_no_better_however_long_it_lives() -> None:
    with pytest.raises(WrongAccountError) as caught:
        require_better(token(left=30 * DAY, account="mallory"), than=token(left=DAY))
    assert str(caught.value) == "the API answered with a token of another account"


def test_a_stored_token_that_lives_exactly_the_critical_time_is_long_lived() -> None:
    require_long_lived(token(left=DAY), now=NOW, critical_before=DAY)


def test_a_stored_token_that_lives_less_is_reported_with_its_own_expiry() -> None:
    stored = token(left=timedelta(minutes=15))
    with pytest.raises(TokenShortLivedError) as caught:
        require_long_lived(stored, now=NOW, critical_before=DAY)
    assert caught.value.expires_at == stored.expires_at
    assert str(caught.value) == (
        "the new token was stored, but it expires at 2026-11-24T12:15:00+00:00 already: less than "
        "1 day, 0:00:00 from now"
    )


@pytest.mark.parametrize(
    "kind",
    [
        TokenMissingError,
        TokenMalformedError,
        TokenRejectedError,
        TokenNotExtendedError,
        TokenShortLivedError,
        WrongAccountError,
        ConfigError,
    ],
)
def test_what_only_a_person_can_mend_is_critical_at_once(kind: type[QwenTokenError]) -> None:
    error = kind("…", expires_at=NOW + 7 * DAY)
    assert severity(error, now=NOW, critical_before=DAY) is Severity.CRITICAL


@pytest.mark.parametrize(
    "kind",
    [
        RateLimitedError,
        UpstreamBlockedError,
        UpstreamUnavailableError,
        UpstreamUnexpectedError,
        StoreError,
    ],
)
@pytest.mark.parametrize(
    ("left", "expected"),
    [
        pytest.param(DAY, Severity.WARNING, id="exactly the critical time left"),
        pytest.param(DAY - SECOND, Severity.CRITICAL, id="less than the critical time left"),
        pytest.param(-DAY, Severity.CRITICAL, id="expired"),
        pytest.param(None, Severity.WARNING, id="unknown"),
    ],
)
def test_what_may_pass_by_itself_is_critical_near_the_end(
    kind: type[QwenTokenError], left: timedelta | None, expected: Severity
) -> None:
    error = kind("…", expires_at=None if left is None else NOW + left)
    assert severity(error, now=NOW, critical_before=DAY) is expected


@pytest.mark.parametrize(
    ("error", "failures", "remaining", "pause"),
    [
        pytest.param(UpstreamUnavailableError("…"), 1, DAY, MINUTE, id="the first"),
        pytest.param(UpstreamUnavailableError("…"), 2, DAY, 2 * MINUTE, id="twice as long"),
        pytest.param(UpstreamUnavailableError("…"), 6, DAY, 32 * MINUTE, id="and again"),
        pytest.param(UpstreamUnavailableError("…"), 7, DAY, HOUR, id="up to an hour"),
        pytest.param(UpstreamUnavailableError("…"), 10**6, DAY, HOUR, id="for ever"),
        pytest.param(StoreError("…"), 9, 30 * MINUTE, 15 * MINUTE, id="halfway to the end"),
        pytest.param(StoreError("…"), 9, MINUTE, MINUTE, id="a minute at least"),
        pytest.param(StoreError("…"), 9, timedelta(0), HOUR, id="past the end"),
        pytest.param(StoreError("…"), 9, -DAY, HOUR, id="long past the end"),
        pytest.param(TokenRejectedError("…"), 1, DAY, HOUR, id="only a person can help"),
        pytest.param(ConfigError("…"), 1, DAY, HOUR, id="only who configures can help"),
        pytest.param(ValueError(), 3, DAY, 4 * MINUTE, id="whatever else"),
        pytest.param(RateLimitedError("…"), 1, DAY, 15 * MINUTE, id="fewer calls"),
        pytest.param(RateLimitedError("…"), 9, DAY, HOUR, id="fewer calls, again and again"),
        pytest.param(
            RateLimitedError("…", retry_after=3 * HOUR), 1, HOUR, 3 * HOUR, id="not before it says"
        ),
        pytest.param(
            RateLimitedError("…", retry_after=MINUTE),
            3,
            DAY,
            4 * MINUTE,
            id="no sooner than by itself",
        ),
    ],
)
def test_the_pause_after_a_failure_grows_and_looks_at_the_end(
    error: Exception, failures: int, remaining: timedelta, pause: timedelta
) -> None:
    assert pause_after(error, failures=failures, remaining=remaining) == pause


@pytest.mark.parametrize(
    ("left", "account", "later"),
    [
        (DAY, ACCOUNT, False),
        (DAY + SECOND, ACCOUNT, True),
        (2 * DAY, "somebody-else", False),
    ],
)
def test_a_token_outlives_another_of_its_account(
    left: timedelta, account: str, *, later: bool
) -> None:
    assert expires_later(token(left=left, account=account), than=token(left=DAY)) is later
