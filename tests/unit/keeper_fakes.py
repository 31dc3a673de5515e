"""What the tests of the use case put around a run: both secrets, the API and the grants."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import pytest

from qwen_token import QwenTokenError, Session, StoreError, Token, TokenRejectedError, decode_token
from qwen_token.grant_chain import GrantChain
from qwen_token.grants import Granted, Login
from qwen_token.keeper import Keeper
from qwen_token.ledger import Leased, Ledger, UnsharedState
from qwen_token.run_memory import RunMemory
from qwen_token.run_report import Report
from qwen_token.session import Grant
from qwen_token.stored_session import StoredSession
from qwen_token.stored_token import StoredToken
from tests.minting import ACCOUNT, NOW, mint, token

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
WEEK: Final = 7 * DAY

# Longer than a lease lives.
LEASE_IS_OVER: Final = 3 * MINUTE


def access_token(
    name: str = "",
    *,
    left: timedelta = 15 * MINUTE,
    account: str | None = None,
    now: datetime = NOW,
) -> Token:
    """Return a session's access token; without an account, it does not say whose it is."""
    claims = {"type": "access_token", "exp": int((now + left).timestamp()), "jti": name}
    return decode_token(mint(claims if account is None else {**claims, "id": account}))


@dataclass
class MemoryStore:
    """The token secret's versions in memory, with the labels that the keeper moves.

    What ``clock`` returns dates the keeper's own versions: None where the store does not.
    """

    clock: Callable[[], datetime | None] = lambda: NOW
    versions: dict[str, StoredToken] = field(default_factory=dict)
    current: str | None = None
    previous: str | None = None
    pending: str | None = None
    rejected: str | None = None
    before_stage: Callable[[], None] = lambda: None
    before_promote: Callable[[], None] = lambda: None
    note_fails: QwenTokenError | None = None
    read_fails: QwenTokenError | None = None
    stage_fails: QwenTokenError | None = None
    # Carried out all the same, as a call is whose answer is lost.
    stage_is_unanswered: QwenTokenError | None = None
    promote_fails: QwenTokenError | None = None
    alternatives_fail: QwenTokenError | None = None

    def hold(self, held_token: Token, *, note: str = "") -> None:
        """Put in a token, as a person does, with something of their own beside it."""
        version = f"v{len(self.versions) + 1}"
        text = json.dumps({"token": held_token.raw, "note": note}) if note else held_token.raw
        self.versions[version] = StoredToken(held_token, version, text, created_at=self._date())
        self._move(version)

    def hold_own(self, held_token: Token, *, age: timedelta = timedelta()) -> None:
        """Hold a token that the keeper wrote this long ago."""
        self.hold(held_token)
        assert self.current is not None
        self.pending = self.current
        self.versions[self.current] = replace(
            self.versions[self.current], written_at=(self.clock() or NOW) - age
        )

    def _date(self) -> datetime | None:
        """Return when a version is written: no two in one moment, though no time passes."""
        now = self.clock()
        return None if now is None else now + timedelta(microseconds=len(self.versions))

    def _move(self, version: str) -> None:
        self.previous, self.current = self.current, version

    @property
    def current_token(self) -> Token:
        assert self.current is not None
        return self.versions[self.current].token

    def read(self) -> StoredToken | None:
        if self.read_fails is not None:
            raise self.read_fails
        return None if self.current is None else self._version(self.current)

    def _version(self, version: str) -> StoredToken:
        """Return a version as it is read: only by its label is it known for the keeper's own."""
        held = replace(self.versions[version], is_rejected=version == self.rejected)
        return held if version == self.pending else replace(held, written_at=None)

    def read_version(self, version_id: str) -> StoredToken | None:
        return self._version(version_id) if version_id in self.versions else None

    def stage(self, successor: Token, *, over: StoredToken) -> StoredToken:
        self.before_stage()
        if self.stage_fails is not None:
            raise self.stage_fails
        staged = self._staged(successor, self._text(successor, over))
        if self.stage_is_unanswered is not None:
            raise self.stage_is_unanswered
        return staged

    def _staged(self, successor: Token, text: str) -> StoredToken:
        version = f"v{len(self.versions) + 1}"
        self.versions[version] = StoredToken(successor, version, text, self.clock(), self._date())
        self.pending = version
        return self.versions[version]

    def put_first(self, token: Token) -> StoredToken:
        self.before_stage()
        if self.stage_fails is not None:
            raise self.stage_fails
        if self.current is None:
            self._move(self._staged(token, token.raw).version_id)
        current = self.read()
        assert current is not None
        return current

    def adopt(self, candidate: StoredToken, *, over: StoredToken) -> StoredToken:
        if candidate.text == self._text(candidate.token, over):
            return candidate
        return self.stage(candidate.token, over=over)

    def _text(self, successor: Token, over: StoredToken) -> str:
        return over.text.replace(over.token.raw, successor.raw)

    def promote(self, staged: StoredToken, *, over: StoredToken) -> StoredToken:
        self.before_promote()
        if self.promote_fails is not None:
            raise self.promote_fails
        if self.current == over.version_id:
            self._move(staged.version_id)
        current = self.read()
        assert current is not None
        return current

    def alternatives(self, *, to: StoredToken) -> list[StoredToken]:
        if self.alternatives_fail is not None:
            raise self.alternatives_fail
        labelled = [v for v in (self.pending, self.previous) if v and v != to.version_id]
        found = [self._version(version) for version in dict.fromkeys(labelled)]
        return sorted(
            (held for held in found if held.token.account == to.token.account),
            key=lambda held: held.token.expires_at,
            reverse=True,
        )

    def note_rejected(self, held: StoredToken) -> None:
        if self.note_fails is not None:
            raise self.note_fails
        self.rejected = held.version_id

    def note_accepted(self, held: StoredToken) -> None:
        assert self.rejected == held.version_id
        self.rejected = None


