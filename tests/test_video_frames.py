"""From a video the sharpest frame of each stretch is taken, and what is no video is told in one sentence."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import sfm_photos
from PIL import Image, ImageFilter

from splatlearn.errors import SplatlearnError
from splatlearn.scene.reconstruct import Settings, reconstruct
from splatlearn.scene.reconstruct.frames import check_video, choose, chosen_count, extract_frames
from splatlearn.scene.reconstruct.gather import sharpness

PHOTOS = 8


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three frames a photograph, of which the second is sharp; its name is no easy one."""
    folder = tmp_path_factory.mktemp("walk")
    sfm_photos.make(folder / "photos", PHOTOS)
    frames = []
    for index in range(PHOTOS):
        photo = Image.open(folder / "photos" / f"photo {index}.jpg")
        blurred = [photo.filter(ImageFilter.GaussianBlur(radius)) for radius in (2, 3)]
        frames += [blurred[0], photo, blurred[1]]
    path = folder / "ein Gang %d 100%.mp4"
    iio.imwrite(path, np.stack([np.asarray(frame) for frame in frames]), fps=12)
    return path


def flat(count: int) -> np.ndarray:
    """[count, 48, 64, 3] uint8 frames of noise, each another."""
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def test_blur_lowers_sharpness() -> None:
    photo = Image.fromarray(flat(1)[0]).convert("L")
    values = [sharpness(np.asarray(photo.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 2)]
    assert values[0] > 2 * values[1] > 4 * values[2] > 0
    assert sharpness(np.full((9, 9), 77, np.uint8)) == 0 and sharpness(np.zeros((2, 9))) == 0


def test_each_stretch_gives_its_sharpest() -> None:
    assert choose([1, 5, 2, 3, 3, 9, 0], 3) == [1, 3, 5]
    for frames, count in ((7, 7), (100, 7), (5, 3), (31, 30)):
        chosen = choose(np.random.default_rng(frames).random(frames).tolist(), count)
        assert len(chosen) == count and sorted(set(chosen)) == chosen, "a frame was taken twice, or out of order"
        assert chosen[0] < -(-frames // count) and chosen[-1] >= frames - -(-frames // count), "an end has no frame"


@pytest.mark.parametrize(
    ("frames", "seconds", "wanted", "count"),
    [(900, 30.0, None, 60), (90, 3.0, None, 30), (9000, 300.0, None, 150), (20, 1.0, None, 20), (900, 30.0, 11, 11)],
)
def test_how_many_frames(frames: int, seconds: float, wanted: int | None, count: int) -> None:
    assert chosen_count(frames, seconds, wanted) == count


def test_the_chosen_frames_are_written(walk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "50% %d"
    names = extract_frames(walk, folder, frames=PHOTOS)
    assert names == [f"frame_{3 * index + 1:06d}.jpg" for index in range(PHOTOS)], "not the sharp ones, or misnumbered"
    assert sorted(path.name for path in folder.iterdir()) == names, "frames are missing, or others were left"
    for index, name in enumerate(names):
        photo, frame = (
            np.asarray(Image.open(path).convert("L"), dtype=float)
            for path in (walk.parent / "photos" / f"photo {index}.jpg", folder / name)
        )
        assert np.abs(photo - frame).mean() < 6, f"{name} shows another frame of the video"


def test_many_frames(tmp_path: Path) -> None:
    """ffmpeg refuses an expression of several hundred terms in a row."""
    iio.imwrite(tmp_path / "a.mp4", flat(8).repeat(70, axis=0), fps=30)
    assert len(extract_frames(tmp_path / "a.mp4", tmp_path / "out", frames=520)) == 520


def test_frames_are_reduced_in_proportion(walk: Path, tmp_path: Path) -> None:
    (name, *_) = extract_frames(walk, tmp_path, frames=3, max_size=160)
    assert Image.open(tmp_path / name).size == (160, 120)
    (name, *_) = extract_frames(walk, tmp_path, frames=3, max_size=9999)
    assert Image.open(tmp_path / name).size == (320, 240), "a frame was enlarged"


def test_a_video_is_reconstructed(walk: Path, tmp_path: Path) -> None:
    before = walk.read_bytes()
    report = reconstruct(walk, tmp_path / "out", Settings(threads=1, frames=PHOTOS), progress=False)
    assert (report.registered, report.total) == (PHOTOS, PHOTOS) and report.mean_reprojection_error_px < 1
    assert len(report.cameras) == 1, "the frames of one video were given several cameras"
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert len(names) == PHOTOS and names[0] == "frame_000001.jpg" and walk.read_bytes() == before


def test_a_rotation_that_a_phone_has_noted_is_applied(tmp_path: Path) -> None:
    import subprocess

    from imageio_ffmpeg import get_ffmpeg_exe

    iio.imwrite(tmp_path / "lying.mp4", flat(6), fps=6)
    command = [get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90", "-i", str(tmp_path / "lying.mp4")]
    subprocess.run([*command, "-c", "copy", str(tmp_path / "upright.mp4")], check=True)
    (name, *_) = extract_frames(tmp_path / "upright.mp4", tmp_path / "frames")
    assert Image.open(tmp_path / "frames" / name).size == (48, 64)


class TestBadVideos:
    @pytest.mark.parametrize("kind", ["text", "empty", "cut", "sound"])
    def test_no_video(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "a.mp4"
        iio.imwrite(path, flat(8), fps=4)
        content = path.read_bytes()
        path.write_bytes({"text": b"no video" * 99, "empty": b"", "cut": content[: len(content) // 2]}.get(kind, b""))
        if kind == "sound":
            path = tmp_path / "a.wav"
            path.write_bytes(
                b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x44\xac\0\0\x88\x58\x01\0\x02\0\x10\0data\0\x08\0\0"
                + bytes(2048)
            )
        with pytest.raises(SplatlearnError, match=rf"{path.name}: expected a video, got a file without a video stream"):
            reconstruct(path, tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists(), "a refused run made its folder"

    @pytest.mark.parametrize("count", [1, 2])
    def test_too_few_frames(self, tmp_path: Path, count: int) -> None:
        iio.imwrite(tmp_path / "a.mp4", flat(count), fps=4)
        with pytest.raises(SplatlearnError, match=f"a video of at least 3 frames, got {count}"):
            reconstruct(tmp_path / "a.mp4", tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists(), "a refused run made its folder"

    def test_a_camera_that_stands_still(self, tmp_path: Path) -> None:
        iio.imwrite(tmp_path / "a.mp4", flat(1).repeat(8, axis=0).repeat(5, axis=1).repeat(5, axis=2), fps=4)
        sentence = r"a\.mp4: expected .*(show no depth|no two match|equal frames)"
        with pytest.raises(SplatlearnError, match=sentence):
            reconstruct(tmp_path / "a.mp4", tmp_path / "out", Settings(threads=1), progress=False)

    def test_a_missing_one(self, tmp_path: Path) -> None:
        with pytest.raises(SplatlearnError, match=r"a\.mp4 cannot be read: No such file"):
            check_video(tmp_path / "a.mp4")

    def test_masks_go_with_photographs(self, walk: Path, tmp_path: Path) -> None:
        with pytest.raises(SplatlearnError, match="masks: expected none with a video"):
            reconstruct(walk, tmp_path / "out", Settings(masks=walk.parent), progress=False)
