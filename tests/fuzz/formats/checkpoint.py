"""Checkpoints of a line and of a scene: forged tensors, state and manifest, mostly under a seal that fits."""

import hashlib
import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import tiny_scene
import torch

from fuzz import mutations
from fuzz.harness import Case
from splatlearn import checkpoint, config, loop
from splatlearn.line.task import LineTask
from splatlearn.scene.training.task import SceneTask

STEP = 3
WEIGHT = 0.4
WORDS = {
    "line": ["--optimizer", "adam", "--schedule", "cosine", "--batch", "8"],
    "momentum": ["--optimizer", "momentum", "--schedule", "step", "--rate", "0.001"],
    "scene": ["--exposure", "--sh_degree", "1"],
}
DTYPES = ["F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F99", "", 7, None]
Header = dict[str, Any]


def _task(name: str) -> Any:
    """A new line, or the scene."""
    words = [*WORDS[name], "--steps", "6", "--device", "cpu"]
    return _scene() if name == "scene" else LineTask(config.load(LineTask.Config, None, words))


@cache
def _scene() -> SceneTask:
    """A scene that has made its first steps; what it loads replaces all of its state."""
    with tempfile.TemporaryDirectory() as root:
        words = [*WORDS["scene"], "--device", "cpu", "--data.path", str(tiny_scene.write(Path(root) / "scene", 4))]
        task = SceneTask(config.load(SceneTask.Config, None, words))
        loop.fit(task, STEP, progress=False)
    return task


@cache
def seeds() -> list[Case]:
    found = []
    for name in WORDS:
        task = _task(name)
        if name != "scene":
            loop.fit(task, STEP, progress=False)
        with tempfile.TemporaryDirectory() as root:
            folder = checkpoint.save(Path(root), STEP, *task.state())
            found.append({path.name: path.read_bytes() for path in folder.iterdir()} | {f"task.{name}": b""})
    return found


def mutate(case: Case, rng: Random) -> Case:
    act = rng.randrange(10)
    if act < 3:
        case[checkpoint.TENSORS] = _tensors(case[checkpoint.TENSORS], rng)
    elif act < 5:
        case[checkpoint.TENSORS] = _header(case[checkpoint.TENSORS], rng)
    elif act < 8:
        case[checkpoint.STATE] = mutations.tree_bytes(json.loads(case[checkpoint.STATE]), rng)
    elif act == 8:
        name = rng.choice([checkpoint.TENSORS, checkpoint.STATE])
        case[name] = mutations.damaged(case[name], rng)
    else:
        del case[rng.choice([checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])]
    if checkpoint.MANIFEST in case and rng.randrange(20):
        _seal(case, rng)
    return case


def read(folder: Path) -> object:
    name = next((name for name in WORDS if (folder / f"task.{name}").exists()), "line")
    tensors, state = checkpoint.load(folder)
    _task(name).load_state(tensors, state)
    return checkpoint.step_of(folder)


def _tensors(content: bytes, rng: Random) -> bytes:
    """One or two tensors with hostile values, another shape or type, or another's name."""
    tensors = safetensors.torch.load(content)
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(sorted(tensors))
        own = tensors[name]
        act = rng.randrange(9)
        if act == 0:
            del tensors[name]
        elif act == 1:
            tensors[mutations.text(rng).encode("ascii", "replace").decode()] = tensors.pop(name)
        elif act == 2:
            tensors[name] = tensors[rng.choice(sorted(tensors))]
        elif act == 3:
            tensors[name] = own.reshape(-1)[: rng.choice([0, 1, own.numel() // 2, own.numel() - 1])]
        elif act == 4:
            tensors[name] = own[None] if rng.randrange(2) else own.reshape(-1)
        elif act == 5:
            tensors[name] = torch.zeros(
                rng.choice([(0,), (), (1,), (3,) * 6, (0, 3), (10_000,), (100, 3)]), dtype=own.dtype
            )
        elif act == 6:
            tensors[name] = own.to(rng.choice([torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8]))
        elif own.numel() and own.is_floating_point():
            tensors[name] = own.clone()
            tensors[name].view(-1)[rng.randrange(own.numel())] = torch.tensor(
                mutations.number(rng), dtype=torch.float64
            )
        elif own.numel():
            low, high = torch.iinfo(own.dtype).min, torch.iinfo(own.dtype).max
            tensors[name] = own.clone()
            tensors[name].view(-1)[rng.randrange(own.numel())] = max(low, min(mutations.integer(rng), high))
    return safetensors.torch.save({name: tensor.clone().contiguous() for name, tensor in tensors.items()} or {"": own})


def _header(content: bytes, rng: Random) -> bytes:
    """The same bytes of tensors under a forged description."""
    (size,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    entry = header[rng.choice(sorted(header))]
    act = rng.randrange(5)
    if act == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif act == 1:
        entry["shape"] = [mutations.integer(rng) for _ in range(rng.choice([0, 1, 2, 40]))]
    elif act == 2:
        entry["data_offsets"] = [mutations.integer(rng, signed=False), mutations.integer(rng, signed=False)]
    elif act == 3:
        header = mutations.tree(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass") if act < 4 else mutations.tree_bytes(header, rng)
    length = len(text) if rng.randrange(8) else mutations.integer(rng, signed=False)
    return struct.pack("<Q", length) + text + (body if rng.randrange(8) else body[: rng.randrange(len(body))])


def _seal(case: Case, rng: Random) -> None:
    """The manifest that fits the files; in one of four cases it is forged, too, under its own right seal."""
    present = [name for name in (checkpoint.TENSORS, checkpoint.STATE) if name in case]
    files = {n: {"bytes": len(case[n]), "sha256": hashlib.sha256(case[n]).hexdigest()} for n in present}
    manifest = {"format": checkpoint.FORMAT, "step": STEP, "files": files}
    if rng.randrange(4) == 0:
        manifest = mutations.tree(manifest, rng)
    if isinstance(manifest, dict):
        case[checkpoint.MANIFEST] = checkpoint._sealed(manifest)
    else:
        case[checkpoint.MANIFEST] = mutations.tree_bytes(manifest, rng)
