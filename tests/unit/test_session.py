"""Reading sessions: every form that people copy, what is refused, and that nothing is shown."""

import json
import re
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_token import (
    QwenTokenError,
    Session,
    SessionMalformedError,
    Token,
    TokenMalformedError,
)
from qwen_token.errors import SessionDocumentError
from qwen_token.session import is_credential
from qwen_token.stored_session import holds_more, parse_session, recognise, rendered_session
from tests.minting import ACCOUNT, NOW, all_said, mint, pieces

EXP = int(NOW.timestamp())
OPAQUE = "Zk3-x9_Qm~7.hR2+vT8/wL5%3D"
PASSWORD = "  pass word, with 'quotes' and ünïcode; "
CREDENTIAL_JWT = mint({"type": "refresh_token", "id": ACCOUNT, "exp": EXP})
ACCESS = mint({"type": "access_token", "id": ACCOUNT, "exp": EXP})
FIRST_KIND = mint({"id": ACCOUNT, "exp": EXP})
NAMELESS_JWT = mint({"jti": "1", "exp": EXP})


def session(text: str) -> Session:
    return parse_session(text, "v1").session


def refusal(text: str) -> str:
    """Return what the refusal of a session secret's value says; it quotes nothing of it."""
    with pytest.raises(SessionMalformedError) as caught:
        session(text)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


# What browsers make of a string when they copy a request, by the rules that they publish.


def for_bash(text: str) -> str:
    if not re.search(r"[\0-\x1f\x7f-\x9f!']", text):
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    escaped = re.sub(r"[\0-\x1f\x7f-\x9f!]", lambda found: f"\\u{ord(found[0]):04x}", escaped)
    return f"$'{escaped}'"


