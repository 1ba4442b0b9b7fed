"""Writing with a Transformer, token by token: the model's chances, filtered, drawn from, and shown as they come.

The chances of the next token are p = softmax(logits). Before a token is drawn they are changed in this order, each
change on the outcome of the one before:

    repetition penalty r   the logit l of a token that is there already becomes l / r if l > 0, else l · r
    temperature t          l becomes l / t; t = 0 takes the most likely token, whatever follows
    top-k                  the k most likely tokens stay
    top-p                  the fewest most likely tokens stay whose chances add up to p at least
    min-p                  tokens stay whose chance is at least min-p times that of the most likely one

(Keskar et al. 2019 for r, Fan et al. 2018 for top-k, Holtzman et al. 2020 for top-p, Nguyen et al. 2024 for min-p.)
Shapes: B rows, T tokens, V the vocabulary.
"""

import codecs
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.text.cache import Cache
from splatlearn.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from splatlearn.text.transformer import Transformer


@dataclass(frozen=True)
class Choice:
    """How a token is chosen from logits; the values given here change nothing, and `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise SplatlearnError(f"the temperature must be at least 0 and finite, got {self.temperature}")
        if self.top_k < 0:
            raise SplatlearnError(f"top-k must be at least 1, or 0 for all tokens, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise SplatlearnError(f"top-p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise SplatlearnError(f"min-p must be from 0 to 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise SplatlearnError(f"the repetition penalty must be above 0 and finite, got {self.repetition_penalty}")

    def chances(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """What tokens are drawn by: [B, V] float32 chances from ``logits`` [B, V] of any floating dtype.

        ``seen`` [B, V] bool says which tokens are there already. Raises SplatlearnError for logits that hold NaN.
        """
        logits = logits.float()
        if bool(logits.isnan().any()):
            raise SplatlearnError("the model's logits are not finite: nothing can be drawn from them")
        if seen is not None and self.repetition_penalty != 1:
            logits = penalised(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p > 0:
            logits = keep_min_p(logits, self.min_p)
        return logits.softmax(dim=-1)

    def draw(self, logits: Tensor, seen: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """[B] int64 tokens; the generator's device, by default that of the logits, is where they are drawn."""
        chances = self.chances(logits, seen)
        if self.temperature == 0:
            return chances.argmax(dim=-1)
        place = chances.device if generator is None else generator.device
        return torch.multinomial(chances.to(place), 1, generator=generator)[:, 0].to(logits.device)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [B, V] with those of ``seen`` [B, V] tokens made smaller by a ``penalty`` above 1, larger by one below."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits [B, V] with all but the ``k`` largest at -∞; of equal ones the first tokens stay."""
    return _kept(logits, lambda chances: torch.arange(chances.shape[-1], device=chances.device).expand_as(chances) < k)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits [B, V] with all at -∞ but the fewest most likely tokens whose chances add up to ``p`` at least."""
    return _kept(logits, lambda chances: chances.cumsum(dim=-1) - chances < p)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Logits [B, V] with all at -∞ whose chance is below ``p`` times the largest."""
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def _kept(logits: Tensor, which: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits with those at -∞ that ``which``, asked with the chances in falling order, does not keep."""
    order = logits.sort(dim=-1, descending=True, stable=True)
    keep = which(order.values.softmax(dim=-1))
    return logits.masked_fill(~torch.zeros_like(keep).scatter(-1, order.indices, keep), -math.inf)


def generate(
    model: "Transformer",
    tokens: Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Collection[int] = (),
    generator: torch.Generator | None = None,
    cache: bool = True,
    source: Tensor | None = None,
    source_mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """Goes on from ``tokens``, and yields the next token of each row as soon as it is known.

    What the model sees is a window of its context. When it is full, the first half of it is forgotten: the other half
    is read anew, with places counted from its beginning, and the window fills again. So the model always sees half of
    its context at least, and a token costs one token's work but for one in half a context. The penalty for repetition
    counts all tokens.

    Args:
        tokens: [B, T] int64, T from 1 to the context: the beginning, the same length for all rows.
        count: how many tokens to write at most.
        temperature, top_k, top_p, min_p, repetition_penalty: see the top of this file.
        stop: tokens that end a row. A row that has ended goes on with its last token; once all have, nothing comes.
        generator: of the draws; None: PyTorch's own.
        cache: keep keys and values of earlier tokens; the same logits without it, slowly.
        source, source_mask: [B, S], what the encoder of an encoder-decoder reads.

    Yields:
        [B] int64, ``count`` times at most. The model is in eval mode meanwhile, and then as it was.

    Raises:
        SplatlearnError: no token to begin with, more than the context holds, or a setting out of its range.
    """
    choice = Choice(temperature, top_k, top_p, min_p, repetition_penalty)
    context = model.config.context
    if tokens.dim() != 2 or not 1 <= tokens.shape[1] <= context:
        raise SplatlearnError(
            f"writing begins with [B, T] tokens, T from 1 to the context of {context}, got {list(tokens.shape)}"
        )
    if count < 0:
        raise SplatlearnError(f"the number of tokens to write must be at least 0, got {count}")
    return _generate(model, tokens, count, choice, frozenset(stop), generator, cache, source, source_mask)


@torch.no_grad()
def _generate(
    model: "Transformer",
    window: Tensor,
    count: int,
    choice: Choice,
    stop: frozenset[int],
    generator: torch.Generator | None,
    cached: bool,
    source: Tensor | None,
    source_mask: Tensor | None,
) -> Iterator[Tensor]:
    context, rows, training = model.config.context, len(window), model.training
    cache = Cache(model, rows, window.device) if cached else None
    seen = torch.zeros(rows, model.config.vocabulary, dtype=torch.bool, device=window.device).scatter(1, window, True)
    ends = torch.tensor(sorted(stop), dtype=torch.int64, device=window.device)
    over = torch.zeros(rows, dtype=torch.bool, device=window.device)
    model.eval()
    try:
        for _ in range(count):
            if window.shape[1] > context:
                window = window[:, -(context - context // 2) :]
                if cache is not None:
                    cache.reset()
            read = 0 if cache is None else cache.length
            asked = {} if read else {"source": source, "source_mask": source_mask}
            logits = model(window[:, read:], cache=cache, **asked)[:, -1]
            drawn = torch.where(over, window[:, -1], choice.draw(logits, seen, generator))
            yield drawn
            over |= torch.isin(drawn, ends)
            if len(ends) and bool(over.all()):
                return
            window = torch.cat([window, drawn[:, None]], dim=1)
            seen.scatter_(1, drawn[:, None], True)
    finally:
        model.train(training)


def stream(tokenizer: Tokenizer, tokens: Iterable[int], stop: Sequence[str] = ()) -> Iterator[str]:
    """The text of tokens as they come, in whole characters, up to the first of the ``stop`` strings, which is left out.

    What may be the beginning of a character or of a stop string is held back until it is known. Bytes that are no
    UTF-8 become U+FFFD.
    """
    if not all(stop):
        raise SplatlearnError("a stop string must hold at least one character, got an empty one")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held = ""
    for token in tokens:
        held += decoder.decode(tokenizer.spell([token]))
        found = [place for each in stop if (place := held.find(each)) >= 0]
        if found:
            if text := held[: min(found)]:
                yield text
            return
        sure = len(held) - max((_begun(held, each) for each in stop), default=0)
        if sure:
            yield held[:sure]
            held = held[sure:]
    if rest := held + decoder.decode(b"", final=True):
        yield rest


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
