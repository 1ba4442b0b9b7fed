"""Figure j: the chain rule at work: the norm of the loss's gradient at every link from the parameters to the loss."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from splatlearn.gradients import Chain, Link
from splatlearn.show.figures.style import BLUE, INK, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 18  # links drawn of a long chain
PASSING = (
    "contiguous",
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "unbind",
    "__getitem__",
    "T",
    "transpose",
    "dropout",
)
SHORT = {"scaled_dot_product_attention": "attention"}


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
        axes.set_yticks(rows, [_label(link) for link in links], fontsize=7)
        axes.set(xscale="log", xlim=(low, max(norms) * 4), ylim=(len(links) - 0.4, -0.6))
        errors = [link.error for link in links if link.error is not None]
        agreed = f"\nanalytic = numeric\nto {max(errors):.0e}" if errors else ""
        axes.set_xlabel(f"|∂loss/∂output|{agreed}", fontsize=7.5)
        axes.set_title(name)
    return figure


def _label(link: Link) -> str:
    shape = "×".join(map(str, link.shape)) or "scalar"
    return f"{SHORT.get(link.name, link.name)}  {shape}"


def links_shown(chain: Chain) -> list[Link]:
    """Links that carry a gradient, without those that only pass their input on; of many, an even choice."""
    links = [link for link in chain.links if link.gradient_norm and link.name not in PASSING]
    if len(links) > MOST:
        links = [links[round(i * (len(links) - 1) / (MOST - 1))] for i in range(MOST)]
    return links
