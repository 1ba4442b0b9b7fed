"""Compare analytic with numeric gradients, operation by operation in float64, and name the first that is wrong.

The chain rule multiplies the derivatives of all operations between a parameter and the loss. One operation with a wrong
derivative or none (a detach, a write that autograd does not see, an integer, an argmax, a zero or infinite slope)
corrupts the gradients of everything before it. Usually no error is raised: the loss only decreases less.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.gradients.link import SEED, STEP, Link, Verdict, agree, judge
from splatlearn.gradients.trace import Operation, Record, storage_of, trace


@dataclass(frozen=True)
class Break:
    """The break of a chain: its kind, the operation, its line of code, and the parameters that it affects."""

    kind: str
    name: str
    where: str
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        cut = ", ".join(repr(name) for name in self.parameters)
        return f"the chain of gradients to {cut} is broken by {self.kind} ({self.name}) at {self.where}"


@dataclass(frozen=True)
class Chain:
    """The result of `check_gradients`.

    Attributes:
        links: the operations in order.
        slopes: by parameter, (analytic, numeric) slope of the loss along a random direction.
        broken: the first break, or None.
    """

    links: tuple[Link, ...]
    slopes: dict[str, tuple[float, float]]
    broken: Break | None


def check_gradients(
    function: Callable[[], Tensor], parameters: Mapping[str, Tensor], *, tolerance: float = 1e-4, progress: bool = False
) -> Chain:
    """Check every operation from ``parameters`` to the scalar that ``function`` computes from them.

    Args:
        function: takes nothing and returns the loss; it must return the same bits at each call.
        parameters: by name: float64 leaf tensors that require gradients, such as ``model.double().named_parameters()``.
            They are perturbed and restored; their ``.grad`` does not change.
        tolerance: the largest relative difference of analytic and numeric slopes that counts as equal.
        progress: show a progress bar.

    Returns:
        All operations with their errors, and the first break.

    Raises:
        SplatlearnError: a parameter is not a float64 leaf that requires gradients, or the loss is not a finite scalar
            or differs between two calls.
    """
    _check_arguments(parameters)
    loss, record = trace(function, parameters)
    _check_loss(loss, function)
    slopes, bad, failure = _slopes(function, loss, parameters, tolerance)
    judged = [judge(op, record, tolerance) for op in tqdm(record.operations, desc="links", disable=not progress)]
    links = tuple(verdict.link for op, verdict in zip(record.operations, judged, strict=True) if op.outputs)
    broken = None
    if failure is not None:
        broken = _failed_write(record, failure)
    elif bad:
        broken = _first_break(record, loss, judged, bad)
    elif not math.isfinite(float(loss.detach())):
        raise SplatlearnError("the loss is not finite, though no operation on the way to it is to blame")
    return Chain(links, slopes, broken)


# ---- the parameters: which gradients are wrong? ----


def _check_arguments(parameters: Mapping[str, Tensor]) -> None:
    if not parameters:
        raise SplatlearnError("there are no parameters whose gradients could be checked")
    for name, value in parameters.items():
        if not (value.is_leaf and value.requires_grad and value.dtype == torch.float64):
            kind = f"{value.dtype}, {'a leaf' if value.is_leaf else 'computed'}, requires_grad={value.requires_grad}"
            raise SplatlearnError(f"parameter '{name}' must be a float64 leaf that requires gradients, but is {kind}")


def _check_loss(loss: Any, function: Callable[[], Tensor]) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise SplatlearnError(f"the function to check must return a scalar tensor, got {got}")
    again = function()
    if not torch.equal(again.detach(), loss.detach()) and bool(torch.isfinite(loss)):
        raise SplatlearnError("the function to check gives another loss each time: fix its randomness first")


def _slopes(
    function: Callable[[], Tensor], loss: Tensor, parameters: Mapping[str, Tensor], tolerance: float
) -> tuple[dict[str, tuple[float, float]], dict[str, str], str | None]:
    """Return (analytic, numeric) slopes by parameter, the kind of fault of the wrong ones, and backward's error."""
    values = list(parameters.values())
    found: list[Tensor | None] = [None] * len(values)
    if loss.requires_grad:
        try:
            found = list(torch.autograd.grad(loss, values, allow_unused=True))
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            return {}, {}, str(error)
    generator = torch.Generator().manual_seed(SEED)
    slopes, bad = {}, {}
    for (name, value), gradient in zip(parameters.items(), found, strict=True):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
        analytic = 0.0 if gradient is None else float((gradient * direction).sum())
        numeric = _numeric_slope(function, value, direction)
        slopes[name] = (analytic, numeric)
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            bad[name] = "non-finite"
        elif not agree(analytic, numeric, tolerance, float(loss.detach())):
            bad[name] = "wrong"
        elif gradient is None:
            bad[name] = "none"
        elif not bool(gradient.any()):
            bad[name] = "zero"
    return slopes, bad, None


