"""Run MiniStack, but with three things as they are on AWS. Runs in MiniStack's Python.

    .tools/cloud/bin/python -P localcloud/run_ministack.py

**A handler that raises keeps its process.** MiniStack kills the process of a Python function after
each invocation that raised. AWS does so only if the process itself ended or timed out: a warm
client or a module's state survives an error. MiniStack takes the word "error" from the process as
the order to kill it, so the process says "ok" and adds what was raised, and ``invoke`` puts the
word back afterwards.

**All that an invocation logs is in its log.** MiniStack takes an invocation's log for complete if
nothing came for five milliseconds. On a busy machine, the rest came later, and was the next
invocation's. So the process says when it has written all, and that is waited for.

**A secret is found by its ARN at once**, and so are its tags. MiniStack compares the ARN with those
of all secrets, one by one, so that with 2,000 secrets it does little else.
"""

import queue
import sys
import time
from contextlib import suppress
from typing import Any

from ministack.app import main
from ministack.core import lambda_runtime
from ministack.services import secretsmanager, tagging

# In the script that runs in a function's process: what it answers when the handler raised. The
# other "error", without a trace, is for a module that cannot be imported.
_SAYS_ERROR = '{"status": "error", "error": str(e), "trace": traceback.format_exc()}'
_SAYS_RAISED = '{"status": "ok", "raised": {"error": str(e), "trace": traceback.format_exc()}}'
# The end of that script, where the answer is handed over.
_ANSWERS = "        _real_stdout.flush()\n\nrun()\n"
# What it writes to its log before that. If this does not come within so many seconds, it has died.
_END = "end of the invocation's log: 5b2d6c1e"
_END_LIMIT = 5.0
_WRITES_END = f'        sys.stderr.flush()\n        os.write(2, b"{_END}\\n")\n'
# Of an ARN: "-" and six characters of AWS's, after the secret's name.
_SUFFIX = 7

_invoke = lambda_runtime.Worker.invoke
_drain = lambda_runtime.Worker._drain_stderr_bounded
_search = secretsmanager._resolve
_search_tags = tagging.resource_tags


def _keep_process(worker: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Invoke the function, and report what its handler raised as MiniStack would."""
    result: dict[str, Any] = _invoke(worker, *args, **kwargs)
    if raised := result.pop("raised", None):
        result |= {"status": "error", **raised}
    return result


def _drain_to_the_end(worker: Any, **waits: float) -> str:
    """Return what the invocation logged."""
    if not worker.config["Runtime"].startswith("python") or worker._proc is None:
        return str(_drain(worker, **waits))
    until = time.monotonic() + _END_LIMIT
    lines: list[str] = []
    with suppress(queue.Empty):
        while not (lines and lines[-1].endswith(_END)):
            lines.append(worker._stderr_queue.get(timeout=max(0, until - time.monotonic())))
    return "\n".join(lines).removesuffix(_END).removesuffix("\n")


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


for _was, _becomes in ((_SAYS_ERROR, _SAYS_RAISED), (_ANSWERS, _WRITES_END + _ANSWERS)):
    if lambda_runtime._PYTHON_WORKER_SCRIPT.count(_was) != 1:
        sys.exit(f"{__file__}: this version of MiniStack runs functions in another way")
    lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(
        _was, _becomes
    )
lambda_runtime.Worker.invoke = _keep_process
lambda_runtime.Worker._drain_stderr_bounded = _drain_to_the_end
secretsmanager._resolve = _resolve
tagging.resource_tags = _tags
sys.exit(main())
