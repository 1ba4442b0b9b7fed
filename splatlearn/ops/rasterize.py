"""Stage rasterize: front-to-back alpha compositing of binned 2D Gaussians into images, with its backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatlearn.errors import SplatlearnError
from splatlearn.ops import native
from splatlearn.ops.bin import TILE, Tiles
from splatlearn.ops.checks import check_number, check_size, check_tensor

MOMENTS = 6  # columns of a gradient row beside the colours, as the backends of this stage write it


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
    alpha_threshold: float = 1 / 255,
    transmittance_threshold: float = 1e-4,
    absgrad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Composites 2D Gaussians: render = sum_i T_i alpha_i c_i + T_final background (Kerbl et al. 2023, eq. 3).

    Args:
        means2d, conics, opacities, colors: [..., 2], [..., 3], [...], [..., D] of stage project, or anything of that
            meaning; leading dimensions are the M rows that `tiles` was made of.
        backgrounds: [C, D] or None for zeros.
        tiles: the lists of stage bin, made with the same sizes and `alpha_threshold`. Those made ahead are settled
            here, with the picture on its way, and drawn again if their room was too small.
        transmittance_threshold: a pixel stops before the Gaussian that would take its transmittance below it; 0: never.
        absgrad: backward also writes `means2d.absgrad`, the sum over pixels of the mean's absolute gradient, px^-1.

    Returns:
        render [C, H, W, D] and alphas [C, H, W, 1] = 1 - final transmittance. Gradients flow to all float tensors and
        have the same bits for any number of threads.

    Raises:
        SplatlearnError: a tensor of another shape, dtype or device.
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
    n_tiles = n_cameras * -(-width // TILE) * -(-height // TILE)
    _check_tiles(tiles, flat[1].numel(), n_tiles)
    if backgrounds is not None:
        backgrounds = check_tensor("backgrounds", backgrounds, (n_cameras, colors.shape[-1]), means2d)
    sizes = (n_cameras, width, height, alpha_threshold, transmittance_threshold, absgrad)
    return _Rasterize.apply(means2d, *flat, backgrounds, tiles, sizes)


def _check_tiles(tiles: Tiles, rows: int, count: int) -> None:
    """The lists must be of these rows and tiles: native code trusts them."""
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
        tiles: Tiles,
        sizes: tuple[Any, ...],
    ) -> tuple[Tensor, Tensor]:
        ctx.given_means2d = means2d if sizes[-1] else None  # the very tensor that carries .absgrad
        means2d = means2d.contiguous()
        cameras, width, height = sizes[:3]
        image = (cameras, height, width)
        render, alphas = means2d.new_empty(*image, colors.shape[-1]), means2d.new_empty(*image, 1)
        transmittance, stops = means2d.new_empty(image), means2d.new_empty(image, dtype=torch.int32)

        def draw(tiles: Tiles) -> None:
            inputs = _inputs(means2d, conics, opacities, colors, backgrounds, tiles, sizes)
            pointers = map(native.pointer, [render, alphas, transmittance, stops])
            native.call("rasterize_forward", native.RasterizeForward(inputs, *pointers), means2d)

        draw(tiles)
        if tiles.ahead is not None:
            if not tiles.ahead.settle():
                draw(tiles.ahead.tiles)
            tiles = tiles.ahead.tiles
        ctx.save_for_backward(means2d, conics, opacities, colors, backgrounds, transmittance, stops, *tiles[:4])
        ctx.sizes = sizes
        return render, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *v_outputs: Any) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colors, backgrounds, transmittance, stops, *lists = ctx.saved_tensors
        tiles, absgrad = Tiles(*lists), ctx.sizes[-1]
        v_outputs = tuple(v.contiguous() for v in v_outputs)
        columns = MOMENTS + colors.shape[-1] + 2 * absgrad
        instance_rows = means2d.new_empty(tiles.slots.numel(), columns)
        v_abs = torch.empty_like(means2d) if absgrad else None
        v = [torch.empty_like(t) for t in (means2d, conics, opacities, colors)]
        v_backgrounds = torch.empty_like(backgrounds) if ctx.needs_input_grad[4] else None
        params = native.RasterizeBackward(
            _inputs(means2d, conics, opacities, colors, backgrounds, tiles, ctx.sizes),
            *map(native.pointer, [tiles.row_offsets, tiles.slots, transmittance, stops]),
            *map(native.pointer, v_outputs),
            *map(native.pointer, [instance_rows, v[0], v_abs, *v[1:], v_backgrounds]),
        )
        native.call("rasterize_backward", params, means2d)
        if absgrad:
            ctx.given_means2d.absgrad = v_abs
        return *v, v_backgrounds, None, None


def _inputs(
    means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, backgrounds: Any, tiles: Tiles, sizes: Any
) -> native.RasterizeInputs:
    cameras, width, height, alpha_threshold, transmittance_threshold, absgrad = sizes
    return native.RasterizeInputs(
        native.context(means2d),
        opacities.numel(),
        cameras,
        tiles.slots.numel(),
        width,
        height,
        colors.shape[-1],
        absgrad,
        alpha_threshold,
        transmittance_threshold,
        *map(native.pointer, [means2d, conics, opacities, colors, backgrounds, tiles.tile_offsets, tiles.gaussian_ids]),
    )
