"""From a real lens to an ideal pinhole: which view to take, and where each of its pixels lies in the photo.

pycolmap knows the equations of all camera models and chooses the pinhole's size (the largest that shows no
blank pixels, as COLMAP's image_undistorter does); the photograph itself is resampled by `warp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.ops.pages import own_pages, scratch
from splatlearn.scene.readers.colmap_records import Lens
from splatlearn.scene.sfm_library import load_pycolmap

# These are pinholes when their distortion is zero. pycolmap's is_undistorted() cannot tell: it says True for
# a fisheye without extra parameters too.
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
# A pinhole stretches towards 180 degrees: its many blurred pixels at the border outweigh the sharp middle.
WIDEST_VIEW_DEGREES = 130.0
# COLMAP looks for a pinhole down to this part of the photograph's size and ends there when the lens's border
# lies beyond 180 degrees, where its equation has no answer.
_SMALLEST_SCALE = 0.2
_RAYS_AT_ONCE = 1 << 17

# A panorama has no single pinhole view: it becomes the six faces of a cube, each x right, y down, z forward.
# Columns are the face's axes in the panorama's frame.
_CUBE_FACES: dict[str, list[list[float]]] = {
    "front": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "right": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
    "back": [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
    "left": [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
    "up": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "down": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
}


@dataclass(frozen=True, eq=False)
class PinholeView:
    """An ideal pinhole picture taken out of a photograph.

    lens: the model's camera; scale: the photograph's pixels per pixel of that camera, along x and y.
    source_size: width and height of the photograph as it is resampled.
    width, height, K: the pinhole.
    lens_from_view: [3, 3], the rotation from the pinhole's frame to the lens's.
    suffix: tells apart several views of one photograph, else "".
    resampled: False where the photograph already is this view.
    """

    lens: Lens
    scale: tuple[float, float]
    source_size: tuple[int, int]
    width: int
    height: int
    K: np.ndarray
    lens_from_view: np.ndarray
    suffix: str = ""
    resampled: bool = True


def pinhole_views(lens: Lens, source_size: tuple[int, int], scale: tuple[float, float]) -> list[PinholeView]:
    """The pinhole views of a photograph of `source_size` pixels, `scale` times those that its lens speaks of.

    One view for every model but EQUIRECTANGULAR, which gives the six faces of a cube.
    Raises SplatlearnError for a lens whose equation gives no usable view.
    """
    if lens.model == "EQUIRECTANGULAR":
        return _cube(lens, source_size, scale)
    named = lens.named()
    scale_x, scale_y = scale
    fx, fy = named.get("fx", named.get("f", 0.0)) * scale_x, named.get("fy", named.get("f", 0.0)) * scale_y
    cx, cy = named["cx"] * scale_x, named["cy"] * scale_y
    distortion = [value for key, value in named.items() if key not in ("f", "fx", "fy", "cx", "cy")]
    if lens.model in PERSPECTIVE and not any(distortion):
        width, height = source_size
        K = _intrinsics(fx, fy, cx, cy)
        return [PinholeView(lens, scale, source_size, width, height, K, np.eye(3), resampled=False)]
    width, height, K = _undistorted(lens, source_size, scale)
    return [PinholeView(lens, scale, source_size, width, height, K, np.eye(3))]


def _intrinsics(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _pycolmap_camera(lens: Lens, size: tuple[int, int], params: tuple[float, ...]) -> Any:
    pycolmap = load_pycolmap()

    try:
        return pycolmap.Camera(model=lens.model, width=size[0], height=size[1], params=list(params))
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:  # or a model that it does not know
        raise _unusable(lens, str(error)) from None


def _unusable(lens: Lens, why: str) -> SplatlearnError:
    why = " ".join(why.split()).rstrip(".")
    return SplatlearnError(f"Camera {lens.id} ({lens.model}, {lens.width}x{lens.height}) cannot be undistorted: {why}.")


def _undistorted(lens: Lens, source_size: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int, np.ndarray]:
    """Width, height and intrinsics of the pinhole that COLMAP would choose, cut to WIDEST_VIEW_DEGREES."""
    pycolmap = load_pycolmap()

    factors = {"f": (scale[0] + scale[1]) / 2, "fx": scale[0], "fy": scale[1], "cx": scale[0], "cy": scale[1]}
    params = tuple(value * factors.get(key, 1.0) for key, value in lens.named().items())
    try:
        pinhole = pycolmap.undistort_camera(
            pycolmap.UndistortCameraOptions(), _pycolmap_camera(lens, source_size, params)
        )
    except (ValueError, RuntimeError) as error:
        raise _unusable(lens, str(error)) from None
    width, height = int(pinhole.width), int(pinhole.height)
    fx, fy, cx, cy = (float(value) for value in pinhole.params)
    if width <= source_size[0] * _SMALLEST_SCALE + 1:
        named = dict(zip(lens.named(), params, strict=True))
        (width, height), cx, cy = source_size, named["cx"], named["cy"]
    if not all(map(math.isfinite, (fx, fy, cx, cy))) or min(fx, fy) <= 0:
        raise _unusable(lens, f"its pinhole would have the parameters {[fx, fy, cx, cy]}")
    reach = math.tan(math.radians(WIDEST_VIEW_DEGREES / 2))
    left, right = max(0, math.ceil(cx - reach * fx)), min(width, math.floor(cx + reach * fx))
    top, bottom = max(0, math.ceil(cy - reach * fy)), min(height, math.floor(cy + reach * fy))
    if right <= left or bottom <= top:
        raise _unusable(lens, f"nothing of its picture lies near its axis, at pixel ({cx:.6g}, {cy:.6g})")
    return right - left, bottom - top, _intrinsics(fx, fy, cx - left, cy - top)


def _cube(lens: Lens, source_size: tuple[int, int], scale: tuple[float, float]) -> list[PinholeView]:
    side = max(1, round(source_size[0] / 4))  # a face spans a quarter of the panorama's width
    K = _intrinsics(side / 2, side / 2, side / 2, side / 2)
    return [
        PinholeView(lens, scale, source_size, side, side, K, np.array(axes, dtype=np.float64), f"#{face}")
        for face, axes in _CUBE_FACES.items()
    ]


def sampling_grid(view: PinholeView) -> torch.Tensor:
    """Where each pixel of the view lies in its photograph: [1, height, width, 2] float32 for `warp`.

    Coordinates are x, y with -1 and 1 at the photograph's outer borders; a place outside of it is (-3, -3).
    """
    width, height = view.source_size
    columns, rows = np.arange(view.width) + 0.5, np.arange(view.height) + 0.5
    camera = _pycolmap_camera(view.lens, (view.lens.width, view.lens.height), view.lens.params)
    grid = np.empty((view.height, view.width, 2), dtype=np.float32)
    step = max(1, _RAYS_AT_ONCE // view.width)
    for top in range(0, view.height, step):
        some = rows[top : top + step]
        rays = np.ones((len(some), view.width, 3))
        rays[..., 0] = (columns - view.K[0, 2]) / view.K[0, 0]
        rays[..., 1] = ((some - view.K[1, 2]) / view.K[1, 1])[:, None]
        rays = rays.reshape(-1, 3) @ view.lens_from_view.T
        # The model's own pixels times the exact scale of each axis: right for one focal length too.
        places = camera.img_from_cam(rays) * view.scale
        with np.errstate(invalid="ignore"):
            inside = ((places >= 0) & (places <= (width, height))).all(axis=1)
        # The outer half of a border pixel has no neighbour to blend with.
        places = np.clip(places, 0.5, (width - 0.5, height - 0.5))
        places = np.where(inside[:, None], places * (2 / width, 2 / height) - 1, -3.0)
        grid[top : top + step] = places.reshape(len(some), view.width, 2)
    return torch.from_numpy(grid)[None]


def warp(photo: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Resamples `photo` [H, W, 3] uint8 bilinearly at a `sampling_grid`: [height, width, 3] uint8.

    Rows are sampled some at a time, so that little memory is in use besides photo and result.
    """
    planes = scratch((1, 3, photo.shape[0], photo.shape[1]), torch.float32).copy_(photo.permute(2, 0, 1)[None])
    height, width = grid.shape[1:3]
    result = own_pages((height, width, 3), torch.uint8)
    step = max(1, _RAYS_AT_ONCE // width)
    for top in range(0, height, step):
        rows = grid[:, top : top + step]
        sampled = torch.nn.functional.grid_sample(
            planes, rows, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        result[top : top + step] = sampled[0].round_().clamp_(0, 255).permute(1, 2, 0)
    return result
