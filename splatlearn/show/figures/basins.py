"""Figure d, measured: from which of many starts each way to walk reaches which minimum, as basins of attraction."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splatlearn.line import hard
from splatlearn.show.figures.style import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# not settled: white; the global minimum: dark; the local ones: light to middling, for grey printing
COLORS = ("#ffffff", "#00664B", "#FEE0B6", "#FDB863", "#F1A340", "#E08214")


@styled
def basins_figure(labels: Mapping[str, Tensor]) -> "Figure":
    """One map a way to walk: ``labels`` [size²] of `hard.ends` over `hard.starts`, by the name of the walk."""
    from matplotlib.colors import ListedColormap

    figure = new_figure(4.4)
    grid = figure.subplots(2, 4, sharex=True, sharey=True).flatten()
    minima = hard.minima()
    for axes, (name, ends) in zip(grid, labels.items(), strict=False):
        side = round(len(ends) ** 0.5)
        image = (ends + 1).reshape(side, side).numpy()
        reach = hard.REACH
        axes.imshow(
            image, origin="lower", extent=(-reach, reach, -reach, reach), cmap=ListedColormap(COLORS), vmin=0,
            vmax=len(COLORS) - 1, interpolation="nearest",
        )  # fmt: skip
        axes.plot(*minima[0].tolist(), "*", color="white", mec="black", ms=10)
        axes.plot(minima[1:, 0], minima[1:, 1], "v", color="white", mec="black", ms=4.5, ls="")
        axes.set_title(name, fontsize=7.5)
        axes.text(0.03, 0.03, f"{hard.success(ends):.0%}", transform=axes.transAxes, fontweight="bold", bbox=_BOX)
    for axes in grid[len(labels) :]:
        axes.set_axis_off()
        axes.text(0.0, 0.95, _legend(next(iter(labels.values()))), va="top", transform=axes.transAxes, fontsize=7.2)
    return figure


_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}


def _legend(ends: Tensor) -> str:
    return (
        f"Each of {len(ends):,} starts is\ncoloured by where its walk\nends. Dark: the global\n"
        "minimum (star). Orange:\n"
        "a local one (triangle).\nWhite: not settled. The share\nthat reaches the global\nminimum is written in."
    )


def measure(size: int = 40) -> dict[str, Tensor]:
    """The labels of all `hard.WALKS` over ``size`` x ``size`` starts."""
    begin = hard.starts(size)
    with torch.no_grad():
        return {walk.name: hard.ends(walk, begin) for walk in hard.WALKS}
