"""Figure i: a model's blocks drawn from its own modules, in the order they ran, with the shapes that left them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from splatlearn.show.figures.style import BLUE, INK, ORANGE, RULE, SKY, SOFT, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 34  # blocks drawn of a long model


class Block(NamedTuple):
    """A module as it ran: its path in the model, class, output shape, count of parameters, and depth of nesting.

    The depth counts the blocks around it that are listed too; `name` is the path within the innermost of these.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    depth: int
    name: str


def blocks_of(model: torch.nn.Module, run: Callable[[], Any]) -> list[Block]:
    """What `run`, which calls the model, made of those of its modules that hold parameters, in order of first call.

    A module around a called one is listed too if it is not called itself, without a shape; lists of modules are not.
    """
    entered: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    named = {name: module for name, module in model.named_modules() if name and any(True for _ in module.parameters())}

    def before(name: str) -> Callable[..., None]:
        words = name.split(".")
        around = [".".join(words[: i + 1]) for i in range(len(words))]
        around = [each for each in around if not isinstance(named[each], torch.nn.ModuleList)]
        return lambda *_: entered.extend(each for each in around if each not in entered)

    def after(name: str) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, torch.Tensor):
                shapes.setdefault(name, tuple(first.shape))

        return keep

    hooks = [module.register_forward_pre_hook(before(name)) for name, module in named.items()]
    hooks += [module.register_forward_hook(after(name)) for name, module in named.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    blocks = []
    for path in entered:
        around = [each for each in entered if path.startswith(f"{each}.")]
        name = path[max((len(each) + 1 for each in around), default=0) :]
        module = named[path]
        blocks.append(Block(path, type(module).__name__, shapes.get(path, ()), _size(module), len(around), name))
    return blocks


def _size(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def folded(blocks: list[Block]) -> list[Block]:
    """Blocks without what is within layers that are like the first one of their list."""
    sizes = {block.path: (block.kind, block.parameters) for block in blocks}
    alike = []
    for block in blocks:
        group, _, number = block.path.rpartition(".")
        if number != "0" and number.isdigit() and sizes.get(f"{group}.0") == sizes[block.path]:
            alike.append(f"{block.path}.")
    return [block for block in blocks if not block.path.startswith(tuple(alike))]


@styled
def modules_figure(blocks: list[Block], title: str) -> "Figure":
    """The blocks from the input, on top, to the output; a block within another is indented."""
    from matplotlib.patches import FancyBboxPatch

    shown = (blocks if len(blocks) <= MOST else folded(blocks))[:MOST]
    figure = new_figure(0.27 * len(shown) + 0.8)
    axes = figure.add_subplot()
    for row, block in enumerate(shown):
        left = 0.05 * block.depth
        color = (BLUE, SKY, ORANGE, RULE)[min(block.depth, 3)]
        box = FancyBboxPatch(
            (left, row + 0.14),
            0.62 - left,
            0.72,
            boxstyle="round,pad=0,rounding_size=0.01",
            fc=color,
            alpha=0.3,
            ec=INK,
        )
        axes.add_patch(box)
        axes.text(left + 0.012, row + 0.5, f"{block.kind}  {block.name}", va="center", fontsize=7.5)
        axes.text(
            0.65, row + 0.5, "×".join(map(str, block.shape)), va="center", family="DejaVu Sans Mono", fontsize=7.5
        )
        axes.text(0.99, row + 0.5, f"{block.parameters:,}", va="center", ha="right", fontsize=7.5, color=SOFT)
    axes.set(xlim=(0, 1), ylim=(len(shown), -0.6))
    axes.text(0.65, -0.2, "output", fontsize=7.5, color=SOFT)
    axes.text(0.99, -0.2, "parameters", ha="right", fontsize=7.5, color=SOFT)
    more = "" if len(blocks) <= MOST else " (layers that are alike are opened once)"
    more = more if len(folded(blocks)) <= MOST else f" (the first {MOST} of {len(folded(blocks))})"
    axes.set_title(title + more)
    axes.set_axis_off()
    return figure
