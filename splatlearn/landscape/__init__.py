"""Loss landscapes: the loss of any model over a plane through its parameters, with its training path projected onto it.

The loss of D parameters cannot be plotted, but its values on a plane through the parameters θ can:
f(a, b) = L(θ + a d1 + b d2). The choice of the directions d1 and d2 determines what the plot shows. Random directions
show a typical slice. The principal components of the training path show where it went. The top eigenvectors of the
Hessian show the largest curvature, which random directions hide.

Parameters are a mapping of names to tensors; D is the number of all their values, in the order of the mapping.
"""

from splatlearn.landscape.grid import Landscape, Trajectory, landscape
from splatlearn.landscape.planes import Plane, describe, hessian_plane, random_plane, trajectory_plane

__all__ = [
    "Landscape",
    "Plane",
    "Trajectory",
    "describe",
    "hessian_plane",
    "landscape",
    "random_plane",
    "trajectory_plane",
]
