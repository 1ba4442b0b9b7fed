"""Text as a task of the loop: a Transformer learns to say the next token of a corpus, or the answers of pairs."""

import contextlib
import dataclasses
import hashlib
import math
import reprlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from splatlearn.checkpoint import require_tensors, set_generator
from splatlearn.config import Common, key
from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.notices import warn
from splatlearn.processes import join
from splatlearn.provenance import KEY
from splatlearn.run import Every, HeldOut
from splatlearn.task import AnyTask, Callback, RunWriter, Task
from splatlearn.text import evaluation
from splatlearn.text.batches import Batch, Windows
from splatlearn.text.corpus import Corpus
from splatlearn.text.documents import place_of
from splatlearn.text.evaluation import cross_entropy
from splatlearn.text.network import Network, precision_of
from splatlearn.text.optimizer import AdamW
from splatlearn.text.pairs import PairRows, Pairs
from splatlearn.text.throughput import Throughput, flops_per_token
from splatlearn.text.tokenizers import from_state
from splatlearn.text.transformer import Transformer
from splatlearn.text.weights import current_names

SHAPE = (  # keys of the model that cannot change within a run
    *("vocabulary", "width", "heads", "layers", "encoder_layers", "feed_forward", "position", "norm_first", "norm"),
    *("activation", "tie_weights", "bias"),
)
AT_ONCE = 32  # windows that an evaluation reads at once, at least


