"""What ``make run`` shows: the deployed keeper at work, each step checked as it is shown."""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import jwt
import requests
from botocore.exceptions import BotoCoreError, ClientError

from .aws import Cloud, CommandFailedError, build, local_cloud, tail
from .qwen import QwenStandIn
from .screen import Life, Screen, in_days
from .stack import CURRENT, PREVIOUS, Notification, Stack, Version
from .waiting import wait_until

_EVERY_MINUTE: Final = "cron(* * * * ? *)"
_REFRESH_BEFORE: Final = timedelta(days=3)
_PUT_IN_WITH: Final = timedelta(days=2)
_OWNER: Final = "owner@example.com"

# Up to a minute until the next full one, and MiniStack looks every ten seconds.
_SCHEDULE_LIMIT: Final = timedelta(seconds=90)
_ALERT_LIMIT: Final = timedelta(seconds=15)
_API_TIMEOUT: Final = 20


class NotAsExpectedError(Exception):
    """What is shown did not happen."""

    def __init__(self, *, expected: str, seen: object) -> None:
        """Say what should have been there, and what was."""
        super().__init__(f"expected {expected}; seen: {seen}")


class ShowFailedError(Exception):
    """A step failed, which was shown with its reasons."""


@dataclass(frozen=True, slots=True)
class RealToken:
    """A token of the user's own, in a file, and the API that it is for."""

    path: Path
    api_base_url: str


@dataclass(frozen=True, slots=True)
class _Kept:
    """The tokens before and after a refresh."""

    before: Version
    after: Version


def show(
    screen: Screen, *, real_token: RealToken | None, keep: Callable[[bool], None] | None
) -> None:
    """Show it all; ``keep``, where given, is called before everything is stopped and removed.

    It is told whether all went well. An interruption is no reason to keep anything.

    Raises:
        ShowFailedError: something did not happen. Everything is stopped and removed all the same.
    """
    qwen = QwenStandIn()
    what = "AWS and Qwen's API" if real_token is None else "AWS"
    with ExitStack() as servers:
        with screen.step(f"Start {what} on this machine") as step:
            if real_token is None:
                servers.enter_context(qwen)
            cloud = servers.enter_context(local_cloud())
            step.done(f"{cloud.endpoint} {qwen.base_url}".rstrip())
        try:
            with _explained(screen, cloud):
                if real_token is None:
                    _Show(screen, cloud, qwen).run()
                else:
                    _show_real(screen, cloud, real_token)
        except ShowFailedError:
            went_well = False
        else:
            went_well = True
        if keep is not None:
            spare_token = qwen.mint(lifetime=_PUT_IN_WITH) if real_token is None else ""
            _say_how_to_talk(screen, cloud, spare_token=spare_token)
            keep(went_well)
        with screen.step("Clean up") as step:
            servers.close()
            _expect_nothing_left(cloud, qwen)
            step.done("no process, port or file is left")
    if not went_well:
        raise ShowFailedError


@contextmanager
def _explained(screen: Screen, cloud: Cloud) -> Iterator[None]:
    """Print what a failure was, and where to look; the logs go with the cloud."""
    try:
        yield
    except (
        CommandFailedError,
        NotAsExpectedError,
        TimeoutError,
        BotoCoreError,
        ClientError,
    ) as error:
        screen.heading("This did not work:")
        screen.say(str(error))
        if not isinstance(error, CommandFailedError):
            screen.heading(
                f"The end of MiniStack's log, with the functions' ({cloud.ministack.log}):"
            )
            screen.say(tail(cloud.ministack.output()), "dim")
        screen.say("\nKEEP=1 make run keeps the cloud and its whole log for a look.")
        raise ShowFailedError from error


