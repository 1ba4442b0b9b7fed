"""Camera models: which ones there are, and their parameters as native code reads them (csrc/math/camera/camera.h)."""

from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops.checks import check_tensor


class CameraModel(NamedTuple):
    """A row of `CAMERA_MODELS`."""

    number: int  # in by_camera() of csrc/math/camera/camera.h
    coefficients: int  # parameters besides fx, fy, cx, cy


# pinhole: x right, y down, z forward; mean2d = (fx x/z + cx, fy y/z + cy).
# ortho: mean2d = (fx x + cx, fy y + cy), with fx and fy in px per world unit.
CAMERA_MODELS = {
    "pinhole": CameraModel(0, 0),
    "ortho": CameraModel(1, 0),
}


def camera_params(model: str, Ks: Tensor, coeffs: Tensor | None, like: Tensor, cameras: int) -> Tensor:
    """Return the parameters of C cameras in the layout of the native code: K row by row, then the coefficients.

    Args:
        model: a name in `CAMERA_MODELS`.
        Ks: [C, 3, 3] px, of which fx, fy, cx, cy are read.
        coeffs: [C, n] further parameters of the model, None where it has none.
        like: a tensor whose dtype and device they must have.
        cameras: C.

    Returns:
        Ks itself, or [C, 9 + n] where the model has coefficients; in the graph.

    Raises:
        SplatlearnError: an unknown model, or a tensor that does not fit it.
    """
    if model not in CAMERA_MODELS:
        raise SplatlearnError(f"camera_model must be one of {', '.join(CAMERA_MODELS)}, but is {model!r}")
    Ks, count = check_tensor("Ks", Ks, (cameras, 3, 3), like), CAMERA_MODELS[model].coefficients
    if coeffs is None and count == 0:
        return Ks
    if coeffs is None or count == 0:
        given = "None" if coeffs is None else "given"
        raise SplatlearnError(f"camera_coeffs of the model {model!r} must be {count} per camera, but are {given}")
    return torch.cat([Ks.flatten(1), check_tensor("camera_coeffs", coeffs, (cameras, count), like)], dim=1)


def check_focal_lengths(Ks: Tensor) -> None:
    """Refuse focal lengths not above 0. On a CUDA device reading them would block: there such a camera is empty."""
    focal = torch.diagonal(Ks.detach(), dim1=1, dim2=2)[:, :2]
    if not Ks.is_cuda and not (focal > 0).all():
        raise SplatlearnError(f"Ks must have focal lengths above 0, but one of them is {focal.min().item():g}")


def camera_centers(viewmats: Tensor) -> Tensor:
    """[C, 3] world, where the cameras are; in the graph. Not finite on a CUDA device where viewmats has no inverse."""
    if viewmats.is_cuda:
        return torch.linalg.inv_ex(viewmats)[0][:, :3, 3].contiguous()
    try:
        return torch.linalg.inv(viewmats)[:, :3, 3].contiguous()
    except torch.linalg.LinAlgError:
        raise SplatlearnError("viewmats must be rigid transforms, but one of them cannot be inverted") from None


def given_centers(centers: Tensor, viewmats: Tensor) -> Tensor:
    """`centers` [C, 3], checked: gradients of viewmats would not reach them."""
    if viewmats.requires_grad:
        raise SplatlearnError("camera_centers do not go with viewmats that want a gradient, which they would not get")
    return check_tensor("camera_centers", centers, (viewmats.shape[0], 3), viewmats)
