"""GPT-2's public weights, read from a local safetensors file into the names and layout of our Transformer.

Layout (``model.safetensors`` beside a ``config.json``): ``wte.weight`` [V, W], ``wpe.weight`` [context, W], for block N
``h.N.ln_1``, ``h.N.attn.c_attn`` [W, 3W], ``h.N.attn.c_proj``, ``h.N.ln_2``, ``h.N.mlp.c_fc``, ``h.N.mlp.c_proj``, and
``ln_f``; names may begin with ``transformer.``. Its linear layers are stored transposed: x W rather than x Wᵀ.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError

HEAD = 64  # values per head in all public sizes
BLOCKS = {  # our name: GPT-2's, and whether GPT-2 stores the transpose
    "attention.qkv_proj": ("attn.c_attn", True),
    "attention.o_proj": ("attn.c_proj", True),
    "add_attention.norm": ("ln_1", False),
    "feed_forward.fc1": ("mlp.c_fc", True),
    "feed_forward.fc2": ("mlp.c_proj", True),
    "add_feed_forward.norm": ("ln_2", False),
}


class GPT2File:
    """A file of GPT-2's weights.

    Args:
        path: a safetensors file, or a folder that holds ``model.safetensors``.

    Attributes:
        sizes: the keys of ``Transformer.Config`` for which the weights fit.

    Raises:
        SplatlearnError: the file cannot be read or is not GPT-2's.
    """

    def __init__(self, path: Path) -> None:
        self.file = path / "model.safetensors" if path.is_dir() else path
        self.tensors = _read(self.file)
        for name in ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight"):
            if name not in self.tensors or self.tensors[name].dim() != 2:
                raise SplatlearnError(f"{self.file} must hold GPT-2's weights, but lacks a matrix '{name}'")
        vocabulary, width = self.tensors["wte.weight"].shape
        self.layers = 1 + max(int(name.split(".")[1]) for name in self.tensors if name.startswith("h."))
        self.sizes: dict[str, Any] = {
            "vocabulary": vocabulary,
            "context": len(self.tensors["wpe.weight"]),
            "width": width,
            "heads": _heads(self.file, width),
            "layers": self.layers,
            "feed_forward": self.tensors["h.0.mlp.c_fc.weight"].shape[1],
            "position": "learned",
            "norm_first": True,
            "norm": "layer",
            "activation": "gelu_tanh",
            "tie_weights": True,
            "bias": True,
        }

    @torch.no_grad()
    def load_into(self, model: torch.nn.Module) -> None:
        """Copy the weights to the parameters of a Transformer of these ``sizes``.

        Raises:
            SplatlearnError: a tensor is missing or has another shape.
        """
        names = self._names()
        for name, parameter in model.named_parameters():
            theirs, transposed = names[name]
            tensor = self.tensors.get(theirs)
            if tensor is not None and transposed and tensor.dim() == 2:
                tensor = tensor.T
            if tensor is None or tensor.shape != parameter.shape:
                got = "none" if tensor is None else str(list(tensor.shape))
                raise SplatlearnError(f"{self.file} must hold '{theirs}' as {list(parameter.shape)}, got {got}")
            parameter.copy_(tensor)

    def _names(self) -> dict[str, tuple[str, bool]]:
        """Our parameter name: GPT-2's name, and whether GPT-2 stores the transpose."""
        names = {
            "embedding.token_embedding.weight": ("wte.weight", False),
            "embedding.position_embedding.weight": ("wpe.weight", False),
        }
        for kind in ("weight", "bias"):
            names[f"norm.{kind}"] = (f"ln_f.{kind}", False)
            for layer in range(self.layers):
                for ours, (theirs, transposed) in BLOCKS.items():
                    name = f"decoder.{layer}.{ours}.{kind}"
                    names[name] = (f"h.{layer}.{theirs}.{kind}", transposed and kind == "weight")
        return names


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of the file by their names without a leading ``transformer.``."""
    import safetensors
    import safetensors.torch

    try:
        tensors = safetensors.torch.load_file(file)
    except OSError as error:
        raise SplatlearnError(f"cannot read the weights {file}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise SplatlearnError(f"{file} must be a safetensors file, but {error}") from error
    return {name.removeprefix("transformer."): value for name, value in tensors.items()}


def _heads(file: Path, width: int) -> int:
    """The number of heads in the ``config.json`` beside the file; without one, heads of `HEAD` values."""
    path = file.with_name("config.json")
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        heads = config.get("n_head", max(1, width // HEAD))
    except (OSError, ValueError, AttributeError) as error:
        raise SplatlearnError(f"{path} must be the JSON of a model's config: {error}") from error
    if type(heads) is not int or heads < 1 or width % heads:
        raise SplatlearnError(f"{path}: 'n_head' must divide the width {width}, got {heads!r}")
    return heads
