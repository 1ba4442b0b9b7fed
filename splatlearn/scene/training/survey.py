"""A look at a scene from several photographs at once: how much of their errors each Gaussian answers for.

A picture is linear in the colours of its Gaussians: Gaussian i adds w_ip c_i to pixel p, where w_ip = T alpha. So
the blend's backward, given the errors e_p of the pixels in place of a loss' gradient, writes sums of w_ip e_p where
it would write gradients of colours. Bulo et al. (2024, Revising Densification in Gaussian Splatting) share errors so.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from splatlearn.scene.gaussians import Rendering


def shares_of_errors(pictures: Iterable[tuple[Rendering, Tensor, Tensor | None]]) -> Tensor:
    """The share [N] of each Gaussian in the absolute errors of all pixels and channels, summed over the pictures.

    Args:
        pictures: at least one; renderings of the same N Gaussians, in the graph, each with its photograph [H, W, 3]
            (uint8, or float in 0..1) and its mask [H, W], zero where an error does not count, or None.
    """
    total: Tensor | float = 0.0
    for rendering, photo, mask in pictures:
        target = photo / 255 if photo.dtype == torch.uint8 else photo
        errors = (rendering.image.detach() - target).abs()
        if mask is not None:
            errors *= (mask > 0)[:, :, None]
        (shares,) = torch.autograd.grad(rendering.image, rendering.colors, errors)
        total = total + shares[0].sum(dim=-1)
    assert isinstance(total, Tensor)
    return total
