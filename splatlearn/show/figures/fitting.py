"""Figure g, first half: Gaussians in the plane learn a picture by gradient descent."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from splatlearn.show.figures.style import INK, bare, new_figure, styled
from splatlearn.show.planar import Fit, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def fitting_figure(target: Tensor, fit: Fit, kept: int = -1) -> "Figure":
    """The Gaussians as ellipses of one sigma, the picture they add up to, and the ``target`` [H, W, 3]."""
    figure = new_figure(2.3)
    grid = figure.subplots(1, 3)
    rows, height = fit.rows[kept], len(target)
    sharp = 4 * height
    step = fit.steps[kept]
    _ellipses(grid[0], rows)
    bare(grid[0], f"{len(rows)} Gaussians at 1σ")
    grid[1].imshow(render(rows, sharp).clamp(0, 1).numpy(), extent=(0, 4 / 3, 1, 0), interpolation="bilinear")
    loss = fit.losses[min(step, len(fit.losses) - 1)]
    bare(grid[1], f"step {step}: loss {loss:.5f}")
    grid[2].imshow(target.numpy(), extent=(0, 4 / 3, 1, 0), interpolation="nearest")
    bare(grid[2], "the picture to learn")
    return figure


def _ellipses(axes: object, rows: Tensor) -> None:
    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection

    assert isinstance(axes, Axes)
    table = rows.double().numpy()
    colors = np.clip(table[:, 5:], 0, 1)
    sizes = 2 * np.exp(table[:, 2:4])
    ellipses = EllipseCollection(
        sizes[:, 0], sizes[:, 1], np.degrees(table[:, 4]), units="xy", offsets=table[:, :2],
        offset_transform=axes.transData, facecolors=np.c_[colors, np.full(len(colors), 0.45)], edgecolors=INK,
        linewidths=0.35,
    )  # fmt: skip
    axes.add_collection(ellipses)
    axes.set(xlim=(0, 4 / 3), ylim=(1, 0), aspect="equal")
