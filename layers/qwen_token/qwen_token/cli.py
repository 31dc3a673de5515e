"""The command line, for the people who own a token: put it in, look at it, have it refreshed."""

import argparse
import getpass
import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import errors
from .alerts import in_days
from .errors import ConfigError, QwenTokenError, TokenMissingError, TokenRejectedError
from .policy import TokenState, assess
from .store import AWS_CONFIG, SecretStore
from .tokens import Token, decode_token

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from rich.console import Console

DEFAULT_STACK: Final = "qwen-token-refresh"
DEFAULT_API_BASE_URL: Final = "https://chat.qwen.ai"

OK: Final = 0
FAILED: Final = 1
ATTENTION: Final = 3
INTERRUPTED: Final = 130

_EXIT_CODES: Final = """\
exit codes:
  0    done, and all is well
  1    failed: the message says what is wrong, with what, and what to do
  2    the command line is off
  3    status only: something needs a person (no usable token, or an alarm is on)
  130  interrupted
"""

# Longer than the function's own timeout; and a second attempt would be a second run.
_INVOKE_CONFIG: Final = Config(
    connect_timeout=5, read_timeout=150, retries={"mode": "standard", "total_max_attempts": 1}
)
_CHECK_TIME: Final = timedelta(seconds=30)

# What a token of an unknown age is drawn against.
_USUAL_LIFE: Final = timedelta(days=7)
_BAR_WIDTH: Final = 24

