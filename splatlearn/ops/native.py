"""The way to the native core: loads its libraries, checks that they have this package's ABI, raises their failures.

Parameter structs and constants of csrc/abi.h have their names here too, such as `native.BinCount` and `native.SPAN`.
"""

import ctypes
import functools
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_char_p, c_double, c_int, c_int64
from pathlib import Path

import torch

from splatlearn.errors import SplatlearnError
from splatlearn.ops import abi, libraries, structs
from splatlearn.ops.abi import *  # noqa: F403  (names of csrc/abi.h, as native.NAME)

CPU_LIBRARY = libraries.find_library("libsplatlearn_cpu.so")
CUDA_LIBRARY = libraries.find_library("libsplatlearn_cuda.so")
_emulated: Path | None = None  # the library of the emulated CUDA kernels, within `emulated`


class _Row(Structure):
    """A row of the table that a library reports: a constant, a field's offset, or a struct's size."""

    _fields_ = [("name", c_char_p), ("number", c_double)]


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    remedy = "; reinstall with `pip install .`, or in a checkout run `python setup.py build_ext --inplace`"
    if not path.exists():
        if path == CUDA_LIBRARY:
            raise SplatlearnError(
                f"tensors on a CUDA device need {path.name}, which was not built because nvcc was not found; "
                "install the CUDA toolkit and reinstall with `SPLATLEARN_CUDA=1 pip install .`"
            )
        raise SplatlearnError(f"the native library {path} is missing{remedy}")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise SplatlearnError(f"the native library {path} cannot be loaded ({error}){remedy}") from error
    difference = _abi_difference(loaded)
    if difference:
        raise SplatlearnError(f"the native library {path} was built from another csrc/abi.h: {difference}{remedy}")
    if path in (CPU_LIBRARY, CUDA_LIBRARY) and libraries.is_borrowed(path):
        loaded.splatlearn_sources.restype = c_char_p
        if loaded.splatlearn_sources().decode() != libraries.digest_of_sources(libraries.CSRC):
            raise SplatlearnError(
                f"the native library {path}, of the installed package, was not built from this checkout's csrc{remedy}"
            )
    if path == CPU_LIBRARY:
        _check_level(loaded)
    loaded.splatlearn_error.restype = c_char_p
    stages = abi.STAGES if path == CPU_LIBRARY else abi.STAGES | abi.CUDA_STAGES
    for name, struct in stages.items():
        function = getattr(loaded, f"splatlearn_{name}")
        function.argtypes, function.restype = [POINTER(struct)], c_int
        if path != CPU_LIBRARY:
            scratch = getattr(loaded, f"splatlearn_{name}_scratch")
            scratch.argtypes, scratch.restype = [POINTER(struct)], c_int64
    return loaded


def _check_level(loaded: ctypes.CDLL) -> None:
    loaded.splatlearn_isa_level.restype = loaded.splatlearn_isa_levels.restype = c_char_p
    levels = loaded.splatlearn_isa_levels().decode()
    if not levels:
        raise SplatlearnError("the native library needs a processor of the level x86-64-v2 at least, and this is none")
    if loaded.splatlearn_isa_level() is None:
        wanted = os.environ.get("SPLATLEARN_ISA", "")
        raise SplatlearnError(
            f"SPLATLEARN_ISA is {wanted[:40]!r}, which this processor has not; set it to {levels}, or not"
        )


def _abi_difference(loaded: ctypes.CDLL) -> str:
    """The first difference between the ABI that a library reports and this package's, or nothing."""
    if not hasattr(loaded, "splatlearn_abi"):
        return "it does not report its ABI"
    loaded.splatlearn_abi.restype = POINTER(_Row)
    reported = loaded.splatlearn_abi()
    theirs = ((row.name.decode(), row.number) for row in itertools.takewhile(lambda row: row.name, reported))
    known = {name: getattr(abi, name) for name in abi.__all__}
    constants = [(name, value) for name, value in known.items() if isinstance(value, int | float)]
    ours = [*constants, *structs.layout([value for value in known.values() if isinstance(value, type)])]
    for here, there in itertools.zip_longest(ours, theirs):
        if here != there:
            return f"{_described(here)} here, but {_described(there)} there"
    return ""


