"""The loss of a line over (w, b): a quadratic bowl, for which gradient descent has a closed form.

With θ = (w, b): L(θ) = L* + ½ (θ - θ*)ᵀ H (θ - θ*), where θ* is the least-squares answer and
H = 2 [[mean x², mean x], [mean x, 1]]. A step of rate η takes θ - θ* to (I - ηH)(θ - θ*): along the eigenvector of an
eigenvalue λ the distance is multiplied by 1 - ηλ, which shrinks it if and only if 0 < η < 2/λ. So descent converges
from everywhere if and only if η < 2/λmax, and the smallest λ, the direction of the valley's floor, decides how slowly.
"""

import torch
from torch import Tensor

from splatlearn.line.data import check_points


class Bowl:
    """The loss surface of points, computed in float64.

    Args:
        x, y: the points' coordinates, [n] or [n, 1] of any floating dtype.

    Attributes:
        hessian: [2, 2].
        eigenvalues: [2], ascending; eigenvectors: [2, 2], in columns.
        minimum: [2], θ*.
        floor: L*.

    Raises:
        SplatlearnError: the points do not determine a line.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        x, y = (values.detach().double().cpu().reshape(-1) for values in (x, y))
        check_points(x[:, None], y[:, None], "the data")
        # Sums rather than BLAS and LAPACK, whose last bits depend on where in memory the points are.
        mean_x, mean_y = x.mean(), y.mean()
        self.hessian = 2 * torch.stack([x.square().mean(), mean_x, mean_x, torch.ones_like(mean_x)]).reshape(2, 2)
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(self.hessian)
        slope = ((x - mean_x) * (y - mean_y)).sum() / (x - mean_x).square().sum()
        self.minimum = torch.stack([slope, mean_y - slope * mean_x])
        self.floor = float((self.minimum[0] * x + self.minimum[1] - y).square().mean())

    def loss(self, points: Tensor) -> Tensor:
        """Compute L at ``points`` [..., 2] of (w, b); returns [...] float64."""
        away = points.double() - self.minimum
        return self.floor + 0.5 * torch.einsum("...i,ij,...j->...", away, self.hessian, away)

    def gradient(self, points: Tensor) -> Tensor:
        """Compute (∂L/∂w, ∂L/∂b) at ``points`` [..., 2]; returns the same shape."""
        return (points.double() - self.minimum) @ self.hessian

    def limit(self, momentum: float = 0.0, nesterov: bool = False) -> float:
        """Return the learning rate from which descent diverges: 2/λmax, and more with momentum β in 0..1.

        The heavy ball's limit is 2(1+β)/λmax, Nesterov's is 2(1+β)/((1+2β)λmax): from the roots of the recurrence of
        one eigendirection (Polyak 1964), which must lie within the unit circle.
        """
        gain = 2 * (1 + momentum) / (1 + 2 * momentum * nesterov)
        return gain / float(self.eigenvalues[1])

    def walk(self, start: Tensor, rate: float, steps: int) -> Tensor:
        """Compute the points of plain gradient descent after 0, 1, … steps in closed form, [steps + 1, 2]."""
        away = self.eigenvectors.T @ (start.double() - self.minimum)
        factors = (1 - rate * self.eigenvalues) ** torch.arange(steps + 1, dtype=torch.float64)[:, None]
        return self.minimum + (factors * away) @ self.eigenvectors.T
