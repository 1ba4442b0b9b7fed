"""Our Transformer against torch.nn.TransformerEncoder of the same size: CPU time a step, peak memory, held-out loss.

    python scripts/bench_text.py --text tinyshakespeare.txt --out bench_text.json

Both learn the same text by the recipe of configs/text_cpu.yaml, each in a process of its own with one thread, and take
turns of some steps, so that whatever else the machine does meets both. A step is timed in CPU time of its process, from
drawing its batch to the end of its update; peak memory is that of the whole process, PyTorch included.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "text_cpu.yaml"
# nanoGPT with its CPU recipe of the same sizes, on a machine of the same kind: see docs/LOG.md
NANOGPT = {"cpu_ms_median": 92.0, "cpu_ms_best": 69.0, "peak_mib": 361.0, "held_out_loss": 1.8857}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text file (default: Python's documentation)")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each (default: 2000, the recipe's)")
    parser.add_argument("--turn", type=int, default=25, help="steps of a turn (default: 25)")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < 2 or arguments.turn < 1:
        parser.error("--steps must be at least 2, and --turn at least 1")
    if arguments.worker:
        work(arguments.worker, arguments.text, arguments.steps)
        return
    found = measured(arguments.text, arguments.steps, arguments.turn)
    print(table(found))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def measured(text: Path | None, steps: int, turn: int) -> dict[str, Any]:
    """Lets the workers take turns; returns what they found, by name, and what they ran on."""
    command = [sys.executable, __file__, "--steps", str(steps)] + (["--text", str(text.resolve())] if text else [])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    workers = {
        name: subprocess.Popen(
            [*command, "--worker", name], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in WORKERS
    }
    times: dict[str, list[float]] = {name: [] for name in workers}
    for begin in range(0, steps, turn):
        for name, worker in workers.items():
            times[name] += asked(worker, min(turn, steps - begin))
    found: dict[str, Any] = {}
    for name, worker in workers.items():
        result = asked(worker, 0)
        warm = times[name][1:]  # the first step also loads and makes what all others reuse
        found[name] = {"cpu_ms_median": statistics.median(warm), "cpu_ms_best": min(warm), **result}
        worker.wait()
    found["nanoGPT (from the log)"] = NANOGPT
    found["machine"] = {
        "processor": processor(),
        "torch": torch.__version__,
        "steps": steps,
        "load_average": os.getloadavg()[0],
    }
    return found


def asked(worker: "subprocess.Popen[str]", steps: int) -> Any:
    """A worker's answer to a number of steps: their CPU milliseconds; to 0: its memory and loss, and it ends."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        sys.exit(f"a worker ended with code {worker.wait()}; its complaint is above")
    return json.loads(answer)


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{'':<24}{'CPU ms a step':>15}{'best':>8}{'peak MiB':>10}{'held-out loss':>15}"]
    for name, row in found.items():
        if name != "machine":
            lines.append(
                f"{name:<24}{row['cpu_ms_median']:>15.1f}{row['cpu_ms_best']:>8.1f}{row['peak_mib']:>10.0f}"
                f"{row['held_out_loss']:>15.4f}"
            )
    machine = found["machine"]
    told = f"{machine['steps']:,} steps each in turns, one thread, load {machine['load_average']:.1f}"
    return "\n".join([*lines, f"{told}; torch {machine['torch']} on {machine['processor']}"])


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# ---- the workers ----


def work(name: str, text: Path | None, steps: int) -> None:
    """Answers numbers of steps on stdin with JSON on stdout."""
    torch.set_num_threads(1)
    answers = WORKERS[name](config_of(text, steps))
    next(answers)
    for line in sys.stdin:
        print(json.dumps(answers.send(int(line))), flush=True)
        if int(line) == 0:
            return


def config_of(text: Path | None, steps: int) -> Any:
    from splatlearn import config
    from splatlearn.text.task import TextTask

    words = ["--device", "cpu", "--steps", str(steps)] + (["--data.path", str(text)] if text else [])
    return config.load(TextTask.Config, CONFIG, words)


