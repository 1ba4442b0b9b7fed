"""Text as a task of the loop: a Transformer learns to say the next token."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from splatlearn.config import Common, key
from splatlearn.errors import SplatlearnError
from splatlearn.loop import Task, choose_device
from splatlearn.text.batches import NOT_ASKED, Batch, Windows
from splatlearn.text.corpus import Corpus
from splatlearn.text.optimizer import AdamW
from splatlearn.text.processes import join
from splatlearn.text.transformer import Transformer


class TextTask(Task[Batch, Tensor]):
    """Learns a corpus, a batch of random windows of it a step."""

    @dataclass
    class Config(Common):
        """Every key of ``configs/text.yaml``."""

        task: Literal["text"] = key("text", "what is learned")
        out: str = key("runs/text", "the run folder to write; it must be new or empty")
        steps: int = key(2000, "updates to make")
        data: Corpus.Config = key(Corpus.Config, "the text")
        model: Transformer.Config = key(Transformer.Config, "the Transformer")
        optimizer: AdamW.Config = key(AdamW.Config, "how a gradient becomes a step")
        batch: int = key(12, "windows a step")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.processes, self.device = join(choose_device(config.device))
        self.generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same batches everywhere
        if config.data.path:
            config.data.path = str(Path(config.data.path).expanduser().resolve())  # a run resumes from anywhere
        self.corpus = Corpus(config.data)
        self.tokenizer = self.corpus.tokenizer
        self.train = Windows(self.corpus.train, config.model.context, "the text to learn from")
        self.test = Windows(self.corpus.test, config.model.context, "the held-out text")
        if config.model.vocabulary not in (0, self.tokenizer.vocabulary):
            raise SplatlearnError(
                f"'model.vocabulary' must be 0 or the tokenizer's {self.tokenizer.vocabulary}, "
                f"got {config.model.vocabulary}"
            )
        config.model.vocabulary = self.tokenizer.vocabulary
        with torch.random.fork_rng(devices=[]):
            self.model = Transformer(config.model, self.generator).to(self.device)
        self.optimizer = AdamW(config.optimizer, config.steps, self.model.named_parameters())

    # ---- the five steps' parts ----

    def batch(self, step: int) -> Batch:
        starts = self.train.drawn(self.config.batch, self.generator)
        return self.train.batch(starts, len(starts) * self.config.model.context).to(self.device)

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch.tokens, source=batch.source, source_mask=batch.source_mask)  # type: ignore[no-any-return]

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        total = F.cross_entropy(output.flatten(0, 1), batch.targets.flatten(), ignore_index=NOT_ASKED, reduction="sum")
        return total / batch.asked

    def update(self, step: int) -> None:
        self.optimizer.step(step)

    # ---- what others read ----

    def introduction(self, start: int, steps: int) -> str:
        return self.corpus.summary

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.model.named_parameters())

    def describe(self, batch: Batch) -> str:
        return f"{len(batch.tokens)} windows of text"

    def metrics(self) -> dict[str, float]:
        return {"gradient_norm": float(self.optimizer.norm)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        tensors |= {"generator": self.generator.get_state(), **self.optimizer.tensors()}
        return tensors, {"tokenizer": self.tokenizer.state(), "corpus": self.corpus.sha256}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        own, mine = self.state()
        if state.get("tokenizer") != mine["tokenizer"]:
            raise SplatlearnError("a checkpoint must hold the tokenizer of this text, got another vocabulary")
        for name, tensor in own.items():
            loaded = tensors.get(name)
            if loaded is None or loaded.shape != tensor.shape or loaded.dtype != tensor.dtype:
                got = "none" if loaded is None else f"{loaded.dtype} {list(loaded.shape)}"
                expected = f"{tensor.dtype} {list(tensor.shape)}"
                raise SplatlearnError(f"a text's checkpoint must hold '{name}' as {expected}, got {got}")
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[name])
        self.generator.set_state(tensors["generator"])
        self.optimizer.load(tensors)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The content of ``eval/metrics.json``: loss a held-out token in nats, perplexity, bits a byte of its text."""
        with self._evaluating():
            total = torch.zeros((), dtype=torch.float64, device=self.device)
            asked = 0
            for batch in self.test.all(max(self.config.batch, 32)):
                total += self.loss(self.forward(batch.to(self.device)), batch.to(self.device)).double() * batch.asked
                asked += batch.asked
        loss = float(total) / asked
        bits = loss / math.log(2) * len(self.corpus.test) / self.corpus.test_bytes
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits}

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No dropout while this lasts."""
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()
