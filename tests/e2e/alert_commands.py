"""The commands that alerts name for the AWS CLI alone, run as in CloudShell: in bash."""

import shutil
import subprocess
from datetime import UTC, datetime

from keeper_runtime.alerts import Alert, Failure
from keeper_runtime.run_location import RunLocation
from localcloud.aws import ROOT, Cloud
from qwen_token import QwenTokenError, errors
from qwen_token.errors import RunFacts
from qwen_token.policy import Severity

KINDS = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, QwenTokenError) and "reason" in vars(kind)
    ),
    key=lambda kind: kind.reason,
)


def command_of(kind: type[QwenTokenError], location: RunLocation, secret_id: str) -> str:
    """Return the command in the alert's text, as a person copies it out of the e-mail."""
    error = kind("it failed")
    # Nothing else is stored that the command would replace.
    error.facts = RunFacts(token_holds_more=False, session_holds_more=False)
    now = datetime.now(UTC)
    failure = Failure.of(error, secret_id=secret_id, location=location, now=now)
    text = Alert(Severity.CRITICAL, "request-1", now, (failure,)).text()
    _, _, rest = text.partition("  AWS CLI only: ")
    return rest.partition("\n")[0]


def in_cloudshell(cloud: Cloud, command: str, *, pasted: str = "") -> str:
    """Run a command and paste this where it waits; return what it showed."""
    bash = shutil.which("bash")
    assert bash is not None
    environ = cloud.environ()
    del environ["PYTHONPATH"]
    done = subprocess.run(  # noqa: S603 - what our alerts say
        [bash, "-c", command],
        input=f"{pasted}\n",
        cwd=cloud.directory,
        env={**environ, "PATH": f"{ROOT / '.tools/awscli/bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert "FunctionError" not in done.stdout, done.stdout
    assert not pasted or pasted not in done.stdout + done.stderr
    return done.stdout
