"""The linear neuron, y = x Wᵀ + b: the model of a line, and the building block of every larger model."""

import torch
from torch import Tensor


class LinearNeuron(torch.nn.Module):
    """``weight`` [out_features, in_features] and ``bias`` [out_features], float32, zero until set."""

    def __init__(self, in_features: int = 1, out_features: int = 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = torch.nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in_features] to y [..., out_features]."""
        return x @ self.weight.T + self.bias
