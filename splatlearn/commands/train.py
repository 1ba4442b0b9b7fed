"""splatlearn train: learns what a config says, evaluates it, and leaves a run folder."""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from splatlearn import config as configs
from splatlearn import loop
from splatlearn import run as runs
from splatlearn.commands import eval as evaluation
from splatlearn.commands.opened import CONFIG, config_of, task_class
from splatlearn.commands.reconstruct import ready
from splatlearn.errors import SplatlearnError
from splatlearn.files import replacing

USAGE = """usage: splatlearn train CONFIG [--key.sub value ...]
       splatlearn train --resume RUN

Learns what CONFIG says (configs/line.yaml, scene.yaml or scene_fast.yaml there) into a new run folder; Ctrl-C saves.
--resume goes on from the last checkpoint of RUN, bit for bit as if it had never stopped (on the CPU)."""


def run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE + "\n\nWith a config, --help lists all its keys: splatlearn train configs/scene.yaml --help")
        return
    if words[0] == "--resume":
        if len(words) < 2:
            raise SplatlearnError("--resume needs the run folder to go on with")
        resume(Path(words[1]), words[2:])
        return
    path = Path(words[0])
    if words[0].startswith("-") or not path.is_file():
        raise SplatlearnError(f"expected a config file such as configs/scene.yaml first, got {words[0]!r}")
    cls = task_class(path)
    if "--help" in words or "-h" in words:
        print(f"{USAGE}\n\nkeys of {path} and their defaults:\n{configs.help_text(cls.Config)}")
        return
    start(cls, configs.load(cls.Config, path, words[1:]))


def start(cls: Any, config: Any) -> dict[str, Any]:
    """A new run; returns its evaluation."""
    folder = Path(config.out)
    if hasattr(config.data, "reconstruct"):
        config.data.path = ready(config.data.path, config.data.reconstruct)
    if getattr(config.data, "path", None):
        config.data.path = str(Path(config.data.path).expanduser().resolve())  # so that --resume works from anywhere
    task = cls(config)
    if task.writes:
        runs.create(folder)
        configs.dump(config, folder / CONFIG)
    return _fit(task, folder, 0)


def resume(folder: Path, overrides: list[str]) -> None:
    """Goes on with a run; overrides of its config are kept in it."""
    path = config_of(folder)
    cls = task_class(path)
    config = configs.load(cls.Config, path, overrides)
    task = cls(config)
    step = runs.resume(task, folder)
    if overrides:
        configs.dump(config, path)
    print(f"going on after step {step} of {config.steps}")
    _fit(task, folder, step)


def _fit(task: Any, folder: Path, start: int) -> dict[str, Any]:
    config = task.config
    if not task.writes:  # of several processes that learn together, the first tells and keeps everything
        loop.fit(task, config.steps, start=start, progress=False)
        return {}
    callbacks: list[loop.Callback] = [
        runs.MetricsLog(folder / "metrics.jsonl", config.log_every),
        runs.Checkpoints(folder, config.checkpoint_every),
    ]
    if getattr(config, "evaluate_every", 0):
        callbacks.append(runs.Every(config.evaluate_every, lambda step, task: _evaluate_now(step, task, folder)))
    if getattr(config, "sample_every", 0):
        callbacks.append(runs.Every(config.sample_every, lambda step, task: _sample_now(step, task, folder)))
    loop.fit(task, config.steps, start=start, callbacks=callbacks)
    if hasattr(task, "gaussians"):
        task.gaussians.save_ply(folder / "point_cloud.ply")
    result = evaluation.evaluate_run(task, folder, max(start, config.steps))
    print(evaluation.sentence(result))
    print(f"wrote {folder}; to see it: {folder / 'report.html'}")
    return result


def _evaluate_now(step: int, task: Any, folder: Path) -> None:
    """An evaluation while training: one line in eval/history.jsonl, no pictures."""
    if hasattr(task, "gaussians"):
        from splatlearn.scene.evaluate import evaluate

        result = evaluate(task)
        del result["views"]
    else:
        result = task.evaluate()
        told = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
        tqdm.write(f"step {step:,}, held out: {told}")
    _add_line(folder / "eval" / "history.jsonl", {"step": step, **result})


def _sample_now(step: int, task: Any, folder: Path) -> None:
    """A sample while training: told, and one line in eval/samples.jsonl."""
    sample = task.sample(step)
    tqdm.write(f"step {step:,}, a sample:\n{sample['prompt']}{sample['text']}\n")
    _add_line(folder / "eval" / "samples.jsonl", sample)


def _add_line(path: Path, row: dict[str, Any]) -> None:
    """Adds a line of a step; those of later steps, of a run that stopped after its last checkpoint, go."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < row["step"]]
    with replacing(path) as temporary:
        temporary.write_text("\n".join([*kept, json.dumps(row)]) + "\n", encoding="utf-8")
