"""Backward of the projection and Adam in one pass: the update of both apart, bit for bit, and PyTorch's dense Adam.

Tensors are put where a backend works by the tests themselves, as this stage changes them in place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scenes
import schedules
import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.ops import adam, native, rasterization, reference
from splatlearn.ops import project_update as stage
from splatlearn.ops.adam import step_rates
from splatlearn.ops.project import Projection, parameter_gradients
from splatlearn.ops.project_update import PARAMETERS

WIDTH, HEIGHT = 53, 41
DTYPES = [torch.float32, torch.float64]
Moments = dict[str, tuple[Tensor, Tensor]]


def model(dtype: torch.dtype, device: str = "cpu", count: int = 150, degree: int = 3) -> dict[str, Tensor]:
    """Parameters as a scene trains them, by name, the same for every dtype."""
    scene = scenes.make(5, count, WIDTH, HEIGHT, degree=degree)
    sh0, shN = scene.sh()
    tensors = {
        "means": scene.means,
        "quats": scene.quats,
        "scales": scene.scales.log(),
        "opacities": torch.logit(scene.opacities),
        "sh0": sh0,
        "shN": shN,
    }
    return {name: tensor.float().to(device, dtype) for name, tensor in tensors.items() if tensor is not None}


def moments_of(parameters: dict[str, Tensor]) -> Moments:
    return {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in parameters.items()}


def camera(step: int) -> scenes.Scene:
    """A camera that turns aside and comes back, so that Gaussians leave the picture and return."""
    scene = scenes.make(5, 1, WIDTH, HEIGHT, degree=0)
    viewmats = scene.viewmats.clone()
    viewmats[0, 0, 3] += (0.0, 1.6, -1.4, 0.0, 2.0)[step % 5]
    return replace(scene, viewmats=viewmats)


def draw(operation: Any, parameters: dict[str, Tensor], step: int, **options: Any) -> tuple[Tensor, dict[str, Any]]:
    """The picture of a step, and what the rasterizer tells of it."""
    p, view = parameters, camera(step)
    colors = torch.cat([p["sh0"], p["shN"]], dim=1) if operation is reference.rasterization else (p["sh0"], p["shN"])
    image, _, meta = operation(
        p["means"], p["quats"], p["scales"], p["opacities"], colors,
        view.viewmats.to(p["means"]), view.Ks.to(p["means"]), WIDTH, HEIGHT, raw=True, **options,
    )  # fmt: skip
    return image, meta


def pull(image: Tensor) -> None:
    """The backward of a loss whose gradient differs everywhere."""
    weights = torch.linspace(-1, 2, image.numel(), dtype=image.dtype, device=image.device).reshape(image.shape)
    (image * weights).sum().backward()


def rates(step: int) -> dict[str, float]:
    """Learning rates that differ by parameter and change every step."""
    return {name: 1e-3 * (index + 1) * 0.8**step for index, name in enumerate(PARAMETERS)}


def degree_of(step: int) -> int:
    return min(step // 2, 3)


def one_pass(parameters: dict[str, Tensor], moments: Moments, steps: int, **options: Any) -> list[Projection]:
    """Steps by the stage under test; the leaves of each."""
    drawn = []
    for step in range(1, steps + 1):
        degree = degree_of(step)
        image, meta = draw(rasterization.rasterization, parameters, step, sh_degree=degree, detached=True, **options)
        pull(image)
        moving = (degree + 1) ** 2 - 1  # the degree never falls
        stage.project_update(meta["detached"], moments, rates(step), step=step, moving=moving)
        drawn.append(meta["detached"])
    return drawn


def two_passes(parameters: dict[str, Tensor], moments: Moments, steps: int, **options: Any) -> None:
    """The same steps by the backward of project, which writes gradients, and Adam, which reads them."""
    for step in range(1, steps + 1):
        detached = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        pull(draw(rasterization.rasterization, detached, step, sh_degree=degree_of(step), **options)[0])
        lrs = rates(step)
        groups = []
        for name, leaf in detached.items():
            assert leaf.grad is not None
            groups.append(adam.Group(parameters[name], leaf.grad, *moments[name], lrs[name]))
        adam.adam_steps(groups, step=step)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], exact: bool, what: str) -> None:
    for name, value in one.items():
        if exact:
            assert torch.equal(value, other[name]), f"{what} of {name} has other bits than in two passes"
        else:  # on a card the compiler joins products and sums as it sees fit in either kernel
            assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-6), f"{what} of {name} differs from two passes"


def device_of(backend: str) -> str:
    return "cuda" if backend == "cuda" else "cpu"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_one_pass_is_two_passes(mode: str, dtype: torch.dtype, backend: str) -> None:
    """150 Gaussians: more than a block of either kernel, and no multiple of a register."""
    one, two = model(dtype, device_of(backend)), model(dtype, device_of(backend))
    before = {name: value.clone() for name, value in one.items()}
    moments, others = moments_of(one), moments_of(two)
    drawn = one_pass(one, moments, 8, rasterize_mode=mode)
    two_passes(two, others, 8, rasterize_mode=mode)
    shown = torch.stack([(detached.radii[0] > 0).all(-1) for detached in drawn])
    assert shown.any(0).sum() > 100 and (shown.any(0) & ~shown.all(0)).sum() > 30, "all are seen always, or few ever"
    assert_same(one, two, backend != "cuda", "the value")
    for index, what in enumerate(("the first moment", "the second moment")):
        ours, theirs = ({name: pair[index] for name, pair in both.items()} for both in (moments, others))
        assert_same(ours, theirs, backend != "cuda", what)
    for name, value in one.items():
        assert (value != before[name]).any(), f"{name} never moves, so that this proves nothing"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_dense_adam_of_pytorch(dtype: torch.dtype, backend: str) -> None:
    """torch.optim.Adam in float64 on the oracle's gradients; what leaves the picture is moved on by its momentum."""
    ours, oracle = model(dtype, device_of(backend)), model(torch.float64)
    moments = moments_of(ours)
    detached = {name: value.requires_grad_() for name, value in oracle.items()}
    groups: list[dict[str, Any]] = [{"params": [detached[name]], "lr": 0.0} for name in PARAMETERS]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-3)
    left = torch.zeros(len(ours["means"]), dtype=torch.bool)
    for step in range(1, 6):
        lrs = rates(step)
        for group, name in zip(optimizer.param_groups, PARAMETERS, strict=True):
            group["lr"] = lrs[name]
        optimizer.zero_grad()
        pull(draw(reference.rasterization, detached, step, sh_degree=3)[0])
        optimizer.step()
        before = ours["means"].clone()
        image, meta = draw(rasterization.rasterization, ours, step, sh_degree=3, detached=True)
        pull(image)
        stage.project_update(meta["detached"], moments, lrs, step=step, eps=1e-3)
        unseen = (meta["detached"].radii[0] == 0).any(-1)
        moved = (ours["means"] != before).any(-1)
        left |= (unseen & moved).cpu()
    assert left.sum() > 10, "none that had left the picture moved on, so that this proves little"
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-3}[dtype]
    for name, value in ours.items():
        wanted = detached[name].detach()
        way = (wanted - model(torch.float64)[name]).norm()
        assert (value.double().cpu() - wanted).norm() <= tolerance * way, f"{name} is not where dense Adam brings it"


