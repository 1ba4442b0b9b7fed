"""The public function: 3D Gaussians to images by the stages project, bin and rasterize, with gsplat 1.5's signature."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.bin import TILE, Tiles, bin
from splatlearn.ops.cameras import CAMERA_MODELS
from splatlearn.ops.checks import check_rows, check_size, check_tensor
from splatlearn.ops.project import Projection, project
from splatlearn.ops.rasterize import rasterize
from splatlearn.ops.render_modes import render_mode_of

RASTERIZE_MODES = ("classic", "antialiased")
# Arguments of gsplat's signature that have no counterpart here, with the value that asks for nothing.
UNSUPPORTED = {
    "sparse_grad": False,
    "distributed": False,
    "segmented": False,
    "covars": None,
    "with_ut": False,
    "with_eval3d": False,
    "radial_coeffs": None,
    "tangential_coeffs": None,
    "thin_prism_coeffs": None,
    "ftheta_coeffs": None,
    "viewmats_rs": None,
}


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | tuple[Tensor, Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = TILE,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    absgrad: bool = False,
    rasterize_mode: str = "classic",
    channel_chunk: int = 32,
    camera_model: str = "pinhole",
    *,
    alpha_threshold: float = native.ALPHA_THRESHOLD,
    transmittance_threshold: float = 1e-4,
    raw: bool = False,
    camera_centers: Tensor | None = None,
    detached: bool = False,
    **unsupported: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N 3D Gaussians into C images. Gradients flow to all float tensors, viewmats, Ks and backgrounds included.

    All tensors have one dtype, float32 or float64, and are on one device. A Gaussian with a number that is NaN,
    infinite or above 1e12 in magnitude is culled: it gets no gradient and changes no bit of the others. docs/api.md
    lists what each kind of bad number does.

    Args:
        means: [N, 3] centres, world.
        quats: [N, 4] rotations from the Gaussian's axes to the world, wxyz, of a norm from 1e-15 to 1e15.
        scales: [N, 3] standard deviations along the Gaussian's axes, world units; the sign does not count.
        opacities: [N] in 0..1. Below 0 nothing is drawn; above 1 alpha is clamped to 0.999, as in gsplat.
        colors: [N, D] or [C, N, D] features of any D; with `sh_degree` spherical-harmonics coefficients [N, K, 3], or a
            pair ([N, 1, 3], [N, K-1, 3]), which saves a concatenation.
        viewmats: [C, 4, 4] world to camera, OpenCV axes: x right, y down, z forward. The map is applied as it is:
            it may scale and shear, but not mirror.
        Ks: [C, 3, 3] intrinsics fx, fy, cx, cy without skew, px; pixel centres are at +0.5.
        width, height: image size, px.
        near_plane, far_plane: Gaussians of other depths are culled, world units.
        radius_clip: Gaussians whose two radii are at or below it are culled, px.
        eps2d: low-pass filter added to the 2D covariance, px^2.
        sh_degree: 0..4: `colors` are coefficients, of which those up to this degree are used; None: features.
        packed: keep only visible Gaussians between the stages; `meta` then has nnz rows instead of [C, N].
        tile_size, channel_chunk: schedule details of gsplat; every value gives the same result here.
        backgrounds: [C, D], finite, or None for zeros; not applied to depth channels.
        render_mode: "RGB" colours; "D" accumulated depth; "ED" expected depth; "RGB+D", "RGB+ED" both, depth last.
        absgrad: backward also writes meta["means2d"].absgrad.
        rasterize_mode: "classic", or "antialiased" to scale opacities by the loss that `eps2d` causes.
        camera_model: "pinhole", or "ortho" with focal lengths in px per world unit.
        alpha_threshold: smaller alphas contribute nothing; 0: all contribute.
        transmittance_threshold: a pixel stops before the Gaussian that would take its transmittance below it; 0: never.
        raw: scales are logarithms and opacities logits, which stage project activates; gradients are to these.
        camera_centers: [C, 3] world, if known, which saves inverting `viewmats`; these must then need no gradient.
        detached: backward ends at the 2D Gaussians, meta["detached"], from which
            `splatlearn.ops.project_update.project_update` updates the parameters.
        unsupported: arguments of gsplat without a counterpart here, at the values that ask for nothing.

    Returns:
        render_colors [C, H, W, X], with X channels of the render mode; render_alphas [C, H, W, 1], each 1 minus the
        final transmittance; and `meta`. Its rows are [C, N], or [nnz] if packed; I is the number of instances, which
        are pairs of a Gaussian and a tile that it touches.

        - camera_ids, gaussian_ids: [nnz] int64, the camera and the Gaussian of each row; None if not packed.
        - means2d: [rows, 2] px, centres in the image, in the graph: `retain_grad()` works.
        - means2d.absgrad: [rows, 2] 1/px, sum over pixels of absolute gradients, after backward with `absgrad`.
        - depths: [rows] world units, camera-space z. radii: [rows, 2] int32 px, half extents in x and y of the ellipse
          where alpha falls to `alpha_threshold`; 0 if culled, and then all other values are 0.
        - conics: [rows, 3] 1/px^2, the inverse 2D covariance: xx, xy, yy.
        - opacities: [rows] in 0..1, after activation and antialiasing.
        - tiles_per_gauss: [rows] int32, the number of tiles that each row touches.
        - isect_offsets: [C, tile_height, tile_width] int64, the first instance of each tile in `flatten_ids`.
        - flatten_ids: [I] int32, the row of each instance, by tile and then from near to far.
        - width, height: px. tile_size: px. tile_width, tile_height: the number of tiles across and down an image.
        - n_cameras: C.
        - detached: only with `detached`: the `DetachedGaussians` [C, N].

        On a CUDA device the host waits only for I. Within a `splatlearn.ops.capacity.Capacity` it waits for nothing;
        `flatten_ids` is then longer than I, and its entries from I on are undefined.

    Raises:
        SplatlearnError: an argument has another shape, dtype, device or value, or the lists do not fit into memory.
        NotImplementedError: an argument of gsplat without a counterpart here asks for something.
        TypeError: gsplat has no such argument either.
    """
    _refuse_unsupported(unsupported)
    for name, count in (("tile_size", tile_size), ("channel_chunk", channel_chunk)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise SplatlearnError(f"{name} must be an integer of at least 1, but is {count!r}")
    chain = render_chain(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height,
        near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree,
        packed=packed, backgrounds=backgrounds, render_mode=render_mode, absgrad=absgrad,
        rasterize_mode=rasterize_mode, camera_model=camera_model, alpha_threshold=alpha_threshold,
        transmittance_threshold=transmittance_threshold, raw=raw, camera_centers=camera_centers, detached=detached,
    )  # fmt: skip
    meta = _meta(chain, viewmats.shape[0], width, height)
    return chain.image, chain.alphas, meta | {"detached": chain.projection} if detached else meta


@dataclass(frozen=True)
class RenderChain:
    """What project, bin and rasterize made of N Gaussians and C cameras. Its rows are (camera, Gaussian) pairs.

    image: [C, H, W, X], of the render mode's channels. alphas: [C, H, W, 1].
    projection: of all N Gaussians; `DetachedGaussians` where backward ends at them.
    rows: what was rasterized: the projection, or its visible rows [nnz] where it is packed.
    ids: camera and Gaussian [nnz] of each packed row; None where it is not packed.
    tiles: the lists of stage bin.
    """

    image: Tensor
    alphas: Tensor
    projection: Projection
    rows: Projection
    ids: tuple[Tensor, Tensor] | None
    tiles: Tiles


def render_chain(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | tuple[Tensor, Tensor],
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
    packed: bool = False,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    absgrad: bool = False,
    rasterize_mode: str = "classic",
    camera_model: str = "pinhole",
    alpha_threshold: float = native.ALPHA_THRESHOLD,
    transmittance_threshold: float = 1e-4,
    raw: bool = False,
    camera_centers: Tensor | None = None,
    detached: bool = False,
) -> RenderChain:
    """Project, bin and rasterize: the one chain of the stages, for `rasterization` and for training.

    Args:
        As of `rasterization`. This function builds no `meta`, so that a training step does not pay for it.

    Raises:
        SplatlearnError, NotImplementedError: as of `rasterization`.
    """
    mode = render_mode_of(render_mode)
    check_size(width, height)
    check_rows(means, viewmats)
    if rasterize_mode not in RASTERIZE_MODES:
        raise SplatlearnError(f"rasterize_mode must be one of {', '.join(RASTERIZE_MODES)}, but is {rasterize_mode!r}")
    if camera_model not in CAMERA_MODELS:
        supported = ", ".join(map(repr, CAMERA_MODELS))
        raise NotImplementedError(f"camera_model={camera_model!r} is not supported: only {supported} are")
    sh0, shN, features = _split_colors(colors, sh_degree, means, viewmats)
    projection = project(
        means, quats, scales, opacities, sh0, shN, viewmats, Ks, width, height,
        eps2d=eps2d, near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip,
        sh_degree=sh_degree if mode.colors else None,
        antialiased=rasterize_mode == "antialiased", alpha_threshold=alpha_threshold, raw=raw,
        camera_model=camera_model, camera_centers=camera_centers, features=features if mode.colors else None,
        detached=detached,
    )  # fmt: skip
    shown = projection.colors if features is None else features
    ids = _visible(projection) if packed else None
    rows, shown = _packed(projection, shown, ids) if ids is not None else (projection, shown)
    channels, backgrounds = mode.channels(shown, rows, backgrounds)
    cameras = viewmats.shape[0]
    tiles = bin(
        rows.means2d, rows.conics, rows.opacities, rows.depths, rows.radii, width, height,
        alpha_threshold=alpha_threshold, n_cameras=cameras, camera_ids=None if ids is None else ids[0],
        channels=channels.shape[-1], ahead=True,
    )  # fmt: skip
    image, alphas = rasterize(
        rows.means2d, rows.conics, rows.opacities, channels, backgrounds, tiles, width, height,
        n_cameras=cameras, alpha_threshold=alpha_threshold, transmittance_threshold=transmittance_threshold,
        absgrad=absgrad, records=rows.records if channels is rows.colors else None,
    )  # fmt: skip
    image = mode.finished(image, alphas, shown)
    resolved = tiles if tiles.ahead is None else tiles.ahead.tiles
    return RenderChain(image, alphas, projection, rows, ids, resolved)


def _refuse_unsupported(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name == "rolling_shutter":
            if getattr(value, "name", value) in (None, "GLOBAL"):
                continue
        elif name not in UNSUPPORTED:
            raise TypeError(f"rasterization() got an unexpected keyword argument {name!r}")
        elif value is None or value is UNSUPPORTED[name]:
            continue
        raise NotImplementedError(f"rasterization does not support {name}")


def _split_colors(
    colors: Tensor | tuple[Tensor, Tensor], sh_degree: int | None, means: Tensor, viewmats: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The coefficients (first, others) of spherical harmonics, or features [C, N, D]."""
    n = check_tensor("means", means, ("N", 3)).shape[0]
    if sh_degree is not None:
        if isinstance(colors, tuple):
            return colors[0], colors[1], None
        check_tensor("colors", colors, (n, "K", 3), means)
        if colors.shape[1] == 0:
            raise SplatlearnError(f"colors must hold at least one basis, but has shape {list(colors.shape)}")
        return colors[:, :1], colors[:, 1:], None
    cameras = check_tensor("viewmats", viewmats, ("C", 4, 4), means).shape[0]
    if isinstance(colors, Tensor) and colors.dim() == 2:
        colors = check_tensor("colors", colors, (n, "D"), means).expand(cameras, n, -1)
    else:
        colors = check_tensor("colors", colors, (cameras, n, "D"), means)
    if colors.shape[-1] == 0:
        raise SplatlearnError(f"colors must have at least one channel, but has shape {list(colors.shape)}")
    return None, None, colors


def _visible(projection: Projection) -> tuple[Tensor, Tensor]:
    """camera_ids and gaussian_ids [nnz] of what is not culled."""
    camera_ids, gaussian_ids = (projection.radii > 0).all(dim=-1).nonzero(as_tuple=True)
    return camera_ids, gaussian_ids


def _packed(
    projection: Projection, colors: Tensor | None, ids: tuple[Tensor, Tensor]
) -> tuple[Projection, Tensor | None]:
    p = projection
    records = None if p.records is None else p.records[ids]
    own = None if p.colors is None else p.colors[ids]
    rows = Projection(p.means2d[ids], p.depths[ids], p.conics[ids], p.opacities[ids], own, p.radii[ids], records)
    return rows, own if colors is p.colors or colors is None else colors[ids]


def _meta(chain: RenderChain, cameras: int, width: int, height: int) -> dict[str, Any]:
    rows, ids, tiles = chain.rows, chain.ids, chain.tiles
    tile_width, tile_height = -(-width // TILE), -(-height // TILE)
    per_row = (tiles.row_offsets[1:] - tiles.row_offsets[:-1]).int()
    return {
        "camera_ids": None if ids is None else ids[0],
        "gaussian_ids": None if ids is None else ids[1],
        "radii": rows.radii,
        "means2d": rows.means2d,
        "depths": rows.depths,
        "conics": rows.conics,
        "opacities": rows.opacities,
        "tile_width": tile_width,
        "tile_height": tile_height,
        "tiles_per_gauss": per_row.reshape(rows.radii.shape[:-1]),
        "flatten_ids": tiles.gaussian_ids,
        "isect_offsets": tiles.tile_offsets[:-1].reshape(cameras, tile_height, tile_width),
        "width": width,
        "height": height,
        "tile_size": TILE,
        "n_cameras": cameras,
    }
