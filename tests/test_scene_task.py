"""A scene in the loop: it learns, resumes bit for bit, does not depend on threads, stops on what is not finite."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_scene
import torch

from splatlearn import checkpoint, config, loop, run, trainer
from splatlearn.errors import SplatlearnError
from splatlearn.scene.evaluate import evaluate
from splatlearn.scene.metrics import HIGHEST_PSNR
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View, reduced

STEPS = 40
# Every kind of change falls into the first steps: growth, pruning, resets, coarse pictures, degrees.
SETTINGS = {
    "steps": STEPS, "log_every": 1, "checkpoint_every": 7, "sh_degree": 2, "sh_every": 10, "coarse": [0.1, 0.2],
    "densify.start": 4, "densify.every": 5, "densify.stop": 0.9, "densify.reset_every": 12, "densify.gradient": 1e-6,
    "densify.cap": 150,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


RECORDED = [0.261751, 0.2348971, 0.2625013, 0.2386033, 0.2049887, 0.2375473, 0.2089766, 0.2130672, 0.1881885, 0.2069865]


def make(folder: Path, **more: Any) -> SceneTask:
    words = [
        word for key, value in (SETTINGS | {"data.path": folder} | more).items() for word in (f"--{key}", str(value))
    ]
    return SceneTask(config.load(SceneTask.Config, None, words))


def train(task: SceneTask, out: Path, start: int = 0, until: int = STEPS) -> None:
    callbacks = [run.MetricsLog(out / "metrics.jsonl", 1), run.Checkpoints(out, 7, keep=100)]
    loop.fit(task, until, start=start, callbacks=callbacks, progress=False)


def figures(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same(a: SceneTask, b: SceneTask, what: str) -> None:
    (tensors_a, state_a), (tensors_b, state_b) = a.state(), b.state()
    assert state_a == state_b, f"{what}: another order of photographs follows"
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[name]), f"{what}: {name} differs"


def test_it_learns(folder: Path, tmp_path: Path) -> None:
    task = make(folder, steps=150, coarse=[], **{"densify.stop": 0.0})
    before = evaluate(task)["psnr"]
    train(task, tmp_path, until=150)
    after = evaluate(task)
    assert after["psnr"] > before + 3, "training does not make the held-out picture better"
    assert after["split"] == "test" and after["num_gaussians"] == len(task.gaussians) and len(after["views"]) == 2


@pytest.mark.parametrize("score", ["gradient", "error"])
def test_resume_is_bit_exact(folder: Path, tmp_path: Path, score: str) -> None:
    settings = {"densify.score": score, "densify.views": 3, "exposure": str(score == "error").lower()}
    whole = make(folder, **settings)
    train(whole, tmp_path / "whole")
    assert len(whole.gaussians) > 60, "nothing was cloned or split, so that this proves little"
    for step in (7, 14, 28, 35):
        part = tmp_path / f"from_{step}"
        part.mkdir()
        lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines(keepends=True)
        (part / "metrics.jsonl").write_text("".join(lines[: step + 3]))  # a crash came three steps after the checkpoint
        resumed = make(folder, **settings)
        resumed.load_state(*checkpoint.load(tmp_path / "whole" / "checkpoints" / f"step_{step:07d}"))
        train(resumed, part, start=step)
        assert_same(whole, resumed, f"resumed at {step}")
        assert figures(part) == figures(tmp_path / "whole"), f"resumed at {step}: the metrics differ"


def test_threads_do_not_change_a_bit(folder: Path, tmp_path: Path) -> None:
    tasks = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            tasks.append(make(folder, **{"densify.score": "error"}))
            train(tasks[-1], tmp_path / str(count))
    finally:
        torch.set_num_threads(threads)
    assert_same(*tasks, "with another number of threads")


def test_seeds_differ_and_repeat(folder: Path, tmp_path: Path) -> None:
    tasks = [make(folder, seed=seed) for seed in (0, 0, 1)]
    for index, task in enumerate(tasks):
        train(task, tmp_path / str(index), until=12)
    assert_same(tasks[0], tasks[1], "the same seed")
    assert not torch.equal(tasks[0].gaussians.means, tasks[2].gaussians.means), "the seed has no effect"


def test_the_first_losses_are_those_recorded(folder: Path, tmp_path: Path) -> None:
    """Guards refactors: the first ten losses of the plain recipe, to what instruction sets may differ by."""
    task = make(folder, coarse=[], **{"densify.start": 100})
    train(task, tmp_path, until=10)
    losses = [line["loss"] for line in figures(tmp_path)]
    assert losses == pytest.approx(RECORDED, rel=1e-4), "training is not what it was"


def test_no_learning_rate_is_for_nothing(folder: Path) -> None:
    task = make(folder, coarse=[], sh_every=1)
    before = {name: tensor.clone() for name, tensor in task.gaussians.tensors().items()}
    loop.fit(task, 3, progress=False)
    for name, tensor in task.gaussians.tensors().items():
        assert not torch.equal(tensor, before[name]), f"{name} never moves"


@pytest.mark.parametrize("name", ["means", "opacities", "sh0"])
def test_what_is_not_finite_is_named_and_never_saved(folder: Path, tmp_path: Path, name: str) -> None:
    task = make(folder)
    train(task, tmp_path, until=7)
    with torch.no_grad():
        getattr(task.gaussians, name)[3] = torch.nan
    with pytest.raises(SplatlearnError, match=rf"step 8 \(image 'view_\d\.png'\).*'{name}'") as caught:
        train(task, tmp_path, start=7)
    assert "\n" not in str(caught.value)
    saved = checkpoint.load(checkpoint.latest(tmp_path / "checkpoints"))[0]  # type: ignore[arg-type]
    assert all(t.isfinite().all() for t in saved.values() if t.is_floating_point()), "NaN was saved"


def test_reduced_pictures_keep_the_camera(folder: Path) -> None:
    task = make(folder)
    camera = task.scene.train[0]
    view = reduced(View(camera, {"image": task.scene.photo(camera)}), 2)
    assert view.image.shape == (tiny_scene.HEIGHT // 2, tiny_scene.WIDTH // 2, 3) and view.camera.width == 25
    full, half = task.render(camera).image.mean(dim=(0, 1)), task.render(view.camera).image.mean(dim=(0, 1))
    assert torch.allclose(full, half, atol=0.02), "the reduced camera looks elsewhere"
    assert torch.allclose(view.image.mean(dim=(0, 1)) * 255, task.scene.photo(camera).float().mean(dim=(0, 1)), atol=3)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "degree": ({"sh_degree": 5}, "sh_degree"),
    "coarse": ({"coarse": [0.5, 0.1]}, "coarse"),
    "init": ({"init": "nowhere.ply"}, "init"),
    "cap": ({"densify.cap": 0}, "densify.cap"),
    "weight": ({"lambda_dssim": 2.0}, "lambda_dssim"),
    "device": ({"device": "cuda:9"}, "device"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(folder: Path, name: str) -> None:
    settings, word = BAD[name]
    with pytest.raises(SplatlearnError, match=word):
        make(folder, **settings)


@pytest.mark.parametrize("init", ["random", "ply"])
def test_other_beginnings(folder: Path, tmp_path: Path, init: str) -> None:
    source: Callable[[], str] = lambda: "random"  # noqa: E731
    if init == "ply":
        tiny_scene.gaussians().save_ply(tmp_path / "start.ply")
        source = lambda: str(tmp_path / "start.ply")  # noqa: E731
    task = make(folder, init=source())
    if init == "ply":
        frame, wanted = task.frame, tiny_scene.gaussians().arranged()
        assert frame.scale == 4, "a ring of cameras of radius 3.5"
        begun = frame.capture_tensors(task.gaussians.tensors())["means"].float()
        assert torch.equal(begun, wanted.means), "training starts from something else"
    else:
        assert task.gaussians.scales.std(dim=-1).min() > 0 and task.gaussians.quats.std() > 0.5, "nothing is random"
    loop.fit(task, 3, progress=False)


def test_an_occupied_run_folder_is_seen_before_photographs_are_loaded(folder: Path, tmp_path: Path) -> None:
    class Loads(SceneTask):
        def __init__(self, config: Any) -> None:
            raise AssertionError("the photographs are loaded for nothing")

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    words = ["--data.path", str(folder), "--out", str(tmp_path / "run")]
    with pytest.raises(SplatlearnError, match=r"exists already; .*--out"):
        trainer.train(Loads, config.load(SceneTask.Config, None, words))


def test_a_picture_that_is_its_photograph_has_a_finite_psnr(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its PSNR is infinite, which is no number of JSON."""
    task = make(folder)
    real = task.render

    def perfect(camera: Any) -> Any:
        return real(camera)._replace(image=task.scene.photo(camera).float() / 255)

    monkeypatch.setattr(task, "render", perfect)
    figures = evaluate(task)
    assert figures["psnr"] == HIGHEST_PSNR and figures["ssim"] > 0.999
    assert "Infinity" not in json.dumps(figures) and "NaN" not in json.dumps(figures), "metrics.json is no JSON"