def _numeric_slope(function: Callable[[], Tensor], value: Tensor, direction: Tensor) -> float:
    before, step = value.detach().clone(), STEP * max(1.0, float(value.detach().abs().max()) if value.numel() else 1.0)
    sides = []
    try:
        for sign in (1, -1):
            with torch.no_grad():
                value.copy_(before + sign * step * direction)
            sides.append(float(function().detach()))
    finally:
        with torch.no_grad():
            value.copy_(before)
    return (sides[0] - sides[1]) / (2 * step)


# ---- the operation at fault ----


def _first_break(record: Record, loss: Tensor, judged: list[Verdict], bad: dict[str, str]) -> Break:
    """Find the first faulty operation between the bad parameters and the loss."""
    matter = record.ancestors(loss)
    ways = (("wrong", _blame_wrong), ("none", _blame_none), ("zero", _blame_zero), ("non-finite", _blame_explosion))
    for how, blame in ways:
        names = tuple(name for name, reason in bad.items() if reason == how)
        if not names:
            continue
        for op in record.operations if how != "non-finite" else reversed(record.operations):
            if not op.origins & set(names) or not (op.index in matter or op.leaks):
                continue
            kind = blame(op, record, judged[op.index], matter)
            if kind:
                return Break(kind, op.name, op.where, tuple(n for n in names if n in op.origins))
    how, names = next((how, tuple(n for n in bad if bad[n] == how)) for how, _ in ways if how in bad.values())
    kinds = {"none": "the loss not depending on it", "zero": "a gradient of zero", "wrong": "a wrong derivative"}
    return Break(
        kinds.get(how, "a value that is not finite"), "no single operation is to blame", "the function itself", names
    )


def _blame_wrong(op: Operation, record: Record, verdict: Verdict, matter: set[int]) -> str:
    """Name the fault if the operation changes values without a derivative, or with a wrong one; else ""."""
    if op.target is not None:
        return "an in-place write" if _behind_autograd(op) else ""
    if op.leaks:
        return "a value taken out of its tensor"
    if not _read_again(op, record, matter) or not verdict.wrong:
        return ""
    if op.differentiated:
        return "a wrong derivative"
    return "a detach" if op.grad_enabled or op.name in ("detach", "data") else "a computation without gradients"


def _blame_none(op: Operation, record: Record, verdict: Verdict, matter: set[int]) -> str:
    """Name the fault if the operation cuts autograd's path to the loss, as an integer or a detach; else ""."""
    severs = any(t.requires_grad for t in op.inputs) and not any(t.requires_grad for t in op.outputs)
    if not severs or not (op.leaks or op.target is not None or _read_again(op, record, matter)):
        return ""
    if op.name.startswith(("argm", "argsort", "argwhere")):
        return "an argmax" if op.name == "argmax" else "an index of places"
    if op.leaks:
        return "a value taken out of its tensor"
    if not any(t.is_floating_point() for t in op.outputs):
        return "a comparison" if all(t.dtype == torch.bool for t in op.outputs) else "an integer cast"
    return "a detach" if op.grad_enabled else "a computation without gradients"


def _blame_zero(op: Operation, record: Record, verdict: Verdict, matter: set[int]) -> str:
    return "a zero gradient" if verdict.vanishes else ""


def _blame_explosion(op: Operation, record: Record, verdict: Verdict, matter: set[int]) -> str:
    return "a non-finite gradient" if verdict.explodes else ""


def _behind_autograd(op: Operation) -> bool:
    """Return whether a write in place is not part of the graph."""
    assert op.target is not None
    return not op.grad_enabled or not op.target.requires_grad


def _read_again(op: Operation, record: Record, matter: set[int]) -> bool:
    """Return whether its outputs themselves are read on the way to the loss, not only their shared memory."""
    for output in op.outputs:
        if any(storage_of(output) == storage_of(tensor) for tensor in op.inputs):
            if any(reader.target is not output and reader.index in matter for reader in record.consumers(output)):
                return True
        else:
            return True
    return False


def _failed_write(record: Record, message: str) -> Break:
    """Find the operation that overwrote a tensor that backward needs, by the version in autograd's error."""
    versions = re.search(r"is at version (\d+); expected version (\d+)", message)
    shape = re.search(r"Tensor \[([\d, ]*)\]\]", message)
    writes = [op for op in record.operations if op.target is not None]
    for op in writes:
        assert op.target is not None
        index = next(i for i, tensor in enumerate(op.inputs) if tensor is op.target)
        fits = shape is None or [int(n) for n in shape.group(1).split(",") if n.strip()] == list(op.target.shape)
        if fits and versions is not None and op.versions[index] == int(versions.group(2)):
            return Break("an in-place write", op.name, op.where, tuple(sorted(op.origins)))
    op = writes[0]
    return Break("an in-place write", op.name, op.where, tuple(sorted(op.origins)))