class _Show:
    """The story with the stand-in of the API: one good week, and a bad day."""

    def __init__(self, screen: Screen, cloud: Cloud, qwen: QwenStandIn) -> None:
        self.screen = screen
        self.cloud = cloud
        self.qwen = qwen
        self.printed = ""

    def run(self) -> None:
        stack = _build_and_deploy(
            self.screen,
            self.cloud,
            {
                "ApiBaseUrl": self.qwen.base_url,
                "Schedule": _EVERY_MINUTE,
                "AlertEmail": _OWNER,
            },
        )
        put_in = self._put_token(stack)
        kept = self._wait_for_schedule(stack, put_in)
        _show_refresh(self.screen, stack, kept)
        self._check_calls(kept)
        self._read_as_a_service(stack, kept)
        self._change_password(stack)
        notifications = self._refuse(stack)
        self._show_alert(stack, kept, notifications)
        self._look_for_tokens(stack, notifications)

    def _put_token(self, stack: Stack) -> Version:
        with self.screen.step("Put in a token with two days left") as step:
            raw = self.qwen.mint(lifetime=_PUT_IN_WITH)
            self._command(stack, "put", typed=raw, expected_code=0)
            # Not the current one: the schedule may have been as quick as this.
            stored = [version for version in stack.versions() if version.text == raw]
            if len(stored) != 1:
                raise NotAsExpectedError(expected="the token to be stored", seen=stack.versions())
            step.done("python -m qwen_token put")
        return stored[0]

    def _wait_for_schedule(self, stack: Stack, put_in: Version) -> _Kept:
        """Wait until the deployed schedule has run the deployed function; nobody else does."""
        with self.screen.step("Wait for the schedule to run the function") as step:
            schedule = self.cloud.scheduler.get_schedule(
                Name=stack.resources()["RefreshFunctionTimer"]
            )
            step.doing(f"{schedule['ScheduleExpression']}, the next full minute")
            wait_until(
                lambda: CURRENT not in stack.labels()[put_in.version_id],
                within=_SCHEDULE_LIMIT,
                expected="the schedule to run the function, and that to refresh the token",
                seen=lambda: (
                    f"{schedule['State']} {schedule['ScheduleExpression']}; runs: "
                    + str([dict(run) for run in stack.runs()])
                ),
            )
            step.done(f"{schedule['ScheduleExpression']} did, and the token was refreshed")
        before = next(v for v in stack.versions() if v.version_id == put_in.version_id)
        return _Kept(before, stack.current())

    def _check_calls(self, kept: _Kept) -> None:
        """Check that the refresh cost what it should: besides the put's one, two calls to Qwen."""
        asked = [request.expires_at for request in self.qwen.requests]
        old, new = _expires_at(kept.before.text), _expires_at(kept.after.text)
        if asked != [old, old, new]:
            raise NotAsExpectedError(expected="3 calls to Qwen's API", seen=self.qwen.requests)
        writes = [
            call for call in self.cloud.relay.calls if "SecretV" in call and "Get" not in call
        ]
        if writes != ["secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"]:
            raise NotAsExpectedError(expected="one stage and one promote", seen=writes)
        self.screen.say(
            "  It took 2 calls to Qwen (refresh, verify) and 2 to write (stage, promote)."
        )
        self.screen.console.print()

    def _read_as_a_service(self, stack: Stack, kept: _Kept) -> None:
        with self.screen.step("Read the token as a service does") as step:
            reader = stack.reader()
            read = reader.get_secret_value(SecretId=stack.secret_arn)["SecretString"]
            if read != kept.after.text or not self.qwen.accepts(read):
                raise NotAsExpectedError(expected="a reader to get the new token", seen="another")
            try:
                reader.put_secret_value(SecretId=stack.secret_arn, SecretString="overwritten")
            except ClientError as error:
                if error.response["Error"]["Code"] != "AccessDeniedException":
                    raise
            else:
                raise NotAsExpectedError(expected="a reader not to write", seen="it could")
            step.done(f"it gets the new one, until {_expires_at(read):%b %d}, and may not write")

    def _change_password(self, stack: Stack) -> None:
        alarms = stack.alarms()
        if "ALARM" in alarms.values():
            raise NotAsExpectedError(expected="no alarm so far", seen=alarms)
        stack.notifications()
        self.qwen.revoke()

    def _refuse(self, stack: Stack) -> list[Notification]:
        """Let the function find out that the token is dead; return what the owner gets to hear."""
        with self.screen.step("Change the password: Qwen refuses the token") as step:
            step.doing("python -m qwen_token refresh --force")
            self._command(stack, "refresh", "--force", expected_code=1)
            alert = stack.wait_for_notification(
                lambda notification: not notification.is_alarm,
                within=_ALERT_LIMIT,
                expected="an alert of the function",
            )
            wait_until(
                lambda: stack.alarms()["refresh-failed"] == "ALARM",
                within=_ALERT_LIMIT,
                expected="the alarm refresh-failed to go off",
                seen=lambda: str(stack.alarms()),
            )
            alarm = stack.wait_for_notification(
                lambda notification: notification.is_alarm,
                within=_ALERT_LIMIT,
                expected="the alarm's own notification",
            )
            step.done("the forced run failed, and its owner was told")
        return [alert, alarm]

    def _show_alert(self, stack: Stack, kept: _Kept, notifications: list[Notification]) -> None:
        alert, alarm = notifications
        told = (alert.attributes, alert.document["severity"])
        if told != ({"severity": "critical", "reason": "token_rejected"}, "critical"):
            raise NotAsExpectedError(expected="a critical alert: token_rejected", seen=alert)
        if stack.current() != kept.after:
            raise NotAsExpectedError(expected="AWSCURRENT untouched", seen=stack.current())
        addresses = [
            subscription["Endpoint"]
            for subscription in self.cloud.sns.list_subscriptions_by_topic(
                TopicArn=stack.outputs["AlertTopicArn"]
            )["Subscriptions"]
            if subscription["Protocol"] == "email"
        ]
        if addresses != [_OWNER]:
            raise NotAsExpectedError(expected=f"{_OWNER} to be subscribed", seen=addresses)
        email = self.cloud.relay.emails[-1]
        self.screen.heading("The alert, by e-mail:")
        self.screen.letter("e-mail", f"To:      {_OWNER}\nSubject: {email.subject}\n\n{email.text}")
        self.screen.heading("The same alert, to a queue, a chat or a pager:")
        self.screen.letter("JSON", json.dumps(alert.document, indent=2))
        self.screen.heading("The alarms:")
        self.screen.table(("alarm", "state"), sorted(stack.alarms().items()))
        self.screen.say(f"  The owner got: {alarm.subject}")
        self.screen.console.print()

    def _look_for_tokens(self, stack: Stack, notifications: list[Notification]) -> None:
        """Look for every token, and for every telling part of one, in all that was written."""
        with self.screen.step("Look for the tokens in everything written") as step:
            written = {
                "the function's log": "\n".join(stack.log()),
                "MiniStack's log": self.cloud.ministack.output(),
                "the alerts": str(notifications) + str(self.cloud.relay.emails),
                "the command line's output": self.printed,
            }
            parts = {
                part
                for version in stack.versions()
                if version.text
                # The first part, the header, is the same in all the world's tokens.
                for part in version.text.split(".")[1:]
            }
            for place, text in written.items():
                if any(part in text for part in parts):
                    raise NotAsExpectedError(expected=f"no token in {place}", seen="one")
            lines = sum(text.count("\n") for text in written.values())
            step.done(f"none in {lines} lines of logs, alerts and output")

    def _command(self, stack: Stack, *arguments: str, expected_code: int, typed: str = "") -> None:
        finished = stack.command_line(*arguments, typed=typed)
        self.printed += finished.stdout + finished.stderr
        if finished.returncode != expected_code:
            raise NotAsExpectedError(
                expected=f"exit code {expected_code} of python -m qwen_token {arguments[0]}",
                seen=f"{finished.returncode}\n{finished.stdout}{finished.stderr}",
            )


