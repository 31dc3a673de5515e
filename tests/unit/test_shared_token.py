"""The shared token: what it reads, when, how often, and what its users get meanwhile."""

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError
from botocore.parsers import ResponseParserError

import qwen_token
from localcloud.waiting import wait_until
from qwen_token import (
    ConfigError,
    QwenTokenError,
    SharedToken,
    StoreError,
    TokenMalformedError,
    TokenMissingError,
    TokenRejectedError,
)
from tests.fake_secrets_manager import FakeSecretsManager
from tests.fakes import Clock
from tests.minting import NOW, mint, token
from tests.programs import run_program
from tests.wire import Script, raw, reply, wire

OLD = token(left=timedelta(days=2))
NEW = token(left=timedelta(days=7))
SECRET = "qwen/token"
SOON = 10.0


def refusal(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "GetSecretValue",
    )


at_night = pytest.mark.nightly
# By day, one of each way that boto3 has to say it.
OUTAGES = [
    pytest.param(ConnectTimeoutError(endpoint_url="https://aws"), id="no answer"),
    pytest.param(refusal("InternalServiceError", 500), id="a server's failure"),
    pytest.param(refusal("ThrottlingException"), id="throttled", marks=at_night),
    pytest.param(NoCredentialsError(), id="no credentials", marks=at_night),
    pytest.param(FileNotFoundError(2, "no such file"), id="a token file that is gone"),
    pytest.param(PermissionError(13, "no"), id="a file that may not be read", marks=at_night),
    pytest.param(RuntimeError("still expired"), id="credentials that stay expired"),
    pytest.param(ResponseParserError("half a page"), id="an answer that is none", marks=at_night),
    pytest.param(
        UnicodeError("a label is too long"), id="a name that no resolver takes", marks=at_night
    ),
]
OUTAGE = refusal("ServiceUnavailable", 503)
REFUSALS = [
    pytest.param(refusal("AccessDeniedException"), "AccessDenied", id="missing permission"),
    pytest.param(refusal("InvalidRequestException"), "InvalidRequest", id="a deleted secret"),
    pytest.param(refusal("DecryptionFailure"), "Decryption", id="a key that may not be used"),
]


class Functions:
    """Lambda with a refresh function whose effect the test sets."""

    def __init__(self, effect: Callable[[], object]) -> None:
        self.effect = effect
        self.invocations: list[dict[str, Any]] = []

    def invoke(self, **request: Any) -> dict[str, Any]:
        self.invocations.append(request)
        return {"Payload": io.BytesIO(), **(self.effect() or {})}  # type: ignore[dict-item]


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


def holding(value: str) -> FakeSecretsManager:
    """Return Secrets Manager with this value in the secret."""
    secrets = FakeSecretsManager()
    secrets.add(SECRET, value)
    return secrets


@pytest.fixture(name="secrets")
def _secrets() -> FakeSecretsManager:
    return holding(OLD.raw)


@pytest.fixture(name="shared")
def _shared(secrets: Any, clock: Clock) -> SharedToken:
    return SharedToken(SECRET, client=secrets, clock=clock)


def with_function(secrets: Any, clock: Clock, effect: Callable[[], object]) -> Any:
    functions: Any = Functions(effect)
    shared = SharedToken(
        SECRET, client=secrets, clock=clock, refresh_function="keeper", lambda_client=functions
    )
    return shared, functions


def together(number: int, work: Callable[[], object]) -> list[object]:
    """Do ``work`` in a number of threads at once; return each result or error."""
    start = threading.Barrier(number)

    def one() -> object:
        start.wait(SOON)
        try:
            return work()
        except QwenTokenError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return [each.result(SOON) for each in [pool.submit(one) for _ in range(number)]]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(OLD.raw, id="a bare token"),
        pytest.param(json.dumps({"note": 1, "token": OLD.raw}), id="a JSON object"),
        pytest.param(f'"Bearer {OLD.raw}"\n', id="a pasted form"),
    ],
)
def test_the_token_is_read_once_and_by_get_secret_value_alone(value: str, clock: Clock) -> None:
    secrets: Any = holding(value)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    assert [shared.current() for _ in range(3)] == [OLD.raw] * 3
    assert secrets.calls == ["GetSecretValue"]


