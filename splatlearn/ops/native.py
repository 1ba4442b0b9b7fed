"""The door to the native core: loads its libraries, mirrors their structs (csrc/abi.h), makes errors of failures."""

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch

from splatlearn.errors import SplatlearnError

CPU_LIBRARY = Path(__file__).with_name("libsplatlearn_cpu.so")
CUDA_LIBRARY = Path(__file__).with_name("libsplatlearn_cuda.so")
_emulated: Path | None = None  # the CUDA kernels compiled for the CPU, where CPU tensors go while `emulated` lasts


def _fields(head: list[tuple[str, Any]], tail: str) -> list[tuple[str, Any]]:
    """Struct fields: `head` with types, then pointers named in `tail`."""
    return head + [(name, c_void_p) for name in tail.split()]


class Context(Structure):
    _fields_ = [
        *_fields([(name, c_int32) for name in ("scalar_bytes", "threads", "device")], "stream scratch"),
        ("scratch_bytes", c_int64),
    ]


class ProjectInputs(Structure):
    _fields_ = _fields(
        [("context", Context), ("n_cameras", c_int64), ("n_gaussians", c_int64)]
        + [(name, c_int32) for name in ("width", "height", "sh_degree", "antialiased", "raw")]
        + [(name, c_int64) for name in ("sh0_stride", "shN_stride")]
        + [(name, c_double) for name in ("eps2d", "near_plane", "far_plane", "radius_clip", "alpha_threshold")],
        "means quats scales opacities sh0 shN viewmats Ks camera_centers",
    )


class ProjectForward(Structure):
    _fields_ = _fields([("inputs", ProjectInputs)], "means2d depths conics opacities2d colors radii records")


class ProjectBackward(Structure):
    _fields_ = [
        *_fields(
            [("inputs", ProjectInputs)],
            "radii colors v_means2d v_depths v_conics v_opacities2d v_colors "
            "v_means v_quats v_scales v_opacities v_sh0 v_shN",
        ),
        ("n_shN", c_int64),
        *_fields([], "v_viewmats v_Ks v_camera_centers"),
    ]


class BinInputs(Structure):
    _fields_ = _fields(
        [("context", Context), ("n_rows", c_int64), ("n_cameras", c_int64)]
        + [("width", c_int32), ("height", c_int32), ("alpha_threshold", c_double)],
        "means2d conics opacities depths radii camera_ids",
    )


class BinCount(Structure):
    _fields_ = _fields([("inputs", BinInputs)], "counts row_offsets block_offsets")


class BinWrite(Structure):
    _fields_ = _fields(
        [("inputs", BinInputs), ("n_listed", c_int64), ("n_instances", c_int64), ("sorting", c_int32)],
        "counts row_offsets block_offsets tile_offsets row_ids slots overflow",
    )


class RasterizeInputs(Structure):
    _fields_ = _fields(
        [("context", Context)]
        + [(name, c_int64) for name in ("n_rows", "n_cameras", "n_instances")]
        + [(name, c_int32) for name in ("width", "height", "channels", "absgrad")]
        + [(name, c_double) for name in ("alpha_threshold", "transmittance_threshold")],
        "means2d conics opacities colors backgrounds records tile_offsets row_ids",
    )


class RasterizeForward(Structure):
    _fields_ = _fields(
        [("inputs", RasterizeInputs)], "new_records render alphas transmittance stops tile_order spans checkpoints"
    )


class RasterizeBackward(Structure):
    _fields_ = _fields(
        [("inputs", RasterizeInputs), ("atomic", c_int32)],
        "row_offsets slots transmittance stops v_render v_alphas instance_rows "
        "v_means2d v_means2d_abs v_conics v_opacities v_colors v_backgrounds spans checkpoints render",
    )


class Photometric(Structure):
    _fields_ = _fields(
        [("context", Context), ("n_images", c_int64)]
        + [(name, c_int32) for name in ("width", "height", "channels", "target_is_uint8")]
        + [("lambda_dssim", c_double)],
        "image target v_image l1 ssim loss",
    )


class Adam(Structure):
    _fields_ = _fields(
        [("context", Context), ("count", c_int64), ("step", c_int64)]
        + [(name, c_double) for name in ("learning_rate", "beta1", "beta2", "eps")],
        "parameter gradient exp_avg exp_avg_sq",
    )


class AdamGroups(Structure):
    _fields_ = [
        ("context", Context),
        ("n_groups", c_int32),
        ("groups", POINTER(Adam)),
        ("n_rows", c_int64),
        ("visible", c_void_p),
        ("skip", c_void_p),
        ("rates", c_void_p),
    ]


class ProjectUpdate(Structure):
    _fields_ = [
        ("grad", ProjectBackward),
        ("n_moving", c_int64),
        ("step", c_int64),
        ("learning_rates", c_double * 6),
        *((name, c_double) for name in ("beta1", "beta2", "eps")),
        *((name, c_void_p * 6) for name in ("parameters", "exp_avg", "exp_avg_sq")),
        *_fields([], "skip rates"),
    ]


