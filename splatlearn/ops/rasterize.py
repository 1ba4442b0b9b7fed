"""Stage rasterize: front-to-back alpha compositing of binned 2D Gaussians into images, with its backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.ops import native, workspace
from splatlearn.ops.bin import TILE, Tiles
from splatlearn.ops.checks import MAX_CHANNELS, check_number, check_size, check_tensor

IN_REGISTERS = (1, 3, 4)  # numbers of channels whose colours the CUDA kernels keep in registers and in checkpoints
_deterministic: ContextVar[bool] = ContextVar("deterministic", default=True)


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """A context that sets whether gradients of its renderings have the same bits in every run; by default they have.

    Args:
        wanted: False: on a CUDA device backward sums by atomic additions, in the order in which blocks happen to run,
            and allocates no gradient row per instance. The CPU ignores it.
    """
    token = _deterministic.set(wanted)
    try:
        yield
    finally:
        _deterministic.reset(token)


class _Sizes(NamedTuple):
    """The arguments of a rendering that are not tensors."""

    cameras: int
    width: int
    height: int
    alpha_threshold: float
    transmittance_threshold: float
    absgrad: bool
    atomic: bool
    backward: bool  # some tensor requires a gradient


def rasterize(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    backgrounds: Tensor | None,
    tiles: Tiles,
    width: int,
    height: int,
    *,
    n_cameras: int = 1,
    alpha_threshold: float = native.ALPHA_THRESHOLD,
    transmittance_threshold: float = 1e-4,
    absgrad: bool = False,
    records: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Composite 2D Gaussians: render = sum_i T_i alpha_i c_i + T_final background (Kerbl et al. 2023, eq. 3).

    Args:
        means2d, conics, opacities, colors: [..., 2] px, [..., 3] 1/px^2, [...] and [..., D], of stage project or
            equivalent; their leading dimensions are the M rows that `tiles` was made of. The rows in lists must be
            finite: a NaN here spreads to pixels beside the Gaussian. Stage project culls such rows.
        backgrounds: [C, D], finite, or None for zeros.
        tiles: the lists of stage bin, made with the same sizes and `alpha_threshold`. Lists that were written ahead are
            resolved here, after the kernels are launched; if their capacity was too small, the image is rendered again.
        width, height: image size, px.
        n_cameras: C.
        alpha_threshold: smaller alphas contribute nothing; 0: all contribute.
        transmittance_threshold: a pixel stops before the Gaussian that would take its transmittance below it; 0: never.
        absgrad: backward also writes `means2d.absgrad`, the sum over pixels of the mean's absolute gradient, 1/px.
        records: `Projection.records`, if the four tensors are of the same projection; saves packing them again.

    Returns:
        render [C, H, W, D] and alphas [C, H, W, 1] = 1 - final transmittance. Gradients flow to all float tensors. They
        have the same bits for any number of threads and in every run, unless `deterministic(False)` is in effect.

    Raises:
        SplatlearnError: a tensor has another shape, dtype or device, or a threshold is not in 0..1.
    """
    check_size(width, height)
    shape = tuple(means2d.shape[:-1])
    check_tensor("means2d", means2d, (*shape, 2))
    check_tensor("colors", colors, (*shape, "D"), means2d)
    flat = (
        check_tensor("conics", conics, (*shape, 3), means2d),
        check_tensor("opacities", opacities, shape, means2d),
        colors.contiguous(),
    )
    check_number("alpha_threshold", alpha_threshold, 0, 1)
    check_number("transmittance_threshold", transmittance_threshold, 0, 1)
    if colors.shape[-1] > MAX_CHANNELS:
        raise SplatlearnError(f"colors must have at most {MAX_CHANNELS:,} channels, but have {colors.shape[-1]:,}")
    capacities.refuse_large_picture(n_cameras, width, height, colors.shape[-1], means2d)
    n_tiles = n_cameras * -(-width // TILE) * -(-height // TILE)
    _check_tiles(tiles, flat[1].numel(), n_tiles)
    if backgrounds is not None:
        backgrounds = check_tensor("backgrounds", backgrounds, (n_cameras, colors.shape[-1]), means2d)
        if not backgrounds.is_cuda and not backgrounds.isfinite().all():
            raise SplatlearnError("backgrounds must be finite, but hold NaN or infinity")
    if records is not None:
        records = check_tensor("records", records, (*shape, native.RECORD), means2d)
        if colors.shape[-1] != 3:
            raise SplatlearnError(f"records are of three channels, but colors has {colors.shape[-1]}")
    thresholds, atomic = (alpha_threshold, transmittance_threshold), not _deterministic.get()
    atomic = atomic and native.runs_kernels(means2d)
    wanted = any(tensor.requires_grad for tensor in (means2d, *flat, backgrounds) if tensor is not None)
    sizes = _Sizes(n_cameras, width, height, *thresholds, absgrad, atomic, wanted and torch.is_grad_enabled())
    return _Rasterize.apply(means2d, *flat, backgrounds, records, tiles, sizes)


def _check_tiles(tiles: Tiles, rows: int, count: int) -> None:
    """Check that the lists are of these rows and tiles, which native code assumes."""
    lists = (tiles.row_offsets.numel() - 1, tiles.tile_offsets.numel() - 1)
    if lists != (rows, count):
        raise SplatlearnError(
            f"tiles must be lists of {rows} 2D Gaussians in {count} tiles, but are of {lists[0]} in {lists[1]}"
        )


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        backgrounds: Tensor | None,
        records: Tensor | None,
        tiles: Tiles,
        sizes: _Sizes,
    ) -> tuple[Tensor, Tensor]:
        ctx.given_means2d = means2d if sizes.absgrad else None  # the very tensor that carries .absgrad
        means2d = means2d.contiguous()
        new_records = None
        if records is None and native.runs_kernels(means2d):
            records = new_records = means2d.new_empty(opacities.numel(), native.RECORD)
        image = (sizes.cameras, sizes.height, sizes.width)
        space = workspace.current(means2d)
        render = workspace.empty(space, "render", (*image, colors.shape[-1]), means2d)
        alphas = workspace.empty(space, "alphas", (*image, 1), means2d)
        transmittance = workspace.empty(space, "transmittance", image, means2d)
        stops = workspace.empty(space, "stops", image, means2d, torch.int32)

        def composite(tiles: Tiles) -> _Schedule:
            schedule = _schedule(means2d, colors.shape[-1], tiles, sizes)
            inputs = _inputs(means2d, conics, opacities, colors, backgrounds, records, tiles, sizes)
            params = native.RasterizeForward(
                inputs=inputs,
                new_records=new_records,
                render=render,
                alphas=alphas,
                transmittance=transmittance,
                stops=stops,
                **schedule._asdict(),
            )
            native.call("rasterize_forward", params, means2d)
            return schedule

        schedule = composite(tiles)
        if tiles.ahead is not None:
            if not tiles.ahead.resolve():
                schedule = composite(tiles.ahead.tiles)
            tiles = tiles.ahead.tiles
        given = (means2d, conics, opacities, colors, backgrounds)
        kept_render = None if schedule.checkpoints is None else render
        ctx.save_for_backward(*given, records, transmittance, stops, *schedule[1:], kept_render, *tiles[:4])
        ctx.sizes, ctx.space = sizes, space
        ctx.set_materialize_grads(False)  # they would cost an image of zeros per step if alphas have no gradient
        return render, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_render: Tensor | None, v_alphas: Tensor | None) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colors, backgrounds, records, *others = ctx.saved_tensors
        transmittance, stops, spans, checkpoints, render, *lists = others
        tiles, sizes = Tiles(*lists), ctx.sizes
        if v_render is None:
            v_render = means2d.new_zeros(*transmittance.shape, colors.shape[-1])
        columns = native.MOMENTS + colors.shape[-1] + 2 * sizes.absgrad
        rows = (tiles.slots.numel(), columns)
        instance_rows = None if sizes.atomic else workspace.empty(ctx.space, "instance_rows", rows, means2d)
        v_abs = torch.empty_like(means2d) if sizes.absgrad else None
        names = ("means2d", "conics", "opacities2d", "colors")
        given = (means2d, conics, opacities, colors)
        v_means2d, v_conics, v_opacities, v_colors = (
            workspace.empty(ctx.space, f"v_{name}", t.shape, t) for name, t in zip(names, given, strict=True)
        )
        v_backgrounds = torch.empty_like(backgrounds) if ctx.needs_input_grad[4] else None
        params = native.RasterizeBackward(
            inputs=_inputs(means2d, conics, opacities, colors, backgrounds, records, tiles, sizes),
            atomic=sizes.atomic,
            row_offsets=tiles.row_offsets,
            slots=tiles.slots,
            transmittance=transmittance,
            stops=stops,
            v_render=v_render.contiguous(),
            v_alphas=None if v_alphas is None else v_alphas.contiguous(),
            instance_rows=instance_rows,
            v_means2d=v_means2d,
            v_means2d_abs=v_abs,
            v_conics=v_conics,
            v_opacities=v_opacities,
            v_colors=v_colors,
            v_backgrounds=v_backgrounds,
            spans=spans,
            checkpoints=checkpoints,
            render=render,
        )
        native.call("rasterize_backward", params, means2d)
        if sizes.absgrad:
            ctx.given_means2d.absgrad = v_abs
        return v_means2d, v_conics, v_opacities, v_colors, v_backgrounds, None, None, None


