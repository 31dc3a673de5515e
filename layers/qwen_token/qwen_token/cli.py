"""The command line, for the people who own a token: put it in, look at it, have it refreshed."""

import argparse
import codecs
import getpass
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import errors
from .alerts import in_days
from .bearer import BASE_URL
from .errors import (
    ConfigError,
    QwenTokenError,
    StoreError,
    TokenMalformedError,
    TokenMissingError,
    TokenRejectedError,
    UpstreamError,
)
from .keeper import Outcome
from .policy import TokenState, assess
from .settings import SAFE_URL, is_safe_url
from .store import AWS_CONFIG, SecretStore
from .tokens import Token, decode_token

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from rich.console import Console

DEFAULT_STACK: Final = "qwen-token-refresh"

OK: Final = 0
FAILED: Final = 1
ATTENTION: Final = 3
INTERRUPTED: Final = 130

_EXIT_CODES: Final = """\
exit codes:
  0    done, and all is well
  1    failed: the message says what is wrong, with what, and what to do
       (status: something could not be read)
  2    the command line is off
  3    something needs a person (status: no usable token, an alarm is on, or the
       schedule is off; refresh: the secret has no token yet)
  130  interrupted
"""

# Longer than the function's own timeout; and a second attempt would be a second run.
_INVOKE_CONFIG: Final = Config(
    connect_timeout=5, read_timeout=150, retries={"mode": "standard", "total_max_attempts": 1}
)
_CHECK_TIME: Final = timedelta(seconds=30)

# Raised by a class whose advice is for those who run the function, not for those who type commands.
_ADVICE: Final[Mapping[type[QwenTokenError], str]] = {
    ConfigError: "Fix what the message names, and try again.",
    StoreError: "Check that the secret is in this region, and that you may use it.",
    UpstreamError: (
        "Nothing was stored. Try again, or store the token without asking the API about it "
        "(--no-check)."
    ),
}

# What argparse may say without repeating what it was given.
_HARMLESS: Final = re.compile(
    r"(argument [^:]+: )?(unrecognized arguments|invalid choice|ignored explicit argument"
    r"|expected one argument|the following arguments are required: \w+)"
)

_SECRET_ARN: Final = re.compile(r"arn:[^:]+:secretsmanager:(?P<region>[^:]+):[^:]*:secret:.+")

# What a token of an unknown age is drawn against.
_USUAL_LIFE: Final = timedelta(days=7)
_BAR_WIDTH: Final = 24

# States of what could not be read, and of what is not there.
_UNKNOWN: Final = "unknown"
_NONE: Final = "none"
_NOT_FOUND: Final = "ResourceNotFoundException"

_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output had enough; Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _run(options: argparse.Namespace) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal cannot show must not fail a command that has done its work.
        sys.stdout.reconfigure(errors="replace")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except QwenTokenError as error:
        advice = next((_ADVICE[kind] for kind in type(error).mro() if kind in _ADVICE), None)
        _complain(options, error.reason, str(error), advice or error.advice)
    except (BotoCoreError, ClientError) as error:
        _complain(options, "aws_failed", str(error), "Check credentials, region and permissions.")
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED


class _Parser(argparse.ArgumentParser):
    """Does not repeat what it was given: somebody may have given it a token."""

    def error(self, message: str) -> NoReturn:
        harmless = _HARMLESS.match(message)
        said = harmless[0] if harmless else "not understood"
        self.print_usage(sys.stderr)
        self.exit(
            2,
            f"{self.prog}: error: {said}\n"
            "A token is never an argument: put asks for it, or reads it from standard input.\n",
        )


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument(
        "--stack",
        default=DEFAULT_STACK,
        metavar="NAME",
        help="the deployed stack (default: %(default)s)",
    )
    common.add_argument("--region", help="AWS region (default: as boto3 finds it)")
    common.add_argument("--json", action="store_true", help="print one JSON document, for scripts")

    parser = _Parser(
        prog="python -m qwen_token",
        description="Keep a chat.qwen.ai token alive on AWS: the commands for people.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, summary: str, command: Callable[..., int]) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            parents=[common],
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command)
        return added

    put = add(
        "put", "put a token in: at a hidden prompt, or on standard input (never an argument)", _put
    )
    put.add_argument("--secret-id", metavar="ARN", help="this secret; no stack is needed then")
    put.add_argument(
        "--api-base-url",
        metavar="URL",
        help=f"the API to ask (default: the stack's ApiBaseUrl, or {BASE_URL})",
    )
    put.add_argument("--no-check", action="store_true", help="do not ask the API about the token")

    add("status", "show the token, its time left, the schedule and the alarms", _status)

    refresh = add("refresh", "run the deployed function now and show what it did", _refresh)
    refresh.add_argument("--force", action="store_true", help="refresh even a fresh token")
    refresh.add_argument("--dry-run", action="store_true", help="decide only: change nothing")

    add("environ", "print the function's environment, for `sam local invoke --env-vars`", _environ)
    return parser


