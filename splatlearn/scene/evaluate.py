"""How good a scene is: renders of photographs that training never saw, measured against them."""

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.run import HeldOut
from splatlearn.scene import metrics
from splatlearn.scene.cameras import Camera
from splatlearn.scene.frame import Frame
from splatlearn.scene.gaussians import Rendering
from splatlearn.scene.metrics import HIGHEST_PSNR
from splatlearn.scene.space import space_record
from splatlearn.task import RunWriter


class Renderer(Protocol):
    """The part of a SceneTask that is measured."""

    scene: Any
    gaussians: Any
    device: torch.device

    def render(self, camera: Camera) -> Rendering: ...


@torch.no_grad()
def evaluate(task: Renderer, writer: RunWriter | None = None, lpips: bool = False) -> dict[str, Any]:
    """Measure the renders of the held-out photographs, or of those of training where none is held out.

    Pixels that a photograph's mask ignores are left out (LPIPS sees the photograph in their place).

    Args:
        task: The scene.
        writer: Saves photograph and render of every view, and the cameras, under eval/; with a progress bar.
        lpips: Also measure the perceptual distance; needs the extra `lpips`.

    Returns:
        psnr (dB) and ssim of the render as it is; psnr_corrected, the same in the photograph's colours (see
        metrics.colour_corrected), far above psnr where exposures vary; maybe lpips; split ("test" or "train"),
        resolution [width, height] of the first image, num_gaussians, and views: the figures of each image.
    """
    scene = task.scene
    split, cameras = ("test", scene.test) if scene.test else ("train", scene.train)
    views = []
    for camera in tqdm(cameras, desc="evaluating", unit="photo", disable=writer is None):
        render, photo = task.render(camera).image.clamp(0, 1), scene.photo(camera).to(task.device)
        mask = scene.mask(camera)
        corrected = metrics.colour_corrected(render, photo, mask)
        view: dict[str, Any] = {
            "name": camera.name,
            "psnr": min(metrics.psnr(render, photo, mask), HIGHEST_PSNR),
            "ssim": metrics.ssim(render, photo, mask),
            "psnr_corrected": min(metrics.psnr(corrected, photo, mask), HIGHEST_PSNR),
        }
        if lpips:
            visible = render
            if mask is not None:
                visible = torch.where((mask > 0)[:, :, None].to(task.device), render, photo / 255)
            view["lpips"] = metrics.lpips(visible, photo)
        if writer is not None:
            view["picture"] = image_file(camera.name)
            writer.save(f"eval/photos/{view['picture']}", photo)
            writer.save(f"eval/renders/{view['picture']}", render)
        views.append(view)
    if writer is not None:
        frame = getattr(scene, "frame", Frame())
        record = space_record(scene.train, scene.test, scene.points, scene.point_colors, frame)
        writer.save("eval/space.json", json.dumps(record, allow_nan=False) + "\n")
    names = [name for name in ("psnr", "ssim", "psnr_corrected", "lpips") if name in views[0]]
    means: dict[str, Any] = {name: math.fsum(view[name] for view in views) / len(views) for name in names}
    return means | {
        "split": split,
        "resolution": [cameras[0].width, cameras[0].height],
        "num_gaussians": len(task.gaussians),
        "views": views,
    }


def summarize(figures: Mapping[str, Any]) -> str:
    """The figures of `evaluate`, and of a finished run where it is one, in a line."""
    kind = "held-out" if figures["split"] == "test" else "training"
    width, height = figures["resolution"]
    line = (
        f"{kind} PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.3f} on {len(figures['views'])} photographs at "
        f"{width}x{height}; {figures['num_gaussians']:,} Gaussians"
    )
    if "train_seconds" not in figures:
        return line
    return f"{line}, {figures['steps']:,} steps, {figures['train_seconds']:.0f} s"


def image_file(image: str) -> str:
    """The PNG file name of an image; folders and the faces of a panorama (`a/b.jpg#left`) stay distinct."""
    path, _, face = image.partition("#")
    stem = path.replace("/", "_").rsplit(".", 1)[0]
    return f"{stem}_{face}.png" if face else f"{stem}.png"


class Patience(HeldOut):
    """Evaluates a scene while it is trained, and ends the training when its PSNR stops rising.

    It ends after `patience` evaluations in a row without a PSNR above the best one; 0: never. The held-out photographs
    have then chosen the number of steps, which flatters the figures a little.
    """

    def __init__(self, writer: RunWriter, every: int, patience: int = 0) -> None:
        super().__init__(writer, every)
        self.patience = patience
        self.best = 0.0  # dB
        self.waited = 0  # evaluations since the best

    def noted(self, line: Mapping[str, Any]) -> None:
        try:
            self._note(float(line["psnr"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            path = self.writer.folder / "eval" / "history.jsonl"
            raise SplatlearnError(f"{path}: expected lines with a psnr, got {reprlib.repr(dict(line))}") from None

    def evaluated(self, step: int, figures: Mapping[str, Any]) -> None:
        if self.patience:
            self._note(figures["psnr"])
            if self.done():
                gain = f"no better than {self.best:.2f} dB in the last {self.waited} evaluations"
                tqdm.write(f"training ends after step {step:,}: the held-out PSNR was {gain}")

    def done(self) -> bool:
        return 0 < self.patience <= self.waited

    def _note(self, psnr: float) -> None:
        self.waited = 0 if psnr > self.best else self.waited + 1
        self.best = max(self.best, psnr)
