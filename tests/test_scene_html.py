"""The scene in one HTML file: drawn as the rasterizer draws it, moved by hands, complete in itself."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from format_scenes import cameras, lopsided, worst_psnr

from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import Gaussians
from splatlearn.show import pages
from splatlearn.show.scene_page import scene_frame, scene_html, write_scene

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
SIZE = (640, 480)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("viewer") / "scene.html", lopsided(2), cameras(), title="lopsided")


def opened(browser: Browser, path: Path, width: int = SIZE[0], height: int = SIZE[1], dark: bool = False) -> Browser:
    browser.open(path, width, height, dark)
    browser.wait("window.viewer && (viewer.ready || viewer.failed)")
    assert browser.ask("viewer.failed") == "" and not browser.complaints(), "the page complains"
    return browser


@pytest.fixture
def tab(browser: Browser, written: Path) -> Browser:
    return opened(browser, written)


def drawn(browser: Browser, views: list[Camera]) -> torch.Tensor:
    """What the page draws from its views, [C,H,W,3] in 0..1."""
    found = []
    for index, camera in enumerate(views):
        raw = base64.b64decode(browser.ask(f"viewer.picture({index})"))
        found.append(np.frombuffer(raw, np.uint8).reshape(camera.height, camera.width, 3) / np.float32(255))
    return torch.from_numpy(np.stack(found))


# ---- the file ----


def test_the_page_holds_all_it_shows(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["']|url\(|@import|https?://|import\s*\(""", text), (
        "it refers to another file"
    )
    assert "default-src 'none'" in text, "a browser would let the page load things"
    assert "250 Gaussians" in text and "<b>lopsided</b>" in text


def test_names_cannot_break_the_page(browser: Browser, tmp_path: Path) -> None:
    [camera] = cameras(1)
    bad = "</script><script>window.broken = 1</script>"
    views = [Camera(bad, camera.width, camera.height, camera.K, camera.world_to_camera)] * 2
    path = write_scene(tmp_path / "a.html", lopsided(0), views, title=bad)
    if CHROMIUM:
        opened(browser, path)
        assert browser.ask("window.broken === undefined"), "a name runs as a script"
        assert browser.ask("document.querySelector('.told b').textContent") == bad, "the title is not what was given"


def test_only_what_is_seen_is_kept() -> None:
    scene = lopsided(1, 50)
    scene["opacities"] = torch.linspace(-9, 5, 50)
    seen = int((scene["opacities"].sigmoid() >= 1 / 255).sum())
    assert f"{seen} Gaussians" in scene_html(scene), "what is invisible takes room, or what is visible is lost"
    assert "7 Gaussians" in scene_html(scene, limit=7), "the limit is not kept"
    scene["opacities"][:] = -9
    with pytest.raises(SplatlearnError, match="opaque enough"):
        scene_html(scene)
    scene["means"][3] = torch.nan
    with pytest.raises(SplatlearnError, match="not finite"):
        scene_html(scene)


# ---- the picture ----


@needs_browser
@pytest.mark.parametrize("degree", range(5))
def test_it_draws_as_the_rasterizer_does(browser: Browser, tmp_path: Path, degree: int) -> None:
    scene, views, background, sharp = lopsided(degree), cameras(3), [0.1, 0.3, 0.5], degree % 2 == 1
    model = Gaussians(scene)
    with torch.no_grad():
        truth = [
            model(
                c,
                background=torch.tensor(background),
                sh_degree=min(degree, 3),
                rasterize_mode="antialiased" if sharp else "classic",
            ).image
            for c in views
        ]
    path = write_scene(tmp_path / "a.html", scene, views, background=background, antialiased=sharp)
    seen = worst_psnr(torch.stack(truth).clamp(0, 1), drawn(opened(browser, path), views))
    assert seen > 44, f"degree {degree}: the page is {seen:.1f} dB from the rasterizer"


@needs_browser
def test_what_is_brighter_than_white_may_be_covered(browser: Browser, tmp_path: Path) -> None:
    """A window in a photograph is learned as colours beyond 1 behind others: bytes would cut them off too early."""
    scene, views = lopsided(0), cameras(3)
    scene["sh0"][::3] = 9.0
    model = Gaussians(scene)
    with torch.no_grad():
        truth = torch.stack([model(c).image.clamp(0, 1) for c in views])
    seen = worst_psnr(truth, drawn(opened(browser, write_scene(tmp_path / "a.html", scene, views)), views))
    assert seen > 40, f"{seen:.1f} dB"


