"""The user's settings of a reconstruction, checked before anything is read or written."""

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

    Attributes:
        camera_model: a COLMAP camera model.
        cameras: "auto" (images of equal size, maker, model and focal length share a camera), "shared" (one for all,
            which must have one size) or "per-image".
        matching: "exhaustive" (all pairs), "sequential" (neighbours by name) or "auto" (by the number of images).
        frames: how many frames to take of a video; None: two per second, 30 to 150.
        max_size: longer side of the copies in pixels at most; None: unchanged.
        masks: a folder of masks in COLMAP's naming.
        max_features: SIFT features per image.
        max_image_size: longer side in pixels to which images are reduced for feature extraction.
        seed: of all random numbers.
        threads: None: all processors available to this process. With 1, the same images and seed give the same bits.
            With more, pycolmap's threads occasionally find other matches for a few pairs.
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
        """Raise SplatlearnError naming the first invalid setting."""
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
        """Return the number of threads to use."""
        return self.threads or len(os.sched_getaffinity(0))
