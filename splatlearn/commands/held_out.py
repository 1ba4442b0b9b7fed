"""Evaluations while learning, each a line of eval/history.jsonl, and the end of a training that gains no more."""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from splatlearn.commands.eval import add_line
from splatlearn.loop import AnyTask, Callback


class HeldOut(Callback):
    """Evaluates a task on what is held out after every `every`-th step, without pictures.

    A scene is done when its PSNR has not risen above the best in `patience` evaluations; 0: never. What is held out has
    then been used to choose the number of steps, which flatters the figures a little.
    """

    def __init__(self, folder: Path, every: int, patience: int = 0) -> None:
        self.path = folder / "eval" / "history.jsonl"
        self.every = every
        self.patience = patience
        self.best = 0.0  # dB
        self.waited = 0  # evaluations since the best

    def on_start(self, start: int, task: AnyTask) -> None:
        if self.patience and self.path.exists():
            for line in map(json.loads, self.path.read_text(encoding="utf-8").splitlines()):
                if line["step"] <= start:
                    self._note(line["psnr"])

    def wants(self, step: int) -> bool:
        return step % self.every == 0

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        result = _scene(task) if hasattr(task, "gaussians") else _text(task, step)
        add_line(self.path, {"step": step, **result})
        if self.patience:
            self._note(result["psnr"])
            if self.done():
                gain = f"no better than {self.best:.2f} dB in the last {self.waited} evaluations"
                tqdm.write(f"training ends after step {step:,}: the held-out PSNR was {gain}")

    def done(self) -> bool:
        return 0 < self.patience <= self.waited

    def _note(self, psnr: float) -> None:
        self.waited = 0 if psnr > self.best else self.waited + 1
        self.best = max(self.best, psnr)


def _scene(task: Any) -> dict[str, Any]:
    from splatlearn.scene.evaluate import evaluate

    result = evaluate(task)
    del result["views"]
    return result


def _text(task: Any, step: int) -> dict[str, Any]:
    result: dict[str, Any] = task.evaluate()
    told = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
    tqdm.write(f"step {step:,}, held out: {told}")
    return result
