"""A few small photographs of the still life for tests of structure from motion, and what tests ask of folders."""

import functools
import hashlib
from pathlib import Path

import numpy as np

from splatlearn.demo import still_life

WIDTH, HEIGHT = 320, 240


def poses(count: int) -> np.ndarray:
    """World to camera [count, 4, 4]: neighbours on the low ring of forty, about 14 degrees apart."""
    return still_life.camera_poses()[:count]


@functools.cache
def _still_life() -> still_life.StillLife:
    return still_life.StillLife(detail=0.67)


@functools.cache
def _photograph(index: int) -> np.ndarray:
    rays = still_life.pixel_rays(still_life.lens(WIDTH, HEIGHT))
    return _still_life().photograph(rays, poses(index + 1)[index])


def make(folder: Path, count: int) -> Path:
    """Writes "photo 0.jpg" and so on into `folder`, which is returned; each is computed once a session."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        still_life.save_jpeg(folder / f"photo {index}.jpg", _photograph(index))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder, by its relative path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def touched(folder: Path, *names: str) -> Path:
    """Makes empty files of these relative names; returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder
