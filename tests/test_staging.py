"""What a training step waits for: on a card nothing, shown as far as it goes on the emulator; and steps made again."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from typing import Any

import pytest
import tiny_scene
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from splatlearn import config, loop, run
from splatlearn.ops import capacity as capacities
from splatlearn.scene.gaussians import Rendering
from splatlearn.scene.photos import staging
from splatlearn.scene.photos.staging import Staging, upload
from splatlearn.scene.training.memory import learned_bytes, mebibytes, memory, reset_peak
from splatlearn.scene.training.task import SceneTask
from splatlearn.scene.view import View

CPU = torch.device("cpu")
SETTINGS = {
    "steps": 24, "sh_degree": 1, "sh_every": 4, "log_every": 8, "densify.start": 4, "densify.every": 8,
    "densify.stop": 0.9, "densify.gradient": 1e-6, "densify.cap": 90, "densify.reset_every": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("tiny") / "scene")


def make(folder: Path, cls: Any = SceneTask, **more: Any) -> Any:
    settings = SETTINGS | {"data.path": folder, "device": "cpu"} | more
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return cls(config.load(SceneTask.Config, None, words))


# ---- nothing is waited for ----


# Operations that give the host a number, or a tensor whose size depends on one: on a CUDA device the host waits.
WAITS = (
    "aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero",
    "aten.unique", "aten._unique2", "aten.bincount", "aten.repeat_interleave.Tensor",
)  # fmt: skip
# Where CPU tensors alone are looked at: the line has a guard `is_cuda`, or the function another branch for CUDA.
GUARDED = {("capacity.py", "wait"), ("project.py", "_camera_centers")}


class Waits(TorchDispatchMode):
    """Notes what would wait for a CUDA device, by the line of this project that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        masked = str(func).startswith(("aten.index.", "aten.index_put", "aten._index_put")) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or str(func).startswith(WAITS):
            line = self._line()
            if line is not None:
                self.found.append(f"{func}: {line}")
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _line() -> str | None:
        """The innermost line of the package, unless CPU tensors alone come there."""
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if "splatlearn" in path.parts and path.parent.name in ("ops", "scene", "splatlearn"):
                text = linecache.getline(frame.filename, frame.lineno or 0).strip()
                if "is_cuda" in text or (path.name, frame.name) in GUARDED:
                    return None
                return f"{path.name}:{frame.lineno} {text}"
        return "outside of the package"


