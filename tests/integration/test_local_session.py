"""Where a session is kept without AWS, and the state that its processes share."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from qwen_token import FileStoreError, Session, SessionMalformedError, StoreError
from qwen_token.errors import SessionDocumentError
from qwen_token.ledger import State, UnsharedState
from qwen_token.manager.local_session import LocalSessions, newer_login
from qwen_token.manager.local_store import FileStore, MemoryStore
from qwen_token.manager.text_state import TextState
from qwen_token.run_memory import RunMemory
from qwen_token.stored_session import StoredSession
from tests.minting import all_said

NOW: Final = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)
A, B, C = (Session(refresh_token=f"{letter}-opaque-credential-of-a-login") for letter in "abc")
OLD: Final = Session(email="a@example.com", password="the old one")
NEW: Final = Session(email="a@example.com", password="the new one")
OTHER: Final = Session(email="b@example.com", password="the new one")


def both(credential: Session, sign_in: Session) -> Session:
    return replace(credential, email=sign_in.email, password=sign_in.password)


def read(sessions: LocalSessions) -> StoredSession:
    stored = sessions.read()
    assert stored is not None
    return stored


@pytest.mark.parametrize(
    ("given", "stored", "new", "after"),
    [
        pytest.param(A, B, "", B, id="one that was seen gives way"),
        pytest.param(A, B, "credential", A, id="a new credential wins"),
        pytest.param(A, both(B, OLD), "credential", A, id="wholly: nothing is mixed"),
        pytest.param(NEW, OLD, "sign-in", NEW, id="a new password wins"),
        pytest.param(NEW, both(B, OLD), "sign-in", both(B, NEW), id="beside the same login's"),
        pytest.param(
            OTHER, both(B, OLD), "sign-in", OTHER, id="another account's is another login"
        ),
        pytest.param(OLD, B, "sign-in", OLD, id="a sign-in where there was none is another login"),
        pytest.param(
            both(A, NEW), both(B, OLD), "sign-in", both(B, NEW), id="with a spent credential"
        ),
    ],
)
def test_of_two_logins_the_newer_one_counts(
    given: Session, stored: Session, new: str, after: Session
) -> None:
    found = newer_login(given, stored, is_new=new == "credential", is_new_sign_in=new == "sign-in")
    assert found == after


def test_a_login_is_newer_than_the_stored_one_until_it_was_given_once() -> None:
    place = MemoryStore()
    for given, after in ((A, A), (B, B), (A, B), (B, B), (C, C), (A, C)):
        assert read(LocalSessions(place, given)).session == after


def test_a_replaced_credential_gives_way_to_its_successor() -> None:
    place = MemoryStore()
    ours = LocalSessions(place, A)
    for session in (B, C):
        assert ours.keep(session, over=read(ours)) is not None
    for given in (A, B, C):
        assert read(LocalSessions(place, given)).session == C


def test_a_version_is_the_keepers_until_a_person_changes_it() -> None:
    place = MemoryStore()
    ours = LocalSessions(place, both(A, OLD))
    first = read(ours)
    assert not first.by_keeper
    kept = ours.keep(both(B, OLD), over=first)
    assert kept == read(ours)
    assert kept is not None
    assert kept.by_keeper
    assert kept.version_id != first.version_id
    text = place.load() or ""
    assert place.save(text.replace("the old one", "the new one"), over=text)
    edited = read(ours)
    assert (edited.session, edited.by_keeper) == (both(B, NEW), False)
    assert edited.version_id not in {first.version_id, kept.version_id}
    # Another person's word than the one that was spent: that one is not written over.
    assert ours.keep(C, over=kept) is None
    assert read(ours).session == both(B, NEW)


def test_processes_that_share_a_place_agree_on_names_of_versions() -> None:
    place = MemoryStore()
    ours, theirs = LocalSessions(place, A), LocalSessions(place, A)
    assert ours.prepare() == theirs.prepare()
    assert read(ours) == read(theirs)
    assert read(LocalSessions(MemoryStore(), A)).version_id != read(ours).version_id


def test_other_keys_stay_and_a_pasted_form_becomes_an_object() -> None:
    place = MemoryStore(f'{{"note": 1.50, "refresh_token": "{B.refresh_token}"}}')
    ours = LocalSessions(place, A)
    assert read(ours).session == B
    assert (place.load() or "").startswith('{"note": 1.50, ')
    pasted = MemoryStore(f"Cookie: x=1; refresh_token={B.refresh_token}")
    assert read(LocalSessions(pasted, A)).session == B
    assert json.loads(pasted.load() or "")["refresh_token"] == B.refresh_token


def test_a_person_can_put_in_a_login_whatever_is_stored() -> None:
    place = MemoryStore("garbage")
    ours = LocalSessions(place, A)
    with pytest.raises(SessionMalformedError):
        ours.read()
    ours.put(B)
    assert read(ours).session == B
    ours.put(A)
    assert read(LocalSessions(place, B)).session == A


def test_a_file_that_is_too_long_is_not_a_login(tmp_path: Path) -> None:
    place = FileStore(tmp_path / "token").beside("session")
    (tmp_path / "token.session").write_text("a" * 70_000)
    with pytest.raises(SessionMalformedError, match="longer than"):
        LocalSessions(place, A).read()
    (tmp_path / "token.state").write_text("a" * 70_000)
    with pytest.raises(FileStoreError, match="longer than"):
        TextState(FileStore(tmp_path / "token").beside("state")).read()


def test_what_is_shown_of_it_is_no_secret() -> None:
    ours = LocalSessions(MemoryStore(), A)
    read(ours)
    assert A.refresh_token is not None
    assert A.refresh_token not in repr(ours) + repr(vars(ours))


# The state


@pytest.fixture(name="state", params=["a text", "a file", "this process"])
def _state(request: pytest.FixtureRequest, tmp_path: Path) -> State:
    if request.param == "this process":
        return UnsharedState()
    store = MemoryStore() if request.param == "a text" else FileStore(tmp_path / "token")
    return TextState(store.beside("state"))


def test_the_lease_is_one_runs_until_it_gives_it_back(state: State) -> None:
    ours = state.acquire("ours", now=NOW, until=NOW + MINUTE)
    assert ours is not None
    assert (ours.memory, ours.taken_over) == (RunMemory(), False)
    assert state.acquire("theirs", now=NOW, until=NOW + MINUTE) is None
    state.write("ours", RunMemory(pending="p"))
    assert state.acquire("theirs", now=NOW, until=NOW + MINUTE) is None
    state.release("ours", RunMemory(account="a"))
    theirs = state.acquire("theirs", now=NOW, until=NOW + MINUTE)
    assert theirs is not None
    assert (theirs.memory, theirs.taken_over) == (RunMemory(account="a"), False)


def test_an_expired_lease_is_taken_over_and_its_owner_changes_nothing(
    state: State,
) -> None:
    assert state.acquire("ours", now=NOW, until=NOW + MINUTE)
    state.write("ours", RunMemory(pending="p"))
    theirs = state.acquire("theirs", now=NOW + MINUTE, until=NOW + 2 * MINUTE)
    assert theirs is not None
    assert (theirs.memory, theirs.taken_over) == (RunMemory(pending="p"), True)
    state.release("ours", RunMemory(account="late"))
    assert state.read() == RunMemory(pending="p")
    assert state.acquire("ours", now=NOW + MINUTE, until=NOW + 2 * MINUTE) is None


def test_a_run_that_lost_its_lease_does_not_go_on() -> None:
    state = TextState(MemoryStore())
    assert state.acquire("ours", now=NOW, until=NOW + MINUTE)
    assert state.acquire("theirs", now=NOW + MINUTE, until=NOW + 2 * MINUTE)
    with pytest.raises(StoreError, match="took the lease over"):
        state.write("ours", RunMemory())


def test_a_clock_that_was_set_back_does_not_keep_the_lease_for_a_day() -> None:
    state = TextState(MemoryStore())
    day = timedelta(days=1)
    assert state.acquire("ours", now=NOW + day, until=NOW + day + MINUTE)
    assert state.acquire("theirs", now=NOW, until=NOW + MINUTE)


@pytest.mark.parametrize(
    "set_by", [timedelta(hours=-5), -MINUTE, MINUTE, timedelta(hours=5)], ids=str
)
def test_setting_the_clock_does_not_end_the_lease_of_a_live_run(
    set_by: timedelta,
) -> None:
    place, gone = MemoryStore(), [100.0]
    ours, theirs = (TextState(place, elapsed=lambda: gone[0]) for _ in range(2))
    assert ours.acquire("ours", now=NOW, until=NOW + MINUTE)
    gone[0] += 59
    now = NOW + set_by
    assert theirs.acquire("theirs", now=now, until=now + MINUTE) is None
    ours.write("ours", RunMemory(pending="p"))
    assert theirs.acquire("theirs", now=now, until=now + MINUTE) is None
    gone[0] += 1
    taken = theirs.acquire("theirs", now=now, until=now + MINUTE)
    assert taken is not None
    assert taken.taken_over


def test_after_the_machine_started_again_a_lease_is_over_by_the_wall_clock() -> None:
    place = MemoryStore()
    assert TextState(place, elapsed=lambda: 1e6).acquire("ours", now=NOW, until=NOW + MINUTE)
    text = place.load() or ""
    document = {**json.loads(text), "lease_boot": "of the start before"}
    assert place.save(json.dumps(document), over=text)
    theirs = TextState(place, elapsed=lambda: 10.0)
    assert theirs.acquire("theirs", now=NOW, until=NOW + MINUTE) is None
    assert theirs.acquire("theirs", now=NOW + MINUTE, until=NOW + 2 * MINUTE)


def test_of_many_that_want_the_lease_at_once_one_gets_it(tmp_path: Path) -> None:
    def acquire(number: int) -> bool:
        state = TextState(FileStore(tmp_path / "token").beside("state"))
        return state.acquire(str(number), now=NOW, until=NOW + MINUTE) is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(acquire, range(32))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "[]",
        "{}",
        '{"memory": 1}',
        '{"memory": {}, "lease_owner": "x"}',
        '{"memory": {}, "lease_owner": "x", "lease_until": "soon"}',
        '{"memory": {}, "lease_owner": "x", "lease_until": 1e300}',
    ],
)
def test_a_state_that_cannot_be_read_is_an_error_and_stays(text: str) -> None:
    place = MemoryStore(text)
    with pytest.raises(StoreError, match="delete it"):
        TextState(place).acquire("ours", now=NOW, until=NOW + MINUTE)
    assert place.load() == text


def test_what_else_a_persons_file_holds_is_not_lost_with_a_login_put_over_it(
    tmp_path: Path,
) -> None:
    place = FileStore(tmp_path / "token").beside("session")
    file = tmp_path / "token.session"
    file.write_text('{"refresh_token": "old", "note": "hunter2",}')
    sessions = LocalSessions(place, A)

    with pytest.raises(SessionDocumentError, match="correct it first") as caught:
        sessions.put(B)

    assert "hunter2" not in all_said(caught.value)
    assert file.read_text() == '{"refresh_token": "old", "note": "hunter2",}'
    file.write_text('{"refresh_token": "old", "note": 1.10}')
    sessions.put(B)
    assert '"note": 1.10' in file.read_text()


def test_names_of_spent_credentials_give_way_to_the_next_credential(tmp_path: Path) -> None:
    file = tmp_path / "token.session"
    file.write_text(json.dumps({"refresh_token": A.refresh_token, "note": "x" * 57_000}))
    sessions = LocalSessions(FileStore(tmp_path / "token").beside("session"), A)
    for turn in range(60):
        next_one = Session(refresh_token=f"{A.refresh_token}-{turn}")
        assert sessions.keep(next_one, over=read(sessions)) is not None

    assert read(sessions).session == next_one
    assert len(file.read_bytes()) <= 61_440
    # The latest ones are recognised still.
    assert read(LocalSessions(FileStore(tmp_path / "token").beside("session"), A)).session != A
    spent = Session(refresh_token=f"{A.refresh_token}-58")
    again = LocalSessions(FileStore(tmp_path / "token").beside("session"), spent)
    assert read(again).session == next_one
