"""The loop: its steps in order, what stops it, and that a resumed run equals an uninterrupted one."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatlearn import checkpoint, run
from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.line import LineTask, NoisyLine
from splatlearn.loop import AnyTask, Callback, Interrupted, Task, fit

Hook = Callable[[int, "Probe"], None]


class Probe(Task[Tensor, dict[str, Tensor]]):
    """Two parameters, one without gradient, momentum and random data; writes down the order of its calls."""

    def __init__(self, hook: Hook = lambda step, probe: None) -> None:
        self.generator = torch.Generator().manual_seed(5)
        self.parameters = {
            "weight": torch.ones(3, requires_grad=True),
            "idle": torch.ones(2, requires_grad=True),
        }
        self.momentum = torch.zeros(3)
        self.calls: list[str] = []
        self.hook = hook  # called within the forward pass
        self.mid_update: Callable[[int], None] = lambda step: None
        self.step = 0

    def batch(self, step: int) -> Tensor:
        self.step = step
        self.calls.append(f"batch {step}")
        return torch.rand(3, generator=self.generator)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        self.calls.append("forward")
        self.hook(self.step, self)
        return {"image": self.parameters["weight"] * batch}

    def loss(self, output: dict[str, Tensor], batch: Tensor) -> Tensor:
        self.calls.append("loss")
        return (output["image"] - 1).square().sum()

    def update(self, step: int) -> None:
        self.calls.append(f"update {step}")
        weight = self.parameters["weight"]
        assert weight.grad is not None
        with torch.no_grad():
            self.momentum.mul_(0.9).add_(weight.grad)
            self.mid_update(step)
            weight.sub_(0.01 * self.momentum)
        weight.grad = None

    def after_update(self, step: int) -> None:
        self.calls.append(f"after {step}")

    def describe(self, batch: Tensor) -> str:
        return f"image 'view_{self.step}.jpg'"

    def metrics(self) -> dict[str, float]:
        return {"first": self.parameters["weight"][0].item()}

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.parameters.items())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {**self.parameters, "momentum": self.momentum, "generator": self.generator.get_state()}
        return tensors, {"step": self.step}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.parameters = {name: tensors[name].requires_grad_() for name in self.parameters}
        self.momentum = tensors["momentum"]
        self.generator.set_state(tensors["generator"])
        self.step = state["step"]


def line_task() -> LineTask:
    return LineTask(LineTask.Config(seed=3, batch=8, data=NoisyLine.Config(count=50), device="cpu"))


def train(task: AnyTask, folder: Path, steps: int, start: int = 0, extra: tuple[Callback, ...] = ()) -> None:
    folder.mkdir(exist_ok=True)
    log, saves = run.MetricsLog(folder / "metrics.jsonl", every=2), run.Checkpoints(folder, every=5)
    fit(task, steps, start=start, callbacks=[log, saves, *extra], progress=False)


def learned(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, all but the wall time."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.read_metrics(folder / "metrics.jsonl")]


def assert_same_run(one: Path, other: Path) -> None:
    paths = [checkpoint.latest(folder / "checkpoints") for folder in (one, other)]
    assert paths[0] is not None and paths[1] is not None and paths[0].name == paths[1].name, "other last steps"
    (tensors, state), (tensors2, state2) = checkpoint.load(paths[0]), checkpoint.load(paths[1])
    assert state == state2, "the resumed run's state differs"
    for name, tensor in tensors.items():
        assert torch.equal(tensor, tensors2[name]), f"the resumed run's '{name}' differs"
    assert learned(one) == learned(other), "the resumed run's metrics differ"


# ---- the five steps ----


def test_the_order_of_a_step() -> None:
    task = Probe()
    fit(task, 2, progress=False)
    assert task.calls == [
        *("batch 1", "forward", "loss", "update 1", "after 1"),
        *("batch 2", "forward", "loss", "update 2", "after 2"),
    ], "the steps of the loop are out of order, or steps are not counted from 1"


class Recorder(Callback):
    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.losses: list[float] = []

    def on_start(self, start: int, task: AnyTask) -> None:
        self.events.append(("start", start))

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self.events.append(("step", step))
        self.losses.append(loss)

    def on_end(self, step: int, task: AnyTask) -> None:
        self.events.append(("end", step))


def test_callbacks_see_every_step_from_start() -> None:
    recorder = Recorder()
    fit(Probe(), 4, start=2, callbacks=[recorder], progress=False)
    assert recorder.events == [("start", 2), ("step", 3), ("step", 4), ("end", 4)], "start is not honoured"
    recorder = Recorder()
    fit(Probe(), 2, start=5, callbacks=[recorder], progress=False)
    assert recorder.events == [("start", 5), ("end", 5)], "a finished run makes further steps"


def test_the_loss_is_that_of_before_the_update() -> None:
    recorder, task = Recorder(), Probe()
    fit(task, 1, callbacks=[recorder], progress=False)
    batch = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert recorder.losses == [(batch - 1).square().sum().item()], "the callback got another loss"


def test_every_calls_on_multiples() -> None:
    seen: list[int] = []
    fit(Probe(), 7, start=1, callbacks=[run.Every(3, lambda step, _: seen.append(step))], progress=False)
    assert seen == [3, 6], "Every counts from the start of this part rather than from step 0"


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(line_task(), tmp_path / "run", 10)
    assert torch.equal(before, torch.random.get_rng_state()), "training drew from the global generator"


def test_a_progress_bar_is_drawn_on_demand(capfd: pytest.CaptureFixture[str]) -> None:
    fit(Probe(), 3, progress=False)
    assert capfd.readouterr().err == "", "progress=False still draws"
    fit(Probe(), 3)
    assert "3/3" in capfd.readouterr().err, "the bar does not reach the end"


# ---- resume ----


@pytest.mark.parametrize("make", [line_task, Probe])
@pytest.mark.parametrize("stop", [5, 10, 15])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, make: Callable[[], AnyTask], stop: int) -> None:
    train(make(), tmp_path / "whole", 20)
    train(make(), tmp_path / "parts", stop)
    task = make()
    start = run.resume(task, tmp_path / "parts")
    assert start == stop, "resume starts at another step"
    train(task, tmp_path / "parts", 20, start)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    train(line_task(), tmp_path / "whole", 20)
    train(line_task(), tmp_path / "parts", 10)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:  # killed at step 12, in the middle of a line
        file.write('{"step": 12, "loss": 1.0, "seconds": 9.0}\n{"step": 14, "lo')
    task = line_task()
    train(task, tmp_path / "parts", 20, run.resume(task, tmp_path / "parts"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_seconds_go_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0, "seconds": 1000.5}\n')
    fit(Probe(), 2, start=1, callbacks=[run.MetricsLog(path)], progress=False)
    assert run.read_metrics(path)[-1]["seconds"] >= 1000.5, "the clock of a resumed run starts anew"


def test_metrics_lines(tmp_path: Path) -> None:
    train(Probe(), tmp_path, 5)
    lines = learned(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 4], "logged steps are 1 and the multiples of every"
    assert set(lines[0]) == {"step", "loss", "first"}, "a field is missing"


@pytest.mark.parametrize("bad", ["no JSON", "[1]", '{"step": 1}', '{"step": "x", "seconds": 1}'])
def test_a_garbled_metrics_file_is_one_sentence(tmp_path: Path, bad: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "seconds": 0}}\n{bad}\n')
    with pytest.raises(SplatlearnError, match="metrics.jsonl, line 2: expected"):
        run.read_metrics(tmp_path / "metrics.jsonl")


def test_run_folders(tmp_path: Path) -> None:
    run.create(tmp_path / "new" / "run")
    run.create(tmp_path / "new" / "run")  # empty, so it may be taken
    with pytest.raises(SplatlearnError, match="holds no checkpoint"):
        run.resume(Probe(), tmp_path / "new" / "run")
    (tmp_path / "new" / "run" / "notes.txt").write_text("mine")
    with pytest.raises(SplatlearnError, match="exists already; .*--out.*--resume"):
        run.create(tmp_path / "new" / "run")
    with pytest.raises(SplatlearnError, match="cannot make the run folder"):
        run.create(tmp_path / "new" / "run" / "notes.txt")


# ---- what is not finite ----


def spoil(name: str, at: int) -> Hook:
    """Puts NaN into a parameter in the forward pass of a step."""

    def spoil_parameter(step: int, probe: Probe) -> None:
        if step == at:
            probe.parameters[name].data[1] = float("nan")

    return spoil_parameter


def test_a_bad_parameter_is_named_before_the_update(tmp_path: Path) -> None:
    task = Probe(spoil("weight", 8))
    expected = r"step 8 \(image 'view_8.jpg'\), before its update: parameter 'weight' has 1 of 3 values"
    with pytest.raises(SplatlearnError, match=expected):
        train(task, tmp_path, 20)
    assert task.calls[-1] == "loss", "the update was made with NaN"
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert last is not None and checkpoint.step_of(last) == 5, "the checkpoint before the NaN is not the last one"
    assert [line["step"] for line in learned(tmp_path)] == [1, 2, 4, 6], "the bad step was logged"


class BadOutput(Probe):
    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {
            "depth": torch.ones(1),
            "image": super().forward(batch)["image"] / torch.tensor([1.0, 0.0, 1.0]),
        }


class BadLoss(Probe):
    def loss(self, output: dict[str, Tensor], batch: Tensor) -> Tensor:
        return super().loss(output, batch) / 0.0


class BadBatch(Probe):
    def batch(self, step: int) -> Tensor:
        return super().batch(step).log() - float("inf")


class BadGradient(Probe):
    """The loss is finite, its derivative is not: that of the square root at 0."""

    def loss(self, output: dict[str, Tensor], batch: Tensor) -> Tensor:
        return super().loss(output, batch) + (0 * output["image"]).sqrt().sum()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (BadOutput, "the output 'image' has 1 of 3"),
        (BadLoss, "the loss has 1 of 1"),
        (BadBatch, "the batch has 3 of 3"),
        (BadGradient, "the gradient of 'weight' has 3 of 3"),
    ],
)
def test_the_first_bad_tensor_is_named(kind: type[Probe], name: str) -> None:
    task = kind()
    with pytest.raises(SplatlearnError, match=f"step 1 .*: {name} values that are not finite"):
        fit(task, 5, progress=False)
    assert "update 1" not in task.calls, "the update was made all the same"


def test_bad_gradients_are_looked_for_now_and_then() -> None:
    class Later(BadGradient):
        def loss(self, output: dict[str, Tensor], batch: Tensor) -> Tensor:
            return super().loss(output, batch) if self.step == 6 else Probe.loss(self, output, batch)

    with pytest.raises(SplatlearnError, match="step 6 .*gradient of 'weight'"):
        fit(Later(), 10, progress=False, check_every=3)


def test_nan_from_an_update_is_never_saved(tmp_path: Path) -> None:
    task = Probe()

    def spoil_momentum(step: int) -> None:
        if step == 10:
            task.momentum.fill_(float("nan"))

    task.mid_update = spoil_momentum
    with pytest.raises(SplatlearnError, match="a metric is not finite|step 10 was not saved"):
        train(task, tmp_path, 20)
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert last is not None and checkpoint.step_of(last) == 5, "a checkpoint with NaN was written"
    for tensor in checkpoint.load(last)[0].values():
        assert torch.isfinite(tensor).all(), "a saved tensor is not finite"


# ---- losses that stay on the device ----


class Watcher(Recorder):
    """Wants every fourth step."""

    def wants(self, step: int) -> bool:
        return step % 4 == 0


def test_late_losses_are_those_read_at_once() -> None:
    losses = []
    for late in (False, True):
        recorder = Watcher()
        fit(Probe(), 10, callbacks=[recorder], progress=False, late=late)
        assert [step for name, step in recorder.events if name == "step"] == [4, 8], "steps that nobody wants are told"
        losses.append(recorder.losses)
    assert losses[0] == losses[1], "a loss that is read late is another one"


def test_late_runs_leave_the_same_files(tmp_path: Path) -> None:
    for name, late in (("now", False), ("late", True)):
        folder = tmp_path / name
        folder.mkdir()
        watchers = [run.MetricsLog(folder / "metrics.jsonl", every=2), run.Checkpoints(folder, every=5)]
        fit(Probe(), 20, callbacks=watchers, progress=False, late=late)
    assert_same_run(tmp_path / "now", tmp_path / "late")


class LossAt(Probe):
    """Its loss is not finite in one step, and fine before and after: only who reads that one can tell."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def loss(self, output: dict[str, Tensor], batch: Tensor) -> Tensor:
        loss = super().loss(output, batch)
        return loss + float("inf") if self.step == self.at else loss


