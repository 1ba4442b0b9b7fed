"""The C ABI of the native libraries, written by build_native/abi.py; csrc/abi.h has shapes and units.

Change csrc/abi.h, not this file; building the libraries writes it again.
"""

import ctypes
from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from splatlearn.ops.structs import struct

__all__ = [
    "RECORD",
    "TILE",
    "MOMENTS",
    "ALPHA_MAX",
    "ALPHA_THRESHOLD",
    "LARGEST",
    "BIN_BLOCK",
    "SORT_AUTO",
    "SORT_ALL",
    "SORT_BY_TILE",
    "SPAN",
    "ADAM_GROUPS_MAX",
    "Context",
    "ProjectInputs",
    "ProjectForward",
    "ProjectBackward",
    "BinInputs",
    "BinCount",
    "BinWrite",
    "RasterizeInputs",
    "RasterizeForward",
    "RasterizeBackward",
    "Photometric",
    "Adam",
    "AdamGroups",
    "ProjectUpdate",
    "STAGES",
    "CUDA_STAGES",
]
RECORD = 12
TILE = 16
MOMENTS = 6
ALPHA_MAX = 0.999
ALPHA_THRESHOLD = 1.0 / 255
LARGEST = 1e12
BIN_BLOCK = 256
SORT_AUTO = 0
SORT_ALL = 1
SORT_BY_TILE = 2
SPAN = 256
ADAM_GROUPS_MAX = 8


@struct
class Context(ctypes.Structure):
    scalar_bytes: Annotated[int, "int32_t"]
    threads: Annotated[int, "int32_t"]
    device: Annotated[int, "int32_t"]
    stream: Annotated[int | None, "void *"] = None
    scratch: Annotated[int | None, "void *"] = None
    scratch_bytes: Annotated[int, "int64_t"]


@struct
class ProjectInputs(ctypes.Structure):
    context: Context
    n_cameras: Annotated[int, "int64_t"]
    n_gaussians: Annotated[int, "int64_t"]
    width: Annotated[int, "int32_t"]
    height: Annotated[int, "int32_t"]
    sh_degree: Annotated[int, "int32_t"]
    antialiased: Annotated[int, "int32_t"]
    camera_model: Annotated[int, "int32_t"]
    raw: Annotated[int, "int32_t"]
    n_features: Annotated[int, "int32_t"]
    sh0_stride: Annotated[int, "int64_t"]
    shN_stride: Annotated[int, "int64_t"]
    features_stride: Annotated[int, "int64_t"]
    eps2d: Annotated[float, "double"]
    near_plane: Annotated[float, "double"]
    far_plane: Annotated[float, "double"]
    radius_clip: Annotated[float, "double"]
    alpha_threshold: Annotated[float, "double"]
    means: Annotated[Tensor, "const real *"]
    quats: Annotated[Tensor, "const real *"]
    scales: Annotated[Tensor, "const real *"]
    opacities: Annotated[Tensor, "const real *"]
    sh0: Annotated[Tensor | None, "const real *"] = None
    shN: Annotated[Tensor | None, "const real *"] = None
    features: Annotated[Tensor | None, "const real *"] = None
    viewmats: Annotated[Tensor, "const real *"]
    camera_params: Annotated[Tensor, "const real *"]
    camera_centers: Annotated[Tensor | None, "const real *"] = None


@struct
class ProjectForward(ctypes.Structure):
    inputs: ProjectInputs
    means2d: Annotated[Tensor, "real *"]
    depths: Annotated[Tensor, "real *"]
    conics: Annotated[Tensor, "real *"]
    opacities2d: Annotated[Tensor, "real *"]
    colors: Annotated[Tensor | None, "real *"] = None
    radii: Annotated[Tensor, "int32_t *"]
    records: Annotated[Tensor | None, "real *"] = None


