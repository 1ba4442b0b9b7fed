"""Exposure compensation: an affine colour for each training image, so that the scene need not explain the camera.

A phone chooses gain and white balance anew for each photo. With `exposure: true` a pixel of colour c in the rendering
of training camera p is compared with its image as A_p c + b_p. The 3x4 matrix (A_p | b_p) starts as the identity and is
learned along. What makes all images brighter alike could as well be in the scene. The loss term `exposure` assigns it
to the scene: it adds weight * |(A_p | b_p) - (I | 0)|^2.

Held-out images have no learned matrix: see `metrics.colour_corrected` for how they are measured fairly.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from splatlearn.checkpoint import require_tensors
from splatlearn.errors import SplatlearnError
from splatlearn.ops.adam import Group, adam_steps

EPS = 1e-15


class Exposures:
    """The matrices of the training images, [P, 3, 4], with an Adam of their own.

    The row of an image is updated only in the steps on this image, and its Adam counts those steps alone.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.rows = {name: row for row, name in enumerate(names)}
        self.affine = torch.eye(3, 4, device=device).repeat(len(names), 1, 1).requires_grad_()
        self._moments = torch.zeros(2, len(names), 3, 4, device=device)
        self._counts = torch.zeros(len(names), dtype=torch.int64)
        self._used: set[int] = set()

    def __call__(self, image: Tensor, name: str) -> Tensor:
        """`corrected`, for the loss of a step, which then updates the exposure of this image."""
        if name in self.rows:
            self._used.add(self.rows[name])
        return self.corrected(image, name)

    def corrected(self, image: Tensor, name: str) -> Tensor:
        """The rendering [H, W, 3] of a training view in the colours of its image; other names: unchanged."""
        row = self.rows.get(name)
        if row is None:
            return image
        affine = self.affine[row]
        return image @ affine[:, :3].T + affine[:, 3]

    def penalty(self) -> Tensor:
        """Squared distance of the exposures of this step from the identity: the loss term `exposure`."""
        used = torch.stack([self.affine[row] for row in sorted(self._used)])  # indexing by a list would block
        return (used - torch.eye(3, 4, device=used.device)).square().sum()

    def clear(self) -> None:
        """Drop gradients, and the images of a step that was given up."""
        self._used.clear()
        self.affine.grad = None

    def step(self, rate: float, skip: Tensor | None = None, retry: bool = False) -> None:
        """Make one update of the exposures of this step's images, and clear their gradients.

        `skip` and `retry` are those of `GaussianAdam.step`.
        """
        gradient = self.affine.grad
        for row in sorted(self._used):
            if gradient is not None:
                self._counts[row] += not retry
                first, second = self._moments[0, row], self._moments[1, row]
                group = Group(self.affine.detach()[row], gradient[row], first, second, rate)
                adam_steps([group], step=int(self._counts[row]), eps=EPS, skip=skip)
        self.clear()

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        return {
            "exposure": self.affine.detach(),
            "exposure_moments": self._moments,
            "exposure_counts": self._counts,
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            SplatlearnError: the checkpoint has no exposures, or those of another number of images.
        """
        if "exposure" not in tensors:
            raise SplatlearnError("'exposure' cannot be switched on in a run that began without it")
        if tensors["exposure"].shape != self.affine.shape:
            raise SplatlearnError(
                f"the checkpoint holds exposures of {tensors['exposure'].shape[:1].numel()} training images, "
                f"but there are {len(self.rows)} now"
            )
        on_host = {name: tensor.cpu() for name, tensor in tensors.items() if name.startswith("exposure")}
        require_tensors("a scene's checkpoint", on_host, {name: own.cpu() for name, own in self.state().items()})
        if (on_host["exposure_counts"] < 0).any() or (on_host["exposure_moments"][1] < 0).any():
            raise SplatlearnError(
                "a scene's checkpoint must hold counts and squares of exposures, got negative numbers"
            )
        device = self.affine.device
        self.affine = tensors["exposure"].to(device).clone().requires_grad_()
        self._moments = tensors["exposure_moments"].to(device).clone()
        self._counts = tensors["exposure_counts"].cpu().clone()
