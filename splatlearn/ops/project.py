"""Stage project: 3D Gaussians to 2D ones (mean, depth, conic, opacity, colour from harmonics, extent), and backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native, workspace
from splatlearn.ops.cameras import CAMERA_MODELS, camera_params, check_cameras, given_centers
from splatlearn.ops.cameras import camera_centers as centers_of
from splatlearn.ops.checks import check_number, check_rows, check_size, check_tensor

MAX_SH_DEGREE = 4
# The tensors that get gradients.
INPUTS = ("means", "quats", "scales", "opacities", "viewmats", "camera_params", "sh0", "shN", "camera_centers")
V_OUTPUTS = ("v_means2d", "v_depths", "v_conics", "v_opacities2d", "v_colors")  # in the order of `Projection`


class Projection(NamedTuple):
    """2D Gaussians. Rows of culled ones (radii 0) are zero everywhere. C cameras, N Gaussians."""

    means2d: Tensor  # [C, N, 2] px, pixel centres at +0.5
    depths: Tensor  # [C, N] camera-space z
    conics: Tensor  # [C, N, 3] inverse covariance (xx, xy, yy), 1/px^2
    opacities: Tensor  # [C, N] after the antialiasing compensation, if any
    colors: Tensor | None  # [C, N, 3] from spherical harmonics
    radii: Tensor  # [C, N, 2] int32, half extent in px of the ellipse where alpha falls to the threshold
    records: Tensor | None  # [C, N, 12] all this packed for the blend, by the CUDA kernels where there are colours


@dataclass(frozen=True)
class Options:
    """What of a projection is not a tensor."""

    width: int
    height: int
    eps2d: float
    near_plane: float
    far_plane: float
    radius_clip: float
    sh_degree: int | None
    antialiased: bool
    alpha_threshold: float
    raw: bool = False
    camera_model: str = "pinhole"


class DetachedGaussians(Projection):
    """2D Gaussians that are leaves of the graph, where backward ends, and what they were projected from."""

    tensors: tuple[Any, ...]  # means, quats, scales, in the order of `INPUTS`, None where absent
    options: Options


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh0: Tensor | None,
    shN: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    sh_degree: int | None = None,
    antialiased: bool = False,
    alpha_threshold: float = native.ALPHA_THRESHOLD,
    raw: bool = False,
    camera_model: str = "pinhole",
    camera_coeffs: Tensor | None = None,
    camera_centers: Tensor | None = None,
    features: Tensor | None = None,
    detached: bool = False,
) -> Projection:
    """Project N Gaussians into C cameras (EWA splatting, Zwicker et al. 2001; Kerbl et al. 2023).

    Args:
        means: [N, 3] world.
        quats: [N, 4] wxyz, of a norm from 1e-15 to 1e15.
        scales: [N, 3] standard deviations along the axes, world units.
        opacities: [N] in 0..1.
        sh0, shN: [N, 1, 3] and [N, K-1, 3] spherical-harmonics coefficients, used where `sh_degree` is given; shN may
            be None at degree 0.
        viewmats: [C, 4, 4] world to camera, OpenCV axes.
        Ks: [C, 3, 3] intrinsics; fx, fy, cx, cy are read and get gradients. px; fx and fy of "ortho" are px per
            world unit.
        eps2d: low-pass added to the 2D covariance, px^2.
        near_plane, far_plane: depths (z in the camera's frame, for every camera model) outside are culled.
        radius_clip: Gaussians whose two radii are at or below it are culled, px.
        sh_degree: 0..4: bases of this degree and below give the colours; None: no colours.
        antialiased: scale opacities by sqrt(det(cov) / det(cov + eps2d)) (Mip-Splatting, Yu et al. 2024).
        alpha_threshold: alpha below it does not contribute; it bounds the extent. 0 switches it off: then the extent
            ends where alpha is no longer a normal number.
        raw: scales are given as logarithms and opacities as logits. The stage then applies e^x and 1 / (1 + e^-x), and
            gradients are to the logarithms and logits.
        camera_model: a name in `splatlearn.ops.cameras.CAMERA_MODELS`. The viewing direction of the colours is from the
            camera's centre to the mean in every model, "ortho" included, as in gsplat.
        camera_coeffs: [C, n] further parameters of the camera model, such as distortion; None where it has none.
        camera_centers: [C, 3] world, the positions of the cameras, for viewmats that need no gradient. They save the
            inverse of viewmats and the checks of the cameras. None: computed from viewmats.
        features: [C, N, D] that will be blended in place of colours. They are only checked: a Gaussian is culled in a
            camera where one of them is not finite or above 1e12 in magnitude.
        detached: the result is `DetachedGaussians`, at which backward ends; `splatlearn.ops.project_update` continues
            from there.

    All tensors share a dtype (float32 or float64) and a device; gradients flow to each of them. A Gaussian with a
    number that is not finite, or above 1e12 in magnitude, is culled; see docs/api.md. On a CUDA device, where reading a
    value would block, a camera with a focal length not above 0 or without an inverse is not refused: it shows no
    Gaussian.

    Raises:
        SplatlearnError: a tensor of another shape, dtype or device, or an option out of range.
    """
    check_size(width, height)
    check_rows(means, viewmats)
    n = check_tensor("means", means, ("N", 3)).shape[0]
    cameras = check_tensor("viewmats", viewmats, ("C", 4, 4), means).shape[0]
    if cameras == 0:
        raise SplatlearnError("viewmats must hold at least one camera, but has shape [0, 4, 4]")
    tensors = [
        check_tensor("means", means, (n, 3)),
        check_tensor("quats", quats, (n, 4), means),
        check_tensor("scales", scales, (n, 3), means),
        check_tensor("opacities", opacities, (n,), means),
        check_tensor("viewmats", viewmats, (cameras, 4, 4), means),
        camera_params(camera_model, Ks, camera_coeffs, means, cameras),
    ]
    check_number("alpha_threshold", alpha_threshold, 0, 1)
    check_number("eps2d", eps2d, 0, native.LARGEST)
    check_number("near_plane", near_plane, 0)
    check_number("far_plane", far_plane, near_plane)
    check_number("radius_clip", radius_clip, 0)
    if camera_centers is None:
        check_cameras(viewmats, Ks)
    centers = None
    if sh_degree is None:
        sh0 = shN = None
    else:
        sh0, shN = _check_coefficients(sh0, shN, sh_degree, n, means)
        centers = centers_of(viewmats) if camera_centers is None else given_centers(camera_centers, viewmats)
    limits = (eps2d, near_plane, far_plane, radius_clip)
    options = Options(width, height, *limits, sh_degree, antialiased, alpha_threshold, raw, camera_model)
    if features is not None:
        features = _check_features(features, cameras, n, means)
    if detached:
        return _detached((*tensors, sh0, shN, centers), features, options)
    return Projection(*_Project.apply(*tensors, sh0, shN, centers, features, options))


@torch.no_grad()
def _detached(tensors: tuple[Tensor | None, ...], features: Tensor | None, options: Options) -> DetachedGaussians:
    for name in ("viewmats", "camera_params"):
        if tensors[INPUTS.index(name)].requires_grad:  # type: ignore[union-attr]
            name = "Ks" if name == "camera_params" else name
            raise SplatlearnError(f"{name} must not require a gradient with detached=True: backward does not reach it")
    given = tuple(None if tensor is None else tensor.detach() for tensor in tensors)
    detached = DetachedGaussians(*_Project.apply(*given, features, options))
    for leaf in detached[:5]:
        if leaf is not None:
            leaf.requires_grad_()
    detached.tensors, detached.options = given, options
    return detached


def _check_coefficients(
    sh0: Tensor | None, shN: Tensor | None, degree: int, n: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    if isinstance(degree, bool) or not isinstance(degree, int) or not 0 <= degree <= MAX_SH_DEGREE:
        raise SplatlearnError(f"sh_degree must be an integer from 0 to {MAX_SH_DEGREE}, but is {degree!r}")
    if sh0 is None:
        raise SplatlearnError(f"sh0 is needed with sh_degree={degree}")
    if shN is None:
        shN = sh0.new_zeros(n, 0, 3)
    needed = (degree + 1) ** 2 - 1
    if shN.dim() == 3 and shN.shape[1] < needed:
        raise SplatlearnError(f"shN must hold at least {needed} bases for sh_degree={degree}, but has {shN.shape[1]}")
    # Rows may be strided (slices of one [N, K, 3] tensor); the native code needs a row's scalars to be adjacent.
    dense0, dense = check_tensor("sh0", sh0, (n, 1, 3), like), check_tensor("shN", shN, (n, "K-1", 3), like)
    return (sh0 if sh0.stride()[1:] == (3, 1) else dense0), (shN if shN.stride()[1:] == (3, 1) else dense)


def _check_features(features: Tensor, cameras: int, n: int, like: Tensor) -> Tensor:
    """Features whose rows are adjacent; those of cameras may be the same memory."""
    dense = check_tensor("features", features.detach()[:1], (min(cameras, 1), n, "D"), like)
    return dense.expand(cameras, n, -1) if features.stride(0) == 0 else features.detach().contiguous()


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor | None, ...]:
        *tensors, features, options = args
        means, viewmats = tensors[0], tensors[4]
        shape = (viewmats.shape[0], means.shape[0])
        with_colors = options.sh_degree is not None
        space = workspace.current(means)
        sizes: list[tuple[int, ...]] = [(2,), (), (3,), ()]
        means2d, depths, conics, opacities = (
            workspace.empty(space, name, shape + size, means)
            for name, size in zip(Projection._fields[:4], sizes, strict=True)
        )
        colors = workspace.empty(space, "colors", (*shape, 3), means) if with_colors else None
        radii = workspace.empty(space, "radii", (*shape, 2), means, torch.int32)
        packs = with_colors and native.runs_kernels(means)
        records = means.new_empty(*shape, native.RECORD) if packs else None
        inputs = native_inputs(tensors, options, features)
        params = native.ProjectForward(
            inputs=inputs,
            means2d=means2d,
            depths=depths,
            conics=conics,
            opacities2d=opacities,
            colors=colors,
            radii=radii,
            records=records,
        )
        native.call("project_forward", params, means)
        ctx.save_for_backward(*tensors, colors, radii)
        ctx.options, ctx.space = options, space
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(tensor for tensor in (radii, records) if tensor is not None))
        return means2d, depths, conics, opacities, colors, radii, records

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *v_outputs: Any) -> tuple[Tensor | None, ...]:
        *tensors, colors, radii = ctx.saved_tensors
        return *_vjp(tensors, ctx.options, colors, radii, v_outputs[:5], ctx.needs_input_grad, ctx.space), None, None


def _vjp(
    tensors: Sequence[Tensor | None],
    options: Options,
    colors: Tensor | None,
    radii: Tensor,
    v_outputs: Sequence[Tensor | None],
    needs: Sequence[bool],
    space: workspace.Workspace | None,
) -> list[Tensor | None]:
    """Gradients of the inputs that need one, in the order of `INPUTS`, from those of means2d .. colors."""
    v_out = [v if v is None else v.contiguous() for v in v_outputs]
    # Not empty_like: coefficients may be strided slices, but their gradients are dense.
    v = [
        workspace.empty(space, f"v_{name}", t.shape, t) if t is not None and need else None
        for name, t, need in zip(INPUTS, tensors, needs, strict=False)
    ]
    bases = 0 if tensors[7] is None else tensors[7].shape[1]
    params = native.ProjectBackward(
        inputs=native_inputs(tensors, options),
        radii=radii,
        colors=colors,
        n_shN=bases,
        **dict(zip(V_OUTPUTS, v_out, strict=True)),
        **{f"v_{name}": gradient for name, gradient in zip(INPUTS, v, strict=True)},
    )
    native.call("project_backward", params, radii)
    return v


@torch.no_grad()
def parameter_gradients(detached: Projection) -> dict[str, Tensor]:
    """Continue backward from detached 2D Gaussians to the 3D ones: their gradients by name, as autograd gives them.

    Args:
        detached: `meta["detached"]`, after `backward`. Entries without a gradient count as zero.

    Returns:
        Gradients of means, quats, scales, opacities and, where there are colours, sh0 and shN, of their shapes.

    Raises:
        SplatlearnError: `detached` does not come from a call with detached=True.
    """
    if not isinstance(detached, DetachedGaussians):
        raise SplatlearnError(f"detached must come from a call with detached=True, but is {type(detached).__name__}")
    needs = [name not in ("viewmats", "camera_params", "camera_centers") for name in INPUTS]
    v_outputs = [None if leaf is None else leaf.grad for leaf in detached[:5]]
    found = _vjp(detached.tensors, detached.options, detached.colors, detached.radii, v_outputs, needs, None)
    return {name: gradient for name, gradient in zip(INPUTS, found, strict=True) if gradient is not None}


def native_inputs(tensors: Sequence[Any], options: Options, features: Tensor | None = None) -> native.ProjectInputs:
    """The struct of a projection of these tensors, in the order of `INPUTS`; only forward reads the features."""
    means, quats, scales, opacities, viewmats, params, sh0, shN, centers = tensors
    return native.ProjectInputs(
        context=native.context(means),
        n_cameras=viewmats.shape[0],
        n_gaussians=means.shape[0],
        width=options.width,
        height=options.height,
        sh_degree=-1 if options.sh_degree is None else options.sh_degree,
        antialiased=options.antialiased,
        camera_model=CAMERA_MODELS[options.camera_model].number,
        raw=options.raw,
        n_features=0 if features is None else features.shape[-1],
        sh0_stride=0 if sh0 is None else sh0.stride(0),
        shN_stride=0 if shN is None else shN.stride(0),
        features_stride=0 if features is None else features.stride(0),
        eps2d=options.eps2d,
        near_plane=options.near_plane,
        far_plane=options.far_plane,
        radius_clip=options.radius_clip,
        alpha_threshold=options.alpha_threshold,
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacities,
        sh0=sh0,
        shN=shN,
        features=features,
        viewmats=viewmats,
        camera_params=params,
        camera_centers=centers,
    )
