"""The line as a task of the loop: y = wx + b learned by gradient descent on the mean squared error."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from splatlearn import checkpoint
from splatlearn.config import Common, key
from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.line.bowl import Bowl
from splatlearn.line.data import NoisyLine
from splatlearn.line.neuron import LinearNeuron
from splatlearn.line.optimizers import (
    LARGEST_RATE,
    OptimizerName,
    ScheduleName,
    load_optimizer,
    make_optimizer,
    make_schedule,
    optimizer_tensors,
)
from splatlearn.provenance import fingerprint
from splatlearn.task import RunWriter, Task

ARRIVED = 1e-3  # how near to the least-squares answer is there: a share of the way from the start


class Points(NamedTuple):
    """``x`` and ``y`` [B, 1] float32."""

    x: Tensor
    y: Tensor


class LineTask(Task[Points, Tensor]):
    """Learns a line from all the points or a minibatch of them a step, starting far from the truth."""

    @dataclass
    class Config(Common):
        """Every key of ``configs/line.yaml``."""

        task: str = key("line", "line, or the package.module:Class of a task derived from LineTask")
        out: str = key("runs/line", "the run folder to write; it must be new or empty", path=True)
        steps: int = key(225, "updates to make")
        log_every: int = key(1, "steps between lines of metrics.jsonl")
        checkpoint_every: int = key(100, "steps between checkpoints")
        data: NoisyLine.Config = key(NoisyLine.Config, "the points")
        weight: float = key(-1.0, "w to start from")
        bias: float = key(8.0, "b to start from")
        rate: float = key(0.01, "learning rate")
        optimizer: OptimizerName = key("sgd", "how a gradient becomes a step")
        momentum: float = key(0.9, "share of the last step that momentum and nesterov keep")
        schedule: ScheduleName = key("constant", "how the rate changes over the steps")
        warmup: int = key(20, "steps in which the schedule warmup reaches the rate")
        batch: int = key(0, "points a step, drawn anew in each; 0 takes all")
        diverge: bool = key(False, "go on with a rate that is known to diverge")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.warmup < 1:
                raise SplatlearnError(f"'warmup' must be at least 1, got {self.warmup}")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same points everywhere
        if config.data.csv:
            config.data.csv = str(Path(config.data.csv).expanduser().resolve())  # a run resumes from anywhere
        data = NoisyLine(config.data, self.generator)
        if not 0 <= config.batch <= len(data.x):
            raise SplatlearnError(f"'batch' must be from 0 to {len(data.x)}, the number of points, got {config.batch}")
        self.points = Points(data.x.to(self.device), data.y.to(self.device))
        self.neuron = LinearNeuron().to(self.device)
        with torch.no_grad():
            self.neuron.weight.fill_(config.weight)
            self.neuron.bias.fill_(config.bias)
        self.optimizer = make_optimizer(config.optimizer, self.neuron.parameters(), config.rate, config.momentum)
        self.schedule = make_schedule(config.schedule, self.optimizer, config.steps, config.warmup)
        self.bowl = Bowl(data.x, data.y)
        if self._must_diverge() and not config.diverge:
            raise SplatlearnError(f"{self._limit_told()}; take a smaller 'rate', or set 'diverge' to watch it happen")

    @classmethod
    def fixed_keys(cls, config: Config) -> dict[str, Any]:
        """The keys that the optimizer's and the schedule's states depend on, and those of the start."""
        names = ("seed", "weight", "bias", "optimizer", "schedule", "rate")
        return {name: getattr(config, name) for name in names}

    def fingerprints(self) -> dict[str, dict[str, str]]:
        points = torch.cat(self.points).cpu()
        return {"points": {"": fingerprint(points.numpy().tobytes())}}

    # ---- the five steps' parts ----

    def batch(self, step: int) -> Points:
        if self.config.batch == 0:
            return self.points
        chosen = torch.randperm(len(self.points.x), generator=self.generator)[: self.config.batch]
        chosen = chosen.to(self.device)
        return Points(self.points.x[chosen], self.points.y[chosen])

    def forward(self, batch: Points) -> Tensor:
        return self.neuron(batch.x)  # type: ignore[no-any-return]

    def loss(self, output: Tensor, batch: Points) -> Tensor:
        return torch.mean((output - batch.y) ** 2)

    def update(self, step: int) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    # ---- what is known beforehand, and what came of it ----

    def _limit(self) -> float | None:
        """The rate beyond which descent on all points diverges; None for Adam, whose steps have a size of their own."""
        name = self.config.optimizer
        if name in ("adam", "adamw"):
            return None
        return self.bowl.limit(0.0 if name == "sgd" else self.config.momentum, nesterov=name == "nesterov")

    def _must_diverge(self) -> bool:
        """Whether the rate stays beyond the limit; a step or cosine schedule ends below it, sooner or later."""
        limit = self._limit()
        return limit is not None and self.config.rate > limit and self.config.schedule in ("constant", "warmup")

    def _limit_told(self) -> str:
        limit, rate = self._limit(), self.config.rate
        sharpest = float(self.bowl.eigenvalues[1])
        if limit is None:
            return (
                f"2/lambda_max = {2 / sharpest:.4g} is no limit for {self.config.optimizer}, which sizes its own steps"
            )
        name = "2/lambda_max" if self.config.optimizer == "sgd" else f"the limit of {self.config.optimizer}"
        if rate > limit:
            return f"the learning rate {rate:g} is beyond {name} = {limit:.4g} of these points, so descent diverges"
        return f"the learning rate {rate:g} is {rate / limit:.0%} of {name} = {limit:.4g}, so descent converges"

    def introduction(self, start: int, steps: int) -> str:
        weight, bias = self.bowl.minimum.tolist()
        return (
            f"least squares: w = {weight:.4f}, b = {bias:.4f}, loss {self.bowl.floor:.5f}. Walking there from "
            f"w = {self.neuron.weight.item():g}, b = {self.neuron.bias.item():g}: {self._limit_told()}."
        )

    def conclusion(self, step: int) -> str:
        weight, bias = self.bowl.minimum.tolist()
        here = torch.tensor([self.neuron.weight.item(), self.neuron.bias.item()], dtype=torch.float64)
        begin = torch.tensor([self.config.weight, self.config.bias], dtype=torch.float64)
        left = float((here - self.bowl.minimum).norm() / (begin - self.bowl.minimum).norm().clamp(min=1e-12))
        verdict = "that is the least-squares answer" if left < ARRIVED else "an early stop"
        if left >= 1:
            verdict = "no nearer than the start"
        return (
            f"after {step} steps: w = {here[0]:.4f}, b = {here[1]:.4f}; "
            f"least squares: w = {weight:.4f}, b = {bias:.4f}; {verdict} ({left:.2%} of the way is left)"
        )

    # ---- what others read ----

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.neuron.named_parameters())

    def describe(self, batch: Points) -> str:
        return f"{len(batch.x)} points"

    def metrics(self) -> dict[str, float]:
        return {"weight": self.neuron.weight.item(), "bias": self.neuron.bias.item()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        remembered = optimizer_tensors(self.optimizer, self.named_parameters())
        tensors = {**self.neuron.state_dict(), "generator": self.generator.get_state(), **remembered}
        return tensors, {"schedule": self.schedule.state_dict(), "rate": self.optimizer.param_groups[0]["lr"]}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        label = "a line's checkpoint"
        checkpoint.require_tensors(label, tensors, self.neuron.state_dict())
        own = self.schedule.state_dict()
        given = state.get("schedule")
        if isinstance(given, dict) and "last_epoch" in given:  # of another version of PyTorch, it may have other keys
            state = {**state, "schedule": own | {name: value for name, value in given.items() if name in own}}
        checkpoint.require_state(label, state, {"schedule": own, "rate": 0.0})
        for name in ("step_size", "T_max", "total_iters"):
            if own.get(name, 0) > 0 and not (got := state["schedule"][name]) > 0:
                raise SplatlearnError(f"{label} must hold a '{name}' above 0 in 'schedule', got {got}")
        if not 0 <= state["rate"] <= LARGEST_RATE:
            raise SplatlearnError(f"{label} must hold a 'rate' of at least 0, got {state['rate']:g}")
        checkpoint.set_generator(label, self.generator, tensors)
        self.neuron.load_state_dict({"weight": tensors["weight"], "bias": tensors["bias"]})
        load_optimizer(self.optimizer, self.named_parameters(), tensors)
        self.schedule.load_state_dict(state["schedule"])
        self.optimizer.param_groups[0]["lr"] = state["rate"]

    # ---- what a run evaluates and leaves behind ----

    @torch.no_grad()
    def evaluate(self, step: int = 0, writer: RunWriter | None = None) -> dict[str, float]:
        """Measure the loss over all points.

        Returns:
            loss, weight and bias of the line, and those of least squares.
        """
        if writer is not None:
            rows = zip(self.points.x.flatten().tolist(), self.points.y.flatten().tolist(), strict=True)
            writer.save("eval/points.csv", "x,y\n" + "".join(f"{x:.9g},{y:.9g}\n" for x, y in rows))
        loss = self.loss(self.forward(self.points), self.points)
        weight, bias = self.bowl.minimum.tolist()
        best = {"least_squares_weight": weight, "least_squares_bias": bias, "least_squares_loss": self.bowl.floor}
        return {"loss": loss.item(), **self.metrics(), **best}
