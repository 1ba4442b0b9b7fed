"""The report of a run: it shows what there is, survives what is damaged, runs no stranger's HTML, answers clicks."""

import json
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import tiny_scene
from browser import CHROMIUM, Browser
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.scene.space import space_record
from splatlearn.show.pictures import save_png, side_by_side
from splatlearn.show.report import run as report
from splatlearn.show.report import views as view_section
from splatlearn.show.report import write_report
from splatlearn.show.report.format import duration
from splatlearn.show.report.run_folder import read_run
from splatlearn.show.report.space import read_cameras
from splatlearn.show.video import write_video

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def moving(count: int) -> list[np.ndarray]:
    return [noise(48, 64, seed) for seed in range(count)]


class Page(HTMLParser):
    """Collects tags, sources and text, and notices tags that do not close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"tags stay open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "polyline", "polygon", "input", "rect", "circle", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"{tag} closes what is not open"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str, key: str) -> list[str]:
        return [attrs[key] or "" for name, attrs in self.tags if name == tag and key in attrs]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def key(browser: Browser, name: str) -> None:
    for kind in ("keyDown", "keyUp"):
        code = {"ArrowLeft": 37, "ArrowRight": 39}[name]
        browser.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)


def scene_run(folder: Path) -> Path:
    run = folder / "fox run"
    (run / "eval").mkdir(parents=True)
    (run / "config.yaml").write_text("task: scene\nsteps: 7000\ndata:\n  path: scenes/fox\n")
    lines = [{"step": s, "loss": 1 / s, "psnr": 20.0 + s / 100, "num_gaussians": 900 + s} for s in range(1, 101)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 101, "lo')
    views = [
        {"name": "sub/a.jpg", "psnr": 25.125, "ssim": 0.8},
        {"name": "sub/b.jpg", "psnr": None, "ssim": 0.9},
    ]
    metrics = {
        "psnr": 26.826, "ssim": 0.8412, "lpips": None, "split": "test", "resolution": [540, 960],
        "num_gaussians": 48213, "steps": 7000, "train_seconds": 1093.2, "views": views,
    }  # fmt: skip
    (run / "eval" / "metrics.json").write_text(json.dumps(metrics))
    for name in ("sub_a", "sub_b"):
        save_png(run / "eval" / f"{name}.png", side_by_side(noise(), noise(seed=1)))
    (run / "eval" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return run


def with_views(run: Path, count: int = 2, size: tuple[int, int] = (40, 60)) -> Path:
    """Adds pairs of photographs and renders, the cameras, and versions, as `splatlearn eval` writes them."""
    views = []
    for i in range(count):
        name = f"view_{i:02}"
        save_png(run / "eval" / "photos" / f"{name}.png", noise(*size, i))
        save_png(run / "eval" / "renders" / f"{name}.png", noise(*size, i + 1))
        views.append({"name": f"{name}.jpg", "picture": f"{name}.png", "psnr": 20.0 + i, "ssim": 0.5})
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    (run / "eval" / "metrics.json").write_text(json.dumps({**metrics, "psnr": 20.0 + (count - 1) / 2, "views": views}))
    cameras = tiny_scene.cameras(5)
    points = np.random.default_rng(0).normal(size=(30, 3))
    record = space_record(cameras[1:], cameras[:1], points, np.full((30, 3), 90, np.uint8))
    (run / "eval" / "space.json").write_text(json.dumps(record))
    (run / "versions.json").write_text('{"splatlearn": "9.8.7", "graphics card": null}')
    return run


def test_report_of_a_scene(tmp_path: Path) -> None:
    run = scene_run(tmp_path)
    write_video(run / "orbit.gif", moving(3))
    path = write_report(run)
    assert path == run / "report.html", "the report is not where the design says"
    page = Page(path)
    words = ("26.83", "0.8412", "48,213", "18:13", "540 × 960", "25.12 dB", "sub_a", "task: scene", "Held-out")
    for word in (*words, "with detail lost", "In 7,000 steps and 18:13 minutes"):
        assert word in page.text, f"{word} is missing: a part of the run is not shown"
    assert sum("data-curve" in attrs for _, attrs in page.tags) == 3, "a curve is missing"
    pictures = [source for source in page.all("img", "src") if source]
    assert len(pictures) == 3, "two views and a GIF are expected; a broken PNG is left out"
    assert all(source.startswith("data:image/") for source in pictures), "a picture is not inside the page"
    assert "train configs/scene.yaml" in page.text and f"render '{run}'" in page.text, "a name with a space breaks"


def test_views_are_pairs_from_the_worst_to_the_best(tmp_path: Path) -> None:
    run = with_views(scene_run(tmp_path), 9)
    page = Page(write_report(run))
    views = [attrs["data-view"] for _, attrs in page.tags if "data-view" in attrs]
    assert views[:6] == [f"view_0{i}" for i in (0, 1, 2, 8, 7, 6)], "the worst and the best do not come first"
    assert views[6:] == ["view_03", "view_04", "view_05"], "the other views are lost or not in order of their names"
    assert len(page.all("input", "aria-label")) == 9, "a view has no slider, or one that a screen reader cannot name"
    assert sum(attrs.get("class") == "error" for _, attrs in page.tags) == 9, "an error map is missing"
    assert "Views range from 20.0 dB (view_00.jpg) to 28.0 dB (view_08.jpg)." in page.text, "the range is not told"
    assert "9.8.7" in page.text, "the versions are not shown"


def test_a_page_of_many_views_stays_small_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_views(scene_run(tmp_path), 12)
    monkeypatch.setattr(view_section, "VIEW_BYTES", 70_000)
    page = Page(write_report(run))
    views = [str(attrs["data-view"]) for _, attrs in page.tags if "data-view" in attrs]
    assert 3 < len(views) < 12 and f"{len(views)} of 12 are inside this page" in page.text, "it is not told"
    assert {"view_00", "view_01", "view_10", "view_11"} <= set(views), "the worst or the best views are left out"
    assert "view_05" not in views and "view_06" not in views, "a view in the middle is kept before one at the ends"
    assert (run / "report.html").stat().st_size < 250_000, "the page is larger than was allowed"


def test_damaged_pairs_are_left_out(tmp_path: Path) -> None:
    run = with_views(scene_run(tmp_path), 4)
    (run / "eval" / "renders" / "view_00.png").write_bytes(b"\x89PNG")
    save_png(run / "eval" / "renders" / "view_01.png", noise(20, 20))
    (run / "eval" / "photos" / "view_02.png").unlink()
    page = Page(write_report(run))
    assert [attrs["data-view"] for _, attrs in page.tags if "data-view" in attrs] == ["view_03"], "a bad pair is shown"


@pytest.mark.parametrize("bad", ["{}", "[]", '{"cameras": 3}', '{"cameras": [{"name": 3}]}', '{"points": [[1]]}', "{"])
def test_damaged_space_is_left_out(tmp_path: Path, bad: str) -> None:
    run = with_views(scene_run(tmp_path))
    (run / "eval" / "space.json").write_text(bad)
    page = Page(write_report(run))
    assert all("data-space" not in attrs for _, attrs in page.tags), "cameras are drawn of which nothing is known"
    assert "Held-out" in page.text, "one damaged file costs the page"


def test_cameras_survive_the_file(tmp_path: Path) -> None:
    run = with_views(scene_run(tmp_path))
    before, after = tiny_scene.cameras(5), read_cameras(read_run(run))
    assert [split for _, split in after] == ["train"] * 4 + ["test"], "training and held-out cameras are mixed up"
    for camera, (again, _) in zip([*before[1:], before[0]], after, strict=True):
        assert (camera.name, camera.width, camera.height) == (again.name, again.width, again.height)
        assert np.array_equal(camera.K, again.K) and np.array_equal(camera.world_to_camera, again.world_to_camera)


def test_remarks_name_what_to_try(tmp_path: Path) -> None:
    run = with_views(scene_run(tmp_path), 9)
    (run / "config.yaml").write_text("task: scene\ndensify:\n  cap: 48500\n")
    falling = [{"step": s, "loss": 1 - s / 200} for s in range(1, 101)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, falling)))
    text = Page(write_report(run)).text
    assert "cap of 48,500" in text, "a scene that stopped at its cap is not told"
    assert "still falling, by 15% over the last fifth" in text, "a loss that falls to the end is not told"
    random = np.random.default_rng(0)
    noisy = [{"step": s, "loss": 0.1 + 0.05 * random.random()} for s in range(1, 101)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, noisy)))
    (run / "config.yaml").write_text("task: scene\ndensify:\n  cap: 150000\n")
    text = Page(write_report(run)).text
    assert "cap of" not in text and "still falling" not in text, "noise is taken for progress"


def test_durations_are_told_as_people_do() -> None:
    told = [duration(seconds) for seconds in (0.31, 48.2, 145, 3599.6, 11100)]
    assert told == ["0.3 s", "48 s", "2:25 minutes", "60:00 minutes", "3:05 hours"], told


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_report_answers(tmp_path: Path, browser: Browser, width: int, dark: bool) -> None:
    run = with_views(scene_run(tmp_path), 3, (120, 160))
    browser.open(write_report(run), width=width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than its window"
    *_, across, _ = browser.place(".swipe input")
    browser.drag(".swipe input", (across / 2, 40), (across * 0.8, 40))
    edge = "parseFloat(getComputedStyle(document.querySelector('.swipe .edge')).left)"
    assert browser.ask(edge) == pytest.approx(0.8 * across, abs=0.06 * across), "the edge does not follow the drag"
    cut = browser.ask("getComputedStyle(document.querySelector('.swipe .over')).clipPath")
    percent = float(cut.removesuffix("%)").split()[-1])
    assert 74 < percent < 86 and cut.startswith("inset(0px 0px 0px"), f"the render is not cut at the edge: {cut}"
    browser.ask("document.querySelector('.swipe input').focus()")
    before = browser.ask("+document.querySelector('.swipe input').value")
    key(browser, "ArrowRight")
    assert browser.ask("+document.querySelector('.swipe input').value") == before + 1, "the arrow keys do nothing"
    browser.ask("document.querySelector('[data-curve] .plot').focus()")
    key(browser, "ArrowLeft")
    assert " at 99" in browser.ask("document.querySelector('[data-curve] output').textContent"), "a curve has no keys"
    shown = "getComputedStyle(document.querySelector('.swipe .error')).display"
    assert browser.ask(shown) == "none"
    browser.click(".swipe [data-error]")
    assert browser.ask(shown) == "block", "the error map does not show"
    assert browser.ask("document.querySelector('.swipe [data-error]').ariaPressed") == "true", "nothing tells it is on"
    assert browser.complaints() == [], "an error, or a request"


@needs_browser
def test_the_scene_opens_in_the_page(tmp_path: Path, browser: Browser) -> None:
    run = with_views(scene_run(tmp_path))
    tiny_scene.gaussians().save_ply(run / "point_cloud.ply")
    browser.open(write_report(run))
    assert browser.ask("document.querySelectorAll('iframe').length") == 0, "it is drawn before anyone asks for it"
    browser.click("[data-scene]")
    x, y, width, height = browser.place("iframe")
    picture, end = tmp_path / "window.png", time.monotonic() + 90
    while time.monotonic() < end:
        browser.photograph(picture, whole=False)
        shown = np.asarray(Image.open(picture).convert("RGB").crop((int(x), int(y), int(x + width), int(y + height))))
        if shown.std(axis=(0, 1)).min() > 25:
            break
    assert shown.std(axis=(0, 1)).min() > 25, "the viewer shows no scene"
    assert browser.complaints() == [], "an error, or a request"
    (run / "point_cloud.ply").write_bytes(b"ply\nformat")
    page = Page(write_report(run))
    assert all("data-scene" not in attrs for _, attrs in page.tags) and "Held-out" in page.text, "a damaged PLY"


def test_report_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "config.yaml").write_text("task: text\n")
    (tmp_path / "eval" / "metrics.json").write_text(
        '{"loss": 1.5, "bits_per_byte": 2.164, "perplexity": 4.48, "steps": 9}'
    )
    lines = [{"step": s, "loss": 4 / s, "bits_per_byte": 5 / s} for s in (1, 2, 3)]
    (tmp_path / "eval" / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    samples = [{"step": s, "prompt": "<b>to ", "text": f"be {s} &"} for s in range(9)]
    rows = [*map(json.dumps, samples), "{", '{"text": 3}', "[" * 100_000]
    (tmp_path / "eval" / "samples.jsonl").write_text("\n".join(rows))
    page = Page(write_report(tmp_path))
    assert "2.164 bits a byte" in page.text and "In 9 steps" in page.text, "what was learned is not told"
    assert sum("data-curve" in attrs for _, attrs in page.tags) == 2, "the held-out curves are not drawn"
    assert page.text.count("<b>to ") == 6 and page.text.index("be 8 &") < page.text.index("be 3 &"), (
        "the last come first"
    )


@needs_browser
def test_cameras_in_space_turn_and_lead_to_their_views(tmp_path: Path, browser: Browser) -> None:
    run = with_views(scene_run(tmp_path), 3)
    found = json.loads((run / "eval" / "space.json").read_text())
    next(c for c in found["cameras"] if c["split"] == "test")["name"] = "view_01.jpg"
    (run / "eval" / "space.json").write_text(json.dumps(found))
    browser.open(write_report(run))
    *_, width, height = browser.place(".space canvas")
    space = "document.querySelector('.space').space"
    inked = "(c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)"
    assert browser.ask(f"{inked}(document.querySelector('.space canvas'))") > 20, "nothing is drawn"
    assert browser.ask(f"{space}.seen().length") == 5, "a camera is not drawn"
    places = browser.ask(f"{space}.seen().map(s => [s[1], s[2]])")
    assert all(0 < x < width and 0 < y < height for x, y in places), "a camera lies outside of the picture at first"
    turn = browser.ask(f"{space}.view.turn")
    browser.drag(".space canvas", (width / 2, height / 2), (width / 2 + 100, height / 2))
    assert browser.ask(f"{space}.view.turn") == pytest.approx(turn - 0.8), "a drag does not turn it"
    browser.ask("document.querySelector('.space canvas').focus()")
    key(browser, "ArrowLeft")
    assert browser.ask(f"{space}.view.turn") == pytest.approx(turn - 0.68), "the arrow keys do not turn it"
    index = browser.ask(f"{space}.cameras.findIndex(c => c.held)")
    x, y = browser.ask(f"{space}.seen().find(s => s[0] === {index}).slice(1)")
    left, top, *_ = browser.place(".space canvas")
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, left + x, top + y)
    assert browser.ask("document.querySelector('.space output').textContent").startswith("view_01.jpg, held out 21.00")
    assert browser.ask("document.querySelector('.swipe.found').dataset.view") == "view_01", "a camera leads nowhere"
    assert browser.complaints() == [], "an error, or a request"


def test_report_needs_nothing_from_outside(tmp_path: Path) -> None:
    run = with_views(scene_run(tmp_path))
    page = Page(write_report(run))
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text and "@import" not in text, "the page asks the network"
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text, "dark or narrow screens are forgotten"
    for link in page.all("a", "href"):
        assert (run / unquote(link)).exists(), f"the link {link} leads nowhere"


def test_report_escapes_what_files_say(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    run = tmp_path / "<b>run&"
    (run / "eval").mkdir(parents=True)
    (run / "config.yaml").write_text(f"task: '<i>line'\nnote: |\n  {evil}\n")
    lines = [{"step": s, evil: s, "loss": 1.0} for s in (1, 2)]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    rows = {evil: {"psnr": 3.0, evil: 1}}
    (run / "eval" / "metrics.json").write_text(json.dumps({"psnr": 3.0, evil: evil, "split": evil, "views": rows}))
    save_png(run / "eval" / "<img src=x onerror=1>.png", noise())
    page = Page(write_report(run))
    assert [tag for tag, _ in page.tags].count("script") == 1, "a file of the run put a script into the page"
    assert not {"i", "b"} & {tag for tag, attrs in page.tags if "onerror" in attrs}, "an event handler came in"
    assert all("onerror" not in attrs for _, attrs in page.tags), "an event handler came in by a file's name"
    assert "<b>run&" in page.text and page.text.count("alert(1)") >= 4, "what the files say is not shown as text"


def test_report_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    lines = [{"step": s, "loss": 1 / s, "weight": 2.0, "bias": -1.0, "seconds": 0.1} for s in range(1, 50)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "eval" / "metrics.json").write_text('{"loss": 0.0103, "weight": 1.998, "bias": -1.003}')
    page = Page(write_report(tmp_path))
    assert "y = 1.998 x − 1.003" in page.text, "the learned line is not told"
    assert sum("data-curve" in attrs for _, attrs in page.tags) == 4, "loss, weight, bias and seconds are not all drawn"
    assert "Gaussians" not in page.text and "photograph" not in page.text, "a line is told as a scene"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"metrics.jsonl": ""},
        {"metrics.jsonl": '[1]\nnull\n{"loss": 1}\n{"step": "x"}\n{"step": 1, "loss": NaN}\n\xff'},
        {"eval/metrics.json": "[]"},
        {"eval/metrics.json": '{"psnr": Infinity, "ssim": NaN, "split": null, "a": [], "resolution": 3}'},
        {"eval/metrics.json": '{"psnr": 3, "views": [{}, {"name": null}], "num_gaussians": "many"}'},
        {"config.yaml": "task: [scene"},
        {"config.yaml": "- scene"},
        {"config.yaml": "a: 2026-13-45"},
        {"metrics.jsonl": "[" * 100_000, "eval/metrics.json": "[" * 100_000},
    ],
)
def test_report_of_a_damaged_run(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "eval").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="latin-1")
    page = Page(write_report(tmp_path))
    assert tmp_path.name in page.text and "nan" not in page.text.split(), "a damaged file spoils the page"


def test_report_links_large_videos_and_shows_some_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scene_run(tmp_path)
    for i in range(20):
        save_png(run / "eval" / f"view_{i:02}.png", noise())
    (run / "flight #1.mp4").write_bytes(bytes(2000))
    (run / "flight #1.gif").write_bytes(bytes(500))
    (run / "orbit.mp4").write_bytes(bytes(900))
    monkeypatch.setattr(report, "EMBED_BYTES", 1000)
    page = Page(write_report(run))
    assert len(page.all("video", "src")) == 1, "a large video is embedded, or the small one is not"
    assert "flight%20%231.mp4" in page.all("a", "href"), "the large video is not linked, or its name is not quoted"
    assert "flight%20%231.gif" not in page.all("a", "href"), "the same video is shown twice"
    assert page.text.index("orbit.mp4") < page.text.index("flight #1.mp4"), "the orbit is not the first video"
    assert len(page.all("img", "loading")) <= report.MOST_VIEWS, "a page of all views is too heavy to open"
    assert "of 23 are shown" in page.text, "it is not told that views are left out"


def test_a_damaged_image_is_not_a_choice(tmp_path: Path) -> None:
    run = scene_run(tmp_path)
    for i in range(2):
        save_png(run / "eval" / f"view_{i:02}.png", noise())
    (run / "eval" / "view_09.png").write_bytes(b"no image")
    text = Page(write_report(run)).text
    assert "evenly chosen" not in text, "the report says that it leaves views out, but one is damaged"


def test_report_of_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SplatlearnError, match="not a run folder"):
        write_report(tmp_path / "none")