@needs_browser
def test_needles_and_specks_are_drawn(browser: Browser, tmp_path: Path) -> None:
    """Axis-aligned and degenerate ellipses, for which the directions of the axes are easily wrong or not a number."""
    scene = lopsided(0, 60)
    scene["quats"] = torch.tensor([1.0, 0, 0, 0]).repeat(60, 1)
    scene["scales"] = torch.log(torch.tensor([[0.5, 1e-5, 1e-5], [1e-5, 0.5, 1e-5], [0.2, 0.2, 0.2]]).repeat(20, 1))
    views = cameras(2)
    straight = np.eye(4)
    straight[2, 3] = 3.5
    views.append(Camera("straight", 120, 90, views[0].K, straight))
    model = Gaussians(scene)
    with torch.no_grad():
        truth = torch.stack([model(c).image.clamp(0, 1) for c in views])
    seen = worst_psnr(truth, drawn(opened(browser, write_scene(tmp_path / "a.html", scene, views)), views))
    assert seen > 40, f"{seen:.1f} dB"


@needs_browser
def test_order_is_by_depth_and_ties_keep_theirs(tab: Browser) -> None:
    places = np.random.default_rng(0).integers(-3, 60, (500, 3)).astype(np.float32)  # many equal depths
    row = [0.0, 0.6, 0.8, 0.5]
    found = tab.ask(f"Array.from(sorter(Float32Array.from({places.ravel().tolist()}), 0.01)({row}))")
    depths = (places.astype(np.float64) @ row[:3] + row[3]).astype(np.float32)
    front = np.argsort(depths, kind="stable")  # the rasterizer's order, nearest first
    assert found == front[depths[front] > 0.01][::-1].tolist(), "the order is not that of the rasterizer"


@needs_browser
def test_without_cameras_everything_is_seen(browser: Browser, tmp_path: Path) -> None:
    scene = lopsided(1)
    tab = opened(browser, write_scene(tmp_path / "a.html", scene))
    assert tab.ask("document.querySelector('#next').hidden"), "there is no other view to go to"
    picture = np.frombuffer(base64.b64decode(tab.ask("viewer.picture(0)")), np.uint8).reshape(720, 960, 3)
    rows, columns = np.nonzero(picture.max(axis=2) > 20)
    assert np.ptp(rows) > 200 and np.ptp(columns) > 200, "the scene is too small, or not there"
    assert 200 < columns.mean() < 760 and 150 < rows.mean() < 570, "the scene is not in the middle"


# ---- hands ----


def state(tab: Browser) -> dict[str, Any]:
    return dict(json.loads(tab.ask("JSON.stringify({...viewer.pose, target: viewer.target, view: viewer.view})")))


def distance(now: dict[str, Any]) -> float:
    return float(np.linalg.norm(np.subtract(now["eye"], now["target"])))


@needs_browser
def test_a_drag_turns_about_the_target(tab: Browser) -> None:
    before, pictures = state(tab), tab.ask("viewer.pictures")
    tab.drag("#scene", (300, 240), (400, 240))
    after = state(tab)
    assert after["target"] == before["target"] and distance(after) == pytest.approx(distance(before)), "it wanders off"
    moved = np.dot(np.subtract(after["eye"], before["eye"]), before["turn"][0])
    assert moved < -0.3 * distance(before), "the scene does not follow the hand"
    ahead = np.subtract(after["target"], after["eye"]) / distance(after)
    assert np.allclose(after["turn"][2], ahead, atol=1e-3), "the target is no longer looked at"
    assert np.allclose(np.array(after["turn"]) @ np.array(after["turn"]).T, np.eye(3), atol=1e-9), "the pose is bent"
    tab.wait(f"viewer.pictures > {pictures}")
    assert tab.ask("!!viewer.splats.worker"), "the page sorts by itself, which makes it stutter"
    up = np.array(tab.ask("scene.up"))
    for _ in range(4):
        tab.drag("#scene", (300, 60), (300, 460))
    assert 0.99 < np.dot(np.negative(state(tab)["turn"][2]), up) < 1, "it tumbles over the top, or does not get there"


