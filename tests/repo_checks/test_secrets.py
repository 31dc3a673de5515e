"""No token or key gets into the repository: `make secrets` finds it, and so does the hook."""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
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
    for name in (".tools", "requirements", "make", ".python-version"):
        (clone / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "Makefile", clone)
    shutil.copytree(ROOT / ".githooks", clone / ".githooks")
    (clone / ".gitignore").write_text("/.tools\n/requirements\n/make\n/.python-version\n/ignored\n")
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


def gone(file: Path) -> None:
    file.unlink()


def clean(file: Path) -> None:
    file.write_text("nothing\n")


def ignored(file: Path) -> None:
    with (file.parent / ".gitignore").open("a") as ignore:
        ignore.write(f"{file.name}\n")


@pytest.mark.parametrize("then", [gone, clean, ignored])
def test_what_is_committed_is_what_is_staged_whatever_lies_on_the_disk(
    clone: Path, then: Callable[[Path], None]
) -> None:
    file = clone / "notes"
    file.write_text(real_looking_token())
    run(clone, "git", "add", "notes")
    then(file)

    assert "notes:1" in run(clone, "make", "--silent", "secrets", well=False)
    assert "notes:1" in run(clone, "git", "commit", "--message", "Add it", well=False)


@pytest.mark.parametrize("options", [["--all"], ["notes"]], ids=["all", "by name"])
def test_a_commit_of_unstaged_files_is_refused_as_well(clone: Path, options: list[str]) -> None:
    (clone / "notes").write_text("nothing\n")
    run(clone, "git", "add", "notes")
    run(clone, "git", "commit", "--quiet", "--no-verify", "--message", "Begin")
    (clone / "notes").write_text(f"nothing\n{real_looking_token()}\n")

    assert "notes:2" in run(clone, "git", "commit", "--message", "x", *options, well=False)


def test_staged_parts_and_renamed_files_are_scanned(
    clone: Path,
) -> None:
    (clone / "notes").write_text("a\nb\n")
    (clone / "old").write_text(f"{real_looking_token()}\n")
    run(clone, "git", "add", "notes", "old")
    run(clone, "git", "commit", "--quiet", "--no-verify", "--message", "Begin")
    (clone / "notes").write_text(f"a\nb\n{real_looking_token()}\n")
    run(clone, "git", "add", "notes")
    (clone / "notes").write_text("a\nb\n")
    run(clone, "git", "mv", "old", "new")

    said = run(clone, "git", "commit", "--message", "x", well=False)

    assert "notes:3" in said
    assert "new:1" in said


ODD_NAMES = [
    "a b.txt",
    "-n",
    "--help",
    "line\nbreak",
    "'quotes\".md",
    "ünïcode",
    "requirements.txt",
    "package-lock.json",
    "poetry.lock",
    "swagger.json",
    "token.png",
    "token.svg",
    ".env",
]


def test_no_name_of_a_file_hides_what_is_in_it(clone: Path) -> None:
    for name in ODD_NAMES:
        (clone / name).write_text(real_looking_token())
    (clone / "link").symlink_to(real_looking_token())
    (clone / "utf-16.txt").write_text(real_looking_token(), encoding="utf-16")
    (clone / "utf-16-le.txt").write_text(real_looking_token(), encoding="utf-16-le")
    (clone / "latin-1.txt").write_bytes(f"ü {real_looking_token()}".encode("latin-1"))
    run(clone, "git", "add", "--force", "--", *ODD_NAMES)

    said = run(clone, "make", "--silent", "secrets", well=False)

    assert said.count("JSON Web Token") == len(ODD_NAMES) + 4


def test_a_token_in_a_files_name_is_found_and_not_repeated(clone: Path) -> None:
    raw = real_looking_token()
    (clone / raw).write_text(raw)

    said = run(clone, "make", "--silent", "secrets", well=False)

    assert "JSON Web Token: (a file's name):" in said
    assert "JSON Web Token: (not shown):1" in said
    assert not any(part in said for part in raw.split("."))


def test_where_git_cannot_be_asked_the_scan_fails(clone: Path) -> None:
    (clone / ".git/HEAD").unlink()

    said = run(clone, "make", "--silent", "secrets", well=False)

    assert "git could not be asked, so nothing was looked through" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_checkout_of_another_owner_is_not_passed_over(clone: Path) -> None:
    for path in (clone, clone / ".git"):
        os.chown(path, 65534, -1)

    assert "dubious ownership" in run(clone, "make", "--silent", "secrets", well=False)


def test_the_files_that_the_pages_have_people_make_are_ignored(clone: Path) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "examples/README.md"]
    text = "\n".join(page.read_text() for page in pages)
    named = set(re.findall(r"(?:< |_FILE=)([a-z-]+\.[a-z]+)", text))
    named |= set(re.findall(r'FileStore\("([^"]+)"', text))
    assert {"login.txt", "qwen-token"} <= named
    shutil.copy(ROOT / ".gitignore", clone)
    beside = {f"qwen-token.{name}" for name in ("session", "state")}
    beside |= {".qwen-token.abcd1234.new", ".qwen-token.session.write.lock", "token.session"}
    for name in sorted(named | beside | {"token.txt", "docs/token.txt", "oauth_creds.json"}):
        run(clone, "git", "check-ignore", name)
