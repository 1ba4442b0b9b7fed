"""The viewer as people meet it, in Chromium: the right pixels, orbit, a click on a camera, modes, paths, a training."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_scene
from browser import CHROMIUM
from viewer_page import GREETING, PANEL, ViewerPage, until

from splatlearn import loop
from splatlearn.scene.cameras import Camera
from splatlearn.scene.keyframes import read_path, rotation_of
from splatlearn.scene.training.task import SceneTask
from splatlearn.viewer.drawing import Snapshot, draw
from splatlearn.viewer.live import live_view, surroundings
from splatlearn.viewer.view import BrowserView
from splatlearn.viewer.viewer import Viewer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")

WIDTH, HEIGHT = 1000, 600


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SceneTask:
    config = SceneTask.Config(steps=100_000, sh_degree=1, device="cpu")
    config.data.path = str(tiny_scene.write(tmp_path_factory.mktemp("scene") / "tiny"))
    config.data.background = [0.1, 0.2, 0.3]
    config.densify.start = config.steps  # so that all steps take as long
    return SceneTask(config)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def viewer(task: SceneTask, out: Path) -> Iterator[Viewer]:
    cloud = tiny_scene.gaussians(500)
    cloud.scales.data -= 1.2  # small enough that a pixel to the side is another picture
    made = Viewer(Snapshot(cloud), surroundings(task.config, task.scene, out), port=0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[ViewerPage]:
    with ViewerPage() as opened:
        yield opened


@pytest.fixture
def page(browser: ViewerPage, viewer: Viewer) -> Iterator[ViewerPage]:
    browser.visit(viewer.url, WIDTH, HEIGHT)
    until(lambda: len(viewer.views()) == 1, "the browser to arrive, and the one before it to leave")
    yield browser
    assert browser.faults() == [], "the page complains, or asks for something from elsewhere"


def view_in(viewer: Viewer) -> BrowserView:
    (view,) = viewer.views()
    return view


def expected(view: BrowserView) -> np.ndarray:
    """What the rasterizer draws for the browser's camera."""
    return draw(view.session.snapshot, window(view), view.look).image


def window(view: BrowserView, width: int = WIDTH, height: int = HEIGHT) -> Camera:
    """The browser's camera at the size of its window."""
    return view.pose.camera().scaled(width, height)


def difference(shown: np.ndarray, wanted: np.ndarray) -> float:
    """Mean difference of what neither the controls nor a greeting cover."""
    assert shown.shape == wanted.shape, "the picture has not the window's size"
    return float(np.abs(shown.astype(float) - wanted)[GREETING:, :-PANEL].mean())


def until_shown(page: ViewerPage, view: BrowserView, what: str) -> np.ndarray:
    """Waits until the window shows what the rasterizer draws, up to JPEG; returns it."""
    until(lambda: difference(page.canvas(), expected(view)) < 2.5, what)
    return expected(view)


def without_cameras(view: BrowserView) -> BrowserView:
    assert view.photos is not None
    view.photos._show(False)  # they are drawn over the picture, by the browser
    return view


def test_the_page_shows_the_rasterizers_pixels(page: ViewerPage, viewer: Viewer) -> None:
    view = without_cameras(view_in(viewer))
    wanted = until_shown(page, view, "the sharp picture")
    seen = page.canvas()
    assert wanted[:, :-PANEL].std() > 15, "the picture is empty, which would prove nothing"
    for flipped in (wanted[::-1], wanted[:, ::-1], np.roll(wanted, 3, axis=1), np.roll(wanted, 3, axis=0)):
        assert difference(seen, flipped) > 1.5 * difference(seen, wanted), "this scene would not show a wrong frame"


def test_what_the_browser_draws_lies_on_what_we_draw(page: ViewerPage, viewer: Viewer, task: SceneTask) -> None:
    """A ball of viser's own must be where the rasterizer's camera sees its place: both know one frame."""
    view = without_cameras(view_in(viewer))
    until_shown(page, view, "the first picture")
    camera = window(view)
    assert task.scene is not None
    frame = task.scene.frame
    places = frame.normalised_points([[0.5, 0.2, -0.3], [-0.3, 0.4, 0.4]])
    for place in places:
        point = camera.world_to_camera @ [*place, 1]
        x, y = (camera.K @ point[:3])[:2] / point[2]
        before = page.canvas().astype(int)
        ball = viewer.server.scene.add_icosphere(
            "/ball", 0.06 / frame.scale, color=(255, 0, 255), position=tuple(place)
        )

        def lies_there(x: float = x, y: float = y, before: np.ndarray = before) -> bool:
            found = np.argwhere(np.abs(page.canvas() - before)[GREETING:, :-PANEL].sum(axis=2) > 90)
            at = found.mean(axis=0)[::-1] + [0.5, GREETING + 0.5] if len(found) > 100 else np.zeros(2)
            return bool(np.linalg.norm(at - [x, y]) < 3)

        until(lies_there, f"the ball at {x:.0f}, {y:.0f}")
        ball.remove()
        until_shown(page, view, "the picture without the ball")


