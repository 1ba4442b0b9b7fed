"""The bowl: the mean squared error over (w, b) is a quadratic, so that all of gradient descent is known beforehand.

With θ = (w, b): L(θ) = L* + ½ (θ - θ*)ᵀ H (θ - θ*), where θ* is the least-squares answer and
H = 2 [[mean x², mean x], [mean x, 1]]. A step of rate η takes θ - θ* to (I - ηH)(θ - θ*): along the eigenvector of an
eigenvalue λ the distance is multiplied by 1 - ηλ, which shrinks it if and only if 0 < η < 2/λ. So descent converges
from everywhere if and only if η < 2/λmax, and the smallest λ, the direction of the valley's floor, decides how slowly.
"""

import torch
from torch import Tensor

from splatlearn.line.data import check_points


class Bowl:
    """The loss surface of the points ``x`` and ``y``, [n] or [n, 1] of any floating dtype; all here is float64.

    hessian [2, 2]; eigenvalues [2] ascending with eigenvectors [2, 2] in columns; minimum [2], which is θ*; floor, L*.
    Raises SplatlearnError where the points determine no line.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        x, y = (values.detach().double().cpu().reshape(-1, 1) for values in (x, y))
        check_points(x, y, "the data")
        design = torch.cat([x, torch.ones_like(x)], dim=1)
        self.hessian = 2 * design.T @ design / len(x)
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(self.hessian)
        self.minimum = torch.linalg.lstsq(design, y).solution[:, 0]
        self.floor = float((design @ self.minimum - y[:, 0]).square().mean())

    def loss(self, points: Tensor) -> Tensor:
        """L at ``points`` [..., 2] of (w, b), as [...]."""
        away = points.double() - self.minimum
        return self.floor + 0.5 * torch.einsum("...i,ij,...j->...", away, self.hessian, away)

    def gradient(self, points: Tensor) -> Tensor:
        """(∂L/∂w, ∂L/∂b) at ``points`` [..., 2], of the same shape."""
        return (points.double() - self.minimum) @ self.hessian

    def limit(self, momentum: float = 0.0, nesterov: bool = False) -> float:
        """The rate at and beyond which descent diverges: 2/λmax, and more than that with momentum β in 0..1.

        The heavy ball's limit is 2(1+β)/λmax, Nesterov's is 2(1+β)/((1+2β)λmax): from the roots of the recurrence of
        one eigendirection (Polyak 1964), which must lie within the unit circle.
        """
        gain = 2 * (1 + momentum) / (1 + 2 * momentum * nesterov)
        return gain / float(self.eigenvalues[1])

    def walk(self, start: Tensor, rate: float, steps: int) -> Tensor:
        """Where plain gradient descent is after 0, 1, .. steps, in closed form: [steps + 1, 2]."""
        away = self.eigenvectors.T @ (start.double() - self.minimum)
        factors = (1 - rate * self.eigenvalues) ** torch.arange(steps + 1, dtype=torch.float64)[:, None]
        return self.minimum + (factors * away) @ self.eigenvectors.T
