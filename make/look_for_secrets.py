"""Looks for tokens and keys in what git has, staged or not, and in what it would take.

What is committed is what is staged, whatever lies on the disk: a file may have been changed since,
or be gone. So the staged contents are looked through, as git has them, and then what differs on the
disk. Each is laid out under a plain name, because detect-secrets passes over files by their names.
It runs in the Python of checkov, which brings detect-secrets.
"""

import codecs
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core.scan import get_plugins
from detect_secrets.settings import default_settings

# Hashes are of high entropy here, and ARNs have the keyword "secret".
_NOT_LOOKED_FOR = ("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector")
# It asks the issuers over the network whether they know what was found.
_ASKS = "detect_secrets.filters.common.is_ignored_due_to_verification_policies"
# The comments that allow a line are those of YAML in a .yaml file, and of any kind else.
_YAML = (".yaml", ".yml")
_SUBMODULE = b"160000"
# Stands for the list of all files' names, one a line.
_NAMES = "(a file's name)"


def main() -> int:
    """Return the exit code: 1 where something was found, or git could not be asked."""
    if not Path(".git").exists():
        print("No git here: nothing to look through.")
        return 0
    try:
        files = [*_staged(), *_on_disk()]
    except subprocess.CalledProcessError as error:
        sys.stderr.write(error.stderr.decode(errors="replace"))
        print("git could not be asked, so nothing was looked through.", file=sys.stderr)
        return 1
    names = list(dict.fromkeys(name for name, _ in files))
    files.append((_NAMES, "\n".join(map(ascii, names)).encode()))
    found = sorted(set(_found(files)))
    # A name that holds a token is not repeated.
    hidden = {names[line - 1] for name, line, _ in found if name == _NAMES}
    for name, line, kind in found:
        shown = name if name.isprintable() else ascii(name)
        print(f"{kind}: {'(not shown)' if name in hidden else shown}:{line}")
    if found:
        print("Take it out. If it was pushed, take it for stolen: see CONTRIBUTING.md.")
    return int(bool(found))


def _staged() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file in the index, which a commit takes."""
    entries = [
        entry.partition(b"\t")
        for entry in _git("ls-files", "-z", "--stage").split(b"\0")
        if entry and not entry.startswith(_SUBMODULE)
    ]
    hashes = [attributes.split()[1] for attributes, _, _ in entries]
    objects = _git("cat-file", "--batch", given=b"".join(each + b"\n" for each in hashes))
    position = 0
    for _, _, name in entries:
        end = objects.index(b"\n", position)
        _, kind, size = objects[position:end].split()
        if kind != b"blob":
            raise ValueError(f"git answered with a {kind.decode()}")
        position = end + 1 + int(size)
        yield os.fsdecode(name), objects[end + 1 : position]
        position += 1


def _on_disk() -> Iterator[tuple[str, bytes]]:
    """Yield what is not staged: changed files, and new ones that git does not ignore."""
    listed = _git("ls-files", "-z", "--modified", "--others", "--exclude-standard")
    for name in dict.fromkeys(listed.split(b"\0")):
        path = Path(os.fsdecode(name))
        if path.is_symlink():
            yield str(path), os.fsencode(path.readlink())
        elif path.is_file():
            yield str(path), path.read_bytes()


def _git(*arguments: str, given: bytes = b"") -> bytes:
    command = ("git", *arguments)
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout  # noqa: S603 - fixed


def _found(files: list[tuple[str, bytes]]) -> Iterator[tuple[str, int, str]]:
    with default_settings() as settings, tempfile.TemporaryDirectory() as directory:
        settings.disable_plugins(*_NOT_LOOKED_FOR).disable_filters(_ASKS)
        for number, (name, content) in enumerate(files):
            text = _text(content)
            is_yaml = name.endswith(_YAML)
            # What YAML writes on several lines may be one.
            if not (is_yaml or _may_hold_any(text)):
                continue
            path = Path(directory, f"{number}{'.yaml' if is_yaml else '.txt'}")
            path.write_text(text, encoding="utf-8")
            secrets = SecretsCollection()
            secrets.scan_file(str(path))
            for _, secret in secrets:
                yield name, secret.line_number, secret.type


def _may_hold_any(text: str) -> bool:
    """Return whether any pattern fits a line, or the whole.

    detect-secrets itself takes ten times as long, because it puts each line through its filters.
    """
    return any(map(_fits, (text, *map(str.strip, text.splitlines()))))


@cache
def _fits(text: str) -> bool:
    return any(any(plugin.analyze_string(text)) for plugin in get_plugins())


def _text(content: bytes) -> str:
    """Return a content as text that shows what is in it, whatever its encoding."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        with suppress(UnicodeDecodeError):
            return content.decode("utf-16")
    # A token's letters are ASCII, also in UTF-16 without a mark.
    content = content.replace(b"\0", b"")
    with suppress(UnicodeDecodeError):
        return content.decode("utf-8-sig")
    return content.decode("latin-1")


if __name__ == "__main__":
    sys.exit(main())