class Counting(loop.Callback):
    """Switches the mode on for the steps that nobody reads: after step 1, up to the next log line."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end, self.mode = begin, end, Waits()

    def wants(self, step: int) -> bool:
        return step in (self.begin, self.end)

    def on_step(self, step: int, loss: float, task: Any) -> None:
        if step == self.begin:
            self.mode.found.clear()
            self.mode.__enter__()
        else:
            self.mode.__exit__(None, None, None)


def test_a_step_reads_nothing_between_log_lines(folder: Path, emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    task, counting = make(folder), Counting(1, 8)
    original = task.batch

    def batch(step: int) -> View:
        if step == 8:  # whose loss is read, and in which a new round is shuffled on the host
            waits.extend(counting.mode.found)
        return original(step)

    waits: list[str] = []
    task.batch = batch
    for name in ("tolist", "numpy", "cpu"):  # which no operation tells of
        known = getattr(torch.Tensor, name)
        told = lambda self, name=name, known=known: counting.mode.found.append(name) or known(self)  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, told)
    # The strategy changes nothing before step 8, where the number of Gaussians may change and must be known.
    loop.fit(task, 8, callbacks=[counting], progress=False, late=True)
    assert counting.mode.operations > 500, "the mode saw no steps, so that this proves nothing"
    assert "tolist" in counting.mode.found, "the reading at the end was not seen, so that others would not be"
    assert waits == [], "a step waits for its device"


def test_the_mode_sees_what_waits() -> None:
    """The check above can fail: each kind of waiting is found."""
    with Waits() as mode:
        tensor = torch.arange(5)
        for wait in (
            lambda: tensor.sum().item(),
            lambda: bool((tensor > 2).any()),
            lambda: tensor[tensor > 2],
            lambda: tensor.nonzero(),
            lambda: int(tensor[0]),
        ):
            before = len(mode.found)
            wait()
            assert len(mode.found) > before, "an operation that waits is not seen"
        before = len(mode.found)
        _ = tensor[2:4] + tensor[[0, 1]] * (tensor[:2] > 1)
        assert len(mode.found) == before, "an operation that does not wait is taken for one that does"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card is here")
def test_a_step_on_a_card_waits_for_nothing(folder: Path) -> None:
    """PyTorch itself raises at each operation that would wait."""
    task = make(folder, device="cuda")
    loop.fit(task, 3, progress=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (4, 5, 6):
            task.resolve()
            view = task.batch(step)
            task.loss(task.forward(view), view).backward()  # type: ignore[no-untyped-call]
            task.update(step)
            task.after_update(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- steps made again ----


class Narrow(SceneTask):
    """Before some steps all but a little room is lost, so that lists do not fit; notes what is made again."""

    lacking: tuple[int, ...] = ()

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.drawn: list[int] = []
        self.redone: list[int] = []
        render, update = self.training_step._render, self.training_step._update

        def noted_render() -> Rendering:
            self.drawn.append(self._step)
            return render()

        def noted_update(retry: bool) -> None:
            self.redone.extend([self._step] * retry)
            update(retry)

        self.training_step._render = noted_render  # type: ignore[method-assign]
        self.training_step._update = noted_update  # type: ignore[method-assign]

    def batch(self, step: int) -> View:
        view = super().batch(step)
        if step in self.lacking:
            capacities._capacities.update(dict.fromkeys(capacities._capacities, capacities.ListSize(10, 10)))
        return view


LACKING = (2, 3, 8, 11, 12, 16, 20, 23, 24)  # plain ones, logged ones, and those before growth, reset, checkpoint, end


@pytest.mark.parametrize("exposure", [False, True])
def test_a_step_without_room_is_made_again(folder: Path, emulated: None, tmp_path: Path, exposure: bool) -> None:
    tasks, figures = [], []
    for lacking in ((), LACKING):
        task = make(folder, Narrow, exposure=str(exposure).lower())
        task.lacking = lacking
        log = run.MetricsLog(tmp_path / f"{len(lacking)}.jsonl", every=4)
        saves = run.Checkpoints(tmp_path / str(len(lacking)), every=10)
        loop.fit(task, 24, callbacks=[log, saves], progress=False, late=True)
        lines = run.read_metrics(log.path)
        figures.append([(line["step"], line["loss"], line["num_gaussians"]) for line in lines])
        tasks.append(task)
    roomy, narrow = tasks
    assert roomy.drawn == list(range(1, 25)), "a step that had room is made again"
    assert narrow.drawn == sorted([*range(1, 25), *LACKING]), "a step that lacked room is not made again, or twice"
    assert narrow.redone == [2, 3, 11, 23], "steps that were not read are updated again, those read had no update yet"
    assert len(roomy.gaussians) > 60, "nothing grew, so that this proves little"
    assert figures[0] == figures[1], "the loss of a step that lacked room was logged"
    tensors = roomy.state()[0]
    for name, tensor in narrow.state()[0].items():
        assert torch.equal(tensor, tensors[name]), f"{name} differs where steps lacked room"


# ---- staging ----


def test_on_a_cpu_tensors_are_handed_on() -> None:
    photo, loads = torch.arange(12, dtype=torch.uint8), []
    stage = Staging(CPU)

    def load() -> dict[str, torch.Tensor]:
        loads.append(1)
        return {"image": photo}

    stage.send("a", load)
    assert loads == [], "a CPU decodes in threads of its own; here it would only wait"
    taken = stage.take("a", load)
    assert taken["image"] is photo and loads == [1]
    assert upload(photo, CPU) is photo, "a copy for nothing"


class FakeStream:
    """A stream and its events, which write down what is asked of them."""

    def __init__(self, *_: Any) -> None:
        self.calls: list[str] = []

    def wait_event(self, event: FakeStream) -> None:
        self.calls.append("wait")

    def record(self, stream: FakeStream) -> None:
        stream.calls.append("record")

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_photograph_sent_ahead_is_loaded_once_and_waited_for_by_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card's half of staging, with stand-ins for streams: the order of calls is what can be proven here."""
    second, current = FakeStream(), FakeStream()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: second)
    monkeypatch.setattr(torch.cuda, "Event", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: stream.calls.append("keep"))
    sent: list[torch.dtype] = []

    def fake_upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        sent.append(tensor.dtype)
        return tensor.clone()

    monkeypatch.setattr(staging, "upload", fake_upload)
    stage, loads = Staging(torch.device("cuda"), keep=0), []

    def load(name: str) -> dict[str, torch.Tensor]:
        loads.append(name)
        return {"image": torch.full((4,), ord(name), dtype=torch.uint8)}

    stage.send("a", lambda: load("a"))
    stage.send("a", lambda: load("a"))
    assert loads == ["a"] and sent == [torch.uint8], "sent twice, or not as bytes"
    assert current.calls == [] and second.calls == ["record"], "the present step is stopped by what is sent"
    photo = stage.take("a", lambda: load("a"))["image"]
    assert int(photo[0]) == ord("a") and loads == ["a"], "loaded again, or another photograph"
    assert current.calls == ["wait", "keep"], "the step may read before the bytes are there, or lose them"
    stage.send("b", lambda: load("b"))
    other = stage.take("c", lambda: load("c"))["image"]
    assert int(other[0]) == ord("c"), "what was sent is taken for what was asked for"
    assert loads == ["a", "b", "c"]
    stage.take("b", lambda: load("b"))
    assert loads == ["a", "b", "c", "b"], "what was sent and not taken is kept for ever"

    stage, loads = Staging(torch.device("cuda"), keep=9), []
    for name in "abcabc":  # of four bytes each, two of which may stay
        stage.send(name, lambda name=name: load(name))  # type: ignore[misc]
        photo = stage.take(name, lambda name=name: load(name))["image"]  # type: ignore[misc]
        assert int(photo[0]) == ord(name), "another photograph is kept"
    assert loads == ["a", "b", "c", "c"], "what stays on the card is fetched again, or more stays than may"