ADAM_GROUPS_MAX = 8  # as in csrc/abi.h, and so the next four
RECORD = 12  # numbers of a 2D Gaussian packed for the blend
BIN_BLOCK = 256  # rows that stage bin counts together
SORTING = {"auto": 0, "all": 1, "tile": 2}  # ways to sort in stage bin
SPAN = 256  # instances of a list that the blend's backward walks by itself
# In the order of SPLATLEARN_STAGES in csrc/abi.h.
STAGES: dict[str, type[Structure]] = {
    "project_forward": ProjectForward,
    "project_backward": ProjectBackward,
    "bin_count": BinCount,
    "bin_write": BinWrite,
    "rasterize_forward": RasterizeForward,
    "rasterize_backward": RasterizeBackward,
    "photometric": Photometric,
    "adam": Adam,
    "project_update": ProjectUpdate,
}
CUDA_STAGES: dict[str, type[Structure]] = STAGES | {"adam_groups": AdamGroups}


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    mend = "; reinstall with `pip install .`, or in a checkout run `python setup.py build_ext --inplace`"
    if not path.exists():
        if path == CUDA_LIBRARY:
            raise SplatlearnError(
                f"tensors on a CUDA device need {path.name}, which was not built because nvcc was not found; "
                "install the CUDA toolkit and reinstall with `SPLATLEARN_CUDA=1 pip install .`"
            )
        raise SplatlearnError(f"the native library {path} is missing{mend}")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise SplatlearnError(f"the native library {path} cannot be loaded ({error}){mend}") from error
    loaded.splatlearn_error.restype = c_char_p
    loaded.splatlearn_struct_sizes.restype = POINTER(c_int64)
    sizes = loaded.splatlearn_struct_sizes()
    stages = STAGES if path == CPU_LIBRARY else CUDA_STAGES
    wanted = [ctypes.sizeof(struct) for struct in stages.values()] + [0]
    if any(sizes[i] != size for i, size in enumerate(wanted)):
        raise SplatlearnError(f"the native library {path} belongs to another version of splatlearn{mend}")
    for name, struct in stages.items():
        function = getattr(loaded, f"splatlearn_{name}")
        function.argtypes, function.restype = [POINTER(struct)], c_int
        if path != CPU_LIBRARY:
            scratch = getattr(loaded, f"splatlearn_{name}_scratch")
            scratch.argtypes, scratch.restype = [POINTER(struct)], c_int64
    return loaded


def library(device: str = "cpu") -> ctypes.CDLL:
    """The loaded library for tensors on a `device` of this type, "cpu" or "cuda".

    Raises:
        SplatlearnError: it is absent, cannot be loaded, or belongs to another version of this package.
    """
    return _load(CUDA_LIBRARY if device == "cuda" else _emulated or CPU_LIBRARY)


@contextmanager
def emulated(path: Path) -> Iterator[None]:
    """While it lasts, CPU tensors go to the CUDA kernels, as the emulator at `path` runs them (csrc/emulator)."""
    global _emulated
    before, _emulated = _emulated, Path(path)
    try:
        yield
    finally:
        _emulated = before


def runs_kernels(tensor: torch.Tensor) -> bool:
    """Whether the CUDA kernels work on this tensor, on a card or emulated."""
    return tensor.is_cuda or _emulated is not None


def isa_level() -> str:
    """The instruction-set level that the CPU library chose, for example "x86-64-v4"."""
    level = _load(CPU_LIBRARY).splatlearn_isa_level
    level.restype = c_char_p
    return level().decode()


def multiply_adds(threads: int, rounds: int) -> float:
    """Makes float32 multiply-adds in the registers of so many threads, and returns how many operations they were."""
    work = library().splatlearn_multiply_adds
    work.argtypes, work.restype = [c_int, c_int64], c_double
    return float(work(threads, rounds))


def call(stage: str, params: Structure, tensor: torch.Tensor) -> None:
    """Runs a stage where `tensor` is, on the current stream if that is a CUDA device; `params` is the stage's struct.

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
            inner = params if hasattr(params, "context") else params.inputs
            inner.context.scratch, inner.context.scratch_bytes = scratch.data_ptr(), needed
    _raise_failure(stage, backend, getattr(backend, f"splatlearn_{stage}")(params))


def _raise_failure(stage: str, backend: ctypes.CDLL, code: int) -> None:
    if code:
        raise SplatlearnError(f"{stage.replace('_', ' ')}: {backend.splatlearn_error(code).decode()}")


def context(tensor: torch.Tensor) -> Context:
    """Scalar type of `tensor`, the threads that torch may use, and for a CUDA device its index and current stream."""
    if tensor.is_cuda:
        stream = torch.cuda.current_stream(tensor.device).cuda_stream
        return Context(tensor.element_size(), 1, tensor.device.index, stream)
    return Context(tensor.element_size(), torch.get_num_threads())


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Address of a tensor's first scalar, or null."""
    return None if tensor is None else tensor.data_ptr()
