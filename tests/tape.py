"""Recording on the CPU, as strict as a CUDA graph: stands in for `splatlearn.ops.recording.CudaRecorder` in tests.

While it records, no native stage runs and nothing is written in place, so that what changes all the same shows.
Operations are noted below autograd, with the very tensors they were given and gave; a replay does them anew into the
same tensors. What the host computed while recording is never computed again. Tensors that were made while recording
hold NaN until a replay writes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from splatlearn.ops import native
from splatlearn.ops.recording import Action, Recorder

READS = ("aten._local_scalar_dense", "aten.item", "aten.equal", "aten.is_nonzero")  # of CPU tensors alone: see Waits


def poison(tensors: list[Tensor]) -> None:
    """No number that was in the tensors can be used any more without being seen."""
    for tensor in tensors:
        tensor.data.fill_(torch.nan if tensor.is_floating_point() else 77)  # data: autograd need not know


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


class Tape(Recorder):
    """Records what is done on CPU tensors, the emulated kernels included."""

    def __init__(self) -> None:
        self.made: list[Tensor] = []  # while recording, of all recordings
        self.operations = 0
        self.abandoned = 0
        self._mode: _Mode | None = None
        self._call = native.call

    def begin(self) -> None:
        self._mode = _Mode(self.made)
        native.call = self._mode.note_stage
        self._mode.__enter__()

    def end(self) -> Action:
        mode = self._leave()
        poison([tensor for tensor in mode.made_here])
        self.operations += len(mode.work)

        @torch.no_grad()  # what was noted is below autograd
        def replay() -> None:
            for work in mode.work:
                work()

        return replay

    def abandon(self) -> None:
        self.abandoned += 1
        self._leave()

    def _leave(self) -> _Mode:
        mode, self._mode = self._mode, None
        assert mode is not None, "a recording ends that had not begun"
        mode.__exit__(None, None, None)
        native.call = self._call
        return mode


class _Mode(TorchDispatchMode):
    """Notes what is done."""

    def __init__(self, made: list[Tensor]) -> None:
        super().__init__()
        self.work: list[Action] = []
        self.made_here: list[Tensor] = []
        self._made = made
        self._call = native.call

    def note_stage(self, stage: str, params: Any, tensor: Tensor) -> None:
        self.work.append(lambda: self._call(stage, params, tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(func).startswith(READS):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            assert func._schema.arguments[0].is_write, f"{func} writes elsewhere than into its first argument"
            self.work.append(lambda: func(*args, **kwargs))
            return args[0]
        result = func(*args, **kwargs)
        held = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args) if tensor.device.type != "meta"}
        fresh = [tensor for tensor in _tensors(result) if tensor.untyped_storage().data_ptr() not in held]
        if fresh and not str(func).startswith(("aten.empty", "aten.new_empty")):

            def again() -> None:
                for old, new in zip(_tensors(result), _tensors(func(*args, **kwargs)), strict=True):
                    old.copy_(new)

            self.work.append(again)
        elif fresh:
            self.work.append(lambda: poison(fresh))
        self.made_here.extend(fresh)
        self._made.extend(fresh)
        return result
