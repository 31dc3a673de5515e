"""Run MiniStack, but with two things as they are on AWS. Runs in MiniStack's Python.

    .tools/cloud/bin/python -P localcloud/run_ministack.py

**A handler that raises keeps its process.** MiniStack kills the process of a Python function after
each invocation that raised. AWS does so only if the process itself ended or timed out: a warm
client or a module's state survives an error. MiniStack takes the word "error" from the process as
the order to kill it, so the process says "ok" and adds what was raised, and ``invoke`` puts the
word back afterwards.

**A secret is found by its ARN at once**, and so are its tags. MiniStack compares the ARN with those
of all secrets, one by one, so that with 2,000 secrets it does little else.
"""

import sys
from typing import Any

from ministack.app import main
from ministack.core import lambda_runtime
from ministack.services import secretsmanager, tagging

# In the script that runs in a function's process: what it answers when the handler raised. The
# other "error", without a trace, is for a module that cannot be imported.
_SAYS_ERROR = '{"status": "error", "error": str(e), "trace": traceback.format_exc()}'
_SAYS_RAISED = '{"status": "ok", "raised": {"error": str(e), "trace": traceback.format_exc()}}'
# Of an ARN: "-" and six characters of AWS's, after the secret's name.
_SUFFIX = 7

_invoke = lambda_runtime.Worker.invoke
_search = secretsmanager._resolve
_search_tags = tagging.resource_tags


def _keep_process(worker: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Invoke the function, and report what its handler raised as MiniStack would."""
    result: dict[str, Any] = _invoke(worker, *args, **kwargs)
    if raised := result.pop("raised", None):
        result |= {"status": "error", **raised}
    return result


def _secret(arn: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the secret of a whole ARN, None if there is none."""
    name = arn.rpartition(":secret:")[2][:-_SUFFIX]
    found = secretsmanager._secrets.get(name)
    return (name, found) if found is not None and found["ARN"] == arn else None


def _resolve(secret_id: str, **kwargs: Any) -> Any:
    """Return the name and the secret of a name, an ARN or the beginning of one."""
    return _secret(secret_id) or _search(secret_id, **kwargs)


def _tags(arn: str) -> Any:
    """Return the tags of a resource, None if there is none."""
    if (found := _secret(arn)) is None:
        return _search_tags(arn)
    return {tag["Key"]: tag["Value"] for tag in found[1].get("Tags") or ()}


if lambda_runtime._PYTHON_WORKER_SCRIPT.count(_SAYS_ERROR) != 1:
    sys.exit(f"{__file__}: this version of MiniStack reports errors in another way")
lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(
    _SAYS_ERROR, _SAYS_RAISED
)
lambda_runtime.Worker.invoke = _keep_process
secretsmanager._resolve = _resolve
tagging.resource_tags = _tags
sys.exit(main())
