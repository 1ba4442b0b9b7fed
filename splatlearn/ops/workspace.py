"""Memory that training steps reuse: within a `Workspace` the CPU stages allocate nothing once the sizes are stable.

A step needs tens of megabytes that the next one needs again: the image and its gradient, lists, gradient rows. If they
are freed and allocated again, the system returns new pages, at hundreds of page faults per step. Or they land in gaps
of malloc's heap, which grows to twice the size in use. Kept memory costs neither:

    space = Workspace()
    for step in ...:
        with space:
            render, alphas, meta = rasterization(..., packed=False)
            loss = photometric_loss(render[0], photo)
        loss.backward()
        update()

The next step overwrites all results of a step: the image, `meta`, gradients. Copy what must stay. A workspace is
therefore opt-in, for loops such as training with one forward pass per backward pass. Without one, a result belongs to
its caller. The CUDA kernels ignore it, because PyTorch's allocator reuses freed memory there.
"""

from collections.abc import Sequence
from contextvars import ContextVar, Token
from types import TracebackType

import torch
from torch import Tensor

from splatlearn.ops import native
from splatlearn.ops.pages import own_pages

PAGES_FROM = 1 << 16  # bytes from which memory comes from a mapping of its own, not from malloc
_current: ContextVar["Workspace | None"] = ContextVar("workspace", default=None)


class Workspace:
    """A context in which the stages write into the memory of the step before; see the head of this file."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}  # bytes
        self._shaped: dict[str, Tensor] = {}  # the same memory, in the shape of its last use
        self._tokens: list[Token[Workspace | None]] = []

    def __enter__(self) -> "Workspace":
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _current.reset(self._tokens.pop())

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialized tensor in the memory of the last one of this name."""
        shaped = self._shaped.get(name)
        if shaped is None or shaped.shape != shape or shaped.dtype != dtype:
            needed = torch.Size(shape).numel() * dtype.itemsize
            shaped = self._shaped[name] = self._bytes(name, needed)[:needed].view(dtype).view(shape)
        return shaped.data  # the same memory, but a new tensor, which autograd may add to a graph

    def taken(self, *names: str) -> int:
        """Bytes of memory that are kept under these names."""
        return sum(self._memory[name].numel() for name in names if name in self._memory)

    def _bytes(self, name: str, needed: int) -> Tensor:
        known = self._memory.get(name)
        if known is not None and known.numel() >= needed:
            return known
        size = needed if known is None else needed + needed // 8  # a size that has changed once will change again
        del known
        self._memory.pop(name, None)  # so that old and new memory never exist at the same time
        self._shaped.pop(name, None)
        made = own_pages((size,), torch.uint8) if size >= PAGES_FROM else torch.empty(size, dtype=torch.uint8)
        self._memory[name] = made
        return made


def current(like: Tensor) -> Workspace | None:
    """The workspace in effect for stages that work on `like`, if any."""
    return None if native.runs_kernels(like) else _current.get()


def empty(
    space: Workspace | None, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """`like.new_empty(shape, dtype=dtype)`, in the workspace if there is one."""
    if space is None:
        return like.new_empty(shape, dtype=dtype)
    return space.take(name, tuple(shape), dtype or like.dtype)
