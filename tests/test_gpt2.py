"""GPT-2's weights in our Transformer: the logits are those of the reference implementation."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.text.cache import Cache
from splatlearn.text.transformer import Transformer

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")
SIZES = {"vocab_size": 97, "n_positions": 24, "n_embd": 32, "n_head": 4, "n_layer": 3}


@pytest.fixture(scope="module")
def reference() -> Any:
    """A random tiny GPT-2 of theirs, whose norms and biases are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def saved(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    reference.save_pretrained(folder, safe_serialization=True)
    return folder


def test_logits_are_the_references(reference: Any, saved: Path) -> None:
    model = Transformer.from_gpt2(saved)
    tokens = torch.randint(97, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(tokens).logits
        logits = model(tokens)
        cache = Cache(model, 3)
        cached = torch.cat([model(tokens[:, :20], cache=cache), model(tokens[:, 20:], cache=cache)], dim=1)
    assert expected.std() > 0.5, "the reference answers with nothing"
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1), "the logits are others"
    assert (cached - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1), "the cache changes them"


def test_names_without_their_prefix_are_the_same_model(reference: Any, saved: Path, tmp_path: Path) -> None:
    """The public files leave `transformer.` out, and hold the masks of attention as well."""
    bare = {name: value.clone() for name, value in reference.transformer.state_dict().items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    safetensors.torch.save_file(bare, tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"n_head": 4}))
    one, other = Transformer.from_gpt2(saved), Transformer.from_gpt2(tmp_path / "weights.safetensors")
    assert all(map(torch.equal, one.parameters(), other.parameters())), "the bare names give another model"


def test_what_is_not_gpt2_is_told(saved: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(saved / "model.safetensors")
    for name, value, message in [
        ("transformer.h.1.mlp.c_fc.weight", None, r"must hold 'h.1.mlp.c_fc.weight' as \[32, 128\], got none"),
        ("transformer.h.1.ln_2.bias", torch.zeros(5), r"must hold 'h.1.ln_2.bias' as \[32\], got \[5\]"),
        ("transformer.wte.weight", None, "lacks a matrix 'wte.weight'"),
    ]:
        changed = {key: tensor for key, tensor in tensors.items() if key != name}
        safetensors.torch.save_file(
            changed if value is None else {**changed, name: value}, tmp_path / "bad.safetensors"
        )
        (tmp_path / "config.json").write_text('{"n_head": 4}')
        with pytest.raises(SplatlearnError, match=message):
            Transformer.from_gpt2(tmp_path / "bad.safetensors")
    (tmp_path / "config.json").write_text('{"n_head": 5}')
    with pytest.raises(SplatlearnError, match="config.json: 'n_head' must divide the width 32, got 5"):
        Transformer.from_gpt2(_beside(saved, tmp_path))
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(SplatlearnError, match="config.json must be the JSON of a model's config"):
        Transformer.from_gpt2(_beside(saved, tmp_path))
    with pytest.raises(SplatlearnError, match="cannot read the weights .*model.safetensors: No such file"):
        Transformer.from_gpt2(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(SplatlearnError, match="bad.safetensors must be a safetensors file"):
        Transformer.from_gpt2(tmp_path / "bad.safetensors")


def _beside(saved: Path, folder: Path) -> Path:
    """A copy of the weights in another folder."""
    path = folder / "weights.safetensors"
    path.write_bytes((saved / "model.safetensors").read_bytes())
    return path
