"""The functions in Lambda's own Python runtime: whatever writes to their log writes JSON lines."""

import json
import os
import queue
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tests.minting import token
from tests.wire import Script, reply, wire

ROOT: Final = Path(__file__).parents[2]
RUNTIME: Final = ROOT / ".tools/lambda/bin/python"
LIMIT: Final = 60.0
NEXT: Final = "/2018-06-01/runtime/invocation/next"

# What libraries do around a run.
NOISY: Final = """
import logging, threading, warnings
import boto3, {module}
logging.getLogger("a.library").warning("while it is imported")
def invoke(event, context):
    if event.pop("crash", False):
        raise ZeroDivisionError("a bug")
    logging.getLogger("urllib3.connectionpool").warning("Retrying (%r) after %r", 1, OSError("x"))
    logging.getLogger("botocore.credentials").info("Found credentials in a file.")
    logging.getLogger("a.library").error("two\\nlines", exc_info=ValueError("three\\nlines"))
    warnings.warn("is deprecated", UserWarning, stacklevel=1)
    thread = threading.Thread(target=logging.getLogger("a.library").critical, args=("in a thread",))
    thread.start()
    thread.join()
    return {module}.handler(event, context)
"""
LOUD: Final = {
    ("WARNING", "while it is imported"),
    ("WARNING", "Retrying (1) after OSError('x')"),
    ("ERROR", "two\nlines"),
    ("CRITICAL", "in a thread"),
}

ENVIRON: Final = {
    "SECRET_ID": "qwen/token",
    "SESSION_SECRET_ID": "",
    "API_BASE_URL": "http://127.0.0.1:9",
    "AUTH_BASE_URL": "",
    "WEB_VERSION": "0.3.12",
    "USER_AGENT": "a test",
    "REFRESH_BEFORE_DAYS": "3",
    "CRITICAL_DAYS": "1",
    "ALERT_AFTER_MINUTES": "60",
    "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:123456789012:alerts",
    "STATE_TABLE": "states",
    "STACK_NAME": "my-stack",
    "FLEET_TAG": "qwen-token",
    "FLEET_SCHEDULE": "rate(10 minutes)",
    "CHECK_SCHEDULE": "",
    "QUEUE_URL": "http://127.0.0.1:9/queue",
    "DISPATCH_FUNCTION": "dispatch",
    "MAXIMUM_CONCURRENCY": "5",
    "POWERTOOLS_SERVICE_NAME": "my-stack",
    "POWERTOOLS_METRICS_NAMESPACE": "QwenTokenRefresh",
}
JOB: Final = {
    "Records": [
        {
            "messageId": "m",
            "body": json.dumps({"secret_id": "qwen/token"}),
            "eventSource": "aws:sqs",
            "attributes": {},
        }
    ]
}
# Another case of what one shows. Each costs the start of a Python with the runtime and boto3.
at_night = pytest.mark.nightly

FUNCTIONS: Final = [
    pytest.param("refresh", "handler", {}, id="refresh"),
    pytest.param("fleet", "dispatch", {}, id="dispatch"),
    pytest.param("fleet", "worker", JOB, id="worker"),
]

HELD: Final = json.dumps(
    {
        "ARN": "a",
        "Name": "n",
        "VersionId": "v" * 36,
        "SecretString": token(left=timedelta(days=7), now=datetime.now(UTC)).raw,
        # What dispatch asks for.
        "SecretList": [],
    }
).encode()
FRESH: Final = reply("200 OK", HELD)
SPOILT: Final = reply("200 OK", json.dumps({**json.loads(HELD), "SecretString": "no"}).encode())
DENIED: Final = reply("400 No", b'{"__type": "AccessDeniedException", "message": "no"}')


class RuntimeApi(ThreadingHTTPServer):
    """Lambda's side of a runtime: it hands out events, and takes what becomes of them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.answers: queue.Queue[tuple[str, Any]] = queue.Queue()

    def invoke(self, event: dict[str, Any]) -> tuple[str, Any]:
        """Return ``response`` or ``error``, and what came with it."""
        self.events.put(event)
        return self.answers.get(timeout=LIMIT)


class _Call(BaseHTTPRequestHandler):
    server: RuntimeApi

    def do_GET(self) -> None:
        assert self.path == NEXT
        given = self.server.events.get()
        if given is None:
            # Nobody is there any more.
            return
        event = json.dumps(given).encode()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "request")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 60) * 1000)))
        arn = "arn:aws:lambda:eu-west-1:123456789012:function:f"
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", arn)
        # The runtime crashes where one of these is missing.
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-0-0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(event)))
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answers.put((self.path.rpartition("/")[2], json.loads(body)))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def runtime(
    folder: str, module: str, aws: str, tmp_path: Path, **environ: str
) -> Iterator[tuple[RuntimeApi, Path]]:
    """Run a function in Lambda's runtime; ``aws`` is the endpoint of all of AWS."""
    (tmp_path / "noisy.py").write_text(NOISY.format(module=module))
    layers = [ROOT / "layers/qwen_token", ROOT / "layers/keeper_runtime"]
    path = [tmp_path, ROOT / "functions" / folder, *layers, Path(sysconfig.get_path("purelib"))]
    log = tmp_path / "log"
    api = RuntimeApi()
    serving = threading.Thread(target=api.serve_forever)
    serving.start()
    with log.open("wb") as written:
        running = subprocess.Popen(  # noqa: S603 - the pinned runtime
            [RUNTIME, "-m", "awslambdaric", "noisy.invoke"],
            env={
                "PATH": os.defpath,
                "PYTHONPATH": os.pathsep.join(map(str, path)),
                "PYTHONDONTWRITEBYTECODE": "1",
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}",
                "AWS_LAMBDA_FUNCTION_NAME": "f",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
                # As Lambda sets them from the template's LoggingConfig.
                "AWS_LAMBDA_LOG_FORMAT": "JSON",
                "AWS_LAMBDA_LOG_LEVEL": "INFO",
                "AWS_REGION": "eu-west-1",
                "AWS_DEFAULT_REGION": "eu-west-1",
                "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "nothing",
                "AWS_ENDPOINT_URL": aws,
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                **ENVIRON,
                **environ,
            },
            cwd=ROOT / "functions" / folder,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        try:
            yield api, log
        finally:
            running.kill()
            running.wait()
            api.events.put(None)
            api.shutdown()
            api.server_close()
            serving.join()


