"""One link of the chain: its own derivative, analytic against numeric, with all that came before it held still."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatlearn.gradients.trace import Operation, Record, tensors_in

STEP = 1e-6  # of central differences, relative to the size of what is moved
SEED = 7_919_001  # of directions; one that a caller used for parameters would make them parallel to those
NOISE = 1e-8  # what rounding leaves in a difference of values about 1


@dataclass(frozen=True)
class Link:
    """An operation of the chain: its name, its line of code, and the shape of its (first) output.

    gradient_norm: of the loss by the output, None if none arrived. error: the relative difference of the operation's
    own analytic and numeric derivatives, None where they cannot be compared.
    """

    name: str
    where: str
    shape: tuple[int, ...]
    gradient_norm: float | None
    error: float | None


@dataclass(frozen=True)
class Verdict:
    """A link, and what is wrong with it."""

    link: Link
    wrong: bool = False  # analytic and numeric derivative differ
    vanishes: bool = False  # a gradient comes in that is not zero, and nothing goes out
    explodes: bool = False  # a finite gradient comes in, and something that is not finite goes out


def judge(op: Operation, record: Record, tolerance: float) -> Verdict:
    """Runs an operation again by itself, moved a little along a random direction of its inputs."""
    arrived = [record.gradients.get(id(output)) for output in op.outputs]
    known = [g for g in arrived if g is not None]
    norm = float(torch.stack([g.norm() for g in known]).norm()) if known else None
    shape = tuple(op.outputs[0].shape) if op.outputs else ()
    plain = Verdict(Link(op.name, op.where, shape, norm, None))
    moved = [i for i, value in enumerate(op.values) if value.dtype == torch.float64 and op.inputs[i].requires_grad]
    if not moved or op.target is not None or not any(output.dtype == torch.float64 for output in op.outputs):
        return plain
    try:
        return _compared(op, moved, arrived, plain.link, tolerance)
    except (RuntimeError, TypeError):  # it cannot be run again by itself
        return plain


def _compared(op: Operation, moved: list[int], arrived: list[Tensor | None], link: Link, tolerance: float) -> Verdict:
    generator = torch.Generator().manual_seed(SEED + op.index)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    floats = [i for i, output in enumerate(op.outputs) if output.dtype == torch.float64]
    pull = [drawn(op.outputs[i]) if arrived[i] is None else arrived[i].clone() for i in floats]  # type: ignore[union-attr]
    if link.gradient_norm is not None and not math.isfinite(link.gradient_norm):
        return Verdict(link)  # what is broken is further down
    leaves = [op.values[i].clone().requires_grad_() for i in moved]
    outputs = _again(op, dict(zip(moved, leaves, strict=True)))
    if any(not torch.equal(outputs[i].detach(), op.outputs[i].detach()) for i in floats if _untouched(op.outputs[i])):
        return Verdict(link)  # random, or it depends on more than its inputs
    gradients: list[Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
    reached = [(outputs[i], p) for i, p in zip(floats, pull, strict=True) if outputs[i].requires_grad]
    if op.differentiated and reached:
        found = torch.autograd.grad([o for o, _ in reached], leaves, [p for _, p in reached], allow_unused=True)
        gradients = [zero if g is None else g for g, zero in zip(found, gradients, strict=True)]
    came, went = any(bool(p.any()) for p in pull), any(bool(g.any()) for g in gradients)
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        return Verdict(link, explodes=True)
    directions = [drawn(leaf) * max(1.0, float(leaf.detach().abs().max()) if leaf.numel() else 1.0) for leaf in leaves]
    sides = []
    for sign in (STEP, -STEP):
        shifted = [leaf.detach() + sign * direction for leaf, direction in zip(leaves, directions, strict=True)]
        with torch.no_grad():
            again = _again(op, dict(zip(moved, shifted, strict=True)))
        sides.append(sum(float((again[i] * p).sum()) for i, p in zip(floats, pull, strict=True)))
    numeric = (sides[0] - sides[1]) / (2 * STEP)
    analytic = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    scale = max(abs(analytic), abs(numeric), 1e-30)
    wrong = not agree(analytic, numeric, tolerance, sum(map(abs, sides)))
    link = Link(
        link.name, link.where, link.shape, link.gradient_norm, abs(analytic - numeric) / scale if scale > 1e-12 else 0.0
    )
    return Verdict(link, wrong=wrong, vanishes=op.differentiated and came and not went)


def _untouched(tensor: Tensor) -> bool:
    return tensor._version == 0


def _again(op: Operation, replaced: dict[int, Tensor]) -> list[Tensor]:
    """The outputs of an operation run once more, with its inputs as they were or replaced."""
    counter = iter(range(len(op.inputs)))

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            index = next(counter)
            return replaced.get(index, op.values[index])
        if isinstance(value, (list, tuple)):
            items = [swap(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return {key: swap(item) for key, item in value.items()} if isinstance(value, dict) else value

    args, kwargs = swap(op.args), swap(op.kwargs)
    return list(tensors_in(op.function(*args, **kwargs)))


def agree(analytic: float, numeric: float, tolerance: float, size: float) -> bool:
    """Whether two slopes are equal, but for the rounding of differences of values of about `size`."""
    return abs(analytic - numeric) <= tolerance * max(abs(analytic), abs(numeric)) + NOISE * max(1.0, abs(size))
