"""Figure d: the hard landscape, its global minimum in green and local ones in red, with walks trapped and escaping."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splatlearn.line import hard
from splatlearn.line.landscape import surface
from splatlearn.show.figures.style import GREEN, INK, RED, SURFACE, new_figure, outlined, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
START = (-2.9, 2.6)


@styled
def hard_figure(start: tuple[float, float] = START, step: int | None = None, steps: int = 300) -> "Figure":
    """Walks of `hard.WALKS` from ``start``, up to ``step``; one that ends in the global minimum is green and solid,
    one that is trapped or has not settled is red and dashed."""
    figure = new_figure(5.0)
    shown = [walk for walk in hard.WALKS if walk.name not in ("Nesterov", "large steps")][:6]
    size = 121
    points = hard.starts(size).reshape(size, size, 2)
    heights = surface(hard.loss, points)
    begin = torch.tensor([start], dtype=torch.float64)
    grid = figure.subplots(2, 3, sharex=True, sharey=True).flatten()
    _map(grid[0], points, heights)
    for point in hard.minima()[1:]:
        grid[0].annotate(
            "local", point.tolist(), (0, -13), textcoords="offset points", ha="center", fontsize=7, color="white"
        )
    lowest = hard.minima()[0].tolist()
    grid[0].annotate("global", lowest, (0, -14), textcoords="offset points", ha="center", fontsize=7.5, color="white")
    grid[0].set_title("one global minimum")
    for axes, walk in zip(grid[1:], shown, strict=True):
        whole = hard.paths(walk, begin, steps)
        found = int(hard.ends(walk, begin, steps)[0]) == 0
        walked = whole[: steps + 1 if step is None else step + 1, 0]
        _map(axes, points, heights)
        style = {"color": "#7CFFB2", "ls": "-"} if found else {"color": "#FFC9A8", "ls": (0, (3, 1.5))}
        axes.plot(walked[:, 0], walked[:, 1], lw=1.5, path_effects=outlined(INK, 2.8), **style)
        axes.plot(*start, "s", color="white", mec=INK, ms=5)
        axes.plot(*walked[-1].tolist(), "o", color=GREEN if found else RED, mec="white", ms=6)
        axes.set_title(walk.name, fontsize=8)
        axes.text(0.03, 0.04, "escapes" if found else "trapped", transform=axes.transAxes, fontsize=8, bbox=_BOX)
    return figure


def _map(axes: object, points: Tensor, heights: Tensor) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    x, y, z = points[..., 0].numpy(), points[..., 1].numpy(), heights.clamp(max=4).numpy()
    axes.contourf(x, y, z, levels=18, cmap=SURFACE)
    axes.contour(x, y, z, levels=18, colors="white", linewidths=0.25, alpha=0.7)
    minima = hard.minima()
    axes.plot(*minima[0].tolist(), "*", color=GREEN, mec="white", ms=13, zorder=5)
    axes.plot(minima[1:, 0], minima[1:, 1], "v", color=RED, mec="white", ms=6.5, ls="", zorder=5)
    axes.set(xlim=(-hard.REACH, hard.REACH), ylim=(-hard.REACH, hard.REACH), aspect="equal")
