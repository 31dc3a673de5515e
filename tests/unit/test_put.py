"""``put``: where a login goes, what has it used, and what its owner reads."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs import Job
from qwen_token.cli import main
from qwen_token.policy import Severity
from qwen_token.run_memory import Incident, Refusal, RunMemory
from qwen_token.session import Grant
from tests.fake_secrets_manager import SecretsManagerCall, arn
from tests.minting import ACCOUNT, mint, pieces, token
from tests.unit.fake_stack import (
    SESSION_SECRET,
    TAG,
    TOKEN_SECRET,
    FailedRun,
    FakeStack,
    denied,
)
from tests.wire import reply, wire

CREDENTIAL = "Cr3dential-of_a.session~1234567890"
PASSWORD = "correct horse battery staple"
QUARTER = timedelta(minutes=15)
NOW = datetime.now(UTC).replace(microsecond=0)

Put = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NOW be the test's own: these tokens do not live until the last of all tests is run."""
    monkeypatch.setitem(globals(), "NOW", datetime.now(UTC).replace(microsecond=0))


def access_token(left: timedelta = QUARTER, **claims: object) -> str:
    expires_at = int((NOW + left).timestamp())
    return mint({"type": "access_token", "exp": expires_at, **claims})


@pytest.fixture(name="stack")
def _stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    stack = FakeStack()
    monkeypatch.setattr("boto3.Session", stack)
    return stack


