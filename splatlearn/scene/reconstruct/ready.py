"""Photographs or a video where a scene's folder is expected: found, and reconstructed on request."""

import sys
from pathlib import Path
from shlex import quote
from typing import Any

from splatlearn.errors import SplatlearnError
from splatlearn.interrupt import Interrupted, number_of
from splatlearn.scene.photos.suffixes import VIDEOS


def reconstruct_and_report(source: Path, out: Path, **settings: Any) -> None:
    """Reconstruct the cameras of photographs into a COLMAP folder, and print the report.

    Args:
        source: A folder of photographs, or a video.
        out: The COLMAP folder to write.
        settings: Fields of `Settings`.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the same call continues.
    """
    from splatlearn.scene.reconstruct import Settings, reconstruct

    try:
        report = reconstruct(source, out, Settings(**settings))
    except KeyboardInterrupt as stopped:
        sentence = "stopped; the same command goes on from here"
        raise Interrupted(0, sentence, number_of(stopped)) from None
    print(report.text(), end="")


def ready(path: str, answer: str) -> str:
    """The folder to train on: `path` itself, or what is reconstructed from the photographs or the video at `path`.

    Args:
        path: A path as a user gives it; "" for none.
        answer: "yes" to reconstruct without a question, "ask" (in a terminal; elsewhere the command is named), "no".

    Returns:
        `path`, or the new folder beside it, which is used again the next time.
    """
    source = Path(path).expanduser()
    photos = None if answer == "no" or not path else _photographs_at(source)
    if photos is None and path and source.is_dir() and not (source / "sparse").exists():
        _refuse_left_out(source)
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
        reply = input(f"{source} is {what}. Find the cameras first, into {out}? [Y/n] ").strip().lower()
        if reply not in ("", "y", "yes"):
            raise SplatlearnError(f"{source} is {what}, and without cameras nothing can be learned")
    reconstruct_and_report(photos, out)
    return str(out)


def is_photographs(path: Path) -> bool:
    """Whether a path is a COLMAP folder, a folder of photographs, or a video; and not, for example, a config."""
    if path.is_dir():
        if not (path / "sparse").exists():
            _refuse_left_out(path)
        return (path / "sparse").is_dir() or _photographs_at(path) is not None
    return path.is_file() and path.suffix.lower() in VIDEOS


def _refuse_left_out(folder: Path) -> None:
    """Raise where a folder without a model has photographs that cannot be read: nothing else names them."""
    from splatlearn.scene.reconstruct.gather import OnlyLeftOut, find_images

    try:
        find_images(folder)
    except OnlyLeftOut:
        raise
    except SplatlearnError:
        return


def _photographs_at(source: Path) -> Path | None:
    """The video, or the folder of photographs, at `source`; None where there is a model, or nothing of the kind."""
    from splatlearn.scene.reconstruct.frames import check_video
    from splatlearn.scene.reconstruct.gather import find_images

    if source.is_file() and source.suffix.lower() in VIDEOS:
        check_video(source)  # whatever is wrong with it
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