def for_cmd(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = re.sub(r"[^a-zA-Z0-9\s_\-:=+~'/.',?;()*`]", r"^\g<0>", escaped)
    escaped = re.sub(r"%(?=[a-zA-Z0-9_])", "%^", escaped)
    return '^"' + escaped.replace("\n", "^\n\n") + '^"'


def for_old_cmd(text: str) -> str:
    return '"' + text.replace('"', '""').replace("%", '"%"').replace("\\", "\\\\") + '"'


def for_powershell(text: str) -> str:
    return '"' + re.sub(r"[`$\"]", r"`\g<0>", text) + '"'


def bash(cookies: str, *, option: str = "-b ") -> str:
    url = for_bash("https://auth.qwen.ai/api/v2/auths/refresh?refresh_token=no&x=price$")
    return (
        f"curl {url} \\\n  -H {for_bash('accept: application/json')} \\\n"
        f"  {option}{for_bash(cookies)} \\\n  -H {for_bash('x-it: refresh_token=no; it!')} \\\n"
        f"  --data-raw {for_bash('refresh_token=no; ' + chr(39))}"
    )


def cmd(cookies: str, *, escape: Callable[[str], str] = for_cmd) -> str:
    return (
        f"curl {escape('https://chat.qwen.ai/?refresh_token=no&a=%20')} ^\r\n"
        f"  -H {escape('accept: */*')} ^\r\n  -b {escape(cookies)} ^\r\n"
        f"  -H {escape('sec-ch-ua: "Chromium";v="141"')}"
    )


def powershell(credential: str) -> str:
    def cookie(name: str, value: str, domain: str) -> str:
        arguments = ", ".join(map(for_powershell, (name, value, "/", domain)))
        return f"$session.Cookies.Add((New-Object System.Net.Cookie({arguments})))\n"

    return (
        "$session = New-Object Microsoft.PowerShell.Commands.WebRequestSession\n"
        '$session.UserAgent = "Mozilla/5.0"\n'
        + cookie("cna", "abc", ".qwen.ai")
        + cookie("refresh_token", "another", "qwen.ai.example")
        + cookie("empty", "", ".qwen.ai")
        + cookie("refresh_token", credential, ".qwen.ai")
        + 'Invoke-WebRequest -UseBasicParsing -Uri "https://auth.qwen.ai/" `\n-WebSession $session'
    )


COOKIES = 'cna=a b; empty=; refresh_token={}; tfstk="x,y"; x_refresh_token=no; acw=1|2'
LISTED = {"domain": ".qwen.ai", "httpOnly": True, "name": "refresh_token", "path": "/"}

FORMS: dict[str, Callable[[str], str]] = {
    "an object": lambda raw: json.dumps({"refresh_token": raw}),
    "an object after a byte order mark": lambda raw: "\ufeff" + json.dumps({"refresh_token": raw}),
    "an object in shell quotes": lambda raw: f"'{json.dumps({'refresh_token': raw})}'\n",
    "an object with surroundings": lambda raw: json.dumps({"refresh_token": f" {raw}\n"}),
    "an object with a cookie in it": lambda raw: json.dumps({"refresh_token": COOKIES.format(raw)}),
    "a cookie": lambda raw: f"refresh_token={raw}",
    "a quoted cookie": lambda raw: f'refresh_token="{raw}"',
    "the cookies": COOKIES.format,
    "a Cookie header": lambda raw: f"Cookie: {COOKIES.format(raw)}\r\n",
    "a small cookie header": lambda raw: f"cookie:{COOKIES.format(raw)}",
    "a cookie header on two lines": lambda raw: f"cookie\n{COOKIES.format(raw)}",
    "all headers": lambda raw: (
        f"Host: auth.qwen.ai\r\nCookie: {COOKIES.format(raw)}\r\nReferer: https://chat.qwen.ai/\r\n"
    ),
    "two cookie headers": lambda raw: f"cookie: cna=a\ncookie: refresh_token={raw}",
    "a Set-Cookie header": lambda raw: f"Set-Cookie: refresh_token={raw}; Path=/; HttpOnly",
    "curl for bash": lambda raw: bash(COOKIES.format(raw)),
    "curl for bash with another quoted cookie": lambda raw: bash("it='s!; " + COOKIES.format(raw)),
    "curl with --cookie": lambda raw: bash(COOKIES.format(raw), option="--cookie "),
    "curl with -b attached": lambda raw: bash(COOKIES.format(raw), option="-b"),
    "curl with a header": lambda raw: bash(f"Cookie: {COOKIES.format(raw)}", option="-H "),
    "curl with --header": lambda raw: bash(f"cookie: {COOKIES.format(raw)}", option="--header "),
    "curl in double quotes": lambda raw: f'$ curl https://qwen.ai/ -b "refresh_token={raw}"',
    "curl without quotes": lambda raw: f"curl -s -b refresh_token={raw} https://qwen.ai/",
    "curl for cmd": lambda raw: cmd(COOKIES.format(raw)),
    "curl for cmd on one line": lambda raw: cmd(COOKIES.format(raw)).replace("\r\n", ""),
    "curl for cmd, as browsers made it earlier": lambda raw: cmd(
        COOKIES.format(raw), escape=for_old_cmd
    ),
    "several curl commands": lambda raw: f"{bash('cna=1')} ;\n{bash(COOKIES.format(raw))}",
    "PowerShell": powershell,
    "PowerShell with a header": lambda raw: (
        'Invoke-WebRequest -Uri "https://qwen.ai/" -Headers @{\n"Cookie"='
        f"{for_powershell(COOKIES.format(raw))}\n}}"
    ),
    "a list of cookies": lambda raw: json.dumps(
        ["junk", {"name": "cna", "value": "x"}, {**LISTED, "value": raw}]
    ),
    "an object of cookies": lambda raw: json.dumps(
        {"cookies": [{**LISTED, "value": raw, "expires": -1}], "origins": []}
    ),
}
BARE: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "surrounded by white space": lambda raw: f"  {raw}\r\n",
    "in quotes": lambda raw: f'"{raw}"',
    "after a byte order mark": lambda raw: f"\ufeff{raw}\n",
}


@pytest.mark.parametrize("form", [*FORMS.values(), *BARE.values()], ids=[*FORMS, *BARE])
@pytest.mark.parametrize("raw", [OPAQUE, CREDENTIAL_JWT, NAMELESS_JWT])
def test_every_form_that_people_copy_is_read(raw: str, form: Callable[[str], str]) -> None:
    text = form(raw)
    stored = parse_session(text, "v1")

    assert stored.session.refresh_token == raw
    assert (stored.version_id, stored.text) == ("v1", text)
    assert recognise(text) == stored.session


credentials = st.from_regex(r"[!#-&(-+\--:<-~]{1,40}", fullmatch=True).filter(
    lambda raw: not any(part.startswith("eyJ") for part in raw.split("."))
)


@given(credentials)
def test_a_copied_request_gives_the_credential_to_the_letter(raw: str) -> None:
    for copied in (bash(COOKIES.format(raw)), cmd(COOKIES.format(raw)), powershell(raw)):
        assert session(copied).refresh_token == raw


def test_an_object_gives_all_that_it_holds() -> None:
    text = json.dumps(
        {
            "note": "mine",
            "refresh_token": OPAQUE,
            "expires_at": EXP,
            "email": " me@example.com ",
            "password": PASSWORD,
            "account": ACCOUNT,
        }
    )
    assert session(text) == Session(
        refresh_token=OPAQUE,
        expires_at=NOW,
        email="me@example.com",
        password=PASSWORD,
        account=ACCOUNT,
    )


