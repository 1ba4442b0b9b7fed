"""From a video to photographs: of each of N equal stretches the sharpest frame, read by the ffmpeg of imageio-ffmpeg.

Two passes: one looks at all frames, small and grey, and measures the variance of the Laplacian; one writes the chosen
ones in full size. Both number the frames as they are decoded, so that a changing frame rate does not matter. Sound,
subtitles and further video streams are left alone; a rotation that a phone has noted is applied.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.scene.reconstruct.gather import sharpness
from splatlearn.scene.reconstruct.video_colors import VideoColors, color_filters, deinterlacing, parse_colors

LOOK_WIDTH, LOOK_HEIGHT = 960, 540  # at which sharpness is judged; shape does not matter, as all frames have one
PER_SECOND, FEWEST, MOST = 2, 30, 150  # frames taken of a video of any length, unless their number is given
LEAST = 3  # frames that make a video


def chosen_count(frames: int, seconds: float, wanted: int | None) -> int:
    """How many frames to take of a video of `frames` frames."""
    count = wanted or min(max(round(PER_SECOND * seconds), FEWEST), MOST)
    return min(count, frames)


def choose(sharpnesses: Sequence[float], count: int) -> list[int]:
    """The number of the sharpest frame of each of `count` stretches that differ by one frame at most."""
    borders = [len(sharpnesses) * stretch // count for stretch in range(count + 1)]
    values = np.asarray(sharpnesses)
    return [begin + int(values[begin:end].argmax()) for begin, end in zip(borders, borders[1:], strict=False)]


def extract_frames(
    video: Path, folder: Path, *, frames: int | None = None, max_size: int | None = None, progress: bool = False
) -> list[str]:
    """Writes the chosen frames into `folder` as frame_NNNNNN.jpg, by their number in the video; returns the names.

    Raises SplatlearnError for what is no video, or has fewer than three frames.
    """
    facts = check_video(video)
    color_filters(video, facts.colors)  # refuses what cannot be converted before a long look
    if facts.colors.interlaced:
        warn(f"{video} is interlaced: each of its frames is made whole by ffmpeg's filter bwdif.")
    seconds, expected = facts.seconds, facts.frames
    with tqdm(total=expected, desc="look at frames", unit="frame", disable=not progress) as bar:
        sharpnesses = []
        for grey in _grey_frames(video, facts.colors):
            sharpnesses.append(sharpness(grey))
            bar.update()
    if len(sharpnesses) < LEAST:
        raise SplatlearnError(f"{video}: expected a video of at least {LEAST} frames, got {len(sharpnesses)}")
    numbers = choose(sharpnesses, chosen_count(len(sharpnesses), seconds, frames))
    return _write_frames(video, folder, numbers, facts.colors, max_size, progress)


def _ffmpeg(*words: str) -> list[str]:
    from imageio_ffmpeg import get_ffmpeg_exe

    return [get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *words]


@dataclass(frozen=True)
class VideoFacts:
    """What a video's header says: its length, about how many frames that is, and what its colours mean."""

    seconds: float
    frames: int | None
    colors: VideoColors


def check_video(video: Path) -> VideoFacts:
    """Read a video's header; SplatlearnError where the file is no video."""
    try:
        with video.open("rb"):
            pass
    except OSError as error:
        raise SplatlearnError(f"{video} cannot be read: {error.strerror}") from None
    # Without an output ffmpeg prints what it sees and ends with an error, which is meant.
    told = subprocess.run(_ffmpeg("-i", f"file:{video}"), capture_output=True, text=True, errors="replace").stderr
    stream = re.search(r"^\s*Stream #0.*: Video:.*$", told, re.MULTILINE)
    if stream is None:
        raise SplatlearnError(f"{video}: expected a video, got a file without a video stream that ffmpeg can read")
    clock = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", told)
    rate = re.search(r"([\d.]+) (?:fps|tbr)", told)
    seconds = sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True)) if clock else 0
    frames = round(seconds * float(rate[1])) if rate and seconds else None
    return VideoFacts(seconds, frames, parse_colors(stream[0]))


def _grey_frames(video: Path, colors: VideoColors) -> Iterator[np.ndarray]:
    """Every frame as [LOOK_HEIGHT, LOOK_WIDTH] uint8."""
    words = ["-i", f"file:{video}", "-map", "0:v:0", "-fps_mode", "passthrough"]
    look = [*deinterlacing(colors), f"scale={LOOK_WIDTH}:{LOOK_HEIGHT}:flags=area", "format=gray"]
    words += ["-vf", ",".join(look), "-f", "rawvideo", "-"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(_ffmpeg("-v", "error", *words), stdout=subprocess.PIPE, stderr=complaints)
        assert process.stdout is not None
        count = LOOK_WIDTH * LOOK_HEIGHT
        try:
            while len(data := process.stdout.read(count)) == count:
                yield np.frombuffer(data, np.uint8).reshape(LOOK_HEIGHT, LOOK_WIDTH)
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _any_of(terms: list[str]) -> str:
    """A sum of terms as a balanced tree: ffmpeg refuses long chains, which it reads by recursion."""
    if len(terms) <= 2:
        return "+".join(terms)
    middle = len(terms) // 2
    return f"({_any_of(terms[:middle])})+({_any_of(terms[middle:])})"


def _write_frames(
    video: Path, folder: Path, numbers: list[int], colors: VideoColors, max_size: int | None, progress: bool
) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _any_of([f"eq(n\\,{number})" for number in numbers])
    filters = [*deinterlacing(colors), f"select={wanted}", *color_filters(video, colors)]
    if max_size is not None:
        filters.append(f"scale=w='min(iw,{max_size})':h='min(ih,{max_size})':force_original_aspect_ratio=decrease")
    words = ["-i", f"file:{video.resolve()}", "-map", "0:v:0", "-fps_mode", "passthrough", "-vf", ",".join(filters)]
    words += ["-pix_fmt", "yuvj444p", "-q:v", "2", "-start_number", "0"]
    command = _ffmpeg("-v", "error", *words, "chosen_%06d.jpg")  # a folder's name may hold a % too
    with tqdm(total=len(numbers), desc="write frames", unit="frame", disable=not progress) as bar:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        written = sorted(folder.glob("chosen_*.jpg"))
        if len(written) != len(numbers):
            reason = (done.stderr.strip().splitlines() or [f"{len(written)} of {len(numbers)} frames"])[-1]
            raise SplatlearnError(f"{video}: its frames could not be written to {folder}: {reason}")
        bar.update(len(written))
    names = [f"frame_{number:06d}.jpg" for number in numbers]
    for path, name in zip(written, names, strict=True):
        path.rename(folder / name)
    return names
