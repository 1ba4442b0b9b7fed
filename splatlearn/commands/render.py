"""splatlearn render: pictures or a video of a trained scene, along a path: colours, depth or opacity."""

import json
import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from splatlearn.commands.arguments import Parser
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing
from splatlearn.run import config_of, open_run
from splatlearn.scene.cameras import Camera
from splatlearn.scene.evaluate import image_file
from splatlearn.scene.load import scene_config
from splatlearn.scene.timelapse import film

VIDEO = (".mp4", ".gif")
PHOTOS, FLIGHTS = ("test", "train"), ("orbit", "spiral", "interpolate")
MODES = ("rgb", "depth", "alpha")
RAW = ("png16", "npy")
OF_SCENES = ("--path", "--mode", "--raw", "--frames", "--size", "--width")  # options that a film has no use for
FRAMES = 120  # along a path that does not say how long it takes
FPS = 30.0
MOST_PIXELS = 16384  # a side
COVERED = 0.5  # opacity from which a pixel has a depth
DEPTH_VIEWS = 5  # of a path, from which its range of depths is taken
HEADROOM = 2.0  # by which a 16-bit depth may exceed the farthest of that range


@dataclass(frozen=True)
class Wish:
    """What to draw: mode (of MODES), raw (of RAW, for depth, or ""), fps and frames or None, size "W", "WxH" or "".

    What is None or "" is left to the path and the photographs.
    """

    mode: str = "rgb"
    raw: str = ""
    fps: float | None = None
    frames: int | None = None
    size: str = ""


def run(words: list[str]) -> None:
    from splatlearn.show.report import write_report

    a = _arguments(words)
    frames = _frames(a)
    made = _film(a, words) if a.timelapse else _scene(a, Wish(a.mode, a.raw, a.fps, frames, a.size))
    print(f"wrote {made}")
    write_report(a.run)  # which shows the videos of its run folder


def _scene(a: Namespace, wish: Wish) -> Path:
    scene_config(a.run)
    task, _ = open_run(a.run, allow_changed_data=True)
    return render(task, a.run, a.path, a.out, wish)


def _film(a: Namespace, words: list[str]) -> Path:
    """The film of the pictures that a run kept while it learned; neither scene nor photographs are needed."""
    from splatlearn.show.video import write_video

    config_of(a.run)
    idle = [word for word in words if word.partition("=")[0] in OF_SCENES]
    if idle:
        raise SplatlearnError(f"--timelapse shows the pictures that were kept: leave {idle[0].partition('=')[0]} out")
    images, fps = film(a.run, a.fps, a.seconds)
    target = a.out or a.run / "renders" / "timelapse.mp4"
    write_video(target, images, fps)
    return Path(target)


