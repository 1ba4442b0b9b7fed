"""Videos from frames: H.264 in MP4 by ffmpeg, or GIF by Pillow where a picture must play everywhere.

Shapes: a frame is [H,W,3], float in 0..1 or uint8, all of one size.
"""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.show.pictures import Image, to_uint8

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

QUALITY = 20  # x264's constant rate factor: 18 looks lossless, 28 is poor
PALETTE_FRAMES = 12  # frames, spread over the video, from which a GIF's 256 colours are chosen


def write_video(path: Path | str, frames: Iterable[Image], fps: float = 30.0) -> int:
    """Write the frames as `path`, .mp4 or .gif, whole or not at all, and return how many there were.

    An MP4 is encoded frame by frame as they come (H.264, yuv420p, which every browser plays); odd sizes are
    padded by repeating the last column or row. A GIF loops and holds all frames in memory, as they share one
    palette; its clock counts hundredths of a second, so `fps` is rounded to 100 / n, at most 50.
    Raises SplatlearnError for another suffix, no frames, frames that differ in size, an fps outside 0..1000,
    a missing or failing ffmpeg, and a disk that refuses.
    """
    path = Path(path)
    writers = {".mp4": _write_mp4, ".gif": _write_gif}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise SplatlearnError(f"{path} must end in {' or '.join(writers)} to be written as a video.")
    if not 0 < fps <= 1000:
        raise SplatlearnError(f"{path} needs a number of frames a second in 0..1000, got {fps:g}.")
    stream = _uniform(path, frames)
    first = next(stream, None)
    if first is None:
        raise SplatlearnError(f"{path} would be a video without frames.")
    with replacing(path) as temporary:
        return writer(path, temporary, chain([first], stream), fps)


def _uniform(path: Path, frames: Iterable[Image]) -> Iterator[np.ndarray]:
    """The frames as uint8, after checking that each has the first one's size."""
    shape = None
    for index, frame in enumerate(frames):
        image = to_uint8(frame)
        shape = shape or image.shape
        if image.shape != shape:
            got, expected = (f"{s[1]}x{s[0]}" for s in (image.shape, shape))
            raise SplatlearnError(f"{path} has frames of {expected}, but frame {index} is {got}.")
        yield image


def _write_mp4(path: Path, temporary: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        ffmpeg = get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise SplatlearnError(
            f"{path} needs ffmpeg, which was not found (pip install imageio-ffmpeg); write a .gif instead."
        ) from error
    first = _even(next(frames))
    count = 0
    with tempfile.TemporaryFile() as said:  # a file, because a full pipe of warnings would stop both sides
        command = _ffmpeg_command(ffmpeg, temporary, first.shape[1], first.shape[0], fps)
        encoder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        assert encoder.stdin is not None
        try:
            for frame in chain([first], frames):
                encoder.stdin.write(_even(frame).tobytes())
                count += 1
            encoder.stdin.close()
        except BrokenPipeError:
            pass  # ffmpeg gave up; its own words, read below, say why
        except BaseException:
            encoder.kill()
            raise
        finally:
            code = encoder.wait()
        if code:
            said.seek(0)
            lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines()]
            reason = next(filter(None, lines), f"exit code {code}")[:200]
            raise SplatlearnError(f"{path} could not be encoded, ffmpeg says: {reason}")
    return count


def _even(frame: np.ndarray) -> np.ndarray:
    """The frame, its last row or column repeated where a side is odd: yuv420p halves the colour planes."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _ffmpeg_command(ffmpeg: str, out: Path, width: int, height: int, fps: float) -> list[str]:
    """Raw RGB frames from standard input to an MP4 with tagged colours, so that players agree on them."""
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    meant = "setparams=color_primaries=bt709:color_trc=bt709"  # ffmpeg takes these tags from the frames
    colors = ["-vf", f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,{meant}"]
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    codec = ["-c:v", "libx264", "-crf", str(QUALITY), "-movflags", "+faststart"]
    return [ffmpeg, "-y", "-loglevel", "error", *source, *colors, *tags, *codec, f"file:{out}"]


def _write_gif(path: Path, temporary: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    from PIL import Image as Pillow

    pictures = [Pillow.fromarray(frame) for frame in frames]
    palette = _shared_palette(pictures)
    first, *others = [picture.quantize(palette=palette) for picture in pictures]
    clock = max(2, round(100 / fps)) * 10  # milliseconds; browsers slow down whatever is faster than 20
    first.save(temporary, format="GIF", save_all=True, append_images=others, duration=clock, loop=0)
    return len(pictures)


def _shared_palette(pictures: "list[Picture]") -> "Picture":
    """A picture with the 256 colours that serve frames from the whole video: one palette never flickers."""
    from PIL import Image as Pillow

    some = pictures[:: -(-len(pictures) // PALETTE_FRAMES)]
    sheet = np.concatenate([np.asarray(picture) for picture in some])
    return Pillow.fromarray(sheet).quantize(256, method=Pillow.Quantize.MEDIANCUT)
