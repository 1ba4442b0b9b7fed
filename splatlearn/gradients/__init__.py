"""Check the gradient of every operation between the parameters and the loss."""

from splatlearn.gradients.check import Break, Chain, check_gradients
from splatlearn.gradients.link import Link

__all__ = ["Break", "Chain", "Link", "check_gradients"]