@dataclass
class MemorySessions:
    """The session secret's versions in memory; the keeper's are staged over another one.

    What ``clock`` returns dates them: None where the place does not.
    """

    clock: Callable[[], datetime | None] = lambda: None
    versions: dict[str, Session | QwenTokenError] = field(default_factory=dict)
    current: str | None = None
    pending: str | None = None
    staged_over: dict[str, str] = field(default_factory=dict)
    dates: dict[str, datetime | None] = field(default_factory=dict)
    before_stage: Callable[[], None] = lambda: None
    before_promote: Callable[[], None] = lambda: None
    left_behind_fails: QwenTokenError | None = None
    # What the secret holds, for whoever looks.
    text: str = ""

    def hold(self, session: Session | QwenTokenError) -> None:
        """Put in a session, as a person does; an error stands for an unreadable value."""
        self.current = self._add(session)

    def _add(self, session: Session | QwenTokenError) -> str:
        version = f"s{len(self.versions) + 1}"
        self.versions[version], self.dates[version] = session, self.clock()
        return version

    @property
    def current_session(self) -> Session:
        session = self.versions[self.current or ""]
        assert isinstance(session, Session)
        return session

    def read(self) -> StoredSession | None:
        if self.current is None:
            return None
        session = self.versions[self.current]
        if isinstance(session, QwenTokenError):
            raise session
        return StoredSession(
            session,
            self.current,
            self.text,
            created_at=self.dates[self.current],
            by_keeper=self.current == self.pending,
        )

    def keep(self, session: Session, *, over: StoredSession) -> StoredSession | None:
        self.before_stage()
        staged = self.pending = self._add(session)
        self.staged_over[staged] = over.version_id
        self.before_promote()
        if self.current != over.version_id:
            return None
        self.current = staged
        return StoredSession(session, staged, "", by_keeper=True)

    def left_behind(self, *, over: StoredSession) -> StoredSession | None:
        if self.left_behind_fails is not None:
            raise self.left_behind_fails
        if self.pending is None or self.staged_over[self.pending] != over.version_id:
            return None
        session = self.versions[self.pending]
        assert isinstance(session, Session)
        return StoredSession(session, self.pending, "")


@dataclass
class ScriptedClient:
    """The API: which tokens it does not accept, and whose the others are.

    What it calls dead when that is to be exchanged is dead here, too.
    """

    calls: list[tuple[str, object]]
    given: list[timedelta]
    exchange: "ScriptedSource"
    refuses: dict[Token, QwenTokenError] = field(default_factory=dict)
    accounts: dict[Token, str] = field(default_factory=dict)
    during_verify: list[Callable[[], None]] = field(default_factory=list)

    def verify(self, token: Token, *, within: timedelta) -> str:
        self.calls.append(("verify", token))
        self.given.append(within)
        if self.during_verify:
            self.during_verify.pop(0)()
        if token in self.refuses:
            raise self.refuses[token].again()
        if isinstance(dead := self.exchange.answers.get(token), TokenRejectedError):
            raise dead.again()
        return self.accounts.get(token, token.account or ACCOUNT)


type Answer = Token | Granted | QwenTokenError


@dataclass
class ScriptedSource:
    """A grant: what it answers to what it is shown (a token, a credential or a password)."""

    grant: Grant
    calls: list[tuple[str, object]]
    given: list[timedelta]
    answers: dict[object, Answer] = field(default_factory=dict)
    during: list[Callable[[], None]] = field(default_factory=list)

    def obtain(self, login: Login, *, within: timedelta) -> Granted:
        shown: object = {
            Grant.EXCHANGE: login.token,
            Grant.REFRESH_TOKEN: login.session.refresh_token,
            Grant.PASSWORD: login.session.password,
        }[self.grant]
        self.calls.append((self.grant.value, shown))
        self.given.append(within)
        if self.during:
            self.during.pop(0)()
        answer = self.answers[shown]
        if isinstance(answer, QwenTokenError):
            raise answer.again()
        return answer if isinstance(answer, Granted) else Granted(answer)


