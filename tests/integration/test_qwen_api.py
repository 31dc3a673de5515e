"""The API's client against the stand-in: what each of its ways to answer means."""

from datetime import timedelta

import pytest

from localcloud import qwen as scenarios
from localcloud.qwen import SCENARIOS, QwenStandIn, Scenario
from qwen_token import (
    QwenTokenError,
    RateLimitedError,
    Token,
    TokenRejectedError,
    UpstreamBlockedError,
    UpstreamUnavailableError,
    UpstreamUnexpectedError,
    WrongAccountError,
    decode_token,
)
from qwen_token.qwen_api import QwenApi
from tests.wire import BRIEF

AMPLE = timedelta(seconds=20)

GIVES_A_TOKEN = [
    scenarios.MINTS,
    scenarios.MINTS_NEWER_CLAIMS,
    scenarios.MINTS_SHORT_LIVED,
    scenarios.RETIRES_OLD,
    # The client cannot know that these are no better: the policy compares, the keeper verifies.
    scenarios.ECHOES,
    scenarios.ISSUES_THEN_REFUSES,
]
FAILS: dict[Scenario, type[QwenTokenError]] = {
    scenarios.NAMES_ANOTHER_ACCOUNT: WrongAccountError,
    scenarios.MINTS_FOR_ANOTHER_ACCOUNT: WrongAccountError,
    scenarios.SEES_A_GUEST: WrongAccountError,
    scenarios.TOKEN_DEAD: TokenRejectedError,
    scenarios.TOKEN_DEAD_ENVELOPE: TokenRejectedError,
    scenarios.RATE_LIMITED: RateLimitedError,
    scenarios.RATE_LIMITED_RETRY_AFTER: RateLimitedError,
    scenarios.RATE_LIMITED_ENVELOPE: RateLimitedError,
    scenarios.BLOCK_PAGE: UpstreamBlockedError,
    scenarios.BLOCK_REDIRECT: UpstreamBlockedError,
    scenarios.BLOCK_JSON: UpstreamBlockedError,
    scenarios.FORBIDDEN_PAGE: UpstreamBlockedError,
    scenarios.NOT_ALLOWED_PAGE: UpstreamBlockedError,
    scenarios.UNAVAILABLE_PAGE: UpstreamUnavailableError,
    scenarios.BAD_GATEWAY_PAGE: UpstreamUnavailableError,
    scenarios.SERVER_ERROR: UpstreamUnavailableError,
    scenarios.HANGS: UpstreamUnavailableError,
    scenarios.BREAKS_OFF: UpstreamUnavailableError,
    scenarios.MINTS_WITHOUT_EXPIRY: UpstreamUnexpectedError,
    scenarios.UNAUTHORIZED_PAGE: UpstreamUnexpectedError,
    scenarios.WEB_APP_PAGE: UpstreamUnexpectedError,
    scenarios.REDIRECT_ELSEWHERE: UpstreamUnexpectedError,
    scenarios.STRANGE_JSON: UpstreamUnexpectedError,
    scenarios.STRANGE_TOKEN: UpstreamUnexpectedError,
    scenarios.EMPTY_ANSWER: UpstreamUnexpectedError,
}


@pytest.fixture(name="held")
def _held(qwen: QwenStandIn) -> Token:
    return decode_token(qwen.mint(lifetime=timedelta(days=2)))


def test_every_way_to_answer_is_in_a_table() -> None:
    assert {*GIVES_A_TOKEN, *FAILS} == set(SCENARIOS.values())


@pytest.mark.parametrize("scenario", GIVES_A_TOKEN, ids=lambda scenario: scenario.name)
def test_the_token_in_the_answer_is_returned(
    qwen: QwenStandIn, held: Token, scenario: Scenario
) -> None:
    qwen.answer_with(scenario)

    successor = QwenApi(qwen.base_url).refresh(held, within=AMPLE)

    assert successor.account == held.account
    assert qwen.read(successor.raw)
    [request] = qwen.requests
    assert (request.path, request.account) == ("/api/v1/auths/", held.account)


@pytest.mark.parametrize(
    ("scenario", "kind"),
    FAILS.items(),
    ids=lambda value: value.name if isinstance(value, Scenario) else "",
)
def test_a_failing_answer_has_its_class(
    qwen: QwenStandIn, held: Token, scenario: Scenario, kind: type[QwenTokenError]
) -> None:
    qwen.answer_with(scenario)

    with pytest.raises(QwenTokenError) as caught:
        QwenApi(qwen.base_url).refresh(held, within=BRIEF)

    assert type(caught.value) is kind
    assert not any(piece in f"{caught.value!r}" for piece in held.raw.split("."))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda qwen, _: qwen.revoke(), id="the password was changed"),
        pytest.param(lambda qwen, _: qwen.forget(), id="the account is gone"),
        pytest.param(lambda qwen, held: qwen.retire(held.raw), id="the session was ended"),
    ],
)
def test_a_dead_token_is_rejected_whatever_its_expiry(
    qwen: QwenStandIn, held: Token, spoil: object
) -> None:
    assert callable(spoil)
    spoil(qwen, held)
    client = QwenApi(qwen.base_url)
    with pytest.raises(TokenRejectedError):
        client.refresh(held, within=BRIEF)
    with pytest.raises(TokenRejectedError):
        client.verify(held, within=BRIEF)


def test_an_expired_token_is_rejected(qwen: QwenStandIn) -> None:
    expired = decode_token(qwen.mint(lifetime=-timedelta(minutes=1)))
    with pytest.raises(TokenRejectedError):
        QwenApi(qwen.base_url).refresh(expired, within=BRIEF)


def test_a_token_of_another_server_is_rejected(qwen: QwenStandIn) -> None:
    with QwenStandIn() as other:
        foreign = decode_token(other.mint())
    with pytest.raises(TokenRejectedError):
        QwenApi(qwen.base_url).refresh(foreign, within=BRIEF)


def test_a_live_token_verifies_and_an_answer_without_a_holder_does_not(
    qwen: QwenStandIn, held: Token
) -> None:
    client = QwenApi(qwen.base_url)
    assert client.verify(held, within=AMPLE) == held.account

    qwen.answer_with(scenarios.STRANGE_JSON)
    with pytest.raises(UpstreamUnexpectedError, match="no session"):
        client.verify(held, within=BRIEF)


@pytest.mark.parametrize(
    "scenario", [scenarios.NAMES_ANOTHER_ACCOUNT, scenarios.SEES_A_GUEST], ids=lambda s: s.name
)
def test_a_token_that_belongs_to_somebody_else_does_not_verify(
    qwen: QwenStandIn, held: Token, scenario: Scenario
) -> None:
    qwen.answer_with(scenario)
    with pytest.raises(WrongAccountError):
        QwenApi(qwen.base_url).verify(held, within=BRIEF)


def test_what_passes_within_the_time_is_outlived(qwen: QwenStandIn, held: Token) -> None:
    qwen.answer_with(
        scenarios.RATE_LIMITED_RETRY_AFTER, scenarios.BREAKS_OFF, scenarios.MINTS_NEWER_CLAIMS
    )
    QwenApi(qwen.base_url).refresh(held, within=AMPLE)
    assert len(qwen.requests) == 3
