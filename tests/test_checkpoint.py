"""Checkpoints: what goes in comes out bit for bit; damage, crashes and a full disk cost one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatlearn import checkpoint
from splatlearn.errors import SplatlearnError

TENSORS = {
    "means": torch.linspace(-1, 1, 12).reshape(4, 3),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(7.0, dtype=torch.float64),
    "generator": torch.Generator().manual_seed(3).get_state(),
    "mask": torch.tensor([True, False]),
}
STATE = {"rate": 0.1 + 0.2, "tiny": 5e-324, "counts": [1, 2**60], "name": "ä", "nested": {"none": None}}


def write(folder: Path, step: int, value: float = 1.0) -> Path:
    return checkpoint.save(folder, step, {"x": torch.full((3,), value)}, {"value": value})


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "checkpoints", 100, TENSORS, STATE)
    tensors, state = checkpoint.load(path)
    assert path.name == "step_0000100" and checkpoint.step_of(path) == 100, "the folder's name or step is off"
    assert state == STATE, "JSON lost digits or keys"
    assert tensors.keys() == TENSORS.keys(), "a tensor was lost"
    for name, tensor in TENSORS.items():
        same = tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        assert same and torch.equal(tensors[name], tensor), f"{name} changed on the way"


def test_views_and_shared_memory(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tied = torch.nn.Parameter(torch.ones(2))
    saved = {"rows": base[1:], "transposed": base.T, "a": tied, "b": tied, "base": base}
    tensors, _ = checkpoint.load(checkpoint.save(tmp_path, 1, saved, {}))
    for name, tensor in saved.items():
        assert torch.equal(tensors[name], tensor), f"{name}: a view was saved with the wrong strides or offset"
    tensors["a"].zero_()
    assert tensors["b"].sum() == 2, "loaded tensors share memory"


def test_loaded_tensors_outlive_the_files(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    tensors, _ = checkpoint.load(path)
    (path / checkpoint.TENSORS).write_bytes(b"\xff" * (path / checkpoint.TENSORS).stat().st_size)
    assert torch.equal(tensors["x"], torch.ones(3)), "a loaded tensor is a window on the file"


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (2, 10, 9_999_999, 10_000_000):
        write(tmp_path, step)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_10000000", "step_9999999"], "pruning goes by name rather than step, or leaves litter"
    newest = checkpoint.latest(tmp_path)
    assert newest is not None and checkpoint.step_of(newest) == 10_000_000, "latest goes by name, not by step"


def test_a_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    write(tmp_path, 1, 1.0)
    tensors, state = checkpoint.load(write(tmp_path, 1, 2.0))
    assert state["value"] == 2.0 and tensors["x"][0] == 2.0, "the old content won"
    assert len(list(tmp_path.iterdir())) == 1, "the replaced checkpoint was left behind"


def test_latest_of_nothing(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent") is None, "an absent folder must not be an error"
    (tmp_path / f".splatlearn-{'0' * 32}.tmp").mkdir()
    (tmp_path / "step_7").mkdir()
    assert checkpoint.latest(tmp_path) is None, "a half-written or foreign folder counts as a checkpoint"


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
def test_any_flipped_bit_is_refused(tmp_path: Path, file: str) -> None:
    path = checkpoint.save(tmp_path, 1, {"x": torch.linspace(0, 1, 20)}, {"a": 1.5, "b": "text"}) / file
    content = path.read_bytes()
    for offset in range(0, len(content), 3):
        for bit in (0, 5):  # 5 changes the case of hexadecimal digits, and a blank into a NUL
            flipped = bytearray(content)
            flipped[offset] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(SplatlearnError, match=file):
                checkpoint.load(path.parent)
    path.write_bytes(content)
    checkpoint.load(path.parent)  # the original is accepted, so it was the flips that were refused


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "empty", "shorter", "longer"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, damage: str) -> None:
    path = write(tmp_path, 1) / file
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "shorter": content[:-1], "longer": content + b"\n"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    with pytest.raises(SplatlearnError, match=f"{file}.* cannot be used: .*remove .*step_0000001 "):
        checkpoint.load(path.parent)


def test_a_sealed_forgery_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    for forged in ({}, {"format": 1, "step": "1", "files": {}}, {"format": 1, "step": 1, "files": [[]]}):
        (path / checkpoint.MANIFEST).write_bytes(checkpoint._sealed(forged))
        with pytest.raises(SplatlearnError, match="manifest.json"):
            checkpoint.load(path)
    (path / checkpoint.STATE).write_bytes(b"[" * 100_000)
    (path / checkpoint.MANIFEST).write_bytes(checkpoint._manifest_bytes(1, path))
    with pytest.raises(SplatlearnError, match="manifest.json"):
        checkpoint.load(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_is_never_saved(tmp_path: Path, bad: float) -> None:
    write(tmp_path, 1)
    with pytest.raises(SplatlearnError, match="step 2 was not saved: tensor 'moment' is not finite"):
        checkpoint.save(tmp_path, 2, {"x": torch.ones(2), "moment": torch.tensor([1.0, bad])}, {})
    with pytest.raises(SplatlearnError, match="step 2 was not saved: state 'loss'"):
        checkpoint.save(tmp_path, 2, {}, {"loss": bad})
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001"], "something of the bad step was written"


@pytest.mark.parametrize("value", [{1: "integer key"}, (1, 2), {1, 2}, torch.ones(1)])
def test_state_that_json_would_change_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(SplatlearnError, match="state 'thing' does not survive JSON"):
        checkpoint.save(tmp_path, 1, {}, {"fine": 1, "thing": value})


# ---- crashes and full disks ----

CRASH = """
import os, signal, sys
from pathlib import Path
from typing import Any
import torch
from splatlearn import checkpoint

