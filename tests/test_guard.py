"""Scenes that would train silently wrong: the run warns, names the image, and changes no bit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_scene
from PIL import Image

from splatlearn import notices
from splatlearn.cli import main
from splatlearn.scene.training import guard
from splatlearn.scene.training.guard import Look, suspects
from splatlearn.scene.training.task import SceneTask

ROOT = Path(__file__).resolve().parents[1]


def warnings_of(tmp_path: Path, fault: Callable[[Path], None], steps: int = 300) -> str:
    folder = tiny_scene.write(tmp_path / "scene", 16)
    fault(folder)
    words = ["--data.path", str(folder), "--out", str(tmp_path / "run"), "--steps", str(steps)]
    assert main(["train", str(ROOT / "configs/scene.yaml"), *words, "--device", "cpu", "--sh_degree", "1"]) == 0
    return "\n".join(notices.read(tmp_path / "run"))


def image(folder: Path, index: int) -> Path:
    return folder / "images" / f"view_{index}.png"


def edit(folder: Path, index: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = image(folder, index)
    Image.fromarray(change(np.asarray(Image.open(path))).clip(0, 255).astype(np.uint8)).save(path)


def swap_and_copy(folder: Path) -> None:
    image(folder, 1).rename(folder / "aside.png")
    image(folder, 5).rename(image(folder, 1))
    (folder / "aside.png").rename(image(folder, 5))
    shutil.copy(image(folder, 4), image(folder, 0))  # view_0 is held out


def black_and_exposed(folder: Path) -> None:
    edit(folder, 3, lambda pixels: pixels * 0)
    edit(folder, 6, lambda pixels: pixels * 0.4 + 90)


def turn_away(folder: Path) -> None:
    path = folder / "sparse/0/images.txt"
    rows = [line.split() for line in path.read_text().splitlines() if line]
    for row in rows:  # half a turn about the vertical axis of the camera
        w, x, y, z = map(float, row[1:5])
        row[1:5] = map(repr, (-y, z, w, -x))
        row[5], row[7] = repr(-float(row[5])), repr(-float(row[7]))
    path.write_text("".join(" ".join(row) + "\n\n" for row in rows))


def test_a_healthy_scene_warns_of_nothing(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, lambda folder: None) == ""


def test_swapped_images_and_a_copy_are_named(tmp_path: Path) -> None:
    told = warnings_of(tmp_path, swap_and_copy)
    assert "view_1.png, view_5.png (" in told and "does not fit the others: a wrong pose" in told
    assert "Held out, but trained on as well: view_0.png (as view_4.png)" in told
    assert "far worse" in (tmp_path / "run/report.html").read_text(encoding="utf-8")


def test_a_black_image_is_no_exposure_and_an_exposure_no_wrong_pose(tmp_path: Path) -> None:
    told = warnings_of(tmp_path, black_and_exposed).splitlines()
    assert [line for line in told if "view_3.png" in line and "one colour only" in line]
    assert [line for line in told if "view_6.png" in line and "another exposure; train with --exposure" in line]
    assert len(told) == 2


def test_cameras_that_look_away_are_noticed_before_the_first_step(tmp_path: Path) -> None:
    told = warnings_of(tmp_path, turn_away, steps=2)
    assert "Before the first step nothing is rendered in any of" in told
    assert "lie behind all cameras" in told


def test_no_bit_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clouds = tiny_scene.write(tmp_path / "scene"), []
    for watched in (True, False):
        if not watched:
            monkeypatch.setattr(SceneTask, "callbacks", lambda self, writer: [])
        out = tmp_path / f"run_{watched}"
        words = ["--data.path", str(folder), "--out", str(out), "--steps", "12", "--device", "cpu"]
        assert main(["train", str(ROOT / "configs/scene.yaml"), *words]) == 0
        clouds.append((out / "point_cloud.ply").read_bytes())
    assert clouds[0] == clouds[1]


class TestSuspects:
    def looks(self, *extra: Look, spread: float = 0.3) -> list[Look]:
        return [Look(f"{i}.jpg", 1.0, 24 + spread * (i % 5), 25.0, 12.0) for i in range(20)] + list(extra)

    def test_none_among_equals(self) -> None:
        assert suspects(self.looks(), 300) == []
        assert suspects(self.looks(spread=2.0), 300) == [], "images of different difficulty"

    def test_a_plain_wall_that_is_easy_is_no_fault(self) -> None:
        assert suspects(self.looks(Look("wall.jpg", 1.0, 36.0, 36.0, 34.0)), 300) == []

    def test_few_images_are_not_judged(self) -> None:
        assert suspects([Look("a", 1, 9, 9, 9), Look("b", 1, 30, 30, 9), Look("c", 1, 30, 30, 9)], 300) == []

    def test_a_wrong_pose(self) -> None:
        ((sentence, names),) = suspects(self.looks(Look("bad.jpg", 1.0, 13.0, 13.5, 12.0)), 300)
        assert names == {"bad.jpg"} and "wrong pose" in sentence


def test_a_gap_to_the_held_out_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_scene.write(tmp_path / "scene")
    task = SceneTask(SceneTask.Config(data=SceneTask.Config().data.__class__(path=str(folder)), device="cpu"))
    held_out = {camera.name for camera in task.scene.test}

    def found(task: object, camera: object) -> Look:
        name = camera.name  # type: ignore[attr-defined]
        return Look(name, 1.0, 15.0 if name in held_out else 33.0, 15.0, 10.0)

    monkeypatch.setattr(guard, "look", found)
    guard.warn_of_gap(task, 300)
    assert ["training images reach 33.0 dB, but the held-out ones 15.0" in each for each in notices.collected()] == [
        True
    ]


def test_an_exposure_that_harmonics_hide_is_named() -> None:
    """The image is learned well by colours that depend on the view; only the correction shows its exposure."""
    usual = [Look(f"{i}.png", 0.9, 20.0 + 0.1 * i, 19.5 + 0.1 * i, 14.0) for i in range(10)]
    hidden = Look("dim.png", 0.9, 21.3, 26.0, 23.0)
    told = suspects([*usual, hidden], 300)
    assert [names for _, names in told] == [{"dim.png"}] and "--exposure true" in told[0][0]
    assert not suspects([*usual, hidden._replace(corrected=22.0)], 300)
