"""Undistort images of any COLMAP camera model to ideal pinholes: choose the pinhole, then resample the image.

pycolmap evaluates the camera models and chooses the pinhole's size, the largest without blank pixels, as COLMAP's
image_undistorter does. `warp` resamples the image itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.ops.pages import own_pages, scratch
from splatlearn.scene.readers.colmap_records import Intrinsics
from splatlearn.scene.sfm_library import load_pycolmap

# These models are pinholes if their distortion is zero. pycolmap's is_undistorted() does not decide this: it also
# returns True for a fisheye without extra parameters.
PERSPECTIVE = (
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "SIMPLE_DIVISION",
    "DIVISION",
)
# A pinhole stretches the border without limit towards 180 degrees; its many blurred pixels outweigh the sharp middle.
WIDEST_VIEW_DEGREES = 130.0
# COLMAP reduces the pinhole down to this fraction of the image's size. It stops there if the image's border lies
# beyond 180 degrees, where the pinhole equation has no solution.
_SMALLEST_SCALE = 0.2
_RAY_BATCH = 1 << 17

# No single pinhole covers a panorama: it becomes the six faces of a cube, each x right, y down, z forward.
# The columns are the face's axes in the panorama's frame.
_CUBE_FACES: dict[str, list[list[float]]] = {
    "front": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "right": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
    "back": [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
    "left": [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
    "up": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "down": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
}


@dataclass(frozen=True, eq=False)
class Undistortion:
    """The mapping from a source image to one ideal pinhole image.

    Attributes:
        intrinsics: the source's camera in the COLMAP model.
        scale: pixels of the source per pixel of that camera, along x and y.
        source_size: width and height in pixels of the source that is resampled.
        width, height: the pinhole image's size in pixels.
        K: [3, 3] float64, the pinhole's intrinsic matrix in pixels.
        source_from_pinhole: [3, 3] float64, the rotation from the pinhole camera's frame to the source camera's.
        suffix: distinguishes several pinhole images of one source, else "".
        resampled: False if the source already is the pinhole image.
    """

    intrinsics: Intrinsics
    scale: tuple[float, float]
    source_size: tuple[int, int]
    width: int
    height: int
    K: np.ndarray
    source_from_pinhole: np.ndarray
    suffix: str = ""
    resampled: bool = True


def undistortions(
    intrinsics: Intrinsics, source_size: tuple[int, int], scale: tuple[float, float]
) -> list[Undistortion]:
    """Choose the pinholes for an image: one, or the six faces of a cube for EQUIRECTANGULAR.

    Args:
        intrinsics: the image's camera in the COLMAP model.
        source_size: width and height of the image in pixels.
        scale: pixels of the image per pixel of `intrinsics`, along x and y.

    Raises:
        SplatlearnError: the camera model with these parameters has no usable pinhole.
    """
    if intrinsics.model == "EQUIRECTANGULAR":
        return _cube(intrinsics, source_size, scale)
    named = intrinsics.named()
    scale_x, scale_y = scale
    fx, fy = named.get("fx", named.get("f", 0.0)) * scale_x, named.get("fy", named.get("f", 0.0)) * scale_y
    cx, cy = named["cx"] * scale_x, named["cy"] * scale_y
    distortion = [value for key, value in named.items() if key not in ("f", "fx", "fy", "cx", "cy")]
    if intrinsics.model in PERSPECTIVE and not any(distortion):
        width, height = source_size
        K = _intrinsic_matrix(fx, fy, cx, cy)
        return [Undistortion(intrinsics, scale, source_size, width, height, K, np.eye(3), resampled=False)]
    width, height, K = _undistorted_pinhole(intrinsics, source_size, scale)
    return [Undistortion(intrinsics, scale, source_size, width, height, K, np.eye(3))]


def _intrinsic_matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _pycolmap_camera(intrinsics: Intrinsics, size: tuple[int, int], params: tuple[float, ...]) -> Any:
    pycolmap = load_pycolmap()

    try:
        return pycolmap.Camera(model=intrinsics.model, width=size[0], height=size[1], params=list(params))
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:  # or a model that it does not know
        raise _unusable(intrinsics, str(error)) from None


def _unusable(intrinsics: Intrinsics, why: str) -> SplatlearnError:
    why = " ".join(why.split()).rstrip(".")
    return SplatlearnError(
        f"Camera {intrinsics.id} ({intrinsics.model}, {intrinsics.width}x{intrinsics.height}) "
        f"cannot be undistorted: {why}."
    )


def _undistorted_pinhole(
    intrinsics: Intrinsics, source_size: tuple[int, int], scale: tuple[float, float]
) -> tuple[int, int, np.ndarray]:
    """Return width, height and K of the pinhole that COLMAP would choose, cropped to WIDEST_VIEW_DEGREES."""
    pycolmap = load_pycolmap()

    factors = {"f": (scale[0] + scale[1]) / 2, "fx": scale[0], "fy": scale[1], "cx": scale[0], "cy": scale[1]}
    params = tuple(value * factors.get(key, 1.0) for key, value in intrinsics.named().items())
    try:
        pinhole = pycolmap.undistort_camera(
            pycolmap.UndistortCameraOptions(), _pycolmap_camera(intrinsics, source_size, params)
        )
    except (ValueError, RuntimeError) as error:
        raise _unusable(intrinsics, str(error)) from None
    width, height = int(pinhole.width), int(pinhole.height)
    fx, fy, cx, cy = (float(value) for value in pinhole.params)
    if width <= source_size[0] * _SMALLEST_SCALE + 1:
        named = dict(zip(intrinsics.named(), params, strict=True))
        (width, height), cx, cy = source_size, named["cx"], named["cy"]
    if not all(map(math.isfinite, (fx, fy, cx, cy))) or min(fx, fy) <= 0:
        raise _unusable(intrinsics, f"its pinhole would have the parameters {[fx, fy, cx, cy]}")
    reach = math.tan(math.radians(WIDEST_VIEW_DEGREES / 2))
    left, right = max(0, math.ceil(cx - reach * fx)), min(width, math.floor(cx + reach * fx))
    top, bottom = max(0, math.ceil(cy - reach * fy)), min(height, math.floor(cy + reach * fy))
    if right <= left or bottom <= top:
        raise _unusable(intrinsics, f"nothing of its picture lies near its axis, at pixel ({cx:.6g}, {cy:.6g})")
    return right - left, bottom - top, _intrinsic_matrix(fx, fy, cx - left, cy - top)


def _cube(intrinsics: Intrinsics, source_size: tuple[int, int], scale: tuple[float, float]) -> list[Undistortion]:
    side = max(1, round(source_size[0] / 4))  # a face spans a quarter of the panorama's width
    K = _intrinsic_matrix(side / 2, side / 2, side / 2, side / 2)
    return [
        Undistortion(intrinsics, scale, source_size, side, side, K, np.array(axes, dtype=np.float64), f"#{face}")
        for face, axes in _CUBE_FACES.items()
    ]


def sampling_grid(undistortion: Undistortion) -> torch.Tensor:
    """Compute where each pixel of the pinhole image lies in the source.

    Returns:
        [1, height, width, 2] float32 for `warp`: x, y with -1 and 1 at the source's outer borders, and (-3, -3) for
        a pixel outside of it.
    """
    width, height = undistortion.source_size
    columns, rows = np.arange(undistortion.width) + 0.5, np.arange(undistortion.height) + 0.5
    camera = _pycolmap_camera(
        undistortion.intrinsics,
        (undistortion.intrinsics.width, undistortion.intrinsics.height),
        undistortion.intrinsics.params,
    )
    grid = np.empty((undistortion.height, undistortion.width, 2), dtype=np.float32)
    step = max(1, _RAY_BATCH // undistortion.width)
    for top in range(0, undistortion.height, step):
        batch = rows[top : top + step]
        rays = np.ones((len(batch), undistortion.width, 3))
        rays[..., 0] = (columns - undistortion.K[0, 2]) / undistortion.K[0, 0]
        rays[..., 1] = ((batch - undistortion.K[1, 2]) / undistortion.K[1, 1])[:, None]
        rays = rays.reshape(-1, 3) @ undistortion.source_from_pinhole.T
        # Project in the model's pixels, then scale each axis: this is exact for models of one focal length too.
        pixels = camera.img_from_cam(rays) * undistortion.scale
        with np.errstate(invalid="ignore"):
            inside = ((pixels >= 0) & (pixels <= (width, height))).all(axis=1)
        # The outer half of a border pixel has no neighbour to interpolate with.
        pixels = np.clip(pixels, 0.5, (width - 0.5, height - 0.5))
        pixels = np.where(inside[:, None], pixels * (2 / width, 2 / height) - 1, -3.0)
        grid[top : top + step] = pixels.reshape(len(batch), undistortion.width, 2)
    return torch.from_numpy(grid)[None]


def warp(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Resample an image bilinearly at a `sampling_grid`, in batches of rows that bound the memory in use.

    Args:
        image: [H, W, 3] uint8.
        grid: [1, height, width, 2] float32, as `sampling_grid` returns it.

    Returns:
        [height, width, 3] uint8; black where the grid lies outside of the image.
    """
    planes = scratch((1, 3, image.shape[0], image.shape[1]), torch.float32).copy_(image.permute(2, 0, 1)[None])
    height, width = grid.shape[1:3]
    result = own_pages((height, width, 3), torch.uint8)
    step = max(1, _RAY_BATCH // width)
    for top in range(0, height, step):
        rows = grid[:, top : top + step]
        sampled = torch.nn.functional.grid_sample(
            planes, rows, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        result[top : top + step] = sampled[0].round_().clamp_(0, 255).permute(1, 2, 0)
    return result