def _arguments(words: list[str]) -> Namespace:
    parser = Parser("render", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder of a scene")
    parser.add_argument(
        "--path",
        type=os.path.expanduser,
        default="orbit",
        help="orbit, spiral, interpolate (a flight along the photographs), test or train (from their places), or a "
        ".json file that the viewer wrote (default: orbit)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="an .mp4 or .gif, or a folder for PNGs (default: RUN/renders/PATH.mp4, or a folder for photographs)",
    )
    parser.add_argument("--mode", choices=MODES, default="rgb", help="colours, depth or opacity (default: rgb)")
    parser.add_argument(
        "--raw",
        choices=RAW,
        default="",
        help="depth as numbers: 16-bit PNGs with their unit in depth.json, or NPY files",
    )
    parser.add_argument("--frames", type=int, help=f"pictures along a path (default: {FRAMES}, or what a file says)")
    parser.add_argument("--seconds", type=float, help="length of the video, instead of --frames")
    parser.add_argument("--fps", type=float, help=f"frames a second of a video (default: {FPS:g}, or what a file says)")
    parser.add_argument(
        "--size",
        "--width",
        default="",
        help="WIDTH, the height follows; or WIDTHxHEIGHT, what is too much is cut off (default: as the photographs)",
    )
    parser.add_argument(
        "--timelapse", action="store_true", help="the film of the training, of a run that kept one (timelapse: 120)"
    )
    return parser.parse_args(words)


def _frames(a: Namespace) -> int | None:
    """How many pictures the arguments ask for; None where they leave it to the path."""
    if a.fps is not None and not 0 < a.fps <= 1000:
        raise SplatlearnError(f"--fps must be above 0 and at most 1000, got {a.fps:g}")
    if a.seconds is None:
        return int(a.frames) if a.frames is not None else None
    if a.frames is not None:
        raise SplatlearnError("--frames and --seconds say the same thing: give one of them")
    if not 0 < a.seconds <= 3600:
        raise SplatlearnError(f"--seconds must be above 0 and at most 3600, got {a.seconds:g}")
    return max(1, round(a.seconds * (a.fps or FPS)))


def render(task: Any, folder: Path, path: str, out: Path | None = None, wish: Wish | None = None) -> Path:
    """Draws the cameras of a path into a video or a folder of pictures; returns where."""
    from splatlearn.show.video import write_video

    wish = wish or Wish()
    if wish.raw and wish.mode != "depth":
        raise SplatlearnError(f"--raw is for --mode depth, not for {wish.mode}")
    if out is not None and out.suffix and (wish.raw or out.suffix.lower() not in VIDEO):
        kind = "a folder, as --raw writes a file a picture" if wish.raw else ".mp4 or .gif at its end, or a folder"
        raise SplatlearnError(f"--out needs {kind}, got {out}")
    cameras, fps = path_cameras(task, path, wish.frames)
    cameras = [resized(camera, wish.size) for camera in cameras] if wish.size else cameras
    target = out or _default_target(folder, path, wish)
    bar = tqdm(cameras, desc=f"rendering {wish.mode} along {path}", unit="frame")
    if wish.raw:
        _write_depths(target, cameras, (_depth(task, camera) for camera in bar), wish.raw, _far(task, cameras))
    elif target.suffix.lower() in VIDEO:
        write_video(target, _drawn(task, cameras, bar, wish.mode), wish.fps or fps)
    else:
        _write_pictures(target, cameras, _drawn(task, cameras, bar, wish.mode))
    return target


def path_cameras(task: Any, path: str, frames: int | None) -> tuple[list[Camera], float]:
    """The cameras of a named path or of a JSON file, and its frames a second."""
    from splatlearn.scene import paths
    from splatlearn.scene.keyframes import read_path

    scene = task.scene
    if path in PHOTOS:
        cameras: list[Camera] = scene.test if path == "test" else scene.train
        if not cameras:
            raise SplatlearnError(f"the scene has no {path} photographs")
        if frames is not None:
            raise SplatlearnError(f"--path {path} has a picture for each photograph: leave --frames and --seconds out")
        return cameras, FPS
    if path.endswith(".json"):
        recorded = read_path(path).mapped(task.frame.normalised_points)
        return recorded.cameras(frames), recorded.fps
    if path not in FLIGHTS:
        raise SplatlearnError(f"--path must be one of {', '.join(FLIGHTS + PHOTOS)}, or a .json file, got {path!r}")
    count = FRAMES if frames is None else frames
    if path == "interpolate":
        return paths.interpolate(scene.train + scene.test, count), FPS
    flight = paths.orbit if path == "orbit" else paths.spiral
    return flight(scene.train, scene.points, count), FPS


def resized(camera: Camera, size: str) -> Camera:
    """The camera with a picture of `size`, "WIDTH" or "WIDTHxHEIGHT" px, filled by its view and cut to it."""
    parts = size.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 1 <= int(part) <= MOST_PIXELS for part in parts):
        raise SplatlearnError(f"--size must be WIDTH or WIDTHxHEIGHT, from 1 to {MOST_PIXELS}, got {size!r}")
    width = int(parts[0])
    if len(parts) == 1:
        return camera.scaled(width, max(1, round(camera.height * width / camera.width)))
    height = int(parts[1])
    zoom = max(width / camera.width, height / camera.height)
    K = camera.K * np.array([[zoom], [zoom], [1.0]])
    K[0, 2] = width / 2 + zoom * (camera.K[0, 2] - camera.width / 2)
    K[1, 2] = height / 2 + zoom * (camera.K[1, 2] - camera.height / 2)
    return Camera(camera.name, width, height, K, camera.world_to_camera)


