"""The story of ``make run``: the deployed keeper at work. Each step is checked as it is shown."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import jwt
import requests
from botocore.exceptions import BotoCoreError, ClientError

from qwen_token.errors import TokenDocumentError
from qwen_token.session import Session
from qwen_token.stored_session import recognise
from qwen_token.stored_token import rendered
from qwen_token.tokens import Token, decode_token

from .aws import STACK_NAME, Cloud, CommandFailedError, build, local_cloud, tail
from .qwen import BLOCK_PAGE, QwenStandIn
from .screen import Life, Screen, in_words
from .sign_in_host import ANSWERS, SignInHostStandIn
from .stack import CURRENT, PREVIOUS, DeployedStack, Notification, Version, subscribe
from .waiting import wait_until

_EVERY_MINUTE: Final = "cron(* * * * ? *)"
_REFRESH_BEFORE: Final = timedelta(days=3)
_PUT_IN_WITH: Final = timedelta(days=2)
# An access token's 15 minutes are nearly over: the show has no ten minutes to wait.
_NEARLY_OVER: Final = timedelta(minutes=4)
_OWNER: Final = "owner@example.com"
_SESSION_STACK: Final = "newer-login"
_KEEPS: Final = {STACK_NAME: "the token", _SESSION_STACK: "the session"}
_READ_PAUSE: Final = 0.2

# Up to a minute until the next full one, and MiniStack looks every ten seconds.
_SCHEDULE_LIMIT: Final = timedelta(seconds=90)
_ALERT_LIMIT: Final = timedelta(seconds=15)
_API_TIMEOUT: Final = 20


class NotAsExpectedError(Exception):
    """Something did not happen as the show says."""

    def __init__(self, *, expected: str, seen: object) -> None:
        """Name what was expected, and what was seen instead."""
        super().__init__(f"expected {expected}; seen: {seen}")


class ShowFailedError(Exception):
    """A step failed; its reasons have been shown."""


@dataclass(frozen=True, slots=True)
class RealToken:
    """A file with the user's own login, and the hosts that it belongs to."""

    path: Path
    api_base_url: str
    auth_base_url: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the life of a token is drawn, by the kind of its login."""

    title: str
    refresh_before: timedelta
    date: str


_TOKEN: Final = _Kind("A token's life, before and after", _REFRESH_BEFORE, "%b %d")
# A third of its life, and half a minute.
_SESSION: Final = _Kind(
    "A session's access token, before and after", timedelta(minutes=5.5), "%H:%M:%S"
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The tokens before and after a refresh."""

    before: Version
    after: Version


def show(
    screen: Screen, *, real_token: RealToken | None, keep: Callable[[bool], None] | None
) -> None:
    """Run the whole show, then stop and remove everything.

    ``keep`` is called before that, with whether all went well; an interruption skips it.

    Raises:
        ShowFailedError: a step failed. Everything was stopped and removed all the same.
    """
    qwen = QwenStandIn()
    sign_in_host = SignInHostStandIn(qwen)
    what = "AWS and Qwen's hosts" if real_token is None else "AWS"
    with ExitStack() as servers:
        with screen.step(f"Start {what} on this machine") as step:
            if real_token is None:
                servers.enter_context(qwen)
                servers.enter_context(sign_in_host)
            cloud = servers.enter_context(local_cloud())
            urls = filter(None, (cloud.endpoint, qwen.base_url, sign_in_host.base_url))
            step.done(f"ports {', '.join(url.rpartition(':')[2] for url in urls)}")
        try:
            with _explained(screen, cloud):
                if real_token is None:
                    _Show(screen, cloud, qwen, sign_in_host).run()
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
            _expect_nothing_left(cloud, qwen, sign_in_host)
            step.done("no process, port or file is left")
    if not went_well:
        raise ShowFailedError
    if real_token is None:
        screen.say("\nNext, with an AWS account: make deploy. README.md has the four commands.")


@contextmanager
def _explained(screen: Screen, cloud: Cloud) -> Iterator[None]:
    """Print what failed, with the end of the log, which is removed with the cloud."""
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
                f"The end of MiniStack's log, with the functions' lines ({cloud.ministack.log}):"
            )
            screen.say(tail(cloud.ministack.output()), "dim")
        screen.say("\nTo look at the cloud and its whole log, run KEEP=1 make run.")
        raise ShowFailedError from error


