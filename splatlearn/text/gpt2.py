"""GPT-2's public weights, from a local safetensors file in the layout in which they are shared, into our Transformer.

Layout (``model.safetensors`` beside a ``config.json``): ``wte.weight`` [V, W], ``wpe.weight`` [context, W], for block N
``h.N.ln_1``, ``h.N.attn.c_attn`` [W, 3W], ``h.N.attn.c_proj``, ``h.N.ln_2``, ``h.N.mlp.c_fc``, ``h.N.mlp.c_proj``, and
``ln_f``; names may begin with ``transformer.``. Its maps are stored transposed: x W rather than x Wᵀ.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.text.transformer import Transformer

HEAD = 64  # values a head of all public sizes
BLOCKS = {  # ours: theirs, and whether theirs is transposed
    "attention.project": ("attn.c_attn", True),
    "attention.mix": ("attn.c_proj", True),
    "add_attention.norm": ("ln_1", False),
    "feed_forward.widen": ("mlp.c_fc", True),
    "feed_forward.narrow": ("mlp.c_proj", True),
    "add_feed_forward.norm": ("ln_2", False),
}


def load_gpt2(path: Path | str) -> Transformer:
    """The Transformer of a safetensors file, or of a folder with ``model.safetensors``; in eval mode, float32.

    The number of heads is read from a ``config.json`` beside the file; without one there are 64 values a head, as in
    all public sizes. Raises SplatlearnError, naming file and tensor, for anything that is not GPT-2.
    """
    file = Path(path)
    file = file / "model.safetensors" if file.is_dir() else file
    tensors = _read(file)
    for name in ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight"):
        if name not in tensors or tensors[name].dim() != 2:
            raise SplatlearnError(f"{file} must hold GPT-2's weights, but lacks a matrix '{name}'")
    vocabulary, width = tensors["wte.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("h."))
    config = Transformer.Config(
        vocabulary=vocabulary,
        context=len(tensors["wpe.weight"]),
        width=width,
        heads=_heads(file, width),
        layers=layers,
        feed_forward=tensors["h.0.mlp.c_fc.weight"].shape[1],
        position="learned",
        norm_first=True,
        norm="layer",
        activation="gelu_tanh",
        tie_weights=True,
        bias=True,
    )
    with torch.random.fork_rng(devices=[]):
        model = Transformer(config)
    found = {"embedding.tokens.weight": "wte.weight", "embedding.places.weight": "wpe.weight"}
    found |= {f"norm.{kind}": f"ln_f.{kind}" for kind in ("weight", "bias")}
    turned = set()
    for layer in range(layers):
        for ours, (theirs, transposed) in BLOCKS.items():
            for kind in ("weight", "bias"):
                name = f"decoder.{layer}.{ours}.{kind}"
                found[name] = f"h.{layer}.{theirs}.{kind}"
                if transposed and kind == "weight":
                    turned.add(name)
    _fill(model, {name: (tensors.get(theirs), theirs, name in turned) for name, theirs in found.items()}, file)
    return model.eval()


@torch.no_grad()
def _fill(model: Transformer, found: dict[str, tuple[Tensor | None, str, bool]], file: Path) -> None:
    for name, parameter in model.named_parameters():
        tensor, theirs, transposed = found[name]
        if tensor is not None and transposed and tensor.dim() == 2:
            tensor = tensor.T
        if tensor is None or tensor.shape != parameter.shape:
            got = "none" if tensor is None else str(list(tensor.shape))
            raise SplatlearnError(f"{file} must hold '{theirs}' as {list(parameter.shape)}, got {got}")
        parameter.copy_(tensor)


def _read(file: Path) -> dict[str, Tensor]:
    """The float tensors of the file, by their names without a leading ``transformer.``."""
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
    path = file.with_name("config.json")
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        heads = config.get("n_head", max(1, width // HEAD))
    except (OSError, ValueError, AttributeError) as error:
        raise SplatlearnError(f"{path} must be the JSON of a model's config: {error}") from error
    if type(heads) is not int or heads < 1 or width % heads:
        raise SplatlearnError(f"{path}: 'n_head' must divide the width {width}, got {heads!r}")
    return heads
