"""How well a Transformer says what it never learned from, and what it writes meanwhile."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from splatlearn.text.batches import NOT_ASKED, Batch
from splatlearn.text.corpus import Corpus
from splatlearn.text.pairs import Pairs
from splatlearn.text.sampling import generate, stream
from splatlearn.text.transformer import Transformer

WARMTH = 0.8  # the temperature of samples
BEGUN = 16  # tokens of the held-out text that a sample goes on from, where no prompt is given
PAIRS_SHOWN = 5


def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, -Σ log softmax(logits)[target] over the targets asked for: [B, T, V] and [B, T] to a scalar."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_ASKED, reduction="sum")


@torch.no_grad()
def evaluate(forward: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> tuple[float, int]:
    """The mean loss in nats over all targets of the batches, and their number."""
    total, asked = 0.0, 0
    for batch in batches:
        total += float(nats(forward(batch), batch.targets))
        asked += batch.asked
    return total / asked, asked


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """A loss in nats a token as bits a byte of the text, which compares models of different tokenizers."""
    return loss / math.log(2) * tokens / text_bytes


def perplexity(loss: float) -> float:
    """e to the loss: among how many equally likely tokens the model hesitates."""
    return math.exp(min(loss, 700.0))  # beyond, a double has no room


def written(
    model: Transformer, data: Corpus | Pairs, prompt: list[int], length: int, generator: torch.Generator
) -> dict[str, Any]:
    """A sample: the "text" that a model adds to a "prompt"; of pairs, some of those held out and its answers."""
    if isinstance(data, Pairs):
        shown = data.test[:: max(1, len(data.test) // PAIRS_SHOWN)][:PAIRS_SHOWN]
        answers = data.answers(model, [source for source, _ in shown])
        lines = [
            f"{_told(source, data)} -> {_told(answer, data)}"
            for (source, _), answer in zip(shown, answers, strict=True)
        ]
        return {"prompt": "", "text": "\n".join(lines)}
    begun = (prompt or data.test[:BEGUN].tolist())[-model.config.context :]
    tokens = torch.tensor([begun], device=next(model.parameters()).device)
    drawn = generate(model, tokens, length, temperature=WARMTH, generator=generator)
    text = "".join(stream(data.tokenizer, (int(token) for token in drawn)))
    return {"prompt": data.tokenizer.decode(begun), "text": text}


def _told(tokens: list[int], pairs: Pairs) -> str:
    """Tokens of pairs as text, without those that stand for no character."""
    return pairs.tokenizer.decode(token for token in tokens if token < pairs.tokenizer.vocabulary)