class WrittenState(UnsharedState):
    """A state that only has what was written as JSON, as the table has it; it can be down."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.writes = 0

    def acquire(self, owner: str, *, now: datetime, until: datetime) -> Leased | None:
        self._require_up()
        return super().acquire(owner, now=now, until=until)

    def write(self, owner: str, memory: RunMemory) -> None:
        self._require_up()
        self.writes += 1
        super().write(owner, RunMemory.from_json(memory.to_json()))

    def release(self, owner: str, memory: RunMemory) -> None:
        self._require_up()
        super().release(owner, RunMemory.from_json(memory.to_json()))

    def _require_up(self) -> None:
        if self.is_down:
            raise StoreError("DynamoDB is down", may_pass=True)


class Crash(BaseException):
    """The end of a run's process, in the middle of the run."""


def crash() -> None:
    """Stand in a hook, where the run is to die."""
    raise Crash


class Scene:
    """One secret, its session, and the hosts; runs are made on it, one after another."""

    def __init__(self) -> None:
        self.now = NOW
        self.time_left = timedelta(seconds=120)
        self.calls: list[tuple[str, object]] = []
        self.given: list[timedelta] = []
        self.store = MemoryStore(clock=lambda: self.now)
        self.sessions: MemorySessions | None = None
        self.exchange = ScriptedSource(Grant.EXCHANGE, self.calls, self.given)
        self.client = ScriptedClient(self.calls, self.given, self.exchange)
        self.refresh_token = ScriptedSource(Grant.REFRESH_TOKEN, self.calls, self.given)
        self.password = ScriptedSource(Grant.PASSWORD, self.calls, self.given)
        self.state = WrittenState()
        self.before_lease: list[Callable[[], object]] = []

    def log_in(self, session: Session | QwenTokenError) -> MemorySessions:
        """Put in a session, as a person does."""
        if self.sessions is None:
            self.sessions = MemorySessions(clock=lambda: self.now)
        self.sessions.hold(session)
        return self.sessions

    def passes(self, duration: timedelta) -> None:
        """Let time pass, and forget the calls before it."""
        self.now += duration
        self.calls.clear()

    @property
    def memory(self) -> RunMemory:
        """What the last run that ended left behind."""
        return self.state.memory

    @memory.setter
    def memory(self, memory: RunMemory) -> None:
        self.state.memory = memory

    def ledger(self) -> Ledger:
        def state() -> WrittenState:
            if self.before_lease:
                self.before_lease.pop(0)()
            return self.state

        return Ledger(state, clock=lambda: self.now, time_left=lambda: self.time_left)

    def source(self, grant: Grant) -> ScriptedSource:
        sources = (self.exchange, self.refresh_token, self.password)
        return next(each for each in sources if each.grant is grant)

    def keeper(self, ledger: Ledger) -> Keeper:
        sessions = self.sessions
        return Keeper(
            store=self.store,
            sessions=None if sessions is None else lambda: sessions,
            ledger=lambda: ledger,
            client=lambda: self.client,
            sources=self.source,
            clock=lambda: self.now,
            time_left=lambda: self.time_left,
            refresh_before=3 * DAY,
        )

    @contextmanager
    def chain(self) -> Iterator[GrantChain]:
        """Spend the login as a run does, with the lease."""
        ledger = self.ledger()
        assert ledger.open()
        try:
            yield GrantChain(self.sessions, self.source, ledger, lambda _: MINUTE)
        finally:
            ledger.close()

    def run(self, **options: bool) -> Report:
        """Do one run, and give the lease back, as the function does."""
        ledger = self.ledger()
        try:
            return self.keeper(ledger).run(**options)
        finally:
            if not self.state.is_down:
                ledger.close()

    def fails[Failure: QwenTokenError](self, kind: type[Failure], **options: bool) -> Failure:
        """Do one run that fails like that, and return the failure."""
        with pytest.raises(kind) as caught:
            self.run(**options)
        return caught.value

    def dies(self, **options: bool) -> None:
        """Do one run that dies at a hook, and let its lease run out."""
        with pytest.raises(Crash):
            self.keeper(self.ledger()).run(**options)
        self.passes(LEASE_IS_OVER)

    @contextmanager
    def is_leased(self) -> Iterator[None]:
        """Let another run have the lease."""
        ledger = self.ledger()
        assert ledger.open()
        yield
        ledger.close()


REJECTED: Final = TokenRejectedError("dead")

OLD: Final = token(left=2 * DAY)
NEW: Final = token(left=WEEK)
NEWER: Final = token(left=WEEK + DAY)
