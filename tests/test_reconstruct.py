"""Structure from motion finds the true cameras of the still life, keeps the user's files, and says what is wrong."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import sfm_photos
from PIL import Image
from sfm_photos import HEIGHT, WIDTH, hashes

from splatlearn.demo import still_life
from splatlearn.errors import SplatlearnError
from splatlearn.scene.reconstruct import Report, Settings, reconstruct

PHOTOS = 10
Done = tuple[Path, Report, dict[str, str]]


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    return sfm_photos.poses(PHOTOS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sfm_photos.make(tmp_path_factory.mktemp("photos"), PHOTOS)


@pytest.fixture(scope="module")
def done(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The COLMAP folder made from the photographs, the summary, and the photographs' hashes from before."""
    before = hashes(photos)
    out = tmp_path_factory.mktemp("colmap") / "out"
    return out, reconstruct(photos, out, Settings(threads=1), progress=False), before


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that bring points [M, 3] closest to others (Umeyama 1991)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    left, spread, right = np.linalg.svd(b.T @ a)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    turn = left @ sign @ right
    scale = float((spread * np.diag(sign)).sum() / (a * a).sum())
    return scale, turn, target.mean(axis=0) - scale * turn @ source.mean(axis=0)


def test_cameras_are_the_true_ones(done: Done, poses: np.ndarray) -> None:
    out, summary, _ = done
    assert (summary.registered, summary.total, summary.missing) == (PHOTOS, PHOTOS, ()), "a photograph was not placed"
    assert summary.warning == "" and summary.points > 300 and 0 < summary.mean_reprojection_error_px < 1
    model = pycolmap.Reconstruction(out / "sparse" / "0")
    found = np.stack([image.cam_from_world().matrix() for image in sorted(model.images.values(), key=lambda i: i.name)])
    centers = np.stack([-pose[:, :3].T @ pose[:, 3] for pose in found])
    truth = np.stack([-pose[:3, :3].T @ pose[:3, 3] for pose in poses])
    scale, turn, shift = similarity(centers, truth)
    # The cameras stand 2.3 m from the table and 0.55 m apart.
    assert np.linalg.norm(scale * centers @ turn.T + shift - truth, axis=1).max() < 0.03, "cameras are misplaced"
    for pose, true_pose in zip(found, poses, strict=True):
        cosine = (np.trace(pose[:, :3] @ turn.T @ true_pose[:3, :3].T) - 1) / 2
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 1.0, "a camera is turned"


def test_the_lens_is_the_true_one(done: Done) -> None:
    model = pycolmap.Reconstruction(done[0] / "sparse" / "0")
    assert len(model.cameras) == 1, "photographs of one lens were given several cameras"
    (camera,) = model.cameras.values()
    truth = still_life.lens(WIDTH, HEIGHT)
    assert camera.model.name == "OPENCV" and (camera.width, camera.height) == (WIDTH, HEIGHT)
    assert camera.params[:2] == pytest.approx(truth.params[:2], rel=0.02), "the focal lengths are wrong"
    assert camera.params[4] == pytest.approx(truth.k1, abs=0.05), "the lens's distortion was not found"


def test_photographs_are_copied_and_left_alone(done: Done, photos: Path) -> None:
    out, _, before = done
    assert hashes(photos) == before, "the user's photographs were changed"
    assert hashes(out / "images") == before, "images/ are not copies of the photographs"
    left = sorted(path.name for path in out.iterdir())
    assert left == ["images", "reconstruction.json", "reconstruction.txt", "sparse"], "scratch files were left behind"


def test_one_thread_repeats_to_the_bit(done: Done, photos: Path, tmp_path: Path) -> None:
    reconstruct(photos, tmp_path / "out", Settings(threads=1), progress=False)
    for part in ("images", "sparse"):
        assert hashes(tmp_path / "out" / part) == hashes(done[0] / part), (
            "the same photographs and seed gave another model"
        )


