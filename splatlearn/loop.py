"""The loop, once: forward, loss, backward, update, repeat; a line, a scene and a language plug into it."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from splatlearn.errors import SplatlearnError
from splatlearn.interrupt import DeferredInterrupt, Interrupted
from splatlearn.task import AnyTask, Batch, Callback, Output, Task

# ---- the loop ----


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

    Raises SplatlearnError naming step, batch and tensor when one is not finite, and Interrupted after Ctrl-C, SIGTERM
    or SIGHUP: the step in progress and its callbacks are finished first, so that no half-made update is ever saved.
    """
    for callback in callbacks:
        callback.on_start(start, task)
    _say(task.introduction(start, steps), progress)
    losses = _Losses(task, late)
    step = start
    with DeferredInterrupt() as interrupt, _progress_bar(start, steps, progress) as bar:
        ended = start > 0 and any(callback.done() for callback in callbacks)  # by what was measured before `start`
        for step in range(start + 1, start + 1 if ended else steps + 1):
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
                raise _interrupted(step, task, callbacks, interrupt.requested)
            if any(callback.done() for callback in watching):
                break
        for callback in callbacks:
            callback.on_end(step, task)
        _say(task.conclusion(step), progress)
        if interrupt.requested:
            raise _interrupted(step, task, callbacks, interrupt.requested)
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


# ---- the end by a signal ----


def _interrupted(step: int, task: AnyTask, callbacks: Sequence[Callback], number: int) -> Interrupted:
    advice = [text for callback in callbacks if (text := callback.on_interrupt(step, task))]
    return Interrupted(step, "; ".join([f"stopped after step {step}", *advice]), number)
