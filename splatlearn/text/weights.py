"""Loading of a Transformer's parameters from the tensors of a checkpoint, including checkpoints with older names."""

from collections.abc import Mapping

import torch
from torch import Tensor

from splatlearn.checkpoint import require_tensors

# Parts of parameter names in checkpoints of version 0.1.0 and before, and what they are called now.
RENAMED = {
    "tokens": "token_embedding",
    "places": "position_embedding",
    "project": "qkv_proj",
    "mix": "o_proj",
    "widen": "fc1",
    "narrow": "fc2",
}


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of today's parameters; current names stay as they are."""
    return {".".join(RENAMED.get(part, part) for part in name.split(".")): t for name, t in tensors.items()}


@torch.no_grad()
def load_weights(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the parameters of ``model`` from ``tensors``, which may hold others too and use older names.

    Raises:
        SplatlearnError: a parameter is missing, or its shape or dtype differs.
    """
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    tensors = current_names(tensors)
    require_tensors("a text's checkpoint", tensors, parameters)
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
