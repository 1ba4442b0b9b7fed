"""Figure g, second half: a 3D scene emerges while it is trained, seen from one camera of a real run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from splatlearn.show.figures.style import BLUE, RED, bare, new_figure, styled
from splatlearn.show.pictures import Image, to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def timelapse_figure(pictures: Sequence[Tensor], steps: Sequence[int], photo: Image) -> "Figure":
    """Seven of the ``pictures`` [H, W, 3] at their ``steps``, from first to last, and the ``photo``."""
    height, width = pictures[0].shape[:2]
    figure = new_figure(7.2 / 4 * height / width * 2 + 0.6)
    chosen = sorted({round(i * (len(pictures) - 1) / 6) for i in range(7)})
    grid = figure.subplots(2, 4).flatten()
    for axes, index in zip(grid, chosen, strict=False):
        axes.imshow(to_uint8(pictures[index]))
        bare(axes, f"step {steps[index]}")
    for axes in grid[len(chosen) : -1]:
        axes.set_axis_off()
    grid[-1].imshow(to_uint8(photo))
    bare(grid[-1], "photograph")
    return figure


@styled
def timelapse_frame(picture: Tensor, step: int, losses: Sequence[float], photo: Image) -> "Figure":
    """One frame of the animation: the render beside the photograph, over the loss so far."""
    height, width = picture.shape[:2]
    figure = new_figure(7.2 / 2 * height / width + 1.5)
    grid = figure.add_gridspec(2, 2, height_ratios=[7.2 / 2 * height / width, 1.0])
    for place, image, title in ((0, picture, f"render, step {step}"), (1, photo, "photograph")):
        axes = figure.add_subplot(grid[0, place])
        axes.imshow(to_uint8(image))
        bare(axes, title)
    curve = figure.add_subplot(grid[1, :])
    width_of_mean = max(1, len(losses) // 40)
    smooth = np.convolve(losses, np.ones(width_of_mean) / width_of_mean, mode="valid")
    curve.plot(np.arange(len(smooth)) + width_of_mean, smooth, color=BLUE, lw=1.2)
    curve.axvline(step, color=RED, lw=1.2, ls="--")
    curve.set(yscale="log", xlabel="step", ylabel="loss", xlim=(0, len(losses)))
    return figure
