"""How much memory a run takes at its peak, of the process and of a CUDA device, and what its Gaussians need."""

import ctypes
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
COPIES = 4  # of each parameter: itself, its gradient, and Adam's two moments


class Memory(NamedTuple):
    """Bytes."""

    resident: int  # of the process, now; 0 where the system does not tell
    resident_peak: int  # since `reset_peak`
    cuda_peak: int  # of tensors on the device since `reset_peak`; 0 on the CPU


def memory(device: torch.device) -> Memory:
    """What is used now, and at most since `reset_peak`."""
    lines: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(("VmRSS:", "VmHWM:")):
                lines[line[:5]] = int(line.split()[1]) * 1024
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Memory(lines.get("VmRSS", 0), lines.get("VmHWM", 0), cuda)


def reset_peak(device: torch.device) -> None:
    """Peaks begin anew, where the system lets them."""
    with suppress(OSError):
        CLEAR.write_text("5")  # see proc(5): resets the peak of the resident set
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def give_back() -> None:
    """Lets malloc return to the system what lies free between what is used; some milliseconds, for now and then.

    Reading photographs and changing the number of Gaussians leave gaps, which would be touched again one by one: on fox
    20 MiB beside 55.
    """
    with suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def learned_bytes(parameters: Iterable[Tensor]) -> int:
    """Bytes of parameters with their gradients and moments."""
    return COPIES * sum(p.numel() * p.element_size() for p in parameters)


def mebibytes(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 2**20:,.0f} MiB"
