"""Pictures, videos and charts: whole, the right way up, and to scale."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from splatlearn.errors import SplatlearnError
from splatlearn.show import pages
from splatlearn.show.pictures import GAP, caption, contact_sheet, error_map, save_png, side_by_side, to_uint8
from splatlearn.show.report import charts
from splatlearn.show.report.format import short
from splatlearn.show.video import write_video


def curve(*arguments: Any, **options: Any) -> str:
    """The HTML of a chart, or "" where there is none."""
    chart = charts.curve(*arguments, **options)
    return "" if chart is None else str(pages._environment().get_template("chart.html").module.curve(chart))  # type: ignore[attr-defined]


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- pictures ----


def test_to_uint8_rounds_clamps_and_widens() -> None:
    image = torch.tensor([[[-1.0, 0.5, 2.0], [1 / 255, 254.4 / 255, 1.0]]], requires_grad=True)
    assert to_uint8(image).tolist() == [[[0, 128, 255], [1, 254, 255]]], "values wrap around or are cut, not rounded"
    assert to_uint8(np.full((2, 3), 7, np.uint8)).tolist() == [[[7] * 3] * 3] * 2, "a grey image is not grey any more"
    photo = noise()
    assert np.array_equal(to_uint8(photo), photo), "bytes are scaled a second time"
    assert np.array_equal(to_uint8(photo / 255), photo), "a photo does not survive the way through floats"


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 2, 4)),
        np.zeros((3, 0, 3)),
        np.zeros(3),
        np.zeros((2, 2, 3), int),
        np.full((2, 2), np.nan),
    ],
)
def test_to_uint8_refuses_what_is_no_image(bad: np.ndarray) -> None:
    with pytest.raises(SplatlearnError, match="image"):
        to_uint8(bad)


def test_side_by_side_layout_and_error() -> None:
    photo = np.full((60, 80, 3), 100, np.uint8)
    render = photo.copy()
    render[40:, 60:] = 130
    out = side_by_side(photo, render, magnify=4)
    assert out.shape == (60, 3 * 80 + 2 * GAP, 3) and out.dtype == np.uint8, "three panels and two gaps are expected"
    assert (out[50, 70] == 100).all() and (out[50, 80 + GAP + 70] == 130).all(), "photo and render are swapped"
    error = out[:, 2 * (80 + GAP) :].astype(int).sum(axis=2)
    assert error[50, 70] > 3 * error[50, 20], "a wrong pixel is no brighter than a right one"
    stronger = side_by_side(photo, render, magnify=8)[:, 2 * (80 + GAP) :].astype(int).sum(axis=2)
    assert stronger[50, 70] > error[50, 70], "magnify does nothing"
    assert side_by_side(photo, render, magnify=0).shape == (60, 2 * 80 + GAP, 3), "magnify 0 keeps an error panel"
    with pytest.raises(SplatlearnError, match="80x60 and 60x80"):
        side_by_side(photo, photo.transpose(1, 0, 2))


def test_an_error_map_is_to_scale() -> None:
    photo = np.full((2, 3, 3), 100, np.uint8)
    render = photo.copy()
    render[0, 0], render[0, 1], render[0, 2] = 110, 120, 255
    drawn = error_map(photo, render, magnify=4).astype(int).sum(axis=2)
    assert (drawn[1] == 36).all() and drawn[0, 0] < drawn[0, 1] < drawn[0, 2], "a larger error is not brighter"
    assert drawn[0, 2] == 252 + 250 + 190, "beyond the end of the scale it is not the last colour"
    assert np.array_equal(error_map(render, photo), error_map(photo, render)), "too bright and too dark differ"


def test_caption_writes_in_the_corner_and_leaves_the_input() -> None:
    photo = np.full((120, 200, 3), 90, np.uint8)
    out = caption(photo, "photo")
    assert out[:40].max() > 200, "no white letters"
    assert (out[60:] == 90).all() and (photo == 90).all(), "the caption spreads, or is drawn into the original"
    assert caption(photo[:3, :2], "tiny").shape == (3, 2, 3), "a tiny picture cannot have a caption"


def test_contact_sheet_places_tiles() -> None:
    tiles = [np.full((10 + i, 20, 3), 40 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(tiles, columns=2, tile_width=20)
    assert sheet.shape == (11 + 13 + 14 + 2 * GAP, 40 + GAP, 3), "a row is not as high as its highest tile"
    assert (sheet[5, 5] == 0).all() and (sheet[5, 20 + GAP + 5] == 40).all(), "tiles do not go row by row"
    assert (sheet[-5, 5] == 160).all() and (sheet[-5, -5] == 255).all(), "the last row is lost or not left-aligned"
    for arguments in (
        {"images": []},
        {"images": tiles, "columns": 0},
        {"images": tiles, "captions": ["one"]},
    ):
        with pytest.raises(SplatlearnError, match="contact sheet"):
            contact_sheet(**arguments)


def test_save_png_is_lossless_and_leaves_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "eval" / "a.png"
    save_png(path, noise())
    assert np.array_equal(np.asarray(Image.open(path)), noise()), "the file differs from the image"
    with pytest.raises(SplatlearnError):
        save_png(path, np.full((2, 2), np.nan))
    (tmp_path / "file").write_text("")
    with pytest.raises(SplatlearnError, match="could not be written"):
        save_png(tmp_path / "file" / "a.png", noise())
    assert list(path.parent.iterdir()) == [path], "a temporary file was left behind"


# ---- video ----


def moving(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A white square that moves to the right over a smooth ground."""
    ramp = np.linspace(0, 120, width, dtype=np.uint8)
    frames = [np.repeat(np.repeat(ramp[None, :, None], height, 0), 3, 2) for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[16:32, 4 * i : 4 * i + 16] = 255
    return frames


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_mp4_plays_back_what_was_written(tmp_path: Path, size: tuple[int, int]) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames, path = moving(8, *size), tmp_path / "videos" / "a.mp4"
    assert write_video(path, iter(frames), fps=8) == 8, "the count of frames is wrong"
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    assert (height, width) == (48, 64), "an odd size is scaled or cut, not padded to the next even one"
    assert meta["pix_fmt"].startswith("yuv420p") and meta["codec"] == "h264", "browsers cannot play it"
    assert meta["fps"] == pytest.approx(8), "it plays at another speed"
    back = [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]
    assert len(back) == 8, "frames are lost"
    for a, b in zip(frames, back, strict=True):
        inner = b[: size[0], : size[1]].astype(int)
        assert np.abs(inner - a).mean() < 6, "the pictures are wrong: channels, order or size"
    assert list(path.parent.iterdir()) == [path], "a temporary file was left behind"


def test_mp4_takes_frames_as_they_come(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    alive: list[int] = []

    class Frame(np.ndarray):
        def __del__(self) -> None:
            alive.remove(id(self))

    def stream():  # type: ignore[no-untyped-def]
        for frame in moving(12):
            view = frame.view(Frame)
            alive.append(id(view))
            assert len(alive) <= 4, "all frames of an MP4 are held in memory"
            yield view
            del view

    assert write_video(tmp_path / "a.mp4", stream()) == 12, "frames are lost"


def test_gif_loops_and_keeps_its_colours(tmp_path: Path) -> None:
    frames, path = moving(10), tmp_path / "a.gif"
    assert write_video(path, iter(frames), fps=10) == 10, "the count of frames is wrong"
    with Image.open(path) as gif:
        assert gif.n_frames == 10 and gif.info["loop"] == 0, "frames are merged, or it stops after one round"
        assert gif.info["duration"] == 100, "it plays at another speed"
        for i, frame in enumerate(frames):
            gif.seek(i)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - frame).mean() < 6, "a frame has wrong colours"


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_broken_stream_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"the last good one")

    def stops():  # type: ignore[no-untyped-def]
        yield from moving(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, stops())
    with pytest.raises(SplatlearnError, match="frame 2 is 20x48"):
        write_video(path, [*moving(2), moving(1, 48, 20)[0]])
    with pytest.raises(SplatlearnError, match="without frames"):
        write_video(path, [])
    assert path.read_bytes() == b"the last good one", "a video that failed replaced the one that was there"
    assert list(tmp_path.iterdir()) == [path], "a temporary file was left behind"


