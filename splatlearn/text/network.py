"""What a step calls: the model itself, or wrapped so that processes share gradients, or compiled, as a config says."""

import contextlib
import os
import shutil
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from splatlearn.errors import SplatlearnError
from splatlearn.processes import Processes
from splatlearn.text.transformer import Transformer


class Network:
    """Calls a Transformer through its wrappings.

    Raises SplatlearnError where it is to be compiled and nothing here can.
    """

    def __init__(self, model: Transformer, processes: Processes, compiled: bool) -> None:
        device = next(model.parameters()).device
        self._shared: DistributedDataParallel | None = None
        self._call: Any = model
        self._compiled = compiled
        if processes.count > 1:
            cards = [device] if device.type == "cuda" else None
            self._call = self._shared = DistributedDataParallel(model, device_ids=cards)
        if compiled:
            compiler = os.environ.get("CXX", "g++")
            if shutil.which(compiler) is None:
                raise SplatlearnError(f"'compile' needs a C++ compiler, but {compiler} is not here; leave it out")
            self._call = torch.compile(self._call)

    def __call__(self, tokens: Tensor, source: Tensor | None, source_mask: Tensor | None) -> Tensor:
        """Logits [B, T, V], as of the model."""
        if not self._compiled:
            return self._call(tokens, source=source, source_mask=source_mask)  # type: ignore[no-any-return]
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._call(tokens, source=source, source_mask=source_mask)  # type: ignore[no-any-return]
        except (TorchDynamoException, RuntimeError) as error:
            reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
            raise SplatlearnError(f"the compiled model cannot run ({reason}); leave 'compile' out") from error

    def part(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around the forward pass of a part of a step: processes share their gradients in the last one alone."""
        if self._shared is None or last:
            return contextlib.nullcontext()
        return self._shared.no_sync()


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """The dtype of products: ``auto`` is bfloat16 on a GPU that has it, and float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32