def peak_mib() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(config: Any) -> Iterator[Any]:
    """The task as `splatlearn train` runs it, through the loop."""
    from splatlearn.loop import AnyTask, Callback, fit
    from splatlearn.text.task import TextTask

    class Clock(Callback):
        def on_start(self, start: int, task: AnyTask) -> None:
            self.times: list[float] = []
            self.begin = time.process_time()

        def on_step(self, step: int, loss: float, task: AnyTask) -> None:
            now = time.process_time()
            self.times.append(1e3 * (now - self.begin))
            self.begin = now

    task = TextTask(config)
    clock, done, asked_for = Clock(), 0, (yield)
    while asked_for:
        fit(task, done + asked_for, start=done, callbacks=[clock], progress=False)
        done += asked_for
        asked_for = yield clock.times
    peak = peak_mib()  # of learning; an evaluation reads larger batches
    yield {"peak_mib": peak, "held_out_loss": task.evaluate()["loss"]}


class Encoder(torch.nn.Module):
    """A decoder-only Transformer of PyTorch's own blocks, as its tutorials build it, at the sizes of ours."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True, bias=False,
        )  # fmt: skip
        norm = torch.nn.LayerNorm(config.width, bias=False)
        self.tokens = torch.nn.Embedding(config.vocabulary, config.width)
        self.places = torch.nn.Embedding(config.context, config.width)
        self.blocks = torch.nn.TransformerEncoder(layer, config.layers, norm, enable_nested_tensor=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends = name.endswith(("out_proj.weight", "linear2.weight"))
                scale = (2 * config.layers) ** -0.5 if ends else 1.0
                torch.nn.init.normal_(parameter, 0.0, scale * (2 / (5 * config.width)) ** 0.5)
        self.register_buffer("mask", torch.nn.Transformer.generate_square_subsequent_mask(config.context))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count = tokens.shape[1]
        x = self.tokens(tokens) + self.places.weight[:count]
        x = self.blocks(x, mask=self.mask[:count, :count], is_causal=True)  # type: ignore[index]
        return torch.nn.functional.linear(x, self.tokens.weight)


def pytorchs(config: Any) -> Iterator[Any]:
    """torch.nn.TransformerEncoder with torch.optim.AdamW, on the same batches and by the same recipe."""
    from splatlearn.text.batches import Windows
    from splatlearn.text.corpus import Corpus
    from splatlearn.text.optimizer import AdamW

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(config.seed)
    corpus, settings = Corpus(config.data), config.optimizer
    config.model.vocabulary = corpus.tokenizer.vocabulary
    train, test = (Windows(side, config.model.context, "the text") for side in (corpus.train, corpus.test))
    model, recipe = Encoder(config.model), AdamW(settings, config.steps, [])
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), fused=True)

    def loss_of(batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch.tokens).flatten(0, 1), batch.targets.flatten())

    def step(number: int) -> None:
        loss = loss_of(train.batch(train.draw(config.batch, generator)))
        loss.backward()
        loss.item()
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(number)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    done, asked_for = 0, (yield)
    while asked_for:
        times = []
        for number in range(done + 1, done + asked_for + 1):
            begin = time.process_time()
            step(number)
            times.append(1e3 * (time.process_time() - begin))
        done += asked_for
        asked_for = yield times
    peak, total, count = peak_mib(), 0.0, 0
    with torch.no_grad():
        for batch in test.all(32, config.evaluate_tokens):
            total += float(loss_of(batch)) * batch.num_targets
            count += batch.num_targets
    yield {"peak_mib": peak, "held_out_loss": total / count}


WORKERS: dict[str, Callable[[Any], Any]] = {"splatlearn": ours, "nn.TransformerEncoder": pytorchs}

if __name__ == "__main__":
    main()
