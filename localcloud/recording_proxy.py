"""A proxy between a deployed function and AWS: it passes every call on, and records it.

It records what the emulator does not show: the calls of a run, and the texts of the e-mails that
SNS has to send. And it can do what the emulator cannot: fail.
"""

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final
from urllib.parse import parse_qs, unquote

from .serving import Server

_SIGNED_FOR: Final = re.compile(
    r"Credential=(?P<key_id>[^/]+)/\d{8}/[^/]+/(?P<service>[^/]+)/aws4_request"
)
# The parameters with which each service's calls name their resource.
_RESOURCE_FIELDS: Final = ("SecretId", "TopicArn", "EventBusName", "TableName")
_INVOKED: Final = re.compile(r"/2015-03-31/functions/(?P<function>[^/]+)/invocations")
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class AwsRefusal:
    """A refusal by AWS: an error code and a status."""

    code: str
    status: int = 400


class Loss(Enum):
    """A call that is carried out, but whose answer never arrives."""

    OF_THE_ANSWER = "the answer"


@dataclass(frozen=True, slots=True)
class Email:
    """The e-mail that a topic's subscribers get for one publish."""

    topic_arn: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Use:
    """A permission that was used: by the owner of the signing key, for an action on a resource.

    ``resource`` is written as in the call: an ARN, or the name of a queue, a function or a table.
    """

    key_id: str
    action: str
    resource: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call to AWS, named as in an IAM policy: ``sns:Publish``."""

    operation: str
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What AWS answers."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


CarryOut = Callable[[], Answer | None]


class RecordingProxy:
    """A relay to one cloud. ``calls`` are named as in an IAM policy: ``sns:Publish``.

    ``uses`` are the permissions that these calls needed, each once. Every call is given to the
    ``gate``, with a function that carries it out. The gate returns the answer; for None, the
    connection is broken off.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.uses: set[Use] = set()
        self.emails: list[Email] = []
        self.gate: Callable[[Call, CarryOut], Answer | None] = lambda _call, carry_out: carry_out()
        self._interference: dict[str, AwsRefusal | Loss] = {}
        self._port = 0
        self.url = ""

    @contextmanager
    def to(self, port: int) -> Iterator[None]:
        """Serve on a free port of 127.0.0.1, passing calls on to ``port``."""
        self._port = port
        handler = type("_Handler", (_Handler,), {"relay": self})
        with Server(("127.0.0.1", 0), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
            )
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    @contextmanager
    def watching(self) -> Iterator[set[Use]]:
        """Collect the permissions that calls need during the block."""
        earlier, meanwhile = self.uses, set[Use]()
        self.uses = meanwhile
        try:
            yield meanwhile
        finally:
            self.uses = earlier | meanwhile

    @contextmanager
    def interfering(self, operation: str, how: AwsRefusal | Loss) -> Iterator[None]:
        """Let every call of ``operation`` fail during the block."""
        self._interference[operation] = how
        try:
            yield
        finally:
            del self._interference[operation]

    def answer(self, call: Call) -> Answer | None:
        """Record the call and return its answer; None breaks the connection off."""
        self.calls.append(call.operation)
        self.uses |= set(_uses(call))
        return self.gate(call, lambda: self._carry_out(call))

    def _carry_out(self, call: Call) -> Answer | None:
        """Pass the call on, or interfere with it as set."""
        how = self._interference.get(call.operation)
        if isinstance(how, AwsRefusal):
            return refuse(call, how)
        answer = self._pass_on(call)
        if call.operation == "sns:Publish" and answer.status == HTTPStatus.OK:
            self._keep_email(call)
        return None if how is Loss.OF_THE_ANSWER else answer

    def _pass_on(self, call: Call) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT)
        try:
            # The headers, Host included, stay unchanged, because they are signed.
            connection.request(call.method, call.path, call.body, dict(call.headers))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def _keep_email(self, call: Call) -> None:
        fields = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
        message = fields["Message"]
        if fields.get("MessageStructure") == "json":
            by_protocol = json.loads(message)
            message = by_protocol.get("email", by_protocol["default"])
        self.emails.append(Email(fields["TopicArn"], fields.get("Subject", ""), message))


class _Handler(BaseHTTPRequestHandler):
    relay: RecordingProxy
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    # Head and body are sent in two pieces; with Nagle, the second would wait for the first's ACK.
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # Some SDKs write names in lower case.
        headers = {name.title(): value for name, value in self.headers.items()}
        headers.pop("Connection", None)
        operation = _operation(headers, body, self.path)
        answer = self.relay.answer(Call(operation, self.command, self.path, headers, body))
        if answer is None:
            self.close_connection = True
        else:
            self._reply(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815 - named by http.server

    def _reply(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Print nothing: calls are recorded."""


def _operation(headers: Mapping[str, str], body: bytes, path: str) -> str:
    signed_for = _SIGNED_FOR.search(headers.get("Authorization", ""))
    service = signed_for["service"] if signed_for else "unsigned"
    if target := headers.get("X-Amz-Target"):
        return f"{service}:{target.rpartition('.')[2]}"
    if action := parse_qs(body.decode(errors="replace")).get("Action"):
        return f"{service}:{action[0]}"
    return f"{service}:{path}"


def _uses(call: Call) -> Iterator[Use]:
    """Yield the permissions that AWS requires for a call."""
    signed_for = _SIGNED_FOR.search(call.headers.get("Authorization", ""))
    key_id = signed_for["key_id"] if signed_for else "unsigned"
    if invoked := _INVOKED.fullmatch(call.path):
        yield Use(key_id, "lambda:InvokeFunction", unquote(invoked["function"]))
        return
    if "X-Amz-Target" in call.headers:
        fields = json.loads(call.body)
    else:
        # What is uploaded is no text.
        form = parse_qs(call.body.decode(errors="replace"))
        fields = {name: values[0] for name, values in form.items()}
    if "QueueUrl" in fields:
        # Sending a batch requires the permission to send a message.
        action = call.operation.removesuffix("Batch")
        yield Use(key_id, action, fields["QueueUrl"].rpartition("/")[2])
        return
    # Reading a batch of values requires the permission to read each one.
    for secret_id in fields.get("SecretIdList", ()):
        yield Use(key_id, "secretsmanager:GetSecretValue", secret_id)
    # Events name their bus one by one.
    named = fields | (fields["Entries"][0] if "Entries" in fields else {})
    resource = next((named[name] for name in _RESOURCE_FIELDS if name in named), "*")
    yield Use(key_id, call.operation, resource)


def refuse(call: Call, refusal: AwsRefusal) -> Answer:
    """Refuse ``call``, in the form of its service."""
    message = "refused by the test"
    if "X-Amz-Target" in call.headers:
        body = json.dumps({"__type": refusal.code, "message": message})
        return Answer(refusal.status, {"Content-Type": "application/x-amz-json-1.1"}, body.encode())
    body = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{refusal.code}</Code>"
        f"<Message>{message}</Message></Error></ErrorResponse>"
    )
    return Answer(refusal.status, {"Content-Type": "text/xml"}, body.encode())
