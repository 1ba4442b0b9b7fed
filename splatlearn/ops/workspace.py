"""Memory that a training step leaves to the next: within a `Workspace` the stages allocate nothing once sizes settle.

A step needs tens of megabytes that the next one needs again: the picture and its gradient, lists, rows of gradients.
Freed and asked for again they come back from the system as new pages, hundreds of faults a step, or come to lie in gaps
of malloc's heap, which grows to twice what is used. Kept, they cost neither:

    space = Workspace()
    for step in ...:
        with space:
            render, alphas, meta = rasterization(..., packed=False)
            loss = photometric_loss(render[0], photo)
        loss.backward()
        update()

Whatever such a step gave (the picture, `meta`, gradients) is written over by the next; who wants to keep some of it
takes a copy. So it is for those who ask for it, as training does, one forward pass for each backward pass; everywhere
else a result is its caller's own. With the CUDA kernels nothing is done: there PyTorch itself keeps what is freed.
"""

from collections.abc import Sequence
from contextvars import ContextVar, Token
from types import TracebackType

import torch
from torch import Tensor

from splatlearn.ops import native
from splatlearn.ops.pages import own_pages

PAGES_FROM = 1 << 16  # bytes from which memory is not malloc's
_current: ContextVar["Workspace | None"] = ContextVar("workspace", default=None)


class Workspace:
    """While `with space:` lasts, what the stages make lies in memory of the step before; see the head of this file."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}  # bytes
        self._shaped: dict[str, Tensor] = {}  # the same, as it was asked for last
        self._tokens: list[Token[Workspace | None]] = []

    def __enter__(self) -> "Workspace":
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _current.reset(self._tokens.pop())

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of any values in the memory of the last one of this name."""
        shaped = self._shaped.get(name)
        if shaped is None or shaped.shape != shape or shaped.dtype != dtype:
            needed = torch.Size(shape).numel() * dtype.itemsize
            shaped = self._shaped[name] = self._bytes(name, needed)[:needed].view(dtype).view(shape)
        return shaped.data  # the same memory, but a tensor of its own, which autograd may make part of a graph

    def taken(self, *names: str) -> int:
        """Bytes of memory kept under these names."""
        return sum(self._memory[name].numel() for name in names if name in self._memory)

    def _bytes(self, name: str, needed: int) -> Tensor:
        known = self._memory.get(name)
        if known is not None and known.numel() >= needed:
            return known
        size = needed if known is None else needed + needed // 8  # what has changed once will change again
        del known
        self._memory.pop(name, None)  # so that old and new memory are never there together
        self._shaped.pop(name, None)
        made = own_pages((size,), torch.uint8) if size >= PAGES_FROM else torch.empty(size, dtype=torch.uint8)
        self._memory[name] = made
        return made


def current(like: Tensor) -> Workspace | None:
    """The workspace for stages that work on `like`."""
    return None if native.runs_kernels(like) else _current.get()


def empty(
    space: Workspace | None, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """`like.new_empty(shape)`, in the workspace if there is one."""
    if space is None:
        return like.new_empty(shape, dtype=dtype)
    return space.take(name, tuple(shape), dtype or like.dtype)