def test_bases_that_never_moved_are_left_alone(backend: str) -> None:
    """With `moving` they are not touched; without it the update leaves them as they are."""
    results = []
    for moving in (3, 8, None):
        parameters = model(torch.float32, device_of(backend))
        before, moments = parameters["shN"].clone(), moments_of(parameters)
        for step in (1, 2):
            image, meta = draw(rasterization.rasterization, parameters, step, sh_degree=1, detached=True)
            pull(image)
            stage.project_update(meta["detached"], moments, rates(step), step=step, moving=moving)
        assert torch.equal(parameters["shN"][:, 3:], before[:, 3:]), "a base without a gradient moves"
        assert not moments["shN"][0][:, 3:].any() and (parameters["shN"][:, :3] != before[:, :3]).any()
        results.append(parameters)
    for other in results[1:]:
        assert_same(results[0], other, True, "with another `moving` the value")


def test_momentum_of_bases_beyond_the_degree_goes_on(backend: str) -> None:
    """The degree falls from 3 to 1: what it no longer draws has the gradient zero, as in two passes."""
    one, two = model(torch.float32, device_of(backend)), model(torch.float32, device_of(backend))
    moments, others = moments_of(one), moments_of(two)
    for step, degree in ((1, 3), (2, 1)):
        image, meta = draw(rasterization.rasterization, one, step, sh_degree=degree, detached=True)
        pull(image)
        before = one["shN"].clone()
        stage.project_update(meta["detached"], moments, rates(step), step=step)
        detached = {name: value.detach().requires_grad_() for name, value in two.items()}
        pull(draw(rasterization.rasterization, detached, step, sh_degree=degree)[0])
        grads = {name: leaf.grad for name, leaf in detached.items() if leaf.grad is not None}
        lrs = rates(step)
        adam.adam_steps([adam.Group(two[n], grads[n], *others[n], lrs[n]) for n in PARAMETERS], step=step)
    assert (one["shN"][:, 3:] != before[:, 3:]).any(), "bases beyond the degree stand still"
    assert_same(one, two, backend != "cuda", "the value")


