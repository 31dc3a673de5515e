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
from qwen_token.errors import (
    RunFacts,
    SessionMalformedError,
    SessionRejectedError,
    SignInRefusedError,
)
from qwen_token.policy import (
    AlertPolicy,
    Severity,
    TokenState,
    assess,
    due_before,
    expires_later,
    is_braked,
    pause_after,
    require_better,
    require_long_lived,
    severity,
)
from qwen_token.stored_token import StoredToken
from tests.minting import ACCOUNT, NOW, token

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ALERTS = AlertPolicy(alert_after=HOUR, critical_before=DAY)


@pytest.mark.parametrize(
    ("written", "braked"),
    [
        pytest.param(None, False, id="by a person"),
        pytest.param(10 * MINUTE, False, id="ten minutes ago"),
        pytest.param(10 * MINUTE - SECOND, True, id="a moment later than that"),
        pytest.param(-MINUTE, True, id="in a minute, by a clock that is a little ahead"),
        pytest.param(-5 * HOUR, False, id="in five hours: the clocks say nothing"),
    ],
)
def test_a_version_that_was_just_written_is_braked(
    written: timedelta | None, *, braked: bool
) -> None:
    written_at = None if written is None else NOW - written
    held = StoredToken(token(left=DAY), "1", "", written_at=written_at)
    assert is_braked(held, now=NOW) is braked


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


@pytest.mark.parametrize(
    ("lifetime", "due"),
    [
        pytest.param(15 * MINUTE, 5 * MINUTE + 30 * SECOND, id="a quarter of an hour"),
        pytest.param(HOUR, 20 * MINUTE + 30 * SECOND, id="an hour"),
        pytest.param(3 * DAY, DAY + 30 * SECOND, id="exactly the window"),
        pytest.param(3 * DAY + SECOND, 3 * DAY, id="a second more than the window"),
        pytest.param(30 * DAY, 3 * DAY, id="a month"),
        pytest.param(0 * DAY, 3 * DAY, id="none: a wrong clock"),
        pytest.param(-HOUR, 3 * DAY, id="less than none: a wrong clock"),
        pytest.param(None, 3 * DAY, id="an unknown one"),
    ],
)
@pytest.mark.parametrize("says", [True, False], ids=["its own word", "when it was stored"])
def test_a_token_is_due_in_the_window_or_the_last_third_of_a_short_life(
    lifetime: timedelta | None,
    due: timedelta,
    says: bool,  # noqa: FBT001 - a table's column
) -> None:
    began_at = None if lifetime is None else NOW - lifetime
    dying = replace(token(left=0 * DAY), issued_at=began_at if says else None)
    written_at = None if says else began_at

    def state(left: timedelta) -> TokenState:
        now = dying.expires_at - left
        return assess(dying, now=now, refresh_before=3 * DAY, written_at=written_at)

    assert due_before(dying, refresh_before=3 * DAY, written_at=written_at) == due
    assert state(due + SECOND) is TokenState.FRESH
    assert state(due) is TokenState.STALE
    assert state(0 * DAY) is TokenState.EXPIRED


def test_a_tokens_time_of_issue_wins_over_when_it_was_stored() -> None:
    hour = token(left=HOUR, iat=NOW.timestamp())
    stored = NOW + 45 * MINUTE
    due = due_before(hour, refresh_before=3 * DAY, written_at=stored)
    assert due == 20 * MINUTE + 30 * SECOND


def test_a_token_of_fifteen_minutes_is_due_after_ten_less_half_a_minute() -> None:
    short = token(left=15 * MINUTE, iat=NOW.timestamp())

    def state(after: timedelta) -> TokenState:
        return assess(short, now=NOW + after, refresh_before=3 * DAY)

    assert state(9 * MINUTE + 29 * SECOND) is TokenState.FRESH
    assert state(9 * MINUTE + 30 * SECOND) is TokenState.STALE


def test_a_token_that_expires_later_is_better() -> None:
    successor = token(left=DAY + SECOND)
    assert require_better(successor, than=token(left=DAY)) is successor


def test_an_echo_is_not_better() -> None:
    held = token(left=DAY)
    with pytest.raises(TokenNotExtendedError, match=r"^the API echoed .* unchanged$"):
        require_better(token(left=DAY), than=held)


def test_another_token_with_the_same_expiry_is_not_better() -> None:
    held = token(left=DAY)
    other = replace(held, raw=f"{held.raw}x")
    with pytest.raises(TokenNotExtendedError, match="no later"):
        require_better(other, than=held)


