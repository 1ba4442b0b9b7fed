"""`splatlearn compare`: figures, curves and views of two runs, only where they can be compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from test_report import Page, noise, scene_run, with_views

from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.show import pages
from splatlearn.show.pictures import save_png
from splatlearn.show.report.charts import overlay
from splatlearn.show.report.compare import summary, write_comparison


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of one scene; the second is better by 1.5 dB, and has another cap."""
    found = []
    for name, gain in (("first", 0.0), ("second", 1.5)):
        run = with_views(scene_run(tmp_path / name), 4, (80, 100))
        (run / "config.yaml").write_text(
            f"task: scene\nsteps: 7000\ndata:\n  path: scenes/fox\ndensify:\n  cap: {1000 + int(gain)}\n"
        )
        metrics = json.loads((run / "eval" / "metrics.json").read_text())
        views = [{**view, "psnr": view["psnr"] + gain * i} for i, view in enumerate(metrics["views"])]
        (run / "eval" / "metrics.json").write_text(json.dumps({**metrics, "psnr": 21.5 + gain, "views": views}))
        found.append(run)
    return found[0], found[1]


def html_of(chart: Any) -> str:
    return str(pages._environment().get_template("chart.html").module.overlay(chart))  # type: ignore[attr-defined]


def views(page: Page) -> list[str]:
    return [str(attrs["data-view"]) for _, attrs in page.tags if "data-view" in attrs]


def test_figures_views_and_settings_stand_side_by_side(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = Page(write_comparison(*runs, tmp_path / "page.html"))
    for word in ("A: first/fox run", "B: second/fox run", "+1.5", "densify.cap", "1001", "B +4.50 dB"):
        assert word in page.text, f"{word} is missing"
    assert "data.path" not in page.text, "a setting that is the same is shown"
    assert views(page) == ["view_03", "view_02", "view_01", "view_00"], "what differs most does not come first"
    assert sum(attrs.get("class") == "chart" for _, attrs in page.tags) == 3, "a curve is missing"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text, "the page asks the network"
    assert 'class="verdict">B<' in text and 'class="verdict">A<' not in text, "the wrong one is said to be better"


def test_what_cannot_be_compared_is_told(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    metrics = json.loads((second / "eval" / "metrics.json").read_text())
    (second / "eval" / "metrics.json").write_text(json.dumps({**metrics, "resolution": [270, 480]}))
    for name in ("photos", "renders"):
        for path in (second / "eval" / name).iterdir():
            save_png(path, noise(30, 30))
    page = Page(write_comparison(first, second, tmp_path / "page.html"))
    assert "resolution differs, 540 x 960 and 270 x 480" in page.text, "figures of two sizes are compared in silence"
    assert "pictures of different sizes" in page.text and views(page) == []
    assert "verdict" not in str(page.tags), "one is said to be better, although they are not comparable"
    (second / "config.yaml").write_text("task: scene\ndata:\n  path: scenes/fern\n")
    page = Page(write_comparison(first, second, tmp_path / "page.html"))
    assert "different data, scenes/fox and scenes/fern" in page.text and views(page) == []
    (second / "config.yaml").write_text("task: line\n")
    assert "different things: A a scene, B a line" in Page(write_comparison(first, second, tmp_path / "page.html")).text
    assert "same folder" in summary(first, first)


def test_damaged_runs_are_compared_as_far_as_they_go(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    (second / "eval" / "metrics.json").write_text("[" * 100_000)
    page = Page(write_comparison(first, second, tmp_path / "page.html"))
    assert "not been evaluated yet" in page.text and "How they learned" in page.text, "one damaged file costs the page"
    (second / "metrics.jsonl").unlink()
    with pytest.raises(SplatlearnError, match="nothing to compare"):
        write_comparison(first, second, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_what_files_say_is_escaped(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    evil = "<script>alert(1)</script>"
    (second / "config.yaml").write_text(f"task: scene\ndata:\n  path: '{evil}'\n'{evil}': '{evil}'\n")
    page = Page(write_comparison(first, second, tmp_path / "page.html"))
    assert [tag for tag, _ in page.tags].count("script") == 1, "a file of a run put a script into the page"
    assert page.text.count("alert(1)") >= 3, "what the files say is not shown as text"


def test_curves_share_their_axes() -> None:
    chart = html_of(overlay("x", "", [([0.0, 10.0], [0.0, 1.0]), ([0.0, 20.0], [0.0, 4.0])]))
    lines = [part.split('points="')[1].split('"')[0] for part in chart.split("<polyline")[1:]]
    ends = np.array([[float(v) for v in line.split()[-1].split(",")] for line in lines])
    assert ends.tolist() == [[500.0, 750.0], [1000.0, 0.0]], "each curve has an axis of its own"
    assert "dashed" in chart.split("<polyline")[2], "the curves differ in colour alone"
    assert overlay("x", "", [([1.0], [2.0]), ([0.0, 1.0], [1.0, 2.0])]) is None, "a dot is drawn as a curve"


def test_the_command(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    assert "psnr" in out and "+1.5" in out and (tmp_path / "page.html").stat().st_size > 10_000
    for words, told in (
        ([str(runs[0]), str(tmp_path / "none")], "not a run folder"),
        ([*map(str, runs), "--out", "page.pdf"], ".html"),
        ([str(runs[0])], "RUN_B"),
    ):
        assert main(["compare", *words]) == 1
        message = capsys.readouterr().err.strip()
        assert told in message and "\n" not in message, message


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_the_page_in_a_browser(runs: tuple[Path, Path], tmp_path: Path, width: int, dark: bool) -> None:
    with Browser() as browser:
        browser.open(write_comparison(*runs, tmp_path / "page.html"), width=width, dark=dark)
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"
        *_, across, _ = browser.place(".swipe input")
        browser.drag(".swipe input", (across / 2, 30), (across * 0.2, 30))
        value = browser.ask("+document.querySelector('.swipe input').value")
        assert 10 < value < 32, f"the slider does not follow the drag: {value}"
        lines = "[...document.querySelectorAll('polyline.line')].slice(0, 2)"
        strokes = browser.ask(f"JSON.stringify({lines}.map(line => getComputedStyle(line).stroke))")
        assert len(set(json.loads(strokes))) == 2, "both curves have one colour"
        assert browser.complaints() == [], "an error, or a request"