def test_video_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SplatlearnError, match=r"\.mp4 or \.gif"):
        write_video(tmp_path / "a.avi", moving(1))
    for fps in (0, -1, float("nan")):
        with pytest.raises(SplatlearnError, match="frames a second"):
            write_video(tmp_path / "a.gif", moving(1), fps=fps)
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho 'Unknown encoder libx264' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(script))
    with pytest.raises(SplatlearnError, match="Unknown encoder"):
        write_video(tmp_path / "a.mp4", moving(5, 480, 640))

    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(SplatlearnError, match="needs ffmpeg"):
        write_video(tmp_path / "a.mp4", moving(1))
    assert list(tmp_path.iterdir()) == [script], "a temporary file was left behind"


# ---- charts ----


def drawn(chart: str) -> np.ndarray:
    """The points of the chart's line, in its box of 1000 by 1000."""
    points = re.search(r'class="line" points="([^"]*)"', chart)
    assert points, "there is no line"
    return np.array([[float(v) for v in p.split(",")] for p in points[1].split()])


def test_curve_is_drawn_where_the_values_are() -> None:
    line = drawn(curve("PSNR", "", range(0, 11), [float(v) for v in range(10, 21)]))
    assert line[0].tolist() == [0, 1000] and line[-1].tolist() == [1000, 0], "the curve is upside down or mirrored"
    assert np.allclose(np.diff(line[:, 1]), -100), "the vertical axis is not linear"
    line = drawn(curve("loss", "", [0, 1, 2], [100.0, 10.0, 1.0], logarithmic=True))
    assert np.allclose(line[:, 1], [0, 500, 1000]), "a steep loss has no logarithmic axis"
    assert curve("x", "", [1], [2.0]) == "" and curve("x", "", [3, 3], [1.0, 2.0]) == "", "a dot is drawn as a curve"


