"""The page of the story: its mathematics is Python's, it answers clicks and drags, and asks no network for anything."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser

from splatlearn.line import LineTask, hard
from splatlearn.line.optimizers import OptimizerName
from splatlearn.show import planar
from splatlearn.show.figures.covariance import covariance_matrix
from splatlearn.show.pictures import save_png
from splatlearn.show.story import SHOWN, write_story

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


@pytest.fixture(scope="module")
def task() -> LineTask:
    return LineTask(LineTask.Config(device="cpu"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, task: LineTask) -> Path:
    folder = tmp_path_factory.mktemp("story")
    save_png(folder / "small.png", np.full((4, 6, 3), 99, np.uint8))
    pictures = dict.fromkeys(SHOWN, (folder / "small.png").read_bytes())
    return write_story(folder / "story.html", (task.points.x, task.points.y), pictures)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def tab(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    browser.wait("window.story !== undefined")
    return browser


def test_the_page_holds_all_it_shows(page: Path, task: LineTask, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|https?://""", text), (
        "the page refers to another file"
    )
    assert "default-src 'none'" in text, "a browser would let the page load things"
    for told in SHOWN.values():
        assert text.count(f'alt="{told.replace(chr(39), "&#39;")}"') == 1, f"a figure is missing: {told}"
    bare = write_story(tmp_path / "bare.html", (task.points.x, task.points.y), {}).read_text(encoding="utf-8")
    assert "<img src" not in bare and 'id="chain"' not in bare, "a figure that is not there leaves a hole"
    assert 'id="writing"' not in bare, "a Transformer that was not trained is told of"


def test_what_a_transformer_writes_is_shown_as_text(tmp_path: Path, task: LineTask) -> None:
    points, writings = (task.points.x, task.points.y), [(0, "a<b>&c\n  d"), (800, "the class")]
    text = write_story(tmp_path / "story.html", points, {}, writings).read_text(encoding="utf-8")
    assert "a&lt;b&gt;&amp;c\n  d</pre>" in text and "the class</pre>" in text, (
        "what was written becomes part of the page"
    )
    assert text.index("<b>0</b> steps") < text.index("<b>800</b> steps"), "the order is not that of learning"


@needs_browser
def test_the_mathematics_is_pythons(tab: Browser, task: LineTask) -> None:
    for point in ([-1.0, 8.0], [2.5, -3.0]):
        place = torch.tensor(point, dtype=torch.float64)
        for name, gradient, loss in (("line", task.bowl.gradient, task.bowl.loss), ("hard", hard.gradient, hard.loss)):
            slope = tab.ask(f"story.{name}.gradient({point})")
            assert slope == pytest.approx(gradient(place).tolist(), rel=1e-9), f"{name}: another gradient than Python's"
            assert tab.ask(f"story.{name}.loss({point})") == pytest.approx(float(loss(place)), rel=1e-9)
    assert tab.ask("story.line.best") == pytest.approx(task.bowl.minimum.tolist(), rel=1e-9), (
        "another least-squares line"
    )
    assert tab.ask("story.line.limit") == pytest.approx(task.bowl.limit(), rel=1e-9), "another limit of the rate"
    assert tab.ask("story.covariance(1.3, 0.4, 0.7)") == pytest.approx(
        covariance_matrix(1.3, 0.4, float(np.degrees(0.7)))[[0, 0, 1], [0, 1, 1]], rel=1e-12
    ), "another covariance"


@needs_browser
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_walks_are_those_of_torch(tab: Browser, kind: OptimizerName) -> None:
    walk = hard.Walk(kind, kind, "constant", 0.05)
    begin = torch.tensor([[-2.9, 2.6]], dtype=torch.float64)
    got = torch.tensor(tab.ask(f"story.walk('hard', '{kind}', 0.05, [-2.9, 2.6], 120)"), dtype=torch.float64)
    assert torch.allclose(got, hard.paths(walk, begin, 120)[:, 0], atol=1e-9), "the page walks elsewhere than torch"


@needs_browser
def test_the_planar_derivatives_are_pythons(tab: Browser) -> None:
    target = planar.picture(9).double()
    rows = planar.fit(target.float(), count=7, steps=4, keep=3).rows[-1].double()
    sent = f"Float64Array.from({rows.flatten().tolist()}), Float64Array.from({target.flatten().tolist()}), 9, 12"
    found: Any = json.loads(tab.ask(f"(r => JSON.stringify([Array.from(r.slopes), r.loss]))(story.planar({sent}))"))
    slopes, loss = planar.gradient(rows, target)
    assert found[1] == pytest.approx(loss, rel=1e-9), "another loss than Python's"
    got = torch.tensor(found[0], dtype=torch.float64).reshape(7, 8)
    assert slopes.abs().max() > 1e-4, "zeros are compared"
    worst = float((got - slopes).abs().max() / slopes.abs().max())
    assert worst < 1e-6, f"the derivatives written in the page are off by {worst:.1g}"  # bumps are kept in float32


