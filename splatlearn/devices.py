"""Which device to learn on."""

import re

import torch

from splatlearn.errors import SplatlearnError


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is a CUDA card where PyTorch sees one, and the CPU elsewhere."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise SplatlearnError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    device, cards = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= cards:
        raise SplatlearnError(f"device must be one that is here, got {name!r}: PyTorch sees {cards} CUDA cards")
    return device
