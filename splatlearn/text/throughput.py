"""Training throughput: tokens per second, and the model FLOPs utilisation (MFU) of a GPU."""

import time

import torch

# Peak dense bfloat16 FLOP/s as stated by the vendors, by a part of the device name; the first match counts.
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


class Throughput:
    """A clock of the steps alone, without the evaluations and checkpoints between them.

    Args:
        flops: FLOPs per token, forward and backward (see `flops_per_token`); 0: unknown.
        device: where the model runs.
        gpus: number of GPUs that share the work.

    Attributes:
        rate: tokens per second, an exponential moving average; 0 before the second step.
    """

    def __init__(self, flops: float, device: torch.device, gpus: int = 1) -> None:
        self.flops = flops
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.peak = gpus * next((peak for part, peak in PEAKS.items() if part in name), 0.0)
        self.steps = 0
        self.rate = 0.0
        self._began = 0.0

    def begin(self) -> None:
        """Start the clock of a step."""
        self._began = time.perf_counter()

    def end(self, tokens: int) -> None:
        """Stop the clock after a step of ``tokens`` over all processes; the first step, a warm-up, is not counted."""
        spent = max(time.perf_counter() - self._began, 1e-9)
        self.steps += 1
        if self.steps > 1:
            weight = max(0.05, 1 / (self.steps - 1))
            self.rate += weight * (tokens / spent - self.rate)

    def __str__(self) -> str:
        """Text such as ``25,400 tokens/s, MFU 31%``; empty before the second step."""
        if not self.rate:
            return ""
        share = f", MFU {self.rate * self.flops / self.peak:.0%}" if self.peak and self.flops else ""
        return f"{self.rate:,.0f} tokens/s{share}"


def flops_per_token(parameters: int, layers: int, width: int, context: int) -> float:
    """Estimate the FLOPs per token of a decoder, forward and backward (PaLM 2022, appendix B).

    They are 6 per parameter of a matrix product, and 12 · layers · width · context for attention. ``parameters``
    excludes embeddings, which are only looked up.
    """
    return 6.0 * parameters + 12.0 * layers * width * context