def test_orbiting_changes_the_picture(page: ViewerPage, viewer: Viewer) -> None:
    view = without_cameras(view_in(viewer))
    before = until_shown(page, view, "the first picture")
    start = view.pose
    page.drag_canvas((300, 300), (420, 340))
    until(lambda: np.linalg.norm(view.pose.position - start.position) > 0.2, "the camera to move")
    after = until_shown(page, view, "the picture from there")
    assert difference(before, after) > 5, "another place shows the same picture"
    look_at = viewer.start.look_at
    distances = [np.linalg.norm(pose.position - look_at) for pose in (start, view.pose)]
    assert distances[1] == pytest.approx(distances[0], rel=0.02), "it does not orbit around what it looks at"
    page.press("Back to the start")
    until(lambda: np.linalg.norm(view.pose.position - start.position) < 1e-3, "the way back")
    until(lambda: abs(view.pose.wxyz @ start.wxyz) > 1 - 1e-6, "the camera to look where it did")
    until(lambda: difference(page.canvas(), before) < 2.5, "the first picture again")


def test_every_mode_reaches_the_page(page: ViewerPage, viewer: Viewer) -> None:
    view = without_cameras(view_in(viewer))
    now = "colour"
    for mode in ("depth", "normals", "number of splats"):
        page.choose(now, mode)
        until(lambda mode=mode: view.look.mode == mode, f"the mode {mode}")  # type: ignore[misc]
        until_shown(page, view, f"the picture of {mode}")
        now = mode
    until(lambda: "splats a pixel" in page.words(), "the legend")


def test_a_click_on_a_camera_flies_there_and_blends(page: ViewerPage, viewer: Viewer, task: SceneTask) -> None:
    view = view_in(viewer)
    view.client.camera.fov = 1.3  # so that cameras across the ring are in view
    until(lambda: abs(view.pose.fov - np.degrees(1.3)) < 0.01, "the wider lens")
    until(lambda: difference(page.canvas(), expected(view)) < 8, "the first picture, with the cameras over it")
    photo, (x, y) = visible_frustum(viewer, view)
    page.click_at(x, y)
    assert view.photos is not None
    until(lambda: view.photos.chosen is not None, "the click to be heard")  # type: ignore[union-attr]
    assert view.photos.chosen is photo, "another camera was clicked"
    until(lambda: np.linalg.norm(view.pose.position - photo.center) < 1e-3, "the flight to arrive")
    until(lambda: abs(float(rotation_of(photo) @ view.pose.wxyz)) > 1 - 1e-7, "the flight to look where the photo did")
    without_cameras(view)
    until_shown(page, view, "the render from there")
    view.photos._blend.value = 1.0
    rows, columns, truth = photo_in_window(view, photo, task)

    def shows_photo() -> bool:
        return float(np.abs(page.canvas()[rows, columns].astype(float) - truth).mean()) < 6

    until(shows_photo, "the photograph")
    page.drag_canvas((300, 300), (360, 300))
    until_shown(page, view, "the render, as no photograph was taken from here")


def visible_frustum(viewer: Viewer, view: BrowserView) -> tuple[Camera, tuple[float, float]]:
    """A camera that the window shows, and the pixel where the lines of its frustum meet."""
    camera = window(view)
    for photo in viewer.around.cameras:
        apex = camera.world_to_camera @ [*photo.center, 1]
        if apex[2] < 1:
            continue
        x, y = (camera.K @ apex[:3])[:2] / apex[2]
        if 30 < x < WIDTH - PANEL - 30 and GREETING < y < HEIGHT - 30:
            return photo, (float(x), float(y))
    raise AssertionError("no camera is in view")


