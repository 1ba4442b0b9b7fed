"""A scene as one HTML file that opens in any browser, offline: mouse and touch turn, move and zoom it."""

import base64
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splatlearn.ops import native
from splatlearn.ops.rasterization import rasterization
from splatlearn.scene.cameras import Camera
from splatlearn.scene.formats.checks import Arrays, Tensors, checked_arrays
from splatlearn.scene.formats.place import at_origin
from splatlearn.scene.formats.splat import SH0
from splatlearn.scene.frame import frame_of_cameras, frame_of_means
from splatlearn.show.packed_scene import packed, seen
from splatlearn.show.pages import render, write_page

MAX_DEGREE = 3
MOST_VIEWS = 48  # training cameras that the page can fly to, evenly chosen


def scene_html(
    tensors: Tensors,
    cameras: Sequence[Camera] = (),
    *,
    title: str = "scene",
    background: Sequence[float] = (0.0, 0.0, 0.0),
    antialiased: bool = False,
    sh_degree: int | None = None,
    limit: int | None = None,
) -> str:
    """A whole HTML document that shows a scene and loads nothing.

    Args:
        tensors: means, scales, quats, opacities, sh0, shN as of `Gaussians.tensors()`, raw, in COLMAP's frame; means
            also in float64.
        cameras: in the same frame; the page opens with the first one's view and can fly to the others; without, it
            shows everything.
        title: plain text.
        background: colour behind the scene, 0..1.
        antialiased: the scene was trained with opacities scaled for the low-pass filter.
        sh_degree: colours by direction up to this degree, at most 3; None: as many as there are.
        limit: keep at most so many Gaussians, those of the largest opacity times area.

    Raises:
        SplatlearnError: tensors that do not fit together or are not finite, or no Gaussian that could be seen.
    """
    arrays = seen(checked_arrays(tensors, Path("the page")), limit)
    frame = frame_of_cameras(cameras, arrays["means"]) if cameras else frame_of_means(arrays["means"])
    arrays = at_origin(arrays, frame)
    had = math.isqrt(arrays["shN"].shape[1] + 1) - 1
    degree = min(had, MAX_DEGREE, MAX_DEGREE if sh_degree is None else sh_degree)
    told, coded = packed(arrays, degree)
    places = np.linspace(0, len(cameras) - 1, min(len(cameras), MOST_VIEWS)).round().astype(int)
    chosen = [frame.normalised_camera(cameras[place]) for place in places]
    told |= {
        "background": [float(value) for value in background],
        "antialiased": antialiased,
        "blend": blend_constants() | {"near_plane": frame.near},
        "frame": frame.record(),
        "up": _up(chosen),
        "views": [_view(camera, arrays) for camera in chosen] or [_overview(arrays)],
    }
    told["reachable"] = float(np.median([view["depth"] for view in told["views"]]))
    content = base64.b64encode(coded).decode("ascii")
    return render("scene.html", title=title, told=told, packed=content)


def blend_constants() -> dict[str, float]:
    """The constants of the rasterizer that the page's shaders need: those of csrc/abi.h, and its default options.

    The near plane is that of the scene's frame.
    """
    defaults = inspect.signature(rasterization).parameters
    return {
        "alpha_threshold": native.ALPHA_THRESHOLD,
        "alpha_max": native.ALPHA_MAX,
        "eps2d": defaults["eps2d"].default,
        "sh0": SH0,
    }


def scene_frame(document: str, *, height: str = "70vh", title: str = "the scene") -> str:
    """An iframe that holds a document of `scene_html`, to be put into another page.

    That page's Content-Security-Policy is inherited: where it has no `worker-src blob:`, the scene is sorted without a
    worker, which is slower.
    """
    return render("frame.html", document=document, height=height, title=title)


def write_scene(path: Path | str, tensors: Tensors, cameras: Sequence[Camera] = (), **options: Any) -> Path:
    """Writes a document of `scene_html`, with its options, whole or not at all; returns its path."""
    return write_page(Path(path), scene_html(tensors, cameras, **options))


# ---- cameras ----


def _view(camera: Camera, arrays: Arrays) -> dict[str, Any]:
    """A camera for the page; `depth` is how far away lies what it looks at."""
    turn, shift = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    some = arrays["means"][:: len(arrays["means"]) // 20_000 + 1].astype(np.float64) @ turn.T + shift
    some = some[some[:, 2] > 1e-6]
    across = some[:, :2] / some[:, 2:] * np.diag(camera.K)[:2] / (camera.width, camera.height)
    ahead = some[(np.abs(across) < 0.2).all(axis=1), 2]
    K = camera.K
    return {
        "name": camera.name,
        "size": [camera.width, camera.height],
        "K": [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
        "turn": turn.tolist(),
        "eye": camera.center.tolist(),
        "depth": float(np.median(ahead)) if len(ahead) else 1.0,
    }


def _overview(arrays: Arrays) -> dict[str, Any]:
    """A view of everything, for a scene that comes without cameras: from the front, a little above."""
    centre = np.median(arrays["means"].astype(np.float64), axis=0)
    radius = float(np.percentile(np.linalg.norm(arrays["means"] - centre, axis=1), 80)) or 1.0
    forward = np.array([0.0, 0.25, 1.0]) / math.hypot(0.25, 1.0)
    right = np.array([1.0, 0.0, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = [right, np.cross(forward, right), forward]
    distance = 2.2 * radius
    pose[:3, 3] = -pose[:3, :3] @ (centre - distance * forward)
    K = np.array([[900.0, 0, 480], [0, 900.0, 360], [0, 0, 1]])
    return _view(Camera("everything", 960, 720, K, pose), arrays) | {"depth": distance}


def _up(cameras: Sequence[Camera]) -> list[float]:
    """The unit vertical about which a drag turns: the mean of the cameras' own, or COLMAP's -y."""
    mean = -np.sum([camera.world_to_camera[1, :3] for camera in cameras], axis=0) if cameras else np.zeros(3)
    length = float(np.linalg.norm(mean))
    return (mean / length).tolist() if length > 0.3 * len(cameras) else [0.0, -1.0, 0.0]
