"""A step recorded once and replayed, against training that records nothing: bits, stale tensors, room, a real card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_scene
import torch
from tape import Tape, poison

from splatlearn import checkpoint, config, loop, run
from splatlearn.errors import SplatlearnError
from splatlearn.ops import capacity as capacities
from splatlearn.ops.recording import CudaRecorder, Recorder, host_callback
from splatlearn.scene.training import replay
from splatlearn.scene.training.replay import Replays
from splatlearn.scene.training.step import TrainingStep
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View

CPU = torch.device("cpu")
# Whatever makes a recording stale falls into the first steps: growth, resets, coarse pictures, degrees.
SETTINGS = {
    "steps": 40, "sh_degree": 2, "sh_every": 10, "log_every": 6, "coarse": [0.1, 0.2], "densify.start": 9,
    "densify.every": 8, "densify.stop": 0.9, "densify.gradient": 1e-6, "densify.cap": 90, "densify.reset_every": 17,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


def make(folder: Path, recorder: Recorder | None = None, **more: Any) -> SceneTask:
    settings = SETTINGS | {"data.path": folder} | more
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value).replace("True", "true"))]
    task = SceneTask(config.load(SceneTask.Config, None, words))
    if recorder is not None:
        task.training_step.replays = Poisoned(task.training_step, recorder)
    return task


class Poisoned(Replays):
    """Recordings whose tensors hold NaN once they are given up."""

    def invalidate(self) -> None:
        for step in self._kept.values():
            poison([step._numbers, step._view.image])
        if isinstance(self._recorder, Tape):
            poison(self._recorder.made)
            self._recorder.made.clear()
        super().invalidate()


class Losses(loop.Callback):
    """The losses of every third step; at the others nothing is read before the update."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def wants(self, step: int) -> bool:
        return step % 3 == 0

    def on_step(self, step: int, loss: float, task: Any) -> None:
        self.losses.append(loss)


def learn(task: SceneTask, steps: int, start: int = 0, late: bool = True) -> list[float]:
    kept = Losses()
    loop.fit(task, steps, start=start, callbacks=[kept], progress=False, late=late, check_every=5)
    return kept.losses


def replays_of(task: SceneTask) -> Replays:
    assert task.training_step.replays is not None
    return task.training_step.replays


