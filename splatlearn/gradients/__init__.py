"""The chain check: is every link from the parameters to the loss differentiated, and rightly so?"""

from splatlearn.gradients.check import Break, Chain, check_gradients
from splatlearn.gradients.link import Link

__all__ = ["Break", "Chain", "Link", "check_gradients"]