@needs_browser
def test_wheel_shift_keys_and_buttons(tab: Browser) -> None:
    before = state(tab)
    tab.call("Input.dispatchMouseEvent", type="mouseWheel", x=320, y=240, deltaX=0, deltaY=-200)
    tab.wait("viewer.pictures > 1")
    closer = state(tab)
    assert distance(closer) == pytest.approx(distance(before) * np.exp(-0.3), rel=1e-3), "the wheel does not zoom in"
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="Shift", modifiers=8)
    x, y, *_ = tab.place("#scene")
    for kind, at in (("mousePressed", 300), ("mouseMoved", 340), ("mouseReleased", 340)):
        held = 0 if kind == "mouseReleased" else 1
        tab.call("Input.dispatchMouseEvent", type=kind, x=x + at, y=y + 200, button="left", buttons=held, modifiers=8)
    aside = state(tab)
    assert np.allclose(aside["turn"], closer["turn"]), "moving turns"
    slid = np.dot(np.subtract(aside["target"], closer["target"]), closer["turn"][0])
    assert slid < 0 and abs(slid) == pytest.approx(40 * distance(closer) / tab.ask("lens(640, 480).focal[0]"), rel=1e-3)
    tab.ask("document.activeElement.blur()")
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    assert not np.allclose(state(tab)["eye"], aside["eye"]), "arrow keys do nothing"
    tab.click("#next")
    tab.wait("document.querySelector('#which').textContent === '2 / 5'")
    frame = tab.ask("scene.frame")
    eye = (cameras()[1].center - frame["offset"]) / frame["scale"]
    tab.wait(f"Math.hypot(...viewer.pose.eye.map((v, i) => v - {eye.tolist()}[i])) < 1e-6")
    assert np.allclose(state(tab)["turn"], cameras()[1].world_to_camera[:3, :3], atol=1e-6), (
        "it arrives at another pose"
    )
    tab.click("#turn")
    tab.wait(f"Math.hypot(...viewer.pose.eye.map((v, i) => v - {eye.tolist()}[i])) > 0.02")
    tab.click("#turn")
    tab.click("#reset")
    tab.wait(f"Math.hypot(...viewer.pose.eye.map((v, i) => v - {eye.tolist()}[i])) < 1e-6")
    assert not tab.complaints(), "the page complains"


@needs_browser
def test_a_double_click_looks_there(tab: Browser) -> None:
    before = state(tab)
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            event = {"x": 360, "y": 200, "button": "left", "clickCount": clicks}
            tab.call("Input.dispatchMouseEvent", type=kind, **event)
    tab.wait(f"Math.hypot(...viewer.target.map((v, i) => v - {before['target']}[i])) > 0.01")
    tab.wait("!flight")
    after = state(tab)
    focal, centre = np.array(tab.ask("lens(640, 480).focal")), np.array(tab.ask("lens(640, 480).centre"))
    x, y, z = np.array(before["turn"]) @ np.subtract(after["target"], before["eye"])
    assert np.allclose(focal * [x / z, y / z] + centre, [360, 200], atol=1), "another place is looked at"
    assert distance(after) < distance(before) * 1.5, "it flies away"


@needs_browser
def test_two_fingers_zoom(browser: Browser, written: Path) -> None:
    tab = opened(browser, written, 390, 780)
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    before = state(tab)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y, "id": i} for i, (x, y) in
                                                                     enumerate(points)])  # fmt: skip

    touch("touchStart", (150, 400))
    touch("touchStart", (150, 400), (250, 400))
    touch("touchMove", (100, 400), (300, 400))
    touch("touchEnd")
    tab.wait("fingers.size === 0")
    after = state(tab)
    assert distance(after) == pytest.approx(distance(before) / 2, rel=0.05), "spreading two fingers does not double"
    touch("touchStart", (200, 400))
    touch("touchMove", (240, 430))
    touch("touchEnd")
    tab.wait("fingers.size === 0")
    turned = state(tab)
    assert distance(turned) == pytest.approx(distance(after)) and not np.allclose(turned["eye"], after["eye"])
    tab.call("Emulation.setTouchEmulationEnabled", enabled=False)


# ---- where it is shown ----


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_light_and_dark_wide_and_narrow(
    browser: Browser, written: Path, dark: bool, width: int, tmp_path: Path
) -> None:
    tab = opened(browser, written, width, 700, dark)
    assert tab.ask("document.documentElement.scrollWidth") <= width, "the page is wider than its window"
    boxes = tab.ask("[...document.querySelectorAll('.bar button:not([hidden])')].map(b => {"
                    " const r = b.getBoundingClientRect();"
                    " return [r.left, r.right, r.width, r.height]; })")  # fmt: skip
    assert len(boxes) >= 4 and all(left >= 0 and right <= width for left, right, *_ in boxes), "a button is cut off"
    assert min(min(box[2:]) for box in boxes) >= 30, "a button is too small for a finger"
    ink = tab.ask("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)")
    assert (sum(ink) > 400) == dark, "the bar does not follow the system's colours"
    tab.photograph(tmp_path / "a.png", whole=False)
    import imageio.v3 as iio

    assert iio.imread(tmp_path / "a.png")[100:500].std() > 10, "nothing is seen"