def test_nothing_is_asked_before_the_first_call(
    secrets: FakeSecretsManager, shared: SharedToken
) -> None:
    assert shared is not None
    assert secrets.calls == []


def test_a_copy_is_used_for_max_age_less_a_tenth_at_most(clock: Clock) -> None:
    stores: list[Any] = [holding(OLD.raw) for _ in range(60)]
    readers = [SharedToken(SECRET, client=each, clock=clock, max_age=100) for each in stores]

    def reads_after(seconds: float) -> int:
        clock.sleep(seconds)
        for reader in readers:
            reader.current()
        return sum(len(each.calls) for each in stores)

    assert reads_after(0) == 60
    assert reads_after(89.9) == 60
    # Not all of them at once: that is the jitter.
    assert 60 < reads_after(5.1) < 120
    assert reads_after(5) == 120


def test_a_new_token_is_seen_after_max_age(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock
) -> None:
    shared.current()
    secrets.hold(SECRET, NEW.raw)
    assert shared.current() == OLD.raw
    clock.sleep(300)
    assert shared.current() == NEW.raw


def test_a_copy_is_read_again_a_minute_before_its_token_expires(clock: Clock) -> None:
    short = token(left=timedelta(minutes=4))
    secrets: Any = holding(short.raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    shared.current()
    clock.sleep(179.9)
    secrets.hold(SECRET, NEW.raw)
    assert shared.current() == short.raw
    assert len(secrets.calls) == 1
    clock.sleep(0.1)
    assert shared.current() == NEW.raw
    assert len(secrets.calls) == 2


def test_a_token_in_its_last_minute_is_read_again_after_growing_pauses(clock: Clock) -> None:
    secrets: Any = holding(token(left=timedelta(minutes=15)).raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    clock.sleep(14 * 60)
    read_at: list[int] = []
    for second in range(60):
        for _ in range(3):
            shared.current()
        if len(secrets.calls) > len(read_at):
            read_at.append(second)
        clock.sleep(1)
    assert read_at == [0, 5, 15, 30, 45]


def test_each_token_begins_with_the_shortest_pause(clock: Clock) -> None:
    secrets: Any = holding(token(left=timedelta(seconds=60)).raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    for pause in (5, 10):
        shared.current()
        clock.sleep(pause)
    secrets.hold(SECRET, token(left=timedelta(seconds=70)).raw)
    shared.current()
    secrets.hold(SECRET, NEW.raw)
    clock.sleep(5)
    assert shared.current() == NEW.raw


@pytest.mark.parametrize("max_age", [0.5, 300])
def test_no_pause_is_longer_than_max_age(clock: Clock, max_age: float) -> None:
    secrets: Any = holding(token(left=timedelta(seconds=30)).raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock, max_age=max_age)
    shared.current()
    secrets.hold(SECRET, NEW.raw)
    clock.sleep(min(max_age, 5))
    assert shared.current() == NEW.raw


def test_a_token_is_not_returned_at_its_expiry_however_short_the_pause(clock: Clock) -> None:
    short = token(left=timedelta(seconds=3))
    secrets: Any = holding(short.raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    assert shared.current() == short.raw
    clock.sleep(2.9)
    assert shared.current() == short.raw
    assert len(secrets.calls) == 1
    secrets.hold(SECRET, NEW.raw)
    clock.sleep(0.1)
    assert shared.current() == NEW.raw


def test_ten_threads_in_a_tokens_last_minute_cause_one_read(clock: Clock) -> None:
    secrets: Any = holding(token(left=timedelta(minutes=4)).raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    shared.current()
    clock.sleep(180)
    secrets.hold(SECRET, NEW.raw)
    assert together(10, shared.current) == [NEW.raw] * 10
    assert len(secrets.calls) == 2


def test_an_access_token_without_an_account_is_served_like_any_other(clock: Clock) -> None:
    def access_token(minutes: int) -> str:
        exp = int((NOW + timedelta(minutes=minutes)).timestamp())
        return mint({"type": "access_token", "exp": exp})

    first, second = access_token(15), access_token(25)
    secrets: Any = holding(first)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    assert shared.current() == first
    secrets.hold(SECRET, second)
    assert shared.renew(rejected=first) == second
    assert shared.current() == second


def test_a_stored_token_that_expired_is_an_error_that_names_the_day(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock
) -> None:
    clock.sleep(timedelta(days=2).total_seconds())
    with pytest.raises(TokenRejectedError, match=r"qwen/token expired at 2026-11-26T12:00") as seen:
        shared.current()
    assert seen.value.expires_at == OLD.expires_at
    with pytest.raises(TokenRejectedError):
        shared.current()
    assert len(secrets.calls) == 1


@pytest.mark.parametrize("hours", [-5, 5], ids=["set back", "frozen for hours"])
def test_a_clock_that_jumps_costs_a_read_and_no_more(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock, hours: int
) -> None:
    shared.current()
    secrets.hold(SECRET, NEW.raw)
    clock.sleep(hours * 3600)
    assert shared.current() == NEW.raw
    assert shared.current() == NEW.raw
    assert len(secrets.calls) == 2


@pytest.mark.parametrize(
    ("outage", "got"), [(None, str), (OUTAGE, StoreError)], ids=["a token", "an error"]
)
def test_eight_threads_share_one_read(
    secrets: FakeSecretsManager,
    shared: SharedToken,
    clock: Clock,
    outage: Exception | None,
    got: type,
) -> None:
    secrets.fails_with = outage
    secrets.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(together, 8, shared.current)
        # Each looks once, finds nothing fresh, and goes to wait.
        wait_until(
            lambda: len(clock.looks) >= 8,
            within=timedelta(seconds=SOON),
            expected="eight threads to wait",
            seen=lambda: f"{len(clock.looks)} do",
        )
        secrets.may_answer.set()
        assert {type(each) for each in seen.result(SOON)} == {got}
    assert len(secrets.calls) == 1


def test_each_caller_gets_an_exception_of_its_own(
    secrets: FakeSecretsManager, shared: SharedToken
) -> None:
    secrets.fails_with = OUTAGE
    assert len({id(each) for each in together(8, shared.current)}) == 8


def test_a_failed_read_is_not_repeated_for_five_seconds_and_then_is(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock
) -> None:
    secrets.fails_with = OUTAGE
    for _ in range(3):
        with pytest.raises(StoreError, match="qwen/token: ServiceUnavailable"):
            shared.current()
    assert len(secrets.calls) == 1
    secrets.fails_with = None
    clock.sleep(4.9)
    with pytest.raises(StoreError):
        shared.current()
    clock.sleep(0.1)
    assert shared.current() == OLD.raw


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_bridged_for_max_stale_with_a_try_every_five_seconds(
    secrets: FakeSecretsManager,
    clock: Clock,
    outage: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client: Any = secrets
    shared = SharedToken(SECRET, client=client, clock=clock, max_age=300, max_stale=60)
    shared.current()
    secrets.fails_with = outage
    clock.sleep(300)
    for _ in range(12):
        assert shared.current() == OLD.raw
        assert shared.current() == OLD.raw
        clock.sleep(5)
    assert len(secrets.calls) == 1 + 12
    assert "Secrets Manager is unavailable" in caplog.text
    with pytest.raises(StoreError):
        shared.current()
    secrets.fails_with = None
    secrets.hold(SECRET, NEW.raw)
    clock.sleep(5)
    assert shared.current() == NEW.raw


def test_an_outage_is_not_bridged_past_the_tokens_expiry(clock: Clock) -> None:
    short = token(left=timedelta(seconds=303))
    secrets: Any = holding(short.raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    shared.current()
    secrets.fails_with = OUTAGE
    clock.sleep(300)
    assert shared.current() == short.raw
    clock.sleep(3)
    with pytest.raises(StoreError):
        shared.current()


def test_an_outage_in_a_tokens_last_minute_is_tried_every_five_seconds(
    clock: Clock,
) -> None:
    short = token(left=timedelta(minutes=4))
    secrets: Any = holding(short.raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    shared.current()
    secrets.fails_with = OUTAGE
    clock.sleep(180)
    for _ in range(60):
        assert shared.current() == short.raw
        clock.sleep(1)
    assert len(secrets.calls) == 1 + 12


def test_an_outage_that_renew_met_is_bridged_as_well(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock
) -> None:
    shared.current()
    secrets.fails_with = OUTAGE
    clock.sleep(299)
    with pytest.raises(StoreError):
        shared.renew(rejected=OLD.raw)
    clock.sleep(1)
    assert shared.current() == OLD.raw


def test_in_an_outage_nobody_waits_for_the_thread_that_tries_again(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock
) -> None:
    shared.current()
    secrets.fails_with = OUTAGE
    clock.sleep(300)
    assert shared.current() == OLD.raw
    clock.sleep(5)
    secrets.is_asked.clear()
    secrets.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(shared.current)
        assert secrets.is_asked.wait(SOON)
        assert shared.current() == OLD.raw
        assert not trying.done()
        secrets.may_answer.set()
        assert trying.result(SOON) == OLD.raw


def test_an_outage_is_bridged_even_if_the_clock_was_set_back(
    secrets: FakeSecretsManager, clock: Clock
) -> None:
    client: Any = secrets
    shared = SharedToken(SECRET, client=client, clock=clock, max_age=300, max_stale=60)
    shared.current()
    secrets.fails_with = OUTAGE
    clock.sleep(-5 * 3600)
    assert shared.current() == OLD.raw
    # Its time began anew: a jump does not make it longer than that.
    clock.sleep(355)
    assert shared.current() == OLD.raw
    clock.sleep(10)
    with pytest.raises(StoreError):
        shared.current()


@pytest.mark.parametrize(("answer", "name"), REFUSALS)
def test_a_refusal_is_never_bridged(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock, answer: Exception, name: str
) -> None:
    shared.current()
    secrets.fails_with = answer
    clock.sleep(300)
    with pytest.raises(StoreError, match=f"read the secret qwen/token: {name}") as seen:
        shared.current()
    assert "ReaderPolicyArn" in seen.value.advice


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        pytest.param(None, TokenMissingError, id="no value yet"),
        pytest.param("", TokenMissingError, id="an empty value"),
        pytest.param('{"note": 1}', TokenMissingError, id="an object without a token"),
        pytest.param("hunter2", TokenMalformedError, id="no token at all"),
        pytest.param(mint({}), TokenMalformedError, id="no expiry"),
    ],
)
def test_a_secret_without_a_usable_token_has_an_error_of_its_own(
    secrets: FakeSecretsManager,
    shared: SharedToken,
    clock: Clock,
    value: str | None,
    kind: type[QwenTokenError],
) -> None:
    secrets.hold(SECRET, value)
    for _ in range(2):
        with pytest.raises(kind) as seen:
            shared.current()
    assert "store it" in seen.value.advice
    assert secrets.calls.count("GetSecretValue") == 1
    secrets.hold(SECRET, OLD.raw)
    clock.sleep(5)
    assert shared.current() == OLD.raw


def test_a_token_that_changed_in_the_secret_is_found_without_the_function(
    secrets: FakeSecretsManager, clock: Clock
) -> None:
    shared, functions = with_function(secrets, clock, lambda: None)
    shared.current()
    secrets.hold(SECRET, NEW.raw)
    assert shared.renew(rejected=OLD.raw) == NEW.raw
    assert shared.current() == NEW.raw
    assert functions.invocations == []


def test_a_token_that_another_thread_renewed_already_is_not_read_again(
    secrets: FakeSecretsManager, shared: SharedToken
) -> None:
    shared.current()
    secrets.hold(SECRET, NEW.raw)
    shared.renew(rejected=OLD.raw)
    assert shared.renew(rejected=OLD.raw) == NEW.raw
    assert len(secrets.calls) == 2


def test_ten_threads_renew_by_one_read(secrets: FakeSecretsManager, shared: SharedToken) -> None:
    shared.current()
    secrets.hold(SECRET, NEW.raw)
    assert together(10, lambda: shared.renew(rejected=OLD.raw)) == [NEW.raw] * 10
    assert len(secrets.calls) == 2


def test_ten_threads_run_the_refresh_function_once(
    secrets: FakeSecretsManager, clock: Clock
) -> None:
    def refresh() -> None:
        secrets.hold(SECRET, NEW.raw)

    shared, functions = with_function(secrets, clock, refresh)
    shared.current()
    assert together(10, lambda: shared.renew(rejected=OLD.raw)) == [NEW.raw] * 10
    assert len(secrets.calls) == 3
    assert functions.invocations == [
        {
            "FunctionName": "keeper",
            "InvocationType": "RequestResponse",
            "Payload": b'{"force": true}',
        }
    ]


def test_ten_threads_whose_token_ended_on_the_way_cause_one_read(clock: Clock) -> None:
    short = token(left=timedelta(minutes=15))
    secrets: Any = holding(short.raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    clock.sleep(899.9)
    assert shared.current() == short.raw
    secrets.hold(SECRET, NEW.raw)
    clock.sleep(0.1)
    assert together(10, lambda: shared.renew(rejected=short.raw)) == [NEW.raw] * 10
    assert len(secrets.calls) == 2


def test_an_expired_token_is_read_once_for_renewals_and_new_requests(
    clock: Clock,
) -> None:
    short = token(left=timedelta(minutes=15))
    secrets: Any = holding(short.raw)
    shared = SharedToken(SECRET, client=secrets, clock=clock)
    shared.current()
    clock.sleep(900)
    seen = together(10, lambda: shared.renew(rejected=short.raw))
    seen += together(10, shared.current)
    assert {type(each) for each in seen} == {TokenRejectedError}
    (told,) = {str(each) for each in seen}
    assert told == (
        "the token in the secret qwen/token expired at 2026-11-24T12:15:00+00:00: "
        "nothing refreshed it in time, and the keeper's alerts say why"
    )
    assert len(secrets.calls) == 2
    secrets.hold(SECRET, NEW.raw)
    clock.sleep(5)
    assert shared.current() == NEW.raw


def test_an_only_rejected_token_is_an_error_for_all_after_one_read(
    secrets: FakeSecretsManager, shared: SharedToken, clock: Clock
) -> None:
    shared.current()
    seen = together(10, lambda: shared.renew(rejected=OLD.raw))
    assert {type(each) for each in seen} == {TokenRejectedError}
    assert len(secrets.calls) == 2
    clock.sleep(5)
    secrets.hold(SECRET, NEW.raw)
    assert shared.renew(rejected=OLD.raw) == NEW.raw


def fail_to_run() -> None:
    raise refusal("AccessDeniedException")


@pytest.mark.parametrize(
    ("effect", "told"),
    [
        pytest.param(lambda: None, "was run, and changed nothing", id="it changed nothing"),
        pytest.param(lambda: {"FunctionError": "Unhandled"}, "failed as well", id="it failed"),
        pytest.param(
            fail_to_run,
            "refresh function: AccessDenied",
            id="no permission to run it",
        ),
    ],
)
def test_a_refresh_function_that_does_not_help_is_named_in_the_error(
    secrets: FakeSecretsManager, clock: Clock, effect: Callable[[], object], told: str
) -> None:
    shared, _ = with_function(secrets, clock, effect)
    with pytest.raises(TokenRejectedError, match=told) as seen:
        shared.renew(rejected=OLD.raw)
    assert seen.value.expires_at == OLD.expires_at


def test_the_refresh_function_is_run_once_in_fifteen_minutes_whatever_is_rejected(
    secrets: FakeSecretsManager, clock: Clock
) -> None:
    made = iter([token(left=timedelta(days=8)), token(left=timedelta(days=9))])

    def refresh() -> None:
        secrets.hold(SECRET, next(made).raw)

    shared, functions = with_function(secrets, clock, refresh)
    second = shared.renew(rejected=OLD.raw)
    with pytest.raises(TokenRejectedError, match="asked less than 15 minutes ago"):
        shared.renew(rejected=second)
    clock.sleep(899)
    with pytest.raises(TokenRejectedError, match="asked less than 15 minutes ago"):
        shared.renew(rejected=second)
    assert len(functions.invocations) == 1
    clock.sleep(5)
    assert shared.renew(rejected=second) not in (OLD.raw, second)
    assert len(functions.invocations) == 2


def test_an_expired_token_that_is_rejected_is_refreshed_as_well(
    secrets: FakeSecretsManager, clock: Clock
) -> None:
    def refresh() -> None:
        secrets.hold(SECRET, NEW.raw)

    shared, _ = with_function(secrets, clock, refresh)
    clock.sleep(timedelta(days=3).total_seconds())
    assert shared.renew(rejected=OLD.raw) == NEW.raw


def test_an_expired_token_is_reported_with_the_functions_result(
    secrets: FakeSecretsManager, clock: Clock
) -> None:
    shared, _ = with_function(secrets, clock, lambda: None)
    clock.sleep(timedelta(days=3).total_seconds())
    with pytest.raises(TokenRejectedError, match=r"expired at .*; the refresh function was run"):
        shared.renew(rejected=OLD.raw)


def test_another_expired_token_does_not_help(
    secrets: FakeSecretsManager, shared: SharedToken
) -> None:
    secrets.hold(SECRET, token(left=timedelta(seconds=-1)).raw)
    with pytest.raises(TokenRejectedError, match="expired at"):
        shared.renew(rejected=OLD.raw)


def test_threads_that_renew_in_an_outage_share_its_error(
    secrets: FakeSecretsManager, shared: SharedToken
) -> None:
    shared.current()
    secrets.fails_with = OUTAGE
    seen = together(10, lambda: shared.renew(rejected=OLD.raw))
    assert {type(each) for each in seen} == {StoreError}
    assert len(secrets.calls) == 2


def test_a_fresh_copy_is_returned_while_a_renewal_is_under_way(
    secrets: FakeSecretsManager, shared: SharedToken
) -> None:
    shared.current()
    secrets.is_asked.clear()
    secrets.may_answer.clear()
    secrets.hold(SECRET, NEW.raw)
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(shared.renew, rejected=OLD.raw)
        assert secrets.is_asked.wait(SOON)
        assert shared.current() == OLD.raw
        secrets.may_answer.set()
        assert renewing.result(SOON) == NEW.raw


def test_no_token_is_shown(
    secrets: FakeSecretsManager, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    shared, functions = with_function(secrets, clock, lambda: None)
    shared.current()
    with pytest.raises(TokenRejectedError) as seen:
        shared.renew(rejected=OLD.raw)
    secrets.fails_with = OUTAGE
    clock.sleep(300)
    shared.current()
    shown = [repr(shared), repr(vars(shared)), str(seen.value), caplog.text]
    shown += [repr(functions.invocations)]
    for part in OLD.raw.split("."):
        assert part not in "".join(shown)
    assert repr(shared) == "SharedToken('qwen/token', token=[redacted])"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"secret_id": " "}, "secret_id", id="no secret"),
        pytest.param({"max_age": 0}, "max_age", id="no age"),
        pytest.param({"max_age": float("nan")}, "max_age", id="an age that is no number"),
        pytest.param({"max_age": float("inf")}, "max_age", id="no end of age"),
        pytest.param({"max_stale": -1}, "max_stale", id="a negative bridge"),
    ],
)
def test_an_invalid_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SharedToken(**{"secret_id": SECRET, **options})


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
@pytest.mark.parametrize("region", [None, ""])
def test_without_a_region_the_error_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, region: str | None, endpoint: str | None
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("AWS_DEFAULT_REGION", region), ("AWS_ENDPOINT_URL", endpoint)):
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(ConfigError, match="set AWS_DEFAULT_REGION, or name the secret by its ARN"):
        SharedToken(SECRET).current()


@pytest.mark.parametrize("region", ["not a region", "", "x" * 70])
def test_an_invalid_arn_is_an_error_of_the_tree(
    monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(ConfigError, match=r"no client|no AWS region"):
        SharedToken(f"arn:aws:secretsmanager:{region}:111122223333:secret:qwen/token").current()
    with pytest.raises(ConfigError, match="no AWS region"):
        SharedToken("arn:").current()


def answer(document: object) -> Script:
    """Answer as Secrets Manager, and as a function that ran well."""
    body = json.dumps(document).encode()
    return reply("200 OK", body, "Content-Type: application/x-amz-json-1.1")


@pytest.fixture(name="environment")
def _environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what makes clients without arguments talk to an endpoint."""

    def point(endpoint: str) -> None:
        for name, text in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
        }.items():
            monkeypatch.setenv(name, text)

    return point


ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token"
FUNCTION_ARN = "arn:aws:lambda:eu-central-1:111122223333:function:keeper"
HELD = {"SecretString": OLD.raw, "VersionId": "v1"}
RENEWED = {"SecretString": NEW.raw, "VersionId": "v2"}


def test_a_secret_named_by_its_arn_is_read_in_the_arns_region(
    environment: Callable[[str], None], clock: Clock
) -> None:
    with wire(answer(HELD)) as aws:
        environment(aws.base_url)
        assert SharedToken(ARN, clock=clock).current() == OLD.raw
    assert b"/eu-west-1/secretsmanager/aws4_request" in aws.requests[0]


@pytest.mark.parametrize(
    ("function", "region"), [("keeper", b"/eu-west-1/lambda"), (FUNCTION_ARN, b"/eu-central-1/")]
)
def test_the_refresh_function_is_run_in_its_own_region_or_the_secrets(
    environment: Callable[[str], None], clock: Clock, function: str, region: bytes
) -> None:
    with wire(answer(HELD), answer({}), answer(RENEWED)) as aws:
        environment(aws.base_url)
        shared = SharedToken(ARN, refresh_function=function, clock=clock)
        assert shared.renew(rejected=OLD.raw) == NEW.raw
    assert region in aws.requests[1]


def test_a_refresh_function_that_cannot_be_reached_is_asked_once(
    environment: Callable[[str], None], clock: Clock
) -> None:
    with wire(answer(HELD), raw(b""), answer(HELD)) as aws:
        environment(aws.base_url)
        shared = SharedToken(ARN, refresh_function="keeper", clock=clock)
        with pytest.raises(TokenRejectedError, match="refresh function: ConnectionClosed"):
            shared.renew(rejected=OLD.raw)
    assert len(aws.requests) == 3


def test_the_process_has_one_source_for_the_same_arguments() -> None:
    one = SharedToken.of("qwen/one", max_age=60)
    assert set(together(8, lambda: SharedToken.of("qwen/one", max_age=60))) == {one}
    assert SharedToken.of("qwen/one") is not one
    client: Any = holding(OLD.raw)
    assert SharedToken.of("qwen/one", client=client) is not SharedToken.of(
        "qwen/one", client=client
    )


HEAVY = "{'boto3', 'botocore', 'requests', 'urllib3', 'httpx', 'jwt', 'rich'}"


@pytest.mark.parametrize(
    ("statement", "imported"),
    [
        ("import qwen_token", "[]"),
        ("from qwen_token import SharedToken; SharedToken('qwen/token')", "[]"),
        ("import qwen_token.replies, qwen_token.origin", "[]"),
        ("from qwen_token import Token, decode_token", "['jwt']"),
        ("import qwen_token.policy, qwen_token.keeper", "['jwt']"),
        ("from qwen_token import QwenAuth", "['requests', 'urllib3']"),
        ("import qwen_token.manager.token_manager", "['jwt']"),
        ("from qwen_token import TokenManager; TokenManager.from_secret('qwen/token')", "['jwt']"),
    ],
)
def test_nothing_is_imported_that_is_not_used(statement: str, imported: str) -> None:
    assert (
        run_program(f"{statement}; import sys; print(sorted({HEAVY} & set(sys.modules)))")
        == imported
    )


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(qwen_token.__all__) <= set(dir(qwen_token))
    assert all(getattr(qwen_token, name) is not None for name in qwen_token.__all__)
    with pytest.raises(AttributeError, match="no attribute 'QwenWhatever'"):
        _ = qwen_token.QwenWhatever


FORK = """
import os, sys, threading
from tests.fakes import Clock
from tests.unit.test_shared_token import NEW, OLD, SECRET, holding
from qwen_token import SharedToken

secrets, clock = holding(OLD.raw), Clock()
shared = SharedToken(SECRET, client=secrets, clock=clock)
shared.current()
clock.sleep(300)
secrets.is_asked.clear()
secrets.may_answer.clear()
reading = threading.Thread(target=shared.current)
reading.start()
assert secrets.is_asked.wait(10)
child = os.fork()
if child == 0:
    # The thread that holds the lock is not here: a lock kept from the parent would wait for ever.
    threading.Timer(10, lambda: os._exit(7)).start()
    secrets.may_answer.set()
    secrets.hold(SECRET, NEW.raw)
    os._exit(0 if shared.current() == NEW.raw else 8)
_, status = os.waitpid(child, 0)
secrets.may_answer.set()
reading.join()
assert shared.current() == OLD.raw
print(os.waitstatus_to_exitcode(status))
"""


def test_a_child_that_was_forked_during_a_read_reads_for_itself() -> None:
    assert run_program(FORK) == "0"


FORK_CONNECTED = """
import os
from tests.fakes import Clock
from qwen_token import SharedToken

clock = Clock()
shared = SharedToken("qwen/token", clock=clock)
shared.current()
child = os.fork()
if child == 0:
    clock.sleep(300)
    shared.current()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
clock.sleep(300)
shared.current()
"""


class KeepsConnections(BaseHTTPRequestHandler):
    """Secrets Manager on connections that stay; remembers over which each request came."""

    protocol_version = "HTTP/1.1"
    ports: list[int]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.ports.append(self.client_address[1])
        body = json.dumps({"SecretString": OLD.raw, "VersionId": "v1"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent."""


def test_a_child_talks_over_a_connection_of_its_own() -> None:
    ports: list[int] = []
    # A class for this server alone: http.server makes an object of it for each connection.
    handler = type("_KeepsConnections", (KeepsConnections,), {"ports": ports})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            run_program(
                FORK_CONNECTED,
                AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_address[1]}",
                AWS_DEFAULT_REGION="eu-west-1",
                AWS_ACCESS_KEY_ID="test",
                AWS_SECRET_ACCESS_KEY="test",
            )
        finally:
            server.shutdown()
            serving.join()
    parents_first, childs, parents_second = ports
    assert parents_first == parents_second != childs