def test_a_sign_in_alone_is_a_session() -> None:
    text = json.dumps({"email": "me@example.com", "password": PASSWORD, "refresh_token": None})

    assert session(text) == Session(email="me@example.com", password=PASSWORD)
    assert recognise(text) == session(text)


def test_an_expiry_without_a_credential_says_nothing() -> None:
    text = json.dumps({"email": "me@example.com", "password": "x", "expires_at": EXP})
    assert session(text).expires_at is None


LATER = NOW + timedelta(days=9)


@pytest.mark.parametrize(
    ("text", "expires_at"),
    [
        pytest.param(OPAQUE, None, id="nothing tells it"),
        pytest.param(CREDENTIAL_JWT, NOW, id="the JWT itself"),
        pytest.param(f"refresh_token={CREDENTIAL_JWT}", NOW, id="the JWT in a cookie"),
        pytest.param(json.dumps({"refresh_token": CREDENTIAL_JWT}), NOW, id="the JWT in an object"),
        pytest.param(
            json.dumps({"refresh_token": CREDENTIAL_JWT, "expires_at": EXP + 9 * 86400}),
            LATER,
            id="the object, rather than its JWT",
        ),
        pytest.param(
            json.dumps([{**LISTED, "value": CREDENTIAL_JWT, "expirationDate": EXP + 777600.5}]),
            LATER,
            id="the list, rather than its JWT",
        ),
        pytest.param(
            json.dumps({"cookies": [{**LISTED, "value": OPAQUE, "expires": EXP}]}),
            NOW,
            id="another tool's list",
        ),
        pytest.param(
            json.dumps([{**LISTED, "value": OPAQUE, "expirationDate": EXP * 1000}]),
            None,
            id="an unusable time in a list",
        ),
        pytest.param(
            f"set-cookie: refresh_token={OPAQUE}; expires=Tue, 24 Nov 2026 12:00:00 GMT; path=/",
            NOW,
            id="the cookie's attribute",
        ),
        pytest.param(
            f"set-cookie: refresh_token={OPAQUE}; Expires=soon", None, id="an unusable attribute"
        ),
    ],
)
def test_the_expiry_comes_from_the_most_direct_source(
    text: str, expires_at: datetime | None
) -> None:
    assert session(text).expires_at == expires_at


def listed(*cookies: tuple[str, str, int | None]) -> str:
    return json.dumps(
        [
            {"name": "refresh_token", "value": value, "domain": domain}
            | ({} if expires_at is None else {"expirationDate": expires_at})
            for value, domain, expires_at in cookies
        ]
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            listed(("old", ".qwen.ai", EXP), ("BEST", ".qwen.ai", EXP + 1)), id="the longest life"
        ),
        pytest.param(
            listed(("BEST", "auth.qwen.ai", None), ("other", "example.com", EXP)),
            id="qwen.ai before others",
        ),
        pytest.param(
            listed(("other", "notqwen.ai", EXP), ("BEST", "qwen.ai", None)), id="no lookalike"
        ),
        pytest.param(
            listed(("other", "qwen.ai.example.com", EXP), ("BEST", "qwen.ai", None)),
            id="no lookalike in front",
        ),
        pytest.param(listed(("BEST", "a.example", EXP), ("x", "b.example", None)), id="no qwen.ai"),
        pytest.param(listed(("", ".qwen.ai", EXP), ("BEST", "a.example", 1)), id="no empty one"),
        pytest.param("refresh_token=BEST; refresh_token=second", id="the browser's order"),
        pytest.param("refresh_token=; refresh_token=BEST", id="no empty one in a header"),
        pytest.param(
            "Set-Cookie: refresh_token=x; Max-Age=0\nSet-Cookie: refresh_token=BEST; Max-Age=9",
            id="no deleted one",
        ),
        pytest.param(
            "Set-Cookie: refresh_token=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT\n"
            "Set-Cookie: refresh_token=BEST",
            id="none of 1970",
        ),
    ],
)
def test_of_several_cookies_the_best_is_taken(text: str) -> None:
    assert session(text).refresh_token == "BEST"