class _Show:
    """The show with the stand-ins: two logins, a good minute, and a bad day."""

    def __init__(
        self, screen: Screen, cloud: Cloud, qwen: QwenStandIn, sign_in_host: SignInHostStandIn
    ) -> None:
        self.screen = screen
        self.cloud = cloud
        self.qwen = qwen
        self.sign_in_host = sign_in_host
        self.printed = ""

    def run(self) -> None:
        token_stack, session_stack = self._deploy()
        put_in = [self._put_token(token_stack), self._put_session(session_stack)]
        with _Readers([token_stack, session_stack], self.qwen) as readers:
            kept, of_session = self._wait_for_schedule([token_stack, session_stack], put_in)
            _show_refresh(self.screen, token_stack, kept, _TOKEN)
            _show_refresh(self.screen, session_stack, of_session, _SESSION)
            self._check_calls(kept)
            self._check_reader(token_stack, session_stack)
            notice = self._block(session_stack)
            self._check_readers(readers)
        alerts = self._end_login(session_stack)
        self._show_alert(session_stack, notice, alerts)
        recovery = self._recover(session_stack)
        self._look_for_secrets([token_stack, session_stack], [notice, *alerts, recovery])

    def _deploy(self) -> tuple[DeployedStack, DeployedStack]:
        hosts = {
            "ApiBaseUrl": self.qwen.base_url,
            "AuthBaseUrl": self.sign_in_host.base_url,
            "Schedule": _EVERY_MINUTE,
        }
        template = _build(self.screen, self.cloud)
        token_stack = _deploy(self.screen, self.cloud, template, hosts)
        names = {"SecretName": "newer/token", "SessionSecretName": "newer/session"}
        session_stack = _deploy(
            self.screen,
            self.cloud,
            template,
            {**hosts, **names, "AlertEmail": _OWNER},
            name=_SESSION_STACK,
        )
        return token_stack, session_stack

    def _put_token(self, stack: DeployedStack) -> Version:
        with self.screen.step("Put in a token with two days left") as step:
            raw = self.qwen.mint(lifetime=_PUT_IN_WITH)
            self._command(stack, "put", typed=raw, expected_code=0)
            # It may not be current any more: the schedule may have run already.
            stored = [version for version in stack.versions() if version.text == raw]
            if len(stored) != 1:
                raise NotAsExpectedError(expected="the token to be stored", seen=stack.versions())
            step.done("python -m qwen_token put")
        return stored[0]

    def _put_session(self, stack: DeployedStack) -> Version:
        with self.screen.step("Put in a session whose token is nearly over") as step:
            # The token first: without a token, the function would use the session at once.
            raw = self._old_access_token()
            version_id = stack.put(raw)
            stack.put_session(self.sign_in_host.log_in())
            step.done("4 of its token's 15 minutes are left")
        return next(version for version in stack.versions() if version.version_id == version_id)

    def _old_access_token(self) -> str:
        """Return an access token that is due. It does not say when it was issued."""
        return self.qwen.issue_access_token(lifetime=_NEARLY_OVER, has_iat=False)

    def _wait_for_schedule(self, stacks: list[DeployedStack], put_in: list[Version]) -> list[_Kept]:
        """Wait until the deployed schedules have run the functions. Nothing else runs them."""
        with self.screen.step("Wait for the schedule to run the function") as step:
            schedule = self.cloud.scheduler.get_schedule(
                Name=stacks[0].resources()["RefreshFunctionTimer"]
            )
            step.doing(f"{schedule['ScheduleExpression']}, the next full minute")

            def are_replaced() -> bool:
                return all(
                    CURRENT not in stack.labels().get(version.version_id, ())
                    for stack, version in zip(stacks, put_in, strict=True)
                )

            wait_until(
                are_replaced,
                within=_SCHEDULE_LIMIT,
                expected="the schedule to run the functions, and both tokens to be refreshed",
                seen=lambda: (
                    f"{schedule['State']} {schedule['ScheduleExpression']}; runs: "
                    + str([dict(run) for stack in stacks for run in stack.runs()])
                ),
            )
            step.done("both tokens were refreshed")
        return [
            _Kept(
                next(v for v in stack.versions() if v.version_id == version.version_id),
                stack.current(),
            )
            for stack, version in zip(stacks, put_in, strict=True)
        ]

    def _check_calls(self, kept: _Kept) -> None:
        """Check the number of calls to Qwen, and print it."""
        asked = [
            request.expires_at
            for request in self.qwen.requests
            if request.expires_at in {_expires_at(kept.before.text), _expires_at(kept.after.text)}
        ]
        old, new = _expires_at(kept.before.text), _expires_at(kept.after.text)
        # The first is that of the command put.
        if asked != [old, old, new]:
            raise NotAsExpectedError(expected="3 calls to Qwen's API", seen=self.qwen.requests)
        spent = list(self.sign_in_host.spent.values())
        if spent != [1]:
            raise NotAsExpectedError(expected="the credential to be used once", seen=spent)
        self.screen.say(
            "  The token: 2 calls to Qwen (refresh, verify), 2 writes (stage, promote).\n"
            "  The session: the same. Its credential did not change, so it was not written again."
        )
        self.screen.console.print()

    def _check_reader(self, token_stack: DeployedStack, session_stack: DeployedStack) -> None:
        with self.screen.step("Read the tokens as services do") as step:
            for stack in (token_stack, session_stack):
                reader = stack.reader()
                read = reader.get_secret_value(SecretId=stack.secret_arn)["SecretString"]
                if not self.qwen.accepts(read):
                    raise NotAsExpectedError(expected="a reader to get the token", seen="another")
                _expect_denied(
                    lambda reader=reader, stack=stack: reader.put_secret_value(  # type: ignore[misc]
                        SecretId=stack.secret_arn, SecretString="overwritten"
                    ),
                    "a reader not to write",
                )
                _expect_denied(
                    lambda reader=reader, stack=stack: reader.get_secret_value(  # type: ignore[misc]
                        SecretId=stack.session_secret_arn
                    ),
                    "a reader not to read the session",
                )
            step.done("they may read the token, and nothing else")

    def _block(self, stack: DeployedStack) -> Notification:
        """Have a firewall answer while the token is alive: a notice, and nobody is paged."""
        stack.notifications()
        pager = _Pager(stack)
        with self.screen.step("A firewall answers instead of Qwen") as step:
            self.sign_in_host.answer_with(BLOCK_PAGE)
            stack.put(self._old_access_token())
            run = stack.invoke()
            if run.result is None or run.result["outcome"] != "retrying":
                raise NotAsExpectedError(expected="the outcome retrying", seen=run)
            notice = stack.wait_for_notification(
                lambda notification: notification.attributes.get("reason") == "upstream_blocked",
                within=_ALERT_LIMIT,
                expected="a notice",
            )
            if notice.attributes["severity"] != "notice" or "ALARM" in stack.alarms().values():
                raise NotAsExpectedError(expected="a notice, and no alarm", seen=notice)
            if paged := pager.received():
                raise NotAsExpectedError(expected="nobody to be paged", seen=paged)
            step.done("with 4 minutes left: a notice, but no e-mail")
        self.screen.say(f"  {notice.subject}", "dim")
        return notice

    def _end_login(self, stack: DeployedStack) -> list[Notification]:
        """End the login, and run the function; return the alert and the alarm's message."""
        with self.screen.step("Change the password: Qwen ends the login") as step:
            self.sign_in_host.answer_with(ANSWERS)
            self.sign_in_host.revoke()
            step.doing("python -m qwen_token refresh")
            self._command(stack, "refresh", expected_code=1)
            alert = stack.wait_for_notification(
                lambda notification: not notification.is_alarm,
                within=_ALERT_LIMIT,
                expected="an alert of the function",
            )
            # From now on, each run fails, and no further alert is sent.
            self._command(stack, "refresh", expected_code=1)
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
            again = [each for each in stack.notifications() if not each.is_alarm]
            if again:
                raise NotAsExpectedError(expected="one alert", seen=again)
            step.done("two runs failed, and one alert was sent")
        return [alert, alarm]

    def _check_readers(self, readers: "_Readers") -> None:
        with self.screen.step("Check what the readers got meanwhile") as step:
            reads = readers.stop()
            step.done(f"{reads} reads so far, each of a valid token")

    def _show_alert(
        self, stack: DeployedStack, notice: Notification, alerts: list[Notification]
    ) -> None:
        alert, alarm = alerts
        told = (alert.attributes, alert.document["severity"], alert.document["since"])
        wanted = {"severity": "critical", "reason": "session_rejected"}
        # The incident is still that of the notice: the same token could not be replaced.
        if told != (wanted, "critical", notice.document["since"]):
            raise NotAsExpectedError(expected="a critical alert: session_rejected", seen=alert)
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
        self.screen.say(f"  By e-mail, too: {alarm.subject}")
        self.screen.console.print()

    def _recover(self, stack: DeployedStack) -> Notification:
        """Put in a new session, as the alert says; return the recovery."""
        with self.screen.step("Log in again, and put the new session in") as step:
            credential = self.sign_in_host.log_in()
            self._command(stack, "put", typed=credential, expected_code=0)
            recovery = stack.wait_for_notification(
                lambda notification: notification.document.get("event") == "refresh_recovered",
                within=_ALERT_LIMIT,
                expected="the recovery",
            )
            if not self.qwen.accepts(stack.current().text):
                raise NotAsExpectedError(expected="a token that lives", seen=stack.current())
            step.done("used at once; the all-clear was sent")
        self.screen.say(f"  {recovery.subject}", "dim")
        self.screen.say("  (The alarm ends after five minutes without an error.)", "dim")
        self.screen.console.print()
        return recovery

    def _look_for_secrets(
        self, stacks: list[DeployedStack], notifications: list[Notification]
    ) -> None:
        """Look for each token, each credential, and each telling part of one, in all output."""
        with self.screen.step("Look for tokens in all output") as step:
            written = {
                "the functions' logs": "\n".join(line for each in stacks for line in each.log()),
                "MiniStack's log": self.cloud.ministack.output(),
                "the alerts": str(notifications) + str(self.cloud.relay.emails),
                "the command line's output": self.printed,
                "the state table": str([each.memory() for each in stacks]),
            }
            parts = {
                part
                for stack in stacks
                for version in (*stack.versions(), *stack.session_versions())
                # The first part, the header, is the same in every token.
                for part in _telling_parts(version.text)
            }
            for place, text in written.items():
                if any(part in text for part in parts):
                    raise NotAsExpectedError(expected=f"no token in {place}", seen="one")
            lines = sum(text.count("\n") for text in written.values())
            step.done(f"none in {lines} lines of logs and alerts")

    def _command(
        self, stack: DeployedStack, *arguments: str, expected_code: int, typed: str = ""
    ) -> None:
        finished = stack.command_line(*arguments, typed=typed)
        self.printed += finished.stdout + finished.stderr
        if finished.returncode != expected_code:
            raise NotAsExpectedError(
                expected=f"exit code {expected_code} of python -m qwen_token {arguments[0]}",
                seen=f"{finished.returncode}\n{finished.stdout}{finished.stderr}",
            )


