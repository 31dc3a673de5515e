"""What a day of a session costs: versions of both secrets, and calls; by its schedule and a check.

A simulation: the clock, AWS and Qwen's hosts are fakes. ``pytest -rP`` shows what was counted.
"""

import math
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from qwen_token import Token
from qwen_token.grants import Granted
from tests.fake_secrets_manager import CURRENT
from tests.minting import NOW, token
from tests.unit.refresh_fakes import SECRET, SESSION, RefreshUnderTest

DAY = timedelta(days=1)
SCHEDULE = timedelta(minutes=2)
LIFETIME = timedelta(minutes=15)
CREDENTIAL = "a-refresh-credential-that-stays-the-same"


@pytest.fixture(name="refresh")
def _refresh(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> RefreshUnderTest:
    return RefreshUnderTest(capsys, monkeypatch)


@pytest.mark.parametrize("has_iat", [True, False], ids=["says since when", "does not say"])
def test_a_day_of_a_session_makes_at_most_150_versions(
    refresh: RefreshUnderTest,
    has_iat: bool,  # noqa: FBT001 - a parameter
) -> None:
    def access_token() -> Token:
        iat: dict[str, Any] = {"iat": int(refresh.now.timestamp())} if has_iat else {}
        return token(left=LIFETIME, now=refresh.now, type="access_token", **iat)

    def answer(_: object) -> Granted:
        return Granted(access_token(), CREDENTIAL, NOW + 30 * DAY)

    refresh.hosts.answers = answer
    refresh.holds(None, {"refresh_token": CREDENTIAL})
    outcomes: Counter[str] = Counter()
    longest = timedelta(0)
    for number in range(DAY // SCHEDULE):
        run = refresh.run({"check": True} if number == 7 else {}, after=SCHEDULE)
        assert run.result is not None
        outcomes[run.result["outcome"]] += 1
        written = refresh.secrets.secrets[SECRET].created[
            refresh.secrets.secrets[SECRET].labels[CURRENT]
        ]
        longest = max(longest, refresh.now - written)

    # Those that a person put in are no calls.
    written_to = Counter(
        call.request["SecretId"]
        for call in refresh.secrets.recorded
        if call.operation == "PutSecretValue"
    )
    versions = written_to[SECRET]
    assert versions <= 150
    assert written_to[SESSION] == 0
    assert outcomes["refreshed"] == versions
    assert set(outcomes) == {"refreshed", "fresh", "checked"}
    # The one that a check meets is replaced no later for it.
    assert longest < LIFETIME - 2 * SCHEDULE
    calls = len(refresh.secrets.recorded) + len(refresh.dynamodb.recorded)
    print(  # noqa: T201 - for pytest -rP
        f"{dict(outcomes)}; {versions} versions of the token secret, 0 more of the session's; "
        f"{calls} calls to Secrets Manager and DynamoDB, {math.ceil(calls * 30.4):,} a month"
    )
