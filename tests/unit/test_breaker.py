"""The breaker: when it stops asking a host, and what it raises from then on."""

import pytest

from breaker import Breaker
from qwen_token import QwenTokenError, RateLimitedError, TokenRejectedError
from tests.minting import NOW


class Host:
    """A host, which answers each member by its name."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, member: str) -> str:
        self.asked.append(member)
        if member.startswith("dead"):
            raise TokenRejectedError("refused")
        if member.startswith("limited"):
            raise RateLimitedError("slow down", expires_at=NOW)
        return f"for {member}"


def ask(breaker: Breaker, host: Host, *members: str) -> list[str | None]:
    """Return the reasons with which asking for these members failed, one after another."""
    reasons: list[str | None] = []
    for member in members:
        try:
            breaker.ask(member, lambda: host.answer(member))  # noqa: B023 - it is called at once
        except QwenTokenError as error:
            reasons.append(error.reason)
        else:
            reasons.append(None)
    return reasons


@pytest.fixture(name="host")
def _host() -> Host:
    return Host()


@pytest.fixture(name="breaker")
def _breaker() -> Breaker:
    return Breaker()


def test_after_trouble_of_two_members_nobody_is_asked_any_more(
    breaker: Breaker, host: Host
) -> None:
    assert ask(breaker, host, "limited-1", "limited-2", "good") == ["rate_limited"] * 3
    assert len(host.asked) == 2


def test_trouble_of_one_member_opens_nothing_however_often(breaker: Breaker, host: Host) -> None:
    ask(breaker, host, *["limited-1"] * 3)

    assert ask(breaker, host, "good") == [None]
    assert len(host.asked) == 4


def test_an_answer_in_between_begins_the_count_anew(breaker: Breaker, host: Host) -> None:
    ask(breaker, host, "limited-1", "good", "limited-2")

    assert ask(breaker, host, "good") == [None]


def test_a_failure_that_speaks_of_a_token_opens_nothing(breaker: Breaker, host: Host) -> None:
    assert ask(breaker, host, "dead-1", "dead-2", "good") == [
        "token_rejected",
        "token_rejected",
        None,
    ]


def test_it_is_open_once_it_asks_no_more(breaker: Breaker, host: Host) -> None:
    ask(breaker, host, "limited-1")
    assert not breaker.is_open
    ask(breaker, host, "limited-2")
    assert breaker.is_open


def test_what_it_raises_for_others_has_no_expiry_and_leaves_the_first_as_it_was(
    breaker: Breaker, host: Host
) -> None:
    ask(breaker, host, "limited-1", "limited-2")

    with pytest.raises(RateLimitedError) as caught:
        breaker.ask("good", lambda: host.answer("good"))
    assert caught.value.expires_at is None
    cause = caught.value.__cause__
    assert isinstance(cause, RateLimitedError)
    assert cause.expires_at == NOW


def test_an_answer_is_handed_on(breaker: Breaker, host: Host) -> None:
    assert breaker.ask("good", lambda: host.answer("good")) == "for good"
