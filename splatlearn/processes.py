"""The processes that learn together under ``torchrun``: who is who, what they share, and who writes."""

import atexit
import os
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError


@dataclass(frozen=True)
class Processes:
    """This process is number ``rank`` of ``count``; number 0 writes what all have learned."""

    rank: int = 0
    count: int = 1

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes of a detached ``value``."""
        if self.count > 1:
            torch.distributed.all_reduce(value)
            value /= self.count
        return value


def join(device: torch.device) -> tuple[Processes, torch.device]:
    """Meets the other processes that ``torchrun`` has started, if it has; returns who this is and its device.

    They talk by NCCL where each has a CUDA card of its own, and by gloo on the CPU. Raises SplatlearnError where there
    are fewer cards than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        return Processes(), device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        cards = torch.cuda.device_count()
        if local >= cards:
            raise SplatlearnError(f"each process needs a CUDA card of its own, but there are {cards} for {local + 1}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(torch.distributed.destroy_process_group)
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size()), device


def leave() -> None:
    """Ends a process that has met others, its work done and written; one that has met none goes on.

    At once, past the destructors of C++: threads of gloo have been seen to abort an orderly exit, upon which torchrun
    stops the others, too.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
