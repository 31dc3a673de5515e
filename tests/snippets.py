"""The snippets of the pages for services, run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

from localcloud.aws import ROOT, Cloud

PAGES = (ROOT / "README.md", ROOT / "docs/use.md")
ALL = [
    snippet
    for page in PAGES
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]
SNIPPETS = [snippet for snippet in ALL if "from qwen_token" in snippet]
FROM_A_SECRET = [snippet for snippet in SNIPPETS if "qwen/token" in snippet]


def run_snippet(  # noqa: PLR0913 - what a snippet is run with
    snippet: str,
    cloud: Cloud,
    secret_id: str,
    base_url: str,
    *,
    typed: str = "",
    installed: Path | None = None,
) -> str:
    """Run a snippet in a Python of its own, with the names of here; return what it printed.

    ``installed`` is a Python that has the library itself; any other is given the sources.
    """
    environ = cloud.environ()
    if installed is not None:
        del environ["PYTHONPATH"]
    text = snippet.replace(
        'from_secret("qwen/token")', f'from_secret("qwen/token", base_url="{base_url}")'
    )
    text = text.replace('"qwen/token"', repr(secret_id)).replace("https://chat.qwen.ai", base_url)
    done = subprocess.run(  # noqa: S603 - our own pages
        [installed or sys.executable, "-W", "error", "-c", text],
        env=environ,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
