"""The CSS and JavaScript of the pages: well-formed, and without constants that are defined elsewhere."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import splatlearn
from splatlearn.ops import native
from splatlearn.show.pages import render
from splatlearn.show.scene_page import blend_constants

PACKAGE = Path(splatlearn.__file__).parent
SCRIPTS = sorted((PACKAGE / "show").rglob("*.js"))
SHEETS = sorted((PACKAGE / "show").rglob("*.css"))
TEMPLATES = sorted((PACKAGE / "show").rglob("*.html"))


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_the_assets_are_found() -> None:
    assert len(SCRIPTS) >= 4 and len(SHEETS) >= 4 and len(TEMPLATES) >= 6, "the package lacks assets"


@pytest.mark.skipif(not shutil.which("node"), reason="node is not here")
@pytest.mark.parametrize("path", SCRIPTS, ids=short)
def test_scripts_parse(path: Path) -> None:
    done = subprocess.run(["node", "--check", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=short)
def test_scripts_keep_to_the_rules(path: Path) -> None:
    inside_template = False  # a shader, or HTML
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        code = "" if inside_template else re.sub(r"//.*", "", line)
        inside_template ^= line.count("`") % 2 == 1
        assert not re.search(r"\bvar\b|\beval\(|\bdocument\.write\b|\bdebugger\b", code), f"{path}:{number}: {line}"
        assert not re.search(r"(?<![=!])[=!]=(?!=)(?!\s*null\b)", code), f"{path}:{number}: == compares loosely: {line}"
        assert line == line.rstrip() and "\t" not in line, f"{path}:{number} has a tab or blanks at its end"


@pytest.mark.parametrize("path", SHEETS, ids=short)
def test_style_sheets_are_well_formed(path: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.S)
    assert text.count("{") == text.count("}"), "a brace is missing"
    inner = re.sub(r"@media[^{]*\{((?:[^{}]*\{[^{}]*\})*)[^{}]*\}", r"\1", text)
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", inner)
    assert rules, "no rule was found"
    for selector, body in rules:
        for declaration in filter(None, map(str.strip, body.split(";"))):
            assert re.fullmatch(r"[-\w]+\s*:\s*\S.*", declaration, re.S), f"{selector.strip()}: {declaration!r}"
    assert "url(" not in re.sub(r"url\(\s*['\"]?data:", "", text), "a style sheet loads something"


def test_the_scene_page_reads_the_rasterizers_constants() -> None:
    """They are defined in csrc/abi.h and in the signature of `rasterization`, and written into the page."""
    source = (PACKAGE / "show/assets/splats.js").read_text(encoding="utf-8")
    code = re.sub(r"//.*", "", source)
    for literal in (r"1(\.0)?\s*/\s*255", r"0?\.999\b", r"(?<![\d.])0?\.3\b(?!\d)", r"0\.2820"):
        assert not re.search(literal, code), f"splats.js holds the constant {literal} itself"
    constants = blend_constants()
    assert constants["alpha_threshold"] == native.ALPHA_THRESHOLD and constants["alpha_max"] == native.ALPHA_MAX
    for name in constants:
        assert f"blend.{name}" in code, f"splats.js does not read {name}"


def test_what_a_page_shows_is_escaped() -> None:
    hostile = "</script><img src=x onerror=alert(1)>\"'"
    page = render("frame.html", document=hostile, height=hostile, title=hostile)
    assert "<img" not in page and page.count('"') == 2 * page.count('="'), "a value breaks out of its attribute"
