"""Make the archive of a release: the built template, the code beside it, and what must come along.

    python make/release.py .aws-sam/build build/release/qwen-token-refresh-0.1.0.zip

Nothing in the archive names this machine or the time: the same sources give the same bytes.
"""

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What the template's metadata for the Serverless Application Repository names, and the policies.
BESIDE = ("LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md")
# The earliest that an archive can hold.
LONG_AGO = (1980, 1, 1, 0, 0, 0)
UPWARDS = re.compile(r"^( +(?:LicenseUrl|ReadmeUrl): ).*/", re.MULTILINE)
CODE = re.compile(r"^ +(?:CodeUri|ContentUri): (\w+)$", re.MULTILINE)


def main(built: Path, archive: Path) -> None:
    """Write ``archive`` from what SAM has built."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in sorted(contents(built)):
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            target.writestr(entry, content)


def contents(built: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each file of the archive, its name before its content."""
    template = (built / "template.yaml").read_text()
    # Two files that the template's metadata name lie beside it here.
    yield "template.yaml", UPWARDS.sub(r"\1", template).encode()
    for folder in sorted(set(CODE.findall(template))):
        for file in (built / folder).rglob("*"):
            if file.is_file():
                yield file.relative_to(built).as_posix(), file.read_bytes()
    for name in BESIDE:
        yield name, (ROOT / name).read_bytes()
    for file in (ROOT / "examples/policies").iterdir():
        yield f"policies/{file.name}", file.read_bytes()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
