"""GPT-2's public weights, read from a local safetensors file into the names and layout of our Transformer.

Layout (``model.safetensors`` beside a ``config.json``): ``wte.weight`` [V, W], ``wpe.weight`` [context, W], for block N
``h.N.ln_1``, ``h.N.attn.c_attn`` [W, 3W], ``h.N.attn.c_proj``, ``h.N.ln_2``, ``h.N.mlp.c_fc``, ``h.N.mlp.c_proj``, and
``ln_f``; names may begin with ``transformer.``. Its linear layers are stored transposed: x W rather than x Wᵀ.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError, brief
from splatlearn.files import require_regular

HEAD = 64  # values per head in all public sizes
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYER = re.compile(r"h\.(0|[1-9][0-9]{0,8})\.")
MOST_LAYERS = 1000  # the largest public model has 48
MOST_HEADER = 4 << 20  # bytes; 1,000 layers have 1 MiB
MOST_CONFIG = 1 << 20  # bytes of config.json
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
        self.layers = _layers(self.file, self.tensors)
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
        self._require_tensors()

    @torch.no_grad()
    def load_into(self, model: torch.nn.Module) -> None:
        """Copy the weights to the parameters of a Transformer of these ``sizes``."""
        names = self._names()
        for name, parameter in model.named_parameters():
            theirs, transposed = names[name]
            parameter.copy_(self.tensors[theirs].T if transposed else self.tensors[theirs])

    def _require_tensors(self) -> None:
        """Check every tensor before memory for a model of these sizes is taken.

        Raises:
            SplatlearnError: a tensor is missing, has another shape, is not of floating point or not finite.
        """
        width, hidden = self.sizes["width"], self.sizes["feed_forward"]
        shapes = {name: list(self.tensors[name].shape) for name in ("wte.weight", "wpe.weight")}
        shapes["wpe.weight"][1] = width
        parts = {"ln_1": [width], "attn.c_attn": [width, 3 * width], "attn.c_proj": [width, width]}
        parts |= {"ln_2": [width], "mlp.c_fc": [width, hidden], "mlp.c_proj": [hidden, width]}
        blocks = {f"h.{layer}.{part}": shape for layer in range(self.layers) for part, shape in parts.items()}
        for name, shape in {"ln_f": [width], **blocks}.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
        for name, shape in shapes.items():
            tensor = self.tensors.get(name)
            if tensor is None or list(tensor.shape) != shape or 0 in shape:
                got = "none" if tensor is None else str(list(tensor.shape))
                raise SplatlearnError(f"{self.file} must hold '{name}' as {shape}, got {got}")
            if tensor.dtype not in FLOATS:
                raise SplatlearnError(f"{self.file} must hold '{name}' in floating point, got {tensor.dtype}")
            if not torch.isfinite(tensor).all():
                raise SplatlearnError(f"{self.file} must hold finite numbers, but '{name}' has NaN or infinity")

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
        require_regular(file)
        with file.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if header > MOST_HEADER:
            raise ValueError(f"its header has {header:,} bytes, at most {MOST_HEADER:,} are read")
        tensors = safetensors.torch.load_file(file)
    except OSError as error:
        raise SplatlearnError(f"cannot read the weights {file}: {brief(error.strerror or error)}") from error
    except Exception as error:  # SafetensorError, and what torch raises for dtypes that it does not know
        raise SplatlearnError(f"{file} must be a safetensors file, but {brief(error)}") from error
    return {name.removeprefix("transformer."): value for name, value in tensors.items()}


def _layers(file: Path, tensors: dict[str, Tensor]) -> int:
    """The number of layers: one more than the highest in the names."""
    layers = {int(found[1]) for name in tensors if (found := LAYER.match(name))}
    if len(layers) != 1 + max(layers, default=-1) or len(layers) > MOST_LAYERS:
        got = f"{len(layers):,} different ones up to {max(layers, default=-1):,}"
        raise SplatlearnError(f"{file} must number its layers from 0 without a gap, at most {MOST_LAYERS:,}, got {got}")
    return len(layers)


def _heads(file: Path, width: int) -> int:
    """The number of heads in the ``config.json`` beside the file; without one, heads of `HEAD` values."""
    path = file.with_name("config.json")
    try:
        if path.exists() and require_regular(path) > MOST_CONFIG:
            raise OSError(None, f"it must have at most {MOST_CONFIG:,} bytes")
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        heads = config.get("n_head", max(1, width // HEAD))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SplatlearnError(f"{path} must be the JSON of a model's config: {brief(reason)}") from error
    if type(heads) is not int or heads < 1 or width % heads:
        raise SplatlearnError(f"{path}: 'n_head' must divide the width {width}, got {brief(repr(heads), 60)}")
    return heads