class _Markup(str):
    """Text with rich's colours in it; any other text is printed as it is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Stack:
    """What CloudFormation knows of the deployed stack."""

    name: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]

    @classmethod
    def find(cls, session: boto3.Session, name: str) -> "_Stack":
        try:
            described = _client(session, "cloudformation").describe_stacks(StackName=name)
        except ClientError as error:
            # CloudFormation has no code of its own for a stack that does not exist.
            if error.response.get("Error", {}).get("Code") != "ValidationError":
                raise
            raise ConfigError(
                f"there is no stack {name!r} in region {session.region_name}: deploy it first "
                "(make deploy), or name another with --stack or --region"
            ) from error
        stack = described["Stacks"][0]
        outputs = {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}
        if not {"SecretArn", "RefreshFunctionName"} <= outputs.keys():
            raise ConfigError(
                f"the stack {name!r} is none of this project, or its deployment failed: look at it "
                "in CloudFormation, or name another with --stack"
            )
        parameters = stack.get("Parameters", [])
        return cls(
            name, outputs, {item["ParameterKey"]: item["ParameterValue"] for item in parameters}
        )


def _session(options: argparse.Namespace) -> boto3.Session:
    return boto3.Session(region_name=options.region)


def _client(session: Any, service: str, **options: Any) -> Any:
    try:
        return session.client(service, **options)
    except ValueError as error:
        # An AWS_ENDPOINT_URL that is none, for instance.
        raise ConfigError(f"no client for {service} can be made: {error}") from error


# --- put ------------------------------------------------------------------------------------------


def _put(options: argparse.Namespace) -> int:
    console = _console(options)
    token = decode_token(_ask_for_token())
    now = datetime.now(UTC)
    if token.remaining(now) <= timedelta(0):
        raise TokenRejectedError(f"this token expired on {_date(token.expires_at)} already")

    session = _session(options)
    secret_id, api_base_url = options.secret_id, BASE_URL
    if secret_id is None:
        stack = _Stack.find(session, options.stack)
        secret_id, api_base_url = stack.outputs["SecretArn"], stack.parameters["ApiBaseUrl"]
    api_base_url = options.api_base_url or api_base_url
    if not is_safe_url(api_base_url):
        raise ConfigError(f"--api-base-url should be {SAFE_URL}")
    store = SecretStore(_secrets_manager(session, secret_id), secret_id)
    if not options.no_check:
        from .api import QwenApi  # noqa: PLC0415 - requests is slow to import

        QwenApi(api_base_url).verify(token, within=_CHECK_TIME)

    held = store.put(token)
    document = {
        "secret_id": secret_id,
        "version_id": held.version_id,
        "account": token.account,
        "expires_at": token.expires_at.isoformat(),
        "days_remaining": in_days(token.remaining(now)),
        "checked": not options.no_check,
    }
    if console is None:
        print(json.dumps(document))
        return OK
    _print_rows(
        console,
        "Token stored",
        {
            "Secret": secret_id,
            "Version": held.version_id,
            "Account": token.account,
            "Expires": _date(token.expires_at),
            "Time left": _bar(token, now, refresh_before=timedelta(), critical_before=timedelta()),
            "Checked": "not asked" if options.no_check else "the API accepts it",
        },
    )
    return OK


def _ask_for_token() -> str:
    """Return what was typed at a hidden prompt, or what came on standard input."""
    if sys.stdin is None:
        raise TokenMissingError("there is no standard input to read a token from")
    if sys.stdin.isatty():
        try:
            text = getpass.getpass("Token (hidden): ")
        except EOFError:
            text = ""
    else:
        text = _decode(sys.stdin.buffer.read())
    if not text.strip():
        raise TokenMissingError("nothing was given: paste the token, or pipe it in")
    return text


def _decode(piped: bytes) -> str:
    # With a mark in front, Windows PowerShell's way to pipe and to write files.
    utf16 = piped.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with suppress(UnicodeDecodeError):
        return piped.decode("utf-16" if utf16 else "utf-8-sig")
    # Raised out here: the decoder's exception holds all that was read.
    raise TokenMalformedError("standard input is no text: neither UTF-8, nor marked as UTF-16")


def _secrets_manager(session: boto3.Session, secret_id: str) -> "SecretsManagerClient":
    """Return a client for the region that an ARN names, or else for the session's."""
    region = None
    if secret_id.startswith("arn:"):
        arn = _SECRET_ARN.fullmatch(secret_id)
        if arn is None:
            raise ConfigError(
                "--secret-id should be a secret's name, or its ARN: "
                "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-XXXXXX"
            )
        region = arn["region"]
    client: SecretsManagerClient = _client(
        session, "secretsmanager", region_name=region, config=AWS_CONFIG
    )
    return client


