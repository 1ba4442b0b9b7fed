"""Figure e: the isotropic 2D Gaussian, as a hill and from above with its rings of one, two and three sigma."""

from typing import TYPE_CHECKING

import numpy as np

from splatlearn.show.figures.style import RED, SURFACE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def gaussian_figure(sigma: float = 1.0) -> "Figure":
    """g(p) = exp(-|p|² / (2 sigma²))."""
    figure = new_figure(3.5)
    axis = np.linspace(-3.6 * sigma, 3.6 * sigma, 121)
    x, y = np.meshgrid(axis, axis)
    heights = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    space = figure.add_subplot(1, 2, 1, projection="3d")
    space.plot_surface(x, y, heights, cmap=SURFACE, rcount=60, ccount=60, linewidth=0)
    space.set(xlabel="x", ylabel="y", zlim=(0, 1))
    space.tick_params(labelsize=6.5, pad=-1)
    space.set_title("g(p) = exp(-|p|² / 2σ²)")
    plan = figure.add_subplot(1, 2, 2)
    plan.pcolormesh(x, y, heights, cmap=SURFACE, shading="gouraud", rasterized=True)
    turn = np.linspace(0, 2 * np.pi, 200)
    for rings, style in ((1, "-"), (2, "--"), (3, ":")):
        plan.plot(rings * sigma * np.cos(turn), rings * sigma * np.sin(turn), style, color="white", lw=1.5)
        value = np.exp(-(rings**2) / 2)
        plan.annotate(
            f"{rings}σ: {value:.3f}", (0, rings * sigma), (0, 3), textcoords="offset points", ha="center", color="white"
        )
    plan.plot(0, 0, "+", color=RED, ms=9, mew=2)
    plan.set(xlabel="x", ylabel="y", aspect="equal")
    plan.set_title("the same in every direction")
    return figure
