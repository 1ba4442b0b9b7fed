"""Record every torch operation between parameters and a loss, with the line of code that called it.

A torch function mode observes the operations; each `torch.autograd.Function` counts as one. Dependencies are tracked by
storage, so that views and writes in place count whether or not autograd sees them.
"""

import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
LEAKS = ("item", "tolist", "numpy", "__float__", "__int__", "__index__", "__bool__", "__array__")  # to Python's numbers


@dataclass
class Operation:
    """One recorded operation.

    Attributes:
        index: its position in the record.
        name, function, args, kwargs: the call.
        where: its line of code.
        inputs, outputs: the tensors themselves.
        values: detached copies of the inputs before the call.
        origins: names of the parameters on which the inputs depend.
        parents: indices of the operations that wrote its inputs.
        target: the tensor that was written in place, or None.
        versions: of the inputs before the call.
        grad_enabled: whether autograd was on.
        is_function: whether it is a `torch.autograd.Function`.
    """

    index: int
    name: str
    function: Callable[..., Any]
    args: Any
    kwargs: dict[str, Any]
    where: str
    inputs: list[Tensor]
    values: list[Tensor]
    outputs: list[Tensor]
    origins: frozenset[str]
    parents: frozenset[int]
    target: Tensor | None
    versions: tuple[int, ...]
    grad_enabled: bool
    is_function: bool = False

    @property
    def differentiated(self) -> bool:
        """Whether autograd recorded the operation."""
        return self.grad_enabled and any(output.requires_grad for output in self.outputs)

    @property
    def leaks(self) -> bool:
        """Whether the operation converts tensor values to Python numbers."""
        return self.name in LEAKS


@dataclass
class Record:
    """All operations in order, with the loss's gradients by their outputs as backward computed them."""

    operations: list[Operation] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)  # by id of a tensor that is kept alive here
    writers: dict[int, list[int]] = field(default_factory=dict)  # by storage
    origins: dict[int, frozenset[str]] = field(default_factory=dict)  # by storage
    kept: list[Any] = field(default_factory=list)

    def ancestors(self, tensor: Tensor) -> set[int]:
        """Return the indices of the operations on which a tensor's values depend."""
        found: set[int] = set()
        waiting = list(self.writers.get(storage_of(tensor), []))
        while waiting:
            index = waiting.pop()
            if index not in found:
                found.add(index)
                waiting.extend(self.operations[index].parents)
        return found

    def consumers(self, tensor: Tensor) -> list[Operation]:
        """Return the operations that read this tensor itself, not another view of its storage."""
        return [op for op in self.operations if any(tensor is read for read in op.inputs)]


def trace(function: Callable[[], Tensor], parameters: Mapping[str, Tensor]) -> tuple[Tensor, Record]:
    """Call ``function``; return its loss and the record of the operations that computed it."""
    record = Record()
    for name, parameter in parameters.items():
        key = storage_of(parameter)
        record.origins[key] = record.origins.get(key, frozenset()) | {name}
        record.kept.append(parameter)
    mode = _Recorder(record)
    with mode, _record_functions(mode):
        loss = function()
    return loss, record


class _Recorder(TorchFunctionMode):
    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.observe(_name_of(func), func, args, kwargs or {}, is_function=False)

    def observe(self, name: str, function: Any, args: Any, kwargs: dict[str, Any], is_function: bool) -> Any:
        if self.inside or name in ("register_hook", "retain_grad", "requires_grad_"):
            return function(*args, **kwargs)
        self.inside = True  # do not record the operations within this one
        try:
            return self._observed(name, function, args, kwargs, is_function)
        finally:
            self.inside = False

    def _observed(self, name: str, function: Any, args: Any, kwargs: dict[str, Any], is_function: bool) -> Any:
        inputs = list(tensors_in((args, kwargs)))
        origins = frozenset().union(*(self.record.origins.get(storage_of(t), frozenset()) for t in inputs))
        if not origins:
            return function(*args, **kwargs)
        versions = tuple(t._version for t in inputs)
        values = [t.detach().clone() for t in inputs]
        parents = frozenset(i for t in inputs for i in self.record.writers.get(storage_of(t), []))
        result = function(*args, **kwargs)
        outputs = list(tensors_in(result))
        if not outputs and name not in LEAKS and name not in ("__setitem__", "data"):
            return result  # a shape, a dtype, a device
        changed = [t for t, before in zip(inputs, versions, strict=True) if t._version != before]
        operation = Operation(
            len(self.record.operations), name, function, args, kwargs, _line_of_code(), inputs, values, outputs,
            origins, parents, changed[0] if changed else None, versions, torch.is_grad_enabled(), is_function,
        )  # fmt: skip
        self._keep(operation, changed)
        return result

    def _keep(self, operation: Operation, changed: list[Tensor]) -> None:
        record = self.record
        record.operations.append(operation)
        for tensor in [*operation.outputs, *changed]:
            key = storage_of(tensor)
            writers = record.writers.setdefault(key, [])
            if operation.index not in writers:
                writers.append(operation.index)
            record.origins[key] = record.origins.get(key, frozenset()) | operation.origins
            if tensor.requires_grad and tensor.grad_fn is not None:
                tensor.register_hook(partial(record.gradients.__setitem__, id(tensor)))


@contextmanager
def _record_functions(mode: _Recorder) -> Iterator[None]:
    """Record each `torch.autograd.Function` as one operation; the mode alone does not observe them."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return original.__func__(cls, *args, **kwargs)

        return mode.observe(cls.__name__.lstrip("_"), call, args, kwargs, is_function=True)

    setattr(torch.autograd.Function, "apply", classmethod(apply))  # noqa: B010  (a plain assignment is a type error)
    try:
        yield
    finally:
        setattr(torch.autograd.Function, "apply", original)  # noqa: B010


def storage_of(tensor: Tensor) -> int:
    """Return an id of the tensor's storage, which views share."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    return str(name)


def _line_of_code() -> str:
    """Return the innermost line outside of torch and this package, as ``file.py:12: y = x.detach()``."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    return f"{Path(path).name}:{line}: {linecache.getline(path, line).strip()}"