class _Readers:
    """Services that read each stack's token all the time, and check that it is valid."""

    def __init__(self, stacks: list[DeployedStack], qwen: QwenStandIn) -> None:
        self._qwen = qwen
        self._stopped = threading.Event()
        self._reads = 0
        self._failures: list[str] = []
        self._threads = [threading.Thread(target=self._read, args=(each,)) for each in stacks]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._join()

    def stop(self) -> int:
        """Stop, and return the number of reads.

        Raises:
            NotAsExpectedError: a read did not return a valid token.
        """
        self._join()
        if self._failures:
            raise NotAsExpectedError(expected="only valid tokens", seen=self._failures)
        return self._reads

    def _join(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _read(self, stack: DeployedStack) -> None:
        reader = stack.reader()
        while not self._stopped.wait(_READ_PAUSE):
            raw = reader.get_secret_value(SecretId=stack.secret_arn)["SecretString"]
            self._reads += 1
            if not self._qwen.accepts(raw):
                self._failures.append(f"a token of {stack.name} that is not valid")


class _Pager:
    """A queue with the e-mail subscription's filter policy: it gets what the owner gets."""

    def __init__(self, stack: DeployedStack) -> None:
        sns, topic_arn = stack.cloud.sns, stack.outputs["AlertTopicArn"]
        [email] = [
            each["SubscriptionArn"]
            for each in sns.list_subscriptions_by_topic(TopicArn=topic_arn)["Subscriptions"]
            if each["Protocol"] == "email"
        ]
        policy = sns.get_subscription_attributes(SubscriptionArn=email)["Attributes"]
        self._queue = subscribe(
            stack.cloud, topic_arn, queue="pager", filter_policy=policy["FilterPolicy"]
        )
        self._sqs = stack.cloud.sqs

    def received(self) -> list[str]:
        """Return the messages that have arrived."""
        messages = self._sqs.receive_message(QueueUrl=self._queue).get("Messages", [])
        return [message["Body"] for message in messages]


def _expect_denied(call: Callable[[], object], expected: str) -> None:
    try:
        call()
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDeniedException":
            raise
    else:
        raise NotAsExpectedError(expected=expected, seen="it succeeded")


def _telling_parts(stored: str) -> list[str]:
    """Return the parts of a stored value that must not appear anywhere else."""
    if stored.startswith("{"):
        stored = json.loads(stored).get("refresh_token", "")
    return [part for part in stored.split(".")[1:] if part] or ([stored] if stored else [])


def _show_real(screen: Screen, cloud: Cloud, real: RealToken) -> None:
    """Refresh the user's own login once, at the real hosts."""
    parameters = {"ApiBaseUrl": real.api_base_url, "AuthBaseUrl": real.auth_base_url}
    before = real.path.read_text()
    login = recognise(before)
    if isinstance(login, Token):
        # Checked before the exchange: the new token may have to go into the file.
        try:
            rendered(login, over=before)
        except TokenDocumentError as error:
            raise NotAsExpectedError(
                expected="a token that can be replaced in its file", seen=str(error)
            ) from None
    stack = _deploy(screen, cloud, _build(screen, cloud), parameters)
    if isinstance(login, Session):
        refreshed = _use_session(screen, stack, real)
    else:
        refreshed = _exchange(screen, stack, real)
    if refreshed is None:
        if not cloud.relay.emails:
            raise NotAsExpectedError(expected="an alert about the failure", seen=stack.runs())
        email = cloud.relay.emails[-1]
        screen.heading("Your login was not renewed. The alert says why:")
        screen.letter(email.subject, email.text)
        raise ShowFailedError
    screen.heading("What the function did:")
    screen.facts({name: str(value) for name, value in refreshed.items()})
    screen.console.print()


def _exchange(screen: Screen, stack: DeployedStack, real: RealToken) -> Mapping[str, object] | None:
    """Exchange a token of the first kind; return the run's result, or None if it failed."""
    with screen.step("Put in your token") as step:
        # Not checked: asking this API about a token is the exchange itself.
        put = stack.command_line("put", "--no-check", typed=real.path.read_text())
        if put.returncode != 0:
            raise NotAsExpectedError(expected="a token in the file", seen=put.stderr)
        put_in = stack.current()
        step.done(f"it expires on {_expires_at(put_in.text):%Y-%m-%d}")
    with screen.step("Force a run of the function") as step:
        step.doing(f"it asks {real.api_base_url}")
        run = stack.invoke({"force": True})
        step.done("it failed" if run.result is None else str(run.result["outcome"]))
    with screen.step("Check whether your file's token still works") as step:
        newest = stack.versions()[-1].text
        if _works(real.api_base_url, put_in.text):
            step.done("it does; the file is as it was")
        elif newest == put_in.text:
            step.done("unclear; the file is as it was")
        else:
            # The old token may be dead: the new one must not be removed with the cloud.
            written = rendered(decode_token(newest), over=real.path.read_text())
            real.path.write_text(f"{written.rstrip()}\n")
            step.done(f"unclear: {real.path} has the new one now")
    return run.result


def _use_session(
    screen: Screen, stack: DeployedStack, real: RealToken
) -> Mapping[str, object] | None:
    """Spend a session's credential once; return the run's result, or None if it failed."""
    with screen.step("Put in your session") as step:
        # Not by the command put, which would run the function at once.
        put_in = stack.put_session(real.path.read_text())
        step.done("it is in the session secret of this machine's cloud")
    with screen.step("Run the function") as step:
        step.doing(f"it asks {real.auth_base_url}")
        run = stack.invoke()
        step.done("it failed" if run.result is None else str(run.result["outcome"]))
    with screen.step("Check whether the credential changed") as step:
        newest = stack.session_versions()[-1]
        if newest.version_id == put_in:
            step.done("it did not; the file is as it was")
        else:
            # The old credential may be dead: the new one must not be removed with the cloud.
            real.path.write_text(f"{newest.text}\n")
            step.done(f"it did: {real.path} has the new one now")
    return run.result


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


def _build(screen: Screen, cloud: Cloud) -> Path:
    with screen.step("sam build") as step:
        template = build(cloud.directory)
        step.done("the function and its layers")
    return template


def _deploy(
    screen: Screen,
    cloud: Cloud,
    template: Path,
    parameters: Mapping[str, str],
    *,
    name: str = STACK_NAME,
) -> DeployedStack:
    with screen.step(f"sam deploy {name}") as step:
        stack = cloud.deploy(template, name=name, parameters=parameters)
        step.done(f"{len(stack.resources())} resources, for {_KEEPS[name]}; IAM enforced")
    return stack


def _show_refresh(screen: Screen, stack: DeployedStack, kept: _Kept, kind: _Kind) -> None:
    """Show the secret's versions after the refresh, and the function's log line."""
    now = datetime.now(UTC)
    old, new = _expires_at(kept.before.text), _expires_at(kept.after.text)
    if PREVIOUS not in kept.before.labels or not new > old:
        raise NotAsExpectedError(
            expected="the old token under AWSPREVIOUS, and a new one that expires later",
            seen=kept,
        )
    life = new - kept.after.created_at
    screen.heading(f"{kind.title}:")
    screen.lifetimes(
        [Life("before", old - life, old), Life("after", kept.after.created_at, new)],
        now=now,
        refresh_before=kind.refresh_before,
        date=kind.date,
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
                in_words(_expires_at(version.text) - now),
            )
            for version in stack.versions()
            if version.text
        ],
    )
    screen.heading("The function's log:")
    run = next(run for run in reversed(stack.runs()) if run.get("outcome") == "refreshed")
    if run["version_id"] != kept.after.version_id:
        raise NotAsExpectedError(expected=f"a run that made {kept.after}", seen=run)
    wanted = ("timestamp", "message", "outcome", "grant", "version_id", "expires_at")
    screen.facts({key: str(run[key]) for key in (*wanted, "session_expires_at") if key in run})


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
        screen.say(f"  make -s put-token < {file}    # a token with two days left")
    screen.say("  make refresh ARGS=--force")
    screen.say("  aws secretsmanager list-secret-version-ids --secret-id qwen/token")
    screen.say("  aws logs tail /aws/lambda/qwen-token-refresh/refresh --follow")
    screen.heading("MiniStack's log, with the functions' lines:")
    screen.say(f"  {cloud.ministack.log}")
    screen.heading("To stop it and remove everything:")
    screen.say(f"  kill {os.getpid()}")


def _expect_nothing_left(cloud: Cloud, qwen: QwenStandIn, sign_in_host: SignInHostStandIn) -> None:
    urls = (cloud.endpoint, cloud.relay.url, qwen.base_url, sign_in_host.base_url)
    for url in filter(None, urls):
        port = int(url.rpartition(":")[2])
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise NotAsExpectedError(expected=f"no server on port {port}", seen="a server")
    if cloud.directory.exists():
        raise NotAsExpectedError(expected=f"{cloud.directory} to be removed", seen="it exists")


def _expires_at(raw: str) -> datetime:
    claims = jwt.decode(raw, options={"verify_signature": False})
    return datetime.fromtimestamp(claims["exp"], UTC)
