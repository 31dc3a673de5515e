"""Lambda's base image, made of what is at hand: this Python and the pins of Lambda's own packages.

A registry is not needed for it. It holds the interpreter with its library, every shared library
that they need, Lambda's bootstrap, and what the SAM CLI's layer on top of it runs.
"""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

# Lambda's own Python, and what it brings: awslambdaric and boto3.
_PACKAGES: Final = Path(__file__).parents[2] / ".tools/lambda/lib/python3.13/site-packages"
_LIBRARY: Final = Path(sys.base_prefix) / "lib/python3.13"
# The SAM CLI's layers on top of the image run these.
_PROGRAMS: Final = ("sh", "chmod", "cp", "mv", "rm")
_NOT_NEEDED: Final = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "tkinter", "_tkinter*", "turtledemo", "ensurepip"),
    *("site-packages", "config-3*", "__pycache__", "*.a"),
)

_BOOTSTRAP: Final = """\
#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_python3.13
exec /var/lang/bin/python3.13 /var/runtime/bootstrap.py
"""

# Lambda's order: the function, its layers, the runtime, which is where this is. The function may
# only begin when loopback.py has opened the way to the embedded AWS.
_BOOTSTRAP_PY: Final = """\
import os
import socket
import sys
import time
from urllib.parse import urlsplit

sys.path[:0] = [
    os.environ["LAMBDA_TASK_ROOT"], "/opt/python/lib/python3.13/site-packages", "/opt/python"
]
aws = urlsplit(os.environ["AWS_ENDPOINT_URL"])
deadline = time.monotonic() + 30
while True:
    try:
        socket.create_connection((aws.hostname, aws.port)).close()
        break
    except ConnectionRefusedError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.02)

from awslambdaric.__main__ import main

main([sys.argv[0], os.environ["_HANDLER"]])
"""

_VARIABLES: Final = {
    "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin",
    "LANG": "en_US.UTF-8",
    "TZ": ":/etc/localtime",
    "LAMBDA_TASK_ROOT": "/var/task",
    "LAMBDA_RUNTIME_DIR": "/var/runtime",
}


def import_image(name: str, *, label: str, endpoint: str, docker: list[str], folder: Path) -> None:
    """Make the image in the empty ``folder``, and import it with ``docker``.

    ``endpoint`` is where AWS is. The SAM CLI hands on only variables that the template declares, so
    it is the image that says it.

    Raises:
        CalledProcessError: a program failed.
    """
    root, archive = folder / "root", folder / "root.tar"
    _lay_out(root)
    with tarfile.open(archive, "w") as tar:
        for path in sorted(root.iterdir()):
            tar.add(path, path.name, filter=_owned_by_root)
    variables = {**_VARIABLES, "AWS_ENDPOINT_URL": endpoint}
    changes = [f"ENV {key}={value}" for key, value in variables.items()]
    words = [
        word
        for change in ("WORKDIR /var/task", f"LABEL {label}", *changes)
        for word in ("--change", change)
    ]
    subprocess.run(  # noqa: S603 - fixed words
        [*docker, "import", *words, archive, name], capture_output=True, check=True
    )
    shutil.rmtree(root)
    archive.unlink()


def _lay_out(root: Path) -> None:
    for name in ("tmp", "opt", "proc", "dev", "sys", "etc", "var/task"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    _put(Path(sys.base_prefix) / "bin/python3.13", root, Path("/var/lang/bin/python3.13"))
    shutil.copytree(_LIBRARY, root / "var/lang/lib/python3.13", ignore=_NOT_NEEDED)
    shutil.copytree(_PACKAGES, root / "var/runtime")
    for program in _PROGRAMS:
        _put(Path("/bin", program), root, Path("/bin", program))
    binaries = [file for file in root.rglob("*") if file.is_file() and _is_binary(file)]
    for library in {each for file in binaries for each in _shared_libraries(file)}:
        _put(library, root, library)
    bootstrap = root / "var/runtime/bootstrap"
    bootstrap.write_text(_BOOTSTRAP)
    bootstrap.chmod(0o755)
    (root / "var/runtime/bootstrap.py").write_text(_BOOTSTRAP_PY)
    # As in Lambda's image: otherwise every cold start compiles the library first.
    subprocess.run(  # noqa: S603 - fixed words
        [
            *(sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *("-s", root, "-p", "/", root / "var/lang/lib/python3.13"),
        ],
        capture_output=True,
        check=True,
    )


def _is_binary(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"\x7fELF"


def _shared_libraries(file: Path) -> set[Path]:
    """Return what the loader would load for a file, where it looks for it; nothing if static."""
    done = subprocess.run(["ldd", file], capture_output=True, text=True, check=False)  # noqa: S603, S607 - the system's
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)}


def _put(file: Path, root: Path, path: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file.resolve(), target)


def _owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info
