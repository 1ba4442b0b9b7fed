"""The share of each Gaussian in the errors of several images.

A rendering is linear in the colours of its Gaussians: Gaussian i adds w_ip c_i to pixel p, where w_ip = T alpha. So the
blend's backward, given the errors e_p of the pixels in place of a loss's gradient, writes sums of w_ip e_p where it
would write gradients of colours. Bulo et al. (2024, Revising Densification in Gaussian Splatting) share errors so.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from splatlearn.scene.gaussians import Rendering
from splatlearn.scene.view import View


def shares_of_errors(renderings: Iterable[tuple[Rendering, View]]) -> Tensor:
    """The share [N] of each Gaussian in the absolute errors of all pixels and channels, summed over the views.

    Args:
        renderings: at least one; renderings of the same N Gaussians, in the graph, each with its view. Errors do not
            count where its mask is zero.
    """
    total: Tensor | float = 0.0
    for rendering, view in renderings:
        target = view.image / 255 if view.image.dtype == torch.uint8 else view.image
        errors = (rendering.image.detach() - target).abs()
        if view.mask is not None:
            errors *= (view.mask > 0)[:, :, None]
        (shares,) = torch.autograd.grad(rendering.image, rendering.colors, errors)
        total = total + shares[0].sum(dim=-1)
    assert isinstance(total, Tensor)
    return total
