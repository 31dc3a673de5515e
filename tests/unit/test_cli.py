"""The command line, as far as it goes without AWS: its words, its exit codes, what it refuses."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from localcloud import qwen as scenarios
from localcloud.qwen import ACCOUNT, QwenStandIn, Reply, Request, Scenario
from qwen_token import TokenMalformedError, TokenMissingError, TokenRejectedError
from qwen_token.cli import main
from tests.minting import mint, pieces, token
from tests.wire import Script, Wire, reply, wire

LIBRARY = Path(__file__).parents[2] / "layers/qwen_token"
NO_AWS = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}


@pytest.fixture(autouse=True)
def _no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_AWS.items():
        monkeypatch.setenv(name, value)


def type_in(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    piped = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))


# Where a word may stand that is no login, only what is like a token can be told from one.
WORDS_OF_OTHERS = ("--secret-id", "--name", "--stack={}")


@pytest.mark.parametrize("login", [token(left=timedelta(days=5)).raw, "an-opaque-credential"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "{}"],
        ["put", "--token", "{}"],
        ["put", "--token={}"],
        ["put", "--json={}"],
        ["put", "-t{}"],
        *(["put", f"--{name}", "{}"] for name in ("refresh-token", "session", "cookie", "login")),
        *(["put", f"--{name}", "{}"] for name in ("password", "sign-in", "email", "value")),
        ["{}"],
        ["--{}"],
        ["status", "{}"],
        ["refresh", "{}", "--force"],
        ["smoke", "{}"],
        ["smoke", "--stdin={}"],
        ["smoke", "--token", "{}"],
        ["put", "--secret-id", "{}"],
        ["put", "--fleet", "--name", "{}"],
        ["status", "--stack={}"],
        ["remove", "--name", "{}"],
    ],
    ids=" ".join,
)
def test_a_token_is_never_an_argument(
    arguments: list[str], login: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if set(WORDS_OF_OTHERS) & set(arguments) and "." not in login:
        return
    with pytest.raises(SystemExit) as caught:
        main([argument.format(login) for argument in arguments])
    assert caught.value.code == 2
    shown = "".join(capsys.readouterr())
    assert "error: " in shown
    assert "A login is never an argument: put asks for it" in shown
    assert not any(piece in shown for piece in login.split("."))


LOGINS = {
    "in quotes": '"{}"',
    "in a header": "Authorization: Bearer {}",
    "after blanks": "  {}",
    "in an address": "https://chat.qwen.ai/?token={}",
    "in an address's path": "https://chat.qwen.ai/{}",
    "in a cookie": "theme=dark; token={}",
    "its second half": "{half}",
    "a credential": "Cr3dential-of_a.session~1234567890",
    "a random credential": "Zk3x9Qm7hR2vT8wL5dXy+/=",
    "a named credential": "refresh_token=Cr3dential",
    "a sign-in": "zoe@example.com:correct horse",
}
OPTIONS = [
    ["status", "--stack"],
    ["status", "--region"],
    ["put", "--secret-id"],
    ["put", "--fleet", "--name"],
    ["put", "--api-base-url"],
    ["remove", "--name"],
    ["smoke", "--stdin", "--api-base-url"],
    ["environ", "--stack"],
    ["sweep", "--region"],
    ["redrive", "--stack"],
    ["refresh", "--region"],
]


@pytest.mark.parametrize("option", OPTIONS, ids=" ".join)
def test_no_form_of_a_login_is_an_options_value(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for form, login in LOGINS.items():
        # What is not a URL is refused, and not repeated, where a URL is used.
        if option[-1] == "--api-base-url" and form in {"a credential", "a sign-in"}:
            continue
        for joined in (False, True):
            assert_refused_unseen(option, login, capsys, joined=joined)


def assert_refused_unseen(
    option: list[str], login: str, capsys: pytest.CaptureFixture[str], *, joined: bool
) -> None:
    raw = token(left=timedelta(days=5)).raw
    given = login.format(raw, half=raw[len(raw) // 2 :])
    last = [f"{option[-1]}={given}"] if joined else [option[-1], given]
    with pytest.raises(SystemExit) as caught:
        main([*option[:-1], *last])
    assert caught.value.code == 2
    shown = "".join(capsys.readouterr())
    assert "A login is never an argument: put asks for it" in shown
    words = {word for word in re.split(r"[^\w-]+", given) if len(word) > 7}
    assert not [word for word in words - {"example", "refresh_token"} if word in shown]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["status", "--stack", "a stack"],
            "--stack should be a stack's name: letters, digits and hyphens",
        ),
        (["status", "--region", "Frankfurt"], "--region should be an AWS region, like eu-west-1"),
        (
            ["remove", "--name", "a;b"],
            "--name should be a secret's name: letters, digits and /_+=.@-",
        ),
        (["put", "--secret-id", "a b"], "--secret-id should be a secret's name or its ARN"),
        ([], "the following arguments are required: COMMAND"),
        (["puts"], "argument COMMAND: invalid choice"),
        (["status", "--stack"], "argument --stack: expected one argument"),
        (["status", "--force"], "unrecognized arguments"),
        (["refresh", "--forc"], "unrecognized arguments"),
        (["put", "--fleet"], "a member of the fleet is named by --fleet and --name NAME together"),
        (
            ["put", "--name", "a"],
            "a member of the fleet is named by --fleet and --name NAME together",
        ),
        (
            ["put", "--fleet", "--name", "a", "--secret-id", "a"],
            "--secret-id is not for the fleet: its secrets are named by --name NAME",
        ),
        (
            ["put", "--fleet", "--name", "arn:aws:secretsmanager:eu-west-1:1:secret:a-b1c2d3"],
            "--name is a secret's name, not its ARN",
        ),
        (
            ["put", "--sign-in", "--secret-id", "a"],
            "--sign-in goes into a session secret, not into one that services read (--secret-id)",
        ),
        (
            ["put", "--fleet", "--name", "a/session"],
            "--name is the member's, not its session secret's: leave the /session out",
        ),
        (
            ["remove", "--name", "a/session"],
            "--name is the member's, not its session secret's: leave the /session out",
        ),
        (["status", "--all"], "--all goes with --fleet"),
        (
            ["status", "--fleet", "--check"],
            "--check is for the stack's own token, not for the fleet's",
        ),
        (
            ["smoke", "--api-base-url", "https://chat.qwen.ai"],
            "--api-base-url goes with --stdin: the stack names its own API",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_off_about_a_command_line_is_named_before_a_token_is_asked_for(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert f"error: {said}\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["put", "status", "refresh", "smoke", "environ"])
def test_every_command_explains_itself_and_its_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "exit codes:" in shown
    assert "--json" in shown


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        pytest.param("", "token_missing", id="nothing"),
        pytest.param("  \n", "token_missing", id="a blank line"),
        pytest.param("hunter2", "session_malformed", id="no login"),
        pytest.param(
            token(left=timedelta(days=5)).raw[:-60], "token_malformed", id="a token cut off"
        ),
        pytest.param(
            json.dumps({"token": mint({"type": "access_token", "exp": 4_000_000_000})}),
            "session_malformed",
            id="an access token",
        ),
        pytest.param(b"\xff\x00\x80", "token_malformed", id="no text"),
        pytest.param(
            '{"refresh_token": "a-credential", "expires_at": 1700000000}',
            "session_rejected",
            id="an expired session",
        ),
        pytest.param(
            token(left=-timedelta(days=1), now=datetime.now(UTC)).raw,
            "token_rejected",
            id="an expired token",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused_before_aws_is_asked(
    typed: str | bytes,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(monkeypatch, typed)

    assert main(["put", "--json"]) == 1

    error = json.loads(capsys.readouterr().out)["error"]
    assert error["reason"] == reason
    assert error["advice"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16"], ids=["plain", "marked", "as PowerShell pipes"]
)
def test_a_token_is_read_however_it_is_piped(
    encoding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = token(left=timedelta(days=5), now=datetime.now(UTC)).raw
    type_in(monkeypatch, f"{raw}\r\n".encode(encoding))

    assert main(["put", "--json"]) == 1

    # So far it got: beyond here AWS is asked.
    assert json.loads(capsys.readouterr().out)["error"]["reason"] == "aws_failed"


def test_without_a_standard_input_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["put"]) == 1
    assert "no standard input" in capsys.readouterr().err


def at_a_terminal(*arguments: str, answers: list[tuple[str, bytes]]) -> tuple[int, str]:
    """Run a command on a real terminal; type each answer at its prompt. Return all it showed."""
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours, "r+b", buffering=0) as terminal,
        subprocess.Popen(  # noqa: S603 - the project's own command
            [sys.executable, "-m", "qwen_token", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "PYTHONPATH": str(LIBRARY)},
            start_new_session=True,
        ) as command,
    ):
        os.close(theirs)
        shown = ""
        for prompt, answer in answers:
            # What is typed before the prompt is there is thrown away.
            while prompt not in shown:
                piece = terminal.read(4096)
                assert piece, shown
                shown += piece.decode()
            terminal.write(answer)
        # An error is how Linux says that nobody has this terminal open any more.
        with suppress(OSError):
            while piece := terminal.read(4096):
                shown += piece.decode()
        return command.wait(30), shown


def test_the_end_of_input_at_the_prompt_is_an_error() -> None:
    code, shown = at_a_terminal("put", answers=[("press Enter): ", b"\x04")])

    assert code == 1
    assert "nothing was given" in shown
    assert "Traceback" not in shown


def test_the_end_of_input_at_a_sign_in_is_an_error() -> None:
    code, shown = at_a_terminal("put", "--sign-in", answers=[("E-mail: ", b"\x04")])

    assert code == 1
    assert "an e-mail and a password are needed" in shown


def test_a_sign_in_is_asked_for_at_the_terminal_and_its_password_is_not_shown() -> None:
    code, shown = at_a_terminal(
        *("put", "--sign-in"),
        answers=[
            ("E-mail: ", b"zoe@example.com\n"),
            ("Password (hidden): ", b"correct horse\n"),
        ],
    )

    assert code == 1
    # So far it got: beyond here AWS is asked.
    assert "(aws_failed)" in shown
    assert "correct" not in shown
    assert "received" not in shown, "not even how long the password is"


def test_a_paste_that_a_terminal_would_cut_arrives_as_a_whole() -> None:
    padding = "x" * 20_000
    pasted = f"curl 'https://auth.qwen.ai' \\\n -H 'a: {padding}' \\\n -b 'refresh_token=a-word'\n"

    code, shown = at_a_terminal("put", answers=[("press Enter): ", pasted.encode())])

    assert code == 1
    assert "(aws_failed)" in shown, "a session was recognised"
    assert f"received {len(pasted) - 1:,} characters" in shown
    assert "xxxx" not in shown
    assert "a-word" not in shown


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["put", "--secret-id", "arn:foo"], {}, "--secret-id should be"),
        (["put", "--secret-id", "arn:aws:s3:::bucket"], {}, "--secret-id should be"),
        (
            ["put", "--secret-id", "s", "--api-base-url", "http://chat.qwen.ai"],
            {},
            "--api-base-url should be an https:// URL",
        ),
        (["put", "--api-base-url", "chat.qwen.ai", "--secret-id", "s"], {}, "--api-base-url"),
        (
            ["smoke", "--stdin", "--api-base-url", "http://chat.qwen.ai"],
            {},
            "--api-base-url should",
        ),
        (["status"], {"AWS_ENDPOINT_URL": "foo"}, "no client for cloudformation can be made"),
        (["put", "--secret-id", "s"], {"AWS_ENDPOINT_URL": "foo"}, "no client for secretsmanager"),
    ],
    ids=[
        "no ARN",
        "another service's ARN",
        "plain http",
        "no URL",
        "plain http for smoke",
        "no endpoint",
        "nor for put",
    ],
)
def test_bad_input_is_named_and_nothing_was_done(
    arguments: list[str],
    environ: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert main(arguments) == 1

    shown = capsys.readouterr().err
    assert said in shown
    assert "Fix what the message names, and try again." in shown


def test_without_an_answer_of_the_api_nothing_is_stored_and_put_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)
    with wire(reply("200 OK", b"<html>")) as qwen:
        assert main(["put", "--secret-id", "s", "--api-base-url", qwen.base_url]) == 1
    shown = capsys.readouterr().err
    assert "(upstream_unexpected)" in shown
    assert "Nothing was stored." in shown
    assert "--no-check" in shown


@pytest.mark.parametrize("command", ["put", "status", "refresh", "smoke"])
def test_without_the_package_for_tables_nothing_is_begun(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with wire(reply("500 No", b"")) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main([command]) == 1
    assert "pip install 'qwen-token[cli]'" in capsys.readouterr().err
    assert aws.requests == []


def test_an_error_for_people_names_the_reason_and_what_to_do_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "hunter2")

    assert main(["put"]) == 1

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: the value is not a login in a known form")
    assert "(session_malformed)" in shown.err
    assert "Accepted are: " in shown.err
    assert "hunter2" not in shown.err


@pytest.mark.parametrize("command", ["put", "status", "refresh", "smoke", "environ"])
def test_an_aws_that_cannot_be_reached_is_an_error_not_a_traceback(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)

    assert main([command]) == 1
    assert "Could not connect" in capsys.readouterr().err


@pytest.mark.parametrize("region", [None, ""])
@pytest.mark.parametrize("command", ["put", "status", "refresh", "smoke", "environ", "sweep"])
def test_without_a_region_the_error_says_what_to_set(
    command: str,
    region: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if region is not None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)

    assert main([command]) == 1
    assert "set AWS_DEFAULT_REGION, or name it with --region" in capsys.readouterr().err


def the_answer(result: str) -> bytes:
    return (
        f"<DescribeStacksResponse><DescribeStacksResult>{result}</DescribeStacksResult>"
        "</DescribeStacksResponse>"
    ).encode()


def the_stack(api_base_url: str = "https://chat.qwen.ai") -> Script:
    """Describe a stack as AWS itself does."""
    member = "<member><OutputKey>{0}</OutputKey><OutputValue>{0}</OutputValue></member>"
    outputs = "".join(member.format(key) for key in ("SecretArn", "RefreshFunctionName"))
    parameter = (
        "<member><ParameterKey>ApiBaseUrl</ParameterKey>"
        f"<ParameterValue>{api_base_url}</ParameterValue></member>"
    )
    stack = the_answer(
        f"<Stacks><member><StackName>s</StackName><Outputs>{outputs}</Outputs>"
        f"<Parameters>{parameter}</Parameters></member></Stacks>"
    )
    return reply("200 OK", stack, "Content-Type: text/xml")


NO_RESULTS: Final = [b"", b"<html>", b"null", b"5", b"[1]", b'"x"', b'{"outcome": ', b"{}", b"\xff"]


@pytest.mark.parametrize("command", ["refresh", pytest.param("environ", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("answer", NO_RESULTS, ids=repr)
def test_what_is_no_answer_of_lambdas_is_an_error_not_a_traceback(
    command: str,
    answer: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with wire(the_stack(), reply("200 OK", answer)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main([command]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "answer",
    [
        reply("200 OK", b"<html><body>Welcome</body></html>", "Content-Type: text/html"),
        reply("200 OK", b"<html", "Content-Type: text/html"),
        reply("200 OK", b"{}", "Content-Type: application/json"),
        reply("404 No", b"not XML", "Content-Type: text/plain"),
        reply("200 OK", the_answer("<Stacks></Stacks>"), "Content-Type: text/xml"),
        reply("200 OK", the_answer("<Stacks><member/></Stacks>"), "Content-Type: text/xml"),
    ],
    ids=["a page", "half a page", "JSON", "a text", "no stack", "a stack without outputs"],
)
@pytest.mark.parametrize(
    "command",
    [
        "status",
        *(
            pytest.param(each, marks=pytest.mark.nightly)
            for each in ("refresh", "sweep", "redrive")
        ),
    ],
)
def test_what_is_no_answer_of_cloudformations_is_an_error_not_a_traceback(
    command: str,
    answer: Script,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with wire(answer) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main([command]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_stack_without_a_parameter_that_is_needed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)
    without = the_answer(
        "<Stacks><member><Outputs><member><OutputKey>SecretArn</OutputKey><OutputValue>s"
        "</OutputValue></member><member><OutputKey>RefreshFunctionName</OutputKey><OutputValue>f"
        "</OutputValue></member></Outputs></member></Stacks>"
    )
    with wire(reply("200 OK", without, "Content-Type: text/xml")) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main(["put"]) == 1
    assert "has no parameter ApiBaseUrl" in capsys.readouterr().err


def test_a_full_disk_behind_the_output_is_an_error_not_a_traceback() -> None:
    result = reply("200 OK", b'{"outcome": "fresh"}')
    with wire(the_stack(), result) as aws, Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "qwen_token", "refresh", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "AWS_ENDPOINT_URL": aws.base_url,
            },
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == "error: input or output failed: OSError\n"


@pytest.mark.parametrize("arguments", [["refresh"], ["refresh", "--json"]], ids=" ".join)
def test_a_run_that_awaits_its_token_needs_a_person(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with wire(the_stack(), ended_as("awaiting_token")) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main(arguments) == 3
    assert "awaiting_token" in capsys.readouterr().out


def ended_as(outcome: str) -> Script:
    """Answer as the function does after such a run."""
    unknown = dict.fromkeys(
        ("version_id", "expires_at", "days_remaining", "grant", "session_expires_at")
    )
    result = {"outcome": outcome, "secret_id": "s", **unknown}
    return reply("200 OK", json.dumps(result).encode())


@pytest.mark.parametrize(
    ("options", "outcome", "said", "code"),
    [
        pytest.param([], "fresh", "not due", 0, id="nothing to do"),
        pytest.param(["--check"], "checked", "the API accepts the token", 0, id="good"),
        pytest.param(["--check"], "fresh", "gave no answer", 0, id="no answer to a check"),
        pytest.param(["--force"], "checked", "younger than ten minutes", 0, id="the brake"),
        pytest.param(["--force"], "fresh", "was not replaced", 0, id="no answer to the brake"),
        pytest.param(["--force", "--dry-run"], "fresh", "not due", 0, id="a dry run asks nobody"),
        pytest.param([], "leased", "another run is at work", 0, id="another run"),
        pytest.param([], "retrying", "trouble that may pass", 1, id="trouble that may pass"),
        pytest.param([], "a new one", "not an outcome that this release knows", 0, id="unknown"),
    ],
)
def test_an_outcome_is_shown_with_words_and_has_its_exit_code(  # noqa: PLR0913 - a case has four
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    options: list[str],
    outcome: str,
    said: str,
    code: int,
) -> None:
    with wire(the_stack(), ended_as(outcome)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main(["refresh", *options]) == code
    [line] = [line for line in capsys.readouterr().out.splitlines() if "Outcome" in line]
    assert f"{outcome}: " in line
    assert said in line
    event = json.loads(aws.requests[-1].partition(b"\r\n\r\n")[2])
    assert event == {each[2:].replace("-", "_"): True for each in options}


def test_a_failed_run_is_shown_with_the_reason_and_advice_of_its_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"errorMessage": "refused", "errorType": "TokenRejectedError", "stackTrace": []}
    with wire(
        the_stack(),
        reply("200 OK", json.dumps(error).encode(), "X-Amz-Function-Error: Unhandled"),
    ) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main(["refresh", "--json"]) == 1

    shown = json.loads(capsys.readouterr().out)
    assert shown["error"] == {
        "reason": "token_rejected",
        "message": "refused",
        "advice": TokenRejectedError.advice,
    }


# --- smoke ----------------------------------------------------------------------------------------

Check = Callable[..., tuple[int, str]]

TWO_DAYS = timedelta(days=2)


@pytest.fixture(name="smoke")
def _smoke(
    qwen: QwenStandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """Run the check; return its exit code and all that it said, which is no token.

    It is of the token ``typed``, at the stand-in of the API, or else of the stack that is ``aws``.
    """

    def run(*arguments: str, typed: str = "", aws: Wire | None = None) -> tuple[int, str]:
        if aws is None:
            type_in(monkeypatch, typed)
            arguments = ("--stdin", "--api-base-url", qwen.base_url, *arguments)
        else:
            monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        code = main(["smoke", *arguments])
        shown = "".join(capsys.readouterr())
        for raw in {typed, *(request.raw or "" for request in qwen.requests)}:
            assert not any(piece in shown for piece in pieces(raw))
        return code, shown

    return run


def results(shown: str) -> list[str]:
    return [step["result"] for step in json.loads(shown)["steps"]]


def test_a_token_of_your_own_is_refreshed_and_the_new_one_discarded(
    qwen: QwenStandIn, smoke: Check
) -> None:
    raw = qwen.mint(lifetime=TWO_DAYS)
    qwen.chats[ACCOUNT] = ["A title", "Another"]

    code, shown = smoke(typed=f"Bearer {raw}")

    assert code == 0
    for line in (
        "✓ 1. Read the token",
        f"Account    {ACCOUNT}",
        "Issued     not said",
        "Days left  2.0",
        "✓ 2. Refresh it",
        "New token  thrown away after step 3; the one given stays valid",
        "Days left  7.0",
        "✓ 3. Use the new one",
        "User status  true",
        "Chats        2",
        "Newest chat  20",
    ):
        assert line in shown
    assert shown.count(" UTC\n") == 3
    assert "title" not in shown
    assert qwen.accepts(raw)
    assert qwen.requests[-1].raw != raw, "the last step takes the new token"


def test_the_check_for_scripts_is_one_document(qwen: QwenStandIn, smoke: Check) -> None:
    issued_at = datetime.now(UTC).replace(microsecond=0)

    code, shown = smoke(
        "--json", typed=qwen.mint(lifetime=TWO_DAYS, iat=int(issued_at.timestamp()))
    )

    assert code == 0
    document = json.loads(shown)
    assert document["error"] is None
    assert [step.pop("name") for step in document["steps"]] == ["token", "refresh", "use"]
    read, refreshed, used = document["steps"]
    assert (read["result"], read["account"], read["days_remaining"]) == ("passed", ACCOUNT, 2.0)
    assert datetime.fromisoformat(read["issued_at"]) == issued_at
    assert (refreshed["result"], refreshed["kept"]) == ("passed", False)
    assert datetime.fromisoformat(refreshed["expires_at"]) > issued_at + TWO_DAYS
    # No chats at all is an answer, too.
    assert used == {"result": "passed", "user_status": True, "chats": 0, "newest_chat_at": None}


def _recognises_then_revokes(qwen: QwenStandIn, request: Request) -> Reply:
    reply = qwen.recognise(request)
    qwen.revoke()
    return reply


DIES_BETWEEN = [
    scenarios.MINTS,
    Scenario("then revokes", "has its owner change the password", _recognises_then_revokes),
]


@pytest.mark.parametrize(
    ("script", "failed", "reason", "advice"),
    [
        pytest.param(
            [scenarios.TOKEN_DEAD],
            2,
            "token_rejected",
            TokenRejectedError.advice,
            id="a dead one",
        ),
        pytest.param(
            [scenarios.ECHOES], 2, "token_not_extended", "This server does not renew", id="an echo"
        ),
        pytest.param(
            [scenarios.BLOCK_PAGE], 2, "upstream_blocked", "from another network", id="a firewall"
        ),
        pytest.param(
            [scenarios.WEB_APP_PAGE], 2, "upstream_unexpected", "newer release", id="another API"
        ),
        pytest.param(
            DIES_BETWEEN,
            3,
            "token_rejected",
            TokenRejectedError.advice,
            id="dead between",
        ),
    ],
)
def test_the_step_that_fails_is_named_and_none_is_tried_after_it(  # noqa: PLR0913 - a case has four
    qwen: QwenStandIn,
    smoke: Check,
    *,
    script: list[Scenario],
    failed: int,
    reason: str,
    advice: str,
) -> None:
    qwen.answer_with(*script)
    code, shown = smoke("--json", typed=qwen.mint(lifetime=TWO_DAYS))

    assert code == 1
    assert results(shown) == [*["passed"] * (failed - 1), "failed", *["not_tried"] * (3 - failed)]
    error = json.loads(shown)["error"]
    assert error["reason"] == reason
    assert advice in error["advice"]

    qwen.answer_with(*script)
    code, shown = smoke(typed=qwen.mint(lifetime=TWO_DAYS))

    assert code == 1
    assert f"✗ {failed}. " in shown
    assert f"error: step {failed}: {error['message']} ({reason})" in shown
    assert shown.count("✓") == failed - 1
    assert shown.count(": not tried") == 3 - failed
    assert ("User status  true" in shown) is (failed == 3), "what was found stays"


def test_an_api_that_is_down_leaves_open_whether_the_token_is_alive(
    qwen: QwenStandIn, smoke: Check
) -> None:
    code, shown = smoke("--api-base-url", "http://127.0.0.1:1", typed=qwen.mint())

    assert code == 1
    assert "error: step 2: " in shown
    assert "(upstream_unavailable)" in shown
    assert "whether the token is alive is not known" in shown


def test_what_is_no_token_fails_in_the_first_step(qwen: QwenStandIn, smoke: Check) -> None:
    code, shown = smoke("--json", typed=qwen.mint()[:-50])

    assert code == 1
    assert results(shown) == ["failed", "not_tried", "not_tried"]
    assert json.loads(shown)["error"]["reason"] == TokenMalformedError.reason
    assert qwen.requests == []


@pytest.mark.parametrize(
    ("status", "shown_as"),
    [("false", "false"), ('{"a": "secret"}', "neither true nor false")],
    ids=["false", "something else"],
)
def test_a_users_status_is_shown_as_it_is_and_fails_nothing(
    smoke: Check, status: str, shown_as: str
) -> None:
    now = datetime.now(UTC)
    old, new = (token(left=timedelta(days=days), now=now) for days in (2, 7))
    session = json.dumps({"id": new.account, "role": "user", "token": new.raw})
    chats = ['[{"id": "a", "updated_at": 1.8e12}, {"id": "b"}]', "[]"]
    data = (f'{{"success": true, "data": {each}}}' for each in (status, *chats))
    with wire(*(reply("200 OK", body.encode()) for body in (session, session, *data))) as api:
        code, shown = smoke("--api-base-url", api.base_url, typed=old.raw)

    assert code == 0
    assert f"User status  {shown_as}\n" in shown
    assert "secret" not in shown
    assert shown.endswith("Chats        2\n"), "milliseconds, or nothing, are no time to show"
    assert not any(piece in shown for piece in pieces(new.raw))


def test_colours_are_for_a_terminal_that_wants_them(qwen: QwenStandIn) -> None:
    assert "\x1b[1;32m✓" in on_a_terminal(qwen, {})
    # Bold is no colour.
    assert "\x1b[1m✓" in on_a_terminal(qwen, {"NO_COLOR": "1"})


def on_a_terminal(qwen: QwenStandIn, environ: dict[str, str]) -> str:
    """Return what the check writes to a terminal, with a token that is piped in."""
    arguments = ["smoke", "--stdin", "--api-base-url", qwen.base_url]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "wb") as terminal:
        done = subprocess.run(  # noqa: S603 - the project's own command
            [sys.executable, "-m", "qwen_token", *arguments],
            input=qwen.mint(lifetime=TWO_DAYS).encode(),
            stdout=terminal,
            env={
                **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
                "PYTHONPATH": str(LIBRARY),
                "PYTHONUTF8": "1",
                "TERM": "xterm-256color",
                **environ,
            },
            timeout=30,
            check=False,
        )
        terminal.close()
        shown = b""
        # An error is how Linux says that nobody has this terminal open any more.
        with suppress(OSError):
            while piece := screen.read(4096):
                shown += piece
    assert done.returncode == 0
    return shown.decode()


def secret(version_id: str, raw: str) -> Script:
    return reply("200 OK", json.dumps({"VersionId": version_id, "SecretString": raw}).encode())


def a_run(version_id: str, outcome: str = "refreshed", **more: str) -> Script:
    result = {"outcome": outcome, "version_id": version_id, **more}
    return reply("200 OK", json.dumps(result).encode())


def test_the_stacks_token_is_refreshed_by_its_function_alone(
    qwen: QwenStandIn, smoke: Check
) -> None:
    stack, old, new = the_stack(qwen.base_url), qwen.mint(lifetime=TWO_DAYS), qwen.mint()
    with wire(stack, secret("old", old), a_run("new"), secret("new", new)) as aws:
        code, shown = smoke(aws=aws)

    assert code == 0, shown
    for line in ("Outcome    refreshed", "Version    new", "New token  in the secret"):
        assert line in shown
    assert len(aws.requests) == 4
    assert [(request.path, request.raw) for request in qwen.requests] == [
        ("/api/v2/users/status", new),
        ("/api/v2/chats/?page=1", new),
    ]


def test_a_version_that_the_run_did_not_leave_is_not_taken_for_its_own(
    qwen: QwenStandIn, smoke: Check
) -> None:
    stack, old = the_stack(qwen.base_url), secret("old", qwen.mint())
    with wire(stack, old, a_run("new"), old) as aws:
        code, shown = smoke("--json", aws=aws)

    assert code == 1
    assert results(shown) == ["passed", "failed", "not_tried"]
    error = json.loads(shown)["error"]
    assert error["reason"] == "store_failed"
    assert error["advice"].startswith("Try again")
    assert qwen.requests == []


NO_VALUE = b'{"__type": "ResourceNotFoundException", "message": "no AWSCURRENT"}'


@pytest.mark.parametrize(
    "answers",
    [
        [reply("400 Bad Request", NO_VALUE), reply("200 OK", b'{"ARN": "arn"}')],
        [secret("spoilt", " ")],
        [secret("spoilt", '{"note": 1}')],
    ],
    ids=["none so far", "a blank value", "an object without one"],
)
def test_a_secret_without_a_token_needs_a_person(smoke: Check, answers: list[Script]) -> None:
    with wire(the_stack(), *answers) as aws:
        code, shown = smoke("--json", aws=aws)

    assert code == 3
    assert results(shown) == ["failed", "not_tried", "not_tried"]
    assert json.loads(shown)["error"]["reason"] == TokenMissingError.reason
    assert len(aws.requests) == 1 + len(answers), "the function is not run"


def test_a_refresh_that_fails_in_the_function_has_the_reason_and_advice_of_its_class(
    qwen: QwenStandIn, smoke: Check
) -> None:
    error = {"errorMessage": "refused", "errorType": "TokenRejectedError", "stackTrace": []}
    failure = reply("200 OK", json.dumps(error).encode(), "X-Amz-Function-Error: Unhandled")
    with wire(the_stack(qwen.base_url), secret("old", qwen.mint()), failure) as aws:
        code, shown = smoke(aws=aws)

    assert code == 1
    assert "✗ 2. Refresh it" in shown
    assert "error: step 2: refused (token_rejected)" in shown
    assert TokenRejectedError.advice in shown
    assert qwen.requests == []


def test_a_stack_with_a_session_is_checked_through_its_function(smoke: Check) -> None:
    now = datetime.now(UTC)
    old, new = (
        mint({"type": "access_token", "exp": int((now + timedelta(minutes=left)).timestamp())})
        for left in (3, 15)
    )
    status, chats = (
        reply("200 OK", f'{{"success": true, "data": {data}}}'.encode()) for data in ("true", "[]")
    )
    with wire(status, chats) as api:
        run = a_run("new", grant="refresh_token")
        with wire(the_stack(api.base_url), secret("old", old), run, secret("new", new)) as aws:
            code, shown = smoke(aws=aws)

    assert code == 0, shown
    for line in (
        "Account    the token does not say",
        "Got by     refresh_token",
        "New token  in the secret",
        "Chats        0",
    ):
        assert line in shown
    assert f"Bearer {new}".encode() in api.requests[-1]
    assert not any(piece in shown for raw in (old, new) for piece in pieces(raw))


def test_a_token_too_young_to_be_replaced_passes_and_is_not_called_new(
    qwen: QwenStandIn, smoke: Check
) -> None:
    held = secret("held", qwen.mint())
    with wire(the_stack(qwen.base_url), held, a_run("held", "checked"), held) as aws:
        code, shown = smoke(aws=aws)

    assert code == 0, shown
    assert "New token  none: the one in the secret is younger than ten minutes" in shown


@pytest.mark.parametrize(
    ("outcome", "reason", "said"),
    [
        ("leased", "store_failed", "another run is at work"),
        ("retrying", "upstream_unavailable", "the run ended as retrying"),
        ("fresh", "upstream_unavailable", "the run ended as fresh"),
    ],
)
def test_a_run_that_proved_nothing_of_the_login_fails_the_step(
    qwen: QwenStandIn, smoke: Check, *, outcome: str, reason: str, said: str
) -> None:
    held = secret("held", qwen.mint())
    with wire(the_stack(qwen.base_url), held, a_run("held", outcome)) as aws:
        code, shown = smoke("--json", aws=aws)

    assert code == 1
    assert results(shown) == ["passed", "failed", "not_tried"]
    error = json.loads(shown)["error"]
    assert (error["reason"], said in error["message"]) == (reason, True)
    assert error["advice"].startswith("Try again in a minute")


def test_an_access_token_of_ones_own_is_never_exchanged(qwen: QwenStandIn, smoke: Check) -> None:
    expires_at = datetime.now(UTC) + timedelta(minutes=15)
    raw = mint({"type": "access_token", "exp": int(expires_at.timestamp())})

    code, shown = smoke("--json", typed=raw)

    assert code == 1
    assert results(shown) == ["passed", "failed", "not_tried"]
    assert json.loads(shown)["error"]["reason"] == "token_not_extended"
    assert qwen.requests == []
