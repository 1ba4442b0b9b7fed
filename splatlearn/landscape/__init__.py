"""Loss landscapes: the loss of any model over a plane through its parameters, with the path of its training on it.

A model of D parameters cannot be drawn; a plane of two directions d1, d2 through its parameters θ can:
f(a, b) = L(θ + a d1 + b d2). Which plane is chosen decides what is seen, so there are three, each honest about another
thing: random directions show a typical slice, the principal components of the training's own path show where it went,
and the top eigenvectors of the Hessian show the sharpest curvature there is, which random directions hide.

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
