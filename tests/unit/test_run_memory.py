"""What the runs of one secret remember: how it is written and read, and when it lapses."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_token.policy import Severity
from qwen_token.run_memory import Incident, Refusal, RunMemory, SignIn
from qwen_token.session import Grant
from tests.minting import NOW

ids = st.text(min_size=1)
instants = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001 - the same
    timezones=st.just(UTC),
)
reasons = st.text("abc_", max_size=40)
messages = st.text(st.characters(exclude_categories=("C", "Z")), max_size=200)
keys = st.sampled_from(["notice store_failed", "warning session_ending", "critical rate_limited"])
refusals = st.builds(Refusal, ids, reasons, messages, instants)
published = st.dictionaries(keys, instants)
memories = st.builds(
    RunMemory,
    refusals=st.dictionaries(st.sampled_from(Grant), refusals),
    sign_in=st.none()
    | st.builds(SignIn, ids, instants, st.booleans(), reason=reasons, message=messages),
    pending=st.none() | ids,
    pending_over=st.none() | ids,
    pending_is_refused=st.booleans(),
    replaced=st.none() | ids,
    superseded=st.none() | ids,
    untried=st.none() | ids,
    token_left_behind=st.booleans(),
    session_left_behind=st.booleans(),
    died_young=st.integers(0, 9),
    died_young_at=st.none() | instants,
    first_try=st.none() | refusals,
    session_version_id=st.none() | ids,
    session_expires_at=st.none() | instants,
    account=st.none() | ids,
    staged_beside=st.none() | st.just("") | ids,
    confirmed_version_id=st.none() | ids,
    confirmed_at=st.none() | instants,
    incident=st.none()
    | st.builds(
        Incident,
        version_id=st.none() | ids,
        since=instants,
        highest=st.none() | st.sampled_from(Severity),
        reason=reasons,
        message=messages,
        published=published,
    ),
    reminded=published,
)


@given(memories)
def test_what_is_written_is_read_again(memory: RunMemory) -> None:
    assert RunMemory.from_json(memory.to_json()) == memory


@given(memories, instants)
def test_what_was_noted_in_the_future_counts_from_now_on(memory: RunMemory, now: datetime) -> None:
    seen = memory.as_of(now)
    times = [
        *(each.at for each in (*seen.refusals.values(), seen.sign_in, seen.first_try) if each),
        *seen.reminded.values(),
        *([seen.incident.since, *seen.incident.published.values()] if seen.incident else ()),
        *filter(None, (seen.died_young_at, seen.confirmed_at)),
    ]
    assert all(at <= now for at in times)
    assert seen.as_of(now) == seen
    assert memory.as_of(datetime(2100, 1, 1, tzinfo=UTC)) == memory
    # That is an end, and may be in the future.
    assert seen.session_expires_at == memory.session_expires_at


def test_a_secret_without_a_history_is_an_empty_object() -> None:
    assert RunMemory().to_json() == "{}"
    assert RunMemory.from_json("{}") == RunMemory()


def test_members_of_another_release_are_ignored() -> None:
    text = json.dumps(
        {
            "pending": "v2",
            "invented": [1],
            "refusals": {"telepathy": {"version_id": 7}},
            "sign_in": {"version_id": "s1", "at": 1.7e9, "answered": True, "invented": 1},
        }
    )

    memory = RunMemory.from_json(text)

    assert memory == RunMemory(
        pending="v2", sign_in=SignIn("s1", datetime.fromtimestamp(1.7e9, UTC), answered=True)
    )


_GARBAGE = [
    pytest.param("", id="nothing"),
    pytest.param("{", id="half an object"),
    pytest.param("[]", id="a list"),
    pytest.param("7", id="a number"),
    pytest.param("null", id="null"),
    pytest.param("[" * 100_000, id="a list that is far too deep"),
    pytest.param('{"pending": 7}', id="a version that is a number"),
    pytest.param('{"token_left_behind": "yes"}', id="a flag that is a text"),
    pytest.param('{"confirmed_at": true}', id="an instant that is a flag"),
    pytest.param('{"confirmed_at": "now"}', id="an instant that is a text"),
    pytest.param('{"confirmed_at": NaN}', id="an instant that is no number"),
    pytest.param('{"confirmed_at": Infinity}', id="an instant that never comes"),
    pytest.param('{"confirmed_at": 1e17}', id="an instant after the last year"),
    pytest.param('{"refusals": []}', id="refusals that are a list"),
    pytest.param('{"refusals": {"exchange": {}}}', id="a refusal without members"),
    pytest.param('{"sign_in": {"version_id": "s1", "at": 1.7e9}}', id="a sign-in without its end"),
    pytest.param(
        '{"sign_in": {"version_id": "s1", "at": 1.7e9, "answered": 1}}',
        id="an answer that is a number",
    ),
    pytest.param('{"incident": {"version_id": null}}', id="an incident without a beginning"),
    pytest.param(
        '{"incident": {"version_id": null, "since": 1.7e9, "highest": "dire", "reason": "",'
        ' "message": "", "published": {}}}',
        id="a severity that does not exist",
    ),
    pytest.param('{"reminded": {"ending": null}}', id="a reminder without its time"),
]


@pytest.mark.parametrize("text", _GARBAGE)
def test_anything_else_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^no memory of a run: \w+$"):
        RunMemory.from_json(text)


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_garbage_never_raises_anything_but_a_value_error(text: str) -> None:
    try:
        memory = RunMemory.from_json(text)
    except ValueError:
        return
    assert memory == RunMemory()


# --- when it lapses -------------------------------------------------------------------------------

JUST_NOW = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("grant", "version", "age", "is_known"),
    [
        pytest.param(Grant.EXCHANGE, "v1", HOUR - JUST_NOW, True, id="a token within the hour is"),
        pytest.param(Grant.EXCHANGE, "v1", HOUR, False, id="a token after an hour is not"),
        pytest.param(Grant.EXCHANGE, "v2", JUST_NOW, False, id="another version is not"),
        pytest.param(
            Grant.REFRESH_TOKEN, "v1", HOUR - JUST_NOW, True, id="a credential within the hour is"
        ),
        pytest.param(
            Grant.REFRESH_TOKEN, "v1", HOUR, False, id="a credential after an hour is not"
        ),
        pytest.param(Grant.PASSWORD, "v1", 9_000 * HOUR, True, id="a password is for good"),
        pytest.param(Grant.PASSWORD, "v2", JUST_NOW, False, id="a new password is not"),
    ],
)
def test_a_refusal_is_remembered_for_an_hour(
    *, grant: Grant, version: str, age: timedelta, is_known: bool
) -> None:
    refusal = Refusal("v1", "token_rejected", "dead", NOW - age)
    memory = RunMemory().with_refusal(grant, refusal)

    assert memory.refusal(grant, version, now=NOW) == (refusal if is_known else None)


def test_the_refusals_of_two_grants_do_not_mix() -> None:
    of_token = Refusal("v1", "token_rejected", "dead", NOW)
    of_session = Refusal("s1", "session_rejected", "dead", NOW)
    memory = (
        RunMemory()
        .with_refusal(Grant.EXCHANGE, of_token)
        .with_refusal(Grant.REFRESH_TOKEN, of_session)
    )

    assert memory.without_refusal(Grant.EXCHANGE).refusals == {Grant.REFRESH_TOKEN: of_session}


@pytest.mark.parametrize(
    ("answered", "pause"),
    [
        pytest.param(True, timedelta(hours=24), id="a day after an answer"),
        pytest.param(False, timedelta(minutes=10), id="ten minutes where there was none"),
    ],
)
def test_the_next_sign_in_is_allowed(*, answered: bool, pause: timedelta) -> None:
    assert SignIn("s1", NOW, answered).next_at() == NOW + pause


_OF_S1 = RunMemory(
    refusals={
        Grant.PASSWORD: Refusal("s1", "sign_in_refused", "no", NOW),
        Grant.REFRESH_TOKEN: Refusal("s1", "session_rejected", "dead", NOW),
    },
    sign_in=SignIn("s1", NOW, answered=True),
    first_try=Refusal("s1", "rate_limited", "slow", NOW),
)


def test_a_version_that_a_run_wrote_is_the_same_session_with_another_credential() -> None:
    assert _OF_S1.of_session("s2") == RunMemory(
        refusals={
            Grant.PASSWORD: Refusal("s2", "sign_in_refused", "no", NOW),
            Grant.REFRESH_TOKEN: Refusal("s1", "session_rejected", "dead", NOW),
        },
        sign_in=SignIn("s2", NOW, answered=True),
        first_try=Refusal("s2", "rate_limited", "slow", NOW),
    )


def test_a_persons_version_lifts_the_limits_of_the_session_before() -> None:
    assert _OF_S1.of_new_session("s2") == RunMemory(
        refusals={Grant.REFRESH_TOKEN: Refusal("s1", "session_rejected", "dead", NOW)}
    )


def test_the_version_that_is_known_already_lifts_nothing() -> None:
    assert _OF_S1.of_new_session("s1") == _OF_S1


FUTURE = NOW + timedelta(days=365 * 500)


def of_the_future(at: datetime) -> RunMemory:
    refusal = Refusal("v1", "token_rejected", "refused", at)
    return RunMemory(
        refusals=dict.fromkeys(Grant, refusal),
        sign_in=SignIn("s1", at, answered=True),
        first_try=refusal,
        died_young_at=at,
        confirmed_at=at,
        incident=Incident("v1", at, published={"notice store_failed": at}),
        reminded={"warning session_ending": at},
        session_expires_at=FUTURE,
    )


def test_what_has_not_happened_yet_holds_nothing_back() -> None:
    """A clock that was wrong, or somebody who wrote to the item, must not silence an alert."""
    assert of_the_future(FUTURE).as_of(NOW) == of_the_future(NOW)
    assert of_the_future(NOW).as_of(NOW + timedelta(days=1)) == of_the_future(NOW)
    assert RunMemory().as_of(NOW) == RunMemory()


INCIDENT: dict[str, object] = {
    "version_id": "v1",
    "since": 1.7e9,
    "highest": "critical",
    "reason": "token_rejected",
    "message": "refused",
    "published": {},
}


def incident_with(**members: object) -> Incident | None:
    return RunMemory.from_json(json.dumps({"incident": {**INCIDENT, **members}})).incident


def test_a_message_is_one_line_of_a_length_that_an_alert_may_have() -> None:
    incident = incident_with(message="call\n\r\x1b[2J\u2028me" + "x" * 10_000)
    assert incident is not None
    assert incident.message.startswith("call   [2J mexx")
    assert len(incident.message) == 2000


@pytest.mark.parametrize(
    "members",
    [
        {"reason": "call me\nnow"},
        {"reason": "x" * 41},
        {"published": {"critical": 1.7e9}},
        {"published": {"critical call\nme": 1.7e9}},
        {"published": {"": 1.7e9}},
        {"since": -1},
        {"since": 0},
        {"since": 253_402_300_000},
        {"since": 10**400},
        {"since": True},
        {"since": float("nan")},
        {"since": float("inf")},
    ],
    ids=str,
)
def test_what_no_run_writes_into_an_incident_is_no_memory(members: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no memory of a run"):
        incident_with(**members)


MINUTE = timedelta(minutes=1)
BEGUN = Incident("v1", NOW, Severity.NOTICE, "e", "first", {"notice e": NOW})
GRAVER = Incident(
    "v1",
    NOW + MINUTE,
    Severity.CRITICAL,
    "f",
    "then",
    {"notice e": NOW + MINUTE, "critical f": NOW + MINUTE},
)
UNPUBLISHED = Incident("v1", NOW + MINUTE)


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        pytest.param(BEGUN, GRAVER, replace(GRAVER, since=NOW), id="what was published, to date"),
        pytest.param(BEGUN, UNPUBLISHED, BEGUN, id="the gravest that was published"),
        pytest.param(
            *(BEGUN, replace(GRAVER, version_id=None), replace(GRAVER, since=NOW)),
            id="a version that could not be read counts as the same",
        ),
        pytest.param(
            *(replace(BEGUN, version_id=None), UNPUBLISHED, BEGUN),
            id="whichever of them knows the version",
        ),
        pytest.param(
            *(BEGUN, replace(UNPUBLISHED, version_id="v2"), replace(UNPUBLISHED, version_id="v2")),
            id="of two versions, the later",
        ),
    ],
)
def test_what_two_runs_know_of_an_incident_is_joined(
    one: Incident, other: Incident, joined: Incident
) -> None:
    assert one.joined(other) == joined
    assert other.joined(one) == joined