# --- status ---------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    console = _console(options)
    session = _session(options)
    stack = _Stack.find(session, options.stack)
    now = datetime.now(UTC)
    secret_id = stack.outputs["SecretArn"]
    client = _secrets_manager(session, secret_id)
    refresh_before = timedelta(days=float(stack.parameters["RefreshBeforeDays"]))
    critical_before = timedelta(days=float(stack.parameters["CriticalDays"]))

    # Whatever may not be read, the rest is shown.
    token, version, problem, unread = None, None, None, False
    try:
        held = SecretStore(client, secret_id).read()
        if held is None:
            problem = "no token yet: put the first one in (make put-token)"
        else:
            token = held.token
            version = client.get_secret_value(SecretId=secret_id, VersionId=held.version_id)
    except errors.TokenError as error:
        problem = f"{error} ({error.reason})"
    except StoreError as error:
        problem, unread = f"{error} ({error.reason})", True
    except (BotoCoreError, ClientError) as error:
        problem, unread = f"the version's age is {_unknown(error)}", True
    schedule, alarms = _schedule_and_alarms(session, stack, now)

    state = None if token is None else assess(token, now=now, refresh_before=refresh_before)
    written_at = None if version is None else version["CreatedDate"].astimezone(UTC)
    document = {
        "stack": stack.name,
        "secret_id": secret_id,
        "problem": problem,
        "account": token and token.account,
        "state": state and state.value,
        "issued_at": token and token.issued_at and token.issued_at.isoformat(),
        "expires_at": token and token.expires_at.isoformat(),
        "days_remaining": token and in_days(token.remaining(now)),
        "version_id": version and version["VersionId"],
        "written_at": written_at and written_at.isoformat(),
        "schedule": schedule,
        "alarms": alarms,
    }
    if console is None:
        print(json.dumps(document))
    else:
        _print_rows(
            console,
            f"Stack {stack.name}",
            {
                "Secret": secret_id,
                "Problem": problem,
                "Account": token and token.account,
                "Issued": token and (_date(token.issued_at) if token.issued_at else "not said"),
                "Expires": token and _date(token.expires_at),
                "Time left": token
                and _bar(
                    token, now, refresh_before=refresh_before, critical_before=critical_before
                ),
                "Version": document["version_id"],
                # Secrets Manager does not say by whom: a person's put looks the same.
                "Last refresh": written_at and f"{_date(written_at)} (or put in by hand then)",
                "Schedule": _describe_schedule(schedule),
                **{f"Alarm {name}": _coloured(alarm) for name, alarm in alarms.items()},
            },
        )
    no_token = not unread and (token is None or token.remaining(now) < critical_before)
    if no_token or "ALARM" in alarms.values() or schedule["state"] in {_NONE, "DISABLED"}:
        return ATTENTION
    states = [schedule["state"], *alarms.values()]
    return FAILED if unread or any(state.startswith(_UNKNOWN) for state in states) else OK


