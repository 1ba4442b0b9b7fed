"""Patches that are filmed in any matrix, range and depth come out of the video in the colours that they had."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from splatlearn import notices
from splatlearn.errors import SplatlearnError
from splatlearn.scene.reconstruct import video_colors
from splatlearn.scene.reconstruct.frames import check_video, extract_frames
from splatlearn.scene.reconstruct.video_colors import VideoColors, parse_colors
from splatlearn.show.video import write_video

PATCHES = [(255, 64, 32), (32, 200, 64), (40, 60, 230), (230, 220, 40), (128, 128, 128), (200, 120, 160)]
H264 = ("-c:v", "libx264", "-qp", "4")
H265 = ("-c:v", "libx265", "-x265-params", "qp=4:log-level=none")


def picture(width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8: the patches side by side."""
    return np.array(PATCHES, np.uint8)[None].repeat(height, 0).repeat(width // len(PATCHES), 1)


def film(path: Path, filters: str, codec: tuple[str, ...], size: tuple[int, int] = (192, 96), frames: int = 4) -> Path:
    """Encodes the patches as `frames` equal frames."""
    pixels = picture(*size)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{pixels.shape[1]}x{size[1]}", "-r", "4", "-i", "-"]
    command = [get_ffmpeg_exe(), "-v", "error", "-y", *source, "-vf", filters, *codec, str(path)]
    subprocess.run(command, check=True, input=pixels.tobytes() * frames)
    return path


def error_of(video: Path, folder: Path, patches: list[tuple[int, int, int]] = PATCHES) -> int:
    """The largest error of a channel over the middles of the patches in an extracted frame."""
    name = extract_frames(video, folder, frames=3)[0]
    got = np.asarray(Image.open(folder / name).convert("RGB")).astype(int)
    side = got.shape[1] // len(PATCHES)
    middles = [got[got.shape[0] // 2, side * index + side // 2] for index in range(len(PATCHES))]
    return max(int(np.abs(middle - patch).max()) for middle, patch in zip(middles, patches, strict=True))


def tagged(matrix: str, scale: str, range: str = "tv", pixels: str = "yuv420p") -> str:
    return (
        f"scale=out_color_matrix={scale}:out_range={range},format={pixels},setparams=colorspace={matrix}:range={range}"
    )


@pytest.mark.parametrize("range", ["tv", "pc"])
@pytest.mark.parametrize(
    ("matrix", "scale"),
    [
        ("bt709", "bt709"),
        ("smpte170m", "bt601"),
        ("bt470bg", "bt601"),
        ("bt2020nc", "bt2020"),
        ("smpte240m", "smpte240m"),
    ],
)
def test_every_matrix_and_range(tmp_path: Path, matrix: str, scale: str, range: str) -> None:
    video = film(tmp_path / "a.mp4", tagged(matrix, scale, range), H264)
    assert check_video(video).colors.matrix == matrix
    assert error_of(video, tmp_path / "out") <= 6


@pytest.mark.parametrize(
    ("size", "scale"), [((192, 96), "bt601"), ((1284, 720), "bt709"), ((720, 1284), "bt709"), ((720, 576), "bt601")]
)
def test_untagged_videos_follow_their_size(tmp_path: Path, size: tuple[int, int], scale: str) -> None:
    filters = f"scale=out_color_matrix={scale}:out_range=tv,format=yuv420p,setparams=colorspace=unknown:range=unknown"
    video = film(tmp_path / "a.mp4", filters, H264, size)
    assert check_video(video).colors.matrix == "unknown"
    assert error_of(video, tmp_path / "out") <= 6


@pytest.mark.parametrize(
    ("name", "filters", "codec"),
    [
        ("a.mp4", "format=gbrp", ("-c:v", "libx264rgb", "-qp", "4")),
        ("a.mkv", "format=gbrp", ("-c:v", "ffv1")),
        ("a.mkv", tagged("bt709", "bt709", pixels="yuv420p10le"), H265),
        ("a.mkv", tagged("bt709", "bt709", pixels="yuv444p"), H264),
        ("a.mkv", tagged("bt709", "bt709", pixels="yuv422p10le"), ("-c:v", "ffv1")),
        ("a.avi", "scale=out_range=pc,format=yuvj420p", ("-c:v", "mjpeg", "-q:v", "2")),
        ("a.webm", tagged("bt709", "bt709"), ("-c:v", "libvpx-vp9", "-crf", "4")),
    ],
)
def test_other_codecs(tmp_path: Path, name: str, filters: str, codec: tuple[str, ...]) -> None:
    assert error_of(film(tmp_path / name, filters, codec), tmp_path / "out") <= 7


def test_wide_primaries_become_those_of_srgb(tmp_path: Path) -> None:
    filters = (
        "format=gbrp,setparams=color_primaries=bt709:color_trc=bt709,"
        "zscale=primaries=2020:transfer=709:matrix=2020_ncl:range=limited,format=yuv420p10le"
    )
    video = film(tmp_path / "a.mkv", filters, H265)
    assert check_video(video).colors.primaries == "bt2020"
    assert error_of(video, tmp_path / "out") <= 8


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
class TestHdr:
    def film(self, path: Path, transfer: str) -> Path:
        filters = (
            "format=gbrp,setparams=color_primaries=bt709:color_trc=bt709,zscale=transfer=linear,format=gbrpf32le,"
            f"zscale=primaries=2020:transfer={transfer}:matrix=2020_ncl:range=limited:npl=203,format=yuv420p10le"
        )
        return film(path, filters, H265)

    def test_tones_are_mapped_with_a_word(
        self, tmp_path: Path, transfer: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: dict[str, None] = {}
        monkeypatch.setattr(notices, "_collected", said)
        video = self.film(tmp_path / "a.mkv", transfer)
        assert check_video(video).colors.transfer == transfer
        assert error_of(video, tmp_path / "out") <= 48, "bright tones are compressed, no more"
        assert any(f"is HDR ({name}): its tones are mapped" in sentence for sentence in said)

    def test_refused_without_the_filters(
        self, tmp_path: Path, transfer: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(video_colors, "filters", lambda: frozenset({"scale"}))
        with pytest.raises(SplatlearnError, match=rf"got HDR \({name}\).*convert it to SDR first"):
            extract_frames(self.film(tmp_path / "a.mkv", transfer), tmp_path / "out")


def test_an_unknown_matrix_is_refused(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mkv", "format=yuv420p,setparams=colorspace=ycgco", H264)
    with pytest.raises(SplatlearnError, match="got the matrix 'ycgco'"):
        extract_frames(video, tmp_path / "out")


def test_interlaced_frames_are_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes that move by a stripe between the two fields of a frame."""
    said: dict[str, None] = {}
    monkeypatch.setattr(notices, "_collected", said)
    columns = np.arange(192)
    fields = [np.where((columns + 12 * index) // 24 % 2, 220, 30) for index in range(12)]
    frames = [np.stack([fields[2 * i], fields[2 * i + 1]]).astype(np.uint8)[:, :, None] for i in range(6)]
    content = b"".join(np.tile(np.broadcast_to(frame, (2, 192, 3)), (48, 1, 1)).tobytes() for frame in frames)
    command = [get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "192x96", "-r", "6"]
    command += ["-i", "-", "-vf", "scale=interl=1,format=yuv444p,setfield=tff", "-flags", "+ildct+ilme", *H264]
    subprocess.run([*command, "-x264opts", "tff=1", str(tmp_path / "a.mkv")], check=True, input=content)
    names = extract_frames(tmp_path / "a.mkv", tmp_path / "out")
    grey = np.asarray(Image.open(tmp_path / "out" / names[2]).convert("L")).astype(float)
    combs = np.abs(np.diff(grey, axis=0)).mean()
    assert len(names) == 6 and combs < 25, f"neighbouring rows differ by {combs:.0f}: the fields were mixed"
    assert any("is interlaced" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67, progressive), "
            "1920x1080 [SAR 1:1 DAR 16:9], 9000 kb/s",
            VideoColors("yuv420p10le", "tv", "bt2020nc", "bt2020", "arib-std-b67", False, 1920, 1080),
        ),
        (
            "Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, smpte170m, top first), 720x576",
            VideoColors("yuv420p", "tv", "smpte170m", "smpte170m", "smpte170m", True, 720, 576),
        ),
        ("Video: mpeg4 (Simple Profile) (mp4v / 0x7634706D), yuv420p, 640x480 [SAR 1:1 DAR 4:3]",
         VideoColors("yuv420p", width=640, height=480)),
        ("Video: gif, bgra, 640x480", VideoColors("bgra", width=640, height=480)),
        ("Video: mystery", VideoColors()),
    ],
)  # fmt: skip
def test_reading_ffmpegs_line(line: str, expected: VideoColors) -> None:
    assert parse_colors(f"  Stream #0:0: {line}") == expected


def test_our_own_videos_say_what_they_are(tmp_path: Path) -> None:
    write_video(tmp_path / "ours.mp4", [picture(192, 96)] * 4, fps=4)
    colors = check_video(tmp_path / "ours.mp4").colors
    assert (colors.range, colors.matrix, colors.primaries, colors.transfer) == ("tv", "bt709", "bt709", "bt709")
    assert error_of(tmp_path / "ours.mp4", tmp_path / "out") <= 8