_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal cannot show must not fail a command that has done its work.
        sys.stdout.reconfigure(errors="replace")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except QwenTokenError as error:
        _complain(options, error.reason, str(error), error.advice)
    except (BotoCoreError, ClientError) as error:
        _complain(options, "aws_failed", str(error), "Check credentials, region and permissions.")
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--stack",
        default=DEFAULT_STACK,
        metavar="NAME",
        help="the deployed stack (default: %(default)s)",
    )
    common.add_argument("--region", help="AWS region (default: as boto3 finds it)")
    common.add_argument("--json", action="store_true", help="print one JSON document, for scripts")

    parser = argparse.ArgumentParser(
        prog="python -m qwen_token",
        description="Keep a chat.qwen.ai token alive on AWS: the commands for people.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        help=f"the API to ask (default: the stack's ApiBaseUrl, or {DEFAULT_API_BASE_URL})",
    )
    put.add_argument("--no-check", action="store_true", help="do not ask the API about the token")

    add("status", "show the token, its time left, the schedule and the alarms", _status)

    refresh = add("refresh", "run the deployed function now and show what it did", _refresh)
    refresh.add_argument("--force", action="store_true", help="refresh even a fresh token")
    refresh.add_argument("--dry-run", action="store_true", help="decide only: change nothing")
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
            described = session.client("cloudformation").describe_stacks(StackName=name)
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


# --- put ------------------------------------------------------------------------------------------


def _put(options: argparse.Namespace) -> int:
    text = _ask_for_token()
    if not text.strip():
        raise TokenMissingError("nothing was given: paste the token, or pipe it in")
    token = decode_token(text)
    now = datetime.now(UTC)
    if token.remaining(now) <= timedelta(0):
        raise TokenRejectedError(f"this token expired on {_date(token.expires_at)} already")

    session = _session(options)
    secret_id, api_base_url = options.secret_id, DEFAULT_API_BASE_URL
    if secret_id is None:
        stack = _Stack.find(session, options.stack)
        secret_id, api_base_url = stack.outputs["SecretArn"], stack.parameters["ApiBaseUrl"]
    api_base_url = options.api_base_url or api_base_url
    if not options.no_check:
        from .api import QwenApi  # noqa: PLC0415 - requests is slow to import

        QwenApi(api_base_url).verify(token, within=_CHECK_TIME)

    held = SecretStore(_secrets_manager(session, secret_id), secret_id).put(token)
    document = {
        "secret_id": secret_id,
        "version_id": held.version_id,
        "account": token.account,
        "expires_at": token.expires_at.isoformat(),
        "days_remaining": in_days(token.remaining(now)),
        "checked": not options.no_check,
    }
    if options.json:
        print(json.dumps(document))
        return OK
    _print_rows(
        _console(),
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
    return getpass.getpass("Token (hidden): ") if sys.stdin.isatty() else sys.stdin.read()


def _secrets_manager(session: boto3.Session, secret_id: str) -> "SecretsManagerClient":
    """Return a client for the region that an ARN names, or else for the session's."""
    arn = secret_id.split(":")
    region = arn[3] if arn[0] == "arn" else None
    return session.client("secretsmanager", region_name=region, config=AWS_CONFIG)


# --- status ---------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    session = _session(options)
    stack = _Stack.find(session, options.stack)
    now = datetime.now(UTC)
    secret_id = stack.outputs["SecretArn"]
    client = _secrets_manager(session, secret_id)
    refresh_before = timedelta(days=float(stack.parameters["RefreshBeforeDays"]))
    critical_before = timedelta(days=float(stack.parameters["CriticalDays"]))

    token, version, problem = None, None, None
    try:
        held = SecretStore(client, secret_id).read()
        if held is None:
            problem = "no token yet: put the first one in (make put-token)"
        else:
            token = held.token
            version = client.get_secret_value(SecretId=secret_id, VersionId=held.version_id)
    except errors.TokenError as error:
        problem = f"{error} ({error.reason})"

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
    if options.json:
        print(json.dumps(document))
    else:
        _print_rows(
            _console(),
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
    critical = token is None or token.remaining(now) < critical_before
    return ATTENTION if critical or "ALARM" in alarms.values() else OK


def _schedule_and_alarms(
    session: boto3.Session, stack: _Stack, now: datetime
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    pages = session.client("cloudformation").get_paginator("list_stack_resources")
    schedule = None
    alarm_names: dict[str, str] = {}
    for page in pages.paginate(StackName=stack.name):
        for resource in page["StackResourceSummaries"]:
            physical_id = resource.get("PhysicalResourceId", "")
            if resource["ResourceType"] == "AWS::Scheduler::Schedule":
                schedule = _read_schedule(session, physical_id, now)
            elif resource["ResourceType"] == "AWS::CloudWatch::Alarm":
                alarm_names[physical_id] = resource["LogicalResourceId"]
    if not alarm_names:
        return schedule, {}
    described = session.client("cloudwatch").describe_alarms(AlarmNames=list(alarm_names))
    return schedule, {
        alarm_names[alarm["AlarmName"]]: alarm["StateValue"] for alarm in described["MetricAlarms"]
    }


def _read_schedule(session: boto3.Session, name: str, now: datetime) -> dict[str, Any]:
    found = session.client("scheduler").get_schedule(Name=name)
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


def _describe_schedule(schedule: Mapping[str, Any] | None) -> str:
    if schedule is None:
        return _Markup("[red]none[/red]")
    if schedule["state"] != "ENABLED":
        return _Markup(f"[red]{schedule['expression']} is {schedule['state']}[/red]")
    if schedule["next_at"] is None:
        return str(schedule["expression"])
    next_at = _date(datetime.fromisoformat(schedule["next_at"]))
    return f"{schedule['expression']}, next at about {next_at}"


def _coloured(alarm_state: str) -> _Markup:
    colour = {"OK": "green", "ALARM": "red"}.get(alarm_state, "yellow")
    return _Markup(f"[{colour}]{alarm_state}[/{colour}]")


# --- refresh --------------------------------------------------------------------------------------


def _refresh(options: argparse.Namespace) -> int:
    session = _session(options)
    stack = _Stack.find(session, options.stack)
    event = {
        key: True
        for key, wanted in (("force", options.force), ("dry_run", options.dry_run))
        if wanted
    }
    response = session.client("lambda", config=_INVOKE_CONFIG).invoke(
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
    if options.json:
        print(json.dumps(result))
        return OK
    labels = {
        "outcome": "Outcome",
        "secret_id": "Secret",
        "version_id": "Version",
        "expires_at": "Expires",
        "days_remaining": "Days left",
    }
    _print_rows(
        _console(),
        "Run of the refresh function",
        {label: result[key] for key, label in labels.items()},
    )
    return OK


# --- what people see ------------------------------------------------------------------------------


def _console() -> "Console":
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
