"""Exposure compensation: an affine colour for each training photograph, so that the scene need not explain the camera.

A phone chooses gain and white balance anew for each photograph. With `exposure: true` the render of training camera p,
colours c in a pixel, is compared with its photograph as A_p c + b_p, where the 3x4 matrix (A_p | b_p) begins as the
identity and is learned along. What makes all photographs brighter alike could as well be in the scene: a weak pull
towards the identity, HOLD |(A_p | b_p) - (I | 0)|^2 in the loss, decides that for the scene.

Held-out photographs have no learned matrix: see `metrics.colour_corrected` for how they are measured fairly.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops.adam import Group, adam_steps

HOLD = 0.01  # weight of the pull: gains of 30 % are followed, noise is not
EPS = 1e-15


class Exposures:
    """The matrices of the training photographs, [P, 3, 4], with an Adam of their own.

    Each photograph's row is updated only in the steps that show it, and its Adam counts those steps alone.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.rows = {name: row for row, name in enumerate(names)}
        self.affine = torch.eye(3, 4, device=device).repeat(len(names), 1, 1).requires_grad_()
        self._moments = torch.zeros(2, len(names), 3, 4, device=device)
        self._counts = torch.zeros(len(names), dtype=torch.int64)
        self._used: set[int] = set()

    def __call__(self, image: Tensor, name: str) -> Tensor:
        """`corrected`, for the loss of a step: its photograph's exposure is updated then."""
        if name in self.rows:
            self._used.add(self.rows[name])
        return self.corrected(image, name)

    def corrected(self, image: Tensor, name: str) -> Tensor:
        """The render [H, W, 3] of a training photograph in that photograph's colours; other names: unchanged."""
        row = self.rows.get(name)
        if row is None:
            return image
        affine = self.affine[row]
        return image @ affine[:, :3].T + affine[:, 3]

    def penalty(self) -> Tensor:
        """What the loss adds for the photographs of this step."""
        used = torch.stack([self.affine[row] for row in sorted(self._used)])  # a list as an index would be waited for
        return HOLD * (used - torch.eye(3, 4, device=used.device)).square().sum()

    def step(self, rate: float, skip: Tensor | None = None, again: bool = False) -> None:
        """One update of the photographs of this step; gradients are then cleared.

        `skip` and `again` are those of `GaussianAdam.step`.
        """
        gradient = self.affine.grad
        for row in sorted(self._used):
            if gradient is not None:
                self._counts[row] += not again
                first, second = self._moments[0, row], self._moments[1, row]
                group = Group(self.affine.detach()[row], gradient[row], first, second, rate)
                adam_steps([group], step=int(self._counts[row]), eps=EPS, skip=skip)
        self._used.clear()
        self.affine.grad = None

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        return {
            "exposure": self.affine.detach(),
            "exposure_moments": self._moments,
            "exposure_counts": self._counts,
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `state` gave.

        Raises SplatlearnError where the checkpoint has no exposures, or those of another number of photographs.
        """
        if "exposure" not in tensors:
            raise SplatlearnError("'exposure' cannot be switched on in a run that began without it")
        if tensors["exposure"].shape != self.affine.shape:
            raise SplatlearnError(
                f"the checkpoint holds exposures of {len(tensors['exposure'])} training photographs, "
                f"but there are {len(self.rows)} now"
            )
        device = self.affine.device
        self.affine = tensors["exposure"].to(device).clone().requires_grad_()
        self._moments = tensors["exposure_moments"].to(device).clone()
        self._counts = tensors["exposure_counts"].cpu().clone()