def test_of_two_cookies_in_a_header_the_later_expiry_wins() -> None:
    longer = mint({"type": "refresh_token", "exp": EXP + 60})
    text = f"Cookie: refresh_token={CREDENTIAL_JWT}; refresh_token={longer}"
    assert session(text).refresh_token == longer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "empty", id="nothing"),
        pytest.param(" \ufeff\n", "empty", id="white space"),
        pytest.param(
            "short-opaque-string", "not a login in a known form", id="under 20 characters"
        ),
        pytest.param(
            "a sentence of more than twenty", "not a login in a known form", id="a sentence"
        ),
        pytest.param(
            "https://chat.qwen.ai/auth/login", "not a login in a known form", id="an address"
        ),
        pytest.param("somebody.long@example.com", "not a login in a known form", id="an e-mail"),
        pytest.param("<!doctype html><html></html>", "not a login in a known form", id="a page"),
        pytest.param("x" * 16385, "not a login in a known form", id="too long"),
        pytest.param('{"refresh_token": "abc', "does not parse", id="a cut object"),
        pytest.param("[" * 100_000, "does not parse", id="a deep list"),
        pytest.param("[1, 2]", "no cookie 'refresh_token'", id="a list of something else"),
        pytest.param("{}", "'refresh_token', or the keys 'email' and 'password'", id="no keys"),
        pytest.param('{"note": 1, "account": "x"}', "has no login", id="other keys only"),
        pytest.param('{"refresh_token": null}', "has no login", id="a null"),
        pytest.param('{"refresh_token": 5}', "should be a string", id="a number"),
        pytest.param('{"refresh_token": ""}', "visible ASCII", id="an empty credential"),
        pytest.param('{"refresh_token": "a b"}', "visible ASCII", id="a space inside"),
        pytest.param('{"refresh_token": "a\\u00e4b"}', "visible ASCII", id="a letter beyond ASCII"),
        pytest.param('{"refresh_token": "a\\r\\nX: 1"}', "visible ASCII", id="a header line"),
        pytest.param(
            json.dumps({"refresh_token": '{"refresh_token": "x"}'}),
            "not an object",
            id="an object inside",
        ),
        pytest.param(
            json.dumps({"refresh_token": "x" * 16385}), "at most 16384", id="a long credential"
        ),
        pytest.param('{"email": "me@example.com"}', "one is missing", id="no password"),
        pytest.param('{"password": "x"}', "one is missing", id="no e-mail"),
        pytest.param('{"email": "me", "password": "x"}', "e-mail address", id="no @"),
        pytest.param('{"email": "a b@c", "password": "x"}', "e-mail address", id="a space in it"),
        pytest.param('{"email": ["a@b"], "password": "x"}', "'email' should", id="a list"),
        pytest.param('{"email": "a@b", "password": ""}', "'password' is empty", id="no text"),
        pytest.param('{"email": "a@b", "password": 12345}', "'password' should", id="digits"),
        pytest.param('{"email": "a@b", "password": "\\ud800"}', "not valid text", id="half a sign"),
        pytest.param('{"refresh_token": "x", "account": ""}', "'account' is empty", id="account"),
        pytest.param('{"refresh_token": "x", "account": 1}', "'account' should", id="account no."),
        pytest.param('{"cookies": []}', "HttpOnly", id="no cookies"),
        pytest.param("cna=abc; token=x", "HttpOnly, so that document.cookie", id="other cookies"),
        pytest.param("Cookie: cna=abcdefghijklmnopqrstuvwxyz", "HttpOnly", id="another cookie"),
        pytest.param("refresh_token=; Path=/", "HttpOnly", id="an empty cookie"),
        pytest.param("refresh_token=x; Max-Age=0", "HttpOnly", id="a deleted cookie"),
        pytest.param(bash("cna=abc"), "HttpOnly", id="a request without the cookie"),
        pytest.param(cmd("cna=abc"), "HttpOnly", id="a request for cmd without it"),
        pytest.param("curl https://qwen.ai/", "HttpOnly", id="a request without cookies"),
        pytest.param("Invoke-WebRequest -Uri x", "HttpOnly", id="one for PowerShell"),
        pytest.param(
            "curl 'https://qwen.ai/' -b 'refresh_token=abc", "a quote is not closed", id="cut off"
        ),
        pytest.param("curl 'https://qwen.ai/' \\", "cut off", id="the first line of a request"),
        pytest.param(CREDENTIAL_JWT.rpartition(".")[0], "cut off", id="two parts of a JWT"),
        pytest.param("abcdefghij_klmno.pqrstuvwxyz", "cut off", id="two parts of something"),
        pytest.param(CREDENTIAL_JWT[:30], "cut off", id="one part of a JWT"),
        pytest.param(CREDENTIAL_JWT[9:], "cut off", id="a JWT without its beginning"),
        pytest.param(f"refresh_token={CREDENTIAL_JWT[:60]}", "cut off", id="a cookie cut off"),
        pytest.param(
            json.dumps({"refresh_token": CREDENTIAL_JWT[:60]}), "cut off", id="a key cut off"
        ),
    ],
)
def test_what_holds_no_login_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ACCESS, id="alone"),
        pytest.param(f"Bearer {ACCESS}", id="with Bearer"),
        pytest.param(f"Authorization: Bearer {ACCESS}", id="as a header"),
        pytest.param(f"refresh_token={ACCESS}", id="as the cookie"),
        pytest.param(json.dumps({"refresh_token": ACCESS}), id="as the key"),
        pytest.param(json.dumps({"token": ACCESS}), id="in the token secret's object"),
        pytest.param(json.dumps({"token": ACCESS, "expiresAt": EXP * 1000}), id="localStorage"),
        pytest.param(json.dumps({"token": "x", "expiresAt": 1}), id="localStorage, changed"),
    ],
)
def test_an_access_token_is_not_mistaken_for_a_credential(text: str) -> None:
    message = refusal(text)

    assert "15 minutes" in message
    assert "the cookie 'refresh_token'" in message
    with pytest.raises(QwenTokenError) as caught:
        recognise(text)
    assert str(caught.value) == message