def test_a_token_that_expires_earlier_is_not_better() -> None:
    with pytest.raises(TokenNotExtendedError, match="no later"):
        require_better(token(left=DAY - SECOND), than=token(left=DAY))


def test_another_accounts_token_is_not_better_however_long_it_lives() -> None:
    with pytest.raises(WrongAccountError) as caught:
        require_better(token(left=30 * DAY, account="mallory"), than=token(left=DAY))
    assert str(caught.value) == "the API answered with a token of another account"


def test_a_stored_token_that_lives_exactly_ten_minutes_is_long_lived() -> None:
    require_long_lived(token(left=10 * MINUTE), now=NOW)


def test_a_short_lived_stored_token_is_reported_with_its_own_expiry() -> None:
    stored = token(left=10 * MINUTE - SECOND)
    with pytest.raises(TokenShortLivedError) as caught:
        require_long_lived(stored, now=NOW)
    assert caught.value.expires_at == stored.expires_at
    assert str(caught.value) == (
        "the new token was stored, but it expires at 2026-11-24T12:09:59+00:00 already: less than "
        "0:10:00 from now"
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
        SessionMalformedError,
        SessionRejectedError,
        SignInRefusedError,
        ConfigError,
    ],
)
def test_what_only_a_person_can_mend_is_critical_at_once(kind: type[QwenTokenError]) -> None:
    error = kind("…", expires_at=NOW + 7 * DAY)
    assert severity(error, now=NOW, since=NOW, policy=ALERTS) is Severity.CRITICAL


@pytest.mark.parametrize(
    ("next_sign_in", "expected"),
    [
        pytest.param(None, Severity.CRITICAL, id="no sign-in would help"),
        pytest.param(2 * DAY - SECOND, Severity.NOTICE, id="a second before the token expires"),
        pytest.param(2 * DAY, Severity.CRITICAL, id="as the token expires"),
    ],
)
@pytest.mark.parametrize("kind", [TokenNotExtendedError, SessionRejectedError])
def test_what_a_later_sign_in_mends_in_time_may_pass(
    kind: type[QwenTokenError], next_sign_in: timedelta | None, expected: Severity
) -> None:
    at = None if next_sign_in is None else NOW + next_sign_in
    error = kind("…").of_run(RunFacts(next_sign_in_at=at), expires_at=NOW + 2 * DAY)

    assert severity(error, now=NOW, since=NOW, policy=ALERTS) is expected


PASSING = [
    RateLimitedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    StoreError,
]


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize(
    ("left", "of_session", "of_exchange"),
    [
        pytest.param(DAY, Severity.NOTICE, Severity.NOTICE, id="exactly the critical time left"),
        pytest.param(DAY - SECOND, Severity.NOTICE, Severity.CRITICAL, id="less than that left"),
        pytest.param(SECOND, Severity.NOTICE, Severity.CRITICAL, id="a second left"),
        pytest.param(0 * DAY, Severity.CRITICAL, Severity.CRITICAL, id="expired this moment"),
        pytest.param(-DAY, Severity.CRITICAL, Severity.CRITICAL, id="expired"),
        pytest.param(None, Severity.NOTICE, Severity.NOTICE, id="unknown"),
    ],
)
def test_what_may_pass_by_itself_is_critical_near_the_end(
    kind: type[QwenTokenError],
    left: timedelta | None,
    of_session: Severity,
    of_exchange: Severity,
) -> None:
    expires_at = None if left is None else NOW + left
    for is_exchanged, expected in ((False, of_session), (True, of_exchange)):
        error = kind("…").of_run(RunFacts(is_exchanged=is_exchanged), expires_at=expires_at)
        assert severity(error, now=NOW, since=NOW, policy=ALERTS) is expected
    without_a_run = kind("…", expires_at=expires_at)
    assert severity(without_a_run, now=NOW, since=NOW, policy=ALERTS) is of_session


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize(
    ("age", "expected"),
    [
        pytest.param(0 * HOUR, Severity.NOTICE, id="new"),
        pytest.param(HOUR - SECOND, Severity.NOTICE, id="a second less than an hour"),
        pytest.param(HOUR, Severity.WARNING, id="exactly an hour"),
        pytest.param(30 * DAY, Severity.WARNING, id="a month"),
    ],
)
def test_what_may_pass_by_itself_is_a_warning_when_it_has_not_for_an_hour(
    kind: type[QwenTokenError], age: timedelta, expected: Severity
) -> None:
    error = kind("…", expires_at=NOW + 7 * DAY)
    assert severity(error, now=NOW, since=NOW - age, policy=ALERTS) is expected


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
