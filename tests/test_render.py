"""`splatlearn render`: paths, sizes, depth and opacity, raw depths with their unit, and films of the training."""

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tiny_scene
import torch
from PIL import Image

from splatlearn.cli import main
from splatlearn.commands.render import Wish, path_cameras, render, resized
from splatlearn.errors import SplatlearnError
from splatlearn.run import open_run
from splatlearn.scene import paths, timelapse
from splatlearn.scene.cameras import Camera
from splatlearn.scene.timelapse import image_steps, saved_images

ROOT = Path(__file__).resolve().parents[1]
SCENE = str(ROOT / "configs/scene.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("render") / "scene")


def train(data: Path, out: Path, *words: str) -> int:
    common = ["--data.path", str(data), "--out", str(out), "--sh_degree", "1", "--log_every", "5"]
    return main(["train", SCENE, *common, *words])


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run that kept pictures of its training."""
    out = data.parent / "run"
    assert train(data, out, "--steps", "40", "--timelapse", "12") == 0
    return out


def camera() -> Camera:
    return tiny_scene.cameras()[0]


# ---- sizes and paths ----


def test_a_size_cuts_and_never_stretches() -> None:
    old = camera()
    for size, zoom in (("100x37", 2.0), ("25x37", 1.0), ("25x18", 0.5), ("100", 2.0)):
        new = resized(old, size)
        assert (new.K[0, 0], new.K[1, 1]) == pytest.approx((45 * zoom, 45 * zoom)), f"{size} stretches the picture"
        assert (new.K[0, 2], new.K[1, 2]) == pytest.approx((new.width / 2, new.height / 2)), f"{size} is off the middle"
    assert (new.width, new.height) == (100, 74), "the height does not follow the width"
    for bad in ("0", "x", "10x", "10x10x10", "-5", "1e3", "99999", "٣"):
        with pytest.raises(SplatlearnError, match="WIDTHxHEIGHT"):
            resized(old, bad)


def test_a_spiral_winds_before_the_subject_and_comes_back() -> None:
    places = [np.array([x, y, 0.0]) for x in (-1, 0, 1) for y in (-0.5, 0, 0.5)]
    grid = [_looking_at(place, place + np.array([0, 0, 9.0]), i) for i, place in enumerate(places)]
    points = np.array([[0, 0, 5.0]] * 9)
    found = paths.spiral(grid, points, 60)
    centers = np.stack([c.center for c in found])
    assert np.abs(centers[:, 0]).max() <= 1.001 and np.abs(centers[:, 1]).max() <= 0.501, "it leaves what was seen"
    assert np.abs(centers[:, 0]).max() > 0.6, "it hardly moves"
    step = np.linalg.norm(np.diff(np.concatenate([centers, centers[:1]]), axis=0), axis=1)
    assert step.max() < 0.35, "it jumps, or does not close"
    turns = np.unwrap(np.arctan2(centers[:, 1] / 0.5, centers[:, 0]))
    assert abs(turns[-1] - turns[0]) == pytest.approx(4 * np.pi, rel=0.1), "it does not go around twice"
    for c in found:
        seen = c.world_to_camera @ np.array([0, 0, 5.0, 1])
        assert seen[2] > 0 and np.abs(seen[:2]).max() < 1e-6, "it does not look at the subject"
        assert np.linalg.det(c.world_to_camera[:3, :3]) == pytest.approx(1), "a pose is mirrored"


def _looking_at(place: np.ndarray, target: np.ndarray, index: int) -> Camera:
    pose = np.eye(4)
    pose[:3, :3] = paths._look_rotation(target - place, np.array([0.0, -1.0, 0.0]))
    pose[:3, 3] = -pose[:3, :3] @ place
    return Camera(f"{index}.png", 64, 48, np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), pose)


def test_a_spiral_around_a_ring_stays_by_one_camera() -> None:
    ring = tiny_scene.cameras(9)
    found = np.stack([c.center for c in paths.spiral(ring, np.zeros((0, 3)), 40)])
    distance = min(np.linalg.norm(found - c.center, axis=1).max() for c in ring)
    assert 0.2 < distance < 1.1, "it flies through the subject, or stands still"


def test_a_recorded_path_is_flown(run: Path, tmp_path: Path) -> None:
    keys = [
        {"seconds": s, "position": [x, 0.0, -3.5], "wxyz": [1, 0, 0, 0], "fov": 40} for s, x in ((0, -0.5), (2, 0.5))
    ]
    path = {"format": "splatlearn camera path", "version": 1, "width": 48, "height": 32, "fps": 5, "keyframes": keys}
    (tmp_path / "flight.json").write_text(json.dumps(path))
    task, _ = open_run(run)
    cameras, fps = path_cameras(task, str(tmp_path / "flight.json"), None)
    assert len(cameras) == 10 and fps == 5, "the file's own pace is not kept"
    assert main(["render", str(run), "--path", str(tmp_path / "flight.json"), "--frames", "3"]) == 0
    made = run / "renders" / "flight.mp4"
    assert iio.imread(made).shape == (3, 32, 48, 3), "the size or the number of frames is another"


@pytest.mark.parametrize("path", ["spiral", "orbit", "interpolate"])
def test_seconds_and_size_of_a_video(run: Path, tmp_path: Path, path: str) -> None:
    out = tmp_path / "a.gif"
    words = ["--seconds", "0.5", "--fps", "10", "--size", "40x30", "--out", str(out)]
    assert main(["render", str(run), "--path", path, *words]) == 0
    frames = iio.imread(out)
    assert frames.shape[:3] == (5, 30, 40) and frames.std() > 5, "another length or size, or nothing is seen"


# ---- depth and opacity ----


def test_depths_are_those_of_the_scene(run: Path, tmp_path: Path) -> None:
    task, _ = open_run(run)
    render(task, run, "test", tmp_path / "npy", Wish(mode="depth", raw="npy"))
    render(task, run, "test", tmp_path / "png", Wish(mode="depth", raw="png16"))
    render(task, run, "test", tmp_path / "alpha", Wish(mode="alpha"))
    meaning = json.loads((tmp_path / "png" / "depth.json").read_text())
    for name in ("view_0", "view_8"):
        depth = np.load(tmp_path / "npy" / f"{name}.npy")
        alpha = np.asarray(Image.open(tmp_path / "alpha" / f"{name}.png"))[..., 0]
        assert depth.dtype == np.float32 and depth.shape == (tiny_scene.HEIGHT, tiny_scene.WIDTH)
        seen = depth > 0
        assert 0.1 < seen.mean() < 0.95, "nothing is seen, or what is empty has a depth"
        assert (alpha[seen] >= 127).all() and (alpha[~seen] <= 128).all(), "depth and opacity disagree on what is there"
        assert 1.5 < np.median(depth[seen]) < 5, "the cloud is 3.5 from each camera: the unit is wrong"
        picture = Image.open(tmp_path / "png" / f"{name}.png")
        assert picture.mode.startswith("I;16"), "it has 8 bits"
        again = np.asarray(picture).astype(np.float64) * meaning["step"]
        assert np.abs(again - depth).max() <= meaning["step"], "the unit in depth.json is not that of the pictures"
        assert depth.max() < meaning["farthest"], "depths are cut off"


def test_coloured_depth_is_bright_where_it_is_near(run: Path, tmp_path: Path) -> None:
    task, _ = open_run(run)
    render(task, run, "test", tmp_path / "npy", Wish(mode="depth", raw="npy"))
    render(task, run, "test", tmp_path / "colours", Wish(mode="depth"))
    depth = np.load(tmp_path / "npy" / "view_0.npy")
    colors = np.asarray(Image.open(tmp_path / "colours" / "view_0.png")).astype(float).sum(axis=2)
    assert (colors[depth == 0] == 0).all(), "what is empty is coloured"
    near, far = np.percentile(depth[depth > 0], (20, 80))
    near_colors = colors[(depth > 0) & (depth < near)]
    assert near_colors.mean() > 1.2 * colors[depth > far].mean(), "far is as bright as near"


# ---- films of the training ----


def test_picture_steps_are_closest_at_first() -> None:
    steps = image_steps(12, 1000)
    order = list(steps)
    assert order[0] == 0 and order[-1] == 1000 and order == sorted(order), "the film lacks its begin or its end"
    gaps = np.diff(order)
    assert (np.diff(gaps) >= -1).all() and gaps[-1] > 10 * gaps[0], "the pictures are evenly spaced"
    assert list(steps.values()) == list(range(12)), "the camera does not go on from picture to picture"
    assert list(image_steps(50, 4)) == [0, 1, 2, 3, 4], "a short training has steps that are drawn twice"
    assert list(image_steps(1, 10)) == [0], "a film of one picture fails"


def test_a_training_leaves_a_film(run: Path, tmp_path: Path) -> None:
    pictures = [np.asarray(Image.open(path)) for _, path in saved_images(run)]
    assert len(pictures) == len(image_steps(12, 40)) and all(picture.std() > 5 for picture in pictures)
    assert np.abs(pictures[0].astype(int) - pictures[-1]).mean() > 2, "the film stands still"
    film = iio.imread(run / "renders" / "timelapse.mp4")
    assert len(film) == len(pictures) + timelapse.FPS * timelapse.HOLD, "pictures are missing, or the end is not held"
    assert main(["render", str(run), "--timelapse", "--fps", "4", "--out", str(tmp_path / "film.gif")]) == 0
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.info["duration"] == 250, "--fps does nothing"


def test_a_film_needs_neither_scene_nor_photographs(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "renders"))
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parent), "/nowhere"))
    assert main(["render", str(tmp_path / "run"), "--timelapse"]) == 0
    assert (tmp_path / "run" / "renders" / "timelapse.mp4").stat().st_size > 1000


def test_an_interrupted_film_is_the_same_one(run: Path, data: Path, tmp_path: Path) -> None:
    whole, parts = run, tmp_path / "parts"
    assert train(data, parts, "--steps", "40", "--timelapse", "12", "--checkpoint_every", "10") == 0
    for folder in ("step_0000040",):
        for path in (parts / "checkpoints" / folder).iterdir():
            path.unlink()
        (parts / "checkpoints" / folder).rmdir()
    ahead = parts / "timelapse" / "step_0000033.png"
    ahead.write_bytes(b"of a step beyond the checkpoint")
    assert main(["train", "--resume", str(parts)]) == 0
    names = [path.name for _, path in saved_images(whole)]
    assert [path.name for _, path in saved_images(parts)] == names, "pictures are missing"
    for name in names:
        a, b = (np.asarray(Image.open(folder / "timelapse" / name)) for folder in (whole, parts))
        assert np.array_equal(a, b), f"{name} is another after going on"


def test_tensorboard_gets_scalars_and_pictures(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert train(data, out, "--steps", "10", "--tensorboard") == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in found] == [line["step"] for line in lines], "steps are missing"
    assert [value for _, value in found] == pytest.approx([line["loss"] for line in lines]), "other values than logged"
    names = events.Tags()["images"]
    assert any(name.startswith("render/") for name in names) and any(name.startswith("photo/") for name in names)


def test_tensorboard_that_is_missing_is_told_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert train(data, tmp_path / "run", "--steps", "2", "--tensorboard") == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "pip install 'splatlearn[tensorboard]'" in told[0], told
    assert not (tmp_path / "run").exists(), "a run folder was made for nothing"


# ---- what users do wrong ----


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--raw", "npy"], "--mode depth"),
        (["--mode", "depth", "--raw", "npy", "--out", "a.png"], "a folder"),
        (["--path", "sideways"], "'sideways'"),
        (["--path", "nowhere.json"], "nowhere.json"),
        (["--path", "test", "--frames", "3"], "--frames"),
        (["--seconds", "1", "--frames", "3"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--fps", "0"], "--fps"),
        (["--frames", "0"], "at least one frame"),
        (["--size", "huge"], "'huge'"),
        (["--mode", "normals"], "'normals'"),
        (["--timelapse", "--size=90"], "leave --size out"),
        (["--timelapse", "--seconds", "-1"], "--seconds"),
    ],
)
def test_mistakes_are_told(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["render", str(run), *words]) == 1
    message = capsys.readouterr().err.strip()
    assert told in message and "\n" not in message and "Traceback" not in message, message


def test_a_film_of_nothing_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatlearnError, match="--timelapse 120"):
        timelapse.film(tmp_path)
    task, _ = open_run(run)
    with torch.no_grad():
        task.gaussians.opacities.fill_(-20)
    render(task, run, "test", tmp_path / "empty", Wish(mode="depth"))
    assert not np.asarray(Image.open(tmp_path / "empty" / "view_0.png")).any(), "an empty scene has a depth"