def test_a_step_to_be_made_again_changes_nothing(backend: str) -> None:
    parameters = model(torch.float32, device_of(backend))
    moments = moments_of(parameters)
    before = {name: value.clone() for name, value in parameters.items()}
    image, meta = draw(rasterization.rasterization, parameters, 1, sh_degree=2, detached=True)
    pull(image)
    skip = torch.ones(1, dtype=torch.int32, device=device_of(backend))
    stage.project_update(meta["detached"], moments, rates(1), step=1, skip=skip)
    for name, value in parameters.items():
        assert torch.equal(value, before[name]), f"{name} changes though the step lacked room"
        assert not any(moment.any() for moment in moments[name]), f"a moment of {name} changes"
    stage.project_update(meta["detached"], moments, rates(1), step=1, skip=skip.zero_())
    assert all((value != before[name]).any() for name, value in parameters.items()), "the flag is not looked at"


@pytest.mark.parametrize("backend", ["emulated"], indirect=True)
def test_rates_may_lie_on_the_device(backend: str) -> None:
    results = []
    for given in (False, True):
        parameters = model(torch.float32)
        moments = moments_of(parameters)
        for step in (1, 2):
            image, meta = draw(rasterization.rasterization, parameters, step, sh_degree=2, detached=True)
            pull(image)
            lrs = rates(step)
            live = torch.tensor([step_rates(lrs[name], step) for name in PARAMETERS]) if given else None
            wrong = {name: 77.0 for name in PARAMETERS} if given else lrs
            stage.project_update(meta["detached"], moments, wrong, step=step, rates=live)
        results.append(parameters)
    assert_same(results[0], results[1], True, "with rates on the device the value")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_is_no_gaussian_spoils_no_other(bad: float, backend: str) -> None:
    parameters = model(torch.float32, device_of(backend))
    names = ("means", "quats", "scales", "opacities", "sh0")
    for index, name in enumerate(names):
        parameters[name].view(len(parameters[name]), -1)[index, 0] = -bad if name == "opacities" else bad
    moments = moments_of(parameters)
    drawn = one_pass(parameters, moments, 2)
    assert (drawn[1].radii[0] > 0).all(-1).sum() > 50, "little is drawn, so that this proves little"
    for name, value in parameters.items():
        assert value[len(names) :].isfinite().all(), f"{name} of sound Gaussians is not finite"
        assert all(moment.isfinite().all() for moment in moments[name]), f"a moment of {name} is not finite"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_bits_do_not_depend_on_threads(backend: str) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            parameters = model(torch.float32, count=1500)
            moments = moments_of(parameters)
            one_pass(parameters, moments, 3)
            results.append(parameters | {f"moment of {name}": pair[1] for name, pair in moments.items()})
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same(results[0], other, True, "with other threads the value")


def test_nothing_is_updated_without_trouble(backend: str) -> None:
    """No Gaussian at all, and none in the picture: then momentum alone moves them, here none."""
    empty = {name: value[:0] for name, value in model(torch.float32, device_of(backend)).items()}
    image, meta = draw(rasterization.rasterization, empty, 1, sh_degree=1, detached=True)
    for name in ("means2d", "conics", "opacities", "colors"):
        leaf = getattr(meta["detached"], name)
        leaf.grad = torch.zeros_like(leaf)
    stage.project_update(meta["detached"], moments_of(empty), rates(1), step=1)
    behind = model(torch.float32, device_of(backend), count=20)
    behind["means"] -= 1000
    before = {name: value.clone() for name, value in behind.items()}
    image, meta = draw(rasterization.rasterization, behind, 1, sh_degree=1, detached=True)
    pull(image)
    stage.project_update(meta["detached"], moments_of(behind), rates(1), step=1)
    for name, value in behind.items():
        assert torch.equal(value, before[name]), f"{name} moves without a gradient"


SCHEDULES = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_project_update import model, moments_of, one_pass
from splatlearn.ops import native
with native.emulated(Path(sys.argv[2])):
    parameters = model(torch.float32, count=140)
    moments = moments_of(parameters)
    one_pass(parameters, moments, 6)
    torch.save(parameters | {name + " moment": pair[1] for name, pair in moments.items()}, sys.argv[3])