def parsed(log: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the functions' own lines of a log, and the runtime's reports of what was raised."""
    lines = [json.loads(line) for line in log.read_bytes().decode().split("\n") if line]
    reports = [line for line in lines if "errorType" in line]
    documents = [line for line in lines if line not in reports]
    for each in documents:
        # CloudWatch reads metrics from the others.
        assert "_aws" in each or (each["level"] and each["message"]), each
    return documents, reports


def _runs() -> Iterator[Any]:
    """Yield each function with each answer of AWS's, and the one that it fails."""
    for aws, raises, what in (
        (FRESH, None, "that succeeds"),
        (DENIED, "dispatch", "that may not read"),
        (SPOILT, "handler", "that reads no token"),
    ):
        for function in FUNCTIONS:
            # One run of each function: two that fail, and one that succeeds.
            by_day = raises == function.values[1] or (raises is None and function.id == "worker")
            marks = [] if by_day else [at_night]
            yield pytest.param(
                *function.values, aws, raises, id=f"{function.id} {what}", marks=marks
            )


@pytest.mark.parametrize(("folder", "module", "event", "aws", "raises"), list(_runs()))
def test_all_lines_of_a_run_are_json(  # noqa: PLR0913, PLR0917 - the parameters of a test
    tmp_path: Path, folder: str, module: str, event: dict[str, Any], aws: Script, raises: str | None
) -> None:
    # A sweep that fails once is a notice, and raises nothing.
    patience = {"ALERT_AFTER_MINUTES": "0"} if module == "dispatch" else {}
    with (
        wire(aws) as server,
        runtime(folder, module, server.base_url, tmp_path, **patience) as (api, log),
    ):
        # A cold start, and a warm one.
        answers = [api.invoke(event), api.invoke(event)]
        documents, reports = parsed(log)
    raised = [what for what in answers if what[0] == "error"]
    assert len(raised) == (2 if module == raises else 0), answers
    assert len(reports) == len(raised)
    said = {(each.get("level"), each.get("message")) for each in documents}
    assert said >= LOUD
    [warned] = [each for each in documents if "is deprecated" in str(each.get("message"))]
    assert warned["level"] == "WARNING"
    assert not any("Found credentials" in str(each) for each in documents)
    [two] = [each for each in documents if each.get("message") == "two\nlines"][:1]
    assert two["exception_name"] == "ValueError"


@pytest.mark.parametrize(
    ("folder", "module", "event"),
    [
        FUNCTIONS[0],
        *(pytest.param(*each.values, id=each.id, marks=at_night) for each in FUNCTIONS[1:]),
    ],
)
def test_the_least_level_is_that_of_libraries_too(
    tmp_path: Path, folder: str, module: str, event: dict[str, Any]
) -> None:
    with (
        wire(FRESH) as server,
        runtime(folder, module, server.base_url, tmp_path, POWERTOOLS_LOG_LEVEL="ERROR") as (
            api,
            log,
        ),
    ):
        assert api.invoke(event)[0] == "response"
        documents, _ = parsed(log)
    levels = {each["level"] for each in documents if "level" in each}
    assert levels == {"ERROR", "CRITICAL"}


def test_of_an_exception_that_nobody_expects_the_runtime_reports(tmp_path: Path) -> None:
    with (
        wire(FRESH) as server,
        runtime("refresh", "handler", server.base_url, tmp_path) as (api, log),
    ):
        kind, answer = api.invoke({"crash": True})
        documents, reports = parsed(log)
    assert (kind, answer["errorType"]) == ("error", "ZeroDivisionError")
    assert [each["message"] for each in documents] == ["while it is imported"]
    [report] = reports
    assert (report["level"], report["errorMessage"]) == ("ERROR", "a bug")
