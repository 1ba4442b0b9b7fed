"""Camera models: which ones there are, and their parameters as native code reads them (csrc/math/camera/camera.h)."""

from typing import NamedTuple

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.checks import check_tensor

SLACK = 1e-3  # what numbers that must be 0 or 1 may differ, such as by a step of finite differences


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


def check_cameras(viewmats: Tensor, Ks: Tensor) -> None:
    """Refuse cameras that are none. On a CUDA device reading them would block: there such a camera shows no Gaussian.

    Args:
        viewmats: [C, 4, 4]; the upper left 3x3 matrix may scale or shear, but not mirror.
        Ks: [C, 3, 3].

    Raises:
        SplatlearnError: a number is not finite or above 1e12, a last row of viewmats is not 0 0 0 1, a viewmat mirrors
            or has no inverse, a focal length is not above 0, or a K has a skew.
    """
    if viewmats.is_cuda:
        return
    viewmats, Ks = viewmats.detach().double(), Ks.detach().double()
    for name, values in (("viewmats", viewmats), ("Ks", Ks)):
        _refuse(~(values.abs() <= native.LARGEST).flatten(1).all(1), f"{name} must be finite and at most 1e12")
    last = (viewmats[:, 3] - viewmats.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(1)
    _refuse(last > SLACK, "viewmats must have the last row 0 0 0 1 (a transposed one has it as its last column)")
    volume = torch.linalg.det(viewmats[:, :3, :3])
    _refuse(volume == 0, "viewmats must have an inverse")
    _refuse(volume < 0, "viewmats must not mirror the world (their determinant must be above 0)")
    focal = torch.diagonal(Ks, dim1=1, dim2=2)[:, :2]
    _refuse(~(focal > 0).all(1), "Ks must have focal lengths above 0")
    others = torch.stack([Ks[:, 0, 1], Ks[:, 1, 0], Ks[:, 2, 0], Ks[:, 2, 1]], 1).abs().amax(1)
    _refuse(others > SLACK * focal.amax(1), "Ks must have no skew, and fx, fy, cx, cy where OpenCV has them")


def _refuse(cameras: Tensor, rule: str) -> None:
    if cameras.any():
        raise SplatlearnError(f"{rule}, but camera {int(cameras.nonzero()[0])} breaks this")


def camera_centers(viewmats: Tensor) -> Tensor:
    """[C, 3] world, where the cameras are; in the graph. Not finite on a CUDA device where viewmats has no inverse."""
    if viewmats.is_cuda:
        return torch.linalg.inv_ex(viewmats)[0][:, :3, 3].contiguous()
    try:
        return torch.linalg.inv(viewmats)[:, :3, 3].contiguous()
    except torch.linalg.LinAlgError:
        raise SplatlearnError("viewmats must have an inverse, but one of them has none") from None


def given_centers(centers: Tensor, viewmats: Tensor) -> Tensor:
    """`centers` [C, 3], checked: gradients of viewmats would not reach them."""
    if viewmats.requires_grad:
        raise SplatlearnError("camera_centers do not go with viewmats that want a gradient, which they would not get")
    return check_tensor("camera_centers", centers, (viewmats.shape[0], 3), viewmats)
