"""How fast a Transformer learns: tokens a second, and what share of a card's arithmetic that takes (MFU)."""

import time

import torch

# Multiplications and additions a second, dense, in bfloat16, as the makers state them; the first name that fits counts.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


class Pace:
    """A clock around the steps, which evaluations and checkpoints between them do not count in.

    Args:
        flops: operations a token costs, forward and backward (see `flops_per_token`); 0: not known.
        cards: how many CUDA cards share the work.
    """

    def __init__(self, flops: float, device: torch.device, cards: int = 1) -> None:
        self.flops = flops
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.peak = cards * next((peak for part, peak in PEAKS.items() if part in name), 0.0)
        self.steps = 0
        self.rate = 0.0  # tokens a second, a running mean
        self._began = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._began = time.perf_counter()

    def end(self, tokens: int) -> None:
        """It has ended, with ``tokens`` over all processes. The first, which compiles and warms up, does not count."""
        spent = max(time.perf_counter() - self._began, 1e-9)
        self.steps += 1
        if self.steps > 1:
            weight = max(0.05, 1 / (self.steps - 1))
            self.rate += weight * (tokens / spent - self.rate)

    def __str__(self) -> str:
        """Such as ``25,400 tokens/s, MFU 31%``; empty before the second step."""
        if not self.rate:
            return ""
        share = f", MFU {self.rate * self.flops / self.peak:.0%}" if self.peak and self.flops else ""
        return f"{self.rate:,.0f} tokens/s{share}"


def flops_per_token(parameters: int, layers: int, width: int, context: int) -> float:
    """Operations of a decoder, forward and backward: 6 a parameter of a product, and 12 · layers · width · context for
    attention (PaLM 2022, appendix B); ``parameters`` leaves out what is only looked up."""
    return 6.0 * parameters + 12.0 * layers * width * context