@needs_browser
def test_the_line_is_dragged(tab: Browser, task: LineTask) -> None:
    *_, width, height = tab.place("#line-points")

    def pixel(x: float, y: float) -> tuple[float, float]:
        return (x + 2.4) / 6.8 * width, (11 - y) / 17 * height

    tab.drag("#line-points", pixel(3.6, -1 * 3.6 + 8), pixel(3.6, 9.0))
    w, b = tab.ask("story.guess.at")
    assert w * 3.6 + b == pytest.approx(9.0, abs=0.1), "the line does not follow the handle"
    assert -1.6 * w + b == pytest.approx(9.6, abs=0.1), "the other handle does not hold the line"
    assert tab.ask("document.querySelector('#line-told').textContent").startswith(f"y = {w:.3f}".replace("-", "−"))
    told = float(tab.ask("document.querySelector('#line-loss').textContent"))
    assert told == pytest.approx(float(task.bowl.loss(torch.tensor([w, b]))), abs=2e-3), "the loss told is another"
    before = tab.ask("story.line.loss(story.guess.at)")
    tab.click("#line-step")
    assert tab.ask("story.line.loss(story.guess.at)") < before, "a step downhill goes up"
    tab.drag("#line-bowl", (20, 20), (width * 0.5, height * 0.5))
    assert tab.ask("story.guess.at") == pytest.approx([2.0, 1.0], abs=0.15), "the dot does not follow on the bowl"
    tab.click("#line-best")
    assert tab.ask("story.guess.at") == pytest.approx(task.bowl.minimum.tolist()), "least squares is elsewhere"
    assert not tab.complaints(), "the page complains"


@needs_browser
def test_walks_are_started(tab: Browser) -> None:
    told = "document.querySelector('#walk-hard-told').textContent"
    assert tab.ask(told) == "drag the start"
    tab.click("#walk-go")
    tab.wait(f"{told}.includes('trapped')")
    tab.ask("document.querySelector('#walk-kind').value = 'momentum'")
    tab.click("#walk-go")
    tab.wait(f"{told}.includes('the global minimum')")
    *_, width, _ = tab.place("#walk-hard")
    tab.drag("#walk-hard", (width / 2, width / 2), (width * 0.9, width * 0.1))
    assert tab.ask("story.walking.starts.hard") == pytest.approx([3.2, 3.2], abs=0.1), "the start is not dragged"
    assert tab.ask(told) == "drag the start", "an old walk is left on the landscape"
    tab.ask("document.querySelector('#walk-kind').value = 'sgd'")
    tab.ask("(r => { r.value = 0; r.dispatchEvent(new Event('input')); })(document.querySelector('#walk-rate'))")
    assert "this diverges" in tab.ask("document.querySelector('#walk-limit').textContent"), (
        "divergence is not predicted"
    )
    tab.click("#walk-go")
    tab.wait("document.querySelector('#walk-line-told').textContent === 'it diverged'")
    assert not tab.complaints(), "the page complains"


@needs_browser
def test_a_gaussian_is_dragged(tab: Browser) -> None:
    *_, width, height = tab.place("#shape")

    def pixel(x: float, y: float) -> tuple[float, float]:
        return (x + 2.6) / 5.2 * width, (1.9 - y) / 3.8 * height

    tab.drag("#shape", pixel(1.1 * np.cos(0.5), 1.1 * np.sin(0.5)), pixel(0.0, 1.5))
    assert tab.ask("[story.shape.s1, story.shape.s2]") == pytest.approx([1.5, 0.5], abs=0.03), (
        "the axis is not as dragged"
    )
    assert tab.ask("story.shape.angle") == pytest.approx(np.pi / 2, abs=0.03), "the angle is not as dragged"
    read = [
        float(tab.ask(f"document.querySelector('#shape-{i}').textContent.replace('−', '-')"))
        for i in ("xx", "xy", "yy")
    ]
    assert read == pytest.approx([0.25, 0.0, 2.25], abs=0.1), "the covariance told is not that of the axes"


@needs_browser
def test_the_page_learns_a_picture(tab: Browser) -> None:
    before = tab.ask("story.learner.now.loss")
    tab.click("#fit-go")
    tab.wait("story.learner.step >= 15", 60)
    tab.click("#fit-go")
    step = tab.ask("story.learner.step")
    assert tab.ask("story.learner.now.loss") < 0.5 * before, "nothing is learned"
    assert tab.ask("new Promise(done => setTimeout(() => done(story.learner.step), 300))") == step, (
        "pause does not pause"
    )
    tab.click("#fit-reset")
    assert tab.ask("story.learner.now.loss") == before, "starting over starts elsewhere"
    assert not tab.complaints(), "the page complains"


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_light_and_dark_wide_and_narrow(browser: Browser, page: Path, dark: bool, width: int) -> None:
    browser.open(page, width, 800, dark)
    browser.wait("window.story !== undefined")
    assert not browser.complaints(), "the page complains, or asks a network for something"
    assert browser.ask("document.documentElement.scrollWidth") <= width, "the page is wider than its window"
    paper = browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(paper) < 200) == dark, "the page does not follow the system's colours"
    blank = browser.ask(
        "[...document.querySelectorAll('canvas')].filter(c => { const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; return new Set(d).size < 20; }).map(c => c.id)"
    )
    assert blank == [], "a canvas shows nothing"