@pytest.mark.parametrize("at", [2, 7, 13, 24])
def test_a_loss_found_late_is_named_and_never_saved(tmp_path: Path, at: int) -> None:
    watchers = [run.MetricsLog(tmp_path / "metrics.jsonl", every=10), run.Checkpoints(tmp_path, every=10)]
    found = at + -at % 10 if at < 21 else 25
    expected = rf"training stopped at step {found}: the loss of step {at} \(image 'view_{at}.jpg'\) is not finite"
    with pytest.raises(SplatlearnError, match=expected):
        fit(LossAt(at), 40, callbacks=watchers, progress=False, late=True)
    saved = [checkpoint.step_of(path) for path in (tmp_path / "checkpoints").glob("step_*")]
    assert all(step < at for step in saved), "a checkpoint was saved after a loss that is not finite"
    assert all(line["step"] < at for line in run.read_metrics(tmp_path / "metrics.jsonl")), "it was logged as well"


def test_a_loss_that_is_read_at_its_own_step_is_explained() -> None:
    with pytest.raises(
        SplatlearnError, match=r"step 25 \(image 'view_25.jpg'\), before its update: the loss has 1 of 1"
    ):
        fit(LossAt(25), 40, progress=False, late=True)


def test_ctrl_c_saves_nothing_after_a_loss_that_was_not_read(tmp_path: Path) -> None:
    class PressIn(LossAt):
        def after_update(self, step: int) -> None:
            if step == 9:
                press()

    saves = run.Checkpoints(tmp_path, every=100)
    with pytest.raises(SplatlearnError, match="step 8 .*its loss is not finite"):
        fit(PressIn(8), 40, callbacks=[saves], progress=False, late=True)
    assert checkpoint.latest(tmp_path / "checkpoints") is None, "Ctrl-C saved what a bad loss has spoiled"


