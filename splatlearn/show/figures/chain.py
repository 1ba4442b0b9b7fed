"""Figure j: the chain rule at work: the norm of the loss's gradient at every link from the parameters to the loss."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from splatlearn.gradients import Chain, Link
from splatlearn.show.figures.style import BLUE, INK, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 16  # links drawn of a long chain


@styled
def chain_figure(chains: Mapping[str, Chain]) -> "Figure":
    """One panel a learner: the links of its chain from top, parameters, to bottom, loss."""
    kept = {name: links_shown(chain) for name, chain in chains.items()}
    figure = new_figure(0.24 * max(map(len, kept.values())) + 1.1)
    for axes, (name, links) in zip(figure.subplots(1, len(chains), squeeze=False)[0], kept.items(), strict=True):
        norms = [link.gradient_norm or 0.0 for link in links]
        rows = range(len(links))
        low = min(norms) / 3
        axes.hlines(rows, low, norms, color=BLUE, lw=1.2, alpha=0.5)
        axes.plot(norms, rows, "o", color=BLUE, mec=INK, mew=0.5, ms=6)
        axes.set_yticks(
            rows, [f"{link.name}  {'×'.join(map(str, link.shape)) or 'scalar'}" for link in links], fontsize=7
        )
        axes.set(xscale="log", xlim=(low, max(norms) * 4), ylim=(len(links) - 0.4, -0.6), xlabel="|∂loss/∂output|")
        errors = [link.error for link in links if link.error is not None]
        axes.set_title(f"{name}, analytic = numeric to {max(errors):.0e}" if errors else name, fontsize=8.5, x=-0.3)
    return figure


def links_shown(chain: Chain) -> list[Link]:
    """Links that carry a gradient, without those that only pass their input on; of many, an even choice."""
    passing = ("contiguous", "reshape", "view", "__getitem__", "T", "transpose")
    links = [link for link in chain.links if link.gradient_norm and link.name not in passing]
    if len(links) > MOST:
        links = [links[round(i * (len(links) - 1) / (MOST - 1))] for i in range(MOST)]
    return links
