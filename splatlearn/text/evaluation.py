"""Evaluation of a Transformer on held-out text: loss, perplexity, bits per byte, and samples."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from splatlearn.text.batches import IGNORE_INDEX, Batch
from splatlearn.text.corpus import Corpus
from splatlearn.text.pairs import Pairs
from splatlearn.text.sampling import generate, stream
from splatlearn.text.transformer import Transformer

TEMPERATURE = 0.8  # of samples
PROMPT_LENGTH = 16  # tokens of the held-out text that a sample continues if there is no prompt
MAX_PAIRS = 5  # in a sample


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the cross-entropy -log softmax(logits)[target] over all targets but IGNORE_INDEX, in nats.

    Args:
        logits: [B, T, V].
        targets: [B, T] int64.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


@torch.no_grad()
def evaluate(forward: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> tuple[float, int]:
    """Compute the mean loss in nats over all targets of the batches, and the number of targets."""
    total, count = 0.0, 0
    for batch in batches:
        total += float(cross_entropy(forward(batch), batch.targets))
        count += batch.num_targets
    return total / count, count


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """Convert a loss in nats per token to bits per byte, by which models with different tokenizers compare."""
    return loss / math.log(2) * tokens / text_bytes


def perplexity(loss: float) -> float:
    """Exponential of the loss: the number of equally likely tokens with the same loss."""
    return math.exp(min(loss, 700.0))  # a larger one overflows a double


def sample(
    model: Transformer, data: Corpus | Pairs, prompt: list[int], length: int, generator: torch.Generator
) -> dict[str, Any]:
    """Sample from a model: the "text" that it adds to the "prompt"; for pairs, held-out sources and its answers."""
    if isinstance(data, Pairs):
        pairs = data.test[:: max(1, len(data.test) // MAX_PAIRS)][:MAX_PAIRS]
        answers = data.answers(model, [source for source, _ in pairs])
        lines = [
            f"{_decoded(source, data)} -> {_decoded(answer, data)}"
            for (source, _), answer in zip(pairs, answers, strict=True)
        ]
        return {"prompt": "", "text": "\n".join(lines)}
    prompt = (prompt or data.test[:PROMPT_LENGTH].tolist())[-model.config.context :]
    tokens = torch.tensor([prompt], device=next(model.parameters()).device)
    drawn = generate(model, tokens, length, temperature=TEMPERATURE, generator=generator)
    text = "".join(stream(data.tokenizer, (int(token) for token in drawn)))
    return {"prompt": data.tokenizer.decode(prompt), "text": text}


def _decoded(tokens: list[int], pairs: Pairs) -> str:
    """Tokens of pairs as text, without the special tokens."""
    return pairs.tokenizer.decode(token for token in tokens if token < pairs.tokenizer.vocabulary)