def test_an_access_token_in_the_cookie_of_a_token_is_recognised_as_well() -> None:
    with pytest.raises(SessionMalformedError, match="15 minutes"):
        recognise(f"cna=abc; token={ACCESS}")


@pytest.mark.parametrize(
    "document",
    [
        {"access_token": "a", "refresh_token": OPAQUE, "token_type": "Bearer"},
        {"refresh_token": OPAQUE, "resource_url": "portal.qwen.ai"},
    ],
)
def test_the_credentials_of_qwen_code_are_another_thing(document: dict[str, str]) -> None:
    text = json.dumps(document)

    assert "Qwen Code" in refusal(text)
    with pytest.raises(SessionMalformedError, match="Qwen Code"):
        recognise(text)


@pytest.mark.parametrize(
    "seconds",
    ["1790000000", True, float("nan"), float("inf"), -1, 0, 946684799, 10**30, 10**400, [EXP]],
)
def test_an_unusable_expiry_of_an_object_is_refused(seconds: object) -> None:
    text = json.dumps({"refresh_token": OPAQUE, "expires_at": seconds})
    assert "seconds since 1970" in refusal(text)


@pytest.mark.parametrize("milliseconds", [EXP * 1000, EXP * 1000.5])
def test_an_expiry_in_milliseconds_is_refused_as_such(milliseconds: float) -> None:
    text = json.dumps({"refresh_token": OPAQUE, "expires_at": milliseconds})
    assert refusal(text) == "'expires_at' is in milliseconds: divide it by 1000"


def test_no_name_of_an_unknown_key_is_quoted() -> None:
    assert OPAQUE not in refusal(json.dumps({OPAQUE: 1, "token": OPAQUE}))


def test_a_credential_with_a_name_may_be_what_a_bare_one_may_not() -> None:
    for raw in ("short", "https://x", "one.dot", "a@b", "a" * 16384, "base64==", "a=b", "`{`"):
        assert session(json.dumps({"refresh_token": raw})).refresh_token == raw


def test_an_encrypted_jwt_is_an_opaque_credential() -> None:
    raw = f"{CREDENTIAL_JWT.partition('.')[0]}.key.iv.text.tag"
    assert session(raw).refresh_token == raw
    assert recognise(raw) == session(raw)