@pytest.fixture(name="put")
def _put(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Put:
    """Put in what is piped; return the exit code and all that was shown, which is no secret."""

    def run(piped: str, *arguments: str) -> tuple[int, str]:
        stdin = io.TextIOWrapper(io.BytesIO(piped.encode()), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", stdin)
        code = main(["put", *arguments])
        shown = "".join(capsys.readouterr())
        for secret in (CREDENTIAL, PASSWORD):
            assert not any(piece in shown for piece in pieces(secret))
        return code, shown

    return run


def held_by_keeper(stack: FakeStack, raw: str) -> str:
    """Make this the token secret's current version, as the keeper writes it."""
    secret = stack.secrets.secret(TOKEN_SECRET)
    version = secret.write(raw, labels=["QWEN_PENDING"])
    secret.move("AWSCURRENT", version)
    return version


def gets_token(stack: FakeStack, *, grant: str = "refresh_token", **more: Any) -> None:
    """Have the function get a token with what is in the session secret, and remember whose."""

    def answer(_event: object) -> dict[str, Any]:
        assert stack.secrets.secret(SESSION_SECRET).value is not None, "stored before it is used"
        version = held_by_keeper(stack, access_token(iat=int(NOW.timestamp())))
        stack.memory = RunMemory(confirmed_version_id=version, confirmed_at=NOW, account=ACCOUNT)
        return {
            "outcome": "refreshed",
            "secret_id": "s",
            "version_id": version,
            "grant": grant,
            "session_expires_at": None,
            **more,
        }

    stack.answer = answer


def stored(stack: FakeStack) -> dict[str, object]:
    value = stack.secrets.secret(SESSION_SECRET).value
    assert isinstance(value, str)
    document: dict[str, object] = json.loads(value)
    return document


PASTED = [
    pytest.param(CREDENTIAL, id="the credential alone"),
    pytest.param(f"Cookie: theme=dark; refresh_token={CREDENTIAL}", id="a Cookie header"),
    pytest.param(
        f"curl 'https://auth.qwen.ai/x' \\\n  -H 'a: b' \\\n  -b 'refresh_token={CREDENTIAL}'",
        id="Copy as cURL",
    ),
    pytest.param(
        json.dumps([{"name": "refresh_token", "value": CREDENTIAL}]), id="a list of cookies"
    ),
    pytest.param(json.dumps({"refresh_token": CREDENTIAL}), id="an object"),
]


@pytest.mark.parametrize("pasted", PASTED)
def test_a_session_in_any_form_is_stored_and_the_function_uses_it_at_once(
    stack: FakeStack, put: Put, pasted: str
) -> None:
    ends_at = NOW + timedelta(days=30)
    gets_token(stack, session_expires_at=ends_at.isoformat())

    code, shown = put(pasted)

    assert code == 0, shown
    assert stored(stack) == {"refresh_token": CREDENTIAL}
    assert stack.events == [{"force": True}]
    for said in (
        "Login stored",
        "session (a refresh credential)",
        ACCOUNT,
        "the function has used it: it works",
        "of 15.0 minutes",
        f"nothing until {ends_at:%Y-%m-%d %H:%M} UTC; a reminder comes before",
    ):
        assert said in shown


def test_a_session_is_described_for_scripts(stack: FakeStack, put: Put) -> None:
    gets_token(stack)

    code, shown = put(CREDENTIAL, "--json")

    document = json.loads(shown)
    assert code == 0
    assert (document["kind"], document["account"]) == ("session", ACCOUNT)
    assert (document["used"], document["error"]) == (True, None)
    assert document["run"]["grant"] == "refresh_token"
    assert document["session_expires_at"] is None
    assert datetime.fromisoformat(document["expires_at"]) == NOW + QUARTER


def test_where_no_end_is_known_none_is_promised(stack: FakeStack, put: Put) -> None:
    gets_token(stack)

    _, shown = put(CREDENTIAL)

    assert "Session expires  not known; as a rule 30 days after the log-in" in shown
    assert "nothing for now: an alert says when you are needed" in shown


def test_a_sign_in_of_two_lines_replaces_the_whole_login_but_no_other_key(
    stack: FakeStack, put: Put
) -> None:
    there = {"note": "ours", "refresh_token": "an-older-one", "account": "another"}
    stack.secrets.hold(SESSION_SECRET, json.dumps(there))
    gets_token(stack, grant="password")

    code, shown = put(f"zoe@example.com\r\n {PASSWORD} \r\n", "--sign-in")

    assert code == 0, shown
    assert stored(stack) == {
        "note": "ours",
        "email": "zoe@example.com",
        "password": f" {PASSWORD} ",
    }
    assert "whatever login was there is replaced by this one" in shown
    assert "nothing, as long as the password stays the same" in shown


@pytest.mark.parametrize(
    ("piped", "reason"),
    [
        ("", "token_missing"),
        ("zoe@example.com", "session_malformed"),
        (f"zoe@example.com\n{PASSWORD}\nmore", "session_malformed"),
        (f"zoe\n{PASSWORD}", "session_malformed"),
        ("zoe@example.com\n\n", "session_malformed"),
    ],
    ids=["nothing", "no password", "three lines", "no e-mail", "an empty password"],
)
def test_what_is_no_sign_in_is_refused_before_aws_is_asked(
    stack: FakeStack, put: Put, piped: str, reason: str
) -> None:
    code, shown = put(piped, "--sign-in", "--json")

    assert code == 1
    assert json.loads(shown)["error"]["reason"] == reason
    assert stack.secrets.calls == []


def test_a_sign_in_beside_a_token_that_renews_itself_is_kept_for_later(
    stack: FakeStack, put: Put
) -> None:
    gets_token(stack, grant="exchange")

    code, shown = put(f"zoe@example.com\n{PASSWORD}", "--sign-in")

    assert code == 0
    assert "the token still renews itself; this login is for when that ends" in shown
    assert "Account" not in shown, "whose the sign-in is is not known yet"


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("checked", "the token is younger than ten minutes, so it was only checked"),
        ("leased", "another run was at work"),
        ("fresh", "the token was not replaced: the API gave no answer"),
        ("superseded", "somebody else wrote to a secret meanwhile"),
    ],
)
def test_a_session_that_was_not_used_yet_is_said_to_be_and_when_it_will_be(
    stack: FakeStack, put: Put, outcome: str, said: str
) -> None:
    version = held_by_keeper(stack, access_token(timedelta(minutes=14)))
    stack.answer = lambda _event: {"outcome": outcome, "version_id": version, "grant": None}

    code, shown = put(CREDENTIAL)

    assert code == 0, shown
    assert f"not yet: {said}" in shown
    # Of a token that says nothing of its issue, a third of its life and half a minute.
    due_at = NOW + timedelta(minutes=14) - timedelta(minutes=14) / 3 - timedelta(seconds=30)
    found = re.search(r"when the next token is due, on (\S+ \S+)", shown)
    assert found is not None, shown
    shown_at = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    # It is shown by the minute.
    assert abs(shown_at - due_at) <= timedelta(minutes=1)
    assert "make refresh ARGS=--force, from " in shown
    assert json.loads(put(CREDENTIAL, "--json")[1])["used"] is False


