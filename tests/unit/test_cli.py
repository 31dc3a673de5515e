"""The command line, as far as it goes without AWS: its words, its exit codes, what it refuses."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from qwen_token import TokenRejectedError
from qwen_token.cli import main
from tests.minting import token
from tests.wire import reply, wire

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


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_token_is_never_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    raw = token(left=timedelta(days=5)).raw
    with pytest.raises(SystemExit) as caught:
        main(["put", raw])
    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["put", "status", "refresh"])
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
        pytest.param(
            token(left=-timedelta(days=1), now=datetime.now(UTC)).raw,
            "token_rejected",
            id="an expired token",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused_before_aws_is_asked(
    typed: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, typed)

    assert main(["put", "--json"]) == 1

    error = json.loads(capsys.readouterr().out)["error"]
    assert error["reason"] == reason
    assert error["advice"]


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


@pytest.mark.parametrize("command", ["put", "status", "refresh"])
def test_an_aws_that_cannot_be_reached_is_an_error_not_a_traceback(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, token(left=timedelta(days=5), now=datetime.now(UTC)).raw)

    assert main([command]) == 1
    assert "Could not connect" in capsys.readouterr().err


def test_a_failed_run_is_shown_with_the_reason_and_advice_of_its_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What AWS itself answers: the stack, then a function that raised.
    member = "<member><OutputKey>{0}</OutputKey><OutputValue>{0}</OutputValue></member>"
    outputs = "".join(member.format(key) for key in ("SecretArn", "RefreshFunctionName"))
    stack = (
        "<DescribeStacksResponse><DescribeStacksResult><Stacks><member>"
        f"<StackName>s</StackName><Outputs>{outputs}</Outputs>"
        "</member></Stacks></DescribeStacksResult></DescribeStacksResponse>"
    )
    error = {"errorMessage": "refused", "errorType": "TokenRejectedError", "stackTrace": []}
    with wire(
        reply("200 OK", stack.encode(), "Content-Type: text/xml"),
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