def _schedule_and_alarms(
    session: boto3.Session, stack: _Stack, now: datetime
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the schedule and the alarms' states; a state says where one could not be read."""
    schedule: dict[str, Any] = {"expression": None, "state": _NONE, "next_at": None}
    try:
        resources = _resources(session, stack)
    except (BotoCoreError, ClientError) as error:
        return {**schedule, "state": _unknown(error)}, {"states": _unknown(error)}
    for name in resources.get("AWS::Scheduler::Schedule", {}):
        try:
            schedule = _read_schedule(session, name, now)
        except (BotoCoreError, ClientError) as error:
            schedule["state"] = _NONE if _code(error) == _NOT_FOUND else _unknown(error)
    alarms = resources.get("AWS::CloudWatch::Alarm", {})
    if not alarms:
        return schedule, {}
    try:
        described = _client(session, "cloudwatch").describe_alarms(AlarmNames=list(alarms))
    except (BotoCoreError, ClientError) as error:
        return schedule, dict.fromkeys(alarms.values(), _unknown(error))
    states = {alarm["AlarmName"]: alarm["StateValue"] for alarm in described["MetricAlarms"]}
    return schedule, {alarms[name]: states.get(name, _NONE) for name in alarms}


def _resources(session: boto3.Session, stack: _Stack) -> dict[str, dict[str, str]]:
    """Return the stack's resources by type: logical ids by physical ones, where there is one."""
    pages = _client(session, "cloudformation").get_paginator("list_stack_resources")
    found: dict[str, dict[str, str]] = {}
    for page in pages.paginate(StackName=stack.name):
        for resource in page["StackResourceSummaries"]:
            # Empty, or absent, while it could not be made.
            if physical_id := resource.get("PhysicalResourceId"):
                ids = found.setdefault(resource["ResourceType"], {})
                ids[physical_id] = resource["LogicalResourceId"]
    return found


def _code(error: Exception) -> str:
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "no code")
    return type(error).__name__


def _unknown(error: Exception) -> str:
    return f"{_UNKNOWN} ({_code(error)})"


