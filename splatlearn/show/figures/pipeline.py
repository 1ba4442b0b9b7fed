"""Figure h: the splatting pipeline from photograph to update, each panel a real intermediate result of a run."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from splatlearn.ops import native
from splatlearn.ops.photometric import photometric_loss
from splatlearn.ops.rasterization import rasterization
from splatlearn.scene.cameras import Camera
from splatlearn.scene.gaussians import SH0, Gaussians
from splatlearn.show.figures.style import BLUE, INK, ORANGE, RED, bare, new_figure, styled
from splatlearn.show.pictures import Image, to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ELLIPSES, ROWS, ARROWS = 500, 9, 250


@styled
def pipeline_figure(gaussians: Gaussians, camera: Camera, photo: Image, points: np.ndarray) -> "Figure":
    """A training step seen from ``camera``: its ``photo`` [H, W, 3], the ``points`` [P, 3] of structure from motion."""
    image, meta, loss = _step(gaussians, camera, photo)
    target = to_uint8(photo)
    colors = (0.5 + SH0 * gaussians.sh0.detach()[:, 0]).clamp(0, 1).numpy()
    shape = camera.height / camera.width
    figure = new_figure(7.2 / 3 * shape * 2 + 0.9)
    grid = figure.subplots(2, 3).flatten()
    for axes, title in zip(grid, _TITLES, strict=True):
        axes.set(xlim=(0, camera.width), ylim=(camera.height, 0), aspect="equal")
        bare(axes, title)
    extent = (0, camera.width, camera.height, 0)
    grid[0].imshow(target, extent=extent, alpha=0.75)
    dots = _projected(points, camera)
    grid[0].scatter(dots[:, 0], dots[:, 1], s=1.6, color=RED, linewidths=0)
    _ellipses(grid[1], meta, colors, extent)
    tile = _tile_list(grid[2], meta, colors, image)
    grid[3].imshow(to_uint8(image.detach()), extent=extent)
    grid[1].add_patch(_square(tile))
    grid[3].add_patch(_square(tile))
    error = np.abs(to_uint8(image.detach()).astype(float) - target).mean(axis=2) / 255
    grid[4].imshow(error, extent=extent, cmap="inferno", vmin=0, vmax=max(0.05, float(np.quantile(error, 0.995))))
    grid[4].set_title(f"5  error: loss {loss:.4f}")
    _pull(grid[5], meta, image)
    return figure


_TITLES = (
    "1  photo, SfM points", "2  projected ellipses", "3  one tile, front to back",
    "4  composited image", "5  error", "6  gradient moves the means",
)  # fmt: skip


def _step(gaussians: Gaussians, camera: Camera, photo: Image) -> tuple[Tensor, dict[str, Any], float]:
    """Forward, loss and backward, without the update."""
    image, _, meta = rasterization(
        gaussians.means, gaussians.quats, gaussians.scales.exp(), gaussians.opacities.sigmoid(),
        (gaussians.sh0, gaussians.shN), torch.from_numpy(camera.world_to_camera).float()[None],
        torch.from_numpy(camera.K).float()[None], camera.width, camera.height, sh_degree=gaussians.sh_degree,
        packed=False,
    )  # fmt: skip
    meta["means2d"].retain_grad()
    loss = photometric_loss(image[0], torch.tensor(to_uint8(photo)))
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in gaussians.parameters():
        parameter.grad = None
    return image[0], meta, float(loss.detach())


def _projected(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Points [P, 3] in pixels [Q, 2], those before the camera and within the picture."""
    seen = points @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    seen = seen[seen[:, 2] > 0.01] @ camera.K.T
    pixels: np.ndarray = seen[:, :2] / seen[:, 2:]
    inside = (pixels > 0).all(axis=1) & (pixels < [camera.width, camera.height]).all(axis=1)
    return pixels[inside]