def test_late_losses_keep_no_graph() -> None:
    """A kept loss with its graph would keep the pictures of all steps since the last reading."""
    import gc
    import weakref

    alive: list[weakref.ref[Tensor]] = []

    class Tracked(Probe):
        def loss(self, output: dict[str, Tensor], batch: Tensor) -> Tensor:
            alive.append(weakref.ref(output["image"]))
            return super().loss(output, batch)

        def after_update(self, step: int) -> None:
            gc.collect()
            assert sum(image() is not None for image in alive) <= 1, "outputs of earlier steps are kept"

    fit(Tracked(), 8, progress=False, late=True)


def test_a_step_made_again_gives_the_loss_that_counts() -> None:
    class Again(Probe):
        """What its device did in step 3 turns out to be nothing, and is made again."""

        def resolve(self) -> Tensor | None:
            return torch.tensor(77.0) if self.step == 3 else None

    for late in (False, True):
        recorder = Recorder()
        fit(Again(), 3, callbacks=[recorder], progress=False, late=late)
        assert recorder.losses[-1] == 77.0, "the loss of the step that did nothing is told"


# ---- Ctrl-C ----


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Press(Callback):
    """Presses Ctrl-C at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        if step == self.at:
            press()


def test_ctrl_c_saves_and_tells_how_to_go_on(tmp_path: Path) -> None:
    train(line_task(), tmp_path / "whole", 20)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped after step 7; go on with: .*--resume .*parts$") as caught:
        train(line_task(), tmp_path / "parts", 20, extra=(Press(7),))
    assert caught.value.step == 7, "the exception tells another step"
    assert signal.getsignal(signal.SIGINT) is before, "the handler for Ctrl-C was not put back"
    task = line_task()
    assert run.resume(task, tmp_path / "parts") == 7, "the checkpoint is not of the last complete step"
    train(task, tmp_path / "parts", 20, start=7)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_within_an_update_waits_for_its_end(tmp_path: Path) -> None:
    train(Probe(), tmp_path / "whole", 20)
    task = Probe()
    task.mid_update = lambda step: press() if step == 8 else None
    with pytest.raises(Interrupted):
        train(task, tmp_path / "parts", 20)
    resumed = Probe()
    assert run.resume(resumed, tmp_path / "parts") == 8, "the step in progress was thrown away or counted twice"
    train(resumed, tmp_path / "parts", 20, start=8)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_in_the_last_save_still_stops_the_program(tmp_path: Path) -> None:
    class PressAtEnd(Callback):
        def on_end(self, step: int, task: AnyTask) -> None:
            press()

    with pytest.raises(Interrupted, match="after step 5"):
        train(Probe(), tmp_path, 5, extra=(PressAtEnd(),))


def test_a_second_ctrl_c_while_saving_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, armed = os.fsync, Press(7)

    def sync(descriptor: int) -> None:
        real(descriptor)
        names = [path.name for path in (tmp_path / "checkpoints").glob("*")]
        if len(names) == 2 and "step_0000005" in names:  # that of step 7 is being written
            press()

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(KeyboardInterrupt):
        train(Probe(), tmp_path, 20, extra=(armed,))
    monkeypatch.undo()
    assert run.resume(Probe(), tmp_path) == 5, "the earlier checkpoint is gone, or half of a later one counts"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0000005"], "litter was left"


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        recorder = Recorder()
        fit(Probe(), 3, callbacks=[Press(1), recorder], progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert recorder.events[-1] == ("end", 3), "a background job was stopped by a Ctrl-C that it ignores"


def test_the_loop_runs_in_another_thread() -> None:
    recorder = Recorder()
    thread = threading.Thread(target=lambda: fit(Probe(), 3, callbacks=[recorder], progress=False))
    thread.start()
    thread.join()
    assert recorder.events[-1] == ("end", 3), "fit needs the main thread"


# ---- devices ----


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu"), "cpu is not the CPU"
    assert choose_device("auto").type in ("cpu", "cuda"), "auto chose something odd"
    for name in ("gpu", "cuda:99", "", "cpu:x", "meta"):
        with pytest.raises(SplatlearnError, match=f"device must be .*, got '{name}'"):
            choose_device(name)


def test_metrics_are_plain_json_lines(tmp_path: Path) -> None:
    train(line_task(), tmp_path, 2)
    texts = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text)["step"] for text in texts] == [1, 2], "metrics.jsonl is not one JSON object a line"