class TextTask(Task[Batch, Tensor]):
    """Learns a batch of random windows of a corpus a step, or of random pairs."""

    @dataclass
    class Config(Common):
        """Every key of ``configs/text.yaml``."""

        task: str = key("text", "text, or the package.module:Class of a task derived from TextTask")
        out: str = key("runs/text", "the run folder to write; it must be new or empty", path=True)
        steps: int = key(2000, "updates to make")
        learn: Literal["corpus", "pairs"] = key("corpus", "a text, or pairs of a source and an answer")
        data: Corpus.Config = key(Corpus.Config, "the text")
        pairs: Pairs.Config = key(Pairs.Config, "the pairs")
        model: Transformer.Config = key(Transformer.Config, "the Transformer")
        optimizer: AdamW.Config = key(AdamW.Config, "how a gradient becomes a step")
        batch: int = key(12, "windows or pairs a step, over all its parts and processes")
        accumulate: int = key(1, "parts that a step comes in, one after another, to save memory")
        precision: Literal["auto", "float32", "bfloat16"] = key(
            "auto", "of products; auto is bfloat16 on CUDA cards that have it"
        )
        compile: bool = key(False, "let torch.compile make one program of the model")
        evaluate_every: int = key(500, "steps between evaluations on what is held out; 0: only at the end")
        evaluate_tokens: int = key(1_000_000, "held-out tokens that an evaluation reads at most")
        sample_every: int = key(0, "steps between samples; 0: none while it learns")
        sample_length: int = key(300, "tokens of a sample")
        prompt: str = key("", "what samples begin with; empty: the first held-out tokens")

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("batch", "accumulate", "evaluate_tokens", "sample_length"):
                if getattr(self, name) < 1:
                    raise SplatlearnError(f"'{name}' must be at least 1, got {getattr(self, name)}")
            for name in ("evaluate_every", "sample_every"):
                if getattr(self, name) < 0:
                    raise SplatlearnError(f"'{name}' must be at least 0, got {getattr(self, name)}")
            if self.batch % self.accumulate:
                raise SplatlearnError(f"'accumulate' must divide the batch of {self.batch}, got {self.accumulate}")
            if (self.learn == "pairs") != (self.model.encoder_layers > 0):
                raise SplatlearnError(
                    "'model.encoder_layers' must be above 0 to learn pairs, and 0 to learn a corpus, "
                    f"got {self.model.encoder_layers}"
                )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.processes, self.device = join(choose_device(config.device))
        self.writes = self.processes.rank == 0
        if config.reproducible:
            if self.device.type != "cpu":
                raise SplatlearnError(f"'reproducible' needs the device cpu to learn a text, got {self.device}")
            torch.set_num_threads(1)  # PyTorch and oneDNN divide sums by the number of threads
        self.parts = config.accumulate
        if config.batch % (self.parts * self.processes.count):
            raise SplatlearnError(
                f"'batch' must be a multiple of {self.parts * self.processes.count}, the {self.processes.count} "
                f"processes times the {self.parts} parts of a step, got {config.batch}"
            )
        self.generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same batches everywhere
        self._open_data()
        with torch.random.fork_rng(devices=[]):
            self.model = Transformer(config.model, self.generator).to(self.device)
        self.network = Network(self.model, self.processes, config.compile)
        self.precision = precision_of(config.precision, self.device)
        self.optimizer = AdamW(config.optimizer, config.steps, self.model.named_parameters())
        self.throughput = Throughput(self._flops(), self.device, self.processes.count)
        self._num_targets = 0  # of the step
        self._waiting: deque[Batch] = deque()  # parts of the step
        self._place = (0, 0)  # step and part, by which dropout is seeded

    def _open_data(self) -> None:
        config = self.config
        self.train: Windows | PairRows
        self.test: Windows | PairRows
        if config.learn == "pairs":
            self.data: Corpus | Pairs = Pairs(config.pairs)
            self.train, self.test = PairRows(self.data), PairRows(self.data, test=True)
            known = self.data.vocabulary
            if config.model.context < self.data.longest:
                raise SplatlearnError(
                    f"'model.context' must hold the longest pair of {self.data.longest} tokens, got "
                    f"{config.model.context}"
                )
        else:
            if config.data.path:
                config.data.path = str(place_of(config.data.path, "data.path").resolve())  # a run resumes from anywhere
            self.data = Corpus(config.data)
            self.train = Windows(self.data.train, config.model.context, "the text to learn from")
            self.test = Windows(self.data.test, config.model.context, "the held-out text")
            known = self.data.tokenizer.vocabulary
        self.tokenizer = self.data.tokenizer
        if config.model.vocabulary not in (0, known):
            raise SplatlearnError(
                f"'model.vocabulary' must be 0 or that of the text, {known}, got {config.model.vocabulary}"
            )
        config.model.vocabulary = known
        self.prompt = self.tokenizer.encode(config.prompt)  # an unknown character raises before training

    def _flops(self) -> float:
        """Operations a token; 0 for pairs, which differ in length."""
        if self.config.learn == "pairs":
            return 0.0
        model, named = self.config.model, self.model.named_parameters()
        products = sum(parameter.numel() for name, parameter in named if not name.startswith("embedding."))
        products += model.vocabulary * model.width if model.tie_weights else 0
        return flops_per_token(products, model.layers, model.width, model.context)

    @classmethod
    def fixed_keys(cls, config: Config) -> dict[str, Any]:
        """The keys that decide the model's shape, what its numbers mean, or which pairs are held out."""
        model = {name: getattr(config.model, name) for name in SHAPE}
        model["feed_forward"] = model["feed_forward"] or 4 * config.model.width
        if config.model.position == "learned":
            model["context"] = config.model.context
        pairs = dataclasses.asdict(config.pairs) if config.learn == "pairs" else {}
        return {
            "seed": config.seed,
            "learn": config.learn,
            **{f"model.{name}": value for name, value in model.items()},
            **{f"pairs.{name}": value for name, value in pairs.items()},
        }

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """The text, its files where there are several, and how it is divided; nothing for pairs, which keys decide."""
        return self.data.fingerprints() if isinstance(self.data, Corpus) else {}

    # ---- the five steps' parts ----

    def batch(self, step: int) -> Batch:
        if not self._waiting or self._place[0] != step:
            self._waiting = deque(self._drawn())
            self._place = (step, 0)
            self.throughput.begin()
        self._place = (step, self.parts - len(self._waiting))
        return self._waiting.popleft().to(self.device)

    def _drawn(self) -> Iterator[Batch]:
        """The parts of a step that are this process's; which rows make a step does not depend on their number."""
        rows = self.train.draw(self.config.batch, self.generator)
        self._num_targets = self.train.num_targets(rows)
        for part in rows.reshape(self.parts, self.processes.count, -1):
            yield self.train.batch(part[self.processes.rank])._replace(num_targets=self._num_targets)

    def forward(self, batch: Batch) -> Tensor:
        with self._dropout_seeded(), self.network.part(last=not self._waiting), self._precision():
            return self.network(batch.tokens, batch.source, batch.source_mask)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The mean over all targets of the step, this part's share of it. Gradients are averaged over the processes."""
        share = cross_entropy(output, batch.targets) * (self.processes.count / batch.num_targets)
        if self.processes.count == 1:
            return share
        return share + (self.processes.mean(share.detach().clone()) - share.detach())  # the value is that of all

    def update(self, step: int) -> None:
        self.optimizer.step(step)
        self.throughput.end(self._num_targets)

    @contextlib.contextmanager
    def _dropout_seeded(self) -> Iterator[None]:
        """Dropout draws from PyTorch's generator, which is seeded by what is computed and put back as it was."""
        if self.config.model.dropout == self.config.model.attention_dropout == 0 or not self.model.training:
            yield
            return
        words = f"{self.config.seed} {self._place} {self.processes.rank}"
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little") >> 1
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    # ---- what others read ----

    def introduction(self, start: int, steps: int) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        return f"{self.data.summary}\n{size:,} parameters"

    def conclusion(self, step: int) -> str:
        return f"{self.throughput}" and f"learned at {self.throughput}"

    def progress(self) -> str:
        return f"{self.throughput}" and f", {self.throughput}"

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.model.named_parameters())

    def describe(self, batch: Batch) -> str:
        return f"{len(batch.tokens)} {'pairs' if self.config.learn == 'pairs' else 'windows of text'}"

    def metrics(self) -> dict[str, float]:
        return {"gradient_norm": float(self.optimizer.norm), "rate": self.optimizer.last_rate}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        tensors |= {"generator": self.generator.get_state(), **self.optimizer.tensors()}
        state: dict[str, Any] = {"tokenizer": self.tokenizer.state()}
        if isinstance(self.data, Corpus):
            state["text"] = self.data.sha256
        return tensors, state

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        if state.get("tokenizer") != self.tokenizer.state():
            raise SplatlearnError(
                f"the checkpoint's vocabulary must be that of the text, {self.tokenizer.vocabulary} tokens, "
                f"got {_vocabulary_told(state.get('tokenizer'))}: is it another text?"
            )
        own, now = self.state()
        if KEY not in state and state.get("text") != now.get("text"):  # an older checkpoint, which has but a hash
            raise SplatlearnError(
                f"the checkpoint's text must be the one at hand, SHA-256 {now.get('text')}, got "
                f"{reprlib.repr(state.get('text'))}: has it changed?"
            )
        tensors = current_names(tensors)  # of checkpoints with older parameter names
        require_tensors("a text's checkpoint", tensors, own)
        if further := sorted(tensors.keys() - own.keys()):
            told = reprlib.repr(further[0])
            raise SplatlearnError(f"a text's checkpoint must hold the tensors of its config and no others, got {told}")
        set_generator("a text's checkpoint", self.generator, tensors)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[name])
        self.optimizer.load(tensors)

    # ---- what a run evaluates and leaves behind ----

    @torch.no_grad()
    def evaluate(self, step: int = 0, writer: RunWriter | None = None) -> dict[str, float]:
        """Measure the held-out text or pairs; with a writer, also save a sample.

        Returns:
            loss in nats per held-out token; perplexity; bits_per_byte of the held-out text, or of the answers of
            held-out pairs; exact_match of pairs: the share of held-out ones that are answered without a fault.
        """
        if writer is not None:
            writer.save("eval/samples.jsonl", self.sample(step))
        with self._evaluating():
            size = max(self.config.batch, AT_ONCE)
            batches = (batch.to(self.device) for batch in self.test.all(size, self.config.evaluate_tokens))
            loss, count = evaluation.evaluate(self._logits, batches)
            exact = {}
            if isinstance(self.data, Pairs):
                exact["exact_match"] = self.data.exact_match(self.model, self.data.test)
                tokens, text_bytes = count, count - len(self.data.test)  # the end token of an answer is no byte of it
            else:
                tokens, text_bytes = len(self.data.test), self.data.test_bytes
        bits = evaluation.bits_per_byte(loss, tokens, text_bytes)
        return {"loss": loss, "perplexity": evaluation.perplexity(loss), "bits_per_byte": bits, **exact}

    def _logits(self, batch: Batch) -> Tensor:
        with self._precision():
            return self.model(batch.tokens, source=batch.source, source_mask=batch.source_mask)  # type: ignore[no-any-return]

    def summarize(self, figures: Mapping[str, Any]) -> str:
        return f"held out: {super().summarize(figures)}"

    def callbacks(self, writer: RunWriter) -> list[Callback]:
        config, found = self.config, list[Callback]([Unlearned(self.config.model.vocabulary)])
        if config.evaluate_every:
            found.append(HeldOut(writer, config.evaluate_every))

        def sample(step: int, task: AnyTask) -> None:
            row = self.sample(step)
            tqdm.write(f"step {step:,}, a sample:\n{row['prompt']}{row['text']}\n")
            writer.save("eval/samples.jsonl", row)

        if config.sample_every:
            found.append(Every(config.sample_every, sample))
        return found

    def sample(self, step: int) -> dict[str, Any]:
        """A line of ``eval/samples.jsonl``: what the model writes after ``step``; the same in every run of the seed."""
        generator = torch.Generator().manual_seed(self.config.seed + step)
        with self._evaluating(), self._precision():
            made = evaluation.sample(self.model, self.data, self.prompt, self.config.sample_length, generator)
        return {"step": step, **made}

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No dropout while this lasts."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)


class Unlearned(Callback):
    """Warns where the loss is still that of guessing after a few hundred steps."""

    LOOKS = (300, 400)  # steps; both must be bad
    LEARNED = 0.02  # nats below the logarithm of the vocabulary

    def __init__(self, vocabulary: int) -> None:
        self.guessing = math.log(vocabulary)
        self._losses: list[float] = []

    def wants(self, step: int) -> bool:
        return step in self.LOOKS

    def on_step(self, step: int, loss: float, task: AnyTask) -> None:
        self._losses.append(loss)
        if len(self._losses) == len(self.LOOKS) and min(self._losses) > self.guessing - self.LEARNED:
            warn(
                f"After step {step} the loss is {loss:.3f}, that of guessing ({self.guessing:.3f} = log of the "
                "vocabulary): nothing was learned yet; check the learning rate and the text."
            )


def _vocabulary_told(state: Any) -> str:
    """What a tokenizer's state in a checkpoint is of, in words."""
    try:
        return f"{from_state(state).vocabulary} tokens"
    except SplatlearnError:
        return "none"