def counted(task: SceneTask, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are replayed from now on."""
    replayed: list[int] = []
    original = replay.RecordedStep.update

    def update(self: Any, retry: bool) -> None:
        replayed.append(task._step)
        original(self, retry)

    monkeypatch.setattr(replay.RecordedStep, "update", update)
    return replayed


def assert_same(a: SceneTask, b: SceneTask, what: str) -> None:
    (tensors_a, state_a), (tensors_b, state_b) = a.state(), b.state()
    assert state_a == state_b, f"{what}: another order of photographs follows"
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor.cpu(), tensors_b[name].cpu()), f"{what}: {name} differs"


# ---- the bits of training ----


def test_replays_have_the_bits_of_training_without(
    folder: Path, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, tape = make(folder), Tape()
    losses = learn(plain, 40)
    capacities._capacities.clear()
    task = make(folder, tape)
    replayed = counted(task, monkeypatch)
    assert learn(task, 40) == losses, "losses differ, or those of an earlier replay are told"
    assert_same(plain, task, "replayed")
    assert len(plain.gaussians) > 60, "the set never changed, so that this proves little"
    assert len(replayed) >= 30, f"only the steps {replayed} were replayed: recordings are given up for nothing"
    assert 6 <= replays_of(task).made <= 14, f"{replays_of(task).made} recordings for 3 sizes, 3 degrees, 4 changes"
    assert tape.operations > 100, "next to nothing was recorded"


def test_a_view_without_room_is_made_again_and_recorded_anew(
    folder: Path, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make(folder)
    losses = learn(plain, 30)
    capacities._capacities.clear()
    task = make(folder, Tape())
    original, update = replay.RecordedStep.__init__, TrainingStep._update
    cramped_at: list[int] = []
    retried: list[int] = []

    def cramped(self: Any, step: TrainingStep, *arguments: Any) -> None:
        number = step.numbers.step
        if number in (6, 17) and not cramped_at.count(number):
            cramped_at.append(number)
            capacities._capacities[CPU] = capacities.ListSize(10**5, 30)
        original(self, step, *arguments)

    def noted(self: Any, retry: bool) -> None:
        retried.extend([self.numbers.step] if retry else [])
        update(self, retry)

    monkeypatch.setattr(replay.RecordedStep, "__init__", cramped)
    monkeypatch.setattr(TrainingStep, "_update", noted)
    assert learn(task, 30) == losses, "the loss of a step without room is told"
    assert cramped_at == [6, 17], "no recording was made there: choose other steps"
    assert retried == [17], "a step whose update was made is not made again (step 6 is known before its update)"
    assert replays_of(task).made > 8, "what lacked room was not recorded anew"
    assert_same(plain, task, "with too little room at times")


def test_masks_and_photographs_of_two_kinds(folder: Path, emulated: None, tmp_path: Path) -> None:
    """Some photographs have a mask: their steps are recorded apart from those of the others."""
    import imageio.v3 as iio
    import numpy as np

    for index in (1, 2, 4, 5):
        mask = np.full((tiny_scene.HEIGHT, tiny_scene.WIDTH), 255, dtype=np.uint8)
        mask[5 : 10 + 2 * index, 8:30] = 0
        iio.imwrite(tmp_path / f"view_{index}.png.png", mask)
    more = {"data.masks": tmp_path, "coarse": [], "densify.stop": 0.0, "sh_every": 100}
    plain = make(folder, **more)
    losses = learn(plain, 20)
    capacities._capacities.clear()
    task = make(folder, Tape(), **more)
    assert learn(task, 20) == losses
    assert_same(plain, task, "with masks")
    assert replays_of(task).made == 2, "not one recording for views with a mask and one for those without"


def test_a_resumed_run_is_recorded_anew(folder: Path, emulated: None, tmp_path: Path) -> None:
    plain = make(folder)
    losses = learn(plain, 40)
    capacities._capacities.clear()
    task = make(folder, Tape())
    saver = run.Checkpoints(tmp_path, 22)
    loop.fit(task, 30, callbacks=[saver], progress=False, late=True)
    made = replays_of(task).made
    task.load_state(*checkpoint.load(tmp_path / "checkpoints" / "step_0000022"))
    assert not replays_of(task)._kept, "recordings of tensors that are gone are kept"
    resumed = learn(task, 40, start=22)
    assert replays_of(task).made > made and resumed == losses[22 // 3 :], "the losses after resuming are others"
    assert_same(plain, task, "resumed at 22")


@pytest.mark.parametrize("owner", ["parameter", "moments", "statistics"])
def test_tensors_replaced_by_anyone_are_noticed(folder: Path, emulated: None, owner: str) -> None:
    more = {"coarse": [], "densify.start": 100, "densify.reset_every": 100, "sh_every": 100}
    tasks = [make(folder, **more), make(folder, Tape(), **more)]
    for task in tasks:
        learn(task, 7)
        if owner == "parameter":
            task.gaussians.replace("scales", task.gaussians.scales.detach() - 0.1)
        elif owner == "moments":
            task.optimizer.reset_moments("means")
        else:
            task.strategy._reset()
        learn(task, 12, start=7)
    assert replays_of(tasks[1]).made == 2, "a step goes on with tensors that were replaced, or all are recorded anew"
    assert_same(*tasks, f"after other {owner}")


def test_what_is_not_finite_is_found_before_the_update(folder: Path, emulated: None) -> None:
    task = make(folder, Tape(), coarse=[], **{"densify.start": 100, "densify.reset_every": 100})
    learn(task, 8)
    with torch.no_grad():
        task.gaussians.opacities[3] = torch.nan
    with pytest.raises(SplatlearnError, match=r"step 9 \(image 'view_\d\.png'\).*'opacities' has 1 of"):
        learn(task, 12, start=8)


def test_the_loop_sees_gradients_of_the_replay(folder: Path, emulated: None) -> None:
    more = {"coarse": [], "densify.start": 100, "densify.reset_every": 100}
    tasks = [make(folder, **more), make(folder, Tape(), **more)]
    gradients = []
    for task in tasks:
        learn(task, 6)
        view = task.batch(7)
        loss = task.loss(task.forward(view), view)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append(dict(task.named_gradients()))
    assert {"2D means2d", "2D colors"} <= set(gradients[0]), "no gradient, so that this proves nothing"
    for name, wanted in gradients[0].items():
        assert torch.equal(wanted, gradients[1][name]), f"the gradient of {name} is another, or added twice"
    tasks[1].update(7)
    assert not list(tasks[1].named_gradients()), "a gradient outlives its update"


# ---- where nothing is recorded ----


def test_more_kinds_of_views_than_are_kept_are_learned_without(
    folder: Path, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MOST", 1)
    plain = make(folder)
    losses = learn(plain, 22)
    capacities._capacities.clear()
    task = make(folder, Tape())
    assert learn(task, 22) == losses
    assert_same(plain, task, "with one recording")
    assert len(replays_of(task)._kept) == 1


def test_the_cpu_records_nothing_and_exposure_is_refused(folder: Path) -> None:
    assert make(folder, cuda_graph=True, device="cpu").training_step.replays is None
    with pytest.raises(SplatlearnError, match="^'cuda_graph' does not go with 'exposure'"):
        make(folder, cuda_graph=True, exposure=True)


# ---- the recorder ----


def test_a_recording_that_fails_leaves_nothing_behind() -> None:
    tape, seen = Tape(), []

    def work() -> None:
        host_callback(lambda: seen.append("between"))
        raise ValueError("an error of the work")

    with pytest.raises(ValueError, match="an error of the work"):
        tape.record(work)
    assert tape.abandoned == 1 and not seen, "what is between two pieces was done while recording"
    host_callback(lambda: seen.append("now"))
    assert seen == ["now"], "a recording that failed goes on recording"


def test_pieces_are_replayed_in_order_and_nothing_is_done_before() -> None:
    x, seen = torch.zeros(3), []

    def work() -> torch.Tensor:
        x.add_(1)
        host_callback(lambda: seen.append(float(x[0])))
        return x * 2

    doubled, again = Tape().record(work)
    assert not seen and not x.any() and doubled.isnan().all(), "work was done while recording"
    again()
    again()
    assert seen == [1.0, 2.0] and doubled.tolist() == [4.0] * 3, "pieces are out of order"


# ---- a real card ----

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph is recorded on a card alone")


@CARD
def test_a_card_replays_the_bits_of_training_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make(folder, device="cuda")
    losses = learn(plain, 40)
    monkeypatch.setattr(capacities, "_capacities", {})
    task = make(folder, device="cuda", cuda_graph=True)
    replayed = counted(task, monkeypatch)
    assert learn(task, 40) == losses, "losses differ, or those of an earlier replay are told"
    assert_same(plain, task, "replayed on a card")
    assert len(replayed) >= 30, f"only the steps {replayed} were replayed"


@CARD
def test_a_card_waits_for_nothing_in_a_replay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch raises at each operation that would wait for the device."""
    more = {"coarse": [], "densify.start": 100, "densify.reset_every": 100, "sh_every": 100}
    task = make(folder, device="cuda", cuda_graph=True, **more)
    learn(task, 6)
    replayed = counted(task, monkeypatch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (7, 8, 9):
            task.resolve()
            view: View = task.batch(step)
            task.loss(task.forward(view), view).backward()  # type: ignore[no-untyped-call]
            task.update(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert replayed == [7, 8, 9]


@CARD
def test_a_card_uses_the_memory_of_earlier_recordings_again() -> None:
    recorder, x = CudaRecorder(torch.device("cuda:0")), torch.ones(1 << 20, device="cuda")

    def used() -> int:
        result, again = recorder.record(lambda: (x * 2 + 1) * 3)
        again()
        assert result.eq(9).all(), "a replay computes something else"
        return torch.cuda.memory_reserved()

    first = used()
    assert all(used() == first for _ in range(5)), "each recording takes memory of its own"