folder = Path(sys.argv[1])

def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(number, function):
    real, calls = getattr(os, function), []
    def counted(*arguments, **options):
        calls.append(arguments)
        return die() if len(calls) == number else real(*arguments, **options)
    setattr(os, function, counted)

for point in ("fsync 1", "fsync 3", "fsync 4", "rename 1", "fsync 5", "rename 2"):
    if (child := os.fork()) == 0:
        where = folder / point
        for step in (0, 1):
            checkpoint.save(where, step, {"x": torch.ones(3)}, {})
        die_at(int(point.split()[1]), point.split()[0])
        checkpoint.save(where, 2, {"x": torch.ones(3)}, {})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
"""


def test_a_kill_at_any_point_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    root = str(Path(checkpoint.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=True, env=environment)
    points = {"fsync 1": 1, "fsync 3": 1, "fsync 4": 1, "rename 1": 1, "fsync 5": 2, "rename 2": 2}
    for point, step in points.items():
        folder = tmp_path / point
        assert [path for path in folder.iterdir() if path.name.startswith(".")] or step == 2, "no crash at all"
        newest = checkpoint.latest(folder)
        assert newest is not None and checkpoint.step_of(newest) == step, f"killed at {point}: wrong latest"
        assert torch.equal(checkpoint.load(newest)[0]["x"], torch.ones(3)), f"killed at {point}: content lost"
        write(folder, 3)
        assert sorted(path.name for path in folder.iterdir()) == [f"step_000000{n}" for n in (step, 3)], (
            "litter is left"
        )


def expect_full_disk(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Saving step 3 fails in one sentence; steps 1 and 2 stay as they were, and nothing else is there."""
    with pytest.raises(SplatlearnError, match="cannot save the checkpoint .*step_0000003: .*intact$") as caught:
        checkpoint.save(folder, 3, tensors, {})
    assert "\n" not in str(caught.value), "the error is more than a sentence"
    expect_untouched(folder)


def expect_untouched(folder: Path) -> None:
    """Steps 1 and 2 are as they were, and nothing else is there."""
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["step_0000001", "step_0000002"], "half of a checkpoint is left, or an old one is gone"
    for step, path in enumerate(sorted(folder.iterdir()), start=1):
        assert checkpoint.load(path)[1]["value"] == step, "an earlier checkpoint was touched"


def test_too_little_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, 1)
    write(tmp_path, 2, 2)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(checkpoint, "_write_tensors", lambda *_: pytest.fail("it wrote to a full disk"))
    expect_full_disk(tmp_path, {"x": torch.zeros(1000)})


@pytest.mark.parametrize("module, function", [(checkpoint, "_write_tensors"), (Path, "write_bytes"), (os, "fsync")])
def test_a_disk_that_fills_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str
) -> None:
    write(tmp_path, 1, 1)
    write(tmp_path, 2, 2)

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(module, function, full)
        with pytest.raises(SplatlearnError, match="cannot save the checkpoint .*step_0000003: No space.*intact$"):
            checkpoint.save(tmp_path, 3, {"x": torch.zeros(10)}, {})
    expect_untouched(tmp_path)


def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs rights that this process lacks")
    try:
        write(tmp_path, 1, 1)
        write(tmp_path, 2, 2)
        expect_full_disk(tmp_path, {"x": torch.zeros(1_000_000)})
        monkeypatch.setattr(checkpoint, "_require_space", lambda *_: None)  # as if it filled after the check
        expect_full_disk(tmp_path, {"x": torch.zeros(1_000_000)})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_interrupt_while_saving_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_manifest_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001"], "the interrupted save left litter"


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(SplatlearnError, match="cannot save the checkpoint"):
        write(tmp_path / "checkpoints", 1)


def test_manifest_tells_sizes_and_sums(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (path / name).stat().st_size, f"the size of {name} is wrong"
        assert len(entry["sha256"]) == 64, f"{name} has no SHA-256"