def photo_in_window(view: BrowserView, photo: Camera, task: SceneTask) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns of the window where a photograph lies, and its pixels there, by nearest neighbour."""
    camera = window(view)
    scale = camera.K[0, 0] / photo.K[0, 0]
    left, top = camera.K[0, 2] - photo.K[0, 2] * scale, camera.K[1, 2] - photo.K[1, 2] * scale
    columns = slice(int(left) + 4, min(int(left + scale * photo.width) - 4, camera.width - PANEL))
    rows = slice(GREETING, int(top + scale * photo.height) - 4)
    x = ((np.arange(columns.start, columns.stop) + 0.5 - left) / scale).astype(int)
    y = ((np.arange(rows.start, rows.stop) + 0.5 - top) / scale).astype(int)
    return rows, columns, task.scene.photo(photo).numpy()[y][:, x].astype(float)


def test_a_path_is_recorded_saved_and_filmed(page: ViewerPage, viewer: Viewer, out: Path) -> None:
    import imageio.v3 as iio

    view = view_in(viewer)
    page.tab("Path")
    page.press("Add this view")
    until(lambda: len(viewer.recording.keys) == 1, "the first keyframe")
    start = view.pose
    page.drag_canvas((300, 300), (400, 300))
    until(lambda: np.linalg.norm(view.pose.position - start.position) > 0.2, "the camera to move")
    page.press("Add this view")
    until(lambda: "2 keyframes" in page.words(), "the second keyframe")
    page.press("Save as JSON")
    until(lambda: (out / "path.json").is_file(), "the file")
    saved = read_path(out / "path.json")
    np.testing.assert_allclose(saved.keyframes[0].position, start.position, err_msg="another place was saved")
    assert saved.seconds == 2.0 and (saved.width, saved.height) == (960, 540)
    viewer.recording._fps.value = 5
    page.press("Render a video")
    until(lambda: (out / "path.mp4").is_file(), "the video")
    assert iio.improps(out / "path.mp4", plugin="FFMPEG").shape[1:3] == (540, 960), "the video has another size"
    page.press("play")
    until(lambda: np.linalg.norm(view.pose.position - saved.keyframes[1].position) < 1e-3, "the flight's end")
    page.press("clear")
    until(lambda: "No keyframes yet" in page.words(), "an empty path")
    page.press("Save as JSON")
    until(lambda: "there is no keyframe yet" in page.words(), "the sentence that says why nothing was saved")


def test_each_browser_has_its_own_camera_and_mode(page: ViewerPage, viewer: Viewer) -> None:
    first = view_in(viewer)
    with ViewerPage() as other:
        other.visit(viewer.url, 640, 480)
        until(lambda: len(viewer.views()) == 2, "the second browser")
        (second,) = (view for view in viewer.views() if view is not first)
        still = first.pose
        other.drag_canvas((100, 240), (200, 240))
        until(lambda: np.linalg.norm(second.pose.position - first.pose.position) > 0.2, "the second camera to move")
        other.choose("colour", "opacity")
        until(lambda: second.look.mode == "opacity", "the second mode")
        assert first.pose is still and first.look.mode == "colour", "one browser moves another's camera"
        assert second.pose.width / second.pose.height == pytest.approx(4 / 3, abs=0.02), "the windows differ in shape"
        assert other.faults() == []
    until(lambda: viewer.views() == [first], "the second browser to be forgotten")
    until(lambda: viewer.drawer.waiting == 0, "the drawer to be idle")


def test_a_phone_has_room(browser: ViewerPage, viewer: Viewer) -> None:
    browser.visit(viewer.url, 390, 800)
    until(lambda: len(viewer.views()) == 1, "the browser")
    view = without_cameras(view_in(viewer))
    until(lambda: view.pose.width < view.pose.height, "the size of the window")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the phone"
    top = slice(GREETING + 30, 330)
    wanted = draw(viewer.snapshot, window(view, 390, 800), view.look).image[top].astype(float)
    until(lambda: np.abs(browser.canvas()[top] - wanted).mean() < 3, "the picture above the panel")
    assert browser.faults() == []


def test_pausing_a_training_and_leaving_it(task: SceneTask, tmp_path: Path) -> None:
    done: list[int] = []
    enough = threading.Event()

    class Note(loop.Callback):
        def on_step(self, step: int, loss: float, task: loop.AnyTask) -> None:
            done.append(step)
            if enough.is_set():
                raise StopIteration

    live = live_view(task, tmp_path, ("127.0.0.1", 0))

    def train() -> None:
        try:
            loop.fit(task, task.config.steps, callbacks=[live, Note()], progress=False)
        except StopIteration:
            pass

    thread = threading.Thread(target=train)
    thread.start()
    try:
        until(lambda: live.viewer is not None and done, "the first step")
        assert live.viewer is not None
        with ViewerPage() as browser:
            browser.visit(live.viewer.url)
            browser.tab("Training")
            until(lambda: "Gaussians, loss" in browser.words(), "the state of the training")
            browser.press("Pause")
            until(lambda: "paused" in browser.words(), "the pause")
            stopped = len(done)
            step = live._shown_step
            assert f"step {step}" in browser.words() and done[-1] in (step, step - 1), "the view shows another step"
            browser.press("One step")
            until(lambda: f"step {step + 1} " in browser.words(), "one more step")
            assert len(done) <= stopped + 1, "a paused training goes on"
            browser.press("Resume")
            until(lambda: len(done) > stopped + 20, "the training to go on")
            assert browser.ask("document.querySelectorAll('.uplot').length") == 3, "a chart is missing"
            assert browser.faults() == []
        # The browser has gone in the middle of it.
        until(lambda: live.viewer is not None and not live.viewer.views(), "the browser to be forgotten")
        gone = len(done)
        until(lambda: len(done) > gone + 20, "the training to go on without a browser")
    finally:
        enough.set()
        live.paused = False
        live._wake.set()
        thread.join(60)
        live.close()
    assert not thread.is_alive()