def test_padding_is_not_a_cookie() -> None:
    for raw in ("QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "QWxhZGRpbjpvcGVuIHNlc2FtZ="):
        assert session(raw).refresh_token == raw


# What is shown


@pytest.mark.parametrize("text", [*(form(OPAQUE) for form in FORMS.values()), OPAQUE])
def test_a_session_does_not_show_itself(text: str) -> None:
    stored = parse_session(text, "v1")

    for shown in (repr(stored), f"{stored.session}", str([stored])):
        assert "[redacted]" in shown
        assert not any(piece in shown for piece in pieces(OPAQUE))
    # Not a character of it, so that no piece is too short to be found.
    hidden = r"refresh_token=\[redacted\], email=None, password=None"
    assert re.fullmatch(
        rf"Session\({hidden}, expires_at=[^,]*, account=None\)", f"{stored.session}"
    )


def test_a_sign_in_does_not_show_itself() -> None:
    held = Session(
        refresh_token="x", expires_at=NOW, email="me@example.com", password="y z", account="id"
    )
    assert repr(held) == (
        "Session(refresh_token=[redacted], email=[redacted], password=[redacted], "
        "expires_at=2026-11-24T12:00:00+00:00, account='id')"
    )
    assert repr(Session()) == (
        "Session(refresh_token=None, email=None, password=None, expires_at=None, account=None)"
    )


def test_a_session_refuses_what_no_header_can_carry() -> None:
    for raw in ("", "a;b", "a,b", 'a"b', "a'b", "a b", "a\n", "ä", "x" * 16385):
        assert not is_credential(raw)
        with pytest.raises(SessionMalformedError):
            Session(refresh_token=raw)


# What is stored


def test_a_pasted_form_is_replaced_by_the_plain_object() -> None:
    for form in (*FORMS.values(), *BARE.values()):
        held = session(form(CREDENTIAL_JWT))
        assert json.loads(rendered_session(held, over=form(OPAQUE))) == {
            "refresh_token": CREDENTIAL_JWT,
            "expires_at": EXP,
        }


SIGN_IN = Session(email="me@example.com", password=PASSWORD)


@pytest.mark.parametrize(
    "over",
    ["", " \n", "curl 'x", "hunter2", "eyJhbGciOiJIUzI1NiJ9.eyJ", ACCESS, "\ufeff"],
    ids=["nothing", "blank", "cut off", "a word", "half a JWT", "an access token", "a mark"],
)
def test_what_holds_no_key_is_replaced_whether_or_not_it_can_be_read(over: str) -> None:
    assert json.loads(rendered_session(SIGN_IN, over=over)) == {
        "email": "me@example.com",
        "password": PASSWORD,
    }


OTHER_VALUES = {
    "half an object": '{"refresh_token": "old", "note": "hunter2"',
    "a comma too many": '{"refresh_token": "old", "note": "hunter2",}',
    "single quotes": "{'refresh_token': 'old', 'note': 'hunter2'}",
    "a comment": '// ours\n{"refresh_token": "old", "note": "hunter2"}',
    "a comment inside": '{"refresh_token": "old", /* ours */ "note": "hunter2"}',
    "text before it": 'session = {"refresh_token": "old", "note": "hunter2"}',
    "text after it": '{"refresh_token": "old", "note": "hunter2"} ours',
    "two objects": '{"refresh_token": "old"}\n{"note": "hunter2"}',
    "an object in a JSON string": json.dumps('{"refresh_token": "old", "note": "hunter2"}'),
    "half a list": '[{"name": "refresh_token", "value": "old"}, {"note": "hunter2"}',
    "a list without a login": '[{"note": "hunter2"}]',
    "a number that is too long": '{"refresh_token": "old", "note": ' + "9" * 5000 + "}",
    "nesting that is too deep": '{"note": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "lines of another format": "DB_PASSWORD=hunter2\nREFRESH_TOKEN=old\n",
    "YAML": "note: hunter2\nemail: me@example.com\n",
    "words": "ours: hunter2",
    "an object under the login's key": '{"refresh_token": {"value": "old", "note": "hunter2"}}',
    "a list under the login's key": '{"password": ["hunter2"]}',
    "an object under the account": '{"refresh_token": "old", "account": {"note": "hunter2"}}',
    "an object in the login's string": json.dumps(
        {"refresh_token": '{"value": "old", "note": "hunter2"}'}
    ),
    "keys that make it another kind": '{"resource_url": "hunter2", "note": 1}',
    "cookies of another kind": '{"cookies": [], "resource_url": "hunter2"}',
}


@pytest.mark.parametrize("over", OTHER_VALUES.values(), ids=OTHER_VALUES)
def test_what_holds_anything_else_and_cannot_be_kept_is_refused(over: str) -> None:
    """For whoever puts a login in, and for the keeper, which has read it before it writes."""
    with pytest.raises(SessionDocumentError) as caught:
        rendered_session(SIGN_IN, over=over)
    assert "hunter2" not in all_said(caught.value)
    assert "Retrieve secret value" in caught.value.advice


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ('{"note": 1.10, "note": 1e400, "password": 1}', '{"note": 1.10, "note": 1e400, {}}'),
        ('\ufeff{"note": "f\\u00fcr \ud83d"}', '{"note": "f\\u00fcr \ud83d", {}}'),
        ("'{\"note\": NaN}'\r\n", '{"note": NaN, {}}'),
        ('{\r\n"Email": "hunter2"\r\n}\r\n', '{\r\n"Email": "hunter2",\r\n{}\r\n}\r\n'),
        ('{"note":' + "9" * 400 + "}", '{"note":' + "9" * 400 + ",{}}"),
        ('{"origins": [], "cookies": [], "note": {"a": [1.0]}}', '{"note": {"a": [1.0]}, {}}'),
        ('{"cookies": [1], "email": "old@b", "password": "b"}', '{"cookies": [1], {}}'),
    ],
    ids=["digits", "escapes", "quotes", "lines", "a long number", "a browser's state", "a name"],
)
def test_other_keys_stay_as_they_were_written(over: str, expected: str) -> None:
    colon = ":" if ":9" in over else ": "
    held = Session(refresh_token="new")
    assert rendered_session(held, over=over) == expected.replace(
        "{}", f'"refresh_token"{colon}"new"'
    )


