"""Figure c: the bowl, which is the loss over all (w, b), in 3D and as a map, with the walk from the first guess."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from splatlearn.line.bowl import Bowl
from splatlearn.line.landscape import bowl_grid, surface
from splatlearn.show.figures.style import INK, ORANGE, RED, SURFACE, new_figure, outlined, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def bowl_figure(bowl: Bowl, path: Tensor, step: int | None = None) -> "Figure":
    """The ``bowl`` and the walk ``path`` [P, 2] of (w, b) on it, up to ``step`` (all of it by default)."""
    figure = new_figure(3.7)
    points = bowl_grid(bowl, path, size=61)
    losses = surface(bowl.loss, points)
    walked = path[: len(path) if step is None else step + 1].double()
    w, b, heights = points[..., 0].numpy(), points[..., 1].numpy(), losses.numpy()
    along = bowl.loss(walked).numpy()

    space = figure.add_subplot(1, 2, 1, projection="3d")
    space.plot_surface(w, b, heights, cmap=SURFACE, alpha=0.75, rcount=60, ccount=60, linewidth=0)
    lift = 0.02 * heights.max()
    space.plot(
        walked[:, 0], walked[:, 1], along + lift, color=RED, lw=2.0, zorder=10, path_effects=outlined("white", 4.2)
    )
    space.scatter(*walked[-1].tolist(), along[-1] + lift, color=RED, s=26, zorder=11, depthshade=False)
    space.set(xlabel="w", ylabel="b", zlabel="loss")
    space.view_init(elev=33, azim=-118)
    space.tick_params(labelsize=6.5, pad=-1)
    space.set_title("The loss of every line")

    plan = figure.add_subplot(1, 2, 2)
    span = heights.max() - bowl.floor
    levels = bowl.floor + span * np.linspace(0, 1, 15) ** 2.2
    plan.contourf(w, b, heights, levels=levels, cmap=SURFACE, alpha=0.8)
    plan.contour(w, b, heights, levels=levels, colors="white", linewidths=0.5)
    plan.plot(walked[:, 0], walked[:, 1], color=RED, lw=2.0, path_effects=outlined("white", 4.2))
    plan.plot(*path[0].tolist(), "s", color="white", mec=INK, ms=6, label="first guess")
    plan.plot(*walked[-1].tolist(), "o", color=RED, mec="white", ms=7, label=f"step {len(walked) - 1}")
    plan.plot(*bowl.minimum.tolist(), "*", color=ORANGE, mec=INK, ms=12, label="least squares")
    plan.set(xlabel="w", ylabel="b")
    plan.set_title("... and the walk downhill")
    plan.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=7.5)
    return figure


def steps_shown(count: int, frames: int) -> list[int]:
    """Steps for an animation: close together where the walk is fast, which is at its beginning."""
    shares = torch.linspace(0, 1, frames, dtype=torch.float64) ** 2
    return sorted({int(round(float(share) * count)) for share in shares})