def _read_schedule(session: boto3.Session, name: str, now: datetime) -> dict[str, Any]:
    found = _client(session, "scheduler").get_schedule(Name=name)
    expression = found["ScheduleExpression"]
    next_at = None
    if found["State"] == "ENABLED" and (rate := _RATE.fullmatch(expression)):
        period = timedelta(**{f"{rate[2]}s": int(rate[1])})
        # A rate counts from the moment at which the schedule was made or last changed.
        start = found.get("LastModificationDate") or found["CreationDate"]
        next_at = start + (((now - start) // period) + 1) * period
    return {
        "expression": expression,
        "state": found["State"],
        "next_at": next_at and next_at.astimezone(UTC).isoformat(timespec="seconds"),
    }


def _describe_schedule(schedule: Mapping[str, Any]) -> str:
    if schedule["state"] != "ENABLED":
        expression = f"{schedule['expression']} is " if schedule["expression"] else ""
        colour = "yellow" if schedule["state"].startswith(_UNKNOWN) else "red"
        return _Markup(f"[{colour}]{expression}{schedule['state']}[/{colour}]")
    if schedule["next_at"] is None:
        return str(schedule["expression"])
    next_at = _date(datetime.fromisoformat(schedule["next_at"]))
    return f"{schedule['expression']}, next at about {next_at}"


def _coloured(alarm_state: str) -> _Markup:
    colour = {"OK": "green", "ALARM": "red", _NONE: "red"}.get(alarm_state, "yellow")
    return _Markup(f"[{colour}]{alarm_state}[/{colour}]")


# --- refresh --------------------------------------------------------------------------------------


def _refresh(options: argparse.Namespace) -> int:
    console = _console(options)
    session = _session(options)
    stack = _Stack.find(session, options.stack)
    event = {
        key: True
        for key, wanted in (("force", options.force), ("dry_run", options.dry_run))
        if wanted
    }
    response = _client(session, "lambda", config=_INVOKE_CONFIG).invoke(
        FunctionName=stack.outputs["RefreshFunctionName"], Payload=json.dumps(event)
    )
    result = json.loads(response["Payload"].read())
    if "FunctionError" in response:
        name = result.get("errorType", "unknown")
        failure = getattr(errors, name, None)
        reason = getattr(failure, "reason", "function_failed")
        advice = getattr(failure, "advice", "Look at the function's log (make logs).")
        _complain(options, reason, result.get("errorMessage", name), advice)
        return FAILED
    code = ATTENTION if result["outcome"] == Outcome.AWAITING_TOKEN else OK
    if console is None:
        print(json.dumps(result))
        return code
    labels = {
        "outcome": "Outcome",
        "secret_id": "Secret",
        "version_id": "Version",
        "expires_at": "Expires",
        "days_remaining": "Days left",
    }
    _print_rows(
        console,
        "Run of the refresh function",
        {label: result[key] for key, label in labels.items()},
    )
    return code


# --- environ --------------------------------------------------------------------------------------


def _environ(options: argparse.Namespace) -> int:
    session = _session(options)
    stack = _Stack.find(session, options.stack)
    found = _client(session, "lambda").get_function_configuration(
        FunctionName=stack.outputs["RefreshFunctionName"]
    )
    # By the logical id, as sam wants it.
    print(json.dumps({"RefreshFunction": found["Environment"]["Variables"]}, indent=2))
    return OK


# --- what people see ------------------------------------------------------------------------------


def _console(options: argparse.Namespace) -> "Console | None":
    """Return where to print, or None where JSON is wanted: before the deed, as this may fail."""
    if options.json:
        return None
    try:
        from rich.console import Console  # noqa: PLC0415 - only people need it
    except ImportError as error:
        raise ConfigError(
            "the tables need the package 'rich': run this through make, install rich, or use --json"
        ) from error
    # An ARN has ":secret:" in it, which is also the name of an emoji.
    return Console(emoji=False, highlight=False)


def _print_rows(console: "Console", title: str, rows: Mapping[str, object]) -> None:
    from rich.markup import escape  # noqa: PLC0415 - only people need it

    shown = {label: value for label, value in rows.items() if value is not None}
    width = max(map(len, shown))
    console.print(f"[bold]{escape(title)}[/bold]")
    for label, value in shown.items():
        text = value if isinstance(value, _Markup) else escape(str(value))
        # Not a rich table: that folds an ARN to the terminal's width, and nobody can copy it then.
        console.print(f"  [dim]{label:<{width}}[/dim]  {text}", soft_wrap=True)


def _bar(
    token: Token, now: datetime, *, refresh_before: timedelta, critical_before: timedelta
) -> _Markup:
    """Draw the time left against the token's whole life."""
    left = max(token.remaining(now), timedelta(0))
    life = max(token.expires_at - token.issued_at if token.issued_at else _USUAL_LIFE, left)
    filled = round(_BAR_WIDTH * (left / life))
    colour = "green"
    if assess(token, now=now, refresh_before=refresh_before) is not TokenState.FRESH:
        colour = "yellow"
    if left < critical_before or not left:
        colour = "red"
    days = f"{in_days(left):.2f} of {in_days(life):.2f} days"
    full, empty = ("█", "░") if "utf" in (sys.stdout.encoding or "").lower() else ("#", "-")
    return _Markup(f"[{colour}]{full * filled}[/{colour}]{empty * (_BAR_WIDTH - filled)} {days}")


def _date(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def _complain(options: argparse.Namespace, reason: str, message: str, advice: str) -> None:
    if options.json:
        print(json.dumps({"error": {"reason": reason, "message": message, "advice": advice}}))
        return
    print(f"error: {message} ({reason})\n       {advice}", file=sys.stderr)