def test_an_object_without_room_is_refused_before_the_credential_is_spent() -> None:
    """In bytes: of 65,536, a new credential may take 4,096 more than the one before it."""

    def document(size: int) -> str:
        text = json.dumps({"refresh_token": "x" * 30, "note": "é"}, ensure_ascii=False)
        return text.replace("é", "é" + "x" * (size - len(text.encode())))

    longest = document(61_440)
    longer = Session(refresh_token="y" * (30 + 4096))
    assert len(rendered_session(longer, over=longest).encode()) == 65_536
    assert parse_session(longest, "v1").text == longest
    with pytest.raises(SessionDocumentError, match="61441 bytes long, which leaves no room"):
        parse_session(document(61_441), "v1")
    with pytest.raises(SessionDocumentError, match="65537 bytes long, more than the 65536"):
        rendered_session(longer, over=document(61_441))


@pytest.mark.parametrize(
    ("value", "more"),
    [
        ("", False),
        (OPAQUE, False),
        (f"Cookie: a=b; refresh_token={OPAQUE}", False),
        (json.dumps({"refresh_token": OPAQUE, "expires_at": EXP, "account": "id"}), False),
        (json.dumps({"refresh_token": OPAQUE, "note": 1}), True),
        ('{"refresh_token": "x",}', True),
        ("note: 1", True),
    ],
)
def test_a_value_that_holds_more_than_a_login_is_known(value: str, *, more: bool) -> None:
    assert holds_more(value) is more


def test_an_object_keeps_its_other_keys_in_their_places() -> None:
    over = '{"a": 1, "refresh_token": "old", "b": [null], "email": "old@b", "password": "x"}'
    held = Session(refresh_token="new", expires_at=NOW, account="id")

    stored = rendered_session(held, over=over)

    assert json.loads(stored) == {
        "a": 1,
        "refresh_token": "new",
        "b": [None],
        "expires_at": EXP,
        "account": "id",
    }
    assert list(json.loads(stored))[:3] == ["a", "refresh_token", "b"]


def test_an_expiry_is_stored_only_beside_a_credential() -> None:
    over = json.dumps({"refresh_token": OPAQUE, "expires_at": EXP})
    sign_in = {"email": "me@example.com", "password": PASSWORD}

    stored = rendered_session(Session(**sign_in, expires_at=NOW), over=over)

    assert json.loads(stored) == sign_in
    assert json.loads(rendered_session(Session(refresh_token="x"), over=over)) == {
        "refresh_token": "x"
    }


# What a person pasted


@pytest.mark.parametrize(
    "paste",
    [
        "{}",
        " {}\n",
        '"{}"',
        "Bearer {}",
        "Authorization: Bearer {}",
        "token={}",
        "cna=abc; token={}; x=1",
        "Cookie: cna=abc; token={}",
        '{{"token": "{}"}}',
        '{{"token": "Bearer {}", "expires_at": 1}}',
        "curl 'https://chat.qwen.ai/' -b 'cna=abc; token={}'",
    ],
)
def test_a_token_that_is_its_own_login_is_recognised(paste: str) -> None:
    token = recognise(paste.format(FIRST_KIND))

    assert isinstance(token, Token)
    assert token.raw == FIRST_KIND


@pytest.mark.parametrize(
    "claims",
    [
        {"type": "refresh_token", "id": ACCOUNT},
        {"type": "refresh", "sub": ACCOUNT},
        {"typ": "Refresh", "sub": ACCOUNT},
        {"token_type": "refresh", "id": ACCOUNT},
        {"jti": "no account"},
        {"id": 7},
    ],
)
def test_a_jwt_that_says_so_or_has_no_account_is_a_credential(claims: dict[str, Any]) -> None:
    raw = mint(claims | {"exp": EXP})
    assert recognise(raw) == Session(refresh_token=raw, expires_at=NOW)


@pytest.mark.parametrize("claims", [{}, {"type": "x"}, {"type": ["refresh"]}, {"typ": 1}])
def test_another_jwt_with_an_account_is_a_token(claims: dict[str, Any]) -> None:
    assert isinstance(recognise(mint(claims | {"id": ACCOUNT, "exp": EXP})), Token)


def test_under_its_own_name_such_a_jwt_is_a_credential() -> None:
    assert session(FIRST_KIND).refresh_token == FIRST_KIND
    assert isinstance(recognise(f"refresh_token={FIRST_KIND}"), Session)


def test_where_there_are_both_the_session_is_recognised() -> None:
    cookies = f"token={FIRST_KIND}; refresh_token={OPAQUE}"
    for text in (
        cookies,
        bash(cookies),
        cmd(cookies),
        json.dumps({"token": FIRST_KIND, "refresh_token": OPAQUE}),
    ):
        assert recognise(text) == Session(refresh_token=OPAQUE)


