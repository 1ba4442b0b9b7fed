"""The line as a task of the loop: y = wx + b learned by plain gradient descent on the mean squared error."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from splatlearn.config import Common, key
from splatlearn.errors import SplatlearnError
from splatlearn.line.data import NoisyLine
from splatlearn.line.neuron import LinearNeuron
from splatlearn.loop import Task, choose_device


class Points(NamedTuple):
    """``x`` and ``y`` [B, 1] float32."""

    x: Tensor
    y: Tensor


class LineTask(Task[Points, Tensor]):
    """Learns a line from a minibatch of the points a step, starting far from the truth."""

    @dataclass
    class Config(Common):
        """Every key of ``configs/line.yaml``."""

        task: Literal["line"] = key("line", "what is learned")
        out: str = key("runs/line", "the run folder to write; it must be new or empty")
        steps: int = key(500, "updates to make")
        log_every: int = key(1, "steps between lines of metrics.jsonl")
        checkpoint_every: int = key(100, "steps between checkpoints")
        data: NoisyLine.Config = key(NoisyLine.Config, "the points")
        weight: float = key(-1.0, "w to start from")
        bias: float = key(8.0, "b to start from")
        rate: float = key(0.05, "learning rate")
        batch: int = key(0, "points a step, drawn anew in each; 0 takes all")

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.batch <= self.data.count:
                raise SplatlearnError(
                    f"'batch' must be from 0 to 'data.count', which is {self.data.count}, got {self.batch}"
                )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same points everywhere
        data = NoisyLine(config.data, self.generator)
        self.points = Points(data.x.to(self.device), data.y.to(self.device))
        self.neuron = LinearNeuron().to(self.device)
        with torch.no_grad():
            self.neuron.weight.fill_(config.weight)
            self.neuron.bias.fill_(config.bias)

    def batch(self, step: int) -> Points:
        if self.config.batch == 0:
            return self.points
        chosen = torch.randperm(self.config.data.count, generator=self.generator)[: self.config.batch]
        chosen = chosen.to(self.device)
        return Points(self.points.x[chosen], self.points.y[chosen])

    def forward(self, batch: Points) -> Tensor:
        return self.neuron(batch.x)  # type: ignore[no-any-return]

    def loss(self, output: Tensor, batch: Points) -> Tensor:
        return torch.mean((output - batch.y) ** 2)

    def update(self, step: int) -> None:
        with torch.no_grad():
            for parameter in self.neuron.parameters():
                if parameter.grad is not None:
                    parameter.sub_(self.config.rate * parameter.grad)
                parameter.grad = None

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.neuron.named_parameters())

    def describe(self, batch: Points) -> str:
        return f"{len(batch.x)} points"

    def metrics(self) -> dict[str, float]:
        return {"weight": self.neuron.weight.item(), "bias": self.neuron.bias.item()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {**self.neuron.state_dict(), "generator": self.generator.get_state()}, {}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        for name, own in self.state()[0].items():
            loaded = tensors.get(name)
            if loaded is None or loaded.shape != own.shape or loaded.dtype != own.dtype:
                got = "none" if loaded is None else f"{loaded.dtype} {list(loaded.shape)}"
                raise SplatlearnError(
                    f"a line's checkpoint must hold '{name}' as {own.dtype} {list(own.shape)}, got {got}"
                )
        self.neuron.load_state_dict({"weight": tensors["weight"], "bias": tensors["bias"]})
        self.generator.set_state(tensors["generator"])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The content of ``eval/metrics.json``: the loss over all points, and the line that was learned."""
        loss = self.loss(self.forward(self.points), self.points)
        return {"loss": loss.item(), **self.metrics()}
