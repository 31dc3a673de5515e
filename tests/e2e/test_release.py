"""What a release consists of, deployed with the AWS CLI alone and nothing of a checkout.

The lines are those of docs/deploy.md, "Without a clone". That SAM would publish the application is
tried up to the call to the Serverless Application Repository, which the emulator does not have.
"""

import json
import re
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from localcloud.aws import REGION, ROOT, Cloud
from localcloud.recording_proxy import Answer, Call, CarryOut, RecordingProxy
from localcloud.stack import DeployedStack
from qwen_token import __version__
from tests.e2e.conftest import Hosts
from tests.e2e.test_deploying import scripts

BUCKET = "of-a-company"
NAME = "released"


@pytest.fixture(scope="module", name="archive")
def _archive(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("release") / f"qwen-token-refresh-{__version__}.zip"
    make(built.parent, archive)
    return archive


def make(built: Path, archive: Path) -> None:
    program = [sys.executable, str(ROOT / "make/release.py"), str(built), str(archive)]
    subprocess.run(program, check=True)  # noqa: S603 - our own program


@pytest.fixture(scope="module", name="released")
def _released(cloud: Cloud, archive: Path) -> Any:
    """Deploy the archive from a folder that has nothing else, to hosts of this machine."""
    cloud.session.client("s3", endpoint_url=cloud.endpoint).create_bucket(Bucket=BUCKET)
    [script] = scripts("Without a clone")
    with Hosts.started() as hosts:
        given = hosts.parameters(
            SecretName=f"{NAME}/token", SessionSecretName=f"{NAME}/session", LogRetentionDays="90"
        )
        words = " ".join(f"'{name}={value}'" for name, value in given.items())
        script = script.replace("LogRetentionDays=90", words).replace(
            "--stack-name qwen-token-refresh", f"--stack-name {NAME}"
        )
        # Which does the same, and is there.
        script = re.sub(r"unzip -q (\S+) -d (\S+)", r"python -m zipfile -e \1 \2", script)
        done = cloud.typed(
            f"cd {archive.parent}\nBUCKET={BUCKET}\n{script}", HOME=str(archive.parent)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield DeployedStack.find(cloud, NAME), hosts


@pytest.mark.nightly
def test_an_archive_is_deployed_and_keeps_a_token_alive(released: Any) -> None:
    stack, hosts = released
    assert stack.parameters["LogRetentionDays"] == "90"
    stack.put(hosts.qwen.mint(lifetime=timedelta(days=2)))

    run = stack.invoke()

    assert run.result is not None
    assert run.result["outcome"] == "refreshed"
    assert hosts.qwen.accepts(stack.current().text)


@pytest.mark.nightly
def test_the_same_sources_make_the_same_archive_and_nothing_in_it_is_of_this_machine(
    built: Path, archive: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.zip"

    make(built.parent, again)

    assert again.read_bytes() == archive.read_bytes()
    unpack(archive, tmp_path)
    for file in tmp_path.rglob("*"):
        for part in (str(ROOT), str(built.parent)):
            assert file.is_dir() or part.encode() not in file.read_bytes(), file
    listed = {file.relative_to(tmp_path).parts[0] for file in tmp_path.rglob("*")}
    assert {"template.yaml", "LICENSE", "README.md", "policies", "TokenLayer"} <= listed


def unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)


@pytest.mark.nightly
def test_sam_publishes_the_application(cloud: Cloud, archive: Path, tmp_path: Path) -> None:
    asked: list[Any] = []

    def repository(call: Call, carry_out: CarryOut) -> Answer | None:
        if not call.operation.startswith("serverlessrepo:"):
            return carry_out()
        asked.append(json.loads(call.body))
        made = {"applicationId": f"arn:aws:serverlessrepo:{REGION}:000000000000:applications/x"}
        return Answer(201, {"Content-Type": "application/json"}, json.dumps(made).encode())

    unpack(archive, tmp_path)
    relay = RecordingProxy()
    relay.gate = repository
    cloud.session.client("s3", endpoint_url=cloud.endpoint).create_bucket(Bucket="for-publishing")
    with relay.to(cloud.port):
        done = cloud.typed(
            f"cd {tmp_path}\n"
            "sam package --s3-bucket for-publishing --output-template-file packaged.yaml\n"
            f"sam publish --template packaged.yaml --region {REGION}",
            AWS_ENDPOINT_URL=relay.url,
            HOME=str(tmp_path),
        )

    assert done.returncode == 0, done.stdout + done.stderr
    [application] = asked
    assert application["semanticVersion"] == __version__
    assert application["name"] == "qwen-token-refresh"
    assert application["spdxLicenseId"] == "MIT"
    assert {"author", "description", "labels", "licenseUrl", "readmeUrl"} <= application.keys()
    for address in (application["licenseUrl"], application["readmeUrl"]):
        assert "for-publishing" in address
    # What the repository refuses: longer names, more labels, labels with other characters.
    assert len(application["description"]) <= 256
    assert len(application["author"]) <= 127
    assert len(application["labels"]) <= 10