def test_without_a_check_a_session_is_stored_and_the_function_left_alone(
    stack: FakeStack, put: Put
) -> None:
    code, shown = put(CREDENTIAL, "--no-check")

    assert code == 0
    assert stored(stack) == {"refresh_token": CREDENTIAL}
    assert stack.events == []
    assert "it was only stored (--no-check)" in shown
    assert "make refresh ARGS=--force" in shown


@pytest.mark.parametrize(
    ("kind", "reason", "advice"),
    [
        ("SessionRejectedError", "session_rejected", "log in again in a private window"),
        ("WrongAccountError", "wrong_account", "Is the other account meant?"),
        ("KeyError", "function_failed", "Look at the function's log"),
    ],
)
def test_a_run_that_fails_leaves_the_session_stored_and_says_so(
    stack: FakeStack, put: Put, kind: str, reason: str, advice: str
) -> None:
    def answer(_event: object) -> dict[str, Any]:
        raise FailedRun(kind, "it did not work")

    stack.answer = answer

    code, shown = put(CREDENTIAL)

    assert code == 1
    assert stored(stack) == {"refresh_token": CREDENTIAL}
    assert "Login stored" in shown
    assert "not yet: the function could not" in shown
    said = "error: the login is stored, but the function could not use it: it did not work"
    assert f"{said} ({reason})" in shown
    assert advice in shown
    assert "Next" not in shown
    code, shown = put(CREDENTIAL, "--json")
    assert (code, json.loads(shown)["error"]["reason"]) == (1, reason)


def test_a_function_that_may_not_be_run_leaves_the_session_stored_and_that_is_said(
    stack: FakeStack, put: Put
) -> None:
    stack.denies = {"lambda"}

    code, shown = put(CREDENTIAL)

    assert code == 1
    assert "the login is stored, but" in shown
    assert "AccessDeniedException" in shown


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"notice upstream_blocked": NOW}, "could not use it: a firewall (upstream_blocked)"),
        # The incident keeps the words of what was worse, and before.
        (
            {
                "notice rate_limited": NOW,
                "critical upstream_blocked": NOW - timedelta(hours=1),
            },
            "could not use it: there is trouble that may pass (rate_limited)",
        ),
        ({}, "could not use it: there is trouble that may pass (retrying)"),
    ],
    ids=["told", "told after something else", "not told"],
)
def test_trouble_that_may_pass_is_named_by_what_the_run_remembers(
    stack: FakeStack, put: Put, published: dict[str, datetime], said: str
) -> None:
    incident = Incident(
        None, NOW, Severity.NOTICE, "upstream_blocked", "a firewall", published=published
    )
    stack.memory = RunMemory(incident=incident)
    stack.answer = lambda _event: {"outcome": "retrying", "version_id": None}

    code, shown = put(CREDENTIAL)

    assert code == 1
    assert said in shown
    assert "the next run tries again by itself" in shown


def test_a_session_that_was_refused_is_no_success_though_the_token_renewed_itself(
    stack: FakeStack, put: Put
) -> None:
    gets_token(stack, grant="exchange")
    renews = stack.answer

    def answer(event: Any) -> Any:
        result = renews(event)
        version = stack.secrets.secret(SESSION_SECRET).labels["AWSCURRENT"]
        refusal = Refusal(version, "session_rejected", "the host refused the credential", NOW)
        assert stack.memory is not None
        stack.memory = replace(stack.memory, refusals={Grant.REFRESH_TOKEN: refusal})
        return result

    stack.answer = answer

    code, shown = put(CREDENTIAL)

    assert code == 1
    assert "the host refused the credential (session_rejected)" in shown


