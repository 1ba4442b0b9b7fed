"""What a rendering holds: the channels that each render mode composites, and what becomes of them afterwards.

A mode composites the colours, further channels of each 2D Gaussian, or both; the further channels come last. A new
mode is an entry of `RENDER_MODES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops.checks import check_tensor
from splatlearn.ops.project import Projection

SMALLEST_ALPHA = 1e-10  # an expected value is a sum divided by alpha; below this, alpha counts as this


@dataclass(frozen=True)
class RenderMode:
    """The channels of one render mode.

    colors: Whether the colours are composited, over the background.
    extra: The further channels [..., X] of the 2D Gaussians, over zeros; None for none.
    finish: The further channels of the image [C, H, W, X], from their composited sums and alphas [C, H, W, 1]; None
        leaves the sums.
    """

    colors: bool
    extra: Callable[[Projection], Tensor] | None = None
    finish: Callable[[Tensor, Tensor], Tensor] | None = None

    def channels(
        self, colors: Tensor | None, rows: Projection, backgrounds: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The channels [..., D + X] to composite, and their backgrounds [C, D + X].

        Args:
            colors: [..., D] of the same rows; None where the mode has none.
            rows: The projected Gaussians.
            backgrounds: [C, D], or None for zeros.

        Raises:
            SplatlearnError: The backgrounds have another number of channels than the colours.
        """
        parts = [colors] if self.colors and colors is not None else []
        if not parts:
            backgrounds = None
        if self.extra is None:
            return parts[0], backgrounds
        extra = self.extra(rows)
        if backgrounds is not None and colors is not None:
            check_tensor("backgrounds", backgrounds, (backgrounds.shape[0], colors.shape[-1]), colors)
            zeros = backgrounds.new_zeros(backgrounds.shape[0], extra.shape[-1])
            backgrounds = torch.cat([backgrounds, zeros], dim=-1)
        return torch.cat([*parts, extra], dim=-1) if parts else extra, backgrounds

    def finished(self, image: Tensor, alphas: Tensor, colors: Tensor | None) -> Tensor:
        """The image [C, H, W, D + X] of the composited channels; `colors` as in `channels`."""
        if self.finish is None:
            return image
        before = colors.shape[-1] if self.colors and colors is not None else 0
        return torch.cat([image[..., :before], self.finish(image[..., before:], alphas)], dim=-1)


def _depth(rows: Projection) -> Tensor:
    return rows.depths.unsqueeze(-1)


def _expected(sums: Tensor, alphas: Tensor) -> Tensor:
    return sums / alphas.clamp(min=SMALLEST_ALPHA)


RENDER_MODES = {
    "RGB": RenderMode(colors=True),
    "D": RenderMode(colors=False, extra=_depth),
    "ED": RenderMode(colors=False, extra=_depth, finish=_expected),
    "RGB+D": RenderMode(colors=True, extra=_depth),
    "RGB+ED": RenderMode(colors=True, extra=_depth, finish=_expected),
}


def render_mode_of(name: str) -> RenderMode:
    """The mode of this name.

    Raises:
        SplatlearnError: No mode has it.
    """
    if name not in RENDER_MODES:
        raise SplatlearnError(f"render_mode must be one of {', '.join(RENDER_MODES)}, but is {name!r}")
    return RENDER_MODES[name]
