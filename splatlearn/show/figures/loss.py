"""Figure b: the loss over training, beside the least that any line can have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from splatlearn.show.figures.style import BLUE, INK, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def loss_figure(
    losses: Sequence[float], floor: float | None = None, title: str = "Each step lowers the loss"
) -> "Figure":
    """The ``losses`` of before each step, on a logarithmic axis; ``floor`` is the least loss there is, where known."""
    figure = new_figure(3.2)
    axes = figure.add_subplot()
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color=BLUE, lw=2.2)
    axes.plot([len(losses)], [losses[-1]], "o", color=BLUE, ms=5)
    axes.annotate(f"{losses[-1]:.4g}", (len(losses), losses[-1]), (0, 7), textcoords="offset points", ha="right")
    if floor is not None:
        axes.axhline(floor, color=INK, lw=1.0, ls=(0, (4, 3)))
        axes.annotate(f"least squares {floor:.4g}", (1, floor), (0, -11), textcoords="offset points")
        axes.set_ylim(bottom=floor * 0.6)
    axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss", xlim=(0, len(losses) * 1.03))
    axes.set_title(title)
    return figure