@pytest.mark.parametrize("values", [[5.0] * 9, [0.0] * 9, [1e-30] * 8 + [1e30], [-3.0, 4.0] * 5, [1e9, 1e9 + 1] * 5])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_odd_curves_stay_in_their_box(values: list[float], logarithmic: bool) -> None:
    line = drawn(curve("x", "", range(len(values)), values, logarithmic=logarithmic))
    assert np.isfinite(line).all() and line.min() >= 0 and line.max() <= 1000, "the curve leaves the chart"


def test_long_noisy_curves_are_thinned_and_smoothed() -> None:
    steps = np.arange(1, 30001)
    values = 30 - 20 * np.exp(-steps / 5000) + np.random.default_rng(0).normal(0, 8, len(steps))
    chart = curve("PSNR", "", steps.tolist(), values.tolist())
    line = drawn(chart)
    assert len(line) < 300 and len(chart) < 60_000, "thirty thousand steps make a page of megabytes"
    assert 'class="raw"' in chart, "the values themselves are hidden behind their mean"
    assert np.abs(np.diff(line[20:-20, 1])).max() < 40, "the smoothed curve is still rough"
    assert line[-1, 0] == 1000, "the end of the training is cut off"


def test_short_numbers() -> None:
    shown = [short(v) for v in (0, 48213, 26.826, 0.0103, 1.2e-5, 1234.5, -0.25, 2.5e9)]
    assert shown == ["0", "48,213", "26.83", "0.0103", "1.2e-05", "1,234", "-0.25", "2.5e+09"], "numbers are unreadable"
