"""Figure f: the Gaussian of a full covariance with its principal axes, on a grid from sliver to disc."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from splatlearn.show.figures.style import ORANGE, RED, SURFACE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIOS = (0.1, 0.25, 0.5, 0.75, 1.0)  # short axis over long axis
DEGREES = (0.0, 30.0, 75.0)


def covariance_matrix(long: float, short: float, degrees: float) -> np.ndarray:
    """Σ = R diag(long², short²) Rᵀ, [2, 2]: standard deviations along axes turned counter-clockwise by ``degrees``."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = np.array([[c, -s], [s, c]])
    return np.asarray(rotation @ np.diag([long**2, short**2]) @ rotation.T)


@styled
def covariance_figure(long: float = 1.0) -> "Figure":
    """All of `RATIOS` by all of `DEGREES`."""
    figure = new_figure(5.0)
    grid = figure.subplots(len(DEGREES), len(RATIOS))
    for row, degrees in zip(grid, DEGREES, strict=True):
        for axes, ratio in zip(row, RATIOS, strict=True):
            _gaussian(axes, covariance_matrix(long, ratio * long, degrees))
    for axes, ratio in zip(grid[0], RATIOS, strict=True):
        name = {RATIOS[0]: "sliver", RATIOS[-1]: "disc"}.get(ratio, "")
        axes.set_title(f"1 : {1 / ratio:.3g}  {name}", fontsize=8.5)
    return figure


def _gaussian(axes: Any, covariance: np.ndarray) -> None:
    axis = np.linspace(-2.6, 2.6, 81)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)
    squares = np.einsum("...i,ij,...j->...", points, np.linalg.inv(covariance), points)
    axes.pcolormesh(axis, axis, np.exp(-squares / 2), cmap=SURFACE, shading="gouraud", rasterized=True)
    axes.contour(axis, axis, squares, levels=[1, 4], colors="white", linewidths=[1.0, 0.6], linestyles=["-", "--"])
    variances, vectors = np.linalg.eigh(covariance)
    for variance, vector, color in zip(variances[::-1], vectors.T[::-1], (RED, ORANGE), strict=True):
        tip = math.sqrt(variance) * (vector if vector[1] > -1e-9 else -vector)
        axes.annotate(
            "", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
        )
    (a, b), (_, c) = covariance.round(6) + 0.0  # no negative zeros
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel(f"Σ = [{a:.2f} {b:.2f}; {b:.2f} {c:.2f}]", fontsize=6.2)
