"""Checkpoints of strangers: their seals are right, but not what they hold. Each is one short sentence."""

import hashlib
import json
import math
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny_scene
import torch
from torch import Tensor

from splatlearn import checkpoint, config, loop
from splatlearn.errors import SplatlearnError
from splatlearn.line.task import LineTask
from splatlearn.scene.training.task import SceneTask
from splatlearn.task import AnyTask
from splatlearn.text.task import TextTask

SMALL = "--model.width 8 --model.heads 1 --model.layers 1 --model.context 8 --batch 4 --device cpu".split()


def seal(path: Path, step: Any = 3, **changes: Any) -> None:
    """Write the manifest that fits the other two files."""
    files = {}
    for name in (checkpoint.TENSORS, checkpoint.STATE):
        content = (path / name).read_bytes()
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"format": checkpoint.FORMAT, "step": step, "files": files} | changes
    (path / checkpoint.MANIFEST).write_bytes(checkpoint._sealed(manifest))


def refused(work: Callable[[], object]) -> str:
    began = time.perf_counter()
    with pytest.raises(SplatlearnError) as caught:
        work()
    text = str(caught.value)
    assert time.perf_counter() - began < 2 and "\n" not in text and len(text) <= 400, text
    return text


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], AnyTask]]]:
    folder = tmp_path_factory.mktemp("data")
    scene = tiny_scene.write(folder / "scene", 6)
    (folder / "text.txt").write_text("forward, loss, backward, update, repeat. " * 60)
    words = {
        "line": ["--optimizer", "adam", "--schedule", "cosine", "--batch", "8"],
        "momentum": ["--optimizer", "momentum", "--schedule", "step", "--rate", "0.001"],
        "scene": ["--data.path", str(scene), "--exposure", "--sh_degree", "1", "--device", "cpu"],
        "text": ["--data.path", str(folder / "text.txt"), "--data.cache", str(folder / "cache"), *SMALL],
    }  # fmt: skip
    classes = {"line": LineTask, "momentum": LineTask, "scene": SceneTask, "text": TextTask}

    def maker(name: str) -> Callable[[], AnyTask]:
        cls: Any = classes[name]
        return lambda: cls(config.load(cls.Config, None, [*words[name], "--steps", "6"]))

    yield {name: maker(name) for name in words}


def forgeries(tensors: dict[str, Tensor], state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Tensor], Any]]:
    """Every tensor and every value of the state: left out, of other shapes, types and numbers."""
    for name, own in tensors.items():
        others = [None, own.double() if own.dtype != torch.float64 else own.int(), own.reshape(-1)[:-1], own[None]]
        others += [torch.zeros(0), torch.zeros((3,) * 6, dtype=own.dtype)]
        if own.is_floating_point():
            others += [torch.full_like(own, math.nan), torch.full_like(own, math.inf)]
        for other in others:
            rest = {key: tensor for key, tensor in tensors.items() if key != name}
            yield name, rest if other is None else {**rest, name: other.contiguous()}, state
    for name in state:
        rest = {key: value for key, value in state.items() if key != name}
        for other in ([], {}, "", 1e308, -1, None, [[]], ["x"], [10**18], {"x": [1] * 1000}, "x" * 100_000, 10**400):
            yield name, tensors, {**rest, name: other}
        yield name, tensors, rest
    yield "the state", tensors, []


@pytest.mark.parametrize("name", ["line", "momentum", "scene", "text"])
def test_every_field_is_checked(name: str, tasks: dict[str, Callable[[], AnyTask]], tmp_path: Path) -> None:
    """A forged checkpoint is refused, or is one that a training could have written and goes on."""
    task = tasks[name]()
    loop.fit(task, 3, progress=False)
    tensors, state = task.state()
    path = checkpoint.save(tmp_path, 3, tensors, state)
    tensors, state = checkpoint.load(path)
    fresh = tasks[name]()
    accepted = set()
    for field, forged, other in forgeries(tensors, state):
        safetensors.torch.save_file(forged, path / checkpoint.TENSORS)
        (path / checkpoint.STATE).write_text(json.dumps(other))
        seal(path)
        try:
            fresh.load_state(*checkpoint.load(path))
            accepted.add(field)
            loop.fit(fresh, 4, start=3, progress=False)
        except SplatlearnError as error:
            assert "\n" not in str(error) and len(str(error)) <= 400, f"{field}: {error}"
    known = {"queue", "rate"} | ({"frame"} if name == "scene" else set())  # an empty queue or another rate will do
    assert accepted <= known, f"forged but loaded: {accepted - known}"
    fresh.load_state(tensors, state)
    loop.fit(fresh, 6, start=3, progress=False)
    loop.fit(task, 6, start=3, progress=False)
    for (_, one), (_, two) in zip(task.named_parameters(), fresh.named_parameters(), strict=True):
        assert torch.equal(one, two), "what was refused has changed the task"


