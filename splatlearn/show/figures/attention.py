"""Figure i: the attention weights of a Transformer's heads while it reads a text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from splatlearn.show.figures.style import SOFT, SURFACE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS, HEADS = 6, 6  # that a page has room for
SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}


@styled
def attention_figure(maps: Sequence[Tensor], tokens: Sequence[str], title: str) -> "Figure":
    """A panel a head, a row of panels a layer: in row t of a panel, the shares that token t takes from each token.

    maps: of each layer [H, T, T], rows of which sum to 1; tokens: the T texts that are read. Of a large model the first
    `LAYERS` and `HEADS` are drawn.
    """
    if len(maps) > LAYERS or len(maps[0]) > HEADS:
        title += f" (the first of {len(maps)} layers of {len(maps[0])} heads)"
    maps = [weights[:HEADS] for weights in maps[:LAYERS]]
    heads, shown = len(maps[0]), [SIGNS.get(token, token) for token in tokens]
    figure = new_figure((6.4 / heads + 0.32) * len(maps) + 0.45)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    panels = figure.subplots(len(maps), heads, squeeze=False)
    size = min(6.0, 104 / len(shown))
    for layer, (row, weights) in enumerate(zip(panels, maps, strict=True), start=1):
        for head, axes in enumerate(row):
            picture = axes.imshow(weights[head].cpu().numpy(), cmap=SURFACE, vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(f"layer {layer}, head {head + 1}", fontsize=7.5, fontweight="normal")
            axes.set_xticks(range(len(shown)), shown, fontsize=size)
            axes.set_yticks(range(len(shown)), shown if head == 0 else [""] * len(shown), fontsize=size)
            axes.tick_params(length=0, pad=1.5, labelcolor=SOFT, labelfontfamily="DejaVu Sans Mono")
            for spine in axes.spines.values():
                spine.set_visible(False)
    bar = figure.colorbar(picture, ax=panels, shrink=0.6, aspect=30, pad=0.01)
    bar.set_label("share that a row's token takes", fontsize=7)
    bar.ax.tick_params(labelsize=6.5)
    return figure