def _show_real(screen: Screen, cloud: Cloud, real: RealToken) -> None:
    """Refresh the user's own token once, at the real API."""
    stack = _build_and_deploy(screen, cloud, {"ApiBaseUrl": real.api_base_url})
    with screen.step("Put in your token") as step:
        # Without the check: to the API, being asked who it is is being asked for a new token.
        put = stack.command_line("put", "--no-check", typed=real.path.read_text())
        if put.returncode != 0:
            raise NotAsExpectedError(expected="a token in the file", seen=put.stderr)
        put_in = stack.current()
        step.done(f"it expires on {_expires_at(put_in.text):%Y-%m-%d}")
    with screen.step("Force a run of the function") as step:
        step.doing(f"it asks {real.api_base_url}")
        refreshed = stack.command_line("refresh", "--force")
        step.done("it failed" if refreshed.returncode else "the token was refreshed")
    with screen.step("Ask whether your file's token still works") as step:
        newest = stack.versions()[-1].text
        if _works(real.api_base_url, put_in.text):
            step.done("it does; the file is as it was")
        elif newest == put_in.text:
            step.done("not for sure; the file is as it was")
        else:
            # Should it be dead now, the new one must not go with the cloud.
            real.path.write_text(f"{newest}\n")
            step.done(f"not for sure: {real.path} has the new one now")
    if refreshed.returncode != 0:
        if not cloud.relay.emails:
            raise NotAsExpectedError(expected="an alert about the failure", seen=refreshed.stderr)
        email = cloud.relay.emails[-1]
        screen.heading("The API did not renew your token. The alert says why:")
        screen.letter(email.subject, email.text)
        raise ShowFailedError
    before = next(v for v in stack.versions() if v.version_id == put_in.version_id)
    _show_refresh(screen, stack, _Kept(before, stack.current()))
    screen.console.print()


