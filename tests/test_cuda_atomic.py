"""Backward by atomic additions, on demand: the gradients of the fixed-order sums but for their last bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch
from conftest import BACKENDS
from torch import Tensor

from splatlearn.ops import capacity as capacities
from splatlearn.ops import native
from splatlearn.ops.rasterization import rasterization
from splatlearn.ops.rasterize import deterministic

KERNELS = [name for name in BACKENDS if name != "cpu"]
CLOSE = {torch.float64: 1e-13, torch.float32: 1e-5}
CASES = ("67x67", "crowd", "five-cameras", "17-channels", "1-channels", "4-channels", "RGB+D", "none", "aside")


def gradients(name: str, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """Gradients of a case to all its tensors, and absgrad where wanted."""
    case = scenes.case(name)
    inputs = case.scene.to(dtype).with_grad()
    render, alphas, meta = rasterization(**inputs.arguments(), **case.options, **options)
    (render.square().sum() + alphas.sum()).backward()
    found = {name: value.grad for name, value in inputs.tensors().items() if value.grad is not None}
    return found | ({"absgrad": meta["means2d"].absgrad} if options.get("absgrad") else {})


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_fixed_sums(name: str, absgrad: bool, dtype: torch.dtype, backend: str) -> None:
    options = {"absgrad": absgrad, "packed": False}
    wanted = gradients(name, dtype, **options)
    with deterministic(False):
        got = gradients(name, dtype, **options)
    for key, value in wanted.items():
        assert (got[key] - value).norm() <= CLOSE[dtype] * value.norm(), f"the gradient to {key} differs"
    if scenes.case(name).shows:
        assert wanted["means"].any(), "no gradient, so this proves nothing"
    again = gradients(name, dtype, **options)
    assert all(torch.equal(again[key], value) for key, value in wanted.items()), "the variant stays when it is left"


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_sums_are_fixed_unless_asked(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bool]] = []
    call = native.call

    def spy(stage: str, params: Any, tensor: Tensor) -> None:
        if stage == "rasterize_backward":
            calls.append((params.atomic, params.instance_rows is None))
        call(stage, params, tensor)

    monkeypatch.setattr(native, "call", spy)
    gradients("31x33", torch.float32)
    with deterministic(False):
        gradients("31x33", torch.float32)
        with deterministic():
            gradients("31x33", torch.float32)
    variant = (0, False) if backend == "cpu" else (1, True)  # the CPU has no other, the variant no rows
    assert calls == [(0, False), variant, (0, False)], "sums are made otherwise than was asked"


@pytest.mark.parametrize("backend", KERNELS, indirect=True)
def test_without_room_there_is_no_gradient(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "_capacities", {})
    gradients("67x67", torch.float32)
    device = next(iter(capacities._capacities))
    for size in (capacities.ListSize(10**4, 5), capacities.ListSize(3, 10**5)):
        capacities._capacities[device] = size
        with capacities.Capacity(device), deterministic(False):
            found = gradients("67x67", torch.float32, packed=False)
        assert not any(found[key].any() for key in ("means", "quats", "scales", "opacities", "colors")), "from nowhere"
        assert found["backgrounds"].any(), "nothing was drawn at all, so this proves nothing"


SCHEDULES = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_cuda_atomic import gradients
from splatlearn.ops import native
from splatlearn.ops.rasterize import deterministic
with native.emulated(Path(sys.argv[2])), deterministic(False):
    found, wide = (gradients(name, torch.float32) for name in ("crowd", "17-channels"))
    torch.save(found | {"wide": wide["colors"]}, sys.argv[3])
"""


def test_any_order_of_threads_gives_close_sums(tmp_path: Path, emulated_library: Path) -> None:
    results = []
    for seed in ("0", "3"):
        words = map(str, (Path(__file__).parent, emulated_library, tmp_path / seed))
        environment = dict(os.environ, SPLATLEARN_EMULATOR_SEED=seed, OMP_NUM_THREADS="1")
        command = [sys.executable, "-c", SCHEDULES, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"with seed {seed}: {done.stderr[-1500:]}"
        results.append(torch.load(tmp_path / seed, weights_only=True))
    for key, value in results[0].items():
        assert (results[1][key] - value).norm() <= 1e-5 * value.norm(), f"{key}: an addition is lost in some order"