class _Schedule(NamedTuple):
    """The order of work that forward writes for backward on CUDA; see csrc/abi.h."""

    tile_order: Tensor | None = None
    spans: Tensor | None = None
    checkpoints: Tensor | None = None


def _schedule(like: Tensor, channels: int, tiles: Tiles, sizes: _Sizes) -> _Schedule:
    """Its tensors: the last two only if a backward may follow, checkpoints only for few channels."""
    if not native.runs_kernels(like):
        return _Schedule()
    n_tiles, ends = tiles.tile_offsets.numel() - 1, tiles.slots.numel() // native.SPAN
    order = torch.empty(n_tiles, dtype=torch.int32, device=like.device)
    if not sizes.backward:
        return _Schedule(order)
    spans = torch.empty(n_tiles + ends, dtype=torch.int64, device=like.device)
    if channels not in IN_REGISTERS:
        return _Schedule(order, spans)
    return _Schedule(order, spans, like.new_empty(ends + 1, TILE * TILE, 1 + channels))


def _inputs(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    backgrounds: Tensor | None,
    records: Tensor | None,
    tiles: Tiles,
    sizes: _Sizes,
) -> native.RasterizeInputs:
    return native.RasterizeInputs(
        context=native.context(means2d),
        n_rows=opacities.numel(),
        n_cameras=sizes.cameras,
        n_instances=tiles.slots.numel(),
        width=sizes.width,
        height=sizes.height,
        channels=colors.shape[-1],
        absgrad=sizes.absgrad,
        alpha_threshold=sizes.alpha_threshold,
        transmittance_threshold=sizes.transmittance_threshold,
        means2d=means2d,
        conics=conics,
        opacities=opacities,
        colors=colors,
        backgrounds=backgrounds,
        records=records,
        tile_offsets=tiles.tile_offsets,
        row_ids=tiles.gaussian_ids,
    )
