"""Memory of a run: its peak, of the process and of a CUDA device, and what its Gaussians need."""

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

    resident: int  # of the process, now; 0 where the system does not report it
    resident_peak: int  # since `reset_peak`
    cuda_peak: int  # of tensors on the device since `reset_peak`; 0 on the CPU


def memory(device: torch.device) -> Memory:
    """Memory in use now, and its peak since `reset_peak`."""
    lines: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(("VmRSS:", "VmHWM:")):
                lines[line[:5]] = int(line.split()[1]) * 1024
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Memory(lines.get("VmRSS", 0), lines.get("VmHWM", 0), cuda)


def reset_peak(device: torch.device) -> None:
    """Restart the peaks, where the system allows it."""
    with suppress(OSError):
        CLEAR.write_text("5")  # see proc(5): resets the peak of the resident set
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def give_back() -> None:
    """Let malloc return free memory between used blocks to the system. It takes some milliseconds: for few steps only.

    Decoding images and changing the number of Gaussians leave gaps, which would become resident again one by one: on
    fox 20 MiB beside 55.
    """
    with suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def learned_bytes(parameters: Iterable[Tensor]) -> int:
    """Bytes of parameters with their gradients and moments."""
    return COPIES * sum(p.numel() * p.element_size() for p in parameters)


def mebibytes(count: int) -> str:
    """A number of bytes as text, in MiB."""
    return f"{count / 2**20:,.0f} MiB"