def test_a_run_that_did_not_see_the_login_is_no_success(stack: FakeStack, put: Put) -> None:
    stack.answer = lambda _event: {"outcome": "awaiting_token"}

    code, shown = put(CREDENTIAL)

    assert code == 1
    assert "the function did not see the login" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "has no session secret to keep it in"),
        (["--secret-id", "another"], "services read, and they must not get a session"),
        (["--fleet", "--name", "pool/zoe"], "keeps one token and has no fleet"),
    ],
    ids=["a stack without one", "a named secret", "a stack without a fleet"],
)
def test_a_session_goes_nowhere_but_into_a_session_secret(
    stack: FakeStack, put: Put, arguments: list[str], said: str
) -> None:
    del stack.outputs["SessionSecretArn"]

    code, shown = put(CREDENTIAL, *arguments)

    assert code == 1
    assert said in shown
    assert "(config_invalid)" in shown
    assert stack.secrets.calls == []
    assert stack.events == []


def test_what_may_not_be_read_afterwards_is_left_out(stack: FakeStack, put: Put) -> None:
    gets_token(stack)
    stack.denies = {"dynamodb"}

    code, shown = put(CREDENTIAL)

    assert code == 0
    assert "Account          the token does not say" in shown


def test_an_account_that_the_api_said_of_another_token_is_not_shown(
    stack: FakeStack, put: Put
) -> None:
    gets_token(stack)
    gets = stack.answer

    def answer(event: Any) -> Any:
        result = gets(event)
        stack.memory = RunMemory(confirmed_version_id="another", account=ACCOUNT)
        return result

    stack.answer = answer

    code, shown = put(CREDENTIAL)

    assert code == 0
    assert ACCOUNT not in shown
    assert json.loads(put(CREDENTIAL, "--json")[1])["account"] is None


@pytest.mark.parametrize("beside", [True, False], ids=["beside a session", "alone"])
def test_a_token_of_the_first_kind_is_checked_and_goes_into_the_token_secret(
    stack: FakeStack, put: Put, *, beside: bool
) -> None:
    given = token(left=timedelta(days=5), now=NOW)
    if beside:
        stack.secrets.hold(SESSION_SECRET, json.dumps({"refresh_token": CREDENTIAL}))
    known = {"id": ACCOUNT, "role": "user", "email": "zoe@example.com"}
    with wire(reply("200 OK", json.dumps(known).encode())) as api:
        stack.parameters["ApiBaseUrl"] = api.base_url
        code, shown = put(f"Bearer {given.raw}")

    assert code == 0, shown
    assert stack.secrets.secret(TOKEN_SECRET).value == given.raw
    assert len(api.requests) == 1
    assert stack.events == [], "the schedule's next run sees it"
    assert "the API accepts it" in shown
    assert ("the session secret holds a login too" in shown) is beside
    assert not any(piece in shown for piece in pieces(given.raw))


GIVEN = token(left=timedelta(days=5), now=NOW)
CUT_OFF = f'{{"token": "{GIVEN.raw}", "note": "hunter2",}}'


@pytest.mark.parametrize("secret", [TOKEN_SECRET, SESSION_SECRET])
@pytest.mark.parametrize("value", [CUT_OFF, CUT_OFF.encode()], ids=["text", "binary"])
def test_what_cannot_be_kept_is_refused_until_somebody_gives_it_up(
    stack: FakeStack, put: Put, value: str | bytes, secret: str
) -> None:
    piped = GIVEN.raw if secret is TOKEN_SECRET else CREDENTIAL
    stack.secrets.secret(secret).write(value)

    code, shown = put(piped, "--no-check")

    assert code == 1
    assert "_malformed)" in shown
    assert "Nothing was stored. Correct the secret's value by hand" in shown
    assert "make put-token ARGS=--replace" in shown
    assert stack.secrets.secret(secret).value == value

    code, shown = put(piped, "--no-check", "--replace")

    assert code == 0, shown
    size = len(value)
    given_up = f"a text of {size}" if isinstance(value, str) else f"a binary value of {size} bytes"
    assert f"Given up  {given_up}" in " ".join(shown.split()).replace("Given up ", "Given up  ")
    assert "AWSPREVIOUS has it" in shown
    assert "hunter2" not in shown
    written = stack.secrets.secret(secret).value
    assert written in {GIVEN.raw, json.dumps({"refresh_token": CREDENTIAL})}


