"""No token or key gets into the repository: `make secrets` finds it, and so does the hook."""

import json
import os
import secrets
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

ROOT = Path(__file__).parents[2]


def real_looking_token() -> str:
    """Return a token with the claims of chat.qwen.ai's, signed with a key that is thrown away."""
    now = datetime.now(UTC)
    return jwt.encode(
        {
            "id": "1f0c9a52-7c1d-4a1b-9f0e-3c5b8f6a2d10",
            "last_password_change": int((now - timedelta(days=90)).timestamp()),
            "exp": int((now + timedelta(days=7)).timestamp()),
        },
        secrets.token_bytes(32),
        algorithm="HS256",
    )


@pytest.fixture(name="clone")
def _clone(tmp_path: Path) -> Path:
    """Return a repository with this one's makefiles, tools and hook, and nothing else in it."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in (".tools", "requirements", "make"):
        (clone / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "Makefile", clone)
    shutil.copytree(ROOT / ".githooks", clone / ".githooks")
    (clone / ".gitignore").write_text("/.tools\n/requirements\n/make\n/ignored\n")
    run(clone, "git", "init", "--quiet")
    for name, value in (
        ("core.hooksPath", ".githooks"),
        ("user.name", "a developer"),
        ("user.email", "developer@example.com"),
        ("commit.gpgSign", "false"),
    ):
        run(clone, "git", "config", name, value)
    return clone


def run(directory: Path, *command: str, well: bool = True) -> str:
    """Run a command that is to end well, or not, as a person would; return what it printed."""
    # Neither the settings of a git nor those of a make that this may be running under.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_", "MAKE", "MFLAGS"))
    }
    done = subprocess.run(  # noqa: S603 - the project's own
        command,
        cwd=directory,
        env={**inherited, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) is well, output
    return output


def test_a_token_is_found_before_it_is_added_however_it_is_written(clone: Path) -> None:
    raw = real_looking_token()
    written = {
        "token.txt": raw,
        "secret.json": json.dumps({"token": raw}),
        "test_it.py": f'TOKEN = "{raw}"\n',
        ".env": f"QWEN_TOKEN={raw}\n",
        "notes.md": f"    Cookie: token={raw}; x=1\n",
        "run.log": f"sent Authorization: Bearer {raw}\n",
        "samconfig.toml": f"value = '{raw}'\n",
    }
    for name, text in written.items():
        (clone / name).write_text(text)

    said = run(clone, "make", "--silent", "secrets", well=False)

    assert said.count("JSON Web Token") == len(written)
    assert [name for name in written if f"{name}:1" not in said] == []
    assert not any(part in said for part in raw.split(".")[1:]), "it is not repeated"


def test_a_commit_with_a_token_in_it_is_refused(clone: Path) -> None:
    (clone / "token.txt").write_text(real_looking_token())
    run(clone, "git", "add", "--all")

    said = run(clone, "git", "commit", "--message", "Add it", well=False)

    assert "token.txt:1" in said
    run(clone, "git", "rm", "--quiet", "--force", "token.txt")
    run(clone, "git", "commit", "--message", "Add all but it")


def test_what_git_ignores_is_the_developers_own(clone: Path) -> None:
    (clone / "ignored").write_text(real_looking_token())

    run(clone, "make", "--silent", "secrets")


def test_other_keys_are_found_too(clone: Path) -> None:
    key_id = f"AKIA{'Q7ZP2M9XK4LD8RTV'}"
    (clone / "deploy.sh").write_text(f"export AWS_ACCESS_KEY_ID={key_id}\n")

    assert "AWS Access Key" in run(clone, "make", "--silent", "secrets", well=False)


def test_without_git_there_is_nothing_to_commit(clone: Path) -> None:
    shutil.rmtree(clone / ".git")

    assert "No git here" in run(clone, "make", "--silent", "secrets")
