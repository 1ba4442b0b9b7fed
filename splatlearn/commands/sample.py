"""splatlearn sample: a trained Transformer goes on with a prompt, or answers it, as it writes.

Of the run folder it needs the config and the last checkpoint, which carries the tokenizer; the text that was learned
from may be gone. The same seed writes the same text.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from splatlearn import config
from splatlearn.commands.arguments import Parser
from splatlearn.devices import choose_device
from splatlearn.errors import SplatlearnError
from splatlearn.run import config_of, load_last, task_class

TEMPERATURE = 0.8  # of text; pairs have one right answer, and so none
BEGINNING = "\n"  # of a text without a prompt


def run(words: list[str]) -> None:
    parser = Parser("sample", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder of a text")
    parser.add_argument("--prompt", default="", help="what to go on with, or to answer; - reads standard input")
    parser.add_argument("--tokens", type=int, default=300, help="tokens to write at most (default: 300)")
    parser.add_argument(
        "--temperature", type=float, help=f"0: the most likely token (default: {TEMPERATURE}; of pairs 0)"
    )
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k most likely tokens (default: 0, all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="from the fewest with this chance (default: 1)")
    parser.add_argument("--min-p", type=float, default=0.0, help="from those this likely beside the first (default: 0)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default: 1)")
    parser.add_argument("--stop", action="append", default=[], help="end before this text; may be given several times")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; of further samples one more (default: 0)")
    parser.add_argument("--count", type=int, default=1, help="how many samples (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    arguments = parser.parse_args(words)
    if arguments.count < 1:
        raise SplatlearnError(f"--count must be at least 1, got {arguments.count}")
    if not 0 <= arguments.seed < 2**63 - arguments.count:
        raise SplatlearnError(f"--seed must be at least 0 and below 2**63, got {arguments.seed}")
    if not all(arguments.stop):
        raise SplatlearnError("--stop must hold at least one character, got none")
    writer = Writer(arguments.run, choose_device(arguments.device))
    prompt = writer.encoded(_prompt(arguments.prompt))
    with suppress(AttributeError, ValueError):  # of a stdout that is no text file
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    for index in range(arguments.count):
        if index:
            print("\n" + "-" * 20)
        for text in writer.write(prompt, arguments, arguments.seed + index):
            print(text, end="", flush=True)
    print()


class Writer:
    """The Transformer of a run folder and its tokenizer. Raises SplatlearnError where there is none."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from splatlearn.text.pairs import Pairs
        from splatlearn.text.task import TextTask
        from splatlearn.text.tokenizers import from_state
        from splatlearn.text.transformer import Transformer
        from splatlearn.text.weights import load_weights

        path = config_of(folder)
        if not issubclass(task_class(path), TextTask):
            raise SplatlearnError(f"{folder} is not the run of a text: there is nothing to sample")
        settings = config.load(TextTask.Config, path)
        _, tensors, state = load_last(folder)
        self.tokenizer = from_state(state.get("tokenizer"))
        self.pairs = Pairs(settings.pairs) if settings.learn == "pairs" else None
        known = self.tokenizer.vocabulary if self.pairs is None else self.pairs.vocabulary
        if settings.model.vocabulary not in (0, known):
            raise SplatlearnError(
                f"{path}: 'model.vocabulary' must be that of the checkpoint, {known}, got {settings.model.vocabulary}"
            )
        settings.model.vocabulary = known
        self.model = Transformer(settings.model)
        load_weights(self.model, tensors)
        self.model.eval().to(device)
        self.device = device

    def encoded(self, prompt: str) -> list[int]:
        """The tokens of a prompt. Raises SplatlearnError for one that the run cannot spell, or that is too long."""
        if self.pairs is not None and not prompt:
            raise SplatlearnError("this run answers questions: --prompt must hold one, such as 'forty-two'")
        try:
            tokens = self.tokenizer.encode(prompt or BEGINNING)
        except SplatlearnError as error:
            raise SplatlearnError(f"the prompt cannot be written in the run's tokens: {error}") from error
        context = self.model.config.context
        if len(tokens) > context:
            raise SplatlearnError(f"the prompt must fit the model's context of {context} tokens, got {len(tokens)}")
        return tokens

    def write(self, prompt: list[int], arguments: argparse.Namespace, seed: int) -> Iterator[str]:
        """The prompt and what follows it, or the answer to it, in pieces as they come."""
        from splatlearn.text.sampling import generate, stream

        a = arguments
        given: dict[str, Any] = {"top_k": a.top_k, "top_p": a.top_p, "min_p": a.min_p}
        given |= {"repetition_penalty": a.repetition_penalty, "generator": torch.Generator().manual_seed(seed)}
        given["temperature"] = (0.0 if self.pairs else TEMPERATURE) if a.temperature is None else a.temperature
        tokens = torch.tensor([prompt], device=self.device)
        if self.pairs is None:
            yield self.tokenizer.decode(prompt) if a.prompt else ""
        else:
            given |= {"source": tokens, "stop": [self.pairs.end]}
            tokens = torch.tensor([[self.pairs.begin]], device=self.device)
        drawn = (int(token) for token in generate(self.model, tokens, a.tokens, **given))
        spelled = (token for token in drawn if token < self.tokenizer.vocabulary)  # pairs have tokens of no character
        yield from stream(self.tokenizer, spelled, a.stop)


def _prompt(given: str) -> str:
    """The prompt itself, or all of standard input for "-"."""
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise SplatlearnError(
            f"the prompt on standard input must be UTF-8 text, but byte {error.start:,} does not begin a character"
        ) from error
