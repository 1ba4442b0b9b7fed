"""The loop, once: forward, loss, backward, update, repeat; a line, a scene and a language plug into it."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.interrupt import DeferredInterrupt

Batch = TypeVar("Batch")
Output = TypeVar("Output")


class Task(ABC, Generic[Batch, Output]):
    """What is learned. A task owns its parameters, its optimizer and a private ``torch.Generator``.

    Steps are numbered from 1: ``step`` is the update being made. Randomness comes from the private generator
    alone, whose state is part of ``state()``, so that a resumed run repeats an uninterrupted one bit for bit.

    parts: how many pieces the data of a step come in, one after another; their losses and gradients add up.
    writes: whether this process writes files; of several that learn together, one does.
    """

    parts: int = 1
    writes: bool = True

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """The data of this step, or the next of its parts."""

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """The model's answer: a tensor, or a mapping or sequence that holds tensors."""

    @abstractmethod
    def loss(self, output: Output, batch: Batch) -> Tensor:
        """How wrong the answer is, or its share of the step's loss: a scalar tensor that can be differentiated."""

    @abstractmethod
    def update(self, step: int) -> None:
        """Apply the gradients to the parameters, then clear them (``zero_grad``)."""

    def after_update(self, step: int) -> None:  # noqa: B027  (a hook that most tasks leave empty)
        """What follows an update, such as densification."""

    def resolve(self) -> Tensor | None:
        """Called before anything of the steps so far is read, and before the next one.

        A task that works ahead of its device sees to it here that the last step is made whole; where it had to be
        made again, its loss is returned.
        """
        return None

    def introduction(self, start: int, steps: int) -> str:
        """A sentence to print before the steps, such as what is known of them beforehand; "" for none."""
        return ""

    def conclusion(self, step: int) -> str:
        """A sentence to print after the last step, such as what came of it; "" for none."""
        return ""

    def progress(self) -> str:
        """What the progress bar shows beside the loss, such as a speed."""
        return ""

    def describe(self, batch: Batch) -> str:
        """A name of the batch for error messages, such as ``image 'IMG_1.jpg'``."""
        return "its batch"

    def metrics(self) -> dict[str, Any]:
        """Further JSON-able fields of a logged step; the same bits in every run of the same seed."""
        return {}

    @abstractmethod
    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """What is learned, by name; a parameter's ``grad`` may be None."""

    def named_gradients(self) -> Iterable[tuple[str, Tensor]]:
        """What backward has left for the update, by name: the parameters' gradients, if a task has no others."""
        return [(name, tensor.grad) for name, tensor in self.named_parameters() if tensor.grad is not None]

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs: tensors (the generator's state too), and a JSON-able dict."""

    @abstractmethod
    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take back what ``state`` returned."""


AnyTask = Task[Any, Any]


class Callback:
    """What watches a loop. Callbacks are called in the order given; none may change the task."""

    def on_start(self, start: int, task: AnyTask) -> None:
        """Before step ``start + 1``."""

    def wants(self, step: int) -> bool:
        """Whether ``on_step`` is to be called after this step; on a CUDA device the loop waits for such a step."""
        return True

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        """After step ``step`` is complete, if wanted."""

    def done(self) -> bool:
        """Whether training is to end now, before all its steps are made; asked after `on_step`."""
        return False

    def on_interrupt(self, step: int, task: AnyTask) -> str | None:
        """After the last complete step, when Ctrl-C was pressed; may return a sentence on how to go on."""
        return None

    def on_end(self, step: int, task: AnyTask) -> None:
        """After the last step."""


class Interrupted(Exception):
    """Ctrl-C stopped the loop after a complete step; the message says how to go on."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def fit(
    task: Task[Batch, Output],
    steps: int,
    *,
    start: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    check_every: int = 25,
    late: bool | None = None,
) -> int:
    """Make the steps ``start + 1 .. steps`` of ``task``, or fewer where a callback is done; returns the last one.

    The loss is checked in every step, the parameters and gradients in the first and every ``check_every``-th
    (to read all of them costs some percent of a step), always before the update.

    late: losses stay on the device, and are read together in every ``check_every``-th step, where a callback wants
    the step, and at the end; None: where the device is not the CPU, for there to read is to wait.

    Raises SplatlearnError naming step, batch and tensor when one is not finite, and Interrupted after Ctrl-C:
    the step in progress and its callbacks are finished first, so that no half-made update is ever saved.
    """
    for callback in callbacks:
        callback.on_start(start, task)
    _say(task.introduction(start, steps), progress)
    losses = _Losses(task, late)
    step = start
    with DeferredInterrupt() as interrupt, _progress_bar(start, steps, progress) as bar:
        for step in range(start + 1, steps + 1):
            losses.resolve()
            for _ in range(task.parts):
                batch = task.batch(step)
                output = task.forward(batch)
                loss = task.loss(output, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                losses.add(step, batch, loss)
            watching = [callback for callback in callbacks if callback.wants(step)]
            thorough = step == start + 1 or step % check_every == 0
            if thorough or watching or step == steps or not losses.late:
                value = losses.read()
                if not math.isfinite(value):
                    _refuse_non_finite(step, task, batch, {"batch": batch, "output": output, "loss": loss})
                elif thorough:
                    _refuse_non_finite(step, task, batch, {})
            task.update(step)
            task.after_update(step)
            for callback in watching:
                callback.on_step(step, value, task)
            bar.set_postfix_str(f"loss {value:.4g}{task.progress()}", refresh=False)
            bar.update()
            if interrupt.requested:
                losses.refuse_non_finite()
                raise _interrupted(step, task, callbacks)
            if any(callback.done() for callback in watching):
                break
        for callback in callbacks:
            callback.on_end(step, task)
        _say(task.conclusion(step), progress)
        if interrupt.requested:
            raise _interrupted(step, task, callbacks)
    return step


def _say(sentence: str, progress: bool) -> None:
    if sentence and progress:
        tqdm.write(sentence)


def _progress_bar(start: int, steps: int, progress: bool) -> "tqdm[Any]":
    pause = 0.2 if sys.stderr.isatty() else 10.0  # a log file wants few lines
    return tqdm(total=steps, initial=start, disable=not progress, mininterval=pause, unit=" step")


# ---- losses, and the finite check ----


class _Losses:
    """Losses on their way to the host: read at once on a CPU, kept on a device, where to read one is to wait."""

    def __init__(self, task: AnyTask, late: bool | None) -> None:
        self.task = task
        self._late = late
        self._kept: list[tuple[int, str, Tensor]] = []  # step, name of its batch, loss

    @property
    def late(self) -> bool:
        """Whether reading is put off; known from the first loss on."""
        return bool(self._late)

    def add(self, step: int, batch: Any, loss: Tensor) -> None:
        """Keeps the loss of a step, or adds that of a further part of it."""
        if self._late is None:
            self._late = loss.device.type != "cpu"
        if self._kept and self._kept[-1][0] == step:
            loss = self._kept.pop()[2] + loss
        self._kept.append((step, self.task.describe(batch) if self._late else "", loss.detach()))

    def resolve(self) -> None:
        """Lets the task make whole what it has begun, and corrects the last loss."""
        again = self.task.resolve()
        if again is not None and self._kept:
            self._kept[-1] = (*self._kept[-1][:2], again)

    def read(self) -> float:
        """The loss of the step in progress, once those before it are known to be finite."""
        self.resolve()
        *before, (now, _, last) = self._kept
        self._kept = []
        if not before:
            return float(last.item())
        *values, value = torch.stack([loss for _, _, loss in before] + [last]).tolist()
        for (step, name, _), old in zip(before, values, strict=True):
            if not math.isfinite(old):
                raise SplatlearnError(f"training stopped at step {now}: the loss of step {step} ({name}) is not finite")
        return float(value)

    def refuse_non_finite(self) -> None:
        """Raises if a loss that was not read yet is not finite; the task is made whole."""
        self.resolve()
        for step, name, loss in self._kept:
            if not torch.isfinite(loss):
                raise SplatlearnError(f"training stopped after step {step} ({name}): its loss is not finite")
        self._kept = []


def _refuse_non_finite(step: int, task: AnyTask, batch: Any, results: Mapping[str, Any]) -> None:
    """Raise if a tensor is not finite; the first one is named."""
    for name, tensor in _inspected(task, results):
        # A sum needs no memory beside the tensor; it is finite only if all values are, and seldom not if they are.
        if torch.isfinite(tensor.detach().sum()):
            continue
        finite = torch.isfinite(tensor.detach())
        if not finite.all():
            bad = tensor.numel() - int(finite.sum())
            raise SplatlearnError(
                f"training stopped at step {step} ({task.describe(batch)}), before its update: {name} "
                f"has {bad} of {tensor.numel()} values that are not finite"
            )


def _inspected(task: AnyTask, results: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by cause: a bad parameter or batch spoils the output, that the loss, that the gradients."""
    for name, parameter in task.named_parameters():
        yield f"parameter '{name}'", parameter
    yield from _tensors_within("", results)
    for name, gradient in task.named_gradients():
        yield f"the gradient of '{name}'", gradient


def _tensors_within(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if hasattr(value, "_asdict"):  # a named tuple
        value = value._asdict()
    if isinstance(value, Tensor):
        yield f"the {name}", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors_within(f"{name} '{key}'" if name else str(key), item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors_within(f"{name} {index}", item)


# ---- Ctrl-C ----


def _interrupted(step: int, task: AnyTask, callbacks: Sequence[Callback]) -> Interrupted:
    advice = [text for callback in callbacks if (text := callback.on_interrupt(step, task))]
    return Interrupted(step, "; ".join([f"stopped after step {step}", *advice]))
