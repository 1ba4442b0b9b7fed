"""Figure a: the line turns and shifts to the data, with weight and bias at each step."""

from typing import TYPE_CHECKING

from torch import Tensor

from splatlearn.show.figures.style import BLUE, INK, ORANGE, SKY, SOFT, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GHOSTS = 14  # earlier lines that are drawn


@styled
def line_figure(x: Tensor, y: Tensor, path: Tensor, step: int, best: Tensor) -> "Figure":
    """The points ``x``, ``y`` [n], the line after ``step`` of the walk ``path`` [P, 2] of (w, b), and the best [2]."""
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    ends = [float(x.min()) - 0.2, float(x.max()) + 0.2]
    w, b = path[step].tolist()
    xs, ys = x.flatten().tolist(), y.flatten().tolist()
    axes.vlines(xs, ys, [w * at + b for at in xs], color=ORANGE, lw=0.5, alpha=0.45, zorder=1)
    axes.scatter(xs, ys, s=11, color=SOFT, linewidths=0, alpha=0.75, zorder=2, label="data")
    for ghost in sorted({round(step * (i / GHOSTS) ** 1.7) for i in range(GHOSTS)}):
        axes.plot(ends, [path[ghost, 0] * at + path[ghost, 1] for at in ends], color=SKY, lw=0.8, alpha=0.6, zorder=1)
    answer = [float(best[0]) * at + float(best[1]) for at in ends]
    axes.plot(
        ends, answer, color=INK, lw=1.1, ls=(0, (4, 3)), zorder=3, label=f"least squares: {_equation(*best.tolist())}"
    )
    axes.plot(ends, [w * at + b for at in ends], color=BLUE, lw=2.6, zorder=4, label=f"step {step}: {_equation(w, b)}")
    axes.set(xlim=ends, ylim=(min(ys) - 2.0, max(*ys, 10.0) + 1.0), xlabel="x", ylabel="y")
    axes.set_title("A neuron without an activation is a line")
    axes.legend(loc="lower right", prop={"family": "DejaVu Sans Mono", "size": 8})
    return figure


def _equation(weight: float, bias: float) -> str:
    return f"y = {weight:6.3f} x {'+' if bias >= 0 else '-'} {abs(bias):.3f}"