@pytest.mark.parametrize(
    ("value", "given_up"),
    [
        (None, None),
        ("", None),
        (GIVEN.raw, None),
        (json.dumps({"token": GIVEN.raw}), "the shape: it was a JSON object"),
        (
            json.dumps({"token": "x", "db.password-2": 1, "a b": 2, GIVEN.raw: 3}),
            "the keys db.password-2, 2 more that cannot be shown",
        ),
    ],
    ids=["never a value", "nothing", "a token", "a shape", "keys"],
)
def test_what_is_given_up_is_named_as_far_as_it_is_no_secret(
    stack: FakeStack, put: Put, value: str | None, given_up: str | None
) -> None:
    if value is not None:
        stack.secrets.hold(TOKEN_SECRET, value)

    code, shown = put(GIVEN.raw, "--no-check", "--replace", "--json")

    assert code == 0
    assert json.loads(shown)["given_up"] == given_up
    assert stack.secrets.secret(TOKEN_SECRET).value == GIVEN.raw


def test_the_keys_beside_a_session_are_named_as_well(stack: FakeStack, put: Put) -> None:
    there = {"refresh_token": "old", "account": "a", "note": 1}
    stack.secrets.hold(SESSION_SECRET, json.dumps(there))

    shown = put(CREDENTIAL, "--no-check", "--replace", "--json")[1]

    assert json.loads(shown)["given_up"] == "the keys note"
    assert stored(stack) == {"refresh_token": CREDENTIAL}
    assert json.loads(put(CREDENTIAL, "--no-check", "--json")[1])["given_up"] is None


# ── The fleet's members ───────────────────────────────────────────────────────────────────────────

ZOE = ("--fleet", "--name", "pool/zoe")
OF_ZOE = "pool/zoe/session"


@pytest.fixture(name="fleet")
def _fleet(stack: FakeStack) -> FakeStack:
    stack.has_fleet()
    return stack


def test_a_member_of_the_fleet_keeps_its_other_keys_too(fleet: FakeStack, put: Put) -> None:
    member = fleet.secrets.add("pool/zoe", CUT_OFF, tags={TAG: "on"})

    assert put(GIVEN.raw, "--no-check", *ZOE)[0] == 1
    assert fleet.secrets.secret(member).value == CUT_OFF
    assert put(GIVEN.raw, "--no-check", *ZOE, "--replace")[0] == 0
    assert fleet.secrets.secret(member).value == GIVEN.raw


def login_of_zoe(fleet: FakeStack) -> dict[str, object]:
    value = fleet.secrets.secret(OF_ZOE).value
    assert isinstance(value, str)
    document: dict[str, object] = json.loads(value)
    return document


@pytest.mark.parametrize("pasted", PASTED)
def test_a_session_in_any_form_makes_a_member_of_two_secrets_and_queues_its_run(
    fleet: FakeStack, put: Put, pasted: str
) -> None:
    code, shown = put(pasted, *ZOE)

    assert code == 0, shown
    assert login_of_zoe(fleet) == {"refresh_token": CREDENTIAL}
    member, session = fleet.secrets.secret("pool/zoe"), fleet.secrets.secret(OF_ZOE)
    assert (member.tags, member.value) == ({TAG: "on"}, None)
    assert session.tags == {TAG: "session"}
    job = {"secret_id": arn("pool/zoe"), "session_id": arn(OF_ZOE), "force": True}
    assert fleet.queued == [job]
    assert fleet.events == [], "the function of the stack's own secret has nothing to do with it"
    for said in (
        "Member",
        "pool/zoe",
        OF_ZOE,
        "session (a refresh credential)",
        "a worker is asked to",
    ):
        assert said in shown


def test_the_job_that_is_queued_is_one_that_a_worker_takes(fleet: FakeStack, put: Put) -> None:
    put(CREDENTIAL, *ZOE)

    [body] = map(json.dumps, fleet.queued)
    job = Job.from_body(body, secrets=arn("").removesuffix("-a1b2c3"))
    assert job == Job(arn("pool/zoe"), arn(OF_ZOE), force=True)


