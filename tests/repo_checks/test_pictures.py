"""The README's pictures: made by the project, readable for everybody, and without a token."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "docs/pictures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
SHOWN = {
    f"docs/pictures/{name}-{scheme}.svg"
    for name in ("system", "run")
    for scheme in ("light", "dark")
}


def test_the_readme_shows_each_picture_in_light_and_dark() -> None:
    readme = (ROOT / "README.md").read_text()

    assert {str(path.relative_to(ROOT)) for path in PICTURES} == SHOWN
    assert set(re.findall(r'src(?:set)?="([^"]+)"', readme)) == SHOWN
    for image in re.findall(r"<img ([^>]*)>", readme):
        assert re.search(r'alt="[^"]{40,}"', image)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_has_a_title_and_a_description(picture: Path) -> None:
    root = ET.fromstring(picture.read_text())  # noqa: S314 - our own file

    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    for name in ("title", "desc"):
        element = root.find(f"{SVG}{name}")
        assert element is not None
        assert element.text
        assert element.get("id") in (root.get("aria-labelledby") or "").split()


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_loads_nothing_and_is_small(picture: Path) -> None:
    text = picture.read_text()

    assert len(text) < 150_000
    assert re.findall(r"<(?:script|image|use|foreignObject)\b", text) == []
    assert re.findall(r"(?:href|src|@import|@font-face)", text) == []
    assert {url for url in re.findall(r"url\(([^)]*)\)", text) if not url.startswith("#")} == set()


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_holds_no_token(picture: Path) -> None:
    """A JWT's first part always begins with eyJ; rich may break a line anywhere."""
    assert "eyJ" not in picture.read_text()


def test_the_recording_was_of_a_run_that_went_well() -> None:
    for scheme in ("light", "dark"):
        root = ET.parse(ROOT / f"docs/pictures/run-{scheme}.svg")  # noqa: S314 - ours
        words = " ".join("".join(root.getroot().itertext()).replace("\xa0", " ").split())

        assert "FAILED" not in words
        assert "✗" not in words
        for said in ("sam deploy", "[CRITICAL] Qwen token: session_rejected", "[RECOVERED]"):
            assert said in words


def test_the_system_is_drawn_as_the_program_draws_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "make/draw_system.py", tmp_path], check=True)  # noqa: S603 - ours

    for scheme in ("light", "dark"):
        name = f"system-{scheme}.svg"
        assert (tmp_path / name).read_text() == (ROOT / "docs/pictures" / name).read_text()