NEGATIVE = {
    "line": ["optimizer.weight.exp_avg_sq", "optimizer.weight.step"],
    "scene": ["exp_avg_sq.means", "adam_steps", "exposure_counts"],
    "text": [".square"],
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_numbers_that_no_training_writes(name: str, tasks: dict[str, Callable[[], AnyTask]]) -> None:
    task = tasks[name]()
    loop.fit(task, 2, progress=False)
    tensors, state = task.state()
    for end in NEGATIVE[name]:
        field = next(key for key in tensors if key.endswith(end))
        assert "must hold" in refused(
            lambda field=field: tasks[name]().load_state({**tensors, field: tensors[field] - 10**6}, state)
        )
    noise = torch.randint(0, 256, tensors["generator"].shape, dtype=torch.uint8)
    assert "generator" in refused(lambda: tasks[name]().load_state({**tensors, "generator": noise}, state))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "checkpoints", 3, {"x": torch.ones(3)}, {"a": 1})


def test_manifests_of_strangers(saved: Path) -> None:
    for step in (-1, 2**63, 10**300, 4, True, 1e300, "3", None):
        seal(saved, step)
        refused(lambda: checkpoint.step_of(saved))
    seal(saved)
    files = json.loads((saved / checkpoint.MANIFEST).read_text())["files"]
    files[checkpoint.TENSORS]["bytes"] = 10**11
    for change in ({"files": files}, {"files": {**files, "x" * 10**5: 1}}, {"format": "x" * 10**5}, {"format": 2}):
        seal(saved, **change)
        refused(lambda: checkpoint.load(saved))
    for content in (b"[" * 10**5, b"{" * 60_000, b"1" * 10**4, b"\xff\xfe", b"null", b" " * 10**6 + b"{}"):
        (saved / checkpoint.MANIFEST).write_bytes(content)
        refused(lambda: checkpoint.load(saved))


def test_states_and_headers_of_strangers(saved: Path) -> None:
    for state in ("[]", "null", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', "1" * 5000,
                  "[" * 10**5, '{"a":' * 10**4, '{"\\ud800": "\\ud800"', ""):  # fmt: skip
        (saved / checkpoint.STATE).write_text(state)
        seal(saved)
        refused(lambda: checkpoint.load(saved))
    (saved / checkpoint.STATE).write_text("{}")
    bombs = [
        struct.pack("<Q", 2**63), struct.pack("<Q", 10**9) + b"{}", b"", struct.pack("<Q", 2) + b"{",
        _header({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}) + bytes(4),
        _header({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        _header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**12]}}) + bytes(4),
        _header({"x": 1}), struct.pack("<Q", 10**5) + b"[" * 10**5,
    ]  # fmt: skip
    for bomb in bombs:
        (saved / checkpoint.TENSORS).write_bytes(bomb)
        seal(saved)
        refused(lambda: checkpoint.load(saved))


def _header(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


def test_folders_of_strangers(saved: Path) -> None:
    folder = saved.parent
    (folder / f"step_{'9' * 5000}"[:250]).mkdir()
    (folder / "step_٣٣٣٣٣٣٣").mkdir()
    assert checkpoint.latest(folder) == saved, "a name that is none of ours counts"
    for name in (checkpoint.TENSORS, checkpoint.MANIFEST):
        other = folder / "other"
        shutil.copytree(saved, other)
        (other / name).unlink()
        os.mkfifo(other / name)
        assert "not a file" in refused(lambda other=other: checkpoint.load(other))
        shutil.rmtree(other)
    shutil.copytree(saved, folder / "step_0000009")
    assert "it is of step 3" in refused(lambda: checkpoint.load(folder / "step_0000009"))