def test_a_sign_in_of_a_member_goes_into_its_session_secret(fleet: FakeStack, put: Put) -> None:
    code, shown = put(f"zoe@example.com\n{PASSWORD}\n", "--sign-in", *ZOE, "--json")

    assert code == 0, shown
    assert login_of_zoe(fleet) == {"email": "zoe@example.com", "password": PASSWORD}
    document = json.loads(shown)
    assert (document["kind"], document["queued"], document["error"]) == ("sign_in", True, None)
    assert (document["secret_id"], document["session_secret_id"]) == ("pool/zoe", arn(OF_ZOE))


@pytest.mark.parametrize("piped", [CREDENTIAL, GIVEN.raw], ids=["a session", "a token"])
def test_a_member_is_left_alone_until_its_login_is_stored(
    fleet: FakeStack, put: Put, piped: str
) -> None:
    seen: list[str] = []

    def look(call: SecretsManagerCall) -> None:
        if call.operation == "PutSecretValue":
            seen.append(fleet.secrets.secret("pool/zoe").tags[TAG])

    fleet.secrets.before = look

    assert put(piped, *ZOE, "--no-check")[0] == 0
    assert seen == ["off"]
    assert fleet.secrets.secret("pool/zoe").tags[TAG] == "on"


def test_a_member_keeps_the_value_of_its_tag(fleet: FakeStack, put: Put) -> None:
    fleet.secrets.add("pool/zoe", tags={TAG: "blue"})

    assert put(CREDENTIAL, *ZOE)[0] == 0
    assert fleet.secrets.secret("pool/zoe").tags[TAG] == "blue"


