"""Extract frames of a video: the sharpest frame of each of N equal segments, by the ffmpeg of imageio-ffmpeg.

The first pass reads all frames small and grey and measures the variance of the Laplacian. The second pass writes the
chosen frames in full size. Both number the frames in decoding order, so that a variable frame rate does not matter.
Sound, subtitles and further video streams are ignored; a rotation in the metadata is applied.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.scene.reconstruct.gather import sharpness

MEASURED_WIDTH, MEASURED_HEIGHT = 960, 540  # size at which sharpness is measured, whatever the frames' aspect ratio
FRAMES_PER_SECOND, FEWEST, MOST = 2, 30, 150  # frames taken of a video, unless their number is given
MIN_FRAMES = 3  # a video must have at least as many


def frame_count(frames: int, seconds: float, wanted: int | None) -> int:
    """Return how many frames to take of a video of `frames` frames."""
    count = wanted or min(max(round(FRAMES_PER_SECOND * seconds), FEWEST), MOST)
    return min(count, frames)


def sharpest_frames(sharpnesses: Sequence[float], count: int) -> list[int]:
    """Return the number of the sharpest frame of each of `count` segments, whose lengths differ by at most one."""
    borders = [len(sharpnesses) * segment // count for segment in range(count + 1)]
    values = np.asarray(sharpnesses)
    return [begin + int(values[begin:end].argmax()) for begin, end in zip(borders, borders[1:], strict=False)]


def extract_frames(
    video: Path, folder: Path, *, frames: int | None = None, max_size: int | None = None, progress: bool = False
) -> list[str]:
    """Write the sharpest frames into a folder as frame_NNNNNN.jpg, numbered as in the video.

    Args:
        video: the video file.
        folder: where to write; created if missing.
        frames: how many to take; None: FRAMES_PER_SECOND, within FEWEST and MOST.
        max_size: longer side in pixels at most; None: full size.
        progress: show progress bars.

    Returns:
        The names of the written files.

    Raises:
        SplatlearnError: the file is not a video, has fewer than MIN_FRAMES frames, or the frames cannot be written.
    """
    seconds, expected = check_video(video)
    with tqdm(total=expected, desc="measure frames", unit="frame", disable=not progress) as bar:
        sharpnesses = []
        for grey in _grey_frames(video):
            sharpnesses.append(sharpness(grey))
            bar.update()
    if len(sharpnesses) < MIN_FRAMES:
        raise SplatlearnError(f"{video}: expected a video of at least {MIN_FRAMES} frames, got {len(sharpnesses)}")
    numbers = sharpest_frames(sharpnesses, frame_count(len(sharpnesses), seconds, frames))
    return _write_frames(video, folder, numbers, max_size, progress)


def _ffmpeg(*arguments: str) -> list[str]:
    from imageio_ffmpeg import get_ffmpeg_exe

    return [get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *arguments]


def check_video(video: Path) -> tuple[float, int | None]:
    """Return the video's duration in seconds by its header and its approximate number of frames, None if unknown.

    Raises:
        SplatlearnError: the file cannot be read or has no video stream.
    """
    try:
        with video.open("rb"):
            pass
    except OSError as error:
        raise SplatlearnError(f"{video} cannot be read: {error.strerror}") from None
    # Without an output file ffmpeg prints the streams and exits with an error, as intended here.
    output = subprocess.run(_ffmpeg("-i", f"file:{video}"), capture_output=True, text=True, errors="replace").stderr
    if not re.search(r"^\s*Stream #0.*: Video:", output, re.MULTILINE):
        raise SplatlearnError(f"{video}: expected a video, got a file without a video stream that ffmpeg can read")
    clock = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", output)
    rate = re.search(r"([\d.]+) (?:fps|tbr)", output)
    seconds = sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True)) if clock else 0
    return seconds, round(seconds * float(rate[1])) if rate and seconds else None


def _grey_frames(video: Path) -> Iterator[np.ndarray]:
    """Yield every frame as [MEASURED_HEIGHT, MEASURED_WIDTH] uint8."""
    arguments = ["-i", f"file:{video}", "-map", "0:v:0", "-fps_mode", "passthrough"]
    arguments += ["-vf", f"scale={MEASURED_WIDTH}:{MEASURED_HEIGHT}:flags=area,format=gray", "-f", "rawvideo", "-"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(_ffmpeg("-v", "error", *arguments), stdout=subprocess.PIPE, stderr=complaints)
        assert process.stdout is not None
        count = MEASURED_WIDTH * MEASURED_HEIGHT
        try:
            while len(data := process.stdout.read(count)) == count:
                yield np.frombuffer(data, np.uint8).reshape(MEASURED_HEIGHT, MEASURED_WIDTH)
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _write_frames(video: Path, folder: Path, numbers: list[int], max_size: int | None, progress: bool) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = "+".join(f"eq(n\\,{number})" for number in numbers)
    filters = f"select={wanted}"
    if max_size is not None:
        filters += f",scale=w='min(iw,{max_size})':h='min(ih,{max_size})':force_original_aspect_ratio=decrease"
    arguments = ["-i", f"file:{video.resolve()}", "-map", "0:v:0", "-fps_mode", "passthrough", "-vf", filters]
    arguments += ["-pix_fmt", "yuvj444p", "-q:v", "2", "-start_number", "0"]
    command = _ffmpeg("-v", "error", *arguments, "chosen_%06d.jpg")  # run within the folder, whose name may contain a %
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
