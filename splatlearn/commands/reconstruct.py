"""splatlearn reconstruct: from photographs or a video to a COLMAP folder, with a report in plain words.

It writes OUT/images (copies), OUT/sparse/0 (the model), and the report as OUT/reconstruction.txt and .json. Photographs
are only ever read. The same command goes on where an earlier one was stopped.
"""

import sys
from pathlib import Path
from shlex import quote
from typing import Any

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.loop import Interrupted

VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".3gp")


def run(words: list[str]) -> None:
    parser = Parser("reconstruct", __doc__)
    parser.add_argument("source", type=Path, metavar="PHOTOS_OR_VIDEO", help="a folder of photographs, or a video")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; new, or of a run that was stopped")
    parser.add_argument("--frames", type=int, help="frames to take of a video (default: 2 a second, 30 to 150)")
    parser.add_argument("--max-size", type=int, help="longer side of the copies in pixels (default: as they are)")
    parser.add_argument(
        "--cameras", default="auto", help="auto (alike by size and EXIF), shared or per-image (default: auto)"
    )
    parser.add_argument("--camera-model", default="OPENCV", help="COLMAP's camera model (default: OPENCV)")
    parser.add_argument(
        "--matching", default="auto", help="auto (by count), exhaustive (all pairs) or sequential (neighbours by name)"
    )
    parser.add_argument("--masks", type=Path, help="folder of masks in COLMAP's naming: photo.jpg.png, black: ignored")
    parser.add_argument("--max-features", type=int, default=4096, help="SIFT features a photograph (default: 4096)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random (default: 0)")
    parser.add_argument("--threads", type=int, help="threads (default: all; with 1 a run repeats to the bit)")
    a = parser.parse_args(words)
    reconstruct_told(
        a.source.expanduser(),
        a.out.expanduser(),
        cameras=a.cameras,
        camera_model=a.camera_model,
        matching=a.matching,
        frames=a.frames,
        max_size=a.max_size,
        masks=a.masks,
        max_features=a.max_features,
        seed=a.seed,
        threads=a.threads,
    )
    print(f"wrote {a.out}; to learn the scene: splatlearn train configs/scene.yaml --data.path {a.out}")


def reconstruct_told(source: Path, out: Path, **settings: Any) -> None:
    """Reconstructs and prints the report."""
    from splatlearn.scene.reconstruct import Settings, reconstruct

    try:
        report = reconstruct(source, out, Settings(**settings))
    except KeyboardInterrupt:
        raise Interrupted(0, "stopped; the same command goes on from here") from None
    print(report.text(), end="")


# ---- photographs where `splatlearn train` expects a COLMAP folder ----


def ready(path: str, answer: str) -> str:
    """The COLMAP folder to learn from: `path` itself, or what is made of the photographs or the video at `path`.

    answer: "yes" to reconstruct without a question, "ask" (a terminal is asked, all else is told the command), "no".
    The new folder stands beside `path` and is used again the next time.
    """
    source = Path(path).expanduser()
    photos = None if answer == "no" or not path else _photographs_at(source)
    if photos is None:
        return path
    whole = source.resolve()
    out = whole.with_name(f"{whole.stem if photos.is_file() else whole.name}_colmap")
    if (out / "sparse" / "0").is_dir():
        print(f"{source} was reconstructed before: learning from {out}")
        return str(out)
    what = "a video" if photos.is_file() else "a folder of photographs without their cameras"
    if answer == "ask":
        if not sys.stdin.isatty():
            raise SplatlearnError(
                f"{source} is {what}: run `splatlearn reconstruct {quote(str(photos))} {quote(str(out))}` first and "
                f"learn from {out}, or add --data.reconstruct yes"
            )
        told = input(f"{source} is {what}. Find the cameras first, into {out}? [Y/n] ").strip().lower()
        if told not in ("", "y", "yes"):
            raise SplatlearnError(f"{source} is {what}, and without cameras nothing can be learned")
    reconstruct_told(photos, out)
    return str(out)


def is_photographs(path: Path) -> bool:
    """Whether `train` is given pictures and not a config: a COLMAP folder, one of photographs, or a video."""
    if path.is_dir():
        return (path / "sparse").is_dir() or _photographs_at(path) is not None
    return path.is_file() and path.suffix.lower() in VIDEOS


def _photographs_at(source: Path) -> Path | None:
    """The video, or the folder of photographs, at `source`; None where there is a model, or nothing of the kind."""
    from splatlearn.scene.reconstruct.frames import check_video
    from splatlearn.scene.reconstruct.gather import find_images

    try:
        if source.is_file():
            check_video(source)
            return source
        if (source / "sparse").exists():
            return None
        photos = source / "images" if (source / "images").is_dir() else source
        find_images(photos)
        return photos
    except SplatlearnError:
        return None
