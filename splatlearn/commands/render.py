"""splatlearn render: pictures or a video of a trained scene, along a path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from splatlearn.commands.arguments import Parser
from splatlearn.commands.opened import open_run, picture_name
from splatlearn.errors import SplatlearnError

VIDEO = (".mp4", ".gif")
PATHS = ("test", "train", "orbit", "interpolate")


def run(words: list[str]) -> None:
    parser = Parser("render", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder of a scene")
    parser.add_argument("--path", choices=PATHS, default="orbit", help="default: orbit")
    parser.add_argument(
        "--out",
        type=Path,
        help="an .mp4 or .gif, or a folder for PNGs (default: RUN/renders/PATH.mp4, or PNGs for photos)",
    )
    parser.add_argument("--frames", type=int, default=120, help="pictures along an orbit or flight (default: 120)")
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second of a video (default: 30)")
    parser.add_argument("--width", type=int, help="width in pixels; the height follows (default: as the photographs)")
    arguments = parser.parse_args(words)
    task, _ = open_run(arguments.run)
    if not hasattr(task, "gaussians"):
        raise SplatlearnError(f"{arguments.run} is not the run of a scene: there is nothing to render")
    from splatlearn.show.report import write_report

    a = arguments
    print(f"wrote {render(task, a.run, a.path, a.out, a.frames, a.fps, a.width)}")
    write_report(arguments.run)  # which shows the videos of its run folder


def render(
    task: Any,
    folder: Path,
    path: str,
    out: Path | None = None,
    frames: int = 120,
    fps: float = 30.0,
    width: int | None = None,
) -> Path:
    """Draws the cameras of a path into a video or a folder of PNGs; returns where."""
    from splatlearn.show.video import write_video

    if out is not None and out.suffix and out.suffix.lower() not in VIDEO:
        raise SplatlearnError(f"--out must end in .mp4 or .gif, or be a folder, got {out}")
    cameras = path_cameras(task, path, frames)
    if width is not None:
        if width < 1:
            raise SplatlearnError(f"--width must be at least 1, got {width}")
        cameras = [camera.scaled(width, max(1, round(camera.height * width / camera.width))) for camera in cameras]
    default = folder / "renders" / (f"{path}.mp4" if path in ("orbit", "interpolate") else path)
    target = default if out is None else out
    pictures = _draw(task, tqdm(cameras, desc=f"rendering {path}", unit="frame"))
    if target.suffix.lower() in VIDEO:
        write_video(target, pictures, fps)
        return target
    _write_pictures(target, cameras, pictures)
    return target


def path_cameras(task: Any, path: str, frames: int) -> list[Any]:
    """The cameras of a named path."""
    from splatlearn.scene import paths

    if path in ("test", "train"):
        cameras: list[Any] = getattr(task.scene, path)
        if not cameras:
            raise SplatlearnError(f"the scene has no {path} photographs")
        return cameras
    if path == "orbit":
        return paths.orbit(task.scene.train, task.scene.points, frames)
    return paths.interpolate(sorted(task.scene.train + task.scene.test, key=lambda camera: str(camera.name)), frames)


def _draw(task: Any, cameras: Any) -> Iterator[torch.Tensor]:
    with torch.no_grad():
        for camera in cameras:
            yield task.render(camera).image


def _write_pictures(folder: Path, cameras: list[Any], pictures: Iterator[torch.Tensor]) -> None:
    from splatlearn.show.pictures import save_png

    for camera, picture in zip(cameras, pictures, strict=True):
        save_png(folder / picture_name(camera.name), picture)
