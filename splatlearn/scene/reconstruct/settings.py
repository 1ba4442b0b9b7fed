"""What a user can choose about a reconstruction, checked before anything is read or written."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from splatlearn.errors import SplatlearnError
from splatlearn.scene.sfm_library import load_pycolmap

Cameras = Literal["auto", "shared", "per-image"]
Matching = Literal["auto", "exhaustive", "sequential"]


@dataclass(frozen=True)
class Settings:
    """How to reconstruct.

    camera_model: a COLMAP model. cameras: one for photographs of one size, maker, model and focal length ("auto"), one
    for all ("shared", which needs one size), or one each ("per-image").
    matching: every pair ("exhaustive"), followers by name ("sequential"), or by count ("auto").
    frames: how many to take of a video; None: two a second, 30 to 150.
    max_size: the copies' longer side in pixels at most; None: as they are. masks: a folder in COLMAP's naming.
    max_features: SIFT features a photograph. max_image_size: longer sides are reduced to it before features are sought.
    threads: None: all processors that this process may use. With 1 the same photographs and seed give the same bits;
    with more they mostly do, but pycolmap's threads now and then find other matches for a pair or two.
    """

    camera_model: str = "OPENCV"
    cameras: Cameras = "auto"
    matching: Matching = "auto"
    frames: int | None = None
    max_size: int | None = None
    masks: Path | None = None
    max_features: int = 4096
    max_image_size: int = 1600
    seed: int = 0
    threads: int | None = None

    def check(self) -> None:
        """Raises SplatlearnError naming the first setting that is no good."""
        pycolmap = load_pycolmap()

        known = sorted(name for name in pycolmap.CameraModelId.__members__ if name != "INVALID")
        if self.camera_model not in known:
            raise SplatlearnError(f"camera_model: expected one of {', '.join(known)}, got {self.camera_model!r}")
        for name, kind in (("cameras", Cameras), ("matching", Matching)):
            if getattr(self, name) not in get_args(kind):
                raise SplatlearnError(f"{name}: expected {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        least = {"frames": 3, "max_size": 64, "max_features": 100, "max_image_size": 64, "threads": 1, "seed": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not smallest <= value < 2**31:
                raise SplatlearnError(f"{name}: expected a whole number of at least {smallest}, got {value}")
        if self.masks is not None and not self.masks.is_dir():
            raise SplatlearnError(f"masks: expected a folder, got {str(self.masks)!r}, which is none")

    def thread_count(self) -> int:
        """Threads to use."""
        return self.threads or len(os.sched_getaffinity(0))