def _ellipses(axes: Any, meta: dict[str, Any], colors: np.ndarray, extent: tuple[int, ...]) -> None:
    """One-sigma ellipses of an even choice of the visible Gaussians, from the conics in `meta`."""
    from matplotlib.collections import EllipseCollection

    drawn = np.flatnonzero((meta["radii"][0] > 0).all(dim=-1).numpy())
    chosen = drawn[:: max(1, len(drawn) // ELLIPSES)]
    a, b, c = meta["conics"][0].detach().double().numpy()[chosen].T
    variances, vectors = np.linalg.eigh(np.linalg.inv(np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -2)))
    sizes = 2 * np.sqrt(np.maximum(variances, 0))
    degrees = np.degrees(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]))
    faces = np.c_[colors[chosen], np.full(len(chosen), 0.55)]
    axes.add_collection(
        EllipseCollection(
            sizes[:, 1],
            sizes[:, 0],
            degrees,
            units="xy",
            offsets=meta["means2d"][0].detach().numpy()[chosen],
            offset_transform=axes.transData,
            facecolors=faces,
            edgecolors=INK,
            linewidths=0.3,
        )  # fmt: skip
    )
    axes.imshow(np.ones((2, 2, 3)), extent=extent)


def _tile_list(axes: Any, meta: dict[str, Any], colors: np.ndarray, image: Tensor) -> tuple[int, int]:
    """The sorted list of a busy tile: colour, depth, and what each adds at the tile's middle; returns its place, px."""
    offsets = torch.cat([meta["isect_offsets"].flatten(), torch.tensor([len(meta["flatten_ids"])])])
    counts = offsets.diff()
    busy = int(counts.argmax())
    ids = meta["flatten_ids"][offsets[busy] : offsets[busy + 1]].long()
    x, y = 16 * (busy % meta["tile_width"]), 16 * (busy // meta["tile_width"])
    middle = torch.tensor([x + 8.0, y + 8.0])
    away = meta["means2d"][0].detach()[ids] - middle
    a, b, c = meta["conics"][0].detach()[ids].T
    power = -0.5 * (a * away[:, 0] ** 2 + c * away[:, 1] ** 2) - b * away[:, 0] * away[:, 1]
    alphas = (meta["opacities"][0].detach()[ids] * power.exp()).clamp(max=native.ALPHA_MAX)
    weights = alphas * torch.cumprod(torch.cat([torch.ones(1), 1 - alphas[:-1]]), dim=0)
    best = weights.topk(min(ROWS, len(ids))).indices.sort().values
    axes.set(xlim=(0, 1), ylim=(ROWS + 0.6, -1.2), aspect="auto")
    axes.text(0.0, -0.6, f"{len(ids)} Gaussians; the {len(best)} that weigh most", fontsize=6.8)
    for row, place in enumerate(best.tolist()):
        depth, weight = float(meta["depths"][0].detach()[ids[place]]), float(weights[place])
        axes.barh(
            row, weight / float(weights.max()) * 0.5, left=0.48, height=0.72, color=colors[ids[place]], ec=INK, lw=0.4
        )
        axes.text(0.0, row, f"#{place + 1:<3d} z {depth:5.2f}", fontsize=6.5, va="center", family="DejaVu Sans Mono")
        axes.text(0.46, row, f"{weight:.2f}", fontsize=6.5, va="center", ha="right")
    return x, y


def _square(place: tuple[int, int]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(place, 16, 16, fill=False, ec=ORANGE, lw=1.6)


def _pull(axes: Any, meta: dict[str, Any], image: Tensor) -> None:
    """Where descent moves the means most: arrows against the gradient, the longest a tenth of the picture."""
    slope = meta["means2d"].grad[0]
    chosen = slope.norm(dim=1).topk(min(ARROWS, len(slope))).indices
    arrows = -slope[chosen]
    arrows = arrows / arrows.norm(dim=1).max().clamp(min=1e-12) * 0.1 * image.shape[1]
    places = meta["means2d"][0].detach()[chosen]
    axes.imshow(to_uint8(1 - 0.25 * (1 - image.detach().mean(dim=2))), extent=(0, image.shape[1], image.shape[0], 0))
    axes.quiver(
        *places.T.tolist(),
        *arrows.T.tolist(),
        angles="xy",
        scale_units="xy",
        scale=1,
        color=BLUE,
        width=0.006,
        headwidth=4,
    )