def test_a_model_is_never_overwritten(done: Done, photos: Path) -> None:
    before = hashes(done[0])
    with pytest.raises(SplatlearnError, match="expected no model there yet"):
        reconstruct(photos, done[0], progress=False)
    assert hashes(done[0]) == before, "a refused run changed the folder"


def test_other_pictures_in_images_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "stranger.jpg").write_bytes(b"x")
    with pytest.raises(SplatlearnError, match="expected a new or empty folder, got one that holds images"):
        reconstruct(photos, tmp_path, progress=False)


def test_a_photograph_that_fits_nowhere_is_reported(photos: Path, tmp_path: Path) -> None:
    """In place (photos = out/images), in a subfolder, with a portrait among landscapes: all at once to save a run."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for path in sorted(photos.iterdir())[:7]:
        shutil.copy(path, tmp_path / "images" / "sub")
    noise = np.random.default_rng(0).integers(0, 255, (60, 45, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    Image.fromarray(noise).save(tmp_path / "images" / "noise.png")
    before = hashes(tmp_path / "images")
    summary = reconstruct(tmp_path / "images", tmp_path, progress=False)
    assert [missing.name for missing in summary.missing] == ["noise.png"] and summary.registered == 7, (
        "the stray photograph was not told apart"
    )
    assert "noise.png" in summary.warning and "1 of 8" in summary.warning, "the warning does not name it"
    assert hashes(tmp_path / "images") == before, "photographs used in place were changed"
    names = {image.name for image in pycolmap.Reconstruction(tmp_path / "sparse" / "0").images.values()}
    assert "sub/photo 0.jpg" in names, "names lost their subfolder"


def test_too_few_photographs(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatlearnError, match="expected a folder of photographs or a video, got nothing"):
        reconstruct(tmp_path / "nowhere", tmp_path / "out")
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(photos / "photo 0.jpg", one)
    (one / "notes.txt").write_text("not a photograph")
    with pytest.raises(SplatlearnError, match="at least 2 photographs .* got 1"):
        reconstruct(one, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "a refused run made its folder"


def test_damaged_photographs_are_all_named(photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(photos, bad)
    (bad / "photo 3.jpg").write_bytes((photos / "photo 3.jpg").read_bytes()[:4000])
    (bad / "photo 5.jpg").write_text("no picture")
    with pytest.raises(SplatlearnError, match=r"got 2 that cannot be read: photo 3\.jpg \(.*\), photo 5\.jpg"):
        reconstruct(bad, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists(), "a refused run made its folder"


def test_unknown_camera_model(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatlearnError, match="camera_model: expected one of .*OPENCV.* got 'PINHOLES'"):
        reconstruct(photos, tmp_path / "out", Settings(camera_model="PINHOLES"))


@pytest.mark.parametrize(("kind", "complaint"), [("blank", "no features in any"), ("noise", "no two match each other")])
def test_photographs_without_a_scene(tmp_path: Path, kind: str, complaint: str) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    generator = np.random.default_rng(1)
    for i in range(3):
        values = np.full((30, 40), 120 + i) if kind == "blank" else generator.integers(0, 255, (30, 40))
        Image.fromarray(values.astype(np.uint8).repeat(6, 0).repeat(6, 1)).save(folder / f"{i}.png")
    with pytest.raises(SplatlearnError, match=complaint):
        reconstruct(folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "sparse").exists(), "a failed run left a model"


def test_ctrl_c_stops_the_work_and_leaves_no_model(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[bool] = []

    def interrupted(*_: Any, cancellation_token: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 20
        while not cancellation_token.is_cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        seen.append(cancellation_token.is_cancelled)

    monkeypatch.setattr(pycolmap, "match_exhaustive", interrupted)
    level = pycolmap.logging.minloglevel
    with pytest.raises(KeyboardInterrupt):
        reconstruct(photos, tmp_path / "out", progress=False)
    assert seen == [True], "the work was not cancelled, or goes on after the function has returned"
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left == [".reconstruction"], "an interrupted run left more than what it can go on from"
    assert pycolmap.logging.minloglevel == level, "pycolmap's log stays silenced"