def _described(row: tuple[str, float] | None) -> str:
    if row is None:
        return "the table ends"
    name, number = row[0], f"{row[1]:.17g}"
    if name.startswith("sizeof "):
        return f"{name.removeprefix('sizeof ')} has {number} bytes"
    field, _, c_type = name.partition(" ")
    return f"{field} is {c_type} at byte {number}" if c_type else f"{field} is {number}"


def library(device: str = "cpu") -> ctypes.CDLL:
    """The loaded library for tensors on a `device` of this type, "cpu" or "cuda".

    Raises:
        SplatlearnError: it is missing, cannot be loaded, or has another ABI than this package.
    """
    return _load(CUDA_LIBRARY if device == "cuda" else _emulated or CPU_LIBRARY)


@contextmanager
def emulated(path: Path) -> Iterator[None]:
    """Within this context the CUDA kernels work on CPU tensors, run by the emulator at `path` (csrc/emulator)."""
    global _emulated
    before, _emulated = _emulated, Path(path)
    try:
        yield
    finally:
        _emulated = before


def runs_kernels(tensor: torch.Tensor) -> bool:
    """Whether the CUDA kernels work on this tensor, on a GPU or emulated."""
    return tensor.is_cuda or _emulated is not None


def isa_level() -> str:
    """The instruction-set level that the CPU library has chosen, such as "x86-64-v4"."""
    return str(_load(CPU_LIBRARY).splatlearn_isa_level().decode())


def isa_levels() -> list[str]:
    """The levels that SPLATLEARN_ISA may name on this processor, the best first."""
    return str(_load(CPU_LIBRARY).splatlearn_isa_levels().decode()).split(", ")


def set_reproducible(wanted: bool) -> None:
    """Ask for the bits that all instruction sets share, or for the fastest code whatever its bits.

    They differ on processors without fused multiply-adds alone (x86-64-v2), which then emulate them, slowly.

    Raises:
        SplatlearnError: The library was built for a processor whose bits are its own.
    """
    if not _load(CPU_LIBRARY).splatlearn_set_reproducible(int(wanted)):
        raise SplatlearnError(
            "'reproducible' needs a library for x86-64 or AArch64; this one has the instruction set 'portable'"
        )


def multiply_adds(threads: int, rounds: int) -> float:
    """Runs float32 multiply-adds in the registers of so many threads, and returns the number of operations."""
    work = library().splatlearn_multiply_adds
    work.argtypes, work.restype = [c_int, c_int64], c_double
    return float(work(threads, rounds))


def call(stage: str, params: Structure, tensor: torch.Tensor) -> None:
    """Runs a stage on the device of `tensor`, on the current stream if that is a CUDA device.

    Args:
        stage: an entry point, a key of `STAGES` or `CUDA_STAGES`.
        params: its struct, whose pointers are to memory of this device.

    Raises:
        SplatlearnError: the library reports a failure.
    """
    backend = library(tensor.device.type)
    scratch = None
    if runs_kernels(tensor):
        needed = getattr(backend, f"splatlearn_{stage}_scratch")(params)
        _raise_failure(stage, backend, min(needed, 0))
        if needed:
            scratch = torch.empty(needed, dtype=torch.uint8, device=tensor.device)
            inner = _context_of(params)
            inner.scratch, inner.scratch_bytes = scratch.data_ptr(), needed
    _raise_failure(stage, backend, getattr(backend, f"splatlearn_{stage}")(params))


def _context_of(params: Structure) -> abi.Context:
    """The context of a struct, which is its first field, or that of its first field."""
    while not isinstance(params, abi.Context):
        params = getattr(params, params._fields_[0][0])
    return params


def _raise_failure(stage: str, backend: ctypes.CDLL, code: int) -> None:
    if code:
        raise SplatlearnError(f"{stage.replace('_', ' ')}: {backend.splatlearn_error(code).decode()}")


def context(tensor: torch.Tensor) -> abi.Context:
    """Scalar type of `tensor`, the threads that torch may use, and for a CUDA device its index and current stream."""
    device, threads, stream = 0, 1, None
    if tensor.is_cuda:
        device, stream = tensor.device.index, torch.cuda.current_stream(tensor.device).cuda_stream
    else:
        threads = torch.get_num_threads()
    return abi.Context(
        scalar_bytes=tensor.element_size(), threads=threads, device=device, stream=stream, scratch_bytes=0
    )
