"""The door to the native core: finds and loads the library, mirrors its parameter structs (csrc/abi.h), turns failures into errors."""

import ctypes
import functools
from ctypes import POINTER, Structure, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch

from splatlearn.errors import SplatlearnError

CPU_LIBRARY = Path(__file__).with_name("libsplatlearn_cpu.so")


class Context(Structure):
    _fields_ = [("scalar_bytes", c_int32), ("threads", c_int32)]


def _fields(head: list[tuple[str, Any]], tail: str) -> list[tuple[str, Any]]:
    """Struct fields: `head` with types, then pointers named in `tail`."""
    return head + [(name, c_void_p) for name in tail.split()]


class ProjectInputs(Structure):
    _fields_ = _fields(
        [("context", Context), ("n_cameras", c_int64), ("n_gaussians", c_int64)]
        + [(name, c_int32) for name in ("width", "height", "sh_degree", "antialiased")]
        + [(name, c_int64) for name in ("sh0_stride", "shN_stride")]
        + [(name, c_double) for name in ("eps2d", "near_plane", "far_plane", "radius_clip", "alpha_threshold")],
        "means quats scales opacities sh0 shN viewmats Ks camera_centers",
    )


class ProjectForward(Structure):
    _fields_ = _fields([("inputs", ProjectInputs)], "means2d depths conics opacities2d colors radii")


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
    _fields_ = _fields([("inputs", BinInputs)], "row_offsets")


class BinWrite(Structure):
    _fields_ = _fields([("inputs", BinInputs)], "row_offsets tile_offsets row_ids slots")


class RasterizeInputs(Structure):
    _fields_ = _fields(
        [("context", Context)]
        + [(name, c_int64) for name in ("n_rows", "n_cameras", "n_instances")]
        + [(name, c_int32) for name in ("width", "height", "channels", "absgrad")]
        + [(name, c_double) for name in ("alpha_threshold", "transmittance_threshold")],
        "means2d conics opacities colors backgrounds tile_offsets row_ids",
    )


class RasterizeForward(Structure):
    _fields_ = _fields([("inputs", RasterizeInputs)], "render alphas transmittance stops")


class RasterizeBackward(Structure):
    _fields_ = _fields(
        [("inputs", RasterizeInputs)],
        "row_offsets slots transmittance stops v_render v_alphas instance_rows "
        "v_means2d v_means2d_abs v_conics v_opacities v_colors v_backgrounds",
    )


class Photometric(Structure):
    _fields_ = _fields(
        [("context", Context), ("n_images", c_int64)]
        + [(name, c_int32) for name in ("width", "height", "channels", "target_is_uint8")]
        + [("lambda_dssim", c_double)],
        "image target v_image l1 ssim",
    )


class Adam(Structure):
    _fields_ = _fields(
        [("context", Context), ("count", c_int64), ("step", c_int64)]
        + [(name, c_double) for name in ("learning_rate", "beta1", "beta2", "eps")],
        "parameter gradient exp_avg exp_avg_sq",
    )


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
}


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded CPU library.

    Raises:
        SplatlearnError: it is absent, cannot be loaded, or belongs to another version of this package.
    """
    mend = "; reinstall with `pip install .`, or in a checkout run `python setup.py build_ext --inplace`"
    if not CPU_LIBRARY.exists():
        raise SplatlearnError(f"the native library {CPU_LIBRARY} is missing{mend}")
    try:
        loaded = ctypes.CDLL(str(CPU_LIBRARY))
    except OSError as error:
        raise SplatlearnError(f"the native library {CPU_LIBRARY} cannot be loaded ({error}){mend}") from error
    loaded.splatlearn_error.restype = c_char_p
    loaded.splatlearn_isa_level.restype = c_char_p
    loaded.splatlearn_struct_sizes.restype = POINTER(c_int64)
    sizes = loaded.splatlearn_struct_sizes()
    found = [sizes[i] for i in range(len(STAGES))]
    if found != [ctypes.sizeof(struct) for struct in STAGES.values()] or sizes[len(STAGES)] != 0:
        raise SplatlearnError(f"the native library {CPU_LIBRARY} belongs to another version of splatlearn{mend}")
    for name, struct in STAGES.items():
        function = getattr(loaded, f"splatlearn_{name}")
        function.argtypes, function.restype = [POINTER(struct)], c_int
    return loaded


def isa_level() -> str:
    """The instruction-set level that the CPU library chose, for example "x86-64-v4"."""
    return library().splatlearn_isa_level().decode()


def call(stage: str, params: Structure) -> None:
    """Runs a stage on the CPU; `params` is the stage's struct.

    Raises:
        SplatlearnError: the library reports a failure.
    """
    code = getattr(library(), f"splatlearn_{stage}")(params)
    if code:
        raise SplatlearnError(f"{stage.replace('_', ' ')}: {library().splatlearn_error(code).decode()}")


def context(tensor: torch.Tensor) -> Context:
    """Scalar type of `tensor` and the threads that torch may use."""
    return Context(tensor.element_size(), torch.get_num_threads())


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Address of a tensor's first scalar, or null."""
    return None if tensor is None else tensor.data_ptr()
