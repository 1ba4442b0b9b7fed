"""GPT-2 files from strangers: whatever is wrong is one sentence, before memory for a model is taken."""

import json
import os
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from splatlearn.errors import SplatlearnError
from splatlearn.text.transformer import Transformer


def tensors() -> dict[str, torch.Tensor]:
    """A GPT-2 of one layer, 4 wide."""
    shapes: dict[str, list[int]] = {"wte.weight": [7, 4], "wpe.weight": [5, 4], "ln_f.weight": [4], "ln_f.bias": [4]}
    parts = {"ln_1": [4], "attn.c_attn": [4, 12], "attn.c_proj": [4, 4], "ln_2": [4], "mlp.c_fc": [4, 8]}
    for name, shape in {**parts, "mlp.c_proj": [8, 4]}.items():
        shapes |= {f"h.0.{name}.weight": shape, f"h.0.{name}.bias": shape[-1:]}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def refused(folder: Path, match: str, **changes: torch.Tensor) -> None:
    safetensors.torch.save_file({**tensors(), **changes}, folder / "model.safetensors")
    with pytest.raises(SplatlearnError, match=match) as raised:
        Transformer.from_gpt2(folder)
    message = str(raised.value).replace(str(folder), "")
    assert len(message) <= 300 and message.isprintable()


def test_a_small_file_is_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(tensors(), tmp_path / "model.safetensors")
    assert Transformer.from_gpt2(tmp_path).config.layers == 1


@pytest.mark.parametrize("layer", ["99999999", "2", "999999999"])
def test_layers_are_counted_not_believed(tmp_path: Path, layer: str) -> None:
    refused(tmp_path, "number its layers from 0 without a gap", **{f"h.{layer}.ln_1.weight": torch.zeros(4)})


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("h.0.ln_2.bias", torch.full((4,), torch.nan), "'h.0.ln_2.bias' has NaN or infinity"),
        ("wte.weight", torch.full((7, 4), -torch.inf), "'wte.weight' has NaN or infinity"),
        ("wpe.weight", torch.zeros(5, 4, dtype=torch.int64), "'wpe.weight' in floating point, got torch.int64"),
        ("wpe.weight", torch.zeros(5, 3), r"'wpe.weight' as \[5, 4\], got \[5, 3\]"),
        ("wte.weight", torch.zeros(0, 4), r"'wte.weight' as \[0, 4\], got \[0, 4\]"),
        ("h.0.attn.c_attn.weight", torch.zeros(4, 4), r"as \[4, 12\], got \[4, 4\]"),
        ("h.0.mlp.c_fc.weight", torch.zeros(4), "lacks a matrix"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path: Path, name: str, tensor: torch.Tensor, match: str) -> None:
    refused(tmp_path, match, **{name: tensor})


def test_a_forged_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content, match in [
        (struct.pack("<Q", 2**62) + b"{}", "its header has 4,611,686,018,427,387,904 bytes"),
        (struct.pack("<Q", 5 << 20) + b"{" + b" " * (5 << 20), "its header has 5,242,880 bytes"),
        (b"", "must be a safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "lacks a matrix 'wte.weight'"),
        (struct.pack("<Q", 9) + b'{"a": "b}', "must be a safetensors file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(SplatlearnError, match=match):
            Transformer.from_gpt2(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SplatlearnError, match="must be a regular file, got a pipe or a device"):
        Transformer.from_gpt2(tmp_path)


def test_the_config_beside_it_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content, match in [
        (json.dumps({"n_head": 2**70}).encode(), "'n_head' must divide the width 4"),
        (b"[" * 100_000, "must be the JSON of a model's config"),
        (b"9" * 10_000, "must be the JSON of a model's config"),
        (b" " * (2 << 20), "must have at most 1,048,576 bytes"),
        (b"\xff", "must be the JSON of a model's config"),
    ]:
        path.write_bytes(content)
        refused(tmp_path, match)
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(tmp_path, "must be a regular file")