@struct
class ProjectBackward(ctypes.Structure):
    inputs: ProjectInputs
    radii: Annotated[Tensor, "const int32_t *"]
    colors: Annotated[Tensor | None, "const real *"] = None
    v_means2d: Annotated[Tensor | None, "const real *"] = None
    v_depths: Annotated[Tensor | None, "const real *"] = None
    v_conics: Annotated[Tensor | None, "const real *"] = None
    v_opacities2d: Annotated[Tensor | None, "const real *"] = None
    v_colors: Annotated[Tensor | None, "const real *"] = None
    v_means: Annotated[Tensor | None, "real *"] = None
    v_quats: Annotated[Tensor | None, "real *"] = None
    v_scales: Annotated[Tensor | None, "real *"] = None
    v_opacities: Annotated[Tensor | None, "real *"] = None
    v_sh0: Annotated[Tensor | None, "real *"] = None
    v_shN: Annotated[Tensor | None, "real *"] = None
    n_shN: Annotated[int, "int64_t"]
    v_viewmats: Annotated[Tensor | None, "real *"] = None
    v_camera_params: Annotated[Tensor | None, "real *"] = None
    v_camera_centers: Annotated[Tensor | None, "real *"] = None


@struct
class BinInputs(ctypes.Structure):
    context: Context
    n_rows: Annotated[int, "int64_t"]
    n_cameras: Annotated[int, "int64_t"]
    width: Annotated[int, "int32_t"]
    height: Annotated[int, "int32_t"]
    alpha_threshold: Annotated[float, "double"]
    means2d: Annotated[Tensor, "const real *"]
    conics: Annotated[Tensor, "const real *"]
    opacities: Annotated[Tensor, "const real *"]
    depths: Annotated[Tensor, "const real *"]
    radii: Annotated[Tensor, "const int32_t *"]
    camera_ids: Annotated[Tensor | None, "const int64_t *"] = None


@struct
class BinCount(ctypes.Structure):
    inputs: BinInputs
    counts: Annotated[Tensor | None, "int32_t *"] = None
    row_offsets: Annotated[Tensor, "int64_t *"]
    block_offsets: Annotated[Tensor, "int64_t *"]


@struct
class BinWrite(ctypes.Structure):
    inputs: BinInputs
    n_listed: Annotated[int, "int64_t"]
    n_instances: Annotated[int, "int64_t"]
    sorting: Annotated[int, "int32_t"]
    counts: Annotated[Tensor | None, "const int32_t *"] = None
    row_offsets: Annotated[Tensor, "int64_t *"]
    block_offsets: Annotated[Tensor, "const int64_t *"]
    tile_offsets: Annotated[Tensor, "int64_t *"]
    row_ids: Annotated[Tensor, "int32_t *"]
    slots: Annotated[Tensor, "int64_t *"]
    overflow: Annotated[Tensor | None, "int32_t *"] = None


@struct
class RasterizeInputs(ctypes.Structure):
    context: Context
    n_rows: Annotated[int, "int64_t"]
    n_cameras: Annotated[int, "int64_t"]
    n_instances: Annotated[int, "int64_t"]
    width: Annotated[int, "int32_t"]
    height: Annotated[int, "int32_t"]
    channels: Annotated[int, "int32_t"]
    absgrad: Annotated[int, "int32_t"]
    alpha_threshold: Annotated[float, "double"]
    transmittance_threshold: Annotated[float, "double"]
    means2d: Annotated[Tensor, "const real *"]
    conics: Annotated[Tensor, "const real *"]
    opacities: Annotated[Tensor, "const real *"]
    colors: Annotated[Tensor, "const real *"]
    backgrounds: Annotated[Tensor | None, "const real *"] = None
    records: Annotated[Tensor | None, "const real *"] = None
    tile_offsets: Annotated[Tensor, "const int64_t *"]
    row_ids: Annotated[Tensor, "const int32_t *"]


@struct
class RasterizeForward(ctypes.Structure):
    inputs: RasterizeInputs
    new_records: Annotated[Tensor | None, "real *"] = None
    render: Annotated[Tensor, "real *"]
    alphas: Annotated[Tensor, "real *"]
    transmittance: Annotated[Tensor, "real *"]
    stops: Annotated[Tensor, "int32_t *"]
    tile_order: Annotated[Tensor | None, "int32_t *"] = None
    spans: Annotated[Tensor | None, "int64_t *"] = None
    checkpoints: Annotated[Tensor | None, "real *"] = None


