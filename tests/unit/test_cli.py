"""The command line, as far as it goes without AWS: its words, its exit codes, what it refuses."""

import io
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qwen_token import TokenRejectedError
from qwen_token.cli import main
from tests.minting import token
from tests.wire import Script, reply, wire

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


@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "{}"],
        ["put", "--token", "{}"],
        ["put", "--token={}"],
        ["put", "--json={}"],
        ["put", "-t{}"],
        ["{}"],
        ["--{}"],
        ["refresh", "{}", "--force"],
    ],
    ids=" ".join,
)
def test_a_token_is_never_an_argument(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = token(left=timedelta(days=5)).raw
    with pytest.raises(SystemExit) as caught:
        main([argument.format(raw) for argument in arguments])
    assert caught.value.code == 2
    shown = "".join(capsys.readouterr())
    assert "error: " in shown
    assert "A token is never an argument: put asks for it" in shown
    assert not any(piece in shown for piece in raw.split("."))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["puts"], "argument COMMAND: invalid choice"),
        (["status", "--stack"], "argument --stack: expected one argument"),
        (["status", "--force"], "unrecognized arguments"),
        (["refresh", "--forc"], "unrecognized arguments"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_off_about_a_command_line_is_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert f"error: {said}\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["put", "status", "refresh", "environ"])
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
        pytest.param("hunter2", "token_malformed", id="no token"),
        pytest.param(b"\xff\x00\x80", "token_malformed", id="no text"),
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
def test_a_token_is_read_in_whatever_way_it_is_piped(
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


def test_the_end_of_input_at_the_prompt_is_an_error() -> None:
    # A real terminal, and the key that ends its input.
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours, "wb", buffering=0) as keyboard,
        subprocess.Popen(
            [sys.executable, "-m", "qwen_token", "put"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(LIBRARY)},
            start_new_session=True,
            text=True,
        ) as command,
    ):
        os.close(theirs)
        assert command.stderr is not None
        # What is typed before the prompt is there is thrown away.
        shown = ""
        while "Token (hidden): " not in shown:
            letter = command.stderr.read(1)
            assert letter, shown
            shown += letter
        keyboard.write(b"\x04")
        shown += command.communicate(timeout=30)[1]
    assert command.returncode == 1
    assert "nothing was given" in shown
    assert "Traceback" not in shown


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
        (["status"], {"AWS_ENDPOINT_URL": "foo"}, "no client for cloudformation can be made"),
        (["put", "--secret-id", "s"], {"AWS_ENDPOINT_URL": "foo"}, "no client for secretsmanager"),
    ],
    ids=["no ARN", "another service's ARN", "plain http", "no URL", "no endpoint", "nor for put"],
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


def test_an_api_that_cannot_be_asked_leaves_nothing_stored_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)
    with wire(reply("200 OK", b"<html>")) as qwen:
        assert main(["put", "--secret-id", "s", "--api-base-url", qwen.base_url]) == 1
    shown = capsys.readouterr().err
    assert "(upstream_unexpected)" in shown
    assert "Nothing was stored." in shown
    assert "--no-check" in shown


@pytest.mark.parametrize("command", ["put", "status", "refresh"])
def test_without_the_package_for_tables_nothing_is_begun(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with wire(reply("500 No", b"")) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main([command]) == 1
    assert "need the package 'rich'" in capsys.readouterr().err
    assert aws.requests == []


def test_an_error_for_people_names_the_reason_and_what_to_do_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "hunter2")

    assert main(["put"]) == 1

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: the value is not a JWT")
    assert "(token_malformed)" in shown.err
    assert "Put a proper token in" in shown.err


@pytest.mark.parametrize("command", ["put", "status", "refresh", "environ"])
def test_an_aws_that_cannot_be_reached_is_an_error_not_a_traceback(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)

    assert main([command]) == 1
    assert "Could not connect" in capsys.readouterr().err


def the_stack() -> Script:
    """Describe a stack as AWS itself does."""
    member = "<member><OutputKey>{0}</OutputKey><OutputValue>{0}</OutputValue></member>"
    outputs = "".join(member.format(key) for key in ("SecretArn", "RefreshFunctionName"))
    stack = (
        "<DescribeStacksResponse><DescribeStacksResult><Stacks><member>"
        f"<StackName>s</StackName><Outputs>{outputs}</Outputs>"
        "</member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
    )
    return reply("200 OK", stack.encode(), "Content-Type: text/xml")


@pytest.mark.parametrize("arguments", [["refresh"], ["refresh", "--json"]], ids=" ".join)
def test_a_run_that_awaits_its_token_needs_a_person(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = dict.fromkeys(("version_id", "expires_at", "days_remaining"))
    result = {"outcome": "awaiting_token", "secret_id": "s", **unknown}
    with wire(the_stack(), reply("200 OK", json.dumps(result).encode())) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.base_url)
        assert main(arguments) == 3
    assert "awaiting_token" in capsys.readouterr().out


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