"""


def test_any_order_of_threads_gives_the_same_bits(tmp_path: Path, emulated_library: Path) -> None:
    """A missing barrier between gradients in shared memory and their use gives other bits in some order."""
    results = schedules.results_of(SCHEDULES, emulated_library, tmp_path)
    for other in results[1:]:
        assert_same(results[0], other, True, "in another order of threads the value")


def bad_call(change: str) -> None:
    """One call of the stage with one thing wrong."""
    parameters = model(torch.float32, count=20)
    options: dict[str, Any] = {"detached": change != "graph", "sh_degree": 2}
    if change == "strided":
        parameters["shN"] = torch.cat([parameters["shN"]] * 2, dim=1)[:, :15]
    image, meta = draw(rasterization.rasterization, parameters, 1, **options)
    detached, moments, lrs = (
        meta.get("detached", Projection(image, image, image, image, None, image, None)),
        moments_of(parameters),
        rates(1),
    )
    if change != "backward" and change != "graph":
        pull(image)
    more: dict[str, Any] = {"step": 0 if change == "step" else 1}
    if change == "moving":
        more["moving"] = 7
    if change == "moment":
        moments["quats"] = (moments["quats"][0], moments["quats"][1][:-1])
    if change == "missing":
        del moments["scales"]
    if change == "rate":
        del lrs["sh0"]
    if change == "negative":
        lrs["sh0"] = -1.0
    if change == "skip":
        more["skip"] = torch.zeros(1)
    if change == "rates":
        more["rates"] = torch.zeros(6, 2)
    stage.project_update(detached, moments, lrs, **more)


BAD = {
    "graph": "detached=True",
    "backward": "means2d of the detached 2D Gaussians must have a gradient",
    "step": "step must be at least 1",
    "moving": "moving must be a number of from 8 to 15, but is 7",
    "moment": "exp_avg_sq of quats must have shape",
    "missing": "moments must hold those of scales",
    "rate": "the learning rate of sh0",
    "negative": "the learning rate of sh0",
    "skip": "skip must be int32",
    "rates": "rates are read by the CUDA kernels alone",
    "strided": "shN must be contiguous",
}


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("change", BAD)
def test_bad_arguments_are_told_in_one_sentence(change: str, backend: str) -> None:
    with pytest.raises(SplatlearnError, match=BAD[change]) as caught:
        bad_call(change)
    assert "\n" not in str(caught.value), "the error is not one sentence"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_several_cameras_are_refused(backend: str) -> None:
    p, view = model(torch.float32, count=20), camera(0)
    viewmats, Ks = (matrices.float().repeat(2, 1, 1) for matrices in (view.viewmats, view.Ks))
    image, _, meta = rasterization.rasterization(
        p["means"], p["quats"], p["scales"], p["opacities"], (p["sh0"], p["shN"]), viewmats, Ks, WIDTH, HEIGHT,
        raw=True, sh_degree=1, detached=True,
    )  # fmt: skip
    pull(image)
    with pytest.raises(SplatlearnError, match="detached must be of one camera, but are of 2"):
        stage.project_update(meta["detached"], moments_of(p), rates(1), step=1)


def test_the_structs_have_room_for_six() -> None:
    lengths = {name: getattr(kind, "_length_", 0) for name, kind in native.ProjectUpdate._fields_}
    names = ("learning_rates", "parameters", "exp_avg", "exp_avg_sq")
    assert {lengths[name] for name in names} == {len(PARAMETERS)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_behind_the_cut_are_those_of_autograd(dtype: torch.dtype, backend: str) -> None:
    parameters = model(dtype, device_of(backend))
    whole = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    pull(draw(rasterization.rasterization, whole, 1, sh_degree=2)[0])
    image, meta = draw(rasterization.rasterization, parameters, 1, sh_degree=2, detached=True)
    pull(image)
    found = parameter_gradients(meta["detached"])
    assert set(found) == set(PARAMETERS), "a gradient is missing"
    for name, leaf in whole.items():
        assert leaf.grad is not None and leaf.grad.any(), f"{name} has no gradient, so that this proves nothing"
        assert torch.equal(found[name], leaf.grad), f"the gradient of {name} has other bits than autograd's"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", ["viewmats", "Ks"])
def test_a_camera_gradient_behind_the_cut_is_refused(name: str, backend: str) -> None:
    p, view = model(torch.float32, count=20), camera(0)
    cameras = {"viewmats": view.viewmats.float(), "Ks": view.Ks.float()}
    cameras[name].requires_grad_()
    with pytest.raises(SplatlearnError, match=f"^{name} must not require a gradient with detached=True"):
        rasterization.rasterization(
            p["means"], p["quats"], p["scales"], p["opacities"], (p["sh0"], p["shN"]), width=WIDTH, height=HEIGHT,
            raw=True, sh_degree=1, detached=True, **cameras,
        )  # fmt: skip