# ---- what is drawn ----


def _drawn(task: Any, cameras: Sequence[Camera], bar: Any, mode: str) -> Iterator[Any]:
    """The pictures of the cameras, [H, W, 3] or [H, W, 1]."""
    from splatlearn.show.pictures import depth_map

    near, far = _range(task, cameras) if mode == "depth" else (0.0, 0.0)
    for camera in bar:
        if mode == "depth":
            yield depth_map(_depth(task, camera), near, far)
            continue
        with torch.no_grad():
            rendering = task.render(camera)
        yield rendering.image if mode == "rgb" else rendering.alpha


@torch.no_grad()
def _depth(task: Any, camera: Camera) -> np.ndarray:
    """Expected depth [H, W] float32 along the optical axis, in lengths of the COLMAP model; 0 where little is seen."""
    from splatlearn.ops.rasterization import rasterization

    g = task.gaussians
    device = g.means.device
    viewmat, K = (torch.from_numpy(m).float().to(device)[None] for m in (camera.world_to_camera, camera.K))
    depth, alpha, _ = rasterization(
        g.means, g.quats, g.scales.exp(), g.opacities.sigmoid(), g.means, viewmat, K, camera.width, camera.height,
        render_mode="ED", **task.options,
    )  # fmt: skip
    lengths = np.float32(task.frame.scale) * torch.where(alpha < COVERED, 0, depth)[0, ..., 0].cpu().numpy()
    return np.asarray(lengths, np.float32)


def _range(task: Any, cameras: Sequence[Camera]) -> tuple[float, float]:
    """The nearest and the farthest depth of a path, leaving out the outermost hundredth on either side."""
    some = cameras[:: -(-len(cameras) // DEPTH_VIEWS)]
    small = [camera.scaled(160, max(1, round(160 * camera.height / camera.width))) for camera in some]
    depths = np.concatenate([_depth(task, camera).ravel() for camera in small])
    seen = depths[depths > 0]
    if not seen.size:
        return 1.0, 2.0
    near, far = np.percentile(seen, (1, 99))
    return float(near), float(max(far, near * 1.01))


def _far(task: Any, cameras: Sequence[Camera]) -> float:
    return HEADROOM * _range(task, cameras)[1]


# ---- what is written ----


def _default_target(folder: Path, path: str, wish: Wish) -> Path:
    name = Path(path).stem if path.endswith(".json") else path
    name += f"_{wish.mode}" if wish.mode != "rgb" else ""
    if wish.raw:
        return folder / "renders" / f"{name}_{wish.raw}"
    return folder / "renders" / (name if path in PHOTOS else f"{name}.mp4")


def _write_pictures(folder: Path, cameras: Sequence[Camera], pictures: Iterator[Any]) -> None:
    from splatlearn.show.pictures import save_png

    for camera, picture in zip(cameras, pictures, strict=True):
        save_png(folder / image_file(camera.name), picture)


def _write_depths(folder: Path, cameras: Sequence[Camera], depths: Iterator[np.ndarray], raw: str, far: float) -> None:
    """Depths as NPY files, float32, or as 16-bit PNGs in steps of far / 65535; depth.json says what they mean."""
    from splatlearn.show.pictures import save_array, save_png16

    step = far / 65535
    meaning: dict[str, Any] = {
        "depth": "expected distance along the optical axis",
        "unit": "lengths of the COLMAP model",
        "nothing": 0,
    }
    for camera, depth in zip(cameras, depths, strict=True):
        name = image_file(camera.name)
        if raw == "npy":
            save_array(folder / f"{name.removesuffix('.png')}.npy", depth)
        else:
            save_png16(folder / name, np.clip(depth / step + 0.5, 0, 65535).astype(np.uint16))
    if raw == "png16":
        meaning |= {"step": step, "depth_is": "value x step", "farthest": far}
    with replacing(folder / "depth.json") as path:
        path.write_text(json.dumps(meaning, indent=1) + "\n")