def test_backward_ends_at_the_2d_gaussians(folder: Path) -> None:
    """No gradient of a parameter is ever made, and what is looked at in its place is that of the 2D Gaussians."""
    task = make(folder, coarse=[], sh_every=2, **{"densify.start": 100})
    loop.fit(task, 3, progress=False)
    assert task.optimizer.moving == 3, "bases that are drawn do not move, or more than these"
    view = task.batch(4)
    task.loss(task.forward(view), view).backward()
    assert all(tensor.grad is None for _, tensor in task.named_parameters()), "a gradient takes memory for nothing"
    assert {"2D means2d", "2D conics", "2D opacities", "2D colors"} == {name for name, _ in task.named_gradients()}
    assert task.training_step.rendering is not None and task.training_step.rendering.detached is not None
    gradient = task.training_step.rendering.detached.conics.grad
    assert gradient is not None
    gradient[0, 3, 1] = torch.nan
    with pytest.raises(SplatlearnError, match=r"step 4 .*the gradient of '2D conics' has 1 of"):
        loop._refuse_non_finite(4, task, view, {})


def test_a_resumed_run_knows_which_bases_move(folder: Path) -> None:
    task = make(folder, coarse=[], sh_every=2, **{"densify.start": 100})
    loop.fit(task, 5, progress=False)
    resumed = make(folder, coarse=[], sh_every=2, **{"densify.start": 100})
    resumed.load_state(*task.state())
    assert resumed.optimizer.moving == task.optimizer.moving == 8, "bases with moments would stand still"


def test_checkpoints_of_earlier_versions_are_read(folder: Path) -> None:
    """They name what densification observes pull and seen."""
    task = make(folder, coarse=[])
    loop.fit(task, 3, progress=False)
    tensors, state = task.state()
    old = {{"grad2d_sum": "pull", "visible_count": "seen"}.get(name, name): value for name, value in tensors.items()}
    assert {"pull", "seen"} <= set(old)
    resumed = make(folder, coarse=[])
    resumed.load_state(old, state)
    assert_same(task, resumed, "read from an earlier version")