@struct
class RasterizeBackward(ctypes.Structure):
    inputs: RasterizeInputs
    atomic: Annotated[int, "int32_t"]
    row_offsets: Annotated[Tensor, "const int64_t *"]
    slots: Annotated[Tensor, "const int64_t *"]
    transmittance: Annotated[Tensor, "const real *"]
    stops: Annotated[Tensor, "const int32_t *"]
    v_render: Annotated[Tensor, "const real *"]
    v_alphas: Annotated[Tensor | None, "const real *"] = None
    instance_rows: Annotated[Tensor | None, "real *"] = None
    v_means2d: Annotated[Tensor, "real *"]
    v_means2d_abs: Annotated[Tensor | None, "real *"] = None
    v_conics: Annotated[Tensor, "real *"]
    v_opacities: Annotated[Tensor, "real *"]
    v_colors: Annotated[Tensor, "real *"]
    v_backgrounds: Annotated[Tensor | None, "real *"] = None
    spans: Annotated[Tensor | None, "const int64_t *"] = None
    checkpoints: Annotated[Tensor | None, "const real *"] = None
    render: Annotated[Tensor | None, "const real *"] = None


@struct
class Photometric(ctypes.Structure):
    context: Context
    n_images: Annotated[int, "int64_t"]
    width: Annotated[int, "int32_t"]
    height: Annotated[int, "int32_t"]
    channels: Annotated[int, "int32_t"]
    target_is_uint8: Annotated[int, "int32_t"]
    lambda_dssim: Annotated[float, "double"]
    image: Annotated[Tensor, "const real *"]
    target: Annotated[Tensor, "const pixel *"]
    v_image: Annotated[Tensor | None, "real *"] = None
    l1: Annotated[Tensor, "double *"]
    ssim: Annotated[Tensor, "double *"]
    loss: Annotated[Tensor, "real *"]


@struct
class Adam(ctypes.Structure):
    context: Context
    count: Annotated[int, "int64_t"]
    step: Annotated[int, "int64_t"]
    learning_rate: Annotated[float, "double"]
    beta1: Annotated[float, "double"]
    beta2: Annotated[float, "double"]
    eps: Annotated[float, "double"]
    parameter: Annotated[Tensor, "real *"]
    gradient: Annotated[Tensor, "const real *"]
    exp_avg: Annotated[Tensor, "real *"]
    exp_avg_sq: Annotated[Tensor, "real *"]


@struct
class AdamGroups(ctypes.Structure):
    context: Context
    n_groups: Annotated[int, "int32_t"]
    groups: Annotated[ctypes.Array[Adam], "const Adam *"]
    n_rows: Annotated[int, "int64_t"]
    visible: Annotated[Tensor | None, "const uint8_t *"] = None
    skip: Annotated[Tensor | None, "const int32_t *"] = None
    rates: Annotated[Tensor | None, "const real *"] = None


@struct
class ProjectUpdate(ctypes.Structure):
    grad: ProjectBackward
    n_moving: Annotated[int, "int64_t"]
    step: Annotated[int, "int64_t"]
    learning_rates: Annotated[Sequence[float], "double[6]"]
    beta1: Annotated[float, "double"]
    beta2: Annotated[float, "double"]
    eps: Annotated[float, "double"]
    parameters: Annotated[Sequence[Tensor], "real *[6]"]
    exp_avg: Annotated[Sequence[Tensor], "real *[6]"]
    exp_avg_sq: Annotated[Sequence[Tensor], "real *[6]"]
    skip: Annotated[Tensor | None, "const int32_t *"] = None
    rates: Annotated[Tensor | None, "const real *"] = None


STAGES: dict[str, type[ctypes.Structure]] = {
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
CUDA_STAGES: dict[str, type[ctypes.Structure]] = {
    "adam_groups": AdamGroups,
}
