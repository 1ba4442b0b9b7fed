"""Tensors in memory mappings of their own, which return to the system when the tensors are freed.

Large tensors that threads allocate and free leave gaps in malloc's heap, each a little too small for the next tensor:
with images of 1600x1200 pixels, a budget of 0.1 GiB took more than 1 GiB.
"""

import math
import mmap
import threading

import torch

_of_thread = threading.local()


def own_pages(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of zeros on the CPU, in a mapping of its own."""
    count = math.prod(shape)
    if count == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype, count=count).reshape(shape)


def in_own_pages(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy, in a mapping of its own."""
    return own_pages(tuple(tensor.shape), tensor.dtype).copy_(tensor)


def scratch(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialized tensor; consecutive calls of one thread with one shape and dtype return the same one."""
    kept = getattr(_of_thread, "kept", None)
    if kept is None or (tuple(kept.shape), kept.dtype) != (shape, dtype):
        kept = _of_thread.kept = own_pages(shape, dtype)
    return kept