def test_the_next_photograph_is_sent_while_a_step_runs(folder: Path) -> None:
    task = make(folder)
    sent: list[str] = []
    task.staging.send = lambda name, load: sent.append(name)  # type: ignore[method-assign]
    names = []
    for step in range(1, 6):
        view = task.batch(step)
        names.append(view.camera.name)
        task.loss(task.forward(view), view).backward()  # type: ignore[no-untyped-call]
        task.update(step)
    assert sent[:4] == names[1:], "another photograph is sent than the next step learns from"


# ---- memory ----


def test_peaks_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reset_peak(CPU)
    before = memory(CPU)
    block = torch.ones(40 << 18)  # 40 MiB
    held = memory(CPU)
    del block
    after = memory(CPU)
    assert held.resident > before.resident + (30 << 20), "what is held is not seen"
    assert after.resident_peak >= held.resident - (1 << 20) and after.cuda_peak == 0, "the peak is forgotten"
    assert learned_bytes([torch.zeros(10), torch.zeros(5, dtype=torch.float64)]) == 4 * (40 + 40)
    assert mebibytes(3 << 20) == "3 MiB"
    loop.fit(make(folder), 1)
    out = capsys.readouterr()
    assert "peak memory" in out.out + out.err and "3 times parameters" in out.out + out.err, "a run does not tell"