def test_who_may_only_look_at_the_fleets_secrets_can_put_in_and_take_out(
    fleet: FakeStack, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    """AWS refuses to describe what does not exist where a policy asks for a tag."""

    def refuse(call: SecretsManagerCall) -> None:
        if call.operation == "DescribeSecret" and arn(call.request["SecretId"]) not in (
            fleet.secrets.secrets
        ):
            raise denied("DescribeSecret")

    fleet.secrets.before = refuse

    code, shown = put(GIVEN.raw, *ZOE, "--no-check")
    assert code == 0, shown
    assert remove(capsys, "pool/zoe")[0] == 0


def test_a_new_session_replaces_the_login_of_a_member_and_takes_it_up_again(
    fleet: FakeStack, put: Put
) -> None:
    fleet.secrets.add("pool/zoe", GIVEN.raw, tags={TAG: "off"})
    there = {"note": "ours", "email": "zoe@example.com", "password": PASSWORD}
    fleet.secrets.add(OF_ZOE, json.dumps(there), tags={TAG: "off"})

    code, shown = put(CREDENTIAL, *ZOE)

    assert code == 0, shown
    assert login_of_zoe(fleet) == {"note": "ours", "refresh_token": CREDENTIAL}
    assert fleet.secrets.secret("pool/zoe").tags == {TAG: "on"}
    assert fleet.secrets.secret(OF_ZOE).tags == {TAG: "session"}
    assert fleet.secrets.secret("pool/zoe").value == GIVEN.raw, "it is the worker's to replace"


@pytest.mark.parametrize(
    ("name", "tags", "said"),
    [
        ("pool/zoe", {}, f"--secret-id pool/zoe --tags Key={TAG},Value=on"),
        ("pool/zoe", {TAG: "session"}, "is the session secret of a member"),
        (OF_ZOE, {}, f"--secret-id {OF_ZOE} --tags Key={TAG},Value=session"),
        (OF_ZOE, {TAG: "blue"}, "is a member of the fleet, and cannot hold the login of another"),
    ],
)
def test_no_secret_that_was_not_given_to_the_fleet_for_that_is_written(
    fleet: FakeStack, put: Put, name: str, tags: dict[str, str], said: str
) -> None:
    fleet.secrets.add(name, "a password", tags=tags)

    code, shown = put(CREDENTIAL, *ZOE)

    assert code == 1
    assert said in shown
    assert "(config_invalid)" in shown
    assert [each.value for each in fleet.secrets.secrets.values() if each.value] == ["a password"]
    assert fleet.queued == []


def test_a_queue_that_may_not_be_used_leaves_the_login_stored_and_that_is_said(
    fleet: FakeStack, put: Put
) -> None:
    fleet.denies = {"sqs"}

    code, shown = put(CREDENTIAL, *ZOE)

    assert code == 1
    assert login_of_zoe(fleet) == {"refresh_token": CREDENTIAL}
    assert "the login is stored, but no worker could be asked to use it" in shown
    assert "AccessDeniedException" in shown
    assert "the next sweep takes it up (rate(10 minutes)" in shown
    document = json.loads(put(CREDENTIAL, *ZOE, "--json")[1])
    assert (document["queued"], document["error"]["reason"]) == (False, "aws_failed")


def test_without_a_check_a_members_login_is_only_stored(fleet: FakeStack, put: Put) -> None:
    code, shown = put(CREDENTIAL, *ZOE, "--no-check")

    assert code == 0
    assert login_of_zoe(fleet) == {"refresh_token": CREDENTIAL}
    assert fleet.queued == []
    assert "it was only stored (--no-check); the next sweep sees it (rate(10 minutes))" in shown


def test_a_session_that_has_expired_makes_no_member(fleet: FakeStack, put: Put) -> None:
    expired = {"refresh_token": CREDENTIAL, "expires_at": int(NOW.timestamp()) - 60}

    code, shown = put(json.dumps(expired), *ZOE)

    assert code == 1
    assert "(session_rejected)" in shown
    assert fleet.secrets.calls == []


@pytest.mark.parametrize("tags", [{TAG: "session"}, {}], ids=["a session secret", "another one"])
def test_a_token_beside_a_members_session_is_said_to_be(
    fleet: FakeStack, put: Put, tags: dict[str, str]
) -> None:
    fleet.secrets.add(OF_ZOE, json.dumps({"refresh_token": CREDENTIAL}), tags=tags)

    code, shown = put(GIVEN.raw, *ZOE, "--no-check")

    assert code == 0, shown
    assert ("the session secret holds a login too" in shown) is bool(tags)
    assert "GetSecretValue" not in [
        call.operation for call in fleet.secrets.recorded if OF_ZOE in str(call.request)
    ], "what is in it is nobody's business here"


# ── Members that leave ────────────────────────────────────────────────────────────────────────────


def remove(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["remove", "--name", *arguments])
    return code, "".join(capsys.readouterr())


def test_a_member_leaves_with_its_session_secret_and_both_stay_as_they_are(
    fleet: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.secrets.add("pool/zoe", GIVEN.raw, tags={TAG: "on", "team": "a"})
    fleet.secrets.add(OF_ZOE, CREDENTIAL, tags={TAG: "session"})

    code, shown = remove(capsys, "pool/zoe")

    assert code == 0, shown
    assert "aws secretsmanager delete-secret --secret-id pool/zoe/session" in shown
    member, session = fleet.secrets.secret("pool/zoe"), fleet.secrets.secret(OF_ZOE)
    assert (member.tags, member.value) == ({"team": "a"}, GIVEN.raw)
    assert (session.tags, session.value) == ({}, CREDENTIAL)


def test_a_removal_that_failed_halfway_can_be_repeated(
    fleet: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.secrets.add("pool/zoe", GIVEN.raw, tags={})
    fleet.secrets.add(OF_ZOE, CREDENTIAL, tags={TAG: "session"})

    code, shown = remove(capsys, "pool/zoe", "--json")

    assert code == 0, shown
    assert json.loads(shown)["secrets"] == [OF_ZOE]
    assert fleet.secrets.secret(OF_ZOE).tags == {}
    assert remove(capsys, "pool/zoe")[0] == 1, "now it is none of the fleet's"


def test_a_member_of_that_name_is_no_session_secret_and_stays(
    fleet: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.secrets.add("pool/zoe", GIVEN.raw, tags={TAG: "on"})
    fleet.secrets.add(OF_ZOE, GIVEN.raw, tags={TAG: "on"})

    code, shown = remove(capsys, "pool/zoe", "--json")

    assert (code, json.loads(shown)["secrets"]) == (0, ["pool/zoe"])
    assert fleet.secrets.secret(OF_ZOE).tags == {TAG: "on"}
