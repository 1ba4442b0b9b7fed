"""Check one operation of a chain by itself: its analytic derivative against its numeric one."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatlearn.gradients.trace import Operation, Record, tensors_in

STEP = 1e-6  # of central differences, relative to the size of the perturbed values
SEED = 7_919_001  # of the directions; must differ from a caller's seed, or directions and parameters would be parallel
NOISE = 1e-8  # rounding error of a difference of values about 1


@dataclass(frozen=True)
class Link:
    """An operation of the chain.

    Attributes:
        name: of the operation.
        where: its line of code.
        shape: of its first output.
        gradient_norm: norm of the loss's gradient by the output; None if backward did not reach it.
        error: relative difference of the operation's own analytic and numeric derivatives; None if not comparable.
    """

    name: str
    where: str
    shape: tuple[int, ...]
    gradient_norm: float | None
    error: float | None


@dataclass(frozen=True)
class Verdict:
    """A link and its faults."""

    link: Link
    wrong: bool = False  # analytic and numeric derivative differ
    vanishes: bool = False  # its output gradient is not zero, but its input gradients are
    explodes: bool = False  # its output gradient is finite, but its input gradients are not


def judge(op: Operation, record: Record, tolerance: float) -> Verdict:
    """Run an operation again by itself and compare its derivatives along a random direction of its inputs."""
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
    except (RuntimeError, TypeError):  # the operation cannot run by itself
        return plain


def _compared(op: Operation, moved: list[int], arrived: list[Tensor | None], link: Link, tolerance: float) -> Verdict:
    generator = torch.Generator().manual_seed(SEED + op.index)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    floats = [i for i, output in enumerate(op.outputs) if output.dtype == torch.float64]
    cotangents = [drawn(op.outputs[i]) if arrived[i] is None else arrived[i].clone() for i in floats]  # type: ignore[union-attr]
    if link.gradient_norm is not None and not math.isfinite(link.gradient_norm):
        return Verdict(link)  # a later operation is at fault
    leaves = [op.values[i].clone().requires_grad_() for i in moved]
    outputs = _again(op, dict(zip(moved, leaves, strict=True)))
    if any(not torch.equal(outputs[i].detach(), op.outputs[i].detach()) for i in floats if _untouched(op.outputs[i])):
        return Verdict(link)  # random, or dependent on more than its inputs
    gradients: list[Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
    reached = [(outputs[i], p) for i, p in zip(floats, cotangents, strict=True) if outputs[i].requires_grad]
    if op.differentiated and reached:
        found = torch.autograd.grad([o for o, _ in reached], leaves, [p for _, p in reached], allow_unused=True)
        gradients = [zero if g is None else g for g, zero in zip(found, gradients, strict=True)]
    nonzero_out, nonzero_in = any(bool(p.any()) for p in cotangents), any(bool(g.any()) for g in gradients)
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        return Verdict(link, explodes=True)
    directions = [drawn(leaf) * max(1.0, float(leaf.detach().abs().max()) if leaf.numel() else 1.0) for leaf in leaves]
    sides = []
    for sign in (STEP, -STEP):
        shifted = [leaf.detach() + sign * direction for leaf, direction in zip(leaves, directions, strict=True)]
        with torch.no_grad():
            again = _again(op, dict(zip(moved, shifted, strict=True)))
        sides.append(sum(float((again[i] * p).sum()) for i, p in zip(floats, cotangents, strict=True)))
    numeric = (sides[0] - sides[1]) / (2 * STEP)
    analytic = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    scale = max(abs(analytic), abs(numeric), 1e-30)
    wrong = not agree(analytic, numeric, tolerance, sum(map(abs, sides)))
    link = Link(
        link.name, link.where, link.shape, link.gradient_norm, abs(analytic - numeric) / scale if scale > 1e-12 else 0.0
    )
    return Verdict(link, wrong=wrong, vanishes=op.differentiated and nonzero_out and not nonzero_in)


def _untouched(tensor: Tensor) -> bool:
    return tensor._version == 0


def _again(op: Operation, replaced: dict[int, Tensor]) -> list[Tensor]:
    """Run an operation again with its recorded inputs, some of them replaced, and return its outputs."""
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
    """Return whether two slopes are equal up to the tolerance and the rounding of values of about `size`."""
    return abs(analytic - numeric) <= tolerance * max(abs(analytic), abs(numeric)) + NOISE * max(1.0, abs(size))
