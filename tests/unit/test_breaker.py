"""The breaker: when it stops asking the API, and what it raises from then on."""

from datetime import timedelta

import pytest

from breaker import Breaker
from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    Token,
    TokenRejectedError,
)
from tests.fakes import FakeQwen
from tests.minting import NOW, token

PATIENCE = timedelta(seconds=10)


def of(account: str) -> Token:
    return token(left=timedelta(days=2), account=account)


def in_trouble(asked: Token) -> Token | Exception:
    if str(asked.account).startswith("dead"):
        return TokenRejectedError("refused")
    if str(asked.account).startswith("limited"):
        return RateLimitedError("slow down", expires_at=NOW)
    return token(left=timedelta(days=7), account=str(asked.account))


def ask(breaker: Breaker, *accounts: str) -> list[str | None]:
    """Return the reasons with which refreshing these accounts' tokens failed, one after another."""
    reasons: list[str | None] = []
    for account in accounts:
        try:
            breaker.refresh(of(account), within=PATIENCE)
        except QwenTokenError as error:
            reasons.append(error.reason)
        else:
            reasons.append(None)
    return reasons


@pytest.fixture(name="qwen")
def _qwen() -> FakeQwen:
    return FakeQwen(in_trouble)


@pytest.fixture(name="breaker")
def _breaker(qwen: FakeQwen) -> Breaker:
    return Breaker(lambda: qwen)


def test_after_trouble_of_two_accounts_nobody_is_asked_any_more(
    breaker: Breaker, qwen: FakeQwen
) -> None:
    assert ask(breaker, "limited-1", "limited-2", "good") == ["rate_limited"] * 3
    assert len(qwen.asked) == 2


def test_trouble_of_one_account_opens_nothing_however_often(
    breaker: Breaker, qwen: FakeQwen
) -> None:
    ask(breaker, *["limited-1"] * 3)

    assert ask(breaker, "good") == [None]
    assert len(qwen.asked) == 4


def test_an_answer_in_between_begins_the_count_anew(breaker: Breaker) -> None:
    ask(breaker, "limited-1", "good", "limited-2")

    assert ask(breaker, "good") == [None]


def test_a_failure_that_speaks_of_a_token_opens_nothing(breaker: Breaker) -> None:
    assert ask(breaker, "dead-1", "dead-2", "good") == ["token_rejected", "token_rejected", None]


def test_what_it_raises_for_others_has_no_expiry_and_leaves_the_first_as_it_was(
    breaker: Breaker,
) -> None:
    ask(breaker, "limited-1", "limited-2")

    with pytest.raises(RateLimitedError) as caught:
        breaker.verify(of("good"), within=PATIENCE)
    assert caught.value.expires_at is None
    cause = caught.value.__cause__
    assert isinstance(cause, RateLimitedError)
    assert cause.expires_at == NOW


def test_an_answer_is_handed_on(breaker: Breaker) -> None:
    assert breaker.verify(of("good"), within=PATIENCE) == "good"
    assert breaker.refresh(of("good"), within=PATIENCE).account == "good"


def test_the_apis_client_is_made_when_first_needed_and_once(qwen: FakeQwen) -> None:
    made: list[FakeQwen] = []

    def make() -> FakeQwen:
        made.append(qwen)
        return qwen

    breaker = Breaker(make)
    assert made == []
    ask(breaker, "good", "better")
    assert made == [qwen]
