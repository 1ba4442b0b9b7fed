"""What the machine can do at best, measured in the same run: float32 multiply-adds, and bytes through memory."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from splatlearn.bench.clock import wait
from splatlearn.ops import native


class Peaks(NamedTuple):
    """Rates of the device, with the threads that torch has on a CPU."""

    gflops: float  # float32, 10^9 a second; an FMA is two
    gigabytes: float  # read and written by a copy, 10^9 bytes a second


def measured(device: torch.device) -> Peaks:
    """Both peaks, the best of several tries each.

    The first is of multiply-adds within registers on a CPU (`csrc/cpu/peak.cpp`): `torch.matmul` would be a low bar,
    for its library takes half the register width on other makers' processors. On a card it is `torch.matmul` on
    square float32 matrices (TF32 off, as by default).
    """
    gflops = matmul_gflops(device) if device.type == "cuda" else register_gflops()
    return Peaks(gflops, copied_gigabytes_per_second(device))


def register_gflops(rounds: int = 1_000_000) -> float:
    """10^9 float32 operations a second in multiply-adds of registers, on as many threads as torch has."""
    threads = torch.get_num_threads()
    made = native.multiply_adds(threads, 1)
    seconds = _best_seconds(torch.device("cpu"), lambda: native.multiply_adds(threads, rounds))
    return made * rounds / seconds / 1e9


def matmul_gflops(device: torch.device) -> float:
    """10^9 float32 operations a second in a product of matrices."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.full((2, side, side), 1e-3, device=device)
    out = torch.empty_like(a)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return 2 * side**3 / _best_seconds(device, lambda: torch.matmul(a, b, out=out)) / 1e9
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def copied_gigabytes_per_second(device: torch.device) -> float:
    """10^9 bytes a second that a copy far larger than any cache reads and writes."""
    source = torch.zeros(1 << (28 if device.type == "cuda" else 25), device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _best_seconds(device, lambda: target.copy_(source)) / 1e9


def _best_seconds(device: torch.device, work: Callable[[], object], patience: float = 0.6) -> float:
    """The quickest of the tries that begin within `patience` seconds: on a shared machine many are disturbed."""
    best, until = float("inf"), time.perf_counter() + patience
    while best == float("inf") or time.perf_counter() < until:
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        best = min(best, time.perf_counter() - begin)
    return best
