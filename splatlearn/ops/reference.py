"""Every stage again as dense plain PyTorch: the oracle that tests hold the native core against.

It is written from the equations, with autograd for every gradient and an [H*W, N] matrix for every picture,
so that it shares neither code, nor culling by tiles, nor hand-written derivatives with the core. For small
scenes, in tests only: nothing that ships imports it.

Shapes: C cameras, N Gaussians, K spherical harmonics, D channels, P = H*W pixels. Frames as COLMAP: x right,
y down, z forward; `viewmats` are world to camera; pixel (row i, column j) is centred at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALPHA_MAX = 0.999
RADIUS_MAX = 2**30
LARGEST = 1e12


class Projection(NamedTuple):
    """What a camera sees of each Gaussian; all zero where it is culled."""

    means2d: Tensor  # [C, N, 2] px
    depths: Tensor  # [C, N]
    conics: Tensor  # [C, N, 3] px^-2: (a, b, c) of [[a, b], [b, c]], the inverse of the 2D covariance
    opacities: Tensor  # [C, N] after the antialiasing compensation
    colors: Tensor | None  # [C, N, 3] from spherical harmonics, None without
    radii: Tensor  # [C, N, 2] int32 px: the half sides of the box in which alpha >= alpha_threshold


def rotation(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4], wxyz, of any norm but zero."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1, eps=0.0).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def covariance(quats: Tensor, scales: Tensor) -> Tensor:
    """World covariances [..., 3, 3] = R diag(s^2) R^T."""
    half = rotation(quats) * scales[..., None, :]
    return half @ half.mT


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics [..., (degree+1)^2] at directions [..., 3] of any norm.

    Ordered l^2 + l + m, with the Condon-Shortley phase (-1)^m that 3DGS uses (degree 1 is -y, z, -x). The
    azimuthal part is Re and Im of (x + iy)^m, the polar part the recurrence of the associated Legendre
    functions without their sin^m (Numerical Recipes, 6.7), times sqrt((2l+1)/(4 pi) (l-m)!/(l+m)!),
    for m > 0 with sqrt(2) more.
    """
    x, y, z = torch.nn.functional.normalize(directions, dim=-1, eps=0.0).unbind(-1)
    bases: list[Tensor] = [x] * (degree + 1) ** 2
    real, imaginary = torch.ones_like(x), torch.zeros_like(x)
    for m in range(degree + 1):
        older = torch.zeros_like(z)
        legendre = torch.full_like(z, float(math.prod(range(2 * m - 1, 0, -2))))  # P_m^m = (2m-1)!!
        for order in range(m, degree + 1):
            ratio = math.factorial(order - m) / math.factorial(order + m)
            constant = (-1) ** m * math.sqrt((2 * order + 1) / (4 * math.pi) * ratio * (2 if m else 1))
            centre = order * order + order
            bases[centre + m] = constant * legendre * real
            if m:
                bases[centre - m] = constant * legendre * imaginary
            newer = ((2 * order + 1) * z * legendre - (order + m) * older) / (order + 1 - m)
            older, legendre = legendre, newer
        real, imaginary = real * x - imaginary * y, real * y + imaginary * x
    return torch.stack(bases, -1)


def trusted(focal: Tensor, centre: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The range of x/z in which a pinhole is linearised: a little more than the image."""
    margin = 0.3 * 0.5 * size / focal
    return -(centre / focal + margin), (size - centre) / focal + margin


def pinhole(points: Tensor, K: Tensor, coeffs: Tensor | None, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Pixels and Jacobians of a perspective projection; these at the nearest point within the trusted range."""
    x, y, z = points.unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    limits_x, limits_y = trusted(fx, cx, width), trusted(fy, cy, height)
    tx = z * torch.minimum(torch.maximum(x / z, limits_x[0]), limits_x[1])
    ty = z * torch.minimum(torch.maximum(y / z, limits_y[0]), limits_y[1])
    zero = torch.zeros_like(z)
    top = torch.stack([fx / z, zero, -fx * tx / z**2], -1)
    bottom = torch.stack([zero, fy / z, -fy * ty / z**2], -1)
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1), torch.stack([top, bottom], -2)


