"""Slices of a model's loss landscape with the path of its training: random, of the path, and of the Hessian."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from splatlearn.landscape import Landscape
from splatlearn.show.figures.style import INK, RED, SURFACE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def slices_figure(slices: Sequence[Landscape], title: str) -> "Figure":
    """The ``slices`` side by side, under a ``title`` that names the model."""
    figure = new_figure(2.9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    for axes, each in zip(figure.subplots(1, len(slices), squeeze=False)[0], slices, strict=True):
        a, b, losses = each.a.numpy(), each.b.numpy(), each.losses.numpy()
        levels = np.quantile(losses, np.linspace(0, 1, 15))
        levels = np.unique(levels) if len(np.unique(levels)) > 1 else [levels[0], levels[0] + 1]
        axes.contourf(a, b, losses, levels=levels, cmap=SURFACE)
        axes.contour(a, b, losses, levels=levels, colors="white", linewidths=0.35)
        if len(each.path):
            axes.plot(each.path[:, 0], each.path[:, 1], color=RED, lw=1.4)
            axes.plot(each.path[:, 0], each.path[:, 1], "o", color=RED, ms=2.0)
        axes.plot(0, 0, "*", color="white", mec=INK, ms=9)
        axes.set(xlim=(a[0], a[-1]), ylim=(b[0], b[-1]))
        axes.set_title(_told(each), fontsize=8, fontweight="normal")
        axes.tick_params(labelsize=6.5)
    return figure


def _told(each: Landscape) -> str:
    plane = each.plane
    if plane.explained is not None:
        return f"its path: {sum(plane.explained):.1%} of variance"
    if plane.eigenvalues is not None:
        return "Hessian: λ = {:.3g} and {:.3g}".format(*plane.eigenvalues)
    return "two random directions"