@pytest.mark.parametrize(
    "text", [FIRST_KIND[:-50], FIRST_KIND[:40], FIRST_KIND.rpartition(".")[0], FIRST_KIND[15:]]
)
def test_a_truncated_token_is_not_an_opaque_credential(text: str) -> None:
    with pytest.raises(TokenMalformedError, match="cut off"):
        recognise(text)


def test_a_token_without_an_expiry_is_refused_as_a_token() -> None:
    with pytest.raises(TokenMalformedError, match="no expiry"):
        recognise(mint({"id": ACCOUNT}))


@pytest.mark.parametrize(
    "text", ["", "password123", "{}", '{"token": 5}', "cna=abc; x=y", "curl https://qwen.ai/"]
)
def test_what_is_no_login_is_recognised_as_none(text: str) -> None:
    with pytest.raises(SessionMalformedError):
        recognise(text)


# Whatever is pasted

# Without small letters, of which messages consist: what is said must not look quoted by chance.
signs = st.characters(exclude_categories=(), exclude_characters=string.ascii_lowercase)
secrets = st.text(signs, min_size=12, max_size=60) | st.sampled_from(
    [OPAQUE * 2, CREDENTIAL_JWT, ACCESS, FIRST_KIND, NAMELESS_JWT, CREDENTIAL_JWT[:70]]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | secrets,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(secrets, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    [
        *("refresh_token", "expires_at", "email", "password", "account", "cookies", "token"),
        *("access_token", "token_type", "resource_url", "expiresAt", "name", "value", "domain"),
        *("expirationDate", "expires"),
    ]
)
objects = st.dictionaries(names, values | st.just("me@example.com"), max_size=6)
wrapped = st.builds(
    lambda form, secret: form(secret), st.sampled_from([*FORMS.values(), *BARE.values()]), secrets
)
cut = st.builds(lambda text, start, end: text[start:end], wrapped, st.integers(0, 9), st.integers())
pasted = (
    wrapped
    | cut
    | st.text(signs)
    | objects.map(json.dumps)
    | st.lists(objects | st.just(LISTED), max_size=3).map(json.dumps)
    | st.lists(objects, max_size=3).map(lambda cookies: json.dumps({"cookies": cookies}))
    | st.from_regex(r"\A(curl|Cookie:|refresh_token=)[\s'\"\\$^`;=A-Z0-9-]{0,60}\Z")
)
# What messages say and forms have in common is no secret.
SAID = (
    "refresh_token access_token token_type resource_url expires_at password account expirationDate "
    "'refresh_token' 'email' 'password' me@example.com document.cookie HttpOnly"
)


def is_clean(held: Session) -> bool:
    return (
        (held.refresh_token is None or is_credential(held.refresh_token))
        and (held.expires_at is None or 2000 <= held.expires_at.year <= 9999)
        and (held.expires_at is None or held.expires_at.tzinfo is UTC)
        and (held.email is None) is (held.password is None)
        and (held.email is None or "@" in held.email)
        and (held.refresh_token or held.email) is not None
        and all((held.email or "-", held.password or "-", held.account or "-"))
        and bool(f"{held.email}{held.password}{held.account}".encode())
    )


@given(pasted)
def test_whatever_is_stored_is_a_clean_session_or_refused_without_a_word_of_it(text: str) -> None:
    try:
        stored = parse_session(text, "v1")
    except SessionMalformedError as error:
        said = all_said(error)
        assert not any(piece in said for piece in pieces(text) - pieces(SAID))
        return
    held = stored.session
    assert is_clean(held)
    shown = repr(stored) if held.account is None else ""
    assert not any(piece in shown for piece in pieces(held.refresh_token or "") - pieces(SAID))
    assert session(rendered_session(held, over="")) == held


def cut_off[**P](test: Callable[P, None]) -> Callable[P, None]:
    """Have a test meet each form where it breaks off, which chance seldom finds."""
    for form in [*FORMS.values(), *BARE.values()]:
        text = form(OPAQUE)
        for end in (len(text) - 1, text.find(OPAQUE) + len(OPAQUE)):
            test = example(text[:end])(test)
    return test


@cut_off
@given(pasted)
def test_any_pasted_text_is_a_login_or_refused_without_being_quoted(text: str) -> None:
    try:
        login = recognise(text)
    except (SessionMalformedError, TokenMalformedError) as error:
        said = all_said(error)
        assert not any(piece in said for piece in pieces(text) - pieces(SAID))
        return
    if isinstance(login, Session):
        assert is_clean(login)
        assert login == session(text)
    else:
        assert login.raw in text
        assert not login.is_access_token