def orthographic(points: Tensor, K: Tensor, coeffs: Tensor | None, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Pixels and Jacobians of a parallel projection along z."""
    focal, centre = K[:2, :2].diagonal(), K[:2, 2]
    jacobian = torch.cat([focal.diag(), focal.new_zeros(2, 1)], 1)
    return points[:, :2] * focal + centre, jacobian.expand(len(points), 2, 3)


# camera_model: (points [N, 3] in the camera frame, K, coeffs, width, height) -> pixels [N, 2], Jacobians [N, 2, 3]
CAMERAS = {"pinhole": pinhole, "ortho": orthographic}


class ProjectedScene(NamedTuple):
    """All that one camera makes of N Gaussians, before any is culled."""

    means2d: Tensor  # [N, 2] px
    depths: Tensor  # [N]
    conics: Tensor  # [N, 3] px^-2
    opacities: Tensor  # [N]
    colors: Tensor  # [N, 3] not clamped at zero yet; [N, 0] without SH
    box: Tensor  # [N, 2] px: half sides of the box where alpha >= alpha_threshold, NaN where it never is


def view(
    means: Tensor,
    covars: Tensor,
    opacities: Tensor,
    sh: Tensor | None,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    eps2d: float = 0.3,
    antialiased: bool = False,
    alpha_threshold: float = 1 / 255,
    camera_model: str = "pinhole",
    coeffs: Tensor | None = None,
) -> ProjectedScene:
    """Projects means [N, 3] and covariances [N, 3, 3] (EWA splatting), and colours all K of SH [N, K, 3]."""
    turn = viewmat[:3, :3]
    points = means @ turn.T + viewmat[:3, 3]
    means2d, jacobian = CAMERAS[camera_model](points, K, coeffs, width, height)
    jacobian = jacobian @ turn
    flat = jacobian @ covars @ jacobian.mT
    covars2d = flat + eps2d * torch.eye(2, dtype=flat.dtype)
    det = torch.linalg.det(covars2d)
    a, b, c = covars2d[:, 0, 0], covars2d[:, 0, 1], covars2d[:, 1, 1]
    if antialiased:
        opacities = opacities * (torch.linalg.det(flat) / det).clamp(min=0.0).sqrt()
    variances = torch.stack([a, c], -1).detach()
    box = torch.full_like(variances, torch.inf)
    if alpha_threshold > 0:
        box = (2 * torch.log(opacities.detach() / alpha_threshold)[:, None] * variances).sqrt()
    colors = means.new_zeros(len(means), 0)
    if sh is not None:
        centre = torch.linalg.inv(viewmat)[:3, 3]
        colors = 0.5 + (harmonics(means - centre, math.isqrt(sh.shape[1]) - 1)[..., None] * sh).sum(-2)
    return ProjectedScene(means2d, points[:, 2], torch.stack([c / det, -b / det, a / det], -1), opacities, colors, box)


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
    alpha_threshold: float = 1 / 255,
    raw: bool = False,
    camera_model: str = "pinhole",
    camera_coeffs: Tensor | None = None,
    features: Tensor | None = None,
) -> Projection:
    """3D Gaussians to 2D, for each camera; arguments and culling as the native `ops.project.project`."""
    numbers, square = torch.cat([means, scales, opacities[:, None]], -1), quats.square().sum(-1)
    in_range = (numbers.abs() <= LARGEST).all(-1) & (square >= 0.99e-30) & (square <= 1.01e30)
    if raw:
        scales = torch.where(in_range[:, None], scales, 0.0).exp()
        opacities = torch.where(in_range, opacities, 0.0).sigmoid()
    sh: Tensor | None = None
    if sh0 is not None:
        sh = sh0 if shN is None else torch.cat([sh0, shN], 1)
        sh = sh if sh_degree is None else sh[:, : (sh_degree + 1) ** 2]
    options: dict[str, Any] = dict(eps2d=eps2d, antialiased=antialiased, alpha_threshold=alpha_threshold)
    options.update(camera_model=camera_model)

    def unculled(camera: int, ids: Tensor) -> ProjectedScene:
        covars, coefficients = covariance(quats[ids], scales[ids]), None if sh is None else sh[ids]
        at = (viewmats[camera], Ks[camera], width, height)
        coeffs = None if camera_coeffs is None else camera_coeffs[camera]
        return view(means[ids], covars, opacities[ids], coefficients, *at, coeffs=coeffs, **options)

    def visible(seen: ProjectedScene) -> Tensor:
        size = means.new_tensor([width, height])
        overlaps = (seen.means2d + seen.box >= 0.5) & (seen.means2d - seen.box <= size - 0.5)
        finite = torch.cat([seen.means2d, seen.conics, seen.opacities[:, None]], -1).isfinite()
        in_depth = (seen.depths > near_plane) & (seen.depths < far_plane)
        large = (seen.box.ceil() > radius_clip).any(-1) & (seen.opacities >= alpha_threshold)
        colored = (seen.colors.abs() <= LARGEST).all(-1)
        return finite.all(-1) & overlaps.all(-1) & in_depth & large & colored

    def scatter(ids: Tensor, values: Tensor) -> Tensor:
        return values.new_zeros(len(means), *values.shape[1:]).index_copy(0, ids, values)

    cameras: list[list[Tensor]] = []
    for camera in range(len(viewmats)):
        with torch.no_grad():  # what is culled must not enter the graph: 0 * NaN is NaN
            shown = in_range if features is None else in_range & (features[camera].abs() <= LARGEST).all(-1)
            ids = (shown & visible(unculled(camera, torch.arange(len(means))))).nonzero()[:, 0]
        seen = unculled(camera, ids)
        radii = seen.box.ceil().clamp(max=RADIUS_MAX).to(torch.int32)
        outputs = [*seen[:4], seen.colors.clamp(min=0.0), radii]
        cameras.append([scatter(ids, values) for values in outputs])
    stacked = Projection(*(torch.stack(values) for values in zip(*cameras, strict=True)))
    return stacked if sh is not None else stacked._replace(colors=None)


def pixel_centres(width: int, height: int, dtype: torch.dtype) -> Tensor:
    """Pixel centres [H*W, 2] as (x, y), row-major."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], -1).to(dtype) + 0.5


class Blend(NamedTuple):
    """One pixel and one Gaussian: how they meet, front to back."""

    raw: Tensor  # [P, N] opacity * exp(-sigma), before clamp and cut-off
    remaining: Tensor  # [P, N] transmittance if this Gaussian is blended as well
    weights: Tensor  # [P, N] what the Gaussian's colour counts in the pixel
    transmittance: Tensor  # [P] what is left for the background


def blend(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    pixels: Tensor,
    alpha_threshold: float = 1 / 255,
    transmittance_threshold: float = 1e-4,
) -> Blend:
    """Blends N Gaussians, sorted front to back, over pixels [P, 2].

    `means2d` is [N, 2], or [P, N, 2] for a mean of its own for each pixel, which gives gradients per pixel.
    """
    dx, dy = (pixels[:, None] - means2d).unbind(-1)
    a, b, c = conics.unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    raw = opacities * torch.exp(-sigma.clamp(min=0.0))
    alpha = torch.where(raw < ALPHA_MAX, raw, ALPHA_MAX)
    alpha = torch.where((sigma >= 0) & (alpha >= alpha_threshold), alpha, 0.0)
    remaining = torch.cumprod(1 - alpha, 1)
    blended = remaining >= transmittance_threshold  # falls only: the first to fail stops the pixel
    before = torch.cat([torch.ones_like(remaining[:, :1]), remaining[:, :-1]], 1)[:, : alpha.shape[1]]
    weights = torch.where(blended, alpha * before, 0.0)
    return Blend(raw, remaining, weights, torch.where(blended, 1 - alpha, 1.0).prod(1))


def rasterize(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    backgrounds: Tensor | None,
    depths: Tensor,
    width: int,
    height: int,
    *,
    alpha_threshold: float = 1 / 255,
    transmittance_threshold: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """Pictures [C, H, W, D] and alphas [C, H, W, 1]; `depths` [C, N] only order them, ties by index."""
    renders, alphas = [], []
    pixels = pixel_centres(width, height, means2d.dtype)
    for index in range(len(means2d)):
        order = torch.argsort(depths[index].detach(), stable=True)
        mean, conic, opacity = means2d[index, order], conics[index, order], opacities[index, order]
        blended = blend(mean, conic, opacity, pixels, alpha_threshold, transmittance_threshold)
        color = torch.where(opacity[:, None] > 0, colors[index, order], 0.0)  # 0 * NaN is NaN
        render = blended.weights @ color
        if backgrounds is not None:
            render = render + blended.transmittance[:, None] * backgrounds[index]
        renders.append(render.reshape(height, width, -1))
        alphas.append((1 - blended.transmittance).reshape(height, width, 1))
    return torch.stack(renders), torch.stack(alphas)


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    alpha_threshold: float = 1 / 255,
    transmittance_threshold: float = 1e-4,
    raw: bool = False,
    camera_model: str = "pinhole",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The whole chain, with the arguments and results of the public `splatlearn.rasterization`."""
    shown = render_mode not in ("D", "ED")
    sh0, shN = (colors[:, :1], colors[:, 1:]) if sh_degree is not None and shown else (None, None)
    options: dict[str, Any] = dict(eps2d=eps2d, near_plane=near_plane, far_plane=far_plane)
    options.update(radius_clip=radius_clip, sh_degree=sh_degree, alpha_threshold=alpha_threshold)
    options.update(antialiased=rasterize_mode == "antialiased", raw=raw, camera_model=camera_model)
    if sh_degree is None and shown:
        options["features"] = colors = colors.expand(len(viewmats), *colors.shape[-2:])
    projection = project(means, quats, scales, opacities, sh0, shN, viewmats, Ks, width, height, **options)
    channels = colors if projection.colors is None else projection.colors
    depth = projection.depths[..., None]
    if render_mode in ("D", "ED"):
        channels, backgrounds = depth, None
    elif render_mode in ("RGB+D", "RGB+ED"):
        channels = torch.cat([channels, depth], -1)
        if backgrounds is not None:
            backgrounds = torch.cat([backgrounds, torch.zeros_like(backgrounds[:, :1])], -1)
    means2d, depths, conics, seen, _, _ = projection
    options = dict(alpha_threshold=alpha_threshold, transmittance_threshold=transmittance_threshold)
    render, alphas = rasterize(means2d, conics, seen, channels, backgrounds, depths, width, height, **options)
    if render_mode in ("ED", "RGB+ED"):
        expected = render[..., -1:] / alphas.clamp(min=1e-10)
        render = torch.cat([render[..., :-1], expected], -1)
    return render, alphas, projection._asdict()


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of [..., H, W, channels] in 0..1 (Wang et al. 2004), zero padded."""
    if target.dtype == torch.uint8:
        target = target.to(image.dtype) / 255
    taps = torch.exp(-((torch.arange(11, dtype=image.dtype) - 5) ** 2) / (2 * 1.5**2))
    taps = taps / taps.sum()
    window = (taps[:, None] * taps[None, :])[None, None]

    def blur(values: Tensor) -> Tensor:
        planes = values.movedim(-1, -3).reshape(-1, 1, *values.shape[-3:-1])
        return torch.nn.functional.conv2d(planes, window, padding=5)

    mx, my = blur(image), blur(target)
    vx, vy = blur(image * image) - mx * mx, blur(target * target) - my * my
    vxy = blur(image * target) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


def photometric_loss(image: Tensor, target: Tensor, lambda_dssim: float = 0.2) -> Tensor:
    """(1 - lambda) * mean |image - target| + lambda * (1 - SSIM), a scalar."""
    if target.dtype == torch.uint8:
        target = target.to(image.dtype) / 255
    return (1 - lambda_dssim) * (image - target).abs().mean() + lambda_dssim * (1 - ssim(image, target))


def adam_step(
    param: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
) -> tuple[Tensor, Tensor, Tensor]:
    """The new (param, first moment, second moment) after step number `step` >= 1 (Kingma and Ba 2015)."""
    first = betas[0] * first + (1 - betas[0]) * grad
    second = betas[1] * second + (1 - betas[1]) * grad * grad
    corrected = (second / (1 - betas[1] ** step)).sqrt() + eps
    return param - lr * (first / (1 - betas[0] ** step)) / corrected, first, second
