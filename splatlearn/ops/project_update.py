"""Backward of stage project and stage adam in one native pass, from gradients of 2D Gaussians to updated 3D ones.

Otherwise training would write gradients of 59 numbers per Gaussian only to read them once. Here they stay in registers:
parameters and moments are read once and written once, and nothing else of their size is allocated.

    render, alphas, meta = rasterization(..., sh_degree=3, detached=True)
    loss(render).backward()                                    # ends at the 2D Gaussians
    project_update(meta["detached"], moments, lrs, step=step)  # updates the 3D Gaussians in place

The result is that of `project`'s backward followed by `adam_steps`, bit for bit on the CPU. Every Gaussian takes part:
one that the view does not show has the gradient zero and moves by its momentum, as in dense Adam.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.checks import check_like, check_number, check_tensor
from splatlearn.ops.project import V_OUTPUTS, DetachedGaussians, Projection, native_inputs

PARAMETERS = ("means", "quats", "scales", "opacities", "sh0", "shN")  # in the order of csrc/abi.h
PARAMETER_INDICES = (0, 1, 2, 3, 6, 7)  # indices of the parameters in `DetachedGaussians.tensors`


@torch.no_grad()
def project_update(
    detached: Projection,
    moments: Mapping[str, tuple[Tensor, Tensor]],
    lrs: Mapping[str, float],
    *,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
    moving: int | None = None,
    skip: Tensor | None = None,
    rates: Tensor | None = None,
) -> None:
    """Update in place the parameters that 2D Gaussians were projected from, and their moments.

    Args:
        detached: `meta["detached"]` of one camera, rendered with `sh_degree`, after `backward`.
        moments: first and second moments by the names of `PARAMETERS`, of the parameters' shapes.
        lrs: learning rates by the same names.
        step, betas, eps, skip: as in `splatlearn.ops.adam.adam_steps`.
        moving: the number of bases of shN whose moments may differ from zero, at least those of `sh_degree`. The others
            have no gradient, so Adam does not change them, and they are neither read nor written. None: all bases.
        rates: [6, 2] as in `adam_steps`, in the order of `PARAMETERS`.

    Raises:
        SplatlearnError: a tensor has another shape, dtype or device or is not contiguous, a gradient is missing, or a
            number is out of range.
    """
    if step < 1:
        raise SplatlearnError(f"step must be at least 1, but is {step}")
    if not isinstance(detached, DetachedGaussians) or detached.options.sh_degree is None:
        raise SplatlearnError("detached must come from a call with detached=True and sh_degree, but are not")
    if detached.radii.shape[0] != 1:
        raise SplatlearnError(f"detached must be of one camera, but are of {detached.radii.shape[0]}")
    tensors, degree = detached.tensors, detached.options.sh_degree
    means, shN = tensors[0], tensors[7]
    states = [_state(name, tensors[at], moments) for name, at in zip(PARAMETERS, PARAMETER_INDICES, strict=True)]
    for name in PARAMETERS:
        check_number(f"the learning rate of {name}", lrs.get(name, -1.0), 0)
    moving = shN.shape[1] if moving is None else moving
    check_number("moving", moving, (degree + 1) ** 2 - 1, shN.shape[1])
    if skip is not None:
        check_like("skip", skip, torch.int32, (1,), means)
    if rates is not None:
        rates = check_tensor("rates", rates, (len(PARAMETERS), 2), means)
        if not native.runs_kernels(means):
            raise SplatlearnError("rates are read by the CUDA kernels alone, but the parameters are on the CPU")
    gradients = [_gradient(name, getattr(detached, name)) for name in Projection._fields[:5]]
    grad = native.ProjectBackward(
        inputs=native_inputs(tensors, detached.options),
        radii=detached.radii,
        colors=detached.colors,
        n_shN=shN.shape[1],
        **dict(zip(V_OUTPUTS, gradients, strict=True)),
    )
    parameters, exp_avg, exp_avg_sq = zip(*states, strict=True)
    params = native.ProjectUpdate(
        grad=grad,
        n_moving=moving,
        step=step,
        learning_rates=[lrs[name] for name in PARAMETERS],
        beta1=betas[0],
        beta2=betas[1],
        eps=eps,
        parameters=parameters,
        exp_avg=exp_avg,
        exp_avg_sq=exp_avg_sq,
        skip=skip,
        rates=rates,
    )
    native.call("project_update", params, means)


def _state(name: str, parameter: Tensor, moments: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    """A parameter and its moments, which native code may write."""
    if name not in moments:
        raise SplatlearnError(f"moments must hold those of {name}, but are of {', '.join(moments) or 'nothing'}")
    state = (parameter, *moments[name])
    for kind, tensor in zip(("", "exp_avg of ", "exp_avg_sq of "), state, strict=True):
        check_tensor(f"{kind}{name}", tensor, tuple(parameter.shape), parameter)
        if not tensor.is_contiguous():
            raise SplatlearnError(f"{kind}{name} must be contiguous, for it is updated in place")
    return state


def _gradient(name: str, leaf: Tensor) -> Tensor | None:
    """The gradient of a detached tensor. Only depths may have none, as most render modes do not use them."""
    if leaf.grad is None and name != "depths":
        raise SplatlearnError(
            f"{name} of the detached 2D Gaussians must have a gradient, but have none: call backward first"
        )
    return None if leaf.grad is None else check_tensor(f"the gradient of {name}", leaf.grad, tuple(leaf.shape), leaf)
