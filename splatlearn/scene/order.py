"""Morton order: Gaussians that are near in space are near in memory, so that those of a tile share cache lines."""

import torch
from torch import Tensor

BITS = 10  # of each axis


def morton_order(means: Tensor) -> Tensor:
    """The order of means [N, 3] along a Z-shaped curve through space (Morton 1966), as int64 rows [N].

    The curve fills a box that extends four median distances to either side of the median. Means outside of the box
    count as on its border. Medians do not depend on the number of threads, unlike sums of floats.
    """
    if len(means) == 0:
        return torch.zeros(0, dtype=torch.int64, device=means.device)
    means = means.nan_to_num()
    centre = means.median(dim=0).values
    reach = 4 * (means - centre).abs().median(dim=0).values
    place = (means - centre) / reach.clamp(min=torch.finfo(means.dtype).tiny)
    cell = ((place.clamp(-1, 1) + 1) * ((1 << BITS) - 1) / 2).long()
    code = torch.zeros_like(cell[:, 0])
    for bit in range(BITS):
        for axis in range(3):
            code |= (cell[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort(stable=True)