@needs_browser
def test_within_another_page(browser: Browser, tmp_path: Path) -> None:
    """In a sandboxed frame under the report's policy, which may know no workers: it must draw all the same."""
    frame = scene_frame(scene_html(lopsided(1), cameras()), height="400px")
    host = '{% extends "page.html" %}{% block main %}{{ frame | safe }}{% endblock %}'
    document = pages._environment().from_string(host).render(title="host", frame=frame)
    (tmp_path / "host.html").write_text(document, encoding="utf-8")
    browser.open(tmp_path / "host.html", 900, 700)
    browser.wait("document.querySelector('iframe') !== null")
    browser.ask("document.querySelector('iframe').scrollIntoView()")

    def spread() -> float:
        import imageio.v3 as iio

        browser.photograph(tmp_path / "host.png", whole=False)
        x, y, width, height = (int(v) for v in browser.place("iframe"))
        return float(iio.imread(tmp_path / "host.png")[y + 60 : y + height - 80, x + 20 : x + width - 20, :3].std())

    for _ in range(100):
        if spread() > 15:
            break
        browser.ask("new Promise(done => setTimeout(done, 100))")
    assert spread() > 15, "the frame shows nothing"
    x, y, width, height = browser.place("iframe")
    browser.ask("document.body.style.paddingBottom = '2000px'")
    before = browser.ask("scrollY")
    at = {"x": x + width / 2, "y": y + height / 2}
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=300, **at)
    browser.wait(f"scrollY > {before}")  # else one who reads on is caught in the scene


LACKS = {
    "WebGL2": ("HTMLCanvasElement.prototype.getContext = () => null", "no WebGL2"),
    "DecompressionStream": ("delete window.DecompressionStream", "too old"),
    "room": (
        "const real = WebGL2RenderingContext.prototype.getParameter; WebGL2RenderingContext.prototype.getParameter ="
        " function(name) { return name === this.MAX_TEXTURE_SIZE ? 0 : real.call(this, name); }",
        "--limit",
    ),
}


@needs_browser
@pytest.mark.parametrize("lack", LACKS)
def test_what_a_browser_lacks_is_said(browser: Browser, written: Path, lack: str) -> None:
    script, word = LACKS[lack]
    added = browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        browser.open(written, *SIZE)
        browser.wait("window.viewer && viewer.failed !== ''")
        assert word in browser.ask("document.querySelector('#wait').innerText"), "the reason is not told"
        assert not browser.complaints(), "an error goes to the console only"
        browser.drag("#scene", (100, 100), (200, 200))
        browser.click("#next")
        assert not browser.complaints(), "hands on a page without a scene make errors"
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


@needs_browser
def test_without_workers_it_sorts_itself(browser: Browser, written: Path) -> None:
    source = "window.Worker = class { constructor() { throw new Error('forbidden'); } }"
    added = browser.call("Page.addScriptToEvaluateOnNewDocument", source=source)
    try:
        tab = opened(browser, written)
        before = tab.ask("viewer.splats.last")
        tab.drag("#scene", (300, 240), (400, 240))
        assert tab.ask("viewer.splats.last") != before and tab.ask("viewer.splats.count") > 100, "nothing is sorted"
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


@needs_browser
def test_a_lost_context_comes_back(tab: Browser) -> None:
    """Graphics drivers restart, and phones take the card away from pages in the background."""
    before = tab.ask("viewer.picture(0)")
    tab.ask("window.taken = viewer.splats.gl.getExtension('WEBGL_lose_context'); taken.loseContext()")
    tab.wait("viewer.splats.gl.isContextLost()")
    tab.drag("#scene", (300, 240), (320, 240))
    tab.ask("window.old = viewer.splats; taken.restoreContext()")
    tab.wait("viewer.splats !== old && !viewer.splats.gl.isContextLost()")
    assert tab.ask("viewer.picture(0)") == before, "the scene does not come back as it was"
    assert not [text for text in tab.complaints() if "CONTEXT_LOST" not in text], "the page complains"


@needs_browser
def test_a_damaged_page_says_so(browser: Browser, written: Path, tmp_path: Path) -> None:
    text = written.read_text(encoding="utf-8")
    begin = text.index('id="packed">') + 12
    (tmp_path / "cut.html").write_text(text[: begin + 200] + text[text.index("</script>", begin) :], encoding="utf-8")
    browser.open(tmp_path / "cut.html", *SIZE)
    browser.wait("window.viewer && viewer.failed !== ''")
    assert "cannot be shown" in browser.ask("document.querySelector('#wait').innerText"), "half a scene stays unnoticed"
