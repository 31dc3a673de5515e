"""What is pinned: nothing but names, versions and hashes, and the list of what ships."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = sorted(ROOT.glob("layers/*/requirements.txt"))
LOCK = ROOT / "requirements/aws-sdk/package-lock.json"
FILES = sorted([*ROOT.glob("requirements/*.txt"), *LAYERS])
WORKFLOWS = sorted(ROOT.glob(".github/**/*.y*ml"))

PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)(\[[a-z,]+\])?==(?P<version>[A-Za-z0-9.+!]+)")
MARKER = r"( ; [a-z_A-Z0-9 '.<>=!()]+)?"
HASH = r"    --hash=sha256:[0-9a-f]{64}"
ACTION = re.compile(r" +[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
LINE = re.compile(rf"{PIN.pattern}{MARKER} \\|{HASH}( \\)?| *#.*")


def pins(file: Path) -> dict[str, str]:
    found = map(PIN.match, file.read_text().splitlines())
    return {pin["name"]: pin["version"] for pin in found if pin}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_pins_holds_nothing_else(file: Path) -> None:
    # No address, no option, no version without a hash: pip then refuses whatever is not listed.
    lines = file.read_text().splitlines()

    assert pins(file)
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert not any("://" in line for line in lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_pins_belongs_to_one_of_reasons(file: Path) -> None:
    wanted = file.with_suffix(".in").read_text().splitlines()
    names = [
        re.split(r"[\[ #<]", line)[0].lower() for line in wanted if re.match(r"[A-Za-z]", line)
    ]

    assert names
    assert set(names) <= pins(file).keys()


def test_the_lock_of_npm_holds_versions_and_hashes_and_no_address() -> None:
    wanted = json.loads(LOCK.with_name("package.json").read_text())["dependencies"]
    packages = json.loads(LOCK.read_text())["packages"]
    assert packages.pop("")["dependencies"] == wanted

    assert {f"node_modules/{name}" for name in wanted} <= packages.keys()
    for package in packages.values():
        assert re.fullmatch(r"[0-9][0-9A-Za-z.+-]*", package["version"])
        assert re.fullmatch(r"sha512-[0-9A-Za-z+/]{86}==", package["integrity"])
    assert "://" not in LOCK.read_text()


def test_an_action_is_pinned_by_its_commit() -> None:
    # Whoever can move a tag can change what it runs. The version is for people, and for Dependabot.
    text = "\n".join(file.read_text() for file in WORKFLOWS)
    actions = re.findall(r"""\buses["']?\s*:(.*)""", text)

    assert actions
    assert [each for each in actions if not ACTION.fullmatch(each)] == []


def shipped_pins() -> dict[str, str]:
    return {name: version for layer in LAYERS for name, version in pins(layer).items()}


def test_what_is_tested_is_what_ships() -> None:
    assert LAYERS
    assert shipped_pins().items() <= pins(ROOT / "requirements/dev.txt").items()


def test_every_file_of_pins_is_audited_and_kept_up_to_date() -> None:
    printed = make("--dry-run", "audit", "requirements")

    for file in FILES:
        name = str(file.relative_to(ROOT).with_suffix(""))
        assert len(re.findall(rf"{name}\b", printed)) >= 2, name
    npm = r"npm-cli\.js --prefix requirements/aws-sdk (audit|update) --package-lock-only"
    assert len(re.findall(npm, printed)) == 2


def make(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - the project's own targets
        ["make", *arguments],  # noqa: S607 - the user's make
        cwd=ROOT,
        # Without what was given to a make that this may be running under, its ARGS included.
        env={
            name: value
            for name, value in os.environ.items()
            if name != "ARGS" and not name.startswith("MAKE")
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.nightly
def test_the_bill_of_materials_lists_what_ships_the_same_each_time(tmp_path: Path) -> None:
    # The tool validates it against CycloneDX's schema before it writes it; slowly, so once.
    files = [tmp_path / "one/sbom.cdx.json", tmp_path / "two/sbom.cdx.json"]
    make("--silent", "sbom", f"SBOM={files[0]}")
    make("--silent", "sbom", f"SBOM={files[1]}", "ARGS=--no-validate")
    one, two = (file.read_text() for file in files)

    assert one == two
    document = json.loads(one)
    assert document["bomFormat"] == "CycloneDX"
    assert {each["name"]: each["version"] for each in document["components"]} == shipped_pins()
    for each in document["components"]:
        assert each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}"
        hashes = each["externalReferences"][0]["hashes"]
        assert {each["alg"] for each in hashes} == {"SHA-256"}