def _works(api_base_url: str, raw: str) -> bool:
    try:
        response = requests.get(
            f"{api_base_url.rstrip('/')}/api/v1/auths/",
            headers={"Authorization": f"Bearer {raw}"},
            timeout=_API_TIMEOUT,
            allow_redirects=False,
        )
        return response.status_code == requests.codes.ok and "id" in response.json()
    except (requests.RequestException, TypeError):
        return False


def _build_and_deploy(screen: Screen, cloud: Cloud, parameters: Mapping[str, str]) -> Stack:
    with screen.step("sam build") as step:
        template = build(cloud.directory)
        step.done("the function and its layers")
    with screen.step("sam deploy") as step:
        stack = cloud.deploy(template, parameters=parameters)
        step.done(f"{stack.name}: {len(stack.resources())} resources, with IAM enforced")
    return stack


def _show_refresh(screen: Screen, stack: Stack, kept: _Kept) -> None:
    """Show what the refresh left in the secret, and what the function said of it."""
    now = datetime.now(UTC)
    old, new = _expires_at(kept.before.text), _expires_at(kept.after.text)
    if PREVIOUS not in kept.before.labels or not new > old:
        raise NotAsExpectedError(
            expected="the old token under AWSPREVIOUS, and a new one that expires later",
            seen=kept,
        )
    life = new - kept.after.created_at
    screen.heading("The token's life, before and after:")
    screen.lifetimes(
        [Life("before", old - life, old), Life("after", kept.after.created_at, new)],
        now=now,
        refresh_before=_REFRESH_BEFORE,
    )
    screen.heading("The secret's versions:")
    screen.table(
        ("version", "labels", "written", "expires", "left"),
        [
            (
                version.version_id[:8],
                " ".join(sorted(version.labels)),
                f"{version.created_at:%H:%M:%S}",
                f"{_expires_at(version.text):%Y-%m-%d %H:%M}",
                in_days(_expires_at(version.text) - now),
            )
            for version in stack.versions()
            if version.text
        ],
    )
    screen.heading("The function's log:")
    run = next(run for run in reversed(stack.runs()) if run.get("outcome") == "refreshed")
    if run["version_id"] != kept.after.version_id:
        raise NotAsExpectedError(expected=f"a run that made {kept.after}", seen=run)
    wanted = ("timestamp", "level", "message", "outcome", "version_id", "expires_at")
    screen.facts({key: str(run[key]) for key in (*wanted, "days_remaining")})


def _say_how_to_talk(screen: Screen, cloud: Cloud, *, spare_token: str) -> None:
    screen.heading("The cloud keeps running. To talk to it:")
    screen.say("\n".join(f"  export {name}={value}" for name, value in cloud.exports.items()))
    screen.say("  unset AWS_PROFILE")
    screen.heading("Then, for example:")
    screen.say("  make status")
    if spare_token:
        file = cloud.directory / "token.txt"
        file.touch(mode=0o600)
        file.write_text(spare_token)
        screen.say(f"  make -s put-token < {file}    # of the stand-in, with two days left")
    screen.say("  make refresh ARGS=--force")
    screen.say("  aws secretsmanager list-secret-version-ids --secret-id qwen/token")
    screen.say("  aws logs tail /aws/lambda/qwen-token-refresh-refresh --follow")
    screen.heading("MiniStack's log, with the functions' lines:")
    screen.say(f"  {cloud.ministack.log}")
    screen.heading("To stop it, and to remove everything:")
    screen.say(f"  kill {os.getpid()}")


def _expect_nothing_left(cloud: Cloud, qwen: QwenStandIn) -> None:
    for url in filter(None, (cloud.endpoint, cloud.relay.url, qwen.base_url)):
        port = int(url.rpartition(":")[2])
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise NotAsExpectedError(
                    expected=f"nobody to listen on port {port}", seen="a server"
                )
    if cloud.directory.exists():
        raise NotAsExpectedError(expected=f"{cloud.directory} to be gone", seen="it is there")


def _expires_at(raw: str) -> datetime:
    claims = jwt.decode(raw, options={"verify_signature": False})
    return datetime.fromtimestamp(claims["exp"], UTC)
